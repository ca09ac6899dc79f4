//! What each layer adds, shown over the memory driver.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test: a claim that does not hold panics")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use althing_core::layers::{
    Around, Call, Chaos, Deadline, Fault, Faults, Hop, Operation, Retry, Scope, Trace, Try,
};
use althing_core::{
    BootTime, Clock, Delta, Driver, Effect, Error, Guard, Key, Kind, ManualClock, Result, Revision,
    SeededChance, SessionId, Txn, limits,
};
use althing_driver_memory::Memory;
use async_trait::async_trait;
use tokio::runtime::Handle;

fn key(text: &str) -> Key {
    Key::from(text)
}

fn put(name: &str) -> Txn {
    Txn::new().put(key(name), "1")
}

/// A memory driver that meets faults, with its clock and its switches.
fn troubled() -> (Arc<ManualClock>, Arc<Memory>, Arc<Chaos>, Arc<Faults>) {
    let (clock, chance) = (Arc::new(ManualClock::new()), Arc::new(SeededChance::new(1)));
    let memory = Arc::new(Memory::new(clock.clone(), chance.clone()));
    let chaos = Arc::new(Chaos::new(memory.clone(), clock.clone(), chance));
    let faults = chaos.faults();
    (clock, memory, chaos, faults)
}

async fn is_there(driver: &dyn Driver, name: &str) -> bool {
    driver.get(&key(name)).await.unwrap().is_some()
}

/// Polls a future once, so that the call it makes has begun.
async fn begin<F: Future + Unpin>(future: &mut F) {
    assert!(futures::poll!(future).is_pending());
}

// Deadline

async fn check_deadline<T: std::fmt::Debug>(
    operation: Operation,
    expected: Effect,
    call: impl AsyncFnOnce(Deadline) -> Result<T>,
) {
    let (clock, _, chaos, faults) = troubled();
    faults.inject(operation, Fault::BlackHole);
    let deadline = Deadline::new(chaos, clock.clone());
    let mut call = Box::pin(call(deadline));
    begin(&mut call).await;
    clock.advance(limits::CALL_DEADLINE - Duration::from_millis(1));
    begin(&mut call).await;
    clock.advance(Duration::from_millis(1));
    let error = call.await.unwrap_err();
    assert_eq!(
        (error.kind(), error.effect(), error.operation()),
        (Kind::Timeout, expected, operation.name())
    );
}

#[tokio::test]
async fn ends_a_call_that_hangs_and_says_whether_it_may_have_landed() {
    use Operation::{Close, Commit, Get, List, Open, Renew, Watch};
    let id = SessionId(1);
    check_deadline(Open, Effect::Unknown, async |d| d.open(limits::LEASE_DEFAULT).await).await;
    check_deadline(Renew, Effect::Unknown, async |d| d.renew(id).await).await;
    check_deadline(Close, Effect::Unknown, async |d| d.close(id).await).await;
    check_deadline(Commit, Effect::Unknown, async |d| d.commit(put("a")).await).await;
    check_deadline(Get, Effect::None, async |d| d.get(&key("a")).await).await;
    check_deadline(List, Effect::None, async |d| d.list(&key("a"), None, 0).await).await;
    check_deadline(Watch, Effect::None, async |d| d.watch(&key("a"), Revision::ZERO).await).await;
}

// Retry

/// Fails the first calls, and counts all.
#[derive(Debug)]
struct Flaky {
    inner: Arc<dyn Driver>,
    failure: Error,
    failures: u32,
    sent: AtomicU32,
}

impl Around for Flaky {
    fn inner(&self) -> &Arc<dyn Driver> {
        &self.inner
    }

    async fn around<'a, T: Send + 'a>(
        &'a self,
        _call: Call<'a>,
        send: impl Fn() -> Try<'a, T> + Send + Sync + 'a,
    ) -> Result<T> {
        let sent = self.sent.fetch_add(1, Ordering::Relaxed);
        if sent < self.failures { Err(self.failure.clone()) } else { send().await }
    }
}

/// A clock on which nobody waits; it notes for how long they would have.
#[derive(Debug, Default)]
struct Hasty(Mutex<Vec<Duration>>);

#[async_trait]
impl Clock for Hasty {
    fn now(&self) -> BootTime {
        BootTime::default()
    }

    fn wall_ms(&self) -> u64 {
        0
    }

