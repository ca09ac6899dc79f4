//! What happens to those who share the backend of a daemon: they are killed, stand still or talk nonsense, and the daemon
//! ends, dies, comes back with nothing, stands still, or is none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: what it does not expect ends it"
)]

#[path = "../daemon/mod.rs"]
mod daemon;
mod peer;
mod strangers;
mod users;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use althing_core::layers::{Around, Call, Operation, Try};
use althing_core::{
    Cause, Change, Clock, Delta, Driver, Effect, Error, Key, Kind, OsChance, Principal, Requirement, Result,
    Revision, SessionId, SystemClock, Txn, Watch, limits,
};
use althing_driver_ipc::Ipc;
use althing_driver_memory::Memory;
use althing_engine::{Engine, EngineConfig};
use althing_runtime::{Runtime, RuntimeConfig};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::daemon::{Daemon, connect};
use crate::peer::Peer;

macro_rules! tests {
    ($($name:path),+ $(,)?) => {
        &[$((stringify!($name), || Box::pin($name()))),+]
    };
}

fn main() -> ExitCode {
    if let Some(work) = peer::work().or_else(users::work) {
        return work;
    }
    // They need nothing but processes.
    althing_test_servers::run(
        "sh",
        tests![
            a_killed_process_is_seen_at_once,
            a_process_that_stands_still_loses_its_session_and_is_told,
            a_daemon_that_ends_and_comes_back_changes_nothing,
            a_daemon_that_dies_and_comes_back_changes_nothing,
            a_daemon_that_ends_closes_the_sessions_of_the_dead_and_of_nobody_else,
            a_daemon_that_lost_its_memory_tells_so_and_its_tokens_rise,
            a_daemon_with_an_older_backend_is_refused,
            a_session_that_no_daemon_renews_ends_by_its_lease,
            hosts_of_a_part_see_each_other_and_those_of_another_do_not,
            heartbeats_pass_a_flood_that_is_bounded,
            what_an_error_names_is_named_as_it_is_here,
            strangers::garbage_ends_its_connection_and_nothing_else,
            strangers::a_black_hole_is_told_with_what_it_may_have_done,
            strangers::says_who_is_not_there_and_what_to_do,
            users::a_stranger_at_the_place_of_our_daemon_is_not_believed,
            users::who_may_ask_the_daemon_of_another_user_still_may,
        ],
    )
}

/// Longer than any test: what goes before was not left to it.
const LONG: Duration = Duration::from_secs(250);
/// What happens at once happens within this, on a busy machine too.
const SOON: Duration = Duration::from_secs(20);

async fn put(driver: &dyn Driver, key: &str) -> Result<Revision> {
    driver.commit(Txn::new().put(key.into(), "")).await.map(|committed| committed.revision)
}

/// Opens a session that owns one record.
async fn hold(driver: &dyn Driver, lease: Duration) -> SessionId {
    let session = driver.open(lease).await.unwrap().id;
    driver.commit(Txn::new().put_owned("held".into(), "", session)).await.unwrap();
    session
}

async fn is_held(driver: &dyn Driver) -> bool {
    driver.get(&"held".into()).await.unwrap().is_some()
}

fn is_outage(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::Timeout)
}

/// Calls until it does not fail for want of a daemon.
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
    let next = async {
        loop {
            match watch.next().await {
                Ok(delta) => return delta,
                Err(error) => assert!(is_outage(&error), "{error}"),
            }
        }
    };
    timeout(SOON, next).await.expect("what happened is told")
}

/// Waits until the record of a holder is gone, and returns why.
async fn gone(watch: &mut dyn Watch) -> Cause {
    loop {
        let Delta::Changes { changes, .. } = next(watch).await else {
            panic!("a resync where nothing was lost")
        };
        let cause = changes.iter().find_map(|change| match change {
            Change::Deleted { key, cause, .. } if *key == "held".into() => Some(*cause),
            _ => None,
        });
        if let Some(cause) = cause {
            return cause;
        }
    }
}

async fn watch(driver: &dyn Driver) -> Box<dyn Watch> {
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Delta::Resync { .. }));
    watch
}

#[track_caller]
fn check_error(error: &Error, kind: Kind, effect: Effect) {
    assert_eq!((error.kind(), error.effect()), (kind, effect), "{error}");
}

async fn a_killed_process_is_seen_at_once() {
    let daemon = Daemon::on_memory().await;
    let here = daemon.connect("n").await;
    let mut watch = watch(&here).await;
    let mut peer = Peer::start(&daemon.url("n"), LONG).await;
    assert!(is_held(&here).await);
    peer.kill();
    assert_eq!(gone(&mut *watch).await, Cause::Closed);
    assert_eq!(here.renew(peer.session).await.unwrap_err().kind(), Kind::SessionLost);
}

