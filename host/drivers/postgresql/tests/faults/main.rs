//! What a real server does to us: it dies, stops, throws us out, refuses, or is not what it should be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: what it does not expect ends it"
)]

mod strangers;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{
    BootTime, Cause, Change, Clock, Delta, Driver, Effect, Error, Guard, Key, Kind, OsChance, Record, Result,
    Revision, SystemClock, Txn, Watch,
};
use althing_driver_postgresql::Postgresql;
use althing_test_servers::{Postgresql as Server, PostgresqlOptions};
use strangers::{
    listens_though_its_first_word_is_lost, many_hosts_make_the_schema_at_once,
    namespaces_do_not_see_each_other, never_lays_its_schema_over_another_versions,
    polls_where_it_is_not_told, promises_what_the_server_keeps,
    refuses_a_foreign_and_a_newer_schema_and_a_newer_namespace,
    refuses_a_server_that_keeps_less_than_the_first_one_promised,
    refuses_a_standby_and_a_server_that_only_reads, refuses_a_wrong_password_and_none_and_a_missing_database,
    refuses_an_isolation_that_shows_old_states_and_an_option_it_does_not_know,
    says_that_a_write_may_have_landed_whose_answer_makes_no_sense,
    speaks_tls_with_the_server_it_trusts_and_with_no_other,
    takes_a_schema_that_was_given_and_never_makes_one, tells_a_user_without_rights_what_it_needs,
    tells_the_time_of_the_server,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

althing_test_servers::suite! {
    "postgres":
    a_kill_loses_no_acknowledged_commit_no_session_and_no_change,
    nothing_acknowledged_is_lost_where_the_server_need_not_write_at_once,
    connections_that_are_ended_lose_nothing_and_the_watch_goes_on_without_a_gap,
    says_that_a_commit_whose_connection_was_ended_may_have_been_written,
    a_server_stopped_for_longer_than_a_lease_ends_the_session_and_tells_so,
    calls_on_a_stopped_server_end_in_time_and_say_what_they_may_have_done,
    a_write_without_a_server_has_no_effect,
    a_namespace_held_by_a_stranger_stops_commits_in_time_and_nothing_else,
    reads_do_not_wait_behind_commits,
    a_fail_over_that_lost_commits_is_told_and_tokens_rise,
    tokens_rise_over_a_fail_over_for_a_host_that_saw_none,
    announces_an_expiry_without_traffic,
    tells_the_time_of_the_server,
    namespaces_do_not_see_each_other,
    many_hosts_make_the_schema_at_once,
    takes_a_schema_that_was_given_and_never_makes_one,
    tells_a_user_without_rights_what_it_needs,
    refuses_a_foreign_and_a_newer_schema_and_a_newer_namespace,
    refuses_a_standby_and_a_server_that_only_reads,
    refuses_a_wrong_password_and_none_and_a_missing_database,
    refuses_an_isolation_that_shows_old_states_and_an_option_it_does_not_know,
    promises_what_the_server_keeps,
    refuses_a_server_that_keeps_less_than_the_first_one_promised,
    never_lays_its_schema_over_another_versions,
    says_that_a_write_may_have_landed_whose_answer_makes_no_sense,
    polls_where_it_is_not_told,
    listens_though_its_first_word_is_lost,
    speaks_tls_with_the_server_it_trusts_and_with_no_other,
}

const LEASE: Duration = Duration::from_secs(60);

async fn start() -> Server {
    Server::start(PostgresqlOptions::default()).await.unwrap()
}

async fn start_with(name: &str, value: &str) -> Server {
    let settings = vec![(name.to_owned(), value.to_owned())];
    Server::start(PostgresqlOptions { settings, ..PostgresqlOptions::default() }).await.unwrap()
}

/// Connects with a patience of its own where the URL says none: a commit waits for a disk that others use too.
async fn connect(url: &str) -> Result<Postgresql> {
    let patience = match (url.contains("timeout="), url.contains('?')) {
        (true, _) => "",
        (false, true) => "&timeout=10s",
        (false, false) => "?timeout=10s",
    };
    Postgresql::connect(&format!("{url}{patience}").parse()?, Arc::new(SystemClock), Arc::new(OsChance)).await
}

async fn put(driver: &Postgresql, key: &str, value: &str) -> Result<Revision> {
    let txn = Txn::new().put(key.into(), value.to_owned());
    driver.commit(txn).await.map(|committed| committed.revision)
}

async fn value(driver: &Postgresql, key: &str) -> Option<String> {
    let record = driver.get(&key.into()).await.unwrap();
    record.map(|record| String::from_utf8(record.value.to_vec()).unwrap())
}

fn is_outage(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::Timeout)
}

