//! Behaviours on several hosts: the shipped semaphore and barrier, with callers and hosts that go.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use althing_core::info::{BehaviourOutcome, SessionEvent};
use althing_core::layers::{Fault, Operation};
use althing_core::{Key, Kind, Principal, Result, Txn, limits};
use althing_sim::{
    Client, Fleet, PATIENCE, Stage, crowd, eventually, eventually_found, next_told, shipped, shipped_as,
};
use althing_test_servers::Backend;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

althing_sim::suite! {
    Backend::ALL => [
        permits_go_over_three_hosts_in_the_order_of_coming,
        a_session_that_ends_frees_its_permit_at_once_and_its_place_in_the_line,
        a_host_that_dies_frees_its_permits_within_a_lease,
        a_request_that_is_dropped_leaves_nothing_behind,
        who_is_told_that_the_time_is_over_holds_nothing,
        a_commit_that_outlives_its_request_is_taken_back,
        a_commit_that_lands_after_its_session_ended_is_removed,
        a_commit_whose_reply_is_lost_is_found_and_owned,
        calls_that_wait_are_asked_again_by_what_is_bound_next,
        a_host_that_has_not_heard_of_a_swap_commits_nothing_by_the_former_behaviour,
        a_behaviour_that_is_removed_answers_nobody,
        a_host_that_loses_its_session_fails_the_calls_that_began_under_it,
        a_barrier_lets_all_parties_go_or_none,
        a_policy_is_bound_only_where_its_kind_belongs,
        a_crowd_whose_callers_and_host_are_killed_never_passes_the_limit,
    ],
    // What is counted here is counted by the host.
    &[Backend::Memory] => [
        a_session_owns_no_more_records_than_a_host_can_remove_at_once,
        no_more_behaviours_are_bound_than_a_host_can_know,
    ],
}

/// Hosts on which both shipped behaviours answer.
async fn fleet(stage: &Stage, hosts: usize) -> Fleet {
    let fleet = stage.fleet(hosts).await;
    crowd::bind(&fleet).await;
    fleet
}

async fn acquire(client: &Client, limit: u32) -> Result<Value> {
    client.call("semaphore", "acquire", json!({ "name": "db", "limit": limit }), PATIENCE).await
}

async fn release(client: &Client) -> Value {
    client.call("semaphore", "release", json!({ "name": "db" }), PATIENCE).await.unwrap()
}

/// Begins to wait for a permit, and returns once it waits in the line.
async fn wait_in_line(client: &Client, limit: u32) -> JoinHandle<Result<Value>> {
    let before = waiting(client).await;
    let waiter = client.clone();
    let task = tokio::spawn(async move { acquire(&waiter, limit).await });
    eventually_found("it waits", async || waiting(client).await > before).await;
    task
}

async fn waiting(client: &Client) -> usize {
    shown(client).await["waiting"].as_array().unwrap().len()
}

async fn shown(client: &Client) -> Value {
    client.call("semaphore", "show", json!({ "name": "db" }), PATIENCE).await.unwrap()
}

/// Returns the keys below `data/`.
async fn left_behind(fleet: &Fleet) -> Vec<Key> {
    let page = fleet.store.list(&"data/".into(), None, 0).await.unwrap();
    page.records.into_iter().map(|record| record.key).collect()
}

async fn until_nothing_is_left(fleet: &Fleet) {
    eventually_found("nothing is left", async || left_behind(fleet).await.is_empty()).await;
}

async fn permits_go_over_three_hosts_in_the_order_of_coming(stage: Stage) {
    let fleet = fleet(&stage, 3).await;
    let holder = fleet.hosts[0].session();
    let held = acquire(&holder, 1).await.unwrap();
    assert_eq!((&held["outcome"], &held["slot"]), (&json!("held"), &json!(0)));
    let clients: Vec<_> = [1, 2, 0, 1].map(|host| fleet.hosts[host].session()).into();
    let mut line = Vec::new();
    for client in &clients {
        line.push(wait_in_line(client, 1).await);
    }
    let mut token = held["token"].as_str().unwrap().to_owned();
    let mut holds = holder;
    for (client, waiter) in clients.into_iter().zip(line) {
        assert!(!waiter.is_finished(), "one holds, so the others wait");
        assert_eq!(release(&holds).await["outcome"], "released");
        let next = waiter.await.unwrap().unwrap();
        let next = next["token"].as_str().unwrap().to_owned();
        assert!(next > token, "{next} follows {token}");
        (holds, token) = (client, next);
    }
    assert_eq!(release(&holds).await["outcome"], "released");
    assert_eq!(release(&holds).await["outcome"], "not-held");
    until_nothing_is_left(&fleet).await;
}

