//! What a behaviour asks of the store that it may not have is answered, counted and bounded; what it answers that cannot be
//! followed is a fault.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail in no better way")]

use std::sync::Arc;
use std::time::Duration;

use althing_core::{
    Clock, ElectionView, Error, Kind, Liveness, ManualClock, MemberView, Revision, SystemClock, limits,
};
use althing_engine::{
    BehaviourAnswer, BehaviourRequest, Engine, EngineConfig, Entry, EntryGuard, EntryPage, EntryWrite, Fault,
    FaultCause, MemoryRecords, Policy, Records, RecordsError,
};
use althing_policies_test::bundle;
use async_trait::async_trait;
use tokio::sync::{Notify, Semaphore};

const GRANTED: &str = "grants.store = ['mine/', 'ours/']\nlimits.cpu_ms = 200";

const ABUSES_STORE: &str = "guests/fixtures/built/abuses-store.wasm";
const ELECT_OLDEST: &str = "policies/elect-oldest/elect_oldest.wasm";

fn engine() -> Engine {
    Engine::new(EngineConfig::default()).unwrap()
}

/// A view of a group with one member.
fn view() -> ElectionView {
    let member = MemberView {
        id: "a".into(),
        incarnation: "1".into(),
        seniority: 0,
        metadata: Default::default(),
        liveness: Liveness::default(),
        attributes: Default::default(),
    };
    ElectionView {
        group: "web".into(),
        now_ms: 1000.0,
        members: vec![member],
        leader: None,
        attributes: Default::default(),
    }
}

async fn load(engine: &Engine, component: &str, rest: &str) -> Result<Arc<Policy>, Error> {
    engine.load(&bundle("behaviour", component, rest)?).await
}

fn request(operation: &str, body: &str) -> BehaviourRequest {
    BehaviourRequest {
        id: "request".into(),
        operation: operation.into(),
        body: body.to_owned().into(),
        principal: "somebody".into(),
        session: "session".into(),
        now_ms: 1000.0,
        deadline_ms: 31_000.0,
        attempt: 0,
        last: false,
        attributes: Default::default(),
    }
}

type Answered = Result<Result<BehaviourAnswer, RecordsError>, Fault>;

async fn ask(operation: &str, body: &str, records: &MemoryRecords) -> Answered {
    let policy = load(&engine(), ABUSES_STORE, GRANTED).await.unwrap();
    let handled = policy.handle(&request(operation, body), Arc::new(records.clone())).await?;
    Ok(handled.answer)
}

/// Asks for something that must be refused, and checks that it wrote nothing.
async fn refusal(operation: &str, body: &str) -> RecordsError {
    let records = MemoryRecords::new("session");
    let refused = ask(operation, body, &records).await.unwrap().unwrap_err();
    assert_eq!(records.entries(), [], "{operation}");
    refused
}

#[tokio::test]
async fn keys_and_prefixes_outside_the_grants_are_denied_by_name() {
    let asked = [
        ("gets", "others/a"),
        ("gets", "mine"),
        ("gets", "minestrone/a"),
        ("gets", ""),
        ("lists", "min"),
        ("lists", ""),
        ("goes-on-after", "others/a"),
        ("guards-others", ""),
        ("writes-others", ""),
        ("deletes-others", ""),
    ];
    for (operation, body) in asked {
        let RecordsError::Denied(why) = refusal(operation, body).await else { panic!("{operation} {body}") };
        assert!(why.contains("lies outside the prefixes that are granted: mine/, ours/"), "{why}");
    }
    let records = MemoryRecords::new("session");
    for granted in ["mine/a", "mine/", "ours/b"] {
        let answer = ask("gets", granted, &records).await.unwrap();
        assert_eq!(answer, Ok(BehaviourAnswer::Done("false".into())), "{granted}");
    }
}