/// Calls until it does not fail for want of a server.
async fn insist<T>(call: impl AsyncFn() -> Result<T>) -> Result<T> {
    loop {
        match call().await {
            Err(error) if is_outage(&error) => SystemClock.sleep(Duration::from_millis(5)).await,
            done => return done,
        }
    }
}

/// Waits for the next delta over an outage.
async fn next(watch: &mut dyn Watch) -> Delta {
    loop {
        match watch.next().await {
            Ok(delta) => return delta,
            Err(error) => assert!(is_outage(&error), "{error}"),
        }
    }
}

async fn next_changes(watch: &mut dyn Watch) -> Vec<Change> {
    match next(watch).await {
        Delta::Changes { changes, .. } => changes,
        resync => panic!("a resync where nothing was lost: {resync:?}"),
    }
}

#[track_caller]
fn check_error(error: &Error, kind: Kind, effect: Effect) {
    assert_eq!((error.kind(), error.effect()), (kind, effect), "{error}");
}

/// What writers were told.
#[derive(Default)]
struct Told {
    acknowledged: Vec<(Key, Revision)>,
    /// Failed, and said that nothing was written.
    nothing: Vec<Key>,
}

/// Writes new keys, tells of each acknowledged one, and ends when `more` went through after a failure.
async fn load(driver: Arc<Postgresql>, writer: u32, more: u32, counted: UnboundedSender<()>) -> Told {
    let (mut told, mut left) = (Told::default(), None);
    for number in 0u32.. {
        let key = Key::from(format!("load/{writer}/{number}").as_str());
        let txn = Txn::new().guard(Guard::Absent(key.clone())).put(key.clone(), "x");
        match driver.commit(txn).await {
            Ok(committed) => {
                assert!(told.acknowledged.last().is_none_or(|(_, last)| *last < committed.revision));
                told.acknowledged.push((key, committed.revision));
                // Nobody counts any more once the fault has come.
                let _ = counted.send(());
                left = left.map(|left: u32| left - 1);
            }
            Err(error) => {
                assert!(is_outage(&error), "{error}");
                left = left.or(Some(more));
                if error.effect() == Effect::None {
                    told.nothing.push(key);
                    SystemClock.sleep(Duration::from_millis(5)).await;
                }
            }
        }
        if left == Some(0) {
            break;
        }
    }
    told
}

/// Does `fault` while four writers write, and checks that what each was told is true, and that a watch that was there
/// before has told all of it once, in order and without a resync.
async fn check_load_over(server: &mut Server, fault: impl AsyncFnOnce(&mut Server)) {
    let driver = Arc::new(connect(&server.url("n")).await.unwrap());
    let session = driver.open(LEASE).await.unwrap().id;
    let mut watch = driver.watch(&"load/".into(), Revision::ZERO).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Delta::Resync { .. }));

    let (counted, mut count) = unbounded_channel();
    let writers: Vec<_> =
        (0..4).map(|writer| tokio::spawn(load(driver.clone(), writer, 30, counted.clone()))).collect();
    for _ in 0..200 {
        count.recv().await.unwrap();
    }
    fault(server).await;
    let mut told = Told::default();
    for writer in writers {
        let one = writer.await.unwrap();
        told.acknowledged.extend(one.acknowledged);
        told.nothing.extend(one.nothing);
    }

    driver.renew(session).await.unwrap();
    for (key, revision) in &told.acknowledged {
        assert_eq!(driver.get(key).await.unwrap().unwrap().stamp.modified, *revision, "{key} was lost");
    }
    for key in &told.nothing {
        assert_eq!(driver.get(key).await.unwrap(), None, "{key} was said not to be written");
    }
    let last = put(&driver, "load/end", "").await.unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(_, revision)| *revision < last) {
        let changes = next_changes(&mut *watch).await;
        seen.extend(changes.iter().map(|change| (change.key().clone(), change.revision())));
    }
    assert!(seen.is_sorted_by(|left, right| left.1 < right.1), "out of order or twice");
    let seen: BTreeSet<_> = seen.into_iter().collect();
    let missed: Vec<_> = told.acknowledged.iter().filter(|commit| !seen.contains(commit)).collect();
    assert!(missed.is_empty(), "the watch missed {missed:?}");
}

async fn a_kill_loses_no_acknowledged_commit_no_session_and_no_change() {
    check_load_over(&mut start().await, async |server| {
        server.kill();
        server.restart().await;
    })
    .await;
}

