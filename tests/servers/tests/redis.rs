//! The private Redis does what faults need: it dies, comes back, and leaves nothing.

use althing_test_servers::{Redis, RedisOptions};

async fn check_restart(options: RedisOptions, answer: &str) {
    let Some(mut server) = Redis::start(options).await else { return };
    assert_eq!(server.command(&["SET", "a", "kept"]), "+OK");
    server.kill();
    server.restart().await;
    assert_eq!(server.command(&["STRLEN", "a"]), answer);
}

#[tokio::test]
async fn keeps_what_it_acknowledged_with_an_append_only_file() {
    check_restart(RedisOptions::durable(), ":4").await;
}

#[tokio::test]
async fn forgets_everything_without_one() {
    check_restart(RedisOptions::default(), ":0").await;
}

#[tokio::test]
async fn is_gone_when_dropped_even_while_paused() {
    let Some(server) = Redis::start(RedisOptions::default()).await else { return };
    let process = format!("/proc/{}", server.pid());
    assert!(std::path::Path::new(&process).exists());
    server.pause();
    drop(server);
    assert!(!std::path::Path::new(&process).exists());
}
