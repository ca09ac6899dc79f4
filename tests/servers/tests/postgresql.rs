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
    let process = format!("/proc/{}", server.pid());
    assert!(std::path::Path::new(&process).exists());
    server.pause();
    drop(server);
    assert!(!std::path::Path::new(&process).exists());
    drop(held);
}
