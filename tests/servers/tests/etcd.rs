//! The private etcd does what faults need: it dies, comes back, and three outlive one.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use althing_core::{Clock, SystemClock};
use althing_test_servers::{Etcd, EtcdOptions};

althing_test_servers::suite! {
    "etcd":
    keeps_what_it_acknowledged,
    three_find_another_leader,
}

async fn keeps_what_it_acknowledged() {
    let mut server = Etcd::start(1, EtcdOptions::default()).await.expect("the server is there");
    server.members()[0].post("kv/put", r#"{"key": "YQ==", "value": "dg=="}"#);
    server.kill();
    assert!(!server.members()[0].does_serve());
    server.restart().await;
    let answer = server.members()[0].post("kv/range", r#"{"key": "YQ=="}"#);
    assert!(answer.contains(r#""value":"dg==""#), "{answer}");
}

async fn three_find_another_leader() {
    let mut cluster = Etcd::start(3, EtcdOptions::default()).await.expect("the servers are there");
    let leader = cluster.leader().expect("one of them leads");
    cluster.members_mut()[leader].kill();
    while cluster.leader().is_none_or(|found| found == leader) {
        SystemClock.sleep(Duration::from_millis(20)).await;
    }
    cluster.members_mut()[leader].restart().await;
    assert!(!cluster.members()[leader].is_leader());
}
