//! The semaphore, with many callers at once and a backend that fails.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail in no better way")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use althing_engine::{Policy, RecordsError};
use althing_policies_test::{Backend, shipped};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(60);

async fn ask(backend: &Backend, policy: &Policy, session: &str, operation: &str, body: Value) -> Value {
    backend.call(policy, session, operation, body, PATIENCE).await.unwrap().unwrap()
}

#[tokio::test]
async fn permits_go_round_in_the_order_of_those_who_came() {
    let (backend, policy) = (Backend::new(0.0, 1), shipped("semaphore").await);
    let body = json!({ "name": "db", "limit": 1 });
    ask(&backend, &policy, "first", "acquire", body.clone()).await;
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut callers = JoinSet::new();
    for place in 0..6 {
        let (backend, policy, body, order) = (backend.clone(), policy.clone(), body.clone(), order.clone());
        let waiting = backend.clone();
        callers.spawn(async move {
            let session = format!("caller-{place}");
            let held = ask(&backend, &policy, &session, "acquire", body).await;
            order.lock().unwrap().push((place, held["token"].as_str().unwrap().to_owned()));
            ask(&backend, &policy, &session, "release", json!({ "name": "db" })).await
        });
        while waiting.keys().iter().filter(|key| key.contains("/wait/")).count() <= place {
            tokio::task::yield_now().await;
        }
    }
    ask(&backend, &policy, "first", "release", json!({ "name": "db" })).await;
    assert!(callers.join_all().await.iter().all(|released| released["outcome"] == "released"));
    let order = order.lock().unwrap().clone();
    assert!(order.is_sorted() && order.len() == 6, "{order:?}");
    assert!(order.is_sorted_by_key(|(_, token)| token.clone()), "{order:?}");
    assert_eq!(backend.keys(), [""; 0]);
}

#[tokio::test]
async fn a_holder_that_is_gone_makes_room_for_the_next() {
    let (backend, policy) = (Backend::new(0.0, 2), shipped("semaphore").await);
    let body = json!({ "name": "db", "limit": 1 });
    ask(&backend, &policy, "first", "acquire", body.clone()).await;
    let next = tokio::spawn({
        let (backend, policy) = (backend.clone(), policy.clone());
        async move { ask(&backend, &policy, "second", "acquire", body).await }
    });
    backend.shows("/wait/").await;
    backend.end("first");
    assert_eq!(next.await.unwrap()["outcome"], "held");
}

#[tokio::test]
async fn who_is_told_of_a_time_out_holds_nothing_and_stands_in_nobodys_way() {
    let (backend, policy) = (Backend::new(0.0, 3), shipped("semaphore").await);
    let body = json!({ "name": "db", "limit": 1 });
    ask(&backend, &policy, "first", "acquire", body.clone()).await;
    let late = backend.call(&policy, "second", "acquire", body.clone(), Duration::ZERO).await;
    assert_eq!(late, Ok(None));
    assert_eq!(backend.keys(), ["semaphore/db/permit/0"]);
    let session_lost = {
        backend.end("third");
        backend.call(&policy, "third", "acquire", json!({ "name": "other", "limit": 1 }), PATIENCE).await
    };
    assert_eq!(session_lost, Err(RecordsError::SessionLost));
}

/// Callers come and go, some are cut off, others lose patience, and a tenth of all operations fails. Each counts itself while it
/// knows that it holds a permit. Those that do not give up are all served, however slow the machine is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_more_than_the_limit_hold_whatever_fails_and_nothing_is_left() {
    for seed in 1..=4 {
        let (backend, policy) = (Backend::new(0.1, seed), shipped("semaphore").await);
        let count = Arc::new(Count::default());
        let mut callers = JoinSet::new();
        for place in 0..CALLERS {
            let caller = Caller {
                backend: backend.clone(),
                policy: policy.clone(),
                count: count.clone(),
                session: format!("caller-{place}"),
                gives_up: place % 2 == 1,
            };
            callers.spawn(async move {
                for round in 0..ROUNDS {
                    // Every fourth is cut off in the middle of its second round.
                    if place % 4 == 0 && round == 1 {
                        let cut = caller.ask("acquire", json!({ "name": "db", "limit": LIMIT }));
                        let _ = tokio::time::timeout(Duration::from_millis(5), cut).await;
                        break;
                    }
                    caller.hold_once().await;
                }
                caller.backend.end(&caller.session);
            });
        }
        while let Some(ended) = callers.join_next().await {
            ended.unwrap();
        }
        backend.settle().await;
        assert_eq!(backend.keys(), [""; 0], "seed {seed}");
        let most = count.most.load(Ordering::SeqCst);
        assert!((1..=LIMIT).contains(&most), "seed {seed}: {most} at once");
        // A quarter is cut off after one round, and a quarter stays for all of them.
        let served = count.patient.load(Ordering::SeqCst);
        assert_eq!(served, CALLERS / 4 + CALLERS / 4 * ROUNDS, "seed {seed}");
    }
}

const LIMIT: usize = 3;
const CALLERS: usize = 24;
const ROUNDS: usize = 4;

#[derive(Default)]
struct Count {
    held: AtomicUsize,
    most: AtomicUsize,
    /// How often those were served that do not give up.
    patient: AtomicUsize,
}

struct Caller {
    backend: Backend,
    policy: Arc<Policy>,
    count: Arc<Count>,
    session: String,
    gives_up: bool,
}

impl Caller {
    async fn ask(&self, operation: &str, body: Value) -> Result<Option<Value>, RecordsError> {
        let patience = Duration::from_millis(if self.gives_up { 50 } else { 2000 });
        self.backend.call(&self.policy, &self.session, operation, body, patience).await
    }

    async fn hold_once(&self) {
        while !matches!(self.ask("acquire", json!({ "name": "db", "limit": LIMIT })).await, Ok(Some(_))) {
            if self.gives_up {
                return;
            }
            // A commit that landed late, of a request that is over, may have left a permit to this session.
            self.release().await;
        }
        self.count.most.fetch_max(self.count.held.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        self.count.patient.fetch_add(usize::from(!self.gives_up), Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.count.held.fetch_sub(1, Ordering::SeqCst);
        self.release().await;
    }

    async fn release(&self) {
        while !matches!(self.ask("release", json!({ "name": "db" })).await, Ok(Some(_))) {}
    }
}