#[tokio::test]
async fn stamps_that_are_none_are_the_guests_mistake() {
    for text in [
        "",
        "7",
        "-0000000000000000007",
        "99999999999999999999",
        "twenty letters, not 1",
        "+0000000000000000007",
    ] {
        let RecordsError::Other(why) = refusal("bad-stamp", text).await else { panic!("{text}") };
        assert!(why.contains("no revision of twenty digits"), "{why}");
    }
    assert_eq!(refusal("bad-stamp", "00000000000000000007").await, RecordsError::Conflict("mine/a".into()));
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_the_limit() {
    for (operation, part) in
        [("large-value", "at most 262144"), ("many-keys", "a transaction on 70 keys; at most 60")]
    {
        let RecordsError::TooLarge(why) = refusal(operation, "").await else { panic!("{operation}") };
        assert!(why.contains(part), "{why}");
    }
    let long = format!("mine/{}", "x".repeat(limits::BEHAVIOUR_KEY_BYTES_MAX));
    assert_eq!(
        refusal("gets", &long).await,
        RecordsError::TooLarge("a key of 2053 bytes; at most 2048".into())
    );
    for (operation, part) in
        [("writes-twice", "writes \"mine/a\" twice"), ("writes-nothing", "an empty transaction")]
    {
        let RecordsError::Other(why) = refusal(operation, "").await else { panic!("{operation}") };
        assert!(why.contains(part), "{why}");
    }
}

#[tokio::test]
async fn a_guest_that_never_stops_asking_is_refused_and_one_that_goes_on_ends_by_its_time() {
    let records = MemoryRecords::new("session");
    let told = ask("never-stops-asking", "", &records).await.unwrap().unwrap();
    let expected =
        "256 calls, then: the store was called 256 times, which is the most while a request is asked once";
    assert_eq!(told, BehaviourAnswer::Done(expected.into()));
    let fault = ask("heeds-no-refusal", "", &records).await.unwrap_err();
    assert_eq!(fault.cause, FaultCause::Cpu, "{fault}");
}

#[tokio::test]
async fn answers_that_cannot_be_followed_are_faults() {
    let records = MemoryRecords::new("session");
    let wrong = [
        ("waits-for-others", "", "it waits for what \"others/a\" lies outside the prefixes"),
        ("waits-until", "NaN", "it waits until NaN"),
        ("answers-too-much", "", "its answer has 1048577 bytes; at most 1048576"),
    ];
    for (operation, body, part) in wrong {
        let fault = ask(operation, body, &records).await.unwrap_err();
        assert_eq!(fault.cause, FaultCause::Answer, "{operation}: {fault}");
        assert!(fault.detail.contains(part), "{fault}");
    }
    let fault = ask("is-none-of-these", "", &records).await.unwrap_err();
    assert_eq!(fault.cause, FaultCause::Trap, "{fault}");
    let Err(RecordsError::Other(why)) = ask("gives-up-at-length", "", &records).await.unwrap() else {
        panic!()
    };
    assert_eq!(why.len(), limits::REASON_BYTES_MAX);
}

#[tokio::test]
async fn a_wait_lies_between_a_pause_from_now_and_the_deadline() {
    let records = MemoryRecords::new("session");
    for (until, kept) in
        [("-inf", 1100.0), ("1001", 1100.0), ("5000", 5000.0), ("99999", 31_000.0), ("inf", 31_000.0)]
    {
        let waits = BehaviourAnswer::Wait { prefix: "mine/".into(), until_ms: kept };
        assert_eq!(ask("waits-until", until, &records).await.unwrap(), Ok(waits), "{until}");
    }
}

#[tokio::test]
async fn a_page_as_large_as_pages_get_is_too_much_for_a_small_guest_only() {
    let records = MemoryRecords::new("session");
    for number in 0..20 {
        let put = EntryWrite::Put {
            key: format!("mine/{number}").into(),
            value: vec![0; 200 << 10].into(),
            owned: false,
        };
        records.commit(Vec::new(), vec![put]).await.unwrap();
    }
    for (memory_mib, reads) in [(1, false), (16, true)] {
        let rest = format!("{GRANTED}\nlimits.memory_mib = {memory_mib}");
        let policy = load(&engine(), ABUSES_STORE, &rest).await.unwrap();
        let handled = policy.handle(&request("reads-much", ""), Arc::new(records.clone())).await;
        match handled {
            Ok(handled) => assert!(reads && handled.answer == Ok(BehaviourAnswer::Done("20".into()))),
            Err(fault) => assert!(!reads && fault.cause == FaultCause::Memory, "{fault}"),
        }
    }
}

/// Records that answer when they are let, and tell when they are asked and when nobody waits any more.
#[derive(Debug, Default)]
struct Slow {
    asked: Arc<Notify>,
    dropped: Arc<Notify>,
    open: Option<Arc<Semaphore>>,
}

struct TellsOfItsDrop(Arc<Notify>);

impl Drop for TellsOfItsDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[async_trait]
impl Records for Slow {
    async fn get(&self, _key: &[u8]) -> Result<Option<Entry>, RecordsError> {
        let _told = TellsOfItsDrop(self.dropped.clone());
        self.asked.notify_one();
        match &self.open {
            Some(open) => drop(open.acquire().await),
            None => std::future::pending().await,
        }
        Ok(None)
    }

    async fn list(&self, _: &[u8], _: Option<&[u8]>, _: u32) -> Result<EntryPage, RecordsError> {
        Err(RecordsError::SessionLost)
    }

    async fn commit(&self, _: Vec<EntryGuard>, _: Vec<EntryWrite>) -> Result<Revision, RecordsError> {
        Err(RecordsError::SessionLost)
    }
}

#[tokio::test]
async fn waiting_for_the_store_takes_none_of_the_guests_time_and_work_of_the_host_neither() {
    #[derive(Debug)]
    struct Busy;
    #[async_trait]
    impl Records for Busy {
        async fn get(&self, _key: &[u8]) -> Result<Option<Entry>, RecordsError> {
            let began = SystemClock.now();
            while SystemClock.now().since(began) < Duration::from_millis(60) {
                std::hint::spin_loop();
            }
            Ok(None)
        }

        async fn list(&self, _: &[u8], _: Option<&[u8]>, _: u32) -> Result<EntryPage, RecordsError> {
            Err(RecordsError::SessionLost)
        }

        async fn commit(&self, _: Vec<EntryGuard>, _: Vec<EntryWrite>) -> Result<Revision, RecordsError> {
            Err(RecordsError::SessionLost)
        }
    }
    let rest = "grants.store = ['mine/']\nlimits.cpu_ms = 30";
    let policy = load(&engine(), ABUSES_STORE, rest).await.unwrap();
    let handled = policy.handle(&request("waits-for-the-store", ""), Arc::new(Busy)).await.unwrap();
    assert_eq!(handled.answer, Ok(BehaviourAnswer::Done("it answered".into())));
    assert!(handled.cpu < Duration::from_millis(30), "{:?}", handled.cpu);
}

#[tokio::test]
async fn a_call_that_is_dropped_drops_what_it_asked_and_gives_its_place_back() {
    let engine = Engine::new(EngineConfig { calls_max: 1, ..EngineConfig::default() }).unwrap();
    let policy = load(&engine, ABUSES_STORE, GRANTED).await.unwrap();
    for _ in 0..10 {
        let slow = Slow::default();
        let (asked, dropped) = (slow.asked.clone(), slow.dropped.clone());
        let call = tokio::spawn({
            let policy = policy.clone();
            async move { policy.handle(&request("waits-for-the-store", ""), Arc::new(slow)).await }
        });
        asked.notified().await;
        call.abort();
        tokio::time::timeout(Duration::from_secs(10), dropped.notified()).await.unwrap();
    }
    let records = Arc::new(MemoryRecords::new("session"));
    policy.handle(&request("gets", "mine/a"), records).await.unwrap().answer.unwrap();
}

#[tokio::test]
async fn a_call_ends_a_grace_after_the_deadline_of_its_request() {
    let clock = Arc::new(ManualClock::new());
    let engine = Engine::new(EngineConfig { clock: clock.clone(), ..EngineConfig::default() }).unwrap();
    let policy = load(&engine, ABUSES_STORE, GRANTED).await.unwrap();
    let began = clock.now();
    let call = tokio::spawn(async move {
        policy.handle(&request("waits-for-the-store", ""), Arc::new(Slow::default())).await
    });
    while !call.is_finished() {
        clock.advance(Duration::from_millis(100));
        tokio::task::yield_now().await;
    }
    let fault = call.await.unwrap().unwrap_err();
    assert_eq!(fault.to_string(), "fault (deadline): it gave no answer within 35000 ms");
    assert!(clock.now().since(began) >= Duration::from_secs(30) + limits::BEHAVIOUR_GRACE);
}

#[tokio::test]
async fn behaviours_that_wait_for_the_backend_leave_half_of_the_places_to_rules() {
    let engine = Engine::new(EngineConfig { calls_max: 4, ..EngineConfig::default() }).unwrap();
    let policy = load(&engine, ABUSES_STORE, GRANTED).await.unwrap();
    let rule = engine.load(&bundle("election", ELECT_OLDEST, "").unwrap()).await.unwrap();
    let (asked, open) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let slow = Slow { asked: asked.clone(), open: Some(open.clone()), ..Slow::default() };
            let policy = policy.clone();
            tokio::spawn(
                async move { policy.handle(&request("waits-for-the-store", ""), Arc::new(slow)).await },
            )
        })
        .collect();
    asked.notified().await;
    for _ in 0..20 {
        let ruling = tokio::time::timeout(Duration::from_secs(20), rule.elect(&view())).await;
        ruling.unwrap().unwrap();
    }
    open.add_permits(calls.len());
    for call in calls {
        call.await.unwrap().unwrap().answer.unwrap();
    }
}

