//! Processes that stand still, go on, and die.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use althing_chaos::{Stopped, kill};
use althing_core::{Clock, SystemClock};

const PATIENCE: Duration = Duration::from_secs(10);

fn process() -> Child {
    Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

/// Waits until the kernel says that a process is in this state.
async fn until(process: &Child, state: char) {
    let deadline = SystemClock.now() + PATIENCE;
    let file = format!("/proc/{}/stat", process.id());
    // The state follows the name, which is in brackets.
    while std::fs::read_to_string(&file).unwrap().rsplit(") ").next().and_then(|rest| rest.chars().next())
        != Some(state)
    {
        assert!(SystemClock.now() < deadline, "never in state {state}");
        SystemClock.sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_stopped_process_goes_on_when_its_guard_is_dropped_and_a_killed_one_is_gone() {
    let mut child = process();
    until(&child, 'S').await;
    let stopped = Stopped::new(child.id());
    until(&child, 'T').await;
    stopped.resume();
    until(&child, 'S').await;
    drop(Stopped::new(child.id()));
    until(&child, 'S').await;
    kill(child.id());
    assert!(!child.wait().unwrap().success());
}

#[tokio::test]
async fn a_stopped_process_can_be_killed() {
    let mut child = process();
    let stopped = Stopped::new(child.id());
    kill(child.id());
    // Before it is waited for: from then on its number may be another's.
    stopped.resume();
    assert!(!child.wait().unwrap().success());
}