    async fn sleep_until(&self, deadline: BootTime) {
        self.0.lock().unwrap().push(deadline.as_duration());
    }
}

async fn check_retry(failure: Error, failures: u32, expected_sent: u32, lands: bool) {
    let (clock, memory, ..) = troubled();
    drop(clock);
    let flaky = Arc::new(Flaky { inner: memory, failure, failures, sent: AtomicU32::new(0) });
    let hasty = Arc::new(Hasty::default());
    let retry = Retry::new(flaky.clone(), hasty.clone(), Arc::new(SeededChance::new(1)));
    let done = retry.commit(put("a")).await;
    assert_eq!(done.is_ok(), lands, "{done:?}");
    assert_eq!(flaky.sent.swap(0, Ordering::Relaxed), expected_sent);
    let pauses = hasty.0.lock().unwrap();
    assert_eq!(pauses.len() as u32, expected_sent - 1);
    for (index, pause) in pauses.iter().enumerate() {
        let middle = limits::RETRY_PAUSE * (1 << index);
        assert!(*pause >= middle.mul_f64(0.89) && *pause <= middle.mul_f64(1.11), "{pauses:?}");
    }
}

#[tokio::test]
async fn sends_again_only_what_is_known_not_to_have_landed() {
    let failure = |kind| Error::new(kind, "commit", "for a test");
    check_retry(failure(Kind::Unavailable), 1, 2, true).await;
    check_retry(failure(Kind::Timeout), 2, 3, true).await;
    check_retry(failure(Kind::Unavailable), 9, limits::CALL_TRIES, false).await;
    check_retry(failure(Kind::Unavailable).with_unknown_effect(), 1, 1, false).await;
    check_retry(failure(Kind::Timeout).with_unknown_effect(), 1, 1, false).await;
    check_retry(failure(Kind::Conflict), 1, 1, false).await;
    check_retry(failure(Kind::SessionLost), 1, 1, false).await;
}

#[tokio::test]
async fn makes_a_watch_again_that_could_not_be_made() {
    let (_, memory, ..) = troubled();
    let failure = Error::new(Kind::Unavailable, "watch", "for a test");
    let flaky = Arc::new(Flaky { inner: memory, failure, failures: 2, sent: AtomicU32::new(0) });
    let retry = Retry::new(flaky, Arc::new(Hasty::default()), Arc::new(SeededChance::new(1)));
    let mut watch = retry.watch(&Key::default(), Revision::ZERO).await.unwrap();
    assert!(matches!(watch.next().await.unwrap(), Delta::Resync { .. }));
}

// Trace

