//! Three hosts on a real Redis.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use althing_e2e::{Host, policy};
use althing_test_servers::{Redis, RedisOptions};
use rustix::process::Signal;

/// How often a host is asked again for what no event tells. Each time is a process, so this is long.
const LOOKS_MAX: usize = 2000;

fn hosts(redis: &Redis, options: &[&str]) -> Vec<Host> {
    let url = redis.url("e2e");
    let start = |name: &str| Host::start(&[&["--backend", &url, "--name", name], options].concat());
    ["north", "south", "west"].map(start).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_another_host_leads_when_the_leaders_host_is_killed() {
    let Some(redis) = Redis::start(RedisOptions::default()).await else { return };
    let hosts = hosts(&redis, &["--lease", "1s"]);
    let mut first = hosts[0].member("web", "a", &[]);
    let before = first.event("elected");
    let _second = hosts[1].member("web", "b", &[]);
    let mut third = hosts[2].member("web", "c", &[]);
    let mut watch = hosts[2].follow(&["watch", "web"]);
    watch.event("snapshot");
    hosts[0].process.signal(Signal::KILL);
    assert_eq!(first.event("lost")["hold"], before["hold"]);
    let elected = watch.event("elected");
    assert_eq!(elected["leader"]["member"], "b");
    assert!(elected["leader"]["term"].as_str() > before["hold"]["term"].as_str(), "{elected} after {before}");
    hosts[1].process.signal(Signal::TERM);
    assert_eq!(watch.event("elected")["leader"]["member"], "c");
    third.event("elected");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_slept_through_an_activation_is_behind_and_catches_up() {
    let Some(redis) = Redis::start(RedisOptions::default()).await else { return };
    let hosts = hosts(&redis, &["--lease", "60s", "--allow-unsigned"]);
    let _a = hosts[0].member("web", "a", &["--meta", "weight=1"]);
    let mut heavy = hosts[1].member("web", "b", &["--meta", "weight=9"]);
    let bundle = policy("elect-weighted");
    hosts[0].ask(&["policy", "push", bundle.to_str().unwrap()]);
    let view = |of: &Host, name: &str| {
        let group = of.ask_json(&["group", "show", "web"]);
        let hosts = group["hosts"].as_array().unwrap().clone();
        hosts.into_iter().find(|host| host["name"] == name).unwrap_or_default()
    };
    let until = |of: &Host, name: &str, epoch: u64, behind: bool| {
        let seen = (0..LOOKS_MAX).any(|_| {
            let host = view(of, name);
            host["behind"] == behind && host["epoch"] == epoch
        });
        assert!(seen, "{name} is {}", view(of, name));
    };
    until(&hosts[0], "west", 0, false);
    hosts[2].process.signal(Signal::STOP);
    let group = hosts[0].ask_json(&["policy", "activate", "elect-weighted", "--group", "web"]);
    assert_eq!(group["epoch"], 1);
    until(&hosts[0], "south", 1, false);
    until(&hosts[0], "west", 0, true);
    heavy.event("elected");
    hosts[2].process.signal(Signal::CONT);
    until(&hosts[0], "west", 1, false);
    let decisions = hosts[2].ask_json(&["decisions", "web", "--limit", "1000"]);
    let late = |decision: &serde_json::Value| decision["epoch"] == 0 && decision["outcome"] == "claimed";
    assert!(!decisions.as_array().unwrap().iter().any(late), "{decisions}");
}
