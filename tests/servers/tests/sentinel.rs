//! The private sentinels do what faults need: they move the mastership, and leave nothing.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use althing_test_servers::{Sentinel, SentinelOptions};

althing_test_servers::suite! {
    "redis-server":
    moves_the_mastership_and_takes_the_old_master_back,
    a_fail_over_after_a_cut_loses_what_was_acknowledged,
    is_gone_when_dropped_even_while_paused,
}

async fn start() -> Sentinel {
    Sentinel::start(SentinelOptions::default()).await.expect("the server is there")
}

async fn moves_the_mastership_and_takes_the_old_master_back() {
    let mut servers = start().await;
    assert_eq!(servers.master(), Some(0));
    servers.kill(0).await;
    assert_eq!(servers.wait_for_fail_over(0).await, 1);
    assert_eq!(servers.command(1, &["SET", "a", "kept"]), "+OK");
    servers.restart(0).await;
    servers.wait_for_replica(0).await;
    assert_eq!(servers.command(0, &["STRLEN", "a"]), ":4");
    assert_eq!(servers.fail_over().await, 0);
}

async fn a_fail_over_after_a_cut_loses_what_was_acknowledged() {
    let mut servers = start().await;
    assert_eq!(servers.command(0, &["SET", "a", "kept"]), "+OK");
    servers.cut_replication(0).await;
    assert_eq!(servers.command(0, &["SET", "b", "lost"]), "+OK");
    servers.kill(0).await;
    servers.wait_for_fail_over(0).await;
    assert_eq!(
        (servers.command(1, &["STRLEN", "a"]).as_str(), servers.command(1, &["EXISTS", "b"]).as_str()),
        (":4", ":0")
    );
}

async fn is_gone_when_dropped_even_while_paused() {
    let mut servers = start().await;
    let process = format!("/proc/{}", servers.pid(1));
    assert!(std::path::Path::new(&process).exists());
    servers.pause(1).await;
    drop(servers);
    assert!(!std::path::Path::new(&process).exists());
}
