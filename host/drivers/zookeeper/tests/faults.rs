//! What real servers do to us: they die, stop, refuse, or are not what they should be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: what it does not expect ends it"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use althing_core::{
    Cause, Change, Clock, Delta, Driver, Effect, Error, Guard, Key, Kind, Level, OsChance, Result, Revision,
    SessionId, SystemClock, Txn, Watch,
};
use althing_driver_zookeeper::ZooKeeper;
use althing_test_servers::{Ensemble, ZooKeeper as Server, ZooKeeperOptions, ready_for};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use zookeeper_client::{Acls, Client, CreateMode};

althing_test_servers::suite! {
    "zookeeper":
    a_kill_of_the_only_server_loses_no_commit_no_session_and_no_change,
    a_kill_of_the_leader_loses_no_commit_no_session_and_no_change,
    a_rolling_restart_loses_no_commit_no_session_and_no_change,
    calls_on_a_stopped_server_end_in_time_and_say_what_they_may_have_done,
    a_write_without_a_server_has_no_effect,
    a_host_that_is_gone_keeps_its_session_for_its_lease_and_no_longer,
    ends_the_session_of_a_former_run_at_once,
    a_session_that_nobody_renews_ends_while_its_process_lives,
    a_late_renewal_finds_nothing_left,
    goes_on_when_a_volume_of_the_log_is_closed,
    refuses_a_transaction_that_the_server_would_drop_everybody_for,
    a_session_ends_whatever_number_of_records_it_owns,
    keeps_strangers_out,
    lets_strangers_read_where_told_so,
    refuses_a_namespace_of_another_layout,
    namespaces_and_chroots_do_not_see_each_other,
    promises_what_the_ensemble_keeps,
    speaks_tls_with_the_server_it_trusts_and_with_no_other,
    shows_its_certificate_to_a_server_that_asks_for_one,
}

const LEASE: Duration = Duration::from_secs(30);

async fn start() -> Server {
    Server::start(ZooKeeperOptions::default()).await.unwrap()
}

/// Connects, patiently where the URL says nothing else: servers and tests share the processors.
async fn connect(url: &str) -> Result<ZooKeeper> {
    let url = if url.contains("timeout=") { url.to_owned() } else { format!("{url}&timeout=10s") };
    ZooKeeper::connect(&url.parse()?, Arc::new(SystemClock), Arc::new(OsChance)).await
}

async fn put(driver: &ZooKeeper, key: &str, value: &str) -> Result<Revision> {
    let txn = Txn::new().put(key.into(), value.to_owned());
    driver.commit(txn).await.map(|committed| committed.revision)
}

