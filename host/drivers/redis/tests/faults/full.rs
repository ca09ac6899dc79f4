//! A Redis whose memory is used up, and which may not throw away what it has.

use althing_core::{Cause, Change, Driver, Effect, Error, Key, Kind, Txn};
use althing_driver_redis::Redis;
use althing_test_servers::{Redis as Server, RedisOptions};

use crate::sentinel::{enter, start};
use crate::shared::{LEASE, check_error, insist, next_changes, put, soon, value};

/// More than the server may use.
const FILL: [&str; 4] = ["SETRANGE", "fill", "9000000", "x"];

fn options() -> RedisOptions {
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let settings = vec![set("maxmemory", "8mb"), set("maxmemory-policy", "noeviction")];
    RedisOptions { settings, ..RedisOptions::durable() }
}

#[track_caller]
fn check_full(error: &Error) {
    check_error(error, Kind::Unavailable, Effect::None);
    assert!(error.to_string().contains("raise its maxmemory"), "{error}");
}

/// Checks that nothing can be added, and that nothing is.
async fn check_refuses_what_takes_room(driver: &Redis) {
    let all = async || driver.list(&Key::default(), None, 0).await.unwrap();
    let before = all().await;
    check_full(&driver.open(LEASE).await.unwrap_err());
    check_full(&put(driver, "new", "1").await.unwrap_err());
    let mixed = Txn::new().delete("kept".into()).put("new".into(), "1");
    check_full(&driver.commit(mixed).await.unwrap_err());
    let after = all().await;
    assert_eq!((after.records, after.revision), (before.records, before.revision));
}

pub(super) async fn a_full_server_refuses_what_takes_room_and_nothing_else() {
    let mut server = Server::start(options()).await.unwrap();
    let driver = crate::shared::connect(&server.url("n")).await.unwrap();
    let (session, closed) = (driver.open(LEASE).await.unwrap().id, driver.open(LEASE).await.unwrap().id);
    driver.commit(Txn::new().put_owned("mine".into(), "1", session)).await.unwrap();
    driver.commit(Txn::new().put_owned("theirs".into(), "1", closed)).await.unwrap();
    let seen = put(&driver, "kept", "1").await.unwrap();
    let mut watch = driver.watch(&"theirs".into(), seen).await.unwrap();
    assert_eq!(server.command(&FILL), ":9000001");

    check_refuses_what_takes_room(&driver).await;
    driver.renew(session).await.unwrap();
    driver.close(closed).await.unwrap();
    let changes = soon("the end of the session", next_changes(&mut *watch)).await;
    assert!(matches!(changes[..], [Change::Deleted { cause: Cause::Closed, .. }]), "{changes:?}");
    driver.commit(Txn::new().delete("theirs".into()).delete("mine".into())).await.unwrap();

    server.restart().await;
    soon("a renewal", insist(async || driver.renew(session).await)).await.unwrap();
    check_refuses_what_takes_room(&driver).await;
    driver.commit(Txn::new().delete("kept".into())).await.unwrap();
    assert_eq!(server.command(&["DEL", "fill"]), ":1");
    assert_eq!(value(&driver, "kept").await, None);
    driver.open(LEASE).await.unwrap();
    put(&driver, "new", "1").await.unwrap();
}

pub(super) async fn a_fail_over_to_a_full_server_is_told() {
    let mut servers = start().await;
    let driver = enter(&servers).await;
    let session = driver.open(LEASE).await.unwrap().id;
    put(&driver, "kept", "1").await.unwrap();
    for server in 0..servers.servers() {
        assert_eq!(servers.command(server, &["CONFIG", "SET", "maxmemory", "1"]), "+OK");
    }
    let master = servers.fail_over().await;
    // Until it is told, the old master renews.
    let error = soon("a loss", async {
        loop {
            if let Err(error) = insist(async || driver.renew(session).await).await {
                return error;
            }
        }
    })
    .await;
    check_error(&error, Kind::SessionLost, Effect::None);
    check_refuses_what_takes_room(&driver).await;
    driver.commit(Txn::new().delete("kept".into())).await.unwrap();
    assert_eq!(servers.command(master, &["CONFIG", "SET", "maxmemory", "0"]), "+OK");
    put(&driver, "new", "1").await.unwrap();
}
