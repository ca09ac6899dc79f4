//! What happens to us behind sentinels: masters die, come back, are cut off, and lack what others were promised.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{
    Cause, Change, Clock, Delta, Driver, Effect, Guard, Key, Kind, Level, Revision, SystemClock, Txn,
};
use althing_driver_redis::Redis;
use althing_test_servers::{Sentinel, SentinelOptions, free_port, ready_for};

use crate::shared::{
    LEASE, check_error, check_refused, connect, insist, is_outage, next, next_changes, put, resync, soon,
    value,
};

pub(super) const NAMESPACE: &str = "n";

pub(super) async fn start() -> Sentinel {
    Sentinel::start(SentinelOptions::default()).await.unwrap()
}

pub(super) async fn enter(servers: &Sentinel) -> Redis {
    connect(&servers.url(NAMESPACE)).await.unwrap()
}

/// Waits until `server` calls itself master.
async fn promotion(servers: &Sentinel, server: usize) {
    soon("a promotion", async {
        while servers.role(server).as_deref() != Some("master") {
            SystemClock.sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

pub(super) async fn goes_on_after_the_master_was_killed() {
    let mut servers = start().await;
    let driver = enter(&servers).await;
    let capability = driver.capability();
    assert_eq!((capability.backend.as_str(), capability.level), ("redis+sentinel", Level::L0));
    let session = driver.open(LEASE).await.unwrap().id;
    driver.commit(Txn::new().put_owned("mine".into(), "1", session)).await.unwrap();
    let before = put(&driver, "kept", "1").await.unwrap();
    let mut watch = driver.watch(&Key::default(), before).await.unwrap();
    servers.kill(0).await;
    servers.wait_for_fail_over(0).await;

    let began = SystemClock.now();
    let after = soon("a commit", insist(async || put(&driver, "after", "1").await)).await.unwrap();
    let took = SystemClock.now().since(began);
    assert!(took < Duration::from_secs(5), "{took:?} after the sentinels had agreed");
    assert!(after > before, "{after:?} after {before:?}");
    // All had been replicated. Nobody knows that, so the session ends with what it owns.
    check_error(&driver.renew(session).await.unwrap_err(), Kind::SessionLost, Effect::None);
    let (records, revision) = soon("a resync", resync(&mut *watch)).await;
    assert!(revision > before, "{revision:?} after {before:?}");
    assert!(records.iter().any(|record| record.key == "kept".into()), "{records:?}");
    assert_eq!((value(&driver, "mine").await, value(&driver, "kept").await.as_deref()), (None, Some("1")));
    let next = driver.open(LEASE).await.unwrap().id;
    driver.commit(Txn::new().put_owned("mine".into(), "2", next)).await.unwrap();
}

pub(super) async fn a_fail_over_that_lost_writes_is_told_and_gives_no_token_twice() {
    let mut servers = start().await;
    let (first, second) = (enter(&servers).await, enter(&servers).await);
    let kept = put(&first, "kept", "1").await.unwrap();
    servers.cut_replication(0).await;
    let session = first.open(LEASE).await.unwrap().id;
    let claim =
        |session| Txn::new().guard(Guard::Absent("leader".into())).put_owned("leader".into(), "x", session);
    let won = first.commit(claim(session)).await.unwrap();
    let mut watch = first.watch(&Key::default(), won.revision).await.unwrap();
    servers.kill(0).await;
    servers.wait_for_fail_over(0).await;

    // Who comes first has seen none of what was lost.
    let other = soon("a session", insist(async || second.open(LEASE).await)).await.unwrap().id;
    let claimed = second.commit(claim(other)).await.unwrap();
    assert!(claimed.revision > won.revision, "{:?} after {:?}", claimed.revision, won.revision);
    let error = soon("a renewal", insist(async || first.renew(session).await)).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    let (records, revision) = soon("a resync", resync(&mut *watch)).await;
    assert!(revision >= claimed.revision);
    let leader = records.iter().find(|record| record.key == "leader".into()).unwrap();
    assert_eq!((leader.session, leader.stamp), (Some(other), claimed.stamps[0]));
    assert_eq!(first.get(&"kept".into()).await.unwrap().unwrap().stamp.modified, kept);
    // What was won before is worth nothing.
    let fenced = Txn::new().guard(Guard::Unchanged("leader".into(), won.stamps[0])).put("work".into(), "1");
    check_error(&first.commit(fenced).await.unwrap_err(), Kind::Conflict, Effect::None);
}

pub(super) async fn nobody_takes_what_a_host_holds_that_knows_of_no_fail_over() {
    let mut servers = start().await;
    let (silent, calling, other) = (enter(&servers).await, enter(&servers).await, enter(&servers).await);
    let lease = Duration::from_secs(3);
    for (driver, lease, name) in [(&silent, lease, "silent"), (&calling, LEASE, "calling")] {
        let session = driver.open(lease).await.unwrap().id;
        driver.commit(Txn::new().put_owned(name.into(), "1", session)).await.unwrap();
    }
    let former = calling.list(&"session/".into(), None, 0).await.unwrap().records;
    let last = put(&other, "last", "1").await.unwrap();
    servers.settle().await;
    let (mut here, mut there) = (
        calling.watch(&Key::default(), last).await.unwrap(),
        other.watch(&Key::default(), last).await.unwrap(),
    );
    let began = SystemClock.now();
    servers.fail_over().await;
    // The old master serves until it is told; both have left it once they are told of a loss.
    soon("resyncs", async { tokio::join!(resync(&mut *here), resync(&mut *there)) }).await;

    let claim = async |name: &str| {
        let txn = Txn::new().guard(Guard::Absent(name.into())).put(name.into(), "2");
        soon("an answer", insist(async || other.commit(txn.clone()).await)).await
    };
    check_error(&claim("calling").await.unwrap_err(), Kind::Conflict, Effect::None);
    check_error(&claim("silent").await.unwrap_err(), Kind::Conflict, Effect::None);
    let seen = put(&other, "seen", "1").await.unwrap();
    let mut watch = other.watch(&"silent".into(), seen).await.unwrap();

    let long = former.iter().find(|record| record.value.as_ref() == b"{\"lease_ms\":30000}").unwrap();
    let session = long.session.unwrap();
    let error = soon("a renewal", insist(async || calling.renew(session).await)).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    assert!(claim("calling").await.unwrap().revision > seen);

    let changes = soon("the end of the silent session", next_changes(&mut *watch)).await;
    assert!(matches!(changes[..], [Change::Deleted { cause: Cause::Expired, .. }]), "{changes:?}");
    assert!(SystemClock.now().since(began) >= lease, "the lease was not granted anew");
    claim("silent").await.unwrap();
}

pub(super) async fn never_writes_to_the_old_master_when_it_comes_back() {
    let mut servers = start().await;
    let driver = enter(&servers).await;
    let mut last = put(&driver, "a", "1").await.unwrap();
    servers.kill(0).await;
    let master = servers.wait_for_fail_over(0).await;
    servers.restart(0).await;
    // Until the sentinels make it a replica there are two who call themselves master.
    while servers.role(0).as_deref() == Some("master") {
        match put(&driver, "a", "2").await {
            Ok(token) => assert!(std::mem::replace(&mut last, token) < token),
            Err(error) => assert!(is_outage(&error), "{error}"),
        }
    }
    servers.wait_for_replica(0).await;
    insist(async || put(&driver, "a", "3").await).await.unwrap();
    let scripts =
        |server| servers.texts(server, &["INFO", "commandstats"]).unwrap().concat().contains("cmdstat_eval");
    assert!(scripts(master) && !scripts(0), "the old master was called");
}

pub(super) async fn leaves_a_master_that_was_cut_off_from_all_but_us() {
    let options = SentinelOptions { password: Some("right".into()), ..SentinelOptions::default() };
    let mut servers = Sentinel::start(options).await.unwrap();
    let driver = enter(&servers).await;
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Delta::Resync { .. }));
    servers.isolate(0).await;
    let lost = put(&driver, "lost", "1").await.unwrap();
    let changes = next_changes(&mut *watch).await;
    assert_eq!(changes.iter().map(Change::revision).collect::<Vec<_>>(), [lost]);
    promotion(&servers, 1).await;
    // Nobody calls: it is the driver itself that leaves.
    let (records, revision) = soon("a resync", resync(&mut *watch)).await;
    assert!(revision > lost && records.is_empty(), "{records:?}");
    assert_eq!(servers.role(0).as_deref(), Some("master"), "it still serves whoever asks");
    let after = soon("a commit", insist(async || put(&driver, "after", "1").await)).await.unwrap();
    assert!(after > lost, "{after:?} after {lost:?}");
    assert_eq!(value(&enter(&servers).await, "after").await.as_deref(), Some("1"));
}

pub(super) async fn believes_no_sentinel_that_missed_a_fail_over() {
    let mut servers = start().await;
    let driver = enter(&servers).await;
    servers.settle().await;
    servers.kill_sentinel(2);
    servers.kill(0).await;
    promotion(&servers, 1).await;
    let before = soon("a commit", insist(async || put(&driver, "a", "1").await)).await.unwrap();
    // The only sentinel that is left knows of the old master only, which calls itself master.
    servers.kill_sentinel(0);
    servers.kill_sentinel(1);
    servers.restart(0).await;
    servers.restart_sentinel(2).await;
    servers.command(1, &["CLIENT", "KILL", "TYPE", "normal"]);
    let said = soon("a refusal", async {
        loop {
            match put(&driver, "a", "2").await {
                Err(error) if error.to_string().contains("know of fail-over 0") => break error,
                Err(error) => assert!(is_outage(&error), "{error}"),
                // The connection was not cut yet.
                Ok(token) => assert!(token > before),
            }
        }
    })
    .await;
    check_error(&said, Kind::Unavailable, Effect::None);
    assert_eq!(servers.command(0, &["EXISTS", "{n}:meta"]), ":0", "the old master was written to");
}

/// Writes until told to stop, and returns the tokens of what was acknowledged.
async fn write(driver: Arc<Redis>, writer: u32, stop: tokio::sync::watch::Receiver<bool>) -> Vec<Revision> {
    let mut tokens = Vec::<Revision>::new();
    while !*stop.borrow() {
        match put(&driver, &format!("load/{writer}"), "x").await {
            Ok(token) => {
                assert!(
                    tokens.last().is_none_or(|last| *last < token),
                    "{token:?} after {:?}",
                    tokens.last()
                );
                tokens.push(token);
            }
            Err(error) => {
                assert!(is_outage(&error), "{error}");
                SystemClock.sleep(Duration::from_millis(5)).await;
            }
        }
    }
    tokens
}

pub(super) async fn tokens_rise_over_planned_fail_overs_under_load() {
    let mut servers = start().await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let drivers = [Arc::new(enter(&servers).await), Arc::new(enter(&servers).await)];
    let begin = |writer| tokio::spawn(write(drivers[writer as usize % 2].clone(), writer, stopped.clone()));
    let writers: Vec<_> = (0..4).map(begin).collect();
    for _ in 0..2 {
        let master = servers.fail_over().await;
        for driver in &drivers {
            let txn = || put(driver, "round", "x");
            soon("a commit", insist(async || txn().await)).await.unwrap();
        }
        servers.wait_for_replica(1 - master).await;
    }
    stop.send(true).unwrap();
    let (mut all, mut count) = (BTreeSet::new(), 0);
    for writer in writers {
        let tokens = writer.await.unwrap();
        assert!(!tokens.is_empty());
        count += tokens.len();
        all.extend(tokens);
    }
    assert_eq!(all.len(), count, "a token was given twice");
}

pub(super) async fn tells_that_a_master_came_back_empty() {
    let mut servers = start().await;
    let driver = enter(&servers).await;
    let session = driver.open(LEASE).await.unwrap().id;
    let before = put(&driver, "kept", "1").await.unwrap();
    let mut watch = driver.watch(&Key::default(), before).await.unwrap();
    servers.kill(0).await;
    // Mostly before the sentinels notice; then the replica gives up what it has, too.
    servers.restart(0).await;
    let error = soon("a renewal", insist(async || driver.renew(session).await)).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    let (_, revision) = soon("a resync", resync(&mut *watch)).await;
    assert!(revision > before, "{revision:?} after {before:?}");
    let after = soon("a commit", insist(async || put(&driver, "after", "1").await)).await.unwrap();
    assert!(after > revision, "{after:?} after {revision:?}");
}

pub(super) async fn a_master_that_is_told_to_have_a_replica_acknowledges_nothing_without() {
    let mut servers = start().await;
    let driver = enter(&servers).await;
    put(&driver, "a", "1").await.unwrap();
    servers.settle().await;
    assert_eq!(servers.command(0, &["CONFIG", "SET", "min-replicas-to-write", "1"]), "+OK");
    put(&driver, "a", "2").await.unwrap();
    servers.cut_replication(0).await;
    check_error(&put(&driver, "a", "3").await.unwrap_err(), Kind::Unavailable, Effect::None);
}

pub(super) async fn takes_passwords_for_sentinels_and_servers() {
    let password = |text: &str| Some(text.to_owned());
    let options = SentinelOptions {
        password: password("right"),
        sentinel_password: password("hunter2"),
        ..SentinelOptions::default()
    };
    let mut servers = Sentinel::start(options).await.unwrap();
    let driver = enter(&servers).await;
    put(&driver, "a", "1").await.unwrap();
    servers.fail_over().await;
    soon("a commit", insist(async || put(&driver, "a", "2").await)).await.unwrap();
    let url = servers.url(NAMESPACE);
    let wrong = "a sentinel refused user and password";
    check_refused(&url.replace("word=hunter2", "word=hunter2x"), Kind::Denied, wrong).await;
    check_refused(&url.replace("&sentinel_password=hunter2", ""), Kind::Denied, "sentinel_password").await;
    let url = url.replace(":right@", ":hunter2@");
    check_refused(&url, Kind::Denied, "Redis refused user and password").await;
}

pub(super) async fn says_which_sentinels_it_cannot_use_and_why() {
    let servers = start().await;
    let url = servers.url(NAMESPACE);
    check_refused(&url.replace("/main?", "/mian?"), Kind::NotFound, "know no master called \"mian\"").await;
    let (gone, also) = (free_port(), free_port());
    let nobody = format!("redis+sentinel://127.0.0.1:{gone},127.0.0.1:{also}/main");
    let named = format!("no sentinel can be reached (sentinels=127.0.0.1:{gone},127.0.0.1:{also})");
    check_refused(&nobody, Kind::Unavailable, &named).await;
    // Two of three are enough of them.
    let port = servers.ports()[0];
    put(&connect(&url.replacen(&port.to_string(), &gone.to_string(), 1)).await.unwrap(), "a", "1")
        .await
        .unwrap();
    let master = servers.command(0, &["CONFIG", "GET", "port"]);
    assert!(master.starts_with('*'), "{master}");
    let port = &servers.texts(0, &["CONFIG", "GET", "port"]).unwrap()[1];
    let server = format!("redis+sentinel://127.0.0.1:{port}/main");
    check_refused(&server, Kind::Unsupported, "the server is no sentinel").await;
}

pub(super) async fn speaks_tls_with_sentinels_and_servers() {
    if !ready_for("openssl") {
        return;
    }
    let options = || SentinelOptions { tls: true, ..SentinelOptions::default() };
    let (mut servers, other) =
        (Sentinel::start(options()).await.unwrap(), Sentinel::start(options()).await.unwrap());
    let driver = enter(&servers).await;
    put(&driver, "a", "1").await.unwrap();
    servers.fail_over().await;
    soon("a commit", insist(async || put(&driver, "a", "2").await)).await.unwrap();
    let authority = |servers: &Sentinel| servers.url("").rsplit_once('=').unwrap().1.to_owned();
    let distrusting = servers.url(NAMESPACE).replace(&authority(&servers), &authority(&other));
    check_refused(&distrusting, Kind::Unavailable, "no sentinel can be reached").await;
}
