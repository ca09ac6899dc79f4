//! Sessions: what they own, how they end, and that an end is an end.

use std::collections::BTreeSet;
use std::time::Duration;

use althing_core::{Driver, Guard, Key, Kind, Session, SessionId, Txn, limits};

use crate::Stage;
use crate::stage::{key, list_all, put, put_owned, refused, value};

pub(super) async fn shows_a_record_of_each_live_session(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    let session = stage.long_session(&*one).await;
    let record = two.get(&session.id.key()).await.unwrap().expect("a record of the session");
    assert_eq!((&record.key, record.session), (&session.id.key(), Some(session.id)));
    let page = two.list(&key("session/"), None, 0).await.unwrap();
    assert_eq!(page.records, [record]);
    one.close(session.id).await.unwrap();
    assert_eq!(two.get(&session.id.key()).await.unwrap(), None);
}

async fn check_put_refused(driver: &dyn Driver, session: SessionId) {
    let txn = Txn::new().put(key("free"), "1").put_owned(key("owned"), "1", session);
    refused(driver.commit(txn).await, Kind::SessionLost);
    assert_eq!(value(driver, "free").await, None, "part of a refused transaction was written");
    assert_eq!(value(driver, "owned").await, None, "a record under an ended session");
}

pub(super) async fn refuses_a_put_under_an_ended_session(stage: Stage) {
    let driver = stage.connect().await;
    let closed = stage.long_session(&*driver).await;
    driver.close(closed.id).await.unwrap();
    check_put_refused(&*driver, closed.id).await;
    let expired = stage.short_session(&*driver).await;
    stage.expire(&*driver, &expired).await;
    check_put_refused(&*driver, expired.id).await;
    check_put_refused(&*driver, SessionId(7)).await;
}

pub(super) async fn looks_at_guards_before_sessions(stage: Stage) {
    let driver = stage.connect().await;
    put(&*driver, "a", "1").await;
    let txn = Txn::new().guard(Guard::Absent(key("a"))).put_owned(key("a"), "2", SessionId(7));
    refused(driver.commit(txn).await, Kind::Conflict);
}

pub(super) async fn begins_an_incarnation_when_another_session_writes(stage: Stage) {
    let driver = stage.connect().await;
    let (one, two) = (stage.long_session(&*driver).await, stage.long_session(&*driver).await);
    let first = put_owned(&*driver, "a", "1", &one).await.stamps[0];
    let same = put_owned(&*driver, "a", "2", &one).await.stamps[0];
    assert_eq!(same.created, first.created, "the same session keeps the incarnation");
    assert!(same.modified > first.modified);
    let other = put_owned(&*driver, "a", "3", &two).await.stamps[0];
    assert_eq!(other.created, other.modified, "another session begins a new one");
    let free = put(&*driver, "a", "4").await.stamps[0];
    assert_eq!(free.created, free.modified, "so does a put under none");
    let still_free = put(&*driver, "a", "5").await.stamps[0];
    assert_eq!(still_free.created, free.created);
    let owned = put_owned(&*driver, "a", "6", &one).await.stamps[0];
    assert_eq!(owned.created, owned.modified, "so does a put under a session over a free record");
    let record = driver.get(&key("a")).await.unwrap().unwrap();
    assert_eq!((record.session, record.stamp), (Some(one.id), owned));
}

/// Two records of `ending`, one of a session that lives on, and one of none.
async fn furnish(stage: &Stage, driver: &dyn Driver, ending: &Session) {
    let other = stage.long_session(driver).await;
    put_owned(driver, "x/ending-1", "1", ending).await;
    put_owned(driver, "x/ending-2", "1", ending).await;
    put_owned(driver, "x/other", "1", &other).await;
    put(driver, "x/free", "1").await;
}

/// Neither a get nor a listing, on any connection, shows what an ended session owned.
async fn check_reaped(drivers: &[&dyn Driver]) {
    for driver in drivers {
        let left = list_all(*driver, &key("x/"), 0).await;
        let left: Vec<&Key> = left.iter().map(|record| &record.key).collect();
        assert_eq!(left, [&key("x/free"), &key("x/other")]);
        assert_eq!(value(*driver, "x/ending-1").await, None);
        assert_eq!(value(*driver, "x/ending-2").await, None);
    }
}

pub(super) async fn removes_what_an_expired_session_owned(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    let session = stage.short_session(&*one).await;
    furnish(&stage, &*one, &session).await;
    stage.expire(&*two, &session).await;
    check_reaped(&[&*two, &*one]).await;
    let txn = Txn::new().guard(Guard::Absent(key("x/ending-1"))).put(key("x/ending-1"), "again");
    one.commit(txn).await.expect("what was reaped is absent to guards too");
}

pub(super) async fn removes_what_a_closed_session_owned(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    let session = stage.long_session(&*one).await;
    furnish(&stage, &*one, &session).await;
    two.close(session.id).await.unwrap();
    check_reaped(&[&*one, &*two]).await;
}

pub(super) async fn leaves_a_record_with_its_new_owner(stage: Stage) {
    let driver = stage.connect().await;
    let (old, new) = (stage.long_session(&*driver).await, stage.long_session(&*driver).await);
    put_owned(&*driver, "a", "old", &old).await;
    put_owned(&*driver, "a", "new", &new).await;
    driver.close(old.id).await.unwrap();
    assert_eq!(value(&*driver, "a").await.as_deref(), Some("new"));
    driver.close(new.id).await.unwrap();
    assert_eq!(value(&*driver, "a").await, None);
}

