//! How a policy is asked: from anywhere, by many at once, with the same answer each time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail in no better way")]

use althing_core::{Choice, limits};
use althing_engine::{Engine, EngineConfig};
use althing_guests_test::{engine, load, view, view_led_by};
use tokio::task::JoinSet;

#[tokio::test]
async fn the_same_view_gets_the_same_ruling() {
    let policy = load(&engine(), "elect-weighted", "grants.log = true").await.unwrap();
    let (first, second) = (policy.elect(&view(40)).await.unwrap(), policy.elect(&view(40)).await.unwrap());
    assert_eq!((&first.verdict, &first.log), (&second.verdict, &second.log));
    let other_engine = load(&engine(), "elect-weighted", "grants.log = true").await.unwrap();
    assert_eq!(other_engine.elect(&view(40)).await.unwrap().verdict, first.verdict);
}

#[tokio::test]
async fn calls_beyond_the_bound_wait_and_all_are_answered() {
    let engine = Engine::new(EngineConfig { calls_max: 3, ..EngineConfig::default() }).unwrap();
    let policy = load(&engine, "elect-weighted", "grants.log = true").await.unwrap();
    let mut calls = JoinSet::new();
    for place in 0..200 {
        let policy = policy.clone();
        calls.spawn(async move { policy.elect(&view_led_by(20, place % 20)).await });
    }
    for ruling in calls.join_all().await {
        let choice = ruling.unwrap().verdict.choice;
        assert!(
            choice == Choice::Keep || matches!(&choice, Choice::Elect(ranked) if ranked[0] == "member-19")
        );
    }
}

#[tokio::test]
async fn a_call_from_the_guests_runtime_is_answered_in_place() {
    let engine = Engine::new(EngineConfig { threads: 1, ..EngineConfig::default() }).unwrap();
    let policy = load(&engine, "elect-oldest", "").await.unwrap();
    let from_outside = policy.elect(&view(5)).await.unwrap().verdict;
    let from_inside = engine.handle().spawn(async move { policy.elect(&view(5)).await.unwrap().verdict });
    assert_eq!(from_inside.await.unwrap(), from_outside);
}

#[tokio::test]
async fn a_log_is_bounded_and_says_what_it_left_out() {
    let policy = load(&engine(), "elect-weighted", "grants.log = true").await.unwrap();
    let mut view = view(100);
    for member in &mut view.members {
        member.metadata.insert("weight".into(), "much".repeat(1000));
    }
    let log = policy.elect(&view).await.unwrap().log;
    assert_eq!(log.len(), limits::GUEST_LOG_LINES_MAX + 1);
    assert!(log[0].starts_with("warn: weight of member-0 is \"muchmuch"), "{}", log[0]);
    assert!(log.iter().all(|line| line.len() <= limits::GUEST_LOG_LINE_BYTES_MAX));
    assert_eq!(log.last().unwrap(), "… and 36 more lines");
}

#[tokio::test]
async fn a_group_as_large_as_groups_get_is_decided() {
    let rest = "grants.log = true\nlimits = { cpu_ms = 2000, memory_mib = 64 }";
    let policy = load(&engine(), "elect-weighted", rest).await.unwrap();
    let members = limits::GROUP_MEMBERS_MAX as u32;
    let ruling = policy.elect(&view(members)).await.unwrap();
    let heaviest = format!("member-{}", members - 1);
    assert!(matches!(&ruling.verdict.choice, Choice::Elect(ranked) if ranked[0] == heaviest));
}
