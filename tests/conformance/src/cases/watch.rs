//! Watches: a snapshot, then changes in order; a gap is shown, never hidden.

use althing_core::{Cause, Change, Delta, Driver, Guard, Key, Record, Revision, Txn, limits};

use crate::stage::{key, list_all, put, put_owned};
use crate::{Follower, Stage};

pub(super) async fn begins_with_a_snapshot(stage: Stage) {
    let driver = stage.connect().await;
    let mut follower = Follower::begin(&*driver, &key("w/")).await;
    assert!(follower.records.is_empty());
    put(&*driver, "w/a", "1").await;
    follower.until_put(&key("w/a")).await;
    assert_eq!(follower.resyncs, 1, "a change is no reason for a snapshot");
    let later = Follower::begin(&*driver, &key("w/")).await;
    assert_eq!(later.records, follower.records);
}

pub(super) async fn goes_on_from_a_revision(stage: Stage) {
    let driver = stage.connect().await;
    put(&*driver, "w/before", "1").await;
    let from = put(&*driver, "w/seen", "1").await.revision;
    let known = list_all(&*driver, &key("w/"), 0).await;
    put(&*driver, "w/missed", "1").await;
    driver.commit(Txn::new().delete(key("w/before"))).await.unwrap();
    let mut follower = Follower::from(&*driver, &key("w/"), from, &known).await;
    put(&*driver, "w/live", "1").await;
    follower.until_put(&key("w/live")).await;
    let told: Vec<&Key> = follower.changes.iter().map(Change::key).collect();
    assert_eq!(told, [&key("w/missed"), &key("w/before"), &key("w/live")]);
    assert_eq!(follower.resyncs, 0, "nothing was missed");
}

/// Changes, deletions and many keys at once, from two connections.
async fn stir(drivers: [&dyn Driver; 2]) {
    for round in 0..60 {
        let driver = drivers[round % 2];
        let (written, deleted) = (format!("w/{}", round % 7), format!("w/{}", (round + 3) % 7));
        let txn = Txn::new().put(key(&written), round.to_string()).delete(key(&deleted));
        driver.commit(txn).await.unwrap();
    }
    put(drivers[0], "w/end", "").await;
}

pub(super) async fn tells_each_change_once_and_in_order(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    let mut follower = Follower::begin(&*one, &key("w/")).await;
    // The follower checks order, uniqueness and last stamps of every delta it takes in.
    let end = key("w/end");
    tokio::join!(stir([&*one, &*two]), follower.until_put(&end));
    assert_eq!(follower.resyncs, 1);
    let puts = follower.changes.iter().filter(|change| matches!(change, Change::Put(_))).count();
    assert_eq!(puts, 61, "every put is told, however fast it was overwritten");
    let left: Vec<Record> = follower.records.into_values().collect();
    assert_eq!(left, list_all(&*two, &key("w/"), 0).await);
}

pub(super) async fn tells_the_same_to_every_connection(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    let mut first = Follower::begin(&*one, &key("w/")).await;
    let mut second = Follower::begin(&*two, &key("w/")).await;
    let mut third = Follower::begin(&*two, &key("w/")).await;
    stir([&*one, &*two]).await;
    for follower in [&mut first, &mut second, &mut third] {
        follower.until_put(&key("w/end")).await;
    }
    assert_eq!(first.changes, second.changes);
    assert_eq!(first.changes, third.changes);
}

pub(super) async fn wakes_who_waits(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    let mut follower = Follower::begin(&*two, &key("w/")).await;
    for round in 0..20 {
        let name = format!("w/{round}");
        let written = key(&name);
        // The watcher is asked first: it waits when the write comes, and nothing comes after it.
        tokio::join!(follower.until_put(&written), put(&*one, &name, ""));
    }
}

