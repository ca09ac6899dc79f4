//! Redis counts by its machine's wall clock. What happens to sessions when somebody sets it.

use std::time::Duration;

use althing_core::{Cause, Change, Driver, Effect, Kind, SessionId, Txn};
use althing_driver_redis::Redis;
use althing_test_servers::{Redis as Server, RedisOptions, ready_for};

use crate::shared::{LEASE, check_error, connect, next_changes, put, soon, value};

const HOUR: i64 = 3600;

async fn start() -> Option<(Server, Redis, Redis)> {
    if !ready_for("cc") {
        return None;
    }
    let server = Server::start(RedisOptions { own_clock: true, ..RedisOptions::default() }).await.unwrap();
    let drivers = (connect(&server.url("n")).await.unwrap(), connect(&server.url("n")).await.unwrap());
    Some((server, drivers.0, drivers.1))
}

async fn hold(driver: &Redis, lease: Duration, name: &str) -> SessionId {
    let session = driver.open(lease).await.unwrap().id;
    driver.commit(Txn::new().put_owned(name.into(), "1", session)).await.unwrap();
    session
}

async fn store_time(driver: &Redis, session: SessionId) -> Duration {
    driver.renew(session).await.unwrap().store_time.unwrap()
}

/// Leases end too early: nothing in a server can tell a step from time that passed. It is told, and the time that
/// a renewal reports shows it.
pub(super) async fn a_step_forward_of_the_clock_ends_sessions_and_tells() {
    let Some((server, holder, watcher)) = start().await else { return };
    let session = hold(&holder, LEASE, "held").await;
    let before = store_time(&holder, session).await;
    let seen = put(&holder, "kept", "1").await.unwrap();
    let mut watch = watcher.watch(&"held".into(), seen).await.unwrap();
    server.step_clock(HOUR);

    let error = holder.renew(session).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    let changes = soon("the end of the session", next_changes(&mut *watch)).await;
    assert!(
        matches!(&changes[..], [Change::Deleted { cause: Cause::Expired, revision, .. }] if *revision > seen),
        "{changes:?}"
    );
    assert_eq!(value(&watcher, "kept").await.as_deref(), Some("1"));
    let next = hold(&holder, LEASE, "held").await;
    assert!(store_time(&holder, next).await - before >= Duration::from_secs(HOUR.unsigned_abs()));
}

pub(super) async fn a_step_back_of_the_clock_keeps_no_session_alive() {
    let Some((server, holder, watcher)) = start().await else { return };
    let lease = Duration::from_millis(500);
    hold(&holder, lease, "held").await;
    let session = hold(&watcher, LEASE, "mine").await;
    let seen = put(&watcher, "kept", "1").await.unwrap();
    let mut watch = watcher.watch(&"held".into(), seen).await.unwrap();
    server.step_clock(-HOUR);

    // Whoever calls is enough, and the watch calls.
    let changes = soon("the end of the session", next_changes(&mut *watch)).await;
    assert!(matches!(changes[..], [Change::Deleted { cause: Cause::Expired, .. }]), "{changes:?}");
    watcher.renew(session).await.unwrap();
    assert_eq!(value(&watcher, "mine").await.as_deref(), Some("1"));
}
