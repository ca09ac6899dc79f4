//! What cannot be a policy is refused when it is loaded, with a line that says what to do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail in no better way")]

use std::sync::Arc;
use std::time::Duration;

use althing_core::{Error, Kind};
use althing_engine::{Engine, EngineConfig};
use althing_guests_test::made::{GOOD, knotted, with_sections};
use althing_guests_test::{bundle, component, engine, load, view};

#[track_caller]
fn check(error: &Error, kind: Kind, parts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "no {part:?} in: {error}");
    }
}

async fn refused(component: &[u8], rest: &str) -> Error {
    match bundle(component, rest) {
        Ok(bundle) => engine().load(&bundle).await.unwrap_err(),
        Err(error) => error,
    }
}

#[tokio::test]
async fn refuses_a_rule_that_imports_the_store() {
    let error = refused(&component("wrong-world"), "grants.log = true").await;
    check(&error, Kind::Denied, &["althing:policy/store@0.1.0", "may import config"]);
}

#[tokio::test]
async fn refuses_a_log_that_is_not_granted() {
    let error = refused(&component("elect-weighted"), "").await;
    check(&error, Kind::Denied, &["althing:policy/log@0.1.0", "`log = true`"]);
}

#[tokio::test]
async fn refuses_a_component_of_no_world() {
    let empty_component = b"\0asm\x0d\0\x01\0";
    let error = refused(empty_component, "").await;
    check(&error, Kind::Invalid, &["world election-policy", "althing:policy/election@0.1.0"]);
}

#[tokio::test]
async fn refuses_what_is_no_component() {
    let error = refused(b"#!/bin/sh\necho no component\n", "").await;
    check(&error, Kind::Invalid, &["no WebAssembly at all", "policy.toml"]);
    let error = refused(b"\0asm\x01\0\0\0", "").await;
    check(&error, Kind::Invalid, &["a core WebAssembly module", "wasm-component-ld"]);
    let whole = component("elect-oldest");
    let error = refused(&whole[..whole.len() / 2], "").await;
    check(&error, Kind::Invalid, &["the component is damaged", "Build it again"]);
}

#[tokio::test]
async fn refuses_settings_that_the_guest_refuses() {
    let quorum = component("elect-quorum");
    check(&refused(&quorum, "settings.quorum = 0").await, Kind::Invalid, &["quorum is 0", "[settings]"]);
    check(&refused(&quorum, "").await, Kind::Invalid, &["missing field `quorum`"]);
    let unknown = refused(&quorum, "settings = { quorum = 1, qourum = 2 }").await;
    check(&unknown, Kind::Invalid, &["unknown field `qourum`", "policy.toml"]);
}

#[test]
fn refuses_a_manifest_with_a_mistake_and_names_its_line() {
    let wrong = |rest: &str| bundle(b"", rest).unwrap_err();
    check(&wrong("colour = 'red'"), Kind::Invalid, &["colour", "policy.toml", "line=5"]);
    check(&wrong("[limits]\ncpu_ms = 100000"), Kind::Invalid, &["cpu_ms is 100000", "from 1 to 2000"]);
    check(&wrong("[limits]\nmemory_mib = 0"), Kind::Invalid, &["memory_mib is 0", "from 1 to 64"]);
    check(&wrong("[grants]\nsockets = true"), Kind::Invalid, &["sockets", "line=6"]);
    check(&wrong("kind = 'election'"), Kind::Invalid, &["duplicate key", "line=5"]);
}

#[tokio::test]
async fn a_bundle_that_is_loaded_is_not_loaded_again() {
    let engine = engine();
    let first = load(&engine, "elect-oldest", "").await.unwrap();
    let second = load(&engine, "elect-oldest", "").await.unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let other = load(&engine, "elect-oldest", "limits.cpu_ms = 7").await.unwrap();
    assert_ne!(first.digest(), other.digest());
}

#[tokio::test]
async fn two_hundred_policies_come_and_go() {
    let engine = engine();
    let component = component("elect-quorum");
    // One stays, as the policy that is replaced does until its successor is there.
    let mut policy = None;
    for quorum in 1..=200 {
        let bundle = bundle(&component, &format!("settings.quorum = {quorum}\nlimits.cpu_ms = 500")).unwrap();
        let next = engine.load(&bundle).await.unwrap();
        next.elect(&view(3)).await.unwrap();
        policy = Some(next);
    }
    let last = policy.unwrap();
    assert_eq!(last.manifest().settings["quorum"].as_integer(), Some(200));
}

#[tokio::test]
async fn a_component_that_compiles_for_too_long_is_left_alone_and_the_next_one_is_compiled() {
    let deadline = Duration::from_millis(300);
    let engine = Engine::new(EngineConfig { compile_deadline: deadline, ..EngineConfig::default() }).unwrap();
    let slow = with_sections(GOOD.component(), &knotted(700));
    let error = engine.load(&bundle(&slow, "").unwrap()).await.unwrap_err();
    check(&error, Kind::Timeout, &["not compiled after 0.3 s", "policy=test", "Split its largest functions"]);
    let good = engine.load(&bundle(&GOOD.component(), "limits.cpu_ms = 500").unwrap()).await.unwrap();
    good.elect(&view(1)).await.unwrap();
}

#[tokio::test]
async fn engines_come_and_go_within_another_runtime() {
    for _ in 0..20 {
        let policy = load(&engine(), "answers-a-stranger", "").await.unwrap();
        // The engine's own handle is gone; the policy keeps it.
        policy.elect(&view(1)).await.unwrap_err();
    }
}