async fn nothing_acknowledged_is_lost_where_the_server_need_not_write_at_once() {
    let settings = [("synchronous_commit", "off"), ("wal_writer_delay", "10s")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let options = PostgresqlOptions { settings, ..PostgresqlOptions::default() };
    check_load_over(&mut Server::start(options).await.unwrap(), async |server| {
        server.kill();
        server.restart().await;
    })
    .await;
}

const END_ALL: &str = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
    where application_name = 'althing'";

async fn connections_that_are_ended_lose_nothing_and_the_watch_goes_on_without_a_gap() {
    check_load_over(&mut start().await, async |server| {
        // For commits, for reads and to listen; renewals come later.
        assert_eq!(server.sql(END_ALL), "3");
        for _ in 0..10 {
            SystemClock.sleep(Duration::from_millis(20)).await;
            server.sql(END_ALL);
        }
    })
    .await;
}

async fn says_that_a_commit_whose_connection_was_ended_may_have_been_written() {
    let server = start().await;
    let driver = Arc::new(connect(&server.url("n")).await.unwrap());
    let held = server.talk("begin; select from althing.namespace for update;");
    let writer = tokio::spawn({
        let driver = driver.clone();
        async move { put(&driver, "a", "1").await }
    });
    let waiting = "select count(*) from pg_stat_activity \
        where application_name = 'althing' and wait_event_type = 'Lock'";
    while server.sql(waiting) != "1" {
        SystemClock.sleep(Duration::from_millis(5)).await;
    }
    server.sql(&format!("{END_ALL} and wait_event_type = 'Lock'"));
    check_error(&writer.await.unwrap().unwrap_err(), Kind::Unavailable, Effect::Unknown);
    drop(held);
    insist(async || put(&driver, "b", "1").await).await.unwrap();
    assert_eq!(value(&driver, "a").await, None);
}

async fn a_server_stopped_for_longer_than_a_lease_ends_the_session_and_tells_so() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let lease = Duration::from_secs(2);
    let session = driver.open(lease).await.unwrap().id;
    let owned = driver.commit(Txn::new().put_owned("a".into(), "1", session)).await.unwrap().revision;
    let mut watch = driver.watch(&"a".into(), owned).await.unwrap();
    server.pause();
    SystemClock.sleep(lease).await;
    server.resume();
    let error = insist(async || driver.renew(session).await).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    assert_eq!(insist(async || driver.get(&"a".into()).await).await.unwrap(), None);
    let changes = next_changes(&mut *watch).await;
    assert!(matches!(changes[..], [Change::Deleted { cause: Cause::Expired, .. }]), "{changes:?}");
    assert!(put(&driver, "a", "2").await.unwrap() > changes[0].revision());
}

async fn calls_on_a_stopped_server_end_in_time_and_say_what_they_may_have_done() {
    let server = start().await;
    connect(&server.url("n")).await.unwrap();
    let url = format!("{}&timeout=1s", server.url("n"));
    let (writer, reader) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    put(&writer, "a", "0").await.unwrap();
    server.pause();
    // Sent on a live connection: it stands in the server's socket and may yet run.
    check_error(&put(&writer, "a", "1").await.unwrap_err(), Kind::Timeout, Effect::Unknown);
    check_error(&reader.get(&"a".into()).await.unwrap_err(), Kind::Timeout, Effect::None);
    // A connection under suspicion is not used again, and no other can be made: nothing was sent.
    check_error(&put(&writer, "b", "1").await.unwrap_err(), Kind::Timeout, Effect::None);
    server.resume();
    insist(async || put(&writer, "b", "2").await).await.unwrap();
    let read = insist(async || reader.get(&"b".into()).await).await.unwrap().unwrap();
    assert_eq!(read.value, "2");
}

async fn a_write_without_a_server_has_no_effect() {
    let mut server = start().await;
    let url = server.url("n");
    let driver = connect(&url).await.unwrap();
    server.kill();
    // The first calls may still find the old connection open, and cannot know; once it is known to be broken,
    // nothing is sent.
    loop {
        let error = put(&driver, "a", "1").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        if error.effect() == Effect::None {
            break;
        }
    }
    check_error(&connect(&url).await.unwrap_err(), Kind::Unavailable, Effect::None);
}

fn since(start: BootTime) -> Duration {
    SystemClock.now().since(start)
}

