//! The private MariaDB does what faults need: it dies, comes back, goes back in time, and leaves nothing.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use althing_test_servers::{Mysql, MysqlOptions};

althing_test_servers::suite! {
    "mariadbd":
    keeps_what_it_acknowledged,
    goes_back_to_what_was_kept,
    is_gone_when_dropped_even_while_paused,
}

async fn start() -> Mysql {
    Mysql::start(MysqlOptions::default()).await.expect("the server is there")
}

async fn keeps_what_it_acknowledged() {
    let mut server = start().await;
    server.sql("create table a (b int); insert into a values (7)");
    server.kill();
    server.restart().await;
    assert_eq!(server.sql("select b from a"), "7");
}

async fn goes_back_to_what_was_kept() {
    let mut server = start().await;
    server.script("create table a (b int);\ndelimiter //\ninsert into a values (7)//\n");
    let kept = server.keep().await;
    server.sql("update a set b = 8");
    server.restore(&kept).await;
    assert_eq!(server.sql("select b from a"), "7");
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
