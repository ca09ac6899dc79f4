//! What a real server does to us: it dies, forgets, stops, is full, or is not what it should be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: what it does not expect ends it"
)]

mod cut;

use std::sync::Arc;
use std::time::Duration;

use althing_core::{
    BootTime, Cause, Change, Clock, Delta, Driver, Effect, Error, Guard, Key, Kind, OsChance, Record, Result,
    Revision, SystemClock, Txn, Watch,
};
use althing_driver_memcached::Memcached;
use althing_test_servers::{Memcached as Server, MemcachedOptions};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::cut::{Cut, Proxy};

althing_test_servers::suite! {
    "memcached":
    tells_that_a_restart_lost_everything,
    tells_that_a_running_server_was_flushed,
    tells_that_the_epoch_was_thrown_away,
    tells_that_the_root_was_thrown_away,
    tells_that_a_chunk_was_thrown_away,
    tells_that_a_full_server_threw_something_away,
    a_session_thrown_away_has_ended_and_nothing_else_has,
    a_part_of_the_log_thrown_away_is_a_resync_and_no_loss,
    nobody_goes_on_under_what_he_held_before_a_flush,
    a_host_that_saw_more_raises_the_tokens_of_those_that_began_anew,
    tokens_never_go_back_where_raising_them_fails,
    a_kill_under_load_gives_no_token_twice,
    a_session_outlives_a_stop_that_is_shorter,
    a_session_is_lost_in_a_stop_that_is_longer,
    calls_on_a_stopped_server_end_in_time,
    a_cut_in_a_swap_is_of_unknown_effect_and_a_cut_before_it_of_none,
    a_write_without_a_server_has_no_effect,
    a_lease_is_kept_whole_and_ends_soon_after,
    two_hosts_that_race_lose_nothing_and_leave_nothing_behind,
    namespaces_do_not_see_each_other,
    refuses_what_is_foreign_and_another_layout,
    refuses_a_value_that_the_server_does_not_take_and_goes_on,
    refuses_a_server_that_wants_a_password,
    a_restart_after_a_foreign_item_makes_the_namespace_usable,
}

const LEASE: Duration = Duration::from_secs(30);

async fn start() -> Server {
    Server::start(MemcachedOptions::default()).await.unwrap()
}

async fn connect(url: &str) -> Result<Memcached> {
    Memcached::connect(&url.parse()?, Arc::new(SystemClock), Arc::new(OsChance)).await
}

async fn put(driver: &Memcached, key: &str, value: &str) -> Result<Revision> {
    let txn = Txn::new().put(key.into(), value.to_owned());
    driver.commit(txn).await.map(|committed| committed.revision)
}

