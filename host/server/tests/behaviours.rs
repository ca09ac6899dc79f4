//! Calls of a behaviour over HTTP, and by the client. Needs `cargo xtask guests`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod stage;

use std::path::Path;
use std::time::Duration;

use althing_client::Membership;
use althing_core::info::{BehaviourAsk, BehaviourOutcome, SessionAsk};
use althing_core::{Kind, Principal, limits};
use althing_engine::Bundle;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::stage::Host;

/// Nothing here takes as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A host on which the semaphore answers.
async fn start() -> Host {
    let host = Host::start().await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/semaphore");
    let me = Principal::Embedder;
    let job = host.runtime.push(&me, Bundle::open(&folder).unwrap().pack().into()).unwrap();
    let job = host.runtime.job_done(&job.id, PATIENCE).await.unwrap();
    assert_eq!(job.error, None);
    host.runtime.activate_behaviour(&me, "semaphore", "semaphore", None).await.unwrap();
    host
}

fn ask(operation: &str, body: Value) -> BehaviourAsk {
    let body = body.to_string().into();
    BehaviourAsk { operation: operation.into(), body, timeout: Some(PATIENCE) }
}

/// Writes down a raw call.
fn raw(query: &str, session: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST /v1/behaviours/semaphore?{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         althing-session: {session}\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_goes_to_the_behaviour_and_its_answer_comes_back_as_the_body_was_sent() {
    let host = start().await;
    let grant = host.client().open_session(&SessionAsk::default()).await.unwrap();
    let session = format!("{}.{}", grant.id, grant.secret);
    let body = r#"{"name":"db","limit":2}"#;
    let answer = host.ask(&raw("operation=acquire", &session, "application/json", body)).await;
    Host::check(&answer, "200", &["content-type: application/json", r#"{"outcome":"held","slot":0"#]);
    let answer = host.ask(&raw("operation=acquire&timeout_ms=1000", &session, "text/plain", body)).await;
    Host::check(&answer, "200", &["content-type: application/octet-stream", r#""slot":1"#]);
    let late = host.ask(&raw("operation=acquire&timeout_ms=50", &session, "text/plain", body)).await;
    Host::check(&late, "504", &[r#""kind":"timeout","effect":"none""#]);
    let stranger = format!("{}.{}", grant.id, "0".repeat(64));
    Host::check(&host.ask(&raw("operation=show", &stranger, "text/plain", body)).await, "403", &["secret"]);
    Host::check(
        &host.ask(&raw("operation=show", "", "text/plain", body)).await,
        "403",
        &["shows no session"],
    );
    Host::check(&host.ask(&raw("opreation=show", &session, "text/plain", body)).await, "400", &["query"]);
    let long = format!("timeout_ms={}", limits::BEHAVIOUR_TIMEOUT_MAX.as_millis() + 1);
    Host::check(&host.ask(&raw(&long, &session, "text/plain", body)).await, "400", &["cannot wait for"]);
    let large = format!("content-length: {}", limits::BEHAVIOUR_BODY_BYTES_MAX + 1);
    let large = raw("", &session, "text/plain", "x").replace("content-length: 1", &large);
    Host::check(&host.ask(&large).await, "413", &["too-large"]);
    let other = raw("operation=show", &session, "text/plain", body).replace("semaphore", "seamphore");
    Host::check(&host.ask(&other).await, "404", &["no such behaviour"]);
    host.runtime.end_session(&key(&grant.id, &grant.secret)).await.unwrap();
    Host::check(
        &host.ask(&raw("operation=show", &session, "text/plain", body)).await,
        "410",
        &["session-lost"],
    );
}

fn key(id: &str, secret: &str) -> althing_runtime::SessionKey {
    althing_runtime::SessionKey { id: id.to_owned(), secret: althing_core::Secret::new(secret) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_nothing_of_its_waiting() {
    let host = start().await;
    let holder = Membership::open(host.client(), None).await.unwrap();
    let waiter = Membership::open(host.client(), None).await.unwrap();
    let one = json!({ "name": "db", "limit": 1 });
    holder.call_behaviour("semaphore", &ask("acquire", one.clone())).await.unwrap();
    let shown = async || {
        let answer = holder.call_behaviour("semaphore", &ask("show", json!({ "name": "db" }))).await.unwrap();
        serde_json::from_slice::<Value>(&answer).unwrap()
    };
    let acquire = ask("acquire", one);
    let waits = async { while shown().await["waiting"].as_array().unwrap().is_empty() {} };
    tokio::select! {
        answer = waiter.call_behaviour("semaphore", &acquire) => panic!("{answer:?}"),
        waits = tokio::time::timeout(PATIENCE, waits) => waits.unwrap(),
    }
    let calls = || host.runtime.behaviour("semaphore").unwrap().calls;
    let gone = async {
        while !calls().iter().any(|call| call.outcome == BehaviourOutcome::Gone) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the host sees that the client is gone");
    let shown = shown().await;
    assert_eq!((&shown["waiting"], &shown["permits"][0]["mine"]), (&json!([]), &json!(true)));
    holder.close().await.unwrap();
    waiter.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_ends_tells_who_waits() {
    let host = start().await;
    let session = Membership::open(host.client(), None).await.unwrap();
    let one = json!({ "name": "db", "limit": 1 });
    let held: Bytes = session.call_behaviour("semaphore", &ask("acquire", one.clone())).await.unwrap();
    assert!(held.starts_with(b"{"));
    let acquire = ask("acquire", one);
    let waits = session.call_behaviour("semaphore", &acquire);
    tokio::pin!(waits);
    let begun = async {
        let shows = ask("show", json!({ "name": "db" }));
        let grant = host.client().open_session(&SessionAsk::default()).await.unwrap();
        let key = key(&grant.id, &grant.secret);
        loop {
            let shown = host.runtime.call_behaviour(&key, "semaphore", shows.clone()).await.unwrap();
            if serde_json::from_slice::<Value>(&shown).unwrap()["waiting"] != json!([]) {
                return;
            }
        }
    };
    tokio::select! {
        answer = &mut waits => panic!("{answer:?}"),
        begun = tokio::time::timeout(PATIENCE, begun) => begun.unwrap(),
    }
    host.end.send(()).unwrap();
    let error = waits.await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (Kind::Closed, althing_core::Effect::Unknown), "{error}");
    host.running.await.unwrap();
}
