//! What a real server does to us: it dies, stops, throws us out, refuses, or is not what it should be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: what it does not expect ends it"
)]

mod statements;
mod strangers;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use althing_core::{
    Cause, Change, Clock, Delta, Driver, Effect, Error, Guard, Key, Kind, OsChance, Record, Result, Revision,
    SystemClock, Txn, Watch, limits,
};
use althing_driver_mysql::Mysql;
use althing_test_servers::{Mysql as Server, MysqlOptions};
use statements::{
    HOLD, a_commit_that_lost_a_deadlock_is_written_all_the_same,
    a_killed_commit_holds_the_namespace_no_longer, a_killed_listing_leaves_no_old_state_behind,
    a_namespace_held_by_a_stranger_stops_commits_in_time_and_nothing_else,
    asks_once_for_a_commit_and_for_a_renewal_and_seldom_when_nothing_happens,
    lives_with_what_the_server_makes_of_transactions, until_blocked,
};
use strangers::{
    finishes_a_schema_that_another_host_began, many_hosts_make_the_schema_at_once,
    namespaces_do_not_see_each_other, never_lays_its_schema_over_another_versions,
    promises_what_the_server_keeps, refuses_a_server_that_keeps_less_than_the_first_one_promised,
    refuses_a_server_that_only_reads_and_one_that_becomes_so,
    refuses_a_wrong_password_and_none_and_a_missing_database,
    refuses_foreign_tables_a_newer_layout_and_a_newer_namespace,
    refuses_settings_it_cannot_work_with_and_an_option_it_does_not_know,
    refuses_what_the_server_does_not_take_at_once,
    refuses_writes_on_a_server_that_only_reads_though_it_may_write,
    says_that_a_write_may_have_landed_whose_answer_makes_no_sense,
    speaks_tls_with_the_server_it_trusts_and_with_no_other,
    takes_a_schema_that_was_given_and_never_makes_one, tells_a_user_without_rights_what_it_needs,
    tells_the_time_of_the_server,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

althing_test_servers::suite! {
    "mariadbd":
    a_kill_loses_no_acknowledged_commit_and_no_session,
    connections_that_are_killed_lose_nothing_and_the_watch_goes_on_without_a_gap,
    says_that_a_commit_whose_connection_was_killed_may_have_been_written,
    says_that_a_commit_whose_answer_was_cut_off_may_have_been_written,
    a_restart_makes_tokens_leap_and_nobody_begin_anew,
    a_server_stopped_for_longer_than_a_lease_ends_the_session_and_tells_so,
    calls_on_a_stopped_server_end_in_time_and_say_what_they_may_have_done,
    a_write_without_a_server_has_no_effect,
    a_namespace_held_by_a_stranger_stops_commits_in_time_and_nothing_else,
    a_commit_that_lost_a_deadlock_is_written_all_the_same,
    a_killed_commit_holds_the_namespace_no_longer,
    a_killed_listing_leaves_no_old_state_behind,
    lives_with_what_the_server_makes_of_transactions,
    a_store_that_was_set_back_is_told_and_tokens_rise,
    tokens_rise_over_a_set_back_for_a_host_that_saw_none,
    a_counter_set_back_under_running_hosts_is_told_to_who_saw_more,
    forgets_changes_of_too_many_bytes_and_tells_who_lags,
    announces_an_expiry_without_traffic,
    tells_the_time_of_the_server,
    namespaces_do_not_see_each_other,
    asks_once_for_a_commit_and_for_a_renewal_and_seldom_when_nothing_happens,
    many_hosts_make_the_schema_at_once,
    finishes_a_schema_that_another_host_began,
    takes_a_schema_that_was_given_and_never_makes_one,
    tells_a_user_without_rights_what_it_needs,
    refuses_foreign_tables_a_newer_layout_and_a_newer_namespace,
    refuses_a_server_that_only_reads_and_one_that_becomes_so,
    refuses_a_wrong_password_and_none_and_a_missing_database,
    refuses_settings_it_cannot_work_with_and_an_option_it_does_not_know,
    refuses_what_the_server_does_not_take_at_once,
    promises_what_the_server_keeps,
    refuses_a_server_that_keeps_less_than_the_first_one_promised,
    refuses_writes_on_a_server_that_only_reads_though_it_may_write,
    never_lays_its_schema_over_another_versions,
    says_that_a_write_may_have_landed_whose_answer_makes_no_sense,
    speaks_tls_with_the_server_it_trusts_and_with_no_other,
}

const LEASE: Duration = Duration::from_secs(60);

async fn start() -> Server {
    Server::start(MysqlOptions::default()).await.unwrap()
}

async fn start_with(settings: &[(&str, &str)]) -> Server {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let options = MysqlOptions { settings: settings.collect(), ..MysqlOptions::default() };
    Server::start(options).await.unwrap()
}

/// Connects with a patience of its own where the URL says none: a commit waits for a disk that others use too.
async fn connect(url: &str) -> Result<Mysql> {
    let patience = match (url.contains("timeout="), url.contains('?')) {
        (true, _) => "",
        (false, true) => "&timeout=10s",
        (false, false) => "?timeout=10s",
    };
    Mysql::connect(&format!("{url}{patience}").parse()?, Arc::new(SystemClock), Arc::new(OsChance)).await
}

async fn put(driver: &Mysql, key: &str, value: &str) -> Result<Revision> {
    let txn = Txn::new().put(key.into(), value.to_owned());
    driver.commit(txn).await.map(|committed| committed.revision)
}

async fn value(driver: &Mysql, key: &str) -> Option<String> {
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
async fn load(driver: Arc<Mysql>, writer: u32, more: u32, counted: UnboundedSender<()>) -> Told {
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

/// What a watch told.
#[derive(Default)]
struct Seen {
    changes: Vec<(Key, Revision)>,
    resyncs: u32,
}

impl Seen {
    /// Follows until `last` was told.
    async fn follow(watch: &mut dyn Watch, last: Revision) -> Seen {
        let mut seen = Seen::default();
        while seen.changes.last().is_none_or(|(_, revision)| *revision < last) {
            match next(watch).await {
                Delta::Changes { changes, .. } => {
                    seen.changes
                        .extend(changes.iter().map(|change| (change.key().clone(), change.revision())));
                }
                Delta::Resync { records, .. } => {
                    seen.resyncs += 1;
                    seen.changes =
                        records.into_iter().map(|record| (record.key, record.stamp.modified)).collect();
                    seen.changes.sort_by_key(|(_, revision)| *revision);
                }
            }
        }
        seen
    }
}

/// Does `fault` while four writers write, and checks that what each was told is true, and that a watch that was there
/// before has told all of it once and in order. Returns how often that began anew.
async fn check_load_over(server: &mut Server, fault: impl AsyncFnOnce(&mut Server)) -> u32 {
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

    insist(async || driver.renew(session).await).await.unwrap();
    for (key, revision) in &told.acknowledged {
        let read = insist(async || driver.get(key).await).await.unwrap();
        assert_eq!(read.unwrap().stamp.modified, *revision, "{key} was lost");
    }
    for key in &told.nothing {
        assert_eq!(driver.get(key).await.unwrap(), None, "{key} was said not to be written");
    }
    let last = insist(async || put(&driver, "load/end", "").await).await.unwrap();
    let seen = Seen::follow(&mut *watch, last).await;
    assert!(seen.changes.is_sorted_by(|left, right| left.1 < right.1), "out of order or twice");
    let changes: BTreeSet<_> = seen.changes.into_iter().collect();
    let missed: Vec<_> = told.acknowledged.iter().filter(|commit| !changes.contains(commit)).collect();
    assert!(missed.is_empty(), "the watch missed {missed:?}");
    seen.resyncs
}

async fn a_kill_loses_no_acknowledged_commit_and_no_session() {
    // The watch may have to begin anew: it may have told what was not on disk yet, nor acknowledged.
    check_load_over(&mut start().await, async |server| {
        server.kill();
        server.restart().await;
    })
    .await;
}

const KILL_ALL: &str = "kill user althing";

async fn connections_that_are_killed_lose_nothing_and_the_watch_goes_on_without_a_gap() {
    let resyncs = check_load_over(&mut start().await, async |server| {
        for _ in 0..10 {
            server.sql(KILL_ALL);
            SystemClock.sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(resyncs, 0);
}

async fn says_that_a_commit_whose_connection_was_killed_may_have_been_written() {
    let server = start().await;
    let driver = Arc::new(connect(&server.url("n")).await.unwrap());
    let held = server.talk(HOLD);
    let writer = tokio::spawn({
        let driver = driver.clone();
        async move { put(&driver, "a", "1").await }
    });
    until_blocked(&server).await;
    server.sql(KILL_ALL);
    check_error(&writer.await.unwrap().unwrap_err(), Kind::Unavailable, Effect::Unknown);
    drop(held);
    insist(async || put(&driver, "b", "1").await).await.unwrap();
    assert_eq!(value(&driver, "a").await, None);
}

/// Leads to the server; while `mute`, the first byte of an answer ends the connection. Returns its port.
async fn relay(port: u16, mute: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let mute = mute.clone();
            tokio::spawn(async move {
                let ((mut asked, mut told), (mut said, mut sent)) =
                    (client.into_split(), server.into_split());
                let answers = async {
                    let mut buffer = vec![0; 64 << 10];
                    loop {
                        let length = said.read(&mut buffer).await?;
                        if length == 0 || mute.load(Ordering::Acquire) {
                            return std::io::Result::Ok(());
                        }
                        told.write_all(&buffer[..length]).await?;
                    }
                };
                tokio::select! {
                    _ = answers => {}
                    _ = tokio::io::copy(&mut asked, &mut sent) => {}
                }
            });
        }
    });
    own
}

async fn says_that_a_commit_whose_answer_was_cut_off_may_have_been_written() {
    let server = start().await;
    let mute = Arc::new(AtomicBool::new(false));
    let port = relay(server.port(), mute.clone()).await;
    let url = server.url("n").replace(&format!(":{}", server.port()), &format!(":{port}"));
    let driver = connect(&url).await.unwrap();
    let before = put(&driver, "a", "1").await.unwrap();
    let mut watch = driver.watch(&Key::default(), before).await.unwrap();
    mute.store(true, Ordering::Release);
    let error = put(&driver, "a", "2").await.unwrap_err();
    check_error(&error, Kind::Unavailable, Effect::Unknown);
    // No connection can be made either: nothing was sent.
    check_error(&put(&driver, "a", "3").await.unwrap_err(), Kind::Unavailable, Effect::None);
    mute.store(false, Ordering::Release);
    assert_eq!(insist(async || driver.get(&"a".into()).await).await.unwrap().unwrap().value, "2");
    let changes = next_changes(&mut *watch).await;
    assert_eq!(changes.iter().map(Change::revision).collect::<Vec<_>>(), [Revision(before.0 + 1)]);
}

async fn a_restart_makes_tokens_leap_and_nobody_begin_anew() {
    let mut server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let before = put(&driver, "a", "1").await.unwrap();
    let mut watch = driver.watch(&Key::default(), before).await.unwrap();
    server.restart().await;
    let after = insist(async || put(&driver, "a", "2").await).await.unwrap();
    // Above all that may have been shown and was not on disk.
    assert!(after.0 > before.0 + 65_536, "{after:?} after {before:?}");
    let changes = next_changes(&mut *watch).await;
    assert_eq!(changes.iter().map(Change::revision).collect::<Vec<_>>(), [after]);
}

async fn a_server_stopped_for_longer_than_a_lease_ends_the_session_and_tells_so() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let lease = Duration::from_secs(1);
    let session = driver.open(lease).await.unwrap().id;
    let owned = driver.commit(Txn::new().put_owned("a".into(), "1", session)).await.unwrap().revision;
    let mut watch = driver.watch(&"a".into(), owned).await.unwrap();
    server.pause();
    SystemClock.sleep(3 * lease).await;
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

async fn a_store_that_was_set_back_is_told_and_tokens_rise() {
    let mut server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let kept = driver.open(LEASE).await.unwrap().id;
    driver.commit(Txn::new().put_owned("kept".into(), "1", kept)).await.unwrap();
    let backup = server.keep().await;
    let lost = insist(async || driver.open(LEASE).await).await.unwrap().id;
    let before = driver.commit(Txn::new().put_owned("lost".into(), "1", lost)).await.unwrap().revision;
    let mut watch = driver.watch(&Key::default(), before).await.unwrap();
    server.restore(&backup).await;

    let Delta::Resync { records, revision } = next(&mut *watch).await else { panic!("a loss was hidden") };
    let keys: Vec<_> = records.into_iter().map(|record: Record| record.key).collect();
    assert_eq!(keys, ["kept".into(), kept.key()]);
    assert!(revision > before, "{revision:?} after {before:?}");
    insist(async || driver.renew(kept).await).await.unwrap();
    let error = insist(async || driver.renew(lost).await).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    assert!(insist(async || put(&driver, "a", "1").await).await.unwrap() > revision);
}

async fn tokens_rise_over_a_set_back_for_a_host_that_saw_none() {
    let mut server = start().await;
    connect(&server.url("n")).await.unwrap();
    let backup = server.keep().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let mut before = Revision::ZERO;
    for _ in 0..10 {
        before = put(&driver, "lost", "1").await.unwrap();
    }
    drop(driver);
    server.restore(&backup).await;
    let other = connect(&server.url("n")).await.unwrap();
    assert_eq!(value(&other, "lost").await, None);
    let after = put(&other, "a", "1").await.unwrap();
    assert!(after > before, "{after:?} after {before:?}");
}

async fn a_counter_set_back_under_running_hosts_is_told_to_who_saw_more() {
    let server = start().await;
    let (driver, other) =
        (connect(&server.url("n")).await.unwrap(), connect(&server.url("n")).await.unwrap());
    let early = put(&driver, "kept", "1").await.unwrap();
    let late = put(&driver, "lost", "1").await.unwrap();
    let mut behind = other.watch(&Key::default(), early).await.unwrap();
    let mut ahead = driver.watch(&Key::default(), late).await.unwrap();
    // As an operator does who puts back an older copy of the tables.
    server.sql(&format!(
        "update althing_namespace set revision = {0}; delete from althing_change where revision > {0}; \
        delete from althing_record where modified > {0}",
        early.0
    ));
    let after = put(&driver, "after", "1").await.unwrap();
    assert!(after > late, "{after:?} after {late:?}");
    let Delta::Resync { records, .. } = next(&mut *ahead).await else { panic!("a loss was hidden") };
    assert_eq!(
        records.iter().map(|record| &record.key).collect::<Vec<_>>(),
        [&"after".into(), &"kept".into()]
    );
    let changes = next_changes(&mut *behind).await;
    assert_eq!(changes.iter().map(Change::revision).collect::<Vec<_>>(), [after]);
}

async fn forgets_changes_of_too_many_bytes_and_tells_who_lags() {
    let server = start().await;
    let driver = connect(&format!("{}&timeout=30s", server.url("n"))).await.unwrap();
    let large = "x".repeat(limits::VALUE_BYTES_MAX);
    let first = put(&driver, "a", &large).await.unwrap();
    let mut watch = driver.watch(&Key::default(), first).await.unwrap();
    for _ in 0..limits::HISTORY_BYTES_MAX / limits::VALUE_BYTES_MAX + 1 {
        put(&driver, "a", &large).await.unwrap();
    }
    let Delta::Resync { records, .. } = next(&mut *watch).await else { panic!("a gap was hidden") };
    assert_eq!(records.len(), 1);
    assert_eq!(server.sql("select bytes <= 64 << 20 from althing_namespace"), "1");
    assert_eq!(
        server.sql("select (select sum(size) from althing_change) = bytes from althing_namespace"),
        "1"
    );
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