async fn value(driver: &Memcached, key: &str) -> Option<String> {
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
            Err(error) if is_outage(&error) => tokio::task::yield_now().await,
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

/// Binds a record to a session, watches, loses the store by `lose`, and checks that all of it is told.
async fn check_loss_is_told(lose: impl AsyncFnOnce(&mut Server)) {
    let mut server = start().await;
    let driver = connect(&server.url("loss")).await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    let mine = driver.commit(Txn::new().put_owned("mine".into(), "1", session)).await.unwrap().stamps[0];
    let before = put(&driver, "kept", "1").await.unwrap();
    let mut watch = driver.watch(&Key::default(), before).await.unwrap();
    lose(&mut server).await;

    let error = insist(async || driver.renew(session).await).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    let error = driver.commit(Txn::new().put_owned("mine".into(), "2", session)).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    let guarded = Txn::new().guard(Guard::Unchanged("mine".into(), mine)).put("mine".into(), "3");
    check_error(&driver.commit(guarded).await.unwrap_err(), Kind::Conflict, Effect::None);
    driver.close(session).await.unwrap();
    assert_eq!((value(&driver, "mine").await, value(&driver, "kept").await), (None, None));

    let Delta::Resync { records, revision } = next(&mut *watch).await else { panic!("loss was hidden") };
    assert_eq!(records, Vec::<Record>::new());
    assert!(revision > before, "{revision:?} after {before:?}");
    let after = put(&driver, "kept", "2").await.unwrap();
    assert!(after > revision, "{after:?} after {revision:?}");
    let changes = next_changes(&mut *watch).await;
    assert_eq!(changes.iter().map(Change::revision).collect::<Vec<_>>(), [after]);
    let other = connect(&server.url("loss")).await.unwrap();
    assert_eq!(value(&other, "kept").await.as_deref(), Some("2"));
}

/// Removes what begins with `prefix`, as memcached does when it needs room.
fn throw_away(server: &Server, prefix: &str) {
    let found = || Some(server.keys(prefix)).filter(|keys| !keys.is_empty());
    let keys = std::iter::repeat_with(found).flatten().next();
    for key in keys.unwrap() {
        assert_eq!(server.command(&format!("delete {key}")), "DELETED");
    }
}

async fn tells_that_a_restart_lost_everything() {
    check_loss_is_told(async |server| server.restart().await).await;
}

async fn tells_that_a_running_server_was_flushed() {
    check_loss_is_told(async |server| assert_eq!(server.command("flush_all"), "OK")).await;
}

async fn tells_that_the_epoch_was_thrown_away() {
    check_loss_is_told(async |server| throw_away(server, "althing:epoch:")).await;
}

async fn tells_that_the_root_was_thrown_away() {
    check_loss_is_told(async |server| throw_away(server, "althing:root:")).await;
}

async fn tells_that_a_chunk_was_thrown_away() {
    check_loss_is_told(async |server| {
        until_settled(server, 1);
        throw_away(server, "althing:chunk:");
    })
    .await;
}

/// Waits until what was replaced has been removed, which happens in the background.
fn until_settled(server: &Server, chunks: usize) {
    while server.keys("althing:chunk:").len() > chunks {
        std::thread::yield_now();
    }
}

async fn tells_that_a_full_server_threw_something_away() {
    let options = MemcachedOptions { memory_mib: Some(2), ..MemcachedOptions::default() };
    let server = Server::start(options).await.unwrap();
    let driver = connect(&server.url("n")).await.unwrap();
    let session = driver.open(Duration::from_secs(300)).await.unwrap().id;
    let txn = Txn::new().put_owned("mine".into(), "1", session);
    let before = driver.commit(txn).await.unwrap().revision;
    until_settled(&server, 1);
    let whole = || Some(server.keys("althing:")).filter(|keys| keys.len() == 4);
    // Epoch, root, session and one leaf.
    let ours = std::iter::repeat_with(whole).flatten().next().unwrap();
    let mut traffic = server.connect();
    let mut written = 0;
    // Asked in a way that memcached does not take for interest in the item.
    while ours.iter().all(|key| server.command(&format!("mg {key} u")) == "HD") {
        for _ in 0..2000 {
            written += 1;
            // Of all sizes, because memcached makes room among items of about the same.
            let size = [40, 100, 200, 300, 400, 600][written % 6] + written % 50;
            traffic.set(&format!("foreign-{written}"), &vec![b'x'; size]);
        }
        assert!(written < 1_000_000, "nothing of ours was thrown away by {written} items");
    }
    let error = driver.renew(session).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    assert_eq!(value(&driver, "mine").await, None);
    assert!(put(&driver, "mine", "2").await.unwrap() > before);
}

async fn a_session_thrown_away_has_ended_and_nothing_else_has() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let session = driver.open(Duration::from_secs(1)).await.unwrap().id;
    let txn = Txn::new().put_owned("mine".into(), "1", session).put("kept".into(), "1");
    let made = driver.commit(txn).await.unwrap().revision;
    let mut watch = driver.watch(&Key::default(), made).await.unwrap();
    throw_away(&server, "althing:session:");
    let error = driver.renew(session).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    let changes = next_changes(&mut *watch).await;
    let gone: Vec<_> = changes.iter().map(|change| (change.key().clone(), change.revision())).collect();
    assert_eq!(gone, ["mine".into(), session.key()].map(|key| (key, Revision(made.0 + 1))));
    let expired = |change: &Change| matches!(change, Change::Deleted { cause: Cause::Expired, .. });
    assert!(changes.iter().all(expired), "{changes:?}");
    assert_eq!(value(&driver, "kept").await.as_deref(), Some("1"));
}

