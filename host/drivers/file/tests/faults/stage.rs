//! Short words for what the tests do.

use std::sync::Arc;
use std::time::Duration;

use althing_core::{
    Change, Delta, Driver, Effect, Error, Key, Kind, OsChance, Record, Result, Revision, SystemClock, Txn,
    Watch,
};
use althing_driver_file::Directory;

/// Longer than anything that a test waits for may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn connect(url: &str) -> Result<Directory> {
    Directory::connect(&url.parse()?, Arc::new(SystemClock), Arc::new(OsChance)).await
}

pub(crate) async fn put(driver: &Directory, key: &str, value: impl Into<Vec<u8>>) -> Result<Revision> {
    driver.commit(Txn::new().put(key.into(), value.into())).await.map(|committed| committed.revision)
}

pub(crate) async fn value(driver: &Directory, key: &str) -> Option<String> {
    let record = driver.get(&key.into()).await.unwrap();
    record.map(|record| String::from_utf8(record.value.to_vec()).unwrap())
}

pub(crate) async fn next(watch: &mut dyn Watch) -> Result<Delta> {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("what must be told is told")
}

/// Waits for changes until `done` says yes to one, and returns all.
pub(crate) async fn changes_until(watch: &mut dyn Watch, done: impl Fn(&Change) -> bool) -> Vec<Change> {
    let mut all: Vec<Change> = Vec::new();
    while !all.iter().any(&done) {
        match next(watch).await.unwrap() {
            Delta::Changes { changes, .. } => all.extend(changes),
            resync => panic!("a resync where nothing was lost: {resync:?}"),
        }
    }
    all
}

/// Watches everything from now on.
pub(crate) async fn watch_from_now(driver: &Directory) -> Box<dyn Watch> {
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    assert!(matches!(next(&mut *watch).await.unwrap(), Delta::Resync { .. }));
    watch
}

#[track_caller]
pub(crate) fn check_error(error: &Error, kind: Kind, effect: Effect) {
    assert_eq!((error.kind(), error.effect()), (kind, effect), "{error}");
}

/// Returns all records below a prefix that fit one page.
pub(crate) async fn all_below(driver: &Directory, prefix: &str) -> Vec<Record> {
    let page = driver.list(&prefix.into(), None, 0).await.unwrap();
    assert_eq!(page.next, None);
    page.records
}
