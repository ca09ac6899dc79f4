//! What a guest does wrong is a fault with its name, and nobody else notices.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail in no better way")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use althing_core::{Choice, Clock, SystemClock};
use althing_engine::{Engine, EngineConfig, Fault, FaultCause};
use althing_guests_test::{engine, load, view};
use tokio::task::JoinSet;

async fn fault(guest: &str, rest: &str) -> Fault {
    let policy = load(&engine(), guest, rest).await.unwrap();
    policy.elect(&view(3)).await.unwrap_err()
}

#[tokio::test]
async fn a_guest_that_never_answers_runs_out_of_processor_time() {
    let fault = fault("spins", "limits.cpu_ms = 30").await;
    assert_eq!(fault.cause, FaultCause::Cpu);
    assert_eq!(fault.to_string(), "fault (cpu): it ran for more than 30 ms of processor time");
}

#[tokio::test]
async fn a_guest_that_eats_memory_is_told_from_one_that_traps() {
    let fault = fault("eats-memory", "limits = { cpu_ms = 2000, memory_mib = 4 }").await;
    assert_eq!(fault.cause, FaultCause::Memory, "{fault}");
    assert!(fault.detail.ends_with("it may have 4194304"), "{fault}");
}

#[tokio::test]
async fn a_view_that_does_not_fit_the_guest_is_a_fault_of_memory() {
    let policy = load(&engine(), "elect-oldest", "limits = { cpu_ms = 2000, memory_mib = 1 }").await.unwrap();
    policy.elect(&view(10)).await.unwrap();
    assert_eq!(policy.elect(&view(16_000)).await.unwrap_err().cause, FaultCause::Memory);
}

#[tokio::test]
async fn a_guest_that_panics_traps() {
    let fault = fault("traps", "").await;
    assert_eq!(fault.cause, FaultCause::Trap);
    assert!(fault.detail.contains("unreachable"), "{fault}");
}

#[tokio::test]
async fn a_guest_that_elects_a_stranger_gives_no_answer() {
    let fault = fault("answers-a-stranger", "").await;
    assert_eq!(fault.cause, FaultCause::Answer);
    assert!(fault.detail.contains("\"stranger-to-web\", which is no member"), "{fault}");
}

#[tokio::test]
async fn more_spinning_guests_than_the_host_has_time_for_end_by_the_deadline() {
    let config = EngineConfig { threads: 1, ..EngineConfig::default() };
    let policy = load(&Engine::new(config).unwrap(), "spins", "limits.cpu_ms = 20").await.unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..64 {
        let policy = policy.clone();
        calls.spawn(async move { policy.elect(&view(1)).await.unwrap_err().cause });
    }
    let causes = calls.join_all().await;
    // One thread has 200 ms for 64 calls that want 20 ms each.
    assert!(causes.contains(&FaultCause::Deadline), "{causes:?}");
    assert!(causes.iter().all(|cause| matches!(cause, FaultCause::Deadline | FaultCause::Cpu)), "{causes:?}");
}

#[tokio::test]
async fn spinning_guests_stop_neither_other_guests_nor_the_heart() {
    let engine = engine();
    let spins = load(&engine, "spins", "limits.cpu_ms = 2000").await.unwrap();
    let oldest = load(&engine, "elect-oldest", "").await.unwrap();
    let mut spinning = JoinSet::new();
    for _ in 0..8 {
        let spins = spins.clone();
        spinning.spawn(async move { spins.elect(&view(1)).await });
    }
    let beats = Arc::new(AtomicU32::new(0));
    let heart = tokio::spawn({
        let beats = beats.clone();
        async move {
            loop {
                SystemClock.sleep(Duration::from_millis(1)).await;
                beats.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    for _ in 0..20 {
        let ruling = oldest.elect(&view(3)).await.unwrap();
        assert!(matches!(ruling.verdict.choice, Choice::Elect(_)));
    }
    while beats.load(Ordering::Relaxed) < 20 {
        tokio::task::yield_now().await;
    }
    assert!(spinning.try_join_next().is_none(), "the spinners were to run all the while");
    heart.abort();
}

#[tokio::test]
async fn a_dropped_call_gives_its_place_back() {
    let engine = Engine::new(EngineConfig { calls_max: 1, ..EngineConfig::default() }).unwrap();
    let spins = load(&engine, "spins", "limits.cpu_ms = 2000").await.unwrap();
    let oldest = load(&engine, "elect-oldest", "").await.unwrap();
    for _ in 0..20 {
        let spinning = tokio::spawn({
            let spins = spins.clone();
            async move { spins.elect(&view(1)).await }
        });
        tokio::task::yield_now().await;
        spinning.abort();
        assert!(spinning.await.unwrap_err().is_cancelled());
        oldest.elect(&view(1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_fault_leaves_nothing_for_the_next_call() {
    let engine = engine();
    let policy = load(&engine, "eats-memory", "limits = { cpu_ms = 2000, memory_mib = 4 }").await.unwrap();
    for _ in 0..10 {
        assert_eq!(policy.elect(&view(1)).await.unwrap_err().cause, FaultCause::Memory);
    }
}