#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn shows_operation_key_outcome_and_micros_but_no_value() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let (clock, memory, ..) = troubled();
    let trace = Trace::new(memory, clock);
    trace.commit(Txn::new().put(key("a/b"), "hunter2")).await.unwrap();
    let txn = Txn::new().guard(Guard::Absent(key("a/b"))).put(key("a/b"), "hunter2");
    trace.commit(txn).await.unwrap_err();
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    for said in ["backend=\"memory\"", "operation=\"commit\"", "key=a/b", "outcome=\"ok\"", "micros=0"] {
        assert!(text.contains(said), "no {said} in {text}");
    }
    assert!(text.contains("outcome=conflict") && text.contains("somebody else wrote first"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

// Chaos

async fn check_fault(fault: Fault, effect: Effect, lands: bool) {
    let (_, memory, chaos, faults) = troubled();
    faults.inject(Operation::Commit, fault);
    let error = chaos.commit(put("a")).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (Kind::Unavailable, effect), "{fault:?}");
    assert_eq!(is_there(&*memory, "a").await, lands, "{fault:?}");
    assert_eq!(faults.met(), 1);
    faults.heal();
    chaos.commit(put("b")).await.unwrap();
}

#[tokio::test]
async fn a_lost_request_and_a_lost_reply_look_the_same_and_are_not() {
    check_fault(Fault::Refuse, Effect::None, false).await;
    check_fault(Fault::LoseRequest, Effect::Unknown, false).await;
    check_fault(Fault::LoseReply, Effect::Unknown, true).await;
}

#[tokio::test]
async fn drops_only_the_commits_that_were_selected() {
    let (_, memory, chaos, faults) = troubled();
    faults.inject_on_commits(Fault::LoseRequest, |txn| {
        txn.writes.iter().any(|write| write.key().as_bytes().starts_with(b"leader/"))
    });
    chaos.commit(put("member/a")).await.unwrap();
    chaos.commit(put("leader/a")).await.unwrap_err();
    assert!(is_there(&*memory, "member/a").await && !is_there(&*memory, "leader/a").await);
}

#[tokio::test]
async fn meets_about_the_share_that_was_asked_for() {
    let (_, _, chaos, faults) = troubled();
    faults.inject_sometimes(Operation::Get, Fault::Refuse, 0.25);
    for _ in 0..1000 {
        drop(chaos.get(&key("a")).await);
    }
    assert!((200..300).contains(&faults.met()), "{}", faults.met());
}

#[tokio::test]
async fn a_black_hole_holds_calls_and_deltas_until_it_is_healed() {
    let (_, memory, chaos, faults) = troubled();
    let mut watch = chaos.watch(&Key::default(), Revision::ZERO).await.unwrap();
    watch.next().await.unwrap();
    faults.inject(Operation::Commit, Fault::BlackHole);
    faults.inject(Operation::Next, Fault::BlackHole);
    let mut held = chaos.commit(put("held"));
    begin(&mut held).await;
    assert!(!is_there(&*memory, "held").await);
    memory.commit(put("told late")).await.unwrap();
    begin(&mut watch.next()).await;
    begin(&mut watch.next()).await;
    faults.heal();
    held.await.unwrap();
    let Delta::Changes { changes, .. } = watch.next().await.unwrap() else { panic!("no change") };
    assert_eq!(*changes[0].key(), key("told late"), "what a dropped wait had taken is told");
}

// Hop

#[tokio::test]
async fn a_dropped_caller_does_not_cancel_what_it_began() {
    let (clock, memory, chaos, faults) = troubled();
    faults.inject(Operation::Commit, Fault::Delay(Duration::from_secs(1)));
    let hop = Hop::new(chaos, Handle::current());
    let mut call = hop.commit(put("a"));
    begin(&mut call).await;
    drop(call);
    while faults.met() == 0 {
        tokio::task::yield_now().await;
    }
    let mut watch = memory.watch(&Key::default(), Revision::ZERO).await.unwrap();
    watch.next().await.unwrap();
    clock.advance(Duration::from_secs(1));
    let delta = tokio::time::timeout(Duration::from_secs(10), watch.next()).await;
    assert!(matches!(delta.expect("the commit lands").unwrap(), Delta::Changes { .. }));
}

#[tokio::test]
async fn a_dropped_wait_for_a_delta_loses_nothing_over_the_hop() {
    let (_, memory, chaos, _) = troubled();
    let hop = Hop::new(chaos, Handle::current());
    let mut watch = hop.watch(&Key::default(), Revision::ZERO).await.unwrap();
    watch.next().await.unwrap();
    begin(&mut watch.next()).await;
    tokio::task::yield_now().await;
    memory.commit(put("a")).await.unwrap();
    begin(&mut watch.next()).await;
    let Delta::Changes { changes, .. } = watch.next().await.unwrap() else { panic!("no change") };
    assert_eq!((changes.len(), changes[0].key()), (1, &key("a")));
}

#[tokio::test]
async fn calls_fail_closed_when_their_runtime_has_ended() {
    let (_, _, chaos, faults) = troubled();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let hop = Hop::new(chaos, runtime.handle().clone());
    let mut watch = hop.watch(&Key::default(), Revision::ZERO).await.unwrap();
    watch.next().await.unwrap();
    faults.inject(Operation::Commit, Fault::BlackHole);
    faults.inject(Operation::Get, Fault::BlackHole);
    let mut begun = hop.commit(put("begun"));
    begin(&mut begun).await;
    runtime.shutdown_background();
    let check = |error: Error, effect| assert_eq!((error.kind(), error.effect()), (Kind::Closed, effect));
    check(begun.await.unwrap_err(), Effect::Unknown);
    check(hop.commit(put("a")).await.unwrap_err(), Effect::Unknown);
    check(hop.get(&key("a")).await.unwrap_err(), Effect::None);
    check(watch.next().await.unwrap_err(), Effect::None);
    check(watch.next().await.unwrap_err(), Effect::None);
}

/// Makes a timer in its first step and panics in the step that is asked for.
#[derive(Debug)]
struct Timing {
    inner: Arc<dyn Driver>,
    panics_after: Option<Duration>,
}

impl Around for Timing {
    fn inner(&self) -> &Arc<dyn Driver> {
        &self.inner
    }

    async fn around<'a, T: Send + 'a>(
        &'a self,
        _call: Call<'a>,
        send: impl Fn() -> Try<'a, T> + Send + Sync + 'a,
    ) -> Result<T> {
        let time = self.panics_after.unwrap_or(Duration::from_millis(1));
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        assert!(self.panics_after.is_none(), "for a test");
        send().await
    }
}

#[test]
fn timers_belong_to_the_runtime_hopped_to() {
    let (_, memory, ..) = troubled();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let timing = Arc::new(Timing { inner: memory, panics_after: None });
    let hop = Hop::new(timing, runtime.handle().clone());
    // The caller's runtime has no timers, so one made in its context would panic.
    let callers = tokio::runtime::Builder::new_current_thread().build().unwrap();
    callers.block_on(hop.commit(put("a"))).unwrap();
}

#[tokio::test]
async fn a_driver_that_panics_fails_its_call_and_no_more() {
    for panics_after in [Duration::ZERO, Duration::from_millis(1)] {
        let (_, memory, ..) = troubled();
        let timing = Arc::new(Timing { inner: memory, panics_after: Some(panics_after) });
        let hop = Hop::new(timing, Handle::current());
        let error = hop.commit(put("a")).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (Kind::Internal, Effect::Unknown));
        assert_eq!(hop.get(&key("a")).await.unwrap_err().effect(), Effect::None);
    }
}

