//! A host inside somebody else's program: beside others, ended at any moment, in any runtime.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use althing::info::{JoinAsk, SessionAsk, SessionEvent};
use althing::{Althing, Kind, Principal, Requirement, Revision, Secret, SessionKey, SessionStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Long enough for what happens at once on a loaded machine, and shorter than any lease used here.
const AT_ONCE: Duration = Duration::from_secs(5);
const LEASE: Duration = Duration::from_secs(30);

async fn start(name: &str) -> Althing {
    Althing::builder().name(name).lease(LEASE).start().await.unwrap()
}

fn open(host: &Althing) -> (SessionKey, SessionStream) {
    let grant = host.runtime().open_session(&Principal::Embedder, SessionAsk::default(), false).unwrap();
    let key = SessionKey { id: grant.id, secret: Secret::new(grant.secret) };
    let events = host.runtime().session_events(&key).unwrap();
    (key, events)
}

fn member(id: impl Into<String>) -> JoinAsk {
    JoinAsk { id: id.into(), create: true, ..JoinAsk::default() }
}

async fn lead(host: &Althing, group: &str) -> (Revision, SessionStream) {
    let (key, mut events) = open(host);
    host.runtime().join(&key, group, member("a")).await.unwrap();
    loop {
        if let SessionEvent::Elected { hold } = events.next().await.unwrap() {
            return (hold.term, events);
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn two_hosts_of_one_process_share_nothing() {
    let state = tempfile::tempdir().unwrap();
    let north = Althing::builder().name("north").state(state.path()).start().await.unwrap();
    let south = start("south").await;
    let (term, _events) = lead(&south, "web").await;
    assert_eq!((north.runtime().host().name, south.runtime().host().name), ("north".into(), "south".into()));
    assert_eq!(north.runtime().groups().unwrap(), []);
    assert!(!north.runtime().holds("web", term));
    north.stop().await;
    assert!(south.runtime().holds("web", term));
    south.stop().await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_host_follows_another_in_the_same_process_with_the_same_state() {
    let state = tempfile::tempdir().unwrap();
    let mut seen = None;
    for _ in 0..3 {
        let host = Althing::builder().state(state.path()).start().await.unwrap();
        lead(&host, "web").await;
        let id = host.runtime().host().id;
        assert_eq!(*seen.get_or_insert(id.clone()), id);
        host.stop().await;
    }
}

/// Drops a host where a careless drop of a runtime would panic.
async fn drop_while_leading() {
    let host = start("a").await;
    let runtime = host.runtime().clone();
    let (term, mut events) = lead(&host, "web").await;
    drop(host);
    assert!(!runtime.holds("web", term), "it held on to what nobody renews");
    let ending = async { while events.next().await.is_some() {} };
    timeout(AT_ONCE, ending).await.expect("the stream of a host that is gone went on");
}

#[tokio::test(flavor = "current_thread")]
async fn a_host_is_dropped_within_a_task_of_one_thread() {
    drop_while_leading().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_dropped_within_a_task_of_many_threads() {
    tokio::spawn(drop_while_leading()).await.unwrap();
}

#[test]
fn a_host_outlives_the_runtime_it_was_started_on() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let host = runtime.block_on(start("a"));
    drop(runtime);
    drop(host);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_the_host_and_the_loss_is_told() {
    let host = start("a").await;
    let (term, mut events) = lead(&host, "web").await;
    let mut group = host.runtime().watch_group("web").unwrap();
    let runtime = host.runtime().clone();
    host.stop().await;
    assert!(!runtime.holds("web", term));
    let mut heard = Vec::new();
    let ending = async {
        while let Some(event) = events.next().await {
            heard.push(event);
        }
        while group.next().await.is_some() {}
    };
    timeout(AT_ONCE, ending).await.expect("a stream of a host that is gone went on");
    assert!(matches!(heard.last(), Some(SessionEvent::Ended { .. })), "{heard:?}");
    assert!(
        heard.iter().any(|event| matches!(event, SessionEvent::Lost { hold } if hold.term == term)),
        "{heard:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_has_ended_says_so() {
    let host = start("a").await;
    let runtime = host.runtime().clone();
    host.stop().await;
    let error = runtime.open_session(&Principal::Embedder, SessionAsk::default(), false).unwrap_err();
    assert_eq!(error.kind(), Kind::Closed, "{error}");
    assert!(error.to_string().contains("the host has ended"), "{error}");
    // What the memory answers is nobody's concern any more; that it answers is.
    let creating = runtime.create_group(&Principal::Embedder, "web", &Requirement::NONE);
    drop(timeout(AT_ONCE, creating).await.expect("a call on a host that has ended hung"));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_under_way_end_with_the_host() {
    for round in 0..20 {
        let host = start("a").await;
        let mut calls = JoinSet::new();
        for call in 0..16 {
            let (runtime, (key, _)) = (host.runtime().clone(), open(&host));
            calls
                .spawn(async move { runtime.join(&key, "web", member(format!("{call}"))).await.map(|_| ()) });
        }
        if round % 2 == 0 {
            calls.join_next().await.unwrap().unwrap().unwrap();
        }
        timeout(AT_ONCE, host.stop()).await.expect("a call held up the end");
        let outcomes = timeout(AT_ONCE, calls.join_all()).await.expect("a call outlived its host by long");
        for error in outcomes.into_iter().filter_map(Result::err) {
            let told = [Kind::Closed, Kind::SessionLost, Kind::Unavailable].contains(&error.kind());
            assert!(told, "{:?} {error}", error.kind());
        }
    }
}
