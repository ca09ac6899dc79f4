//! Tooz on the same server, by its own driver or by ours: a process of Python that times its own calls, `tooz_peer.py`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use althing_tooz::its_url;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::figure::Series;
use crate::host::PATIENCE;

/// Stands for its figure where there is none.
const NONE: &str = "Tooz: none";
const MISSING: &str = "Tooz: not installed";
const FAILED: &str = "Tooz: failed";
const LATE: &str = "Tooz: no answer";

/// The longest that Tooz is waited for: against a Redis that is not there it takes a minute until it says so.
const TOOZ_PATIENCE: Duration = Duration::from_secs(75);

/// Tooz on one backend.
pub(crate) enum Tooz {
    /// It runs.
    Here(Box<Peer>),
    /// It does not, and this says why.
    Absent(&'static str),
}

/// A process that runs Tooz, and what it answers.
pub(crate) struct Peer {
    url: String,
    child: Child,
    asked: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Tooz {
    /// Starts it by `python` on the servers of a URL of ours, with its own driver.
    pub(crate) fn start(python: Option<&Path>, url: &str) -> Result<Tooz> {
        let Some(python) = python else { return Ok(Tooz::Absent(MISSING)) };
        let Some(url) = its_url(&url.parse()?) else { return Ok(Tooz::Absent(NONE)) };
        Tooz::begin(python, url)
    }

    /// Starts it by `python` with our driver, by the URL that this has of a host.
    pub(crate) fn with_ours(python: Option<&Path>, url: String) -> Result<Tooz> {
        let Some(python) = python else { return Ok(Tooz::Absent(MISSING)) };
        Tooz::begin(python, url)
    }

    fn begin(python: &Path, url: String) -> Result<Tooz> {
        let mut command = Command::new(python);
        command.args(["-W", "ignore"]).arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tooz_peer.py"));
        command.arg(&url).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("Tooz starts")?;
        let asked = child.stdin.take().context("Tooz has an input")?;
        let answers = BufReader::new(child.stdout.take().context("Tooz has an output")?).lines();
        Ok(Tooz::Here(Box::new(Peer { url, child, asked, answers })))
    }

    /// Returns the URL by which it was started.
    pub(crate) fn url(&self) -> Option<&str> {
        match self {
            Tooz::Here(peer) => Some(&peer.url),
            Tooz::Absent(_) => None,
        }
    }

    /// Takes a figure so often. Where there is none, returns in words why; a failure is told once, and Tooz is not asked
    /// again.
    pub(crate) async fn take(&mut self, figure: &str, rounds: usize) -> Result<Series, &'static str> {
        let peer = match self {
            Tooz::Here(peer) => peer,
            Tooz::Absent(why) => return Err(why),
        };
        let url = peer.url.clone();
        let give_up = |why, what: &str| {
            eprintln!("bench: {url} failed at {figure}: {what}");
            why
        };
        let why = match tokio::time::timeout(TOOZ_PATIENCE, peer.ask(figure, rounds)).await {
            Ok(Ok(answer)) => return answer.ok_or(NONE),
            Ok(Err(error)) => give_up(FAILED, &format!("{error:#}")),
            Err(_) => give_up(LATE, "no answer"),
        };
        *self = Tooz::Absent(why);
        Err(why)
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        if let Tooz::Here(peer) = self {
            let Peer { mut child, asked, .. } = *peer;
            drop(asked);
            // What it has not left by then goes with its server.
            let _ = tokio::time::timeout(PATIENCE, child.wait()).await;
        }
    }
}

impl Peer {
    async fn ask(&mut self, figure: &str, rounds: usize) -> Result<Option<Series>> {
        self.asked.write_all(format!("{figure} {rounds}\n").as_bytes()).await?;
        let line = self.answers.next_line().await?.context("it ended")?;
        let answer: Value = serde_json::from_str(&line)?;
        if let Some(why) = answer["failed"].as_str() {
            bail!("{why}");
        }
        let Some(samples) = answer["samples"].as_array() else { return Ok(None) };
        let mut series = Series::default();
        for sample in samples {
            let seconds = sample.as_f64().context("a sample is a number")?;
            series.add(Duration::try_from_secs_f64(seconds)?);
        }
        Ok(Some(series))
    }
}
