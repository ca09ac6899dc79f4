//! What happens to a file and to the process that has it: it is killed, stopped, run into a full disk, followed by another.
//!
//! The process is this test itself, started again as what `child.rs` says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: what it does not expect ends it"
)]

mod child;
mod files;
mod full;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{
    Cause, Chance, Change, Clock, Delta, Driver, Effect, Error, Guard, Key, Kind, OsChance, Record, Result,
    Revision, SeededChance, SystemClock, Txn, Watch,
};
use althing_driver_embedded::Embedded;
use althing_test_servers::Test;
use libtest_mimic::{Arguments, Completion, Trial};
use tempfile::TempDir;
use tokio::runtime::Builder;

use crate::child::Child;

/// The lease of sessions that a test waits out. Long enough that a busy machine does not miss the renewals by itself.
const LEASE: Duration = Duration::from_secs(3);
/// The pause between two renewals.
const BEAT: Duration = Duration::from_millis(100);
/// How long what must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

macro_rules! tests {
    ($($test:path),+ $(,)?) => {
        const TESTS: &[Test] = &[$((stringify!($test), || Box::pin($test()))),+];
    };
}

tests! {
    a_kill_at_any_moment_loses_nothing_acknowledged_and_tokens_rise,
    sessions_of_a_killed_process_live_for_one_more_lease_and_go_with_events,
    a_process_that_stood_still_for_longer_than_a_lease_finds_its_sessions_ended,
    a_second_process_is_told_at_once_and_has_the_file_as_soon_as_the_first_is_gone,
    a_watch_goes_on_over_a_restart_or_resyncs,
    files::a_file_that_was_let_go_can_be_opened_at_once,
    files::is_for_its_owner_alone_and_makes_one_folder,
    files::begins_anew_in_an_empty_file_and_after_an_unfinished_one,
    files::leaves_alone_what_is_not_its_own,
    files::tells_damage_and_loses_nothing_silently,
    files::does_not_grow_for_ever,
    files::namespaces_do_not_see_each_other,
    full::a_full_disk_refuses_commits_and_nothing_else,
    full::a_link_promises_no_more_than_where_it_leads,
}

fn main() -> ExitCode {
    match std::env::var(child::ROLE) {
        Ok(role) => child::play(&role),
        Err(_) => libtest_mimic::run(&Arguments::from_args(), TESTS.iter().map(trial).collect()).exit_code(),
    }
}

fn trial((name, test): &Test) -> Trial {
    let (name, test) = (*name, *test);
    Trial::ignorable_test(name, move || {
        if name.starts_with("full::")
            && let Some(reason) = full::impossible()
        {
            return Ok(Completion::ignored_with(reason));
        }
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(test());
        Ok(Completion::Completed)
    })
}

/// A place for one file.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("store.redb")
    }

    async fn open(&self) -> Embedded {
        open(&self.file()).await.unwrap()
    }
}

async fn open(file: &Path) -> Result<Embedded> {
    // A disk that others keep busy is not what is tested.
    connect(&format!("embedded://{}?namespace=n&timeout=20s", file.display())).await
}

async fn connect(url: &str) -> Result<Embedded> {
    Embedded::connect(&url.parse()?, Arc::new(SystemClock), Arc::new(OsChance)).await
}

async fn put(driver: &Embedded, key: &str, value: impl Into<Vec<u8>>) -> Result<Revision> {
    let txn = Txn::new().put(key.into(), value.into());
    driver.commit(txn).await.map(|committed| committed.revision)
}

async fn value(driver: &Embedded, key: &str) -> Option<String> {
    let record = driver.get(&key.into()).await.unwrap();
    record.map(|record| String::from_utf8(record.value.to_vec()).unwrap())
}

async fn all(driver: &Embedded) -> Vec<Record> {
    let page = driver.list(&Key::default(), None, 0).await.unwrap();
    assert_eq!(page.next, None);
    page.records
}

async fn next(watch: &mut dyn Watch) -> Delta {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("a delta comes").unwrap()
}

async fn next_changes(watch: &mut dyn Watch) -> Vec<Change> {
    match next(watch).await {
        Delta::Changes { changes, .. } => changes,
        resync => panic!("a resync where nothing was missed: {resync:?}"),
    }
}

#[track_caller]
fn check_error(error: &Error, kind: Kind, effect: Effect, said: &str) {
    assert_eq!((error.kind(), error.effect()), (kind, effect), "{error}");
    assert!(error.to_string().contains(said), "{error}");
}

/// What one writer of a child was told.
#[derive(Clone, Copy)]
struct Told {
    count: u64,
    revision: Revision,
}

async fn a_kill_at_any_moment_loses_nothing_acknowledged_and_tokens_rise() {
    let place = Place::new();
    let chance = SeededChance::new(4);
    let mut told: BTreeMap<String, Told> = BTreeMap::new();
    let mut last = Revision::ZERO;
    for _ in 0..12 {
        let mut child = Child::start("writer", &place.file());
        let mut lines: Vec<String> = (0..chance.bits() % 400).map(|_| child.line()).collect();
        // Whatever else it was told lies in the pipe: that counts too.
        lines.extend(child.kill());
        for line in lines {
            let [writer, count, revision] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let revision: Revision = revision.parse().unwrap();
            told.insert(writer.to_owned(), Told { count: count.parse().unwrap(), revision });
            last = last.max(revision);
        }
        let driver = place.open().await;
        for (writer, told) in &mut told {
            let record = driver.get(&writer.as_str().into()).await.unwrap().unwrap();
            let count: u64 = std::str::from_utf8(&record.value).unwrap().parse().unwrap();
            // One commit may have been on its way.
            assert!(count == told.count || count == told.count + 1, "{writer}: {count} after {}", told.count);
            assert_eq!(count == told.count, record.stamp.modified == told.revision);
            *told = Told { count, revision: record.stamp.modified };
        }
        let revision = put(&driver, "after", "1").await.unwrap();
        assert!(revision > last, "{revision:?} after {last:?}");
        last = revision;
    }
    assert!(told.values().map(|told| told.count).sum::<u64>() > 500);
}