pub(super) async fn keeps_a_record_that_was_disowned(stage: Stage) {
    let driver = stage.connect().await;
    let session = stage.long_session(&*driver).await;
    put_owned(&*driver, "put over", "1", &session).await;
    put(&*driver, "put over", "2").await;
    put_owned(&*driver, "made anew", "1", &session).await;
    driver.commit(Txn::new().delete(key("made anew"))).await.unwrap();
    put(&*driver, "made anew", "2").await;
    driver.close(session.id).await.unwrap();
    assert_eq!(value(&*driver, "put over").await.as_deref(), Some("2"));
    assert_eq!(value(&*driver, "made anew").await.as_deref(), Some("2"));
}

pub(super) async fn closes_a_gone_session_again(stage: Stage) {
    let driver = stage.connect().await;
    let session = stage.long_session(&*driver).await;
    driver.close(session.id).await.unwrap();
    driver.close(session.id).await.unwrap();
    driver.close(SessionId(7)).await.unwrap();
}

pub(super) async fn refuses_to_renew_a_gone_session(stage: Stage) {
    let driver = stage.connect().await;
    let closed = stage.long_session(&*driver).await;
    driver.close(closed.id).await.unwrap();
    let expired = stage.short_session(&*driver).await;
    stage.expire(&*driver, &expired).await;
    for id in [closed.id, expired.id, SessionId(7)] {
        refused(driver.renew(id).await, Kind::SessionLost);
        refused(driver.renew(id).await, Kind::SessionLost);
        assert_eq!(driver.get(&id.key()).await.unwrap(), None, "a renewal raised a session from the dead");
    }
}

pub(super) async fn a_renewed_session_outlives_its_lease(stage: Stage) {
    let driver = stage.connect().await;
    // Long enough that a busy machine does not miss the renewals by itself.
    let lease = driver.capability().lease_min.max(Duration::from_secs(3));
    let session = driver.open(lease).await.unwrap();
    let stamp = put_owned(&*driver, "a", "1", &session).await.stamps[0];
    for _ in 0..3 {
        stage.pass(session.lease_min / 2).await;
        let renewed = driver.renew(session.id).await.unwrap();
        assert_eq!(renewed.min, session.lease_min);
    }
    let record = driver.get(&key("a")).await.unwrap().expect("kept by renewals");
    assert_eq!(record.stamp, stamp, "a renewal is no write of the records");
    stage.expire(&*driver, &session).await;
    assert_eq!(value(&*driver, "a").await, None);
}

pub(super) async fn renews_on_any_connection(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    let session = stage.long_session(&*one).await;
    two.renew(session.id).await.unwrap();
    put_owned(&*two, "a", "1", &session).await;
    assert_eq!(value(&*one, "a").await.as_deref(), Some("1"));
}

pub(super) async fn never_reuses_an_id(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    let mut ids = BTreeSet::new();
    for _ in 0..50 {
        for driver in [&one, &two] {
            let session = stage.long_session(&**driver).await;
            assert!(ids.insert(session.id), "{} was given twice", session.id);
            driver.close(session.id).await.unwrap();
        }
    }
}

pub(super) async fn guards_on_a_live_session(stage: Stage) {
    let driver = stage.connect().await;
    let session = stage.long_session(&*driver).await;
    let stamp = driver.get(&session.id.key()).await.unwrap().unwrap().stamp;
    let txn = || Txn::new().guard(Guard::Unchanged(session.id.key(), stamp)).put(key("a"), "1");
    driver.renew(session.id).await.unwrap();
    driver.commit(txn()).await.expect("the guard holds while the session lives, over renewals");
    driver.close(session.id).await.unwrap();
    refused(driver.commit(txn()).await, Kind::Conflict);
    let gone = Txn::new().guard(Guard::Absent(session.id.key())).put(key("a"), "2");
    driver.commit(gone).await.unwrap();
}

pub(super) async fn refuses_to_write_reserved_keys(stage: Stage) {
    let driver = stage.connect().await;
    let session = stage.long_session(&*driver).await;
    for reserved in [session.id.key(), key("session/"), key("session/me")] {
        refused(driver.commit(Txn::new().put(reserved.clone(), "1")).await, Kind::Invalid);
        refused(driver.commit(Txn::new().delete(reserved)).await, Kind::Invalid);
    }
    driver.renew(session.id).await.unwrap();
    put(&*driver, "session", "not reserved").await;
}

pub(super) async fn grants_leases_within_its_bounds(stage: Stage) {
    let driver = stage.connect().await;
    let least = driver.capability().lease_min;
    assert_eq!(driver.open(Duration::ZERO).await.unwrap().lease_min, least);
    for ask in [limits::LEASE_DEFAULT, limits::LEASE_MAX, Duration::from_secs(1 << 40)] {
        let granted = driver.open(ask).await.unwrap().lease_min;
        let expected = ask.min(limits::LEASE_MAX);
        assert!(granted <= limits::LEASE_MAX, "{granted:?}");
        assert!(granted >= expected.mul_f64(0.8), "{granted:?} for {ask:?}");
    }
}