async fn a_namespace_held_by_a_stranger_stops_commits_in_time_and_nothing_else() {
    let server = start().await;
    let timeout = Duration::from_secs(6);
    let driver = connect(&format!("{}&timeout=6s", server.url("n"))).await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    let before = put(&driver, "a", "1").await.unwrap();
    let mut watch = driver.watch(&"a".into(), before).await.unwrap();
    let held = server.talk("begin; select from althing.namespace for update;");
    let start = SystemClock.now();
    // A renewal is on a connection of its own, made only now, and does not wait behind the commit.
    let (written, renewed_after) = tokio::join!(put(&driver, "a", "2"), async {
        driver.renew(session).await.unwrap();
        since(start)
    });
    let error = written.unwrap_err();
    check_error(&error, Kind::Timeout, Effect::None);
    assert!(error.to_string().contains("holds the namespace"), "{error}");
    assert!(since(start) < timeout, "{:?}", since(start));
    check_error(&driver.close(session).await.unwrap_err(), Kind::Timeout, Effect::None);
    assert!(renewed_after < timeout / 2, "{renewed_after:?}");
    assert_eq!(value(&driver, "a").await.as_deref(), Some("1"));
    drop(held);
    let written = insist(async || put(&driver, "a", "3").await).await.unwrap();
    driver.renew(session).await.unwrap();
    let changes = next_changes(&mut *watch).await;
    assert_eq!(changes.iter().map(Change::revision).collect::<Vec<_>>(), [written]);
}

async fn reads_do_not_wait_behind_commits() {
    let server = start().await;
    let timeout = Duration::from_secs(6);
    let driver = connect(&format!("{}&timeout=6s", server.url("n"))).await.unwrap();
    let before = put(&driver, "a", "1").await.unwrap();
    let held = server.talk("begin; select from althing.namespace for update;");
    let start = SystemClock.now();
    let (first, second, read_after) = tokio::join!(put(&driver, "a", "2"), put(&driver, "b", "2"), async {
        assert_eq!(value(&driver, "a").await.as_deref(), Some("1"));
        assert_eq!(driver.list(&Key::default(), None, 0).await.unwrap().records.len(), 1);
        let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
        let Delta::Resync { records, revision } = next(&mut *watch).await else { panic!("no snapshot") };
        assert_eq!((records.len(), revision), (1, before));
        since(start)
    });
    assert!(read_after < timeout / 4, "{read_after:?}");
    check_error(&first.unwrap_err(), Kind::Timeout, Effect::None);
    // It waited behind the first one, and then once more.
    assert_eq!(second.unwrap_err().kind(), Kind::Timeout);
    drop(held);
}

async fn a_fail_over_that_lost_commits_is_told_and_tokens_rise() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let kept = driver.open(LEASE).await.unwrap().id;
    driver.commit(Txn::new().put_owned("kept".into(), "1", kept)).await.unwrap();
    let mut standby = server.standby().await;
    standby.kill();
    let lost = driver.open(LEASE).await.unwrap().id;
    let before = driver.commit(Txn::new().put_owned("lost".into(), "1", lost)).await.unwrap().revision;
    let mut watch = driver.watch(&Key::default(), before).await.unwrap();
    standby.take_place_of(server).await;
    standby.promote().await;

    let Delta::Resync { records, revision } = next(&mut *watch).await else {
        panic!("a fail-over was hidden")
    };
    let keys: Vec<_> = records.into_iter().map(|record: Record| record.key).collect();
    assert_eq!(keys, ["kept".into(), kept.key()]);
    assert!(revision > before, "{revision:?} after {before:?}");
    insist(async || driver.renew(kept).await).await.unwrap();
    let error = insist(async || driver.renew(lost).await).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    assert!(put(&driver, "a", "1").await.unwrap() > revision);
}

async fn tokens_rise_over_a_fail_over_for_a_host_that_saw_none() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let mut standby = server.standby().await;
    standby.kill();
    let mut before = Revision::ZERO;
    for _ in 0..10 {
        before = put(&driver, "lost", "1").await.unwrap();
    }
    drop(driver);
    standby.take_place_of(server).await;
    standby.promote().await;
    let other = connect(&standby.url("n")).await.unwrap();
    assert_eq!(value(&other, "lost").await, None);
    let after = put(&other, "a", "1").await.unwrap();
    assert!(after > before, "{after:?} after {before:?}");
}

async fn announces_an_expiry_without_traffic() {
    let server = start().await;
    let (holder, watcher) =
        (connect(&server.url("n")).await.unwrap(), connect(&server.url("n")).await.unwrap());
    let session = holder.open(Duration::from_millis(500)).await.unwrap().id;
    let txn = Txn::new().put_owned("a".into(), "1", session).put_owned("b".into(), "1", session);
    let made = holder.commit(txn).await.unwrap().revision;
    let mut watch = watcher.watch(&Key::default(), made).await.unwrap();
    let changes = next_changes(&mut *watch).await;
    let gone: Vec<_> = changes.iter().map(|change| (change.key().clone(), change.revision())).collect();
    assert_eq!(gone, ["a".into(), "b".into(), session.key()].map(|key| (key, Revision(made.0 + 1))));
    let expired = |change: &Change| matches!(change, Change::Deleted { cause: Cause::Expired, .. });
    assert!(changes.iter().all(expired), "{changes:?}");
}