async fn value(driver: &ZooKeeper, key: &str) -> Option<String> {
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

/// Writes new keys and tells of each acknowledged one, until `over`, and then until ten more went through.
async fn load(
    driver: Arc<ZooKeeper>,
    writer: u32,
    counted: UnboundedSender<()>,
    over: Arc<AtomicBool>,
) -> Vec<(Key, Revision)> {
    let (mut acknowledged, mut left) = (Vec::<(Key, Revision)>::new(), 10);
    for number in 0u32.. {
        let key = Key::from(format!("load/{writer}/{number}").as_str());
        let txn = Txn::new().guard(Guard::Absent(key.clone())).put(key.clone(), "x");
        match driver.commit(txn).await {
            Ok(committed) => {
                assert!(acknowledged.last().is_none_or(|(_, last)| *last < committed.revision));
                acknowledged.push((key, committed.revision));
                // Nobody counts any more once the servers were disturbed.
                let _ = counted.send(());
                left -= u32::from(over.load(Ordering::Relaxed));
            }
            Err(error) => {
                assert!(is_outage(&error), "{error}");
                SystemClock.sleep(Duration::from_millis(5)).await;
            }
        }
        if left == 0 {
            break;
        }
    }
    acknowledged
}

/// Disturbs the servers while four writers write, a session is renewed and a watch is read, and checks that
/// nothing of it was lost.
async fn check_nothing_lost(url: &str, disturb: impl AsyncFnOnce()) {
    let url = format!("{url}&timeout=1500ms");
    let driver = Arc::new(insist(async || connect(&url).await).await.unwrap());
    let session = driver.open(LEASE).await.unwrap();
    let owned = Txn::new().put_owned("owned".into(), "1", session.id);
    let owned = driver.commit(owned).await.unwrap().stamps[0];
    let mut watch = driver.watch(&"load/".into(), Revision::ZERO).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Delta::Resync { .. }));

    let (counted, mut count) = unbounded_channel();
    let over = Arc::new(AtomicBool::new(false));
    let start = |writer| tokio::spawn(load(driver.clone(), writer, counted.clone(), over.clone()));
    let writers: Vec<_> = (0..4).map(start).collect();
    for _ in 0..200 {
        count.recv().await.unwrap();
    }
    disturb().await;
    over.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }

    insist(async || driver.renew(session.id).await).await.unwrap();
    assert_eq!(driver.get(&"owned".into()).await.unwrap().unwrap().stamp, owned);
    for (key, revision) in &acknowledged {
        assert_eq!(driver.get(key).await.unwrap().unwrap().stamp.modified, *revision, "{key} was lost");
    }
    let last = put(&driver, "load/end", "").await.unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(_, revision)| *revision < last) {
        let changes = next_changes(&mut *watch).await;
        seen.extend(changes.iter().map(|change| (change.key().clone(), change.revision())));
    }
    assert!(seen.is_sorted_by(|left, right| left.1 < right.1), "out of order or twice");
    let missed: Vec<_> = acknowledged.iter().filter(|commit| !seen.contains(commit)).collect();
    assert!(missed.is_empty(), "the watch missed {missed:?}");
    driver.close(session.id).await.unwrap();
}

async fn a_kill_of_the_only_server_loses_no_commit_no_session_and_no_change() {
    let mut server = start().await;
    check_nothing_lost(&server.url("n"), async || server.node_mut().restart().await).await;
}