async fn a_session_that_ends_frees_its_permit_at_once_and_its_place_in_the_line(stage: Stage) {
    let fleet = fleet(&stage, 2).await;
    let (holder, quitter, next) =
        (fleet.hosts[0].session(), fleet.hosts[0].session(), fleet.hosts[1].session());
    acquire(&holder, 1).await.unwrap();
    let quits = wait_in_line(&quitter, 1).await;
    let waits = wait_in_line(&next, 1).await;
    quitter.end().await;
    assert_eq!(quits.await.unwrap().unwrap_err().kind(), Kind::SessionLost);
    assert!(!waits.is_finished());
    holder.end().await;
    assert_eq!(waits.await.unwrap().unwrap()["outcome"], "held");
    assert_eq!(acquire(&holder, 1).await.unwrap_err().kind(), Kind::SessionLost);
    next.end().await;
    until_nothing_is_left(&fleet).await;
}

async fn a_host_that_dies_frees_its_permits_within_a_lease(stage: Stage) {
    let fleet = fleet(&stage, 2).await;
    acquire(&fleet.hosts[0].session(), 1).await.unwrap();
    let client = fleet.hosts[1].session();
    let waits = wait_in_line(&client, 1).await;
    fleet.hosts[0].runtime.abandon();
    assert_eq!(waits.await.unwrap().unwrap()["outcome"], "held");
}

async fn a_request_that_is_dropped_leaves_nothing_behind(stage: Stage) {
    let fleet = fleet(&stage, 2).await;
    let (holder, client) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    acquire(&holder, 1).await.unwrap();
    let waits = wait_in_line(&client, 1).await;
    waits.abort();
    let calls = || fleet.hosts[1].runtime.behaviour("semaphore").unwrap().calls;
    let gone = || calls().iter().any(|call| call.outcome == BehaviourOutcome::Gone);
    eventually("the call is known to be gone", gone).await;
    assert_eq!(waiting(&holder).await, 0);
    assert_eq!(release(&holder).await["outcome"], "released");
    assert!(left_behind(&fleet).await.is_empty());
}

async fn who_is_told_that_the_time_is_over_holds_nothing(stage: Stage) {
    let fleet = fleet(&stage, 1).await;
    let (holder, client) = (fleet.hosts[0].session(), fleet.hosts[0].session());
    acquire(&holder, 1).await.unwrap();
    let body = json!({ "name": "db", "limit": 1 });
    let late = client.call("semaphore", "acquire", body, Duration::from_millis(200)).await.unwrap_err();
    assert_eq!((late.kind(), late.effect()), (Kind::Timeout, althing_core::Effect::None), "{late}");
    assert_eq!(shown(&holder).await["permits"].as_array().unwrap().len(), 1);
    assert_eq!(waiting(&holder).await, 0);
    let calls = fleet.hosts[0].runtime.behaviour("semaphore").unwrap().calls;
    assert!(calls.iter().any(|call| call.outcome == BehaviourOutcome::TimedOut && call.attempts > 1));
}

async fn a_commit_that_outlives_its_request_is_taken_back(stage: Stage) {
    let fleet = fleet(&stage, 1).await;
    let host = &fleet.hosts[0];
    let (client, other) = (host.session(), host.session());
    host.faults.inject_on_commits(Fault::Delay(Duration::from_millis(300)), writes_data);
    let asks = client.clone();
    let call = tokio::spawn(async move { acquire(&asks, 1).await });
    eventually("the commit is on its way", || host.faults.met() > 0).await;
    call.abort();
    host.faults.heal();
    assert_eq!(acquire(&other, 1).await.unwrap()["outcome"], "held", "nobody else holds it for long");
}

async fn a_commit_that_lands_after_its_session_ended_is_removed(stage: Stage) {
    let fleet = fleet(&stage, 1).await;
    let host = &fleet.hosts[0];
    let client = host.session();
    host.faults.inject_on_commits(Fault::BlackHole, writes_data);
    let asks = client.clone();
    let call = tokio::spawn(async move { acquire(&asks, 1).await });
    eventually("the commit is on its way", || host.faults.met() > 0).await;
    client.end().await;
    assert_eq!(call.await.unwrap().unwrap_err().kind(), Kind::SessionLost);
    let seen = fleet.store.list(&"data/".into(), None, 0).await.unwrap().revision;
    host.faults.heal();
    let revision = async || fleet.store.list(&"data/".into(), None, 0).await.unwrap().revision;
    eventually_found("the commit lands", async || revision().await > seen).await;
    until_nothing_is_left(&fleet).await;
}

