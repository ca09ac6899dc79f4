//! What a host keeps in its state directory: its decisions, fit to be made again, and the rules it runs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use althing_core::info::{Decision, Outcome};
use althing_core::layers::{Fault, Operation};
use althing_core::{Digest, ElectionView, Key, limits};
use althing_engine::{Engine, EngineConfig};
use althing_sim::{Stage, eventually, fixture, led_by, quick, shipped};
use althing_test_servers::Backend;
use serde::Deserialize;

althing_sim::suite! {
    Backend::ALL => [
        every_recorded_decision_of_a_rule_can_be_made_again_bit_for_bit,
        a_host_that_starts_again_runs_the_bound_rule_from_its_own_copy,
        versions_that_nobody_needs_do_not_stay_in_the_backend,
    ],
}

/// A line of `decisions.jsonl`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    View { digest: Digest, bytes: String },
    Decision(Box<Decision>),
}

fn recorded(state: &Path) -> (BTreeMap<Digest, String>, Vec<Decision>) {
    let text = std::fs::read_to_string(state.join("decisions.jsonl")).unwrap_or_default();
    let (mut views, mut decisions) = (BTreeMap::new(), Vec::new());
    // The last line may be half written yet.
    for line in text.lines().map_while(|line| serde_json::from_str(line).ok()) {
        match line {
            Line::View { digest, bytes } => drop(views.insert(digest, bytes)),
            Line::Decision(decision) => decisions.push(*decision),
        }
    }
    (views, decisions)
}

async fn every_recorded_decision_of_a_rule_can_be_made_again_bit_for_bit(stage: Stage) {
    let state = tempfile::tempdir().unwrap();
    let mut fleet = stage.fleet(0).await;
    let keep = |config: &mut althing_runtime::RuntimeConfig| {
        config.state = Some(state.path().to_owned());
        config.tuning = quick();
    };
    stage.add_host(&mut fleet, 7, keep).await;
    fleet.create("web").await;
    let host = &fleet.hosts[0];
    host.push(&shipped("elect-weighted")).await;
    host.activate("web", "elect-weighted").await;
    let clients: Vec<_> = (0..3).map(|_| host.session()).collect();
    for (index, client) in clients.iter().enumerate() {
        client.join("web", &format!("m{index}"), index as u32).await;
        led_by(&host.runtime, "web", &format!("m{index}")).await;
    }
    clients[2].end().await;
    led_by(&host.runtime, "web", "m1").await;
    let claims = || {
        let (_, decisions) = recorded(state.path());
        decisions.iter().filter(|decision| decision.outcome == Outcome::Claimed).count()
    };
    eventually("the decisions are on disk", || claims() >= 4).await;
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let policy = engine.load(&Arc::new(shipped("elect-weighted"))).await.unwrap();
    let (views, decisions) = recorded(state.path());
    assert!(decisions.iter().all(|decision| decision.digest == Some(policy.digest())));
    for decision in decisions {
        let bytes = &views[&decision.view];
        assert_eq!(Digest::of(bytes), decision.view);
        let view: ElectionView = serde_json::from_str(bytes).unwrap();
        assert_eq!(view.to_bytes(), bytes.as_bytes(), "the view is read back as it was");
        assert_eq!(decision.engine, engine.digest());
        assert_eq!(policy.elect(&view).await.unwrap().verdict, decision.verdict);
    }
}

async fn a_host_that_starts_again_runs_the_bound_rule_from_its_own_copy(stage: Stage) {
    let state = tempfile::tempdir().unwrap();
    let mut fleet = stage.fleet(0).await;
    let keep = |config: &mut althing_runtime::RuntimeConfig| config.state = Some(state.path().to_owned());
    stage.add_host(&mut fleet, 7, keep).await;
    fleet.create("web").await;
    fleet.hosts[0].push(&shipped("elect-oldest")).await;
    fleet.hosts[0].activate("web", "elect-oldest").await;
    let id = fleet.hosts[0].runtime.host().id;
    fleet.hosts.remove(0).runtime.stop().await;
    // The bundle is gone from the backend; only what a watch brings can still be read.
    let digest = shipped("elect-oldest").digest();
    let chunk = Key::path(["artefact", &digest.to_string(), "000000"]);
    fleet.store.commit(althing_core::Txn::new().delete(chunk)).await.unwrap();
    eventually("the former run has let go of the state directory", || {
        std::fs::File::open(state.path().join("lock")).unwrap().try_lock().is_ok()
    })
    .await;
    stage.add_host(&mut fleet, 8, keep).await;
    let host = &fleet.hosts[0];
    host.faults.inject(Operation::List, Fault::Refuse);
    assert_eq!(host.runtime.host().id, id);
    let followed = || {
        let hosts = host.runtime.group("web").unwrap().hosts;
        hosts.iter().any(|host| host.id == id && host.epoch == 1 && !host.behind)
    };
    eventually("it follows the binding", followed).await;
    host.session().join("web", "a", 1).await;
    led_by(&host.runtime, "web", "a").await;
}

async fn versions_that_nobody_needs_do_not_stay_in_the_backend(stage: Stage) {
    let fleet = stage.fleet(1).await;
    fleet.create("web").await;
    let host = &fleet.hosts[0];
    let first = fixture("traps", 0);
    host.push(&first).await;
    host.activate("web", "traps").await;
    for version in 1..=limits::VERSIONS_KEPT_MAX as u32 + 2 {
        host.push(&fixture("traps", version)).await;
    }
    let info = host.runtime.policy("traps").await.unwrap();
    assert_eq!(info.versions.len(), limits::VERSIONS_KEPT_MAX);
    assert!(info.versions.iter().all(|version| version.digest != first.digest()));
    let page = fleet.store.list(&Key::path(["artefact"]).below(), None, 0).await.unwrap();
    let mut stored: Vec<_> =
        page.records.iter().filter_map(|chunk| chunk.key.names()?.into_iter().nth(1)).collect();
    stored.dedup();
    assert_eq!(stored.len(), limits::VERSIONS_KEPT_MAX + 1, "those listed, and the one that is bound");
}
