//! Behaviours as an operator and a script use them: pushed, activated, called, shown, rolled back and removed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::Path;

use althing_e2e::{Host, Running, policy, run};
use rustix::process::Signal;

/// A host on which the semaphore answers, and files with what it is sent.
struct Stage {
    host: Host,
    folder: tempfile::TempDir,
}

impl Stage {
    fn set() -> Stage {
        let host = Host::start(&["--allow-unsigned"]);
        host.ask(&["policy", "push", policy("semaphore").to_str().unwrap()]);
        let info = host.ask_json(&["policy", "activate", "semaphore"]);
        assert_eq!((&info["name"], &info["epoch"]), (&"semaphore".into(), &1.into()));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("one"), r#"{"name":"db","limit":1}"#).unwrap();
        std::fs::write(folder.path().join("at-once"), r#"{"name":"db","limit":1,"wait":false}"#).unwrap();
        std::fs::write(folder.path().join("name"), r#"{"name":"db"}"#).unwrap();
        Stage { host, folder }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn call(&self, operation: &str, file: &str) -> serde_json::Value {
        self.host.ask_json(&["behaviour", "call", "semaphore", operation, "--in", &self.file(file)])
    }

    /// Starts a command that takes the permit and keeps it.
    fn hold(&self) -> Running {
        self.host.follow(&["behaviour", "call", "semaphore", "acquire", "--in", &self.file("one"), "--hold"])
    }
}

fn until_held(holder: &mut Running) {
    holder.until(|answer| (answer["outcome"] == "held").then_some(()));
}

#[test]
fn a_permit_is_kept_as_long_as_the_command_that_holds_it() {
    let stage = Stage::set();
    let mut first = stage.hold();
    until_held(&mut first);
    assert_eq!(stage.call("acquire", "at-once")["outcome"], "busy");
    let mut second = stage.hold();
    let shown = || stage.call("show", "name");
    assert!((0..2000).any(|_| shown()["waiting"].as_array().unwrap().len() == 1), "it waits: {}", shown());
    first.signal(Signal::KILL);
    until_held(&mut second);
    second.signal(Signal::TERM);
    assert!(second.end().success());
    assert_eq!(shown(), serde_json::json!({ "permits": [], "waiting": [] }));
    assert_eq!(stage.call("acquire", "at-once")["outcome"], "held", "what is not held goes with the command");
    assert_eq!(stage.call("acquire", "at-once")["outcome"], "held");
}

#[test]
fn a_call_fails_with_what_went_wrong_and_leaves_a_line() {
    let stage = Stage::set();
    let host = &stage.host;
    let one = stage.file("one");
    host.refuse(&["behaviour", "call", "semaphore", "borrow", "--in", &one], 2, &["no operation \"borrow\""]);
    host.refuse(&["behaviour", "call", "nothing", "acquire"], 3, &["no such behaviour", "help: "]);
    let mut holder = stage.hold();
    until_held(&mut holder);
    let late = ["behaviour", "call", "semaphore", "acquire", "--in", &one, "--timeout", "200ms"];
    host.refuse(&late, 5, &["not done within 200ms"]);
    let mut piped = host.command(&["behaviour", "call", "semaphore", "show", "--in", "-"]);
    let ended = run(piped.stdin(File::open(Path::new(&stage.file("name"))).unwrap()));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.starts_with(r#"{"permits":[{"slot":0"#), "{ended:?}");
    let shown = host.ask(&["behaviour", "show", "semaphore"]);
    for said in ["semaphore 0.1.0", "timed-out", "refused", "borrow", "FOLLOWS"] {
        assert!(shown.contains(said), "{said:?} is not in {shown}");
    }
}

#[test]
fn an_operator_binds_by_another_name_goes_back_and_removes() {
    let stage = Stage::set();
    let host = &stage.host;
    host.ask(&["group", "create", "web"]);
    host.ask(&["policy", "push", policy("elect-oldest").to_str().unwrap()]);
    host.refuse(&["policy", "activate", "semaphore", "--group", "web"], 2, &["decides in no group"]);
    host.refuse(&["policy", "activate", "elect-oldest"], 2, &["--group"]);
    host.refuse(&["policy", "activate", "elect-oldest", "--behaviour", "x"], 2, &["answers no calls"]);
    host.ask(&["policy", "activate", "semaphore", "--behaviour", "permits"]);
    let names = |list: &serde_json::Value| {
        let names = list.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&host.ask_json(&["behaviour", "list"])), ["permits", "semaphore"]);
    host.refuse(&["behaviour", "rollback", "permits"], 3, &["nothing was bound to the behaviour before"]);
    host.ask(&["policy", "activate", "semaphore", "--behaviour", "permits"]);
    assert_eq!(host.ask_json(&["behaviour", "rollback", "permits"])["epoch"], 3);
    host.ask(&["behaviour", "remove", "permits"]);
    assert_eq!(names(&host.ask_json(&["behaviour", "list"])), ["semaphore"]);
    assert!(host.ask(&["policy", "show", "semaphore"]).contains("answers semaphore"));
}