async fn a_kill_of_the_leader_loses_no_commit_no_session_and_no_change() {
    let mut ensemble = Ensemble::start(3, ZooKeeperOptions::default()).await.unwrap();
    check_nothing_lost(&ensemble.url("n"), async || {
        let leader = ensemble.leader().unwrap();
        ensemble.nodes_mut()[leader].kill();
        while ensemble.leader().is_none() {
            SystemClock.sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn a_rolling_restart_loses_no_commit_no_session_and_no_change() {
    let mut ensemble = Ensemble::start(3, ZooKeeperOptions::default()).await.unwrap();
    check_nothing_lost(&ensemble.url("n"), async || ensemble.roll().await).await;
}

async fn calls_on_a_stopped_server_end_in_time_and_say_what_they_may_have_done() {
    let server = start().await;
    let url = format!("{}&timeout=500ms", server.url("n"));
    let connect = async || insist(async || connect(&url).await).await.unwrap();
    let (writer, reader) = (connect().await, connect().await);
    put(&writer, "b", "1").await.unwrap();
    server.node().pause();
    // It may have stopped before it answered what is read first, or after.
    assert_eq!(put(&writer, "a", "1").await.unwrap_err().kind(), Kind::Timeout);
    // A connection under suspicion is not used again, and no other can be made: nothing was sent.
    check_error(&put(&writer, "a", "1").await.unwrap_err(), Kind::Timeout, Effect::None);
    check_error(&reader.get(&"a".into()).await.unwrap_err(), Kind::Timeout, Effect::None);
    check_error(&writer.open(LEASE).await.unwrap_err(), Kind::Timeout, Effect::None);
    server.node().resume();
    insist(async || put(&writer, "b", "2").await).await.unwrap();
    assert_eq!(insist(async || reader.get(&"b".into()).await).await.unwrap().unwrap().value, "2");
}

async fn a_write_without_a_server_has_no_effect() {
    let mut server = start().await;
    let url = server.url("n");
    let driver = connect(&url).await.unwrap();
    put(&driver, "b", "1").await.unwrap();
    server.node_mut().kill();
    let error = put(&driver, "a", "1").await.unwrap_err();
    assert!(is_outage(&error) && error.effect() == Effect::None, "{error}");
    check_error(&connect(&url).await.unwrap_err(), Kind::Unavailable, Effect::None);
}

/// A host that vanishes without a word: all its tasks and sockets are gone at once. Returns its session.
async fn vanished_host(url: &str, lease: Duration) -> SessionId {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let url = url.to_owned();
    let work = runtime.spawn(async move {
        let driver = connect(&url).await.unwrap();
        let session = driver.open(lease).await.unwrap().id;
        driver.commit(Txn::new().put_owned("mine".into(), "1", session)).await.unwrap();
        session
    });
    let session = work.await.unwrap();
    runtime.shutdown_background();
    session
}

#[track_caller]
fn check_gone(changes: &[Change], session: SessionId, expected: Cause) {
    let gone: Vec<_> = changes
        .iter()
        .map(|change| match change {
            Change::Deleted { key, cause, .. } => (key.clone(), *cause),
            put => panic!("{put:?}"),
        })
        .collect();
    assert_eq!(gone, [("mine".into(), expected), (session.key(), expected)]);
}

async fn a_host_that_is_gone_keeps_its_session_for_its_lease_and_no_longer() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let lease = Duration::from_secs(3);
    let session = vanished_host(&server.url("n"), lease).await;
    let gone_at = SystemClock.now();
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    let Delta::Resync { records, .. } = next(&mut *watch).await else { panic!("no snapshot") };
    assert_eq!(records.len(), 2, "the session was ended before its lease: {records:?}");
    check_gone(&next_changes(&mut *watch).await, session, Cause::Expired);
    // Its last renewal was its opening, some time before.
    let kept = SystemClock.now().since(gone_at);
    assert!((lease / 2..lease * 2).contains(&kept), "{kept:?}");
    assert_eq!(value(&driver, "mine").await, None);
}

async fn ends_the_session_of_a_former_run_at_once() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let session = vanished_host(&server.url("n"), LEASE).await;
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Delta::Resync { .. }));
    driver.close(session).await.unwrap();
    check_gone(&next_changes(&mut *watch).await, session, Cause::Closed);
    driver.close(session).await.unwrap();
}

async fn a_session_that_nobody_renews_ends_while_its_process_lives() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let session = driver.open(Duration::from_millis(500)).await.unwrap().id;
    driver.commit(Txn::new().put_owned("mine".into(), "1", session)).await.unwrap();
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Delta::Resync { .. }));
    check_gone(&next_changes(&mut *watch).await, session, Cause::Expired);
    check_error(&driver.renew(session).await.unwrap_err(), Kind::SessionLost, Effect::None);
}

async fn a_late_renewal_finds_nothing_left() {
    let mut server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let session = driver.open(Duration::from_secs(1)).await.unwrap();
    driver.commit(Txn::new().put_owned("mine".into(), "1", session.id)).await.unwrap();
    server.node_mut().kill();
    SystemClock.sleep(session.lease_min).await;
    // Whether something is left cannot be told, so it is not said to be lost.
    let error = driver.renew(session.id).await.unwrap_err();
    assert!(is_outage(&error), "{error}");
    server.node_mut().restart().await;
    let error = insist(async || driver.renew(session.id).await).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    assert_eq!(value(&driver, "mine").await, None);
    assert!(driver.list(&Key::default(), None, 0).await.unwrap().records.is_empty());
}

/// A client of the crate itself, to do to the namespace what this driver does only after years.
async fn raw(server: &mut Server) -> Client {
    Client::connect(&format!("127.0.0.1:{}", server.node().port())).await.unwrap()
}

