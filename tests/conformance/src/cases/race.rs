//! Races: many writers, dropped callers, ends that meet writes.

use std::sync::Arc;
use std::time::Duration;

use althing_core::{Driver, Effect, Guard, Kind, Txn};
use futures::future::join_all;
use tokio::sync::Barrier;

use crate::Stage;
use crate::stage::{key, list_all, put, refused, value};

const WRITERS: usize = 32;

pub(super) async fn one_of_many_writers_wins(stage: Stage) {
    let drivers = join_all((0..WRITERS).map(|_| stage.connect())).await;
    for round in 0..8 {
        let start = Arc::new(Barrier::new(WRITERS));
        let race = |(index, driver): (usize, &Arc<dyn Driver>)| {
            let (driver, start) = (driver.clone(), start.clone());
            let name = key(&format!("leader-{round}"));
            tokio::spawn(async move {
                start.wait().await;
                let txn = Txn::new().guard(Guard::Absent(name.clone())).put(name, index.to_string());
                driver.commit(txn).await
            })
        };
        let results = join_all(drivers.iter().enumerate().map(race)).await;
        let mut winners = Vec::new();
        for (index, result) in results.into_iter().enumerate() {
            match result.unwrap() {
                Ok(_) => winners.push(index.to_string()),
                lost => drop(refused(lost, Kind::Conflict)),
            }
        }
        assert_eq!(winners.len(), 1, "round {round} was won by {winners:?}");
        let leader = value(&*drivers[0], &format!("leader-{round}")).await;
        assert_eq!(leader.as_deref(), Some(winners[0].as_str()));
    }
}

/// Adds one to the number at `count` by compare-and-set, until it is written.
async fn add_one(driver: &dyn Driver) {
    loop {
        let record = driver.get(&key("count")).await.unwrap();
        let number = record
            .as_ref()
            .map_or(0, |record| std::str::from_utf8(&record.value).unwrap().parse::<u32>().unwrap());
        let guard = Guard::since(&key("count"), record.as_ref());
        let txn = Txn::new().guard(guard).put(key("count"), (number + 1).to_string());
        match driver.commit(txn).await {
            Ok(_) => return,
            lost => drop(refused(lost, Kind::Conflict)),
        }
    }
}

pub(super) async fn loses_no_update(stage: Stage) {
    let drivers = join_all((0..8).map(|_| stage.connect())).await;
    let adding = drivers.iter().cloned().map(|driver| {
        tokio::spawn(async move {
            for _ in 0..25 {
                add_one(&*driver).await;
            }
        })
    });
    for added in join_all(adding).await {
        added.unwrap();
    }
    assert_eq!(value(&*drivers[0], "count").await.as_deref(), Some("200"));
}

pub(super) async fn a_dropped_commit_is_whole_or_not_at_all(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    for round in 0..100_u64 {
        let names = ["d/1", "d/2", "d/3", "d/4"];
        let txn = names.into_iter().fold(Txn::new(), |txn, name| txn.put(key(name), round.to_string()));
        let dropped_after = Duration::from_micros(round * 20);
        drop(tokio::time::timeout(dropped_after, one.commit(txn)).await);
        let records = list_all(&*two, &key("d/"), 0).await;
        assert!(records.is_empty() || records.len() == names.len(), "half a commit: {records:?}");
        let whole = records.windows(2).all(|pair| pair[0].stamp.modified == pair[1].stamp.modified);
        assert!(whole, "half a commit: {records:?}");
        // The connection is still good, and hands no answer to the wrong question.
        put(&*one, "probe", &round.to_string()).await;
        assert_eq!(value(&*one, "probe").await, Some(round.to_string()));
    }
}

pub(super) async fn leaves_no_orphan_when_a_close_races_a_put(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    for round in 0..50 {
        let session = stage.long_session(&*one).await;
        let name = format!("o/{round}");
        let writing = async {
            for _ in 0..round % 4 {
                tokio::task::yield_now().await;
            }
            let done = one.commit(Txn::new().put_owned(key(&name), "1", session.id)).await;
            if let Err(error) = done {
                assert_eq!((error.kind(), error.effect()), (Kind::SessionLost, Effect::None), "{error}");
            }
        };
        let (closed, ()) = tokio::join!(two.close(session.id), writing);
        closed.unwrap();
        assert_eq!(value(&*two, &name).await, None, "a record outlived its session");
    }
    assert!(list_all(&*two, &key("o/"), 0).await.is_empty());
}
