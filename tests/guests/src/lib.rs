//! Guests that misbehave, and what becomes of them.
//!
//! The guests are those of `guests/fixtures` and `policies`, built by `cargo xtask guests`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail in no better way")]

pub mod made;
pub mod row;
pub mod rows;
pub mod stage;

use std::path::PathBuf;
use std::sync::Arc;

use althing_core::{ElectionView, LeaderView, Liveness, MemberView, Result, Revision};
use althing_engine::{Bundle, Engine, EngineConfig, Policy};

/// Makes an engine for a test.
pub fn engine() -> Engine {
    Engine::new(EngineConfig::default()).unwrap()
}

/// Reads the component of a fixture or of a shipped policy.
pub fn component(name: &str) -> Vec<u8> {
    let root = made::root();
    let fixture = root.join(format!("guests/fixtures/built/{name}.wasm"));
    let policy = root.join(format!("policies/{name}/{}.wasm", name.replace('-', "_")));
    let built = |file: &PathBuf| std::fs::read(file).ok();
    built(&fixture)
        .or_else(|| built(&policy))
        .unwrap_or_else(|| panic!("no {name}.wasm: run cargo xtask guests"))
}

/// Makes a bundle by way of a folder. `rest` is what follows the head of its policy.toml.
pub fn bundle(component: &[u8], rest: &str) -> Result<Arc<Bundle>> {
    named_bundle("test", component, rest)
}

/// Makes a bundle of this name.
pub fn named_bundle(name: &str, component: &[u8], rest: &str) -> Result<Arc<Bundle>> {
    let folder = tempfile::tempdir().unwrap();
    let head = "version = '1'\nkind = 'election'\ncomponent = 'guest.wasm'\n";
    std::fs::write(folder.path().join("policy.toml"), format!("name = '{name}'\n{head}{rest}")).unwrap();
    std::fs::write(folder.path().join("guest.wasm"), component).unwrap();
    Bundle::open(folder.path()).map(Arc::new)
}

/// Loads the guest of this name.
pub async fn load(engine: &Engine, name: &str, rest: &str) -> Result<Arc<Policy>> {
    engine.load(&bundle(&component(name), rest)?).await
}

/// Makes a view of a group of `count` members, all alive; the heaviest is the last.
pub fn view(count: u32) -> ElectionView {
    let member = |place: u32| MemberView {
        id: format!("member-{place}"),
        incarnation: format!("{place:020}"),
        seniority: place,
        metadata: [("weight", place.to_string()), ("zone", "eu".into())]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        liveness: Liveness::default(),
        attributes: [("host".to_owned(), "one".to_owned())].into(),
    };
    ElectionView {
        group: "web".into(),
        now_ms: 1_700_000_000_000.0,
        members: (0..count).map(member).collect(),
        leader: None,
        attributes: [("later".to_owned(), "unknown".to_owned())].into(),
    }
}

/// Makes the same view with a leader.
pub fn view_led_by(count: u32, place: u32) -> ElectionView {
    let leader = LeaderView {
        member: format!("member-{place}"),
        incarnation: format!("{place:020}"),
        term: Revision(7),
        tenure_ms: 1000.0,
        attributes: [("later".to_owned(), "unknown".to_owned())].into(),
    };
    ElectionView { leader: Some(leader), ..view(count) }
}
