//! Guarded transactions.

use std::collections::BTreeSet;

use althing_core::{Guard, Key, Kind, Order, Revision, Stamp, Txn};

use crate::stage::{key, put, put_owned, refused, value};
use crate::{Follower, Stage};

pub(super) async fn writes_all_of_a_transaction_at_one_revision(stage: Stage) {
    let driver = stage.connect().await;
    let old = put(&*driver, "old", "1").await;
    let txn = Txn::new().put(key("a"), "1").delete(key("old")).put(key("b"), "2");
    let done = driver.commit(txn).await.unwrap();
    let new = Stamp { created: done.revision, modified: done.revision };
    assert!(done.revision > old.revision);
    assert_eq!(done.stamps, [new, old.stamps[0], new]);
    for name in ["a", "b"] {
        assert_eq!(driver.get(&key(name)).await.unwrap().unwrap().stamp, new);
    }
    assert_eq!(value(&*driver, "old").await, None);
}

pub(super) async fn writes_nothing_when_one_guard_fails(stage: Stage) {
    let driver = stage.connect().await;
    put(&*driver, "there", "1").await;
    let txn = Txn::new()
        .guard(Guard::Absent(key("a")))
        .guard(Guard::Absent(key("there")))
        .put(key("a"), "1")
        .put(key("b"), "2")
        .delete(key("there"));
    refused(driver.commit(txn).await, Kind::Conflict);
    assert_eq!(value(&*driver, "a").await, None);
    assert_eq!(value(&*driver, "b").await, None);
    assert_eq!(value(&*driver, "there").await.as_deref(), Some("1"));
}

pub(super) async fn names_the_first_guard_that_failed(stage: Stage) {
    let driver = stage.connect().await;
    put(&*driver, "x", "").await;
    put(&*driver, "y", "").await;
    let txn = Txn::new()
        .guard(Guard::Absent(key("a")))
        .guard(Guard::Absent(key("y")))
        .guard(Guard::Absent(key("x")))
        .put(key("a"), "");
    let error = refused(driver.commit(txn).await, Kind::Conflict);
    assert!(error.context().contains(&("key", "y".to_owned())), "{error}");
}

pub(super) async fn refuses_absent_where_a_record_is(stage: Stage) {
    let driver = stage.connect().await;
    let txn = || Txn::new().guard(Guard::Absent(key("a"))).put(key("a"), "1");
    driver.commit(txn()).await.unwrap();
    refused(driver.commit(txn()).await, Kind::Conflict);
    driver.commit(Txn::new().delete(key("a"))).await.unwrap();
    driver.commit(txn()).await.unwrap();
}

pub(super) async fn refuses_unchanged_after_a_write_or_a_deletion(stage: Stage) {
    let driver = stage.connect().await;
    let first = put(&*driver, "a", "1").await.stamps[0];
    let guarded = |stamp| Txn::new().guard(Guard::Unchanged(key("a"), stamp)).put(key("a"), "new");
    let second = driver.commit(guarded(first)).await.unwrap().stamps[0];
    assert_eq!(second.created, first.created, "a write of the same session keeps the incarnation");
    refused(driver.commit(guarded(first)).await, Kind::Conflict);
    driver.commit(Txn::new().delete(key("a"))).await.unwrap();
    refused(driver.commit(guarded(second)).await, Kind::Conflict);
    assert_eq!(value(&*driver, "a").await, None);
}

/// Deleting and creating between read and commit is never "unchanged", even with the same bytes and even
/// where the backend counts versions from nought for each incarnation.
pub(super) async fn refuses_a_guard_on_an_old_incarnation(stage: Stage) {
    let driver = stage.connect().await;
    let read = put(&*driver, "a", "same").await.stamps[0];
    driver.commit(Txn::new().delete(key("a"))).await.unwrap();
    let again = put(&*driver, "a", "same").await.stamps[0];
    assert!(again.created > read.modified);
    let txn = Txn::new().guard(Guard::Unchanged(key("a"), read)).put(key("a"), "stale");
    refused(driver.commit(txn).await, Kind::Conflict);
    // Half a stamp is not enough either.
    for stamp in [Stamp { created: read.created, ..again }, Stamp { modified: read.modified, ..again }] {
        let txn = Txn::new().guard(Guard::Unchanged(key("a"), stamp)).delete(key("a"));
        refused(driver.commit(txn).await, Kind::Conflict);
    }
    assert_eq!(value(&*driver, "a").await.as_deref(), Some("same"));
}

/// A backend may know what is not there by zeros. No record has them.
pub(super) async fn refuses_a_guard_on_a_stamp_of_zeros(stage: Stage) {
    let driver = stage.connect().await;
    let guard = Guard::Unchanged(key("a"), Stamp { created: Revision::ZERO, modified: Revision::ZERO });
    let guarded = || Txn::new().guard(guard.clone());
    for present in [false, true] {
        for txn in [guarded(), guarded().put(key("a"), "new"), guarded().delete(key("a"))] {
            refused(driver.commit(txn).await, Kind::Conflict);
        }
        let found = value(&*driver, "a").await;
        assert_eq!(found.as_deref(), present.then_some("1"));
        put(&*driver, "a", "1").await;
    }
}

pub(super) async fn checks_guards_without_writes(stage: Stage) {
    let driver = stage.connect().await;
    let done = put(&*driver, "a", "1").await;
    let holds = Txn::new().guard(Guard::Unchanged(key("a"), done.stamps[0]));
    let checked = driver.commit(holds).await.unwrap();
    assert!(checked.revision >= done.revision && checked.stamps.is_empty());
    refused(driver.commit(Txn::new().guard(Guard::Absent(key("a")))).await, Kind::Conflict);
    assert_eq!(driver.get(&key("a")).await.unwrap().unwrap().stamp, done.stamps[0]);
}