#[track_caller]
fn check(error: &Error, kind: Kind, parts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "no {part:?} in: {error}");
    }
}

#[tokio::test]
async fn a_store_that_is_not_granted_and_a_guest_of_another_kind_are_refused_when_loaded() {
    let error = load(&engine(), ABUSES_STORE, "").await.unwrap_err();
    check(
        &error,
        Kind::Denied,
        &["althing:policy/store@0.1.0", "names prefixes such as `store = [\"semaphore/\"]`"],
    );
    let error = load(&engine(), ELECT_OLDEST, GRANTED).await.unwrap_err();
    check(&error, Kind::Invalid, &["not built for world behaviour-policy", "althing:policy/behaviour@0.1.0"]);
    let bundle = bundle("election", ABUSES_STORE, "").unwrap();
    let error = engine().load(&bundle).await.unwrap_err();
    check(&error, Kind::Denied, &["althing:policy/store@0.1.0", "An election rule may import config"]);
}

#[test]
fn prefixes_are_for_behaviours_and_have_their_form() {
    let wrong = |kind: &str, prefixes: &str| {
        bundle(kind, ABUSES_STORE, &format!("grants.store = {prefixes}")).unwrap_err()
    };
    check(
        &wrong("election", "['mine/']"),
        Kind::Invalid,
        &["[grants] store in a policy of kind election", "policy.toml"],
    );
    for prefix in ["", "/", "mine", "/mine/", "mine/a"] {
        let error = wrong("behaviour", &format!("['{prefix}']"));
        check(&error, Kind::Invalid, &[&format!("names the prefix {prefix:?}"), "`/` at its end"]);
    }
    let long = format!("['{}/']", "x".repeat(limits::BEHAVIOUR_PREFIX_BYTES_MAX));
    check(&wrong("behaviour", &long), Kind::Invalid, &["up to 256 bytes"]);
    let many = format!("[{}]", "'mine/',".repeat(limits::BEHAVIOUR_PREFIXES_MAX + 1));
    check(&wrong("behaviour", &many), Kind::Invalid, &["names 17 prefixes; at most 16"]);
}

#[tokio::test]
async fn a_policy_is_asked_only_what_its_kind_answers() {
    let engine = engine();
    let behaviour = load(&engine, ABUSES_STORE, GRANTED).await.unwrap();
    let fault = behaviour.elect(&view()).await.unwrap_err();
    assert_eq!(fault.to_string(), "fault (host): the policy is of kind behaviour: it decides about no group");
    let rule = engine.load(&bundle("election", ELECT_OLDEST, "").unwrap()).await.unwrap();
    let records = Arc::new(MemoryRecords::new("session"));
    let fault = rule.handle(&request("gets", ""), records).await.unwrap_err();
    assert_eq!(fault.to_string(), "fault (host): the policy is of kind election: it handles no requests");
}
