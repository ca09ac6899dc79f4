//! The private memcached does what faults need: it dies, comes back, and leaves nothing.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use althing_test_servers::{Memcached, MemcachedOptions};

althing_test_servers::suite! {
    "memcached":
    forgets_everything_when_restarted,
    is_gone_when_dropped_even_while_paused,
}

async fn forgets_everything_when_restarted() {
    let mut server = Memcached::start(MemcachedOptions::default()).await.expect("the server is there");
    assert_eq!(server.connect().set("a", b"kept"), "STORED");
    assert_eq!(server.command("mg a s"), "HD s4");
    server.kill();
    server.restart().await;
    assert_eq!(server.command("mg a s"), "EN");
}

async fn is_gone_when_dropped_even_while_paused() {
    let server = Memcached::start(MemcachedOptions::default()).await.expect("the server is there");
    let process = format!("/proc/{}", server.pid());
    assert!(std::path::Path::new(&process).exists());
    server.pause();
    drop(server);
    assert!(!std::path::Path::new(&process).exists());
}