pub(super) async fn deletes_what_is_not_there(stage: Stage) {
    let driver = stage.connect().await;
    let before = put(&*driver, "a", "1").await.revision;
    let done = driver.commit(Txn::new().delete(key("none"))).await.unwrap();
    assert!(done.revision > before || driver.capability().order == Order::Key);
    assert_eq!(done.stamps, [Stamp { created: done.revision, modified: done.revision }]);
}

pub(super) async fn refuses_a_transaction_that_is_empty_or_contradicts_itself(stage: Stage) {
    let driver = stage.connect().await;
    refused(driver.commit(Txn::new()).await, Kind::Invalid);
    refused(driver.commit(Txn::new().put(key("a"), "1").put(key("a"), "2")).await, Kind::Invalid);
    refused(driver.commit(Txn::new().put(key("a"), "1").delete(key("a"))).await, Kind::Invalid);
    assert_eq!(value(&*driver, "a").await, None);
}

fn many(count: u32) -> Txn {
    (0..count).fold(Txn::new(), |txn, index| txn.put(Key::path([format!("many-{index}")]), "v"))
}

pub(super) async fn holds_as_many_keys_as_it_says(stage: Stage) {
    let driver = stage.connect().await;
    let most = driver.capability().txn_keys_max;
    refused(driver.commit(many(most + 1)).await, Kind::TooLarge);
    assert_eq!(value(&*driver, "many-0").await, None);
    let done = driver.commit(many(most)).await.unwrap();
    let revisions: BTreeSet<Revision> = done.stamps.iter().map(|stamp| stamp.modified).collect();
    assert_eq!((done.stamps.len() as u32, revisions.len()), (most, 1));
    let over = many(most).guard(Guard::Absent(key("one more")));
    refused(driver.commit(over).await, Kind::TooLarge);
}

pub(super) async fn counts_a_key_both_guarded_and_written_once(stage: Stage) {
    let driver = stage.connect().await;
    let most = driver.capability().txn_keys_max;
    let mut txn = many(most);
    let written: Vec<Key> = txn.writes.iter().map(|write| write.key().clone()).collect();
    txn.guards = written.into_iter().map(Guard::Absent).collect();
    driver.commit(txn).await.unwrap();
}

/// Nothing that is kept per key may be lost with the key: the counter belongs to the namespace.
pub(super) async fn tokens_rise_over_deletions(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    let session = stage.long_session(&*one).await;
    let mut last = Revision::ZERO;
    for round in 0..20 {
        let driver = if round % 2 == 0 { &one } else { &two };
        let done = match round % 3 {
            0 => put_owned(&**driver, "leader", "x", &session).await,
            _ => put(&**driver, "leader", "x").await,
        };
        assert_eq!(done.stamps[0].created, done.revision);
        assert!(done.revision > last, "round {round}: {:?} after {last:?}", done.revision);
        last = driver.commit(Txn::new().delete(key("leader"))).await.unwrap().revision;
        assert!(last > done.revision || driver.capability().order == Order::Key);
        last = last.max(done.revision);
    }
}

pub(super) async fn reads_on_another_connection_what_was_acknowledged(stage: Stage) {
    let (writer, reader) = (stage.connect().await, stage.connect().await);
    if !reader.capability().linearizable_reads {
        return;
    }
    for round in 0..200 {
        let text = round.to_string();
        put(&*writer, "a", &text).await;
        assert_eq!(value(&*reader, "a").await, Some(text));
    }
}

/// Where the capability says that tokens survive, everything acknowledged is there and revisions go on;
/// elsewhere what was lost is told to whoever watches, and no session that is gone looks alive.
pub(super) async fn keeps_or_tells_over_a_restart(stage: Stage) {
    let driver = stage.connect().await;
    let session = stage.long_session(&*driver).await;
    put_owned(&*driver, "owned", "1", &session).await;
    let before = put(&*driver, "kept", "1").await.revision;
    let mut follower = Follower::begin(&*driver, &Key::default()).await;
    if !stage.restart().await {
        let promised = driver.capability().token_survives_restart;
        assert!(!promised, "promises what cannot be shown: the subject has no server to restart");
        return;
    }
    let after = loop {
        // The connection may need some calls to find the server again.
        match driver.commit(Txn::new().put(key("after"), "1")).await {
            Ok(done) => break done.revision,
            Err(error) => assert!(matches!(error.kind(), Kind::Unavailable | Kind::Timeout), "{error}"),
        }
        stage.pass(std::time::Duration::from_millis(20)).await;
    };
    if driver.capability().token_survives_restart {
        assert!(after > before, "{after:?} after {before:?}");
        assert_eq!(value(&*driver, "kept").await.as_deref(), Some("1"));
    }
    let alive = driver.renew(session.id).await;
    match alive {
        Ok(_) => assert_eq!(value(&*driver, "owned").await.as_deref(), Some("1")),
        Err(error) => {
            assert_eq!(error.kind(), Kind::SessionLost, "{error}");
            assert_eq!(value(&*driver, "owned").await, None);
        }
    }
    follower.until_put(&key("after")).await;
    let told = follower.records.contains_key(&key("kept"));
    assert_eq!(told, value(&*driver, "kept").await.is_some());
}