/// A leave followed by a join is two changes, even when the watcher was not looking.
pub(super) async fn tells_a_deletion_and_the_next_incarnation_apart(stage: Stage) {
    let driver = stage.connect().await;
    let session = stage.long_session(&*driver).await;
    let mut follower = Follower::begin(&*driver, &key("w/")).await;
    let first = put_owned(&*driver, "w/a", "1", &session).await;
    let gone = driver.commit(Txn::new().delete(key("w/a"))).await.unwrap();
    let second = put_owned(&*driver, "w/a", "1", &session).await;
    put(&*driver, "w/end", "").await;
    follower.until_put(&key("w/end")).await;
    let told: Vec<Revision> = follower.of(&key("w/a")).into_iter().map(Change::revision).collect();
    assert_eq!(told, [first.revision, gone.revision, second.revision]);
    let deleted = follower.of(&key("w/a"))[1];
    assert!(matches!(deleted, Change::Deleted { cause: Cause::Deleted, .. }), "{deleted:?}");
}

#[track_caller]
fn check_cause(follower: &Follower, name: &str, expected: Cause) -> Revision {
    match follower.of(&key(name)).last() {
        Some(Change::Deleted { cause, revision, .. }) if *cause == expected => *revision,
        other => panic!("{name} goes by {expected:?}, told was {other:?}"),
    }
}

pub(super) async fn tells_an_expiry_with_its_cause_and_without_traffic(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    put(&*one, "w/free", "1").await;
    let mut follower = Follower::begin(&*two, &key("w/")).await;
    let mut sessions = Follower::begin(&*two, &key("session/")).await;
    let session = stage.short_session(&*one).await;
    put_owned(&*one, "w/a", "1", &session).await;
    // Nobody asks the backend for anything but its watches, and they wait already when the time comes.
    let goes = |change: &Change| matches!(change, Change::Deleted { .. });
    let told = follower.until(|follower| follower.changes.last().is_some_and(goes));
    tokio::join!(told, stage.pass(session.lease_min + session.lease_min / 2));
    let record = check_cause(&follower, "w/a", Cause::Expired);
    sessions.until(|sessions| sessions.changes.last().is_some_and(goes)).await;
    match sessions.changes.last() {
        Some(Change::Deleted { key, cause: Cause::Expired, revision, .. }) => {
            assert_eq!(*key, session.id.key());
            assert_eq!(*revision, record, "a session and what it owned go at one revision");
        }
        other => panic!("the session's end is told, not {other:?}"),
    }
    assert!(follower.records.contains_key(&key("w/free")));
}

pub(super) async fn tells_a_close_with_its_cause_at_one_revision(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    let session = stage.long_session(&*one).await;
    put_owned(&*one, "w/a", "1", &session).await;
    put_owned(&*one, "w/b", "1", &session).await;
    let mut follower = Follower::begin(&*two, &key("w/")).await;
    one.close(session.id).await.unwrap();
    follower.until(|follower| follower.records.is_empty()).await;
    let revisions = ["w/a", "w/b"].map(|name| check_cause(&follower, name, Cause::Closed));
    assert_eq!(revisions[0], revisions[1]);
}

pub(super) async fn tells_only_what_lies_below_the_prefix(stage: Stage) {
    let driver = stage.connect().await;
    let high = Key::new(vec![0xFF]);
    let mut below_w = Follower::begin(&*driver, &key("w/")).await;
    let mut below_high = Follower::begin(&*driver, &high).await;
    let mut all = Follower::begin(&*driver, &Key::default()).await;
    let highest = Key::new(vec![0xFF, 0xFF, 0x00]);
    // The follower refuses whatever is not below its prefix.
    let names = [key("w"), key("w0"), key("w/a"), key("v/a"), Key::new(vec![0xFE, 0xFF]), highest.clone()];
    for name in &names {
        driver.commit(Txn::new().put(name.clone(), "1")).await.unwrap();
    }
    put(&*driver, "w/end", "").await;
    below_w.until_put(&key("w/end")).await;
    below_high.until_put(&highest).await;
    all.until_put(&key("w/end")).await;
    let told = |follower: &Follower| follower.records.keys().cloned().collect::<Vec<Key>>();
    assert_eq!(told(&below_w), [key("w/a"), key("w/end")]);
    assert_eq!(told(&below_high), [highest]);
    assert!(names.iter().all(|name| all.records.contains_key(name)));
}

