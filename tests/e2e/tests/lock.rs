//! Locks as a script uses them: a command runs while a lock is held, and is stopped when it is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use althing_e2e::{Host, Running, run};
use rustix::process::Signal;

/// Says its token, then goes on until it is told to stop or nobody reads what it says.
const WORK: &str = "echo token $ALTHING_LOCK $ALTHING_LOCK_TOKEN; while sleep 0.05; do echo at work; done";
/// The same, and does not stop when it is asked to.
const STUBBORN: &str = "trap 'echo asked' TERM; echo token $ALTHING_LOCK $ALTHING_LOCK_TOKEN; while :; do sleep 0.05; echo at work; done";

fn lock(host: &Host, options: &[&str], script: &str) -> Running {
    host.follow(&[&["lock", "db"], options, &["--", "sh", "-c", script]].concat())
}

/// Waits until a command runs, and returns the token that it was given.
fn token(running: &mut Running) -> u64 {
    let line = running.line();
    line.strip_prefix("token db ").unwrap_or_else(|| panic!("{line}")).parse().unwrap()
}

/// Waits until so many wait.
fn waiting(host: &Host, count: usize) {
    let waiting = || host.ask_json(&["lock", "show", "db"])["waiters"].as_array().unwrap().len();
    assert!((0..2000).any(|_| waiting() == count), "{count} wait: {}", waiting());
}

#[test]
fn a_command_runs_alone_and_its_exit_code_is_passed_on() {
    let host = Host::start(&[]);
    let mut first = lock(&host, &["--label", "job 1"], WORK);
    let before = token(&mut first);
    let taken = ["lock", "db", "--wait", "100ms", "--", "echo", "never"];
    host.refuse(&taken, 4, &["others held the lock for longer than 100ms", "help: "]);
    let shown = host.ask(&["lock", "show", "db"]);
    assert!(shown.contains("job 1") && shown.contains(&before.to_string()), "{shown}");
    assert!(host.ask(&["lock", "list"]).contains("exclusive"));
    let mut second = lock(&host, &[], "echo token $ALTHING_LOCK $ALTHING_LOCK_TOKEN; exit 7");
    waiting(&host, 1);
    first.signal(Signal::TERM);
    assert!(token(&mut second) > before);
    assert_eq!(second.end().code(), Some(7));
    assert_eq!(first.end().code(), Some(128 + 15), "the signal went on to the command");
    assert_eq!(host.ask(&["lock", "list"]), "no locks\n");
}

#[test]
fn the_death_of_a_holder_lets_the_next_one_in_at_once() {
    let host = Host::start(&[]);
    let mut first = lock(&host, &["--ttl", "1h"], WORK);
    let before = token(&mut first);
    let mut second = lock(&host, &["--ttl", "1h"], WORK);
    waiting(&host, 1);
    first.signal(Signal::KILL);
    assert!(token(&mut second) > before);
}

#[test]
fn a_lease_longer_than_that_of_the_host_keeps_the_lock() {
    let host = Host::start(&["--lease", "500ms"]);
    let mut holder = lock(&host, &["--ttl", "1h"], WORK);
    token(&mut holder);
    for _ in 0..40 {
        assert_eq!(holder.line(), "at work", "after one lease of the host, and after several");
    }
}

#[test]
fn a_broken_lock_stops_its_command_before_the_next_one_runs() {
    let host = Host::start(&[]);
    for (work, options) in [(WORK, &["--grace", "1h"] as &[_]), (STUBBORN, &["--grace", "300ms"])] {
        let mut first = lock(&host, options, work);
        let before = token(&mut first);
        let mut second = lock(&host, &[], "echo token $ALTHING_LOCK $ALTHING_LOCK_TOKEN");
        waiting(&host, 1);
        let broken = host.ask(&["lock", "break", "db", "--token", &before.to_string()]);
        assert!(broken.contains("is broken"), "{broken}");
        assert_eq!(first.end().code(), Some(5));
        assert!(token(&mut second) > before);
        assert_eq!(second.end().code(), Some(0));
    }
    assert_eq!(host.ask(&["lock", "break", "db"]), "nobody holds it\n");
}

#[test]
fn the_end_of_the_host_stops_the_command() {
    let host = Host::start(&[]);
    let mut holder = lock(&host, &[], WORK);
    token(&mut holder);
    host.process.signal(Signal::KILL);
    assert_eq!(holder.end().code(), Some(5));
}

#[test]
fn shared_locks_and_permits_let_several_in_and_what_does_not_fit_is_refused() {
    let host = Host::start(&[]);
    let mut readers = [lock(&host, &["--shared"], WORK), lock(&host, &["--shared"], WORK)];
    readers.iter_mut().for_each(|reader| assert!(token(reader) > 0));
    host.refuse(&["lock", "db", "--wait", "0s", "--", "true"], 4, &["others held the lock"]);
    host.refuse(&["lock", "db", "--permits", "2", "--", "true"], 4, &["in use as a lock"]);
    host.refuse(&["lock", "db", "--permits", "0", "--", "true"], 2, &["a limit of 0 of permits", "help: "]);
    host.refuse(&["lock", "db", "--shared", "--", "/no/such/command"], 2, &["cannot be started"]);
    let mut command = host.command(&["lock", "other", "--permits", "2", "--", "sh", "-c", "exit 3"]);
    assert_eq!(run(&mut command).code, Some(3));
}
