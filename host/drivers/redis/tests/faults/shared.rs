//! Short words for what the tests do.

use std::sync::Arc;
use std::time::Duration;

use althing_core::{
    Change, Clock, Delta, Driver, Effect, Error, Kind, OsChance, Record, Result, Revision, SystemClock, Txn,
    Watch,
};
use althing_driver_redis::Redis;

pub(super) const LEASE: Duration = Duration::from_secs(30);
/// Between two calls of which the first found no server.
pub(super) const PAUSE: Duration = Duration::from_millis(10);
/// How long anything may take that is waited for.
const WAIT_DEADLINE: Duration = Duration::from_secs(60);

pub(super) async fn connect(url: &str) -> Result<Redis> {
    Redis::connect(&url.parse()?, Arc::new(SystemClock), Arc::new(OsChance)).await
}

pub(super) async fn put(driver: &Redis, key: &str, value: &str) -> Result<Revision> {
    let txn = Txn::new().put(key.into(), value.to_owned());
    driver.commit(txn).await.map(|committed| committed.revision)
}

pub(super) async fn value(driver: &Redis, key: &str) -> Option<String> {
    let record = driver.get(&key.into()).await.unwrap();
    record.map(|record| String::from_utf8(record.value.to_vec()).unwrap())
}

pub(super) fn is_outage(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::Timeout)
}

/// Calls until it does not fail for want of a server.
pub(super) async fn insist<T>(call: impl AsyncFn() -> Result<T>) -> Result<T> {
    loop {
        match call().await {
            Err(error) if is_outage(&error) => SystemClock.sleep(PAUSE).await,
            done => return done,
        }
    }
}

/// Waits for the next delta over an outage.
pub(super) async fn next(watch: &mut dyn Watch) -> Delta {
    loop {
        match watch.next().await {
            Ok(delta) => return delta,
            Err(error) => assert!(is_outage(&error), "{error}"),
        }
    }
}

pub(super) async fn next_changes(watch: &mut dyn Watch) -> Vec<Change> {
    match next(watch).await {
        Delta::Changes { changes, .. } => changes,
        resync => panic!("a resync where nothing was lost: {resync:?}"),
    }
}

#[track_caller]
pub(super) fn check_error(error: &Error, kind: Kind, effect: Effect) {
    assert_eq!((error.kind(), error.effect()), (kind, effect), "{error}");
}

pub(super) async fn check_refused(url: &str, kind: Kind, said: &str) {
    let error = connect(url).await.unwrap_err();
    check_error(&error, kind, Effect::None);
    assert!(error.to_string().contains(said), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

/// Waits for `work`, and fails where that takes too long.
pub(super) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WAIT_DEADLINE, work).await {
        Ok(done) => done,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Waits until the next resync, over whatever was told before.
pub(super) async fn resync(watch: &mut dyn Watch) -> (Vec<Record>, Revision) {
    loop {
        if let Delta::Resync { records, revision } = next(watch).await {
            return (records, revision);
        }
    }
}