async fn sessions_of_a_killed_process_live_for_one_more_lease_and_go_with_events() {
    let place = Place::new();
    let mut child = Child::start("holder", &place.file());
    let (mine, kept) = (child.session(), child.session());
    // Longer than a lease: they live by their renewals, of which the file knows nothing.
    child.until(|line| line.strip_prefix("renewed ").is_some_and(|times| times.parse().unwrap_or(0) > 35));
    child.kill();

    let before = SystemClock.now();
    let driver = place.open().await;
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    let Delta::Resync { records, .. } = next(&mut *watch).await else { panic!("no snapshot") };
    assert_eq!(records.iter().filter(|record| record.session == Some(mine)).count(), 2);
    let claim = || Txn::new().guard(Guard::Absent("mine".into())).put("mine".into(), "other");
    check_error(&driver.commit(claim()).await.unwrap_err(), Kind::Conflict, Effect::None, "mine");

    // A host that came back goes on with a session that it has from before.
    let renewing = async {
        loop {
            driver.renew(kept).await.unwrap();
            SystemClock.sleep(BEAT).await;
        }
    };
    let changes = tokio::select! {
        changes = next_changes(&mut *watch) => changes,
        () = renewing => unreachable!(),
    };
    let lived = SystemClock.now().since(before);
    assert!((LEASE..LEASE * 3).contains(&lived), "{lived:?}");
    let expired = |change: &Change| matches!(change, Change::Deleted { cause: Cause::Expired, .. });
    assert!(changes.iter().all(expired), "{changes:?}");
    let gone: Vec<&Key> = changes.iter().map(Change::key).collect();
    assert_eq!(gone, [&"mine".into(), &mine.key()]);
    assert_eq!(changes[0].revision(), changes[1].revision());
    check_error(&driver.renew(mine).await.unwrap_err(), Kind::SessionLost, Effect::None, "ended");
    driver.commit(claim()).await.unwrap();
    assert_eq!(value(&driver, "kept").await.as_deref(), Some("1"));
}

async fn a_process_that_stood_still_for_longer_than_a_lease_finds_its_sessions_ended() {
    let place = Place::new();
    let mut child = Child::start("holder", &place.file());
    let (mine, _kept) = (child.session(), child.session());
    child.until(|line| line.starts_with("renewed"));
    child.pause();
    SystemClock.sleep(LEASE * 3).await;
    // Nobody else was given anything meanwhile: the file is still taken.
    let error = open(&place.file()).await.unwrap_err();
    check_error(&error, Kind::Busy, Effect::None, "another process");
    let woken = SystemClock.now();
    child.resume();
    let mut told = [format!("lost {mine} session-lost"), "gone mine Expired".to_owned()].to_vec();
    while !told.is_empty() {
        let line = child.line();
        told.retain(|expected| *expected != line);
    }
    for sent in child.acknowledged() {
        assert!(*sent < woken, "a renewal was acknowledged after the lease had run out");
    }
    child.kill();
    assert_eq!(value(&place.open().await, "mine").await, None);
}

async fn a_second_process_is_told_at_once_and_has_the_file_as_soon_as_the_first_is_gone() {
    let place = Place::new();
    let mut child = Child::start("holder", &place.file());
    child.session();
    let before = SystemClock.now();
    let error = open(&place.file()).await.unwrap_err();
    assert!(SystemClock.now().since(before) < LEASE, "it waited");
    check_error(&error, Kind::Busy, Effect::None, &place.file().display().to_string());
    check_error(&error, Kind::Busy, Effect::None, "the socket of its daemon, or use a file: backend");
    child.kill();
    assert_eq!(value(&place.open().await, "mine").await.as_deref(), Some("1"));
}

async fn a_watch_goes_on_over_a_restart_or_resyncs() {
    let place = Place::new();
    let driver = place.open().await;
    let old = put(&driver, "a", "1").await.unwrap();
    let new = put(&driver, "a", "2").await.unwrap();
    let mut orphan = driver.watch(&Key::default(), new).await.unwrap();
    drop(driver);
    assert_eq!(orphan.next().await.unwrap_err().kind(), Kind::Closed);

    let driver = place.open().await;
    let mut lagging = driver.watch(&Key::default(), old).await.unwrap();
    assert!(matches!(next(&mut *lagging).await, Delta::Resync { revision, .. } if revision == new));
    let mut watch = driver.watch(&Key::default(), new).await.unwrap();
    let written = put(&driver, "a", "3").await.unwrap();
    let changes = next_changes(&mut *watch).await;
    assert_eq!(changes.iter().map(Change::revision).collect::<Vec<_>>(), [written]);
}