// Scope

#[tokio::test]
async fn parts_of_a_namespace_see_neither_each_other_nor_what_lies_beside_them() {
    let (_, memory, ..) = troubled();
    // One name begins with the other, and one would reach out of its place.
    let parts = ["a", "ab", "a/", "..", "fleet"].map(|name| Scope::new(memory.clone(), name).unwrap());
    memory.commit(put("fleet/a")).await.unwrap();
    for (index, part) in parts.iter().enumerate() {
        let value = index.to_string();
        part.commit(Txn::new().put(key("x"), value.clone())).await.unwrap();
        let session = part.open(limits::LEASE_DEFAULT).await.unwrap();
        let records = part.list(&Key::default(), None, 0).await.unwrap().records;
        let names: Vec<_> = records.iter().map(|record| record.key.clone()).collect();
        assert_eq!(names, [session.id.key(), key("x")]);
        assert_eq!(records[1].value, value);
    }
    let beside = memory.list(&key("fleet/"), None, 0).await.unwrap().records;
    assert_eq!(beside.len(), 1, "what a host follows is not disturbed");
    let all = memory.list(&Key::default(), None, 0).await.unwrap().records;
    let below = |prefix: &str| all.iter().filter(|record| record.key.starts_with(&key(prefix))).count();
    assert_eq!(
        (below("ipc/"), below("session/"), all.len()),
        (2 * parts.len(), parts.len(), 3 * parts.len() + 1)
    );
}

#[tokio::test]
async fn a_session_that_a_part_cannot_show_is_closed_again() {
    let (_, memory, chaos, faults) = troubled();
    let part = Scope::new(chaos, "n").unwrap();
    for fault in [Fault::Refuse, Fault::LoseRequest, Fault::LoseReply] {
        faults.inject(Operation::Commit, fault);
        let error = part.open(limits::LEASE_DEFAULT).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (Kind::Unavailable, Effect::None), "{fault:?}");
        assert!(memory.list(&Key::default(), None, 0).await.unwrap().records.is_empty(), "{fault:?}");
        faults.heal();
    }
    faults.inject(Operation::Commit, Fault::Refuse);
    faults.inject(Operation::Close, Fault::Refuse);
    let error = part.open(limits::LEASE_DEFAULT).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (Kind::Unavailable, Effect::Unknown));
}

#[tokio::test]
async fn a_part_needs_a_name_that_leaves_room_for_keys() {
    let (_, memory, ..) = troubled();
    let kind = |name: &str| Scope::new(memory.clone(), name).map(drop).map_err(|error| error.kind());
    assert_eq!(kind(""), Err(Kind::Invalid));
    assert_eq!(kind(&"n".repeat(limits::SCOPE_BYTES_MAX)), Ok(()));
    assert_eq!(kind(&"n".repeat(limits::SCOPE_BYTES_MAX + 1)), Err(Kind::TooLarge));
}
