//! Hosts as processes, each on a Unix socket of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use althing_test_servers::Daemon;
use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a host may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// Names another binary than the one that was built beside this.
const VARIABLE: &str = "ALTHING_BIN";

/// A running host. Dropping it kills it.
#[derive(Debug)]
pub struct Host {
    socket: PathBuf,
    // Ends with this value.
    process: Child,
    // After the process, which writes into it.
    _folder: TempDir,
}

impl Host {
    /// Starts one on the backend of a URL with more options of `althing serve`, and waits until it is ready.
    pub async fn start(url: &str, options: &[&str]) -> Result<Host> {
        let folder = tempfile::Builder::new().prefix("althing-tooz-").tempdir()?;
        let (socket, log) = (folder.path().join("host.sock"), folder.path().join("log"));
        let mut command = Command::new(program()?);
        for setting in ["ALTHING_SERVER", "ALTHING_TOKEN_FILE", "ALTHING_ON", "RUST_LOG", "XDG_RUNTIME_DIR"] {
            command.env_remove(setting);
        }
        command.env("ALTHING_LOG", "warn").env("NO_COLOR", "1").kill_on_drop(true);
        command.args(["serve", "--backend", url]).args(options);
        command.arg("--socket").arg(&socket).arg("--state").arg(folder.path().join("state"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let mut process = command.spawn().context("althing starts")?;
        let output = process.stdout.take().context("its output is read")?;
        let mut lines = BufReader::new(output).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.context("it says nothing")??;
        if line.is_none_or(|line| !line.starts_with("ready ")) {
            bail!("the host is not ready:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
        }
        Ok(Host { socket, process, _folder: folder })
    }

    /// Returns the URL by which our driver of Tooz finds it.
    pub fn url(&self) -> String {
        url(&self.socket)
    }

    /// Returns where it answers.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Returns its process id.
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Kills it, and waits until it is gone.
    pub async fn stop(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }
}

/// Returns the URL by which our driver of Tooz finds the host behind a socket.
pub fn url(socket: &Path) -> String {
    format!("althing://{}", socket.display())
}

/// Finds the `althing` that was built beside the program that runs, or beside its folder.
pub fn program() -> Result<PathBuf> {
    let found = std::env::var_os(VARIABLE).map(PathBuf::from).or_else(Daemon::program);
    found.context("there is no `althing` beside this: run `cargo build -p althing-cli`")
}