async fn a_process_that_stands_still_loses_its_session_and_is_told() {
    const LEASE: Duration = Duration::from_secs(1);
    let daemon = Daemon::on_memory().await;
    let here = daemon.connect("n").await;
    let mut watch = watch(&here).await;
    let mut peer = Peer::start(&daemon.url("n"), LEASE).await;
    peer.pause();
    assert_eq!(gone(&mut *watch).await, Cause::Expired);
    SystemClock.sleep(LEASE * 2).await;
    peer.resume();
    assert_eq!(peer.line().await, "session-lost");
}

/// Lets the daemon go by `leave` and come back, and checks that who holds something holds it still.
async fn check_return(leave: impl AsyncFnOnce(&mut Daemon)) {
    let mut daemon = Daemon::on_memory().await;
    let (holder, other) = (daemon.connect("n").await, daemon.connect("n").await);
    let session = hold(&holder, LONG).await;
    let before = put(&holder, "kept").await.unwrap();
    let mut watch = watch(&other).await;
    leave(&mut daemon).await;
    let refused = put(&other, "meanwhile").await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable, "{refused}");
    daemon.begin().await;
    insist(async || holder.renew(session).await).await.unwrap();
    assert!(is_held(&holder).await);
    assert!(insist(async || put(&other, "after").await).await.unwrap() > before);
    let Delta::Resync { records, .. } = next(&mut *watch).await else { panic!("a gap was hidden") };
    assert!(records.iter().any(|record| record.key == "held".into()));
    assert!(records.iter().any(|record| record.session == Some(session) && record.key == session.key()));
    // The session is bound to the connection on which it was renewed, and goes with that.
    drop(holder);
    assert_eq!(gone(&mut *watch).await, Cause::Closed);
}

async fn a_daemon_that_ends_and_comes_back_changes_nothing() {
    check_return(async |daemon| daemon.end().await).await;
}

async fn a_daemon_that_dies_and_comes_back_changes_nothing() {
    check_return(async |daemon| daemon.die().await).await;
}

async fn a_daemon_that_ends_closes_the_sessions_of_the_dead_and_of_nobody_else() {
    let memory = Memory::new(Arc::new(SystemClock), Arc::new(OsChance));
    let mut daemon = Daemon::start(Arc::new(memory.clone())).await;
    let (living, dead) = (daemon.connect("n").await, daemon.connect("n").await);
    let (kept, lost) = (living.open(LONG).await.unwrap().id, dead.open(LONG).await.unwrap().id);
    drop(dead);
    daemon.end().await;
    memory.renew(kept).await.unwrap();
    assert_eq!(memory.renew(lost).await.unwrap_err().kind(), Kind::SessionLost);
}

fn fresh_memory() -> Arc<dyn Driver> {
    let location = "memory:".parse().unwrap();
    Arc::new(Memory::connect(&location, Arc::new(SystemClock), Arc::new(OsChance)).unwrap())
}

async fn a_daemon_that_lost_its_memory_tells_so_and_its_tokens_rise() {
    let mut daemon = Daemon::start(fresh_memory()).await;
    let driver = daemon.connect("n").await;
    let session = hold(&driver, LONG).await;
    let before = put(&driver, "kept").await.unwrap();
    let mut watch = watch(&driver).await;
    daemon.die().await;
    daemon.replace(fresh_memory());
    daemon.begin().await;
    let error = insist(async || driver.renew(session).await).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    let Delta::Resync { records, revision } = next(&mut *watch).await else { panic!("loss was hidden") };
    assert!(records.is_empty() && revision > before, "{records:?} {revision:?}");
    assert!(put(&driver, "kept").await.unwrap() > before);
}

/// Calls until it fails for more than the end of the daemon that died, which has to be for want of what was seen.
async fn check_found_older<T: std::fmt::Debug>(mut call: impl AsyncFnMut() -> Result<T>) {
    // The second is what it may have told its watches at the very last.
    let ends = ["broke", "the I/O runtime has ended"];
    let error = loop {
        match call().await.unwrap_err() {
            error if ends.iter().any(|end| error.message().contains(end)) => {}
            error => break error,
        }
    };
    check_error(&error, Kind::Unavailable, Effect::None);
    assert!(error.to_string().contains("older than what was seen"), "{error}");
}

async fn a_daemon_with_an_older_backend_is_refused() {
    let mut daemon = Daemon::start(fresh_memory()).await;
    let driver = daemon.connect("n").await;
    put(&driver, "kept").await.unwrap();
    let mut watch = watch(&driver).await;
    daemon.die().await;
    daemon.replace(Arc::new(Memory::new(Arc::new(SystemClock), Arc::new(OsChance))));
    daemon.begin().await;
    // What was read before could pass for what is there now. Watches first: they do not lean on what a call found.
    check_found_older(async || watch.next().await).await;
    check_found_older(async || driver.watch(&Key::default(), Revision(1)).await).await;
    check_found_older(async || put(&driver, "kept").await).await;
    check_found_older(async || watch.next().await).await;
    put(&daemon.connect("n").await, "kept").await.unwrap();
}

