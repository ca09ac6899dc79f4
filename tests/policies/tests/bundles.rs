//! Each folder of `policies/` loads, proves its cases, and keeps its content on the way.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail in no better way")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use althing_core::{Choice, Error, Kind, OsChance};
use althing_engine::bundle::{BehaviourCase, BehaviourExpectation, Outcome};
use althing_engine::{Bundle, Case, Engine, EngineConfig, SigningKey};

fn folders() -> Vec<PathBuf> {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies");
    let mut folders: Vec<_> =
        std::fs::read_dir(policies).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

fn bundle(name: &str) -> Bundle {
    let folder = folders().into_iter().find(|folder| folder.ends_with(name)).unwrap();
    open(&folder)
}

#[track_caller]
fn open(folder: &Path) -> Bundle {
    Bundle::open(folder).unwrap_or_else(|error| panic!("{error} (run cargo xtask guests)"))
}

#[track_caller]
fn check_denied(error: &Error, part: &str) {
    assert_eq!(error.kind(), Kind::Denied, "{error}");
    assert!(error.to_string().contains(part), "no {part:?} in: {error}");
}

#[tokio::test]
async fn every_policy_is_proven_by_its_cases() {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    for folder in folders() {
        let bundle = Arc::new(open(&folder));
        let policy = engine.load(&bundle).await.unwrap();
        let proof = engine.prove(&policy).await.unwrap();
        assert_eq!(proof.cases, bundle.cases.len());
        assert!(proof.cases >= 3, "{} has {} cases", folder.display(), proof.cases);
        assert!(!bundle.readme.is_empty(), "{} has no README.md", folder.display());
        assert!(folder.ends_with(&bundle.manifest.name));
    }
}

#[tokio::test]
async fn a_case_that_does_not_hold_is_named_with_what_was_expected_and_what_came() {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let mut bundle = bundle("elect-oldest");
    let case = bundle.cases.iter_mut().find(|case| case.name().starts_with("vacant")).unwrap();
    let Case::Election(case) = case else { panic!("a case of another kind: {case:?}") };
    case.expect.choice = Choice::Elect(vec!["b".into()]);
    let policy = engine.load(&Arc::new(bundle)).await.unwrap();
    let error = engine.prove(&policy).await.unwrap_err().to_string();
    assert!(
        error.contains("expected elect [\"b\"] because of \"oldest\", got elect [\"c\", \"a\", \"b\"]"),
        "{error}"
    );
    assert!(error.contains("case=vacant-group-gets-its-oldest"), "{error}");
}

#[tokio::test]
async fn a_case_of_a_behaviour_fails_by_its_answer_and_by_what_is_left() {
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let shipped = bundle("semaphore");
    let named = |name: &str| shipped.cases.iter().find(|case| case.name() == name).unwrap().clone();
    let prove = async |case: BehaviourCase| {
        let mut bundle = shipped.clone();
        bundle.cases = vec![Case::Behaviour(case)];
        let policy = engine.load(&Arc::new(bundle)).await.unwrap();
        engine.prove(&policy).await.unwrap_err().to_string()
    };
    let Case::Behaviour(case) = named("at-the-limit-it-waits-in-the-line") else { panic!() };
    let patient = BehaviourExpectation { outcome: Outcome::Error("no".into()), ..case.expect.clone() };
    let error = prove(BehaviourCase { expect: patient, ..case.clone() }).await;
    assert!(error.contains("expected an error with \"no\", got wait for semaphore/db/ until"), "{error}");
    let unchanged = BehaviourExpectation { records: None, ..case.expect.clone() };
    let error = prove(BehaviourCase { expect: unchanged, ..case }).await;
    let expected =
        "expected afterwards the records semaphore/db/permit/0 = {\"id\":\"r1\",\"principal\":\"ann\"} of";
    assert!(error.contains(expected) && error.contains("; semaphore/db/wait/request = "), "{error}");
}

#[test]
fn a_bundle_is_the_same_packed_and_unpacked() {
    for folder in folders() {
        let bundle = open(&folder);
        let packed = bundle.pack();
        let again = Bundle::unpack(&packed).unwrap();
        assert_eq!(again.digest(), bundle.digest());
        assert_eq!(again.settings_digest(), bundle.settings_digest());
        assert_eq!(again.cases, bundle.cases);
        assert_eq!(again.pack(), packed);
    }
}

#[test]
fn a_signature_travels_with_the_bundle_and_changes_no_digest() {
    let (ours, theirs) = (SigningKey::generate(&OsChance), SigningKey::generate(&OsChance));
    let mut bundle = bundle("elect-weighted");
    let unsigned = bundle.digest();
    check_denied(&bundle.verify(&[ours.public()]).unwrap_err(), "not signed");
    bundle.sign(&ours);
    let arrived = Bundle::unpack(&bundle.pack()).unwrap();
    assert_eq!(arrived.digest(), unsigned);
    assert_eq!(arrived.verify(&[theirs.public(), ours.public()]).unwrap(), ours.public().id());
    let foreign = arrived.verify(&[theirs.public()]).unwrap_err();
    check_denied(&foreign, &format!("key {}, which is not trusted", ours.public().id()));
}

#[test]
fn a_flipped_bit_is_refused() {
    let key = SigningKey::generate(&OsChance);
    let mut bundle = bundle("elect-oldest");
    bundle.sign(&key);
    let packed = bundle.pack();
    // Everywhere in the archive; the padding between files is not content.
    for place in (0..packed.len()).step_by(packed.len() / 400) {
        let mut flipped = packed.clone();
        flipped[place] ^= 1;
        let Ok(arrived) = Bundle::unpack(&flipped) else { continue };
        let is_content = arrived.digest() != bundle.digest();
        assert_eq!(arrived.verify(&[key.public()]).is_err(), is_content, "at byte {place}");
    }
    let mut flipped = packed.clone();
    let component = packed.windows(4).position(|window| window == b"\0asm").unwrap();
    flipped[component + 1000] ^= 1;
    let error = Bundle::unpack(&flipped).unwrap().verify(&[key.public()]).unwrap_err();
    check_denied(&error, "is not for this content");
}

#[test]
fn what_is_no_bundle_is_refused() {
    let error = Bundle::unpack(b"not an archive").unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    assert_eq!(Bundle::unpack(b"").unwrap_err().kind(), Kind::Invalid);
    let missing = Bundle::open(Path::new("no-such-folder")).unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound, "{missing}");
}