async fn a_commit_whose_reply_is_lost_is_found_and_owned(stage: Stage) {
    let fleet = fleet(&stage, 1).await;
    let host = &fleet.hosts[0];
    let (client, other) = (host.session(), host.session());
    host.faults.inject_on_commits(Fault::LoseReply, writes_data);
    let asks = client.clone();
    let call = tokio::spawn(async move { acquire(&asks, 1).await });
    eventually("a reply is lost", || host.faults.met() > 0).await;
    host.faults.heal();
    assert_eq!(call.await.unwrap().unwrap()["outcome"], "held", "it found its own permit");
    client.end().await;
    assert_eq!(acquire(&other, 1).await.unwrap()["outcome"], "held");
}

async fn calls_that_wait_are_asked_again_by_what_is_bound_next(stage: Stage) {
    let fleet = fleet(&stage, 2).await;
    let (holder, client) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    acquire(&holder, 1).await.unwrap();
    let waits = wait_in_line(&client, 1).await;
    fleet.hosts[0].push(&shipped_as("semaphore", "9.9.9")).await;
    let info = fleet.hosts[0].answer_by("semaphore").await;
    assert_eq!((info.epoch, info.binding.version.as_str()), (2, "9.9.9"));
    assert!(!waits.is_finished(), "a swap drops nobody");
    assert_eq!(release(&holder).await["outcome"], "released");
    assert_eq!(waits.await.unwrap().unwrap()["outcome"], "held");
    let calls = fleet.hosts[1].runtime.behaviour("semaphore").unwrap().calls;
    let call = calls.iter().find(|call| call.operation == "acquire").unwrap();
    assert_eq!((call.epoch, call.digest), (2, Some(info.binding.digest)), "the new one answered");
    let back = fleet.hosts[1].runtime.rollback_behaviour(&Principal::Embedder, "semaphore").await.unwrap();
    assert_eq!((back.epoch, back.binding.version.as_str()), (3, "0.1.0"));
}

async fn a_host_that_has_not_heard_of_a_swap_commits_nothing_by_the_former_behaviour(stage: Stage) {
    let fleet = fleet(&stage, 2).await;
    let (near, far) = (&fleet.hosts[0], &fleet.hosts[1]);
    far.faults.inject(Operation::Next, Fault::BlackHole);
    near.push(&shipped_as("semaphore", "9.9.9")).await;
    let info = near.answer_by("semaphore").await;
    let client = far.session();
    let tried = Arc::new(AtomicBool::new(false));
    let tries = tried.clone();
    far.faults.inject_on_commits(Fault::Refuse, move |txn| {
        tries.fetch_or(writes_data(txn), Ordering::SeqCst);
        false
    });
    let call = tokio::spawn(async move { acquire(&client, 1).await });
    eventually("it asks by what it knows", || tried.load(Ordering::SeqCst)).await;
    far.faults.heal();
    assert_eq!(call.await.unwrap().unwrap()["outcome"], "held");
    let call = far.runtime.behaviour("semaphore").unwrap().calls.remove(0);
    assert_eq!((call.epoch, call.digest), (2, Some(info.binding.digest)));
    assert!(call.attempts > 1, "what the former one was to commit met another binding");
}

async fn a_behaviour_that_is_removed_answers_nobody(stage: Stage) {
    let fleet = fleet(&stage, 2).await;
    let (holder, client) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    acquire(&holder, 1).await.unwrap();
    let waits = wait_in_line(&client, 1).await;
    fleet.hosts[0].runtime.remove_behaviour(&Principal::Embedder, "semaphore").await.unwrap();
    let error = waits.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert_eq!(acquire(&holder, 1).await.unwrap_err().kind(), Kind::NotFound);
    holder.end().await;
    client.end().await;
    until_nothing_is_left(&fleet).await;
}

async fn a_host_that_loses_its_session_fails_the_calls_that_began_under_it(stage: Stage) {
    let fleet = fleet(&stage, 2).await;
    let (holder, client) = (fleet.hosts[1].session(), fleet.hosts[0].session());
    acquire(&holder, 1).await.unwrap();
    let waits = wait_in_line(&client, 1).await;
    let mut told = client.events();
    let session = fleet.hosts[0].runtime.host().session.unwrap();
    fleet.store.close(session).await.unwrap();
    let error = waits.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), Kind::SessionLost, "{error}");
    next_told(&mut told, |event| {
        matches!(event, SessionEvent::Standing { standing: althing_core::info::Standing::Held, .. })
            .then_some(())
    })
    .await;
    eventually("it has another session", || {
        fleet.hosts[0].runtime.host().session.is_some_and(|next| next != session)
    })
    .await;
    assert_eq!(waiting(&holder).await, 0, "its place in the line went with the session");
    let waits = wait_in_line(&client, 1).await;
    release(&holder).await;
    assert_eq!(waits.await.unwrap().unwrap()["outcome"], "held", "a new call goes on under the new session");
}