async fn goes_on_when_a_volume_of_the_log_is_closed() {
    let mut server = start().await;
    let raw = raw(&mut server).await;
    check_nothing_lost(&server.url("n"), async || {
        for volume in 0..3 {
            let mut close = raw.new_multi_writer();
            close.add_set_data(&format!("/n/log/{volume:08x}"), b"closed", Some(0)).unwrap();
            let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
            close.add_create(&format!("/n/log/{:08x}", volume + 1), b"", &options).unwrap();
            close.commit().await.unwrap();
            SystemClock.sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // Whoever comes later goes on from before the change, and opens sessions in the last volume.
    let driver = connect(&server.url("n")).await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    driver.close(session).await.unwrap();
    // Whoever connects removes old volumes in the background.
    while raw.list_children("/n/log").await.unwrap().len() > 2 {
        SystemClock.sleep(Duration::from_millis(5)).await;
    }
}

async fn refuses_a_transaction_that_the_server_would_drop_everybody_for() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    let most = driver.capability().value_bytes_max as usize;
    let longest = Key::new(vec![0xFF; driver.capability().key_bytes_max as usize]);
    driver.commit(Txn::new().put_owned(longest.clone(), vec![1; most], session)).await.unwrap();
    driver.commit(Txn::new().put(longest.clone(), vec![2; most])).await.unwrap();
    let large = Txn::new().put("a".into(), vec![0; most / 2]).put("b".into(), vec![0; most * 3 / 4]);
    let error = driver.commit(large).await.unwrap_err();
    check_error(&error, Kind::TooLarge, Effect::None);
    assert_eq!(value(&driver, "a").await, None);
    driver.renew(session).await.unwrap();
    assert_eq!(driver.get(&longest).await.unwrap().unwrap().value.len(), most);
}

async fn a_session_ends_whatever_number_of_records_it_owns() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    for some in 0..20 {
        let key = |index| Key::from(format!("m/{some}/{index}").as_str());
        let txn = (0..60).fold(Txn::new(), |txn, index| txn.put_owned(key(index), "1", session));
        driver.commit(txn).await.unwrap();
    }
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Delta::Resync { .. }));
    driver.close(session).await.unwrap();
    let mut gone = 0;
    while gone < 1201 {
        let changes = next_changes(&mut *watch).await;
        let closed = |change: &Change| matches!(change, Change::Deleted { cause: Cause::Closed, .. });
        assert!(changes.iter().all(closed), "{changes:?}");
        gone += changes.len();
    }
    assert!(driver.list(&Key::default(), None, 0).await.unwrap().records.is_empty());
}

