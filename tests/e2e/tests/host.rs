//! One host in memory, and processes that use it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use althing_e2e::{Host, Running, althing, check_refused};
use rustix::process::Signal;

#[test]
fn groups_are_created_listed_shown_and_deleted() {
    let host = Host::start(&["--name", "north"]);
    assert_eq!(host.ask(&["group", "list"]), "no groups\n");
    assert_eq!(host.ask(&["group", "create", "web"]), "created web\n");
    host.refuse(&["group", "create", "web"], 4, &["error: create group: ", "help: "]);
    let list = host.ask(&["group", "list"]);
    assert_eq!(list, "GROUP  MEMBERS  LEADER  POLICY\nweb    0        -       oldest (built in)\n");
    let shown = host.ask(&["group", "show", "web"]);
    assert!(
        shown.starts_with("group   web\nleader  nobody\npolicy  oldest (built in), epoch 0\n"),
        "{shown}"
    );
    assert!(shown.contains("north  0      yes"), "{shown}");
    assert_eq!(host.ask_json(&["group", "show", "web"])["members"].as_array().map(Vec::len), Some(0));
    assert_eq!(host.ask(&["leader", "show", "web"]), "nobody leads\n");
    assert_eq!(host.ask(&["group", "delete", "web"]), "deleted web\n");
    host.refuse(&["group", "show", "web"], 3, &["error: show group: "]);
}

#[test]
fn another_member_leads_when_the_leaders_process_is_killed() {
    let host = Host::start(&[]);
    let mut members = vec![];
    for id in ["a", "b", "c"] {
        members.push((id, host.member("web", id, &[])));
    }
    let first = members[0].1.event("elected");
    assert_eq!(host.ask_json(&["leader", "show", "web"])["member"], "a");
    let mut watch = host.follow(&["watch", "web"]);
    watch.event("snapshot");
    members[0].1.signal(Signal::KILL);
    let next = watch.event("elected");
    assert_eq!(next["leader"]["member"], "b");
    let term = |value: &serde_json::Value| value["term"].as_str().unwrap().to_owned();
    assert!(term(&next["leader"]) > term(&first["hold"]), "{next} after {first}");
    let told = members[1].1.event("elected");
    assert_eq!(term(&told["hold"]), term(&next["leader"]));
    let ids: Vec<_> = host.ask_json(&["group", "show", "web"])["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| member["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, ["b", "c"]);
}

