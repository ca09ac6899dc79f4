//! Processes that stand still or die.

use rustix::process::{Pid, Signal, kill_process};

/// A process that stands still. Dropping this lets it go on.
#[derive(Debug)]
#[must_use = "the process goes on when this is dropped"]
pub struct Stopped(Pid);

impl Stopped {
    /// Stops a process with SIGSTOP. It keeps its sockets and does nothing.
    pub fn new(process: u32) -> Stopped {
        let pid = pid(process);
        kill_process(pid, Signal::STOP).expect("a process of ours can be stopped");
        Stopped(pid)
    }

    /// Lets it go on.
    pub fn resume(self) {}
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// Kills a process with SIGKILL. Whoever started it must wait for it.
pub fn kill(process: u32) {
    kill_process(pid(process), Signal::KILL).expect("a process of ours can be killed");
}

/// Asks a process to end with SIGTERM.
pub fn terminate(process: u32) {
    kill_process(pid(process), Signal::TERM).expect("a process of ours can be asked to end");
}

fn pid(process: u32) -> Pid {
    i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process id is a positive number")
}
