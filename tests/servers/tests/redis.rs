//! The private Redis does what faults need: it dies, comes back, and leaves nothing.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use althing_test_servers::{Redis, RedisOptions, ready_for};

althing_test_servers::suite! {
    "redis-server":
    keeps_what_it_acknowledged_with_an_append_only_file,
    forgets_everything_without_one,
    has_a_wall_clock_of_its_own,
    is_gone_when_dropped_even_while_paused,
}

async fn check_restart(options: RedisOptions, answer: &str) {
    let mut server = Redis::start(options).await.expect("the server is there");
    assert_eq!(server.command(&["SET", "a", "kept"]), "+OK");
    server.kill();
    server.restart().await;
    assert_eq!(server.command(&["STRLEN", "a"]), answer);
}

async fn keeps_what_it_acknowledged_with_an_append_only_file() {
    check_restart(RedisOptions::durable(), ":4").await;
}

async fn forgets_everything_without_one() {
    check_restart(RedisOptions::default(), ":0").await;
}

async fn has_a_wall_clock_of_its_own() {
    if !ready_for("cc") {
        return;
    }
    let server = Redis::start(RedisOptions { own_clock: true, ..RedisOptions::default() }).await;
    let server = server.expect("the server is there");
    assert_eq!(server.command(&["SET", "a", "x", "EX", "60"]), "+OK");
    server.step_clock(-60);
    assert_eq!(server.command(&["EXISTS", "a"]), ":1");
    server.step_clock(3600);
    assert_eq!(server.command(&["EXISTS", "a"]), ":0");
}

async fn is_gone_when_dropped_even_while_paused() {
    let server = Redis::start(RedisOptions::default()).await.expect("the server is there");
    let process = format!("/proc/{}", server.pid());
    assert!(std::path::Path::new(&process).exists());
    server.pause();
    drop(server);
    assert!(!std::path::Path::new(&process).exists());
}
