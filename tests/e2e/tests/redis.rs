//! Three hosts on a real Redis.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use althing_e2e::{Host, policy};
use althing_test_servers::{Redis, RedisOptions};
use rustix::process::Signal;

althing_test_servers::suite! {
    "redis-server":
    a_member_of_another_host_leads_when_the_leaders_host_is_killed,
    a_leaders_host_that_slept_through_an_activation_is_behind_and_decides_by_the_new_rule_alone,
    a_restarted_host_ends_at_once_what_its_former_run_left,
}

/// How often a host is asked again for what no event tells. Each time is a process, so this is long.
const LOOKS_MAX: usize = 2000;

fn hosts(redis: &Redis, options: &[&str]) -> Vec<Host> {
    let url = redis.url("e2e");
    let start = |name: &str| Host::start(&[&["--backend", &url, "--name", name], options].concat());
    ["north", "south", "west"].map(start).into()
}

async fn a_member_of_another_host_leads_when_the_leaders_host_is_killed() {
    let redis = Redis::start(RedisOptions::default()).await.unwrap();
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

async fn a_leaders_host_that_slept_through_an_activation_is_behind_and_decides_by_the_new_rule_alone() {
    let redis = Redis::start(RedisOptions::default()).await.unwrap();
    let hosts = hosts(&redis, &["--lease", "60s", "--allow-unsigned"]);
    let mut light = hosts[2].member("web", "a", &["--meta", "weight=1"]);
    light.event("elected");
    let mut heavy = hosts[1].member("web", "b", &["--meta", "weight=9"]);
    let bundle = policy("elect-weighted");
    hosts[0].ask(&["policy", "push", bundle.to_str().unwrap()]);
    let until = |of: &Host, name: &str, epoch: u64, behind: bool| {
        let seen = (0..LOOKS_MAX).any(|_| {
            let host = view(of, name);
            host["behind"] == behind && host["epoch"] == epoch
        });
        assert!(seen, "{name} is {}", view(of, name));
    };
    until(&hosts[0], "west", 0, false);
    let native = |of: &Host| {
        let decisions = of.ask_json(&["decisions", "web", "--limit", "1000"]);
        decisions.as_array().unwrap().iter().filter(|decision| decision["epoch"] == 0).count()
    };
    let before = native(&hosts[2]);
    assert!(before > 0, "the leader's host has decided");
    hosts[2].process.signal(Signal::STOP);
    let group = hosts[0].ask_json(&["policy", "activate", "elect-weighted", "--group", "web"]);
    assert_eq!(group["epoch"], 1);
    until(&hosts[0], "south", 1, false);
    until(&hosts[0], "west", 0, true);
    hosts[2].process.signal(Signal::CONT);
    heavy.event("elected");
    until(&hosts[0], "west", 1, false);
    assert_eq!(native(&hosts[2]), before, "after it woke, it decided nothing by the retired rule");
}

async fn a_restarted_host_ends_at_once_what_its_former_run_left() {
    let redis = Redis::start(RedisOptions::default()).await.unwrap();
    let state = tempfile::tempdir().unwrap();
    let url = redis.url("e2e");
    let lasting = ["--backend", &url, "--lease", "300s", "--state", state.path().to_str().unwrap()];
    let mut killed = Host::start(&lasting);
    let _ghost = killed.member("web", "a", &[]);
    let other = Host::start(&["--backend", &url]);
    let mut watch = other.follow(&["watch", "web"]);
    assert_eq!(watch.event("snapshot")["group"]["leader"]["member"], "a");
    killed.process.signal(Signal::KILL);
    killed.process.end();
    let _second = other.member("web", "b", &[]);
    assert_eq!(other.ask_json(&["leader", "show", "web"])["member"], "a", "its lease is long");
    let again = Host::start(&lasting);
    let left = watch.event("left");
    assert_eq!((left["id"].as_str(), left["cause"].as_str()), (Some("a"), Some("closed")));
    assert_eq!(watch.event("elected")["leader"]["member"], "b");
    again.member("web", "a", &[]);
}

fn view(of: &Host, name: &str) -> serde_json::Value {
    let group = of.ask_json(&["group", "show", "web"]);
    let hosts = group["hosts"].as_array().unwrap().clone();
    hosts.into_iter().find(|host| host["name"] == name).unwrap_or_default()
}
