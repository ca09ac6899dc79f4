//! A daemon of this project, as the backend of those who reach it by its Unix socket.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::Process;
use crate::ready_for;

/// A running daemon over one file, which outlives it.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    // After the process, which writes into it.
    folder: TempDir,
}

impl Daemon {
    /// What [`available`](crate::available) calls it.
    pub const PROGRAM: &str = "althing";

    /// Finds the program beside the one that runs, or the folder of that: where both were built.
    pub fn program() -> Option<PathBuf> {
        let this = std::env::current_exe().ok()?;
        this.ancestors().skip(1).take(2).map(|folder| folder.join(Self::PROGRAM)).find(|file| file.is_file())
    }

    /// Starts one and waits until it answers. `None` where it is not built and not required.
    pub async fn start() -> Option<Daemon> {
        Daemon::start_in(&std::env::temp_dir()).await
    }

    /// Starts one that keeps its file in another directory.
    pub async fn start_in(parent: &Path) -> Option<Daemon> {
        if !ready_for(Self::PROGRAM) {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("althing-daemon-").tempdir_in(parent).expect("a folder");
        let process = run(&folder).await;
        Some(Daemon { process, folder })
    }

    /// Returns the URL of a namespace that it serves.
    pub fn url(&self, namespace: &str) -> String {
        format!("ipc://{}?namespace={namespace}", socket(&self.folder).display())
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills it with SIGKILL and starts it again with what it left on disk.
    pub async fn restart(&mut self) {
        self.process.kill();
        self.process = run(&self.folder).await;
    }

    /// Stops it with SIGSTOP.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.resume();
    }
}

fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("daemon.sock")
}

async fn run(folder: &TempDir) -> Process {
    let path = folder.path();
    let mut command = Command::new(Daemon::program().expect("it was found before"));
    command.current_dir(path).env("ALTHING_LOG", "warn").env("NO_COLOR", "1");
    for variable in ["ALTHING_SERVER", "ALTHING_TOKEN_FILE", "ALTHING_ON", "RUST_LOG", "XDG_RUNTIME_DIR"] {
        command.env_remove(variable);
    }
    let backend = format!("embedded://{}/store.redb", path.display());
    command.args(["serve", "--backend", &backend]);
    command.arg("--state").arg(path.join("state")).arg("--socket").arg(socket(folder));
    let answers = || std::os::unix::net::UnixStream::connect(socket(folder)).is_ok();
    let started = Process::start(&mut command, &path.join("daemon.log"), answers).await;
    started.unwrap_or_else(|refusal| panic!("althing did not start:\n{}", refusal.log))
}
