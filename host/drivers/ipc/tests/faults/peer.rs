//! Another process: this test binary once more, as one that holds something.

use std::io::Write;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use althing_core::{Clock, Driver, SessionId, SystemClock};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::daemon::connect;
use crate::{SOON, hold, is_outage};

/// Says which backend a process of ours shares, and by which lease.
const URL: &str = "ALTHING_TEST_IPC_URL";
const LEASE: &str = "ALTHING_TEST_IPC_LEASE_MS";

/// This test binary once more, as a process that says what it does. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    pub(crate) fn start(tell: impl FnOnce(&mut Command)) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        tell(&mut command);
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Process { child, lines }
    }

    /// Returns what it says next.
    pub(crate) async fn line(&mut self) -> String {
        timeout(SOON, self.lines.next_line()).await.expect("it says something").unwrap().unwrap()
    }
}

/// A process that opened a session, put a record under it, and renews it.
pub(crate) struct Peer {
    process: Process,
    pub(crate) session: SessionId,
}

impl Peer {
    pub(crate) async fn start(url: &str, lease: Duration) -> Peer {
        let mut process = Process::start(|command| {
            command.env(URL, url).env(LEASE, lease.as_millis().to_string());
        });
        let session = process.line().await.parse().unwrap();
        Peer { process, session }
    }

    /// Returns what it says next.
    pub(crate) async fn line(&mut self) -> String {
        self.process.line().await
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.child.start_kill().unwrap();
    }

    /// Stops it with SIGSTOP. It keeps its connections and says nothing on them.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on after `pause`.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.child.id().unwrap() as i32).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

/// Is such a process, if this one was started as such.
pub(crate) fn work() -> Option<ExitCode> {
    let url = std::env::var(URL).ok()?;
    let lease = Duration::from_millis(std::env::var(LEASE).ok()?.parse().ok()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let driver = connect(&url).await.unwrap();
        let session = hold(&driver, lease).await;
        say(&session.to_string());
        loop {
            match driver.renew(session).await {
                // A renewal that was under way while it stood still is late.
                Err(error) if !is_outage(&error) => return say(&error.kind().to_string()),
                _ => {}
            }
            SystemClock.sleep(lease / 3).await;
        }
    });
    Some(ExitCode::SUCCESS)
}

pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).unwrap();
}