async fn a_barrier_lets_all_parties_go_or_none(stage: Stage) {
    let fleet = fleet(&stage, 3).await;
    let clients: Vec<_> = fleet.hosts.iter().map(|host| host.session()).collect();
    let wait = |client: &Client| {
        let client = client.clone();
        let body = json!({ "name": "start", "parties": 3 });
        tokio::spawn(async move { client.call("barrier", "wait", body, PATIENCE).await })
    };
    for _ in 0..3 {
        let (first, second) = (wait(&clients[0]), wait(&clients[1]));
        let here: Key = "data/barrier/start/here/".into();
        let here = async || fleet.store.list(&here, None, 0).await.unwrap().records.len();
        eventually_found("two parties are here", async || here().await == 2).await;
        assert!(!first.is_finished() && !second.is_finished());
        for party in [wait(&clients[2]), first, second] {
            assert_eq!(party.await.unwrap().unwrap(), json!({ "tripped": true }));
        }
        until_nothing_is_left(&fleet).await;
    }
    let quits = wait(&clients[0]);
    eventually_found("it is here", async || !left_behind(&fleet).await.is_empty()).await;
    clients[0].end().await;
    assert_eq!(quits.await.unwrap().unwrap_err().kind(), Kind::SessionLost);
    until_nothing_is_left(&fleet).await;
}

async fn a_policy_is_bound_only_where_its_kind_belongs(stage: Stage) {
    let fleet = fleet(&stage, 1).await;
    let host = &fleet.hosts[0];
    let me = Principal::Embedder;
    fleet.create("web").await;
    host.push(&shipped("elect-oldest")).await;
    let refused = host.runtime.activate(&me, "web", "semaphore", None).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid, "{refused}");
    assert!(refused.to_string().contains("decides in no group"), "{refused}");
    let refused = host.runtime.activate_behaviour(&me, "x", "elect-oldest", None).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid, "{refused}");
    assert!(host.runtime.behaviour("x").is_err());
    let refused = host.runtime.rollback_behaviour(&me, "semaphore").await.unwrap_err();
    assert_eq!(refused.kind(), Kind::NotFound, "nothing was bound before: {refused}");
    assert_eq!(host.runtime.rollback_behaviour(&me, "y").await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(host.runtime.remove_behaviour(&me, "y").await.unwrap_err().kind(), Kind::NotFound);
    let policy = host.runtime.policy("semaphore").await.unwrap();
    assert_eq!((policy.groups, policy.behaviours), (vec![], vec!["semaphore".to_owned()]));
}

async fn a_crowd_whose_callers_and_host_are_killed_never_passes_the_limit(stage: Stage) {
    let fleet = crowd::fleet(&stage).await;
    let told = crowd::gather(&fleet, 32, Duration::from_secs(5)).await;
    assert!(told.wrong.is_empty(), "{told:?}");
}

async fn a_session_owns_no_more_records_than_a_host_can_remove_at_once(stage: Stage) {
    let fleet = fleet(&stage, 1).await;
    let client = fleet.hosts[0].session();
    let take = async |name: usize| {
        let body = json!({ "name": name.to_string(), "limit": 1 });
        client.call("semaphore", "acquire", body, PATIENCE).await
    };
    for name in 0..limits::BEHAVIOUR_SESSION_RECORDS_MAX {
        assert_eq!(take(name).await.unwrap()["outcome"], "held");
    }
    let refused = take(limits::BEHAVIOUR_SESSION_RECORDS_MAX).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::TooLarge, "{refused}");
    client.end().await;
    until_nothing_is_left(&fleet).await;
}

async fn no_more_behaviours_are_bound_than_a_host_can_know(stage: Stage) {
    let fleet = fleet(&stage, 1).await;
    let (runtime, me) = (&fleet.hosts[0].runtime, Principal::Embedder);
    let bind = async |name: &str| runtime.activate_behaviour(&me, name, "semaphore", None).await;
    let bound = runtime.behaviours().unwrap().len();
    for number in bound..limits::BEHAVIOURS_MAX {
        bind(&number.to_string()).await.unwrap();
    }
    let refused = bind("one more").await.unwrap_err();
    assert_eq!(refused.kind(), Kind::TooLarge, "{refused}");
    bind("semaphore").await.unwrap();
    runtime.remove_behaviour(&me, "semaphore").await.unwrap();
    bind("one more").await.unwrap();
}

fn writes_data(txn: &Txn) -> bool {
    txn.writes.iter().any(|write| write.key().starts_with(&"data/".into()))
}