/// Writes twice as many changes as a driver may keep, over few keys, and deletes one that was there.
async fn overrun(driver: &dyn Driver) {
    driver.commit(Txn::new().delete(key("w/deleted"))).await.unwrap();
    let keys = driver.capability().txn_keys_max.min(64) as usize;
    for round in 0..2 * limits::HISTORY_CHANGES_MAX / keys {
        let name = |index| key(&format!("w/{index}"));
        let txn = (0..keys).fold(Txn::new(), |txn, index| txn.put(name(index), round.to_string()));
        driver.commit(txn).await.unwrap();
    }
    put(driver, "w/end", "").await;
}

async fn check_resynced(driver: &dyn Driver, mut follower: Follower) {
    let resyncs_before = follower.resyncs;
    follower.until_put(&key("w/end")).await;
    assert!(follower.resyncs > resyncs_before, "a gap was hidden, or the queue is not bounded");
    let left: Vec<Record> = follower.records.into_values().collect();
    assert_eq!(left, list_all(driver, &key("w/"), 0).await);
}

pub(super) async fn resyncs_who_comes_after_too_long(stage: Stage) {
    let driver = stage.connect().await;
    let from = put(&*driver, "w/deleted", "1").await.revision;
    let known = list_all(&*driver, &key("w/"), 0).await;
    overrun(&*driver).await;
    let follower = Follower::from(&*driver, &key("w/"), from, &known).await;
    check_resynced(&*driver, follower).await;
}

pub(super) async fn resyncs_who_lags_too_far(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    put(&*one, "w/deleted", "1").await;
    let mut follower = Follower::begin(&*two, &key("w/")).await;
    put(&*one, "w/first", "1").await;
    follower.until_put(&key("w/first")).await;
    overrun(&*one).await;
    check_resynced(&*two, follower).await;
}

/// A store that lost its newest commits hands out their revisions again: who has seen the lost ones must
/// not be told the new ones as if they went on from there.
pub(super) async fn resyncs_who_comes_from_a_lost_future(stage: Stage) {
    let driver = stage.connect().await;
    let now = put(&*driver, "w/a", "1").await.revision;
    let mut follower = Follower::from(&*driver, &key("w/"), Revision(now.0 + 1_000_000), &[]).await;
    let first = follower.next().await;
    assert!(matches!(first, Delta::Resync { .. }), "{first:?}");
    assert!(follower.records.contains_key(&key("w/a")));
}

pub(super) async fn loses_nothing_when_a_wait_is_dropped(stage: Stage) {
    let driver = stage.connect().await;
    let mut follower = Follower::begin(&*driver, &key("w/")).await;
    for round in 0..40 {
        follower.give_up(round % 4).await;
        put(&*driver, "w/a", &round.to_string()).await;
        follower.give_up(round % 3).await;
    }
    put(&*driver, "w/end", "").await;
    follower.until_put(&key("w/end")).await;
    assert_eq!((follower.changes.len(), follower.resyncs), (41, 1));
}

pub(super) async fn misses_nothing_between_a_listing_and_a_watch(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    put(&*one, "w/0", "").await;
    let writing = async {
        for round in 1..100 {
            let name = key(&format!("w/{round}"));
            let guard = Guard::Absent(name.clone());
            one.commit(Txn::new().guard(guard).put(name, "")).await.unwrap();
        }
    };
    let reading = async {
        let page = two.list(&key("w/"), None, 0).await.unwrap();
        assert_eq!(page.next, None);
        let mut follower = Follower::from(&*two, &key("w/"), page.revision, &page.records).await;
        follower.until_put(&key("w/99")).await;
        assert_eq!((follower.records.len(), follower.resyncs), (100, 0));
    };
    tokio::join!(writing, reading);
}
