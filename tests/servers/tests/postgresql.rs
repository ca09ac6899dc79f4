//! The private PostgreSQL does what faults need: it dies, comes back, is followed, and leaves nothing.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use althing_test_servers::{Postgresql, PostgresqlOptions};

althing_test_servers::suite! {
    "postgres":
    keeps_what_it_acknowledged,
    is_followed_by_a_standby_that_takes_its_place,
    is_gone_when_dropped_even_while_paused,
}

async fn start() -> Postgresql {
    Postgresql::start(PostgresqlOptions::default()).await.expect("the server is there")
}

/// Tells whether a process runs. One that has ended, and waits until whoever inherited it asks, does not.
fn runs(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit_once(')').is_some_and(|(_, state)| !state.trim_start().starts_with(['Z', 'X']))
}

async fn keeps_what_it_acknowledged() {
    let mut server = start().await;
    server.sql("create table a (b int); insert into a values (7)");
    server.kill();
    server.restart().await;
    assert_eq!(server.sql("select b from a"), "7");
}

async fn is_followed_by_a_standby_that_takes_its_place() {
    let server = start().await;
    server.sql("create table a (b int); insert into a values (7)");
    let (mut standby, port) = (server.standby().await, server.port());
    assert_eq!(standby.sql("select pg_is_in_recovery()"), "t");
    standby.take_place_of(server).await;
    standby.promote().await;
    assert_eq!((standby.port(), standby.sql("select b from a").as_str()), (port, "7"));
}

async fn is_gone_when_dropped_even_while_paused() {
    let server = start().await;
    let held = server.talk("begin;");
    let mut processes = server.family();
    assert!(processes.len() > 2, "{processes:?}: those of its own, and the one that talks");
    processes.push(server.pid());
    assert!(processes.iter().all(|pid| runs(*pid)));
    server.pause();
    drop(server);
    for pid in processes {
        assert!(!runs(pid), "{pid} is left");
    }
    drop(held);
}