async fn a_part_of_the_log_thrown_away_is_a_resync_and_no_loss() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let from = put(&driver, "a", "1").await.unwrap();
    until_settled(&server, 1);
    let leaf = server.keys("althing:chunk:");
    // Enough to move some of the log out of the root, all of it about one record.
    for round in 0..200 {
        put(&driver, "a", &format!("{round:0100}")).await.unwrap();
    }
    let mut watch = driver.watch(&Key::default(), from).await.unwrap();
    assert_eq!(next_changes(&mut *watch).await.len(), 200);
    let mut watch = driver.watch(&Key::default(), from).await.unwrap();
    // The newest chunk is the leaf; it changes with the next write, and what stays then is the log.
    until_settled(&server, 4);
    let before = server.keys("althing:chunk:");
    put(&driver, "a", "end").await.unwrap();
    until_settled(&server, before.len());
    let after = server.keys("althing:chunk:");
    let log: Vec<&String> = after.iter().filter(|key| before.contains(key) && !leaf.contains(key)).collect();
    assert!(!log.is_empty(), "the log is still short");
    for key in log {
        assert_eq!(server.command(&format!("delete {key}")), "DELETED");
    }
    let Delta::Resync { records, .. } = next(&mut *watch).await else { panic!("a gap was hidden") };
    assert_eq!(records.len(), 1);
    put(&driver, "b", "1").await.unwrap();
    assert_eq!(next_changes(&mut *watch).await.len(), 1);
    assert_eq!(value(&connect(&server.url("n")).await.unwrap(), "a").await.as_deref(), Some("end"));
}

async fn nobody_goes_on_under_what_he_held_before_a_flush() {
    let server = start().await;
    let (one, two) = (connect(&server.url("n")).await.unwrap(), connect(&server.url("n")).await.unwrap());
    let session = one.open(LEASE).await.unwrap().id;
    let first = one.commit(Txn::new().put_owned("leader".into(), "one", session)).await.unwrap();
    let seen = two.get(&"leader".into()).await.unwrap().unwrap().stamp;
    assert_eq!(server.command("flush_all"), "OK");
    let next = two.open(LEASE).await.unwrap().id;
    let claim = Txn::new().guard(Guard::Absent("leader".into())).put_owned("leader".into(), "two", next);
    let second = two.commit(claim).await.unwrap();
    assert!(second.revision > first.revision, "{second:?} after {first:?}");
    let mine = Guard::Unchanged("leader".into(), seen);
    let error = one.commit(Txn::new().guard(mine).put("leader".into(), "still one")).await.unwrap_err();
    check_error(&error, Kind::Conflict, Effect::None);
    let again = Txn::new().put_owned("leader".into(), "one again", session);
    check_error(&one.commit(again).await.unwrap_err(), Kind::SessionLost, Effect::None);
    check_error(&one.renew(session).await.unwrap_err(), Kind::SessionLost, Effect::None);
    one.close(session).await.unwrap();
    two.renew(next).await.unwrap();
    assert_eq!(value(&one, "leader").await.as_deref(), Some("two"));
}

async fn a_host_that_saw_more_raises_the_tokens_of_those_that_began_anew() {
    let mut server = start().await;
    let (early, late) = (connect(&server.url("n")).await.unwrap(), connect(&server.url("n")).await.unwrap());
    let mut watch = late.watch(&Key::default(), Revision::ZERO).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Delta::Resync { .. }));
    let mut before = Revision::ZERO;
    for round in 0..50 {
        before = put(&late, "a", &round.to_string()).await.unwrap();
    }
    server.restart().await;
    let session = insist(async || early.open(LEASE).await).await.unwrap().id;
    let anew = early.get(&session.key()).await.unwrap().unwrap().stamp.created;
    assert!(anew < before, "early has seen less");
    let page = insist(async || late.list(&Key::default(), None, 0).await).await.unwrap();
    assert!(page.revision > before, "{:?} after {before:?}", page.revision);
    assert!(put(&late, "a", "2").await.unwrap() > before);
    assert!(put(&early, "b", "2").await.unwrap() > before);
    early.renew(session).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Delta::Resync { .. }));
    // What was seen before is no place in the new log.
    let mut watch = late.watch(&Key::default(), before).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Delta::Resync { .. }));
}

async fn tokens_never_go_back_where_raising_them_fails() {
    let server = start().await;
    let proxy = Proxy::start(server.port()).await;
    let (early, late) = (connect(&server.url("n")).await.unwrap(), connect(&proxy.url("n")).await.unwrap());
    let mut before = Revision::ZERO;
    for round in 0..50 {
        before = put(&late, "a", &round.to_string()).await.unwrap();
    }
    assert_eq!(server.command("flush_all"), "OK");
    assert!(put(&early, "b", "1").await.unwrap() < before, "early has seen less");
    proxy.cut(Cut::Before("ms althing:root:"));
    check_error(&put(&late, "a", "x").await.unwrap_err(), Kind::Unavailable, Effect::None);
    let found = late.list(&Key::default(), None, 0).await.unwrap();
    assert!(found.revision > before, "{:?} after {before:?}", found.revision);
    assert!(put(&late, "a", "y").await.unwrap() > found.revision);
}

