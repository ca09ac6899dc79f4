//! The barrier, with many parties at once and a backend that fails.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail in no better way")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use althing_engine::Policy;
use althing_policies_test::{Backend, shipped};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(60);

async fn wait(
    backend: &Backend,
    policy: &Policy,
    session: &str,
    parties: usize,
    patience: Duration,
) -> Option<Value> {
    let body = json!({ "name": "start", "parties": parties });
    backend.call(policy, session, "wait", body, patience).await.unwrap()
}

#[tokio::test]
async fn a_party_that_died_is_not_counted() {
    let (backend, policy) = (Backend::new(0.0, 1), shipped("barrier").await);
    let spawn = |session: &'static str| {
        let (backend, policy) = (backend.clone(), policy.clone());
        tokio::spawn(async move { wait(&backend, &policy, session, 2, PATIENCE).await })
    };
    let dies = spawn("dies");
    backend.shows("/here/").await;
    dies.abort();
    backend.end("dies");
    let first = spawn("first");
    backend.shows("/here/").await;
    assert!(!first.is_finished());
    assert_eq!(spawn("second").await.unwrap(), Some(json!({ "tripped": true })));
    assert_eq!(first.await.unwrap(), Some(json!({ "tripped": true })));
    assert_eq!(backend.keys(), [""; 0]);
}

#[tokio::test]
async fn who_is_told_of_a_time_out_was_not_counted() {
    let (backend, policy) = (Backend::new(0.0, 2), shipped("barrier").await);
    assert_eq!(wait(&backend, &policy, "first", 2, Duration::ZERO).await, None);
    assert_eq!(backend.keys(), [""; 0]);
    assert_eq!(wait(&backend, &policy, "second", 2, Duration::ZERO).await, None);
}

/// A tenth of all operations fails, some of the commits land when nobody expects it, and nobody has much patience. Exactly as
/// many hear that they went on as the transactions let.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_as_many_go_on_as_were_let_whatever_fails() {
    const PARTIES: usize = 4;
    const ENOUGH: usize = 80;
    for seed in 1..=6 {
        let (backend, policy) = (Backend::new(0.1, seed), shipped("barrier").await);
        let (went_on, left) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let mut callers = JoinSet::new();
        for place in 0..10 {
            let (backend, policy) = (backend.clone(), policy.clone());
            let (went_on, left) = (went_on.clone(), left.clone());
            callers.spawn(async move {
                let session = format!("caller-{place}");
                while went_on.load(Ordering::SeqCst) < ENOUGH {
                    let body = json!({ "name": "start", "parties": PARTIES });
                    match backend.call(&policy, &session, "wait", body, Duration::from_millis(60)).await {
                        Ok(Some(_)) => went_on.fetch_add(1, Ordering::SeqCst),
                        // It left, or it never came.
                        Ok(None) | Err(_) => left.fetch_add(1, Ordering::SeqCst),
                    };
                }
                session
            });
        }
        while let Some(session) = callers.join_next().await {
            backend.end(&session.unwrap());
        }
        backend.settle().await;
        let trips = backend.removed().into_iter().filter(|removed| *removed == PARTIES).count();
        assert_eq!(went_on.load(Ordering::SeqCst), trips * PARTIES, "seed {seed}");
        assert!(left.load(Ordering::SeqCst) > 0, "seed {seed}: nobody lost patience");
        assert_eq!(backend.keys(), [""; 0], "seed {seed}");
    }
}
