//! Tooz on the same server: a process of Python that times its own calls, `tooz_peer.py`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use althing_core::Location;
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
    /// Starts it by `python` on the servers of a URL of ours. Its file driver keeps all below `folder`.
    pub(crate) fn start(python: Option<&Path>, url: &str, folder: &Path) -> Result<Tooz> {
        let Some(python) = python else { return Ok(Tooz::Absent(MISSING)) };
        let Some(url) = its_url(&url.parse()?, folder) else { return Ok(Tooz::Absent(NONE)) };
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
        match tokio::time::timeout(PATIENCE, peer.ask(figure, rounds)).await {
            Ok(Ok(answer)) => answer.ok_or(NONE),
            Ok(Err(error)) => Err(self.give_up(figure, &format!("{error:#}"))),
            Err(_) => Err(self.give_up(figure, "no answer")),
        }
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

    fn give_up(&mut self, figure: &str, why: &str) -> &'static str {
        eprintln!("bench: Tooz failed at {figure}: {why}");
        *self = Tooz::Absent(FAILED);
        FAILED
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

/// Returns the URL by which Tooz reaches what a URL of ours names; `None` where it has no such driver.
fn its_url(location: &Location, folder: &Path) -> Option<String> {
    let user = location.user.as_deref().unwrap_or_default();
    let (hosts, path) = (location.hosts.join(","), &location.path);
    Some(match location.scheme.as_str() {
        scheme @ ("redis" | "memcached" | "zookeeper") => format!("{scheme}://{hosts}"),
        "redis+sentinel" => {
            let (first, others) = location.hosts.split_first()?;
            let others = others.iter().map(|host| format!("&sentinel_fallback={host}"));
            format!("redis://{first}?sentinel={path}{}", others.collect::<String>())
        }
        "postgresql" => format!("postgresql://{user}@{hosts}?dbname={path}"),
        "mysql" => format!("mysql://{user}@{hosts}/{path}"),
        // It knows one endpoint only.
        "etcd" => format!("etcd3+http://{}", location.hosts.first()?),
        "ipc" => "ipc://".to_owned(),
        // The nearest it has to a file of one process.
        "file" | "embedded" => format!("file://{}", folder.display()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tooz_is_sent_to_the_servers_of_our_url() {
        let url = |ours: &str| its_url(&ours.parse().unwrap(), Path::new("/tmp/x"));
        assert_eq!(url("memory:?namespace=n"), None);
        assert_eq!(url("redis://h:1/0?namespace=n").unwrap(), "redis://h:1");
        assert_eq!(url("zookeeper://a:1,b:2/?namespace=n").unwrap(), "zookeeper://a:1,b:2");
        assert_eq!(url("etcd://a:1,b:2/?namespace=n").unwrap(), "etcd3+http://a:1");
        assert_eq!(
            url("redis+sentinel://a:1,b:2/main?namespace=n").unwrap(),
            "redis://a:1?sentinel=main&sentinel_fallback=b:2"
        );
        assert_eq!(url("postgresql://me@h:1/db?namespace=n").unwrap(), "postgresql://me@h:1?dbname=db");
        assert_eq!(url("embedded:///x/y.redb").unwrap(), "file:///tmp/x");
    }
}
