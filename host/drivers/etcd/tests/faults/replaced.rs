//! Stores that another took the place of: an empty one, or an old one.

use althing_core::{Delta, Driver, Effect, Key, Kind, Watch};
use althing_driver_etcd::Etcd;

use crate::links::{Passage, Road};
use crate::{
    LEASE, check_error, connect, insist, next, next_changes, put, session_with_a_record, start, watch_all,
};

pub(crate) async fn tells_that_the_store_was_lost() {
    let mut server = start(1).await;
    let driver = connect(&server.url("n")).await.unwrap();
    let session = session_with_a_record(&driver, LEASE).await;
    let mut watch = watch_all(&driver).await;
    server.members_mut()[0].forget();
    server.restart().await;
    let error = insist(async || driver.renew(session).await).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    let Delta::Resync { records, .. } = next(&mut *watch).await else { panic!("the loss was hidden") };
    assert!(records.is_empty(), "{records:?}");
    let made = put(&driver, "a", "1").await.unwrap();
    assert_eq!(next_changes(&mut *watch).await[0].revision(), made);
}

/// Checks that watches begin anew, with just these records, and go on from there.
async fn check_resync<const N: usize>(driver: &Etcd, watches: [&mut dyn Watch; N], expected: &[&str]) {
    let mut begun = Vec::new();
    for watch in watches {
        let Delta::Resync { records, .. } = next(watch).await else { panic!("a hidden gap") };
        let names: Vec<_> = records.into_iter().map(|record| record.key).collect();
        assert_eq!(names, expected.iter().copied().map(Key::from).collect::<Vec<_>>());
        begun.push(watch);
    }
    let made = put(driver, "more", "1").await.unwrap();
    for watch in begun {
        assert_eq!(next_changes(watch).await[0].revision(), made);
    }
}

pub(crate) async fn a_watch_made_anew_over_the_loss_of_the_store_resyncs() {
    let mut server = start(1).await;
    let driver = connect(&server.url("n")).await.unwrap();
    let seen = put(&driver, "old", "1").await.unwrap();
    server.members_mut()[0].forget();
    server.restart().await;
    // The new store goes further than the old one went.
    while insist(async || put(&driver, "new", "1").await).await.unwrap() <= seen {}
    let mut watch = driver.watch(&Key::default(), seen).await.unwrap();
    check_resync(&driver, [&mut *watch], &["new"]).await;
}

pub(crate) async fn a_store_set_back_to_a_backup_is_told_however_far_it_went_since() {
    let mut server = start(1).await;
    let passage = Passage::to(server.members()[0].port()).await;
    let (near, far) = (connect(&server.url("n")).await.unwrap(), connect(&passage.url()).await.unwrap());
    insist(async || put(&near, "kept", "1").await).await.unwrap();
    server.members_mut()[0].keep().await;
    let seen = insist(async || put(&far, "lost", "1").await).await.unwrap();
    // It is elected once more, in a term that the backup does not know.
    server.restart().await;
    insist(async || far.get(&"lost".into()).await).await.unwrap();
    let mut early = watch_all(&far).await;
    passage.turn(Road::Cut);
    server.members_mut()[0].set_back();
    server.restart().await;
    while insist(async || put(&near, "new", "1").await).await.unwrap() <= seen {}
    passage.turn(Road::Open);
    let mut late = insist(async || far.watch(&Key::default(), seen).await).await.unwrap();
    check_resync(&far, [&mut *early, &mut *late], &["kept", "new"]).await;
}