/// Writes new keys, tells of each acknowledged one, and ends when fifty more went through after a failure.
async fn load(driver: Arc<Memcached>, writer: u32, counted: UnboundedSender<()>) -> Vec<Revision> {
    let (mut acknowledged, mut left) = (Vec::<Revision>::new(), None);
    for number in 0u32.. {
        match put(&driver, &format!("load/{writer}/{number}"), "x").await {
            Ok(revision) => {
                assert!(acknowledged.last().is_none_or(|last| *last < revision));
                acknowledged.push(revision);
                // Nobody counts any more once the server was killed.
                let _ = counted.send(());
                left = left.map(|left: u32| left - 1);
            }
            Err(error) => {
                assert!(is_outage(&error), "{error}");
                left = left.or(Some(50));
            }
        }
        if left == Some(0) {
            break;
        }
    }
    acknowledged
}

async fn a_kill_under_load_gives_no_token_twice() {
    let mut server = start().await;
    let driver = Arc::new(connect(&server.url("n")).await.unwrap());
    let (counted, mut count) = unbounded_channel();
    let begin = |writer| tokio::spawn(load(driver.clone(), writer, counted.clone()));
    let writers: Vec<_> = (0..4).map(begin).collect();
    for _ in 0..200 {
        count.recv().await.unwrap();
    }
    server.kill();
    server.restart().await;
    let mut tokens = Vec::new();
    for writer in writers {
        tokens.extend(writer.await.unwrap());
    }
    let all = tokens.len();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), all);
}

async fn a_session_outlives_a_stop_that_is_shorter() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    let made = driver.commit(Txn::new().put_owned("mine".into(), "1", session)).await.unwrap().revision;
    let mut watch = driver.watch(&Key::default(), made).await.unwrap();
    server.pause();
    let error = driver.renew(session).await.unwrap_err();
    check_error(&error, Kind::Timeout, Effect::Unknown);
    SystemClock.sleep(Duration::from_millis(1500)).await;
    server.resume();
    insist(async || driver.renew(session).await).await.unwrap();
    assert_eq!(value(&driver, "mine").await.as_deref(), Some("1"));
    let after = put(&driver, "end", "").await.unwrap();
    let changes = next_changes(&mut *watch).await;
    assert_eq!(changes.iter().map(Change::revision).collect::<Vec<_>>(), [after]);
}

async fn a_session_is_lost_in_a_stop_that_is_longer() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let session = driver.open(Duration::from_secs(1)).await.unwrap().id;
    driver.commit(Txn::new().put_owned("mine".into(), "1", session)).await.unwrap();
    server.pause();
    SystemClock.sleep(Duration::from_secs(4)).await;
    // Stands in the server's socket when it goes on: the first thing it does, maybe before it reads its clock.
    let renewing = async || driver.renew(session).await;
    let (renewed, ()) = tokio::join!(insist(renewing), async {
        SystemClock.sleep(Duration::from_millis(800)).await;
        server.resume();
    });
    check_error(&renewed.unwrap_err(), Kind::SessionLost, Effect::None);
    assert_eq!(value(&driver, "mine").await, None);
}

async fn calls_on_a_stopped_server_end_in_time() {
    let server = start().await;
    let url = format!("{}&timeout=200ms", server.url("n"));
    let driver = connect(&url).await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    server.pause();
    let began = SystemClock.now();
    // A commit looks before it writes: it has not come to writing.
    check_error(&put(&driver, "a", "1").await.unwrap_err(), Kind::Timeout, Effect::None);
    check_error(&driver.get(&"a".into()).await.unwrap_err(), Kind::Timeout, Effect::None);
    check_error(&driver.list(&"a".into(), None, 0).await.unwrap_err(), Kind::Timeout, Effect::None);
    check_error(&driver.renew(session).await.unwrap_err(), Kind::Timeout, Effect::Unknown);
    check_error(&driver.open(LEASE).await.unwrap_err(), Kind::Timeout, Effect::None);
    check_error(&driver.close(session).await.unwrap_err(), Kind::Timeout, Effect::None);
    check_error(&connect(&url).await.unwrap_err(), Kind::Timeout, Effect::None);
    let took = SystemClock.now().since(began);
    assert!(took < Duration::from_secs(7), "seven calls of 200 ms took {took:?}");
    server.resume();
    insist(async || put(&driver, "b", "2").await).await.unwrap();
    assert_eq!((value(&driver, "a").await, value(&driver, "b").await.as_deref()), (None, Some("2")));
}