async fn a_session_that_no_daemon_renews_ends_by_its_lease() {
    const LEASE: Duration = Duration::from_secs(2);
    let mut daemon = Daemon::on_memory().await;
    let holder = daemon.connect("n").await;
    let session = hold(&holder, LEASE).await;
    daemon.die().await;
    SystemClock.sleep(LEASE + LEASE / 4).await;
    daemon.begin().await;
    let error = insist(async || holder.renew(session).await).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    assert!(!is_held(&holder).await);
}

async fn embedded(daemon: &Daemon, namespace: &str) -> Runtime {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let driver = Arc::new(daemon.connect(namespace).await);
    Runtime::start(RuntimeConfig::new(Handle::current()), driver, engine).await.unwrap()
}

async fn create(host: &Runtime, group: &str) {
    host.create_group(&Principal::Embedder, group, &Requirement::NONE).await.unwrap();
}

async fn sees(host: &Runtime, group: &str) {
    let seen = async {
        while host.group(group).is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, seen).await.expect("the group is seen");
}

async fn hosts_of_a_part_see_each_other_and_those_of_another_do_not() {
    let daemon = Daemon::on_memory().await;
    let one = embedded(&daemon, "prod").await;
    let (two, other) = (embedded(&daemon, "prod").await, embedded(&daemon, "test").await);
    let (peer, fleet) = (embedded(&daemon, "").await, daemon.runtime());
    create(&one, "web").await;
    sees(&two, "web").await;
    create(&fleet, "db").await;
    sees(&peer, "db").await;
    create(&other, "own").await;
    let names =
        |host: &Runtime| host.groups().unwrap().into_iter().map(|group| group.name).collect::<Vec<_>>();
    assert_eq!(names(&other), ["own"]);
    assert_eq!(names(&one), ["web"]);
    assert_eq!(names(&fleet), ["db"]);
    assert_eq!(names(&peer), ["db"]);
    for host in [one, two, other, peer] {
        host.stop().await;
    }
}

/// Holds reads back and counts how many it holds.
#[derive(Debug)]
struct Gate {
    inner: Arc<dyn Driver>,
    open: tokio::sync::Semaphore,
    inside: AtomicUsize,
    most: AtomicUsize,
}

impl Around for Gate {
    fn inner(&self) -> &Arc<dyn Driver> {
        &self.inner
    }

    async fn around<'a, T: Send + 'a>(
        &'a self,
        call: Call<'a>,
        send: impl Fn() -> Try<'a, T> + Send + Sync + 'a,
    ) -> Result<T> {
        if call.operation == Operation::Get {
            let inside = self.inside.fetch_add(1, Ordering::AcqRel) + 1;
            self.most.fetch_max(inside, Ordering::AcqRel);
            let opened = self.open.acquire().await;
            self.inside.fetch_sub(1, Ordering::AcqRel);
            drop(opened);
        }
        send().await
    }
}

async fn heartbeats_pass_a_flood_that_is_bounded() {
    let (inner, counts) = (fresh_memory(), || AtomicUsize::new(0));
    let open = tokio::sync::Semaphore::new(0);
    let gate = Arc::new(Gate { inner, open, inside: counts(), most: counts() });
    let daemon = Daemon::start(gate.clone()).await;
    let driver = Arc::new(connect(&format!("{}&timeout=60s", daemon.url("n"))).await.unwrap());
    let session = hold(&*driver, LONG).await;
    let flood: Vec<_> = (0..4 * limits::WAIST_CALLS_MAX)
        .map(|_| {
            tokio::spawn({
                let driver = driver.clone();
                async move { driver.get(&"held".into()).await }
            })
        })
        .collect();
    while gate.inside.load(Ordering::Acquire) < 32 {
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        timeout(SOON, driver.renew(session)).await.expect("a heartbeat passes").unwrap();
    }
    gate.open.add_permits(limits::WAIST_CALLS_MAX);
    for read in flood {
        assert!(read.await.unwrap().unwrap().is_some());
    }
    let (most, bound) =
        (gate.most.load(Ordering::Acquire), limits::WAIST_BYTES_MAX / limits::VALUE_BYTES_MAX);
    assert!(most <= bound, "{most} reads at once, and {bound} may be");
}

async fn what_an_error_names_is_named_as_it_is_here() {
    let daemon = Daemon::on_memory().await;
    let driver: Ipc = daemon.connect("it's \"mine\"").await;
    put(&driver, "a").await.unwrap();
    let txn = Txn::new().guard(althing_core::Guard::Absent("a".into())).put("a".into(), "");
    let error = driver.commit(txn).await.unwrap_err();
    check_error(&error, Kind::Conflict, Effect::None);
    assert_eq!(error.context(), [("key", "a".to_owned())]);
    assert!(!error.to_string().contains("ipc/"), "{error}");
}