#[test]
fn members_are_listed_shown_handed_over_to_and_evicted() {
    let host = Host::start(&["--name", "north"]);
    let mut first = host.member("web", "a", &["--ephemeral", "--capabilities", r#"{"gpus":2}"#]);
    first.event("elected");
    let mut second = host.member("web", "b", &["--meta", "zone=east"]);
    host.member("web", "c", &["--observer"]).signal(Signal::KILL);
    let mut watcher = host.member("web", "w", &["--observer"]);
    let list = host.ask(&["member", "list", "web"]);
    let row = |id: &str| list.lines().find(|line| line.starts_with(id)).unwrap().to_owned();
    assert!(list.starts_with("MEMBER  HOST   JOINED"), "{list}");
    assert!(row("b").ends_with("yes     zone=east") && row("w").ends_with("no      -"), "{list}");
    let shown = host.ask(&["member", "show", "web", "a"]);
    assert!(shown.contains("capabilities  {\"gpus\":2}\n"), "{shown}");
    assert!(host.ask(&["group", "show", "web"]).contains("goes    with its last member"));
    host.refuse(&["leader", "stand-down", "web", "--to", "w"], 4, &["does not stand for election"]);
    host.refuse(&["leader", "stand-down", "web", "--to", "z"], 3, &["there is no such member"]);
    assert_eq!(host.ask(&["leader", "stand-down", "web", "--to", "b"]), "the leader stopped for b\n");
    second.event("elected");
    assert_eq!(host.ask(&["member", "evict", "web", "b"]), "evicted\n");
    assert!(second.event("removed")["reason"].as_str().unwrap().starts_with("evicted by uid:"));
    first.event("elected");
    let mut watch = host.follow(&["watch", "web"]);
    watch.event("snapshot");
    for member in [&mut first, &mut watcher] {
        member.signal(Signal::KILL);
    }
    watch.event("deleted");
    assert_eq!(host.ask(&["group", "list"]), "no groups\n");
}

#[test]
fn a_member_leaves_on_a_signal_and_says_so() {
    let host = Host::start(&[]);
    let mut member = host.member("web", "a", &["--meta", "zone=north", "--meta", "weight=3"]);
    let mut watch = host.follow(&["watch", "web"]);
    let group = watch.event("snapshot");
    assert_eq!(group["group"]["members"][0]["metadata"]["zone"], "north");
    member.event("elected");
    host.refuse(&["group", "delete", "web"], 4, &["error: delete group: the group has members"]);
    host.refuse(&["member", "join", "web", "a"], 4, &["error: join: "]);
    member.signal(Signal::TERM);
    member.event("left");
    assert!(member.end().success());
    assert_eq!(watch.event("left")["id"], "a");
    host.ask(&["group", "delete", "web"]);
    watch.event("deleted");
    assert!(watch.end().success());
}

#[test]
fn a_leader_whose_host_stands_still_tells_the_loss_by_itself() {
    let host = Host::start(&[]);
    let mut member = host.member("web", "a", &["--ttl", "1s"]);
    member.event("elected");
    host.process.signal(Signal::STOP);
    assert_eq!(member.event("lost")["hold"]["member"], "a");
    let standing = member.event("standing");
    assert_eq!((&standing["standing"], &standing["holds"]), (&"lost".into(), &serde_json::json!([])));
    host.process.signal(Signal::CONT);
}

#[test]
fn a_leader_that_is_asked_stops() {
    let host = Host::start(&[]);
    assert_eq!(host.ask(&["group", "create", "web"]), "created web\n");
    assert_eq!(host.ask(&["leader", "stand-down", "web"]), "nobody leads\n");
    let mut member = host.member("web", "a", &[]);
    let led = member.event("elected");
    assert_eq!(host.ask(&["leader", "stand-down", "web"]), "the leader stopped\n");
    assert_eq!(member.event("stop")["hold"], led["hold"]);
    let decisions = host.ask(&["decisions", "web", "--limit", "100"]);
    assert!(decisions.contains("claimed"), "{decisions}");
}

#[test]
fn wrong_use_is_refused_with_what_to_do() {
    let host = Host::start(&[]);
    for (arguments, code, said) in [
        (
            &["group", "list", "--server", "/run/a.sock"][..],
            2,
            &["neither unix: nor http://", "unix:/run/a.sock?"][..],
        ),
        (&["group", "list", "--server", "https://h:1"], 2, &["does not speak TLS"]),
        (
            &["group", "list", "--server", "unix:/nonexistent/a.sock"],
            5,
            &["no host answers at", "help: Start one with `althing serve`"],
        ),
        (&["group", "create", ""], 2, &["empty name"]),
        (&["group", "create", &"x".repeat(513)], 2, &["too long"]),
        (&["group", "frobnicate"], 2, &["unrecognized subcommand"]),
        (&["member", "join", "nowhere", "a"], 3, &["error: join: "]),
        (&["member", "join", "web", "a", "--meta", "novalue"], 2, &["NAME=VALUE"]),
        (&["member", "join", "web", "a", "--ttl", "soon"], 2, &["500ms"]),
        (&["leader", "show", "nowhere"], 3, &["error: show leader: "]),
        (&["watch", "nowhere"], 3, &["error: watch group: "]),
        (&["decisions", "nowhere"], 3, &["error: list decisions: "]),
        (&["policy", "show", "nowhere"], 3, &["error: show policy: "]),
        (&["policy", "push", "/nonexistent"], 3, &["/nonexistent"]),
        (&["policy", "activate", "nowhere", "--group", "nowhere"], 3, &["error: activate: "]),
        (&["policy", "activate", "x", "--group", "y", "--digest", "abc"], 2, &["64 hexadecimal digits"]),
        (&["serve", "--backend", "redsi://127.0.0.1"], 2, &["Did you mean redis:?"]),
        (&["serve", "--backend", "memory:?colour=red"], 2, &["unknown option \"colour\""]),
        (&["serve", "--backend", "memory:", "--backend", "zake:"], 2, &["two backends without a name"]),
        (&["serve", "--backend", "a=memory:", "--backend", "a=zake:"], 2, &["two backends are called \"a\""]),
        (&["serve", "--lease", "1ms"], 2, &["a lease of 1ms"]),
        (&["serve", "--trust", "/nonexistent"], 3, &["/nonexistent"]),
        (&["serve", "--config", "/nonexistent"], 3, &["/nonexistent"]),
        (&["serve", "--listen", "0.0.0.0:0", "--socket", "unused.sock"], 1, &["not a loopback address"]),
    ] {
        let mut command = host.command(arguments);
        check_refused(command.current_dir(host.folder.path()), code, said);
    }
    assert!(!host.folder.path().join("unused.sock").exists());
}

#[test]
fn what_went_wrong_is_said_in_json_too() {
    let host = Host::start(&[]);
    let ended = althing_e2e::run(&mut host.command(&["--json", "group", "show", "web"]));
    let told: serde_json::Value = serde_json::from_str(&ended.stderr).unwrap();
    assert_eq!((ended.code, told["kind"].as_str()), (Some(3), Some("not-found")), "{told}");
    assert!(told["message"].as_str().is_some_and(|message| message.contains("group=web")), "{told}");
    assert!(told["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{told}");
}

#[test]
fn a_port_asks_for_the_token() {
    let host = Host::start(&["--listen", "127.0.0.1:0"]);
    let (port, token) = (host.addresses[1].as_str(), host.token_file.as_deref().unwrap());
    host.refuse(&["--server", port, "group", "list"], 6, &["no bearer token", "--token-file"]);
    assert_eq!(host.ask(&["--server", port, "--token-file", token, "group", "list"]), "no groups\n");
    let mut command = host.command(&["--server", port, "group", "list"]);
    assert!(command.env("ALTHING_TOKEN_FILE", token).status().unwrap().success());
    let wrong = host.folder.path().join("wrong");
    std::fs::write(&wrong, "wrong\n").unwrap();
    host.refuse(
        &["--server", port, "--token-file", wrong.to_str().unwrap(), "group", "list"],
        6,
        &["wrong bearer token"],
    );
}

#[test]
fn two_hosts_on_one_socket_are_refused_and_the_first_goes_on() {
    let host = Host::start(&[]);
    let socket = host.folder.path().join("a.sock");
    let mut second = althing();
    check_refused(
        second.args(["serve", "--socket"]).arg(&socket),
        4,
        &["another host answers here already", "--socket"],
    );
    assert_eq!(host.ask(&["group", "list"]), "no groups\n");
}

#[test]
fn a_host_that_is_terminated_leaves_in_good_order() {
    let mut host = Host::start(&[]);
    let mut member = host.member("web", "a", &[]);
    let mut watch = host.follow(&["watch", "web"]);
    watch.event("snapshot");
    host.process.signal(Signal::TERM);
    assert!(host.process.end().success());
    assert!(!host.folder.path().join("a.sock").exists());
    member.event("ended");
    assert_eq!((member.end().code(), watch.end().code()), (Some(5), Some(5)));
}

#[test]
fn a_killed_host_is_replaced_on_its_socket() {
    let host = Host::start(&[]);
    let socket = host.folder.path().join("a.sock");
    host.process.signal(Signal::KILL);
    let mut command = althing();
    let mut next = Running::start(command.args(["serve", "--socket"]).arg(&socket));
    assert_eq!(next.line(), format!("ready unix:{}", socket.display()));
    assert_eq!(host.ask(&["group", "list"]), "no groups\n");
    next.signal(Signal::INT);
    assert!(next.end().success());
}

#[test]
fn a_configuration_file_says_what_options_say_and_options_prevail() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("althing.toml");
    std::fs::write(&file, "socket = \"b.sock\"\nname = \"south\"\nlease = \"2s\"\nstate = \"state\"\n")
        .unwrap();
    let mut command = althing();
    let mut host = Running::start(command.args(["serve", "--name", "west", "--config"]).arg(&file));
    let socket = folder.path().join("b.sock");
    assert_eq!(host.line(), format!("ready unix:{}", socket.display()));
    let server = format!("unix:{}", socket.display());
    let ask = |arguments: &[&str]| {
        althing_e2e::run(althing().env("ALTHING_SERVER", &server).args(arguments)).stdout
    };
    ask(&["group", "create", "web"]);
    let shown = ask(&["group", "show", "web"]);
    assert!(shown.contains("west") && !shown.contains("south"), "{shown}");
    assert!(folder.path().join("state").is_dir());

    std::fs::write(&file, "name = \"x\"\nbackedn = \"memory:\"\n").unwrap();
    check_refused(
        althing().args(["serve", "--config"]).arg(&file),
        2,
        &["line=2", "help: Did you mean backend?"],
    );
}

#[test]
fn drivers_are_listed_without_a_host() {
    let listed = althing_e2e::run(althing().arg("drivers"));
    assert_eq!(listed.code, Some(0));
    assert!(listed.stdout.contains("memory") && listed.stdout.contains("redis rediss"), "{}", listed.stdout);
    let host = Host::start(&[]);
    let in_use = &host.ask_json(&["drivers", "--in-use"])[0];
    assert_eq!((&in_use["name"], &in_use["capability"]["backend"]), (&"default".into(), &"memory".into()));
}