async fn a_cut_in_a_swap_is_of_unknown_effect_and_a_cut_before_it_of_none() {
    let server = start().await;
    let proxy = Proxy::start(server.port()).await;
    let driver = connect(&proxy.url("n")).await.unwrap();
    put(&driver, "a", "0").await.unwrap();
    proxy.cut(Cut::After("ms althing:root:"));
    check_error(&put(&driver, "a", "1").await.unwrap_err(), Kind::Unavailable, Effect::Unknown);
    assert_eq!(value(&driver, "a").await.as_deref(), Some("1"), "it was written");
    proxy.cut(Cut::Before("ms althing:root:"));
    check_error(&put(&driver, "a", "2").await.unwrap_err(), Kind::Unavailable, Effect::Unknown);
    assert_eq!(value(&driver, "a").await.as_deref(), Some("1"), "it was not written");
    proxy.cut(Cut::After("ms althing:chunk:"));
    check_error(&put(&driver, "a", "3").await.unwrap_err(), Kind::Unavailable, Effect::None);
    assert_eq!(value(&driver, "a").await.as_deref(), Some("1"), "it was not written");
    put(&driver, "a", "4").await.unwrap();
}

async fn a_write_without_a_server_has_no_effect() {
    let mut server = start().await;
    let url = server.url("n");
    let driver = connect(&url).await.unwrap();
    server.kill();
    check_error(&put(&driver, "a", "1").await.unwrap_err(), Kind::Unavailable, Effect::None);
    let error = connect(&url).await.unwrap_err();
    check_error(&error, Kind::Unavailable, Effect::None);
    assert!(error.to_string().contains(&format!("127.0.0.1:{}", server.port())), "{error}");
}

/// Tells of each session whose expiry a watch tells, and when that was.
async fn tell_expiries(mut watch: Box<dyn Watch>, told: UnboundedSender<(Key, BootTime)>) {
    loop {
        let changes = next_changes(&mut *watch).await;
        let now = SystemClock.now();
        for change in changes {
            let Change::Deleted { key, cause: Cause::Expired, .. } = change else { continue };
            if told.send((key, now)).is_err() {
                return;
            }
        }
    }
}

async fn a_lease_is_kept_whole_and_ends_soon_after() {
    let server = start().await;
    let (holder, watcher) =
        (connect(&server.url("n")).await.unwrap(), connect(&server.url("n")).await.unwrap());
    let mut watch = watcher.watch(&"session/".into(), Revision::ZERO).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Delta::Resync { .. }));
    let (told, mut expiries) = unbounded_channel();
    tokio::spawn(tell_expiries(watch, told));
    let mut leases: Vec<(Key, BootTime, Duration)> = Vec::new();
    // At many moments of the second in which the server's clock stands still.
    for index in 0..20 {
        let sent = SystemClock.now();
        let session = holder.open(Duration::from_secs(1 + index % 2)).await.unwrap();
        leases.push((session.id.key(), sent, session.lease_min));
        SystemClock.sleep(Duration::from_millis(83)).await;
    }
    for _ in 0..leases.len() {
        let (key, at) = expiries.recv().await.unwrap();
        let (_, sent, lease) = leases.iter().find(|(name, ..)| *name == key).unwrap();
        let lived = at.since(*sent);
        assert!(lived >= *lease, "a lease of {lease:?} was kept for {lived:?}");
        // Two seconds of the server's clock, a look, and the rest for a busy machine.
        assert!(lived < *lease + Duration::from_secs(6), "a lease of {lease:?} lived for {lived:?}");
    }
}

async fn two_hosts_that_race_lose_nothing_and_leave_nothing_behind() {
    let server = start().await;
    let drivers = [connect(&server.url("n")).await.unwrap(), connect(&server.url("n")).await.unwrap()];
    let write = async |host: usize| {
        let mut revisions = Vec::new();
        for round in 0..100 {
            // Large enough that each value is a chunk of its own, and goes with the next one.
            let txn = Txn::new()
                .put(Key::from(format!("{host}/{round}").as_str()), "x")
                .put("both".into(), vec![b'v'; 2000]);
            revisions.push(drivers[host].commit(txn).await.unwrap().revision);
        }
        revisions
    };
    let (one, two) = tokio::join!(write(0), write(1));
    let mut all = [one, two].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 200, "two commits at one revision");
    let reader = connect(&server.url("n")).await.unwrap();
    let page = reader.list(&Key::default(), None, 0).await.unwrap();
    assert_eq!(page.records.len(), 201);
    // The leaves, the one large value, and the log: what lost a race, or was replaced, is removed.
    until_settled(&server, 12);
}

