//! Each failure of Tooz as a scenario, played on one side: on Tooz's own driver, or on ours.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use althing_test_servers::Server;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, Command};
use tokio::time::timeout;

use crate::host::Host;
use crate::place::its_url;

/// How long one scenario may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// The lease of a host. Short, so that a loss is seen soon.
pub(crate) const LEASE: &str = "2s";

/// Which driver a scenario is played on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The one that comes with Tooz.
    Tooz,
    /// Ours, by two hosts where the backend lets there be two.
    Althing,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Tooz => "tooz",
            Side::Althing => "althing",
        })
    }
}

/// Whether what was seen is a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is as a service needs it.
    Right,
    /// It is not.
    Wrong,
}

/// What a service saw of one scenario.
#[derive(Clone, Debug, Deserialize)]
pub struct Row {
    /// Which scenario it is.
    pub name: String,
    /// Where the failure was described: the section of the study of Tooz.
    pub section: String,
    /// What happens to the service.
    pub failure: String,
    /// What it saw.
    pub what: String,
    /// Whether that is right.
    pub kind: Kind,
}

/// Plays all scenarios of a backend, named `backend`, on one side; those alone that have `only` in their name. None where
/// Tooz has no driver for the backend.
pub async fn play(
    python: &Path,
    side: Side,
    backend: &str,
    only: &str,
    server: &mut Server,
) -> Result<Vec<Row>> {
    // What lies within one host shares nothing, so nothing of this goes wrong there.
    let its_url = its_url(&server.url("tooz").parse()?).filter(|_| !server.is_within_a_host());
    let Some(its_url) = its_url else { return Ok(Vec::new()) };
    let hosts = hosts(side, server).await?;
    let urls = if hosts.is_empty() { vec![its_url.clone()] } else { hosts.iter().map(Host::url).collect() };
    let plan = json!({
        "side": side.to_string(),
        "backend": backend,
        "only": only,
        "urls": urls,
        "server": its_url,
        "hosts": hosts.iter().filter_map(Host::pid).collect::<Vec<_>>(),
    });
    let mut command = Command::new(python);
    command.args(["-W", "ignore"]).arg(script()).arg(plan.to_string()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("the scenarios start")?;
    let mut answer = child.stdin.take().context("they have an input")?;
    let mut lines = BufReader::new(child.stdout.take().context("they have an output")?).lines();
    let mut rows = Vec::new();
    while let Some(line) = timeout(PATIENCE, lines.next_line()).await.context("a scenario does not end")?? {
        let said: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        match said["ask"].as_str() {
            Some(asked) => act(asked, server, &mut answer).await?,
            None => rows.push(serde_json::from_value(said).with_context(|| line.clone())?),
        }
    }
    let status = child.wait().await?;
    if !status.success() {
        bail!("the scenarios of {backend} on {side} ended with {status}");
    }
    Ok(rows)
}

/// Starts two hosts for our side, one where the backend lies within it, none for that of Tooz.
async fn hosts(side: Side, server: &Server) -> Result<Vec<Host>> {
    let names: &[&str] = match side {
        Side::Tooz => &[],
        Side::Althing if server.is_within_a_host() => &["one"],
        Side::Althing => &["one", "two"],
    };
    let mut hosts = Vec::new();
    for name in names {
        hosts.push(Host::start(&server.url("tooz"), &["--name", name, "--lease", LEASE]).await?);
    }
    Ok(hosts)
}

/// Plays a fault that only whoever started the server can play, and says when it is done.
async fn act(asked: &str, server: &mut Server, answer: &mut ChildStdin) -> Result<()> {
    match (asked.split_once(' ').unwrap_or((asked, "")), server) {
        (("cut", _), Server::Sentinel(servers)) => {
            let master = servers.master().context("there is a master")?;
            servers.cut_replication(master).await;
        }
        (("kill", _), Server::Sentinel(servers)) => {
            let master = servers.master().context("there is a master")?;
            servers.kill(master).await;
            servers.wait_for_fail_over(master).await;
        }
        (("idle", seconds), Server::Mysql(server)) => {
            server.sql(&format!("set global wait_timeout = {seconds}"));
        }
        _ => bail!("nothing is known of {asked:?}"),
    }
    answer.write_all(b"done\n").await?;
    Ok(())
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("failures/play.py")
}
