//! A server as a process: started with a log, waited for, paused, killed, and ended when dropped.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use althing_core::{Clock, SystemClock};
use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take until it answers.
const START_DEADLINE: Duration = Duration::from_secs(40);
/// How long its threads may take to stop; one that has ended never does.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// The pause between two questions whether it answers.
const START_PAUSE: Duration = Duration::from_millis(5);

/// A running server. Dropping it kills it and waits until it is gone.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

/// Why a server did not start.
#[derive(Debug)]
pub(crate) struct NotStarted {
    /// What it wrote to its log.
    pub(crate) log: String,
}

impl Process {
    /// Starts `command` with its output appended to `log`, and waits until `answers` says yes.
    pub(crate) async fn start(
        command: &mut Command,
        log: &Path,
        answers: impl Fn() -> bool,
    ) -> Result<Process, NotStarted> {
        let output = open_log(log);
        let errors = output.try_clone().expect("a file can be shared");
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let mut process = Process { child: child.expect("the server starts"), log: log.to_owned() };
        process.wait_until(answers).await?;
        Ok(process)
    }

    /// Waits until `answers` says yes; ends early when the server does.
    pub(crate) async fn wait_until(&mut self, answers: impl Fn() -> bool) -> Result<(), NotStarted> {
        let deadline = SystemClock.now() + START_DEADLINE;
        while !answers() {
            let ended = self.child.try_wait().expect("a child can be asked").is_some();
            if ended || SystemClock.now() >= deadline {
                return Err(NotStarted { log: self.log_text() });
            }
            SystemClock.sleep(START_PAUSE).await;
        }
        Ok(())
    }

    /// Returns its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself; then there is nothing to kill and the wait returns at once.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends it with SIGTERM and waits until it is gone.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        let _ = self.child.wait();
    }

    /// Stops it with SIGSTOP, and waits until all its threads stand still: before that one of them may yet answer. It
    /// keeps its sockets and answers nothing.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        let deadline = SystemClock.now() + STOP_DEADLINE;
        while !self.stands_still() && SystemClock.now() < deadline {
            std::thread::yield_now();
        }
    }

    /// Lets it go on after [`Process::pause`].
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it was not waited for");
        threads.flatten().all(|thread| {
            let state = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            state.rsplit(')').next().is_some_and(|state| state.trim_start().starts_with('T'))
        })
    }

    fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our own child can be signalled");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn open_log(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).expect("the log can be written")
}