async fn namespaces_do_not_see_each_other() {
    let server = start().await;
    let (one, two) =
        (connect(&server.url("n")).await.unwrap(), connect(&server.url("n%20/m")).await.unwrap());
    put(&one, "a", "1").await.unwrap();
    put(&two, "a", "2").await.unwrap();
    assert_eq!(value(&one, "a").await.as_deref(), Some("1"));
    let same = connect(&server.url("n%20/m")).await.unwrap();
    assert_eq!(value(&same, "a").await.as_deref(), Some("2"));
}

async fn check_refused(url: &str, kind: Kind, said: &str) {
    let error = connect(url).await.unwrap_err();
    check_error(&error, kind, Effect::None);
    assert!(error.to_string().contains(said), "{error}");
}

async fn refuses_what_is_foreign_and_another_layout() {
    let server = start().await;
    let mut foreign = server.connect();
    foreign.set("althing:epoch:text", b"hello");
    foreign.set("althing:epoch:newer", b"althing 2 E\n0123456789abcdef");
    check_refused(&server.url("text"), Kind::Format, "did not write").await;
    check_refused(&server.url("newer"), Kind::Format, "layout version 2").await;
    let driver = connect(&server.url("n")).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    for key in server.keys("althing:root:") {
        foreign.set(&key, b"something else");
    }
    let error = driver.get(&"a".into()).await.unwrap_err();
    check_error(&error, Kind::Format, Effect::None);
    assert!(
        error.to_string().contains("something else") && error.to_string().contains("namespace=n"),
        "{error}"
    );
    check_error(&put(&driver, "a", "2").await.unwrap_err(), Kind::Format, Effect::None);
}

async fn a_restart_after_a_foreign_item_makes_the_namespace_usable() {
    let mut server = start().await;
    server.connect().set("althing:epoch:n", b"hello");
    check_refused(&server.url("n"), Kind::Format, "flush_all").await;
    server.restart().await;
    put(&connect(&server.url("n")).await.unwrap(), "a", "1").await.unwrap();
}

async fn refuses_a_value_that_the_server_does_not_take_and_goes_on() {
    let small = async |limit: &str| {
        let arguments = ["-I", limit, "-o", "slab_chunk_max=16384"].map(String::from).into();
        Server::start(MemcachedOptions { arguments, ..MemcachedOptions::default() }).await.unwrap()
    };
    check_refused(&small("32k").await.url("n"), Kind::TooLarge, "-I 1m").await;
    let server = small("128k").await;
    let driver = connect(&server.url("n")).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    let error = put(&driver, "a", &"v".repeat(200 << 10)).await.unwrap_err();
    check_error(&error, Kind::TooLarge, Effect::None);
    assert!(error.to_string().contains("-I 1m"), "{error}");
    assert_eq!(value(&driver, "a").await.as_deref(), Some("1"));
    put(&driver, "a", &"v".repeat(100 << 10)).await.unwrap();
    // Names so long that the index alone outgrows what the server takes: refused, and nothing is lost.
    let mut written = 0usize;
    let error = loop {
        let name = |index| Key::from(format!("{index:04}/{}", "n".repeat(4000)).as_str());
        let txn = (written..written + 40).fold(Txn::new(), |txn, index| txn.put(name(index), ""));
        match driver.commit(txn).await {
            Ok(_) => written += 40,
            Err(error) => break error,
        }
    };
    check_error(&error, Kind::TooLarge, Effect::None);
    let other = connect(&server.url("n")).await.unwrap();
    let page = other.list(&Key::default(), None, 0).await.unwrap();
    assert_eq!(page.records.len(), written + 1);
}

async fn refuses_a_server_that_wants_a_password() {
    let file = std::env::temp_dir().join(format!("althing-memcached-{}", std::process::id()));
    std::fs::write(&file, "me:hunter2\n").unwrap();
    let arguments = vec!["-Y".to_owned(), file.display().to_string()];
    let server = Server::start(MemcachedOptions { arguments, ..MemcachedOptions::default() }).await;
    check_refused(&server.unwrap().url("n"), Kind::Denied, "wants a password").await;
    std::fs::remove_file(&file).unwrap();
}