async fn check_refused(url: &str, kind: Kind, said: &str) {
    let error = connect(url).await.unwrap_err();
    check_error(&error, kind, Effect::None);
    assert!(error.to_string().contains(said), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

fn login(server: &Server, namespace: &str, login: &str) -> String {
    server.url(namespace).replace("://", &format!("://{login}@"))
}

async fn keeps_strangers_out() {
    let server = start().await;
    let driver = connect(&login(&server, "n", "me:hunter2")).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    driver.commit(Txn::new().put_owned("b".into(), "1", session)).await.unwrap();
    check_refused(&server.url("n"), Kind::Denied, "user:password").await;
    check_refused(&login(&server, "n", "me:other"), Kind::Denied, "user:password").await;
    let again = connect(&login(&server, "n", "me:hunter2")).await.unwrap();
    assert_eq!(value(&again, "a").await.as_deref(), Some("1"));
    again.close(session).await.unwrap();
}

async fn lets_strangers_read_where_told_so() {
    let server = start().await;
    let driver = connect(&(login(&server, "n", "me:hunter2") + "&acl=read")).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    let stranger = connect(&server.url("n")).await.unwrap();
    assert_eq!(value(&stranger, "a").await.as_deref(), Some("1"));
    check_error(&put(&stranger, "a", "2").await.unwrap_err(), Kind::Denied, Effect::None);
    check_error(&stranger.open(LEASE).await.unwrap_err(), Kind::Denied, Effect::None);
}

async fn refuses_a_namespace_of_another_layout() {
    let mut server = start().await;
    let raw = raw(&mut server).await;
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for (path, data) in [("/newer", ""), ("/newer/format", "althing 2"), ("/tree", ""), ("/tree/branch", "")]
    {
        raw.create(path, data.as_bytes(), &options).await.unwrap();
    }
    check_refused(&server.url("newer"), Kind::Format, "althing 2").await;
    check_refused(&server.url("tree"), Kind::Format, "nodes without a format").await;
}

async fn namespaces_and_chroots_do_not_see_each_other() {
    let server = start().await;
    let chroot = |path: &str| server.url("n").replace("/?", &format!("/{path}?"));
    let urls = [server.url("n"), server.url("..%2Fn"), server.url("zookeeper"), chroot("a"), chroot("a/b/")];
    for (index, url) in urls.iter().enumerate() {
        let driver = connect(url).await.unwrap();
        assert_eq!(value(&driver, "k").await, None, "{url}");
        put(&driver, "k", &index.to_string()).await.unwrap();
    }
    for (index, url) in urls.iter().enumerate() {
        let found = value(&connect(url).await.unwrap(), "k").await;
        assert_eq!(found, Some(index.to_string()), "{url}");
    }
}

async fn promises_what_the_ensemble_keeps() {
    let (one, three) = tokio::join!(start(), Ensemble::start(3, ZooKeeperOptions::default()));
    let three = three.unwrap();
    for (url, level) in [(one.url("n"), Level::L1), (three.url("n"), Level::L2)] {
        let capability = connect(&url).await.unwrap().capability();
        assert_eq!((capability.level, capability.lease_min), (level, Duration::from_millis(500)), "{url}");
        let slow = connect(&(url + "&tick=1s")).await.unwrap().capability();
        assert_eq!(slow.lease_min, Duration::from_secs(2));
    }
}

async fn speaks_tls_with_the_server_it_trusts_and_with_no_other() {
    if !ready_for("openssl") {
        return;
    }
    let start = || Server::start(ZooKeeperOptions { tls: true, ..ZooKeeperOptions::default() });
    let (server, other) = (start().await.unwrap(), start().await.unwrap());
    let url = format!("zookeeper://127.0.0.1:{}/?namespace=n", server.tls_port());
    let driver = connect(&format!("{url}&tls-ca={}", server.certificate().display())).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    driver.renew(session).await.unwrap();
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    let Delta::Resync { records, .. } = next(&mut *watch).await else { panic!("no snapshot") };
    assert_eq!(records.len(), 2);
    driver.close(session).await.unwrap();
    let distrusting = format!("{url}&tls-ca={}", other.certificate().display());
    check_refused(&distrusting, Kind::Unavailable, "tls-ca").await;
    assert!(rustls::crypto::CryptoProvider::get_default().is_none(), "a default provider was installed");
}

async fn shows_its_certificate_to_a_server_that_asks_for_one() {
    if !ready_for("openssl") {
        return;
    }
    let settings = vec![("ssl.clientAuth".to_owned(), "need".to_owned())];
    let server = Server::start(ZooKeeperOptions { tls: true, settings, ..ZooKeeperOptions::default() });
    let server = server.await.unwrap();
    let certificate = server.certificate();
    let url =
        format!("zookeeper://127.0.0.1:{}/?namespace=n&tls-ca={}", server.tls_port(), certificate.display());
    assert!(connect(&url).await.is_err());
    let key = certificate.with_extension("key");
    let known = format!("{url}&tls-cert={}&tls-key={}", certificate.display(), key.display());
    put(&connect(&known).await.unwrap(), "a", "1").await.unwrap();
}
