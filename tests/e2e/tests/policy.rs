//! A rule that is signed, pushed, activated and rolled back while its group has a leader.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use althing_e2e::{Host, Running, althing, policy, run};

/// Waits until this member leads.
fn until_led_by(watch: &mut Running, member: &str) {
    watch.until(|event| {
        let leader = if event["event"] == "elected" { &event["leader"] } else { &event["group"]["leader"] };
        (leader["member"] == member).then_some(())
    });
}

#[test]
fn an_activated_rule_moves_the_leader_and_a_rollback_gives_the_former_rule_back() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("ops.key");
    let key = key.to_str().unwrap();
    assert_eq!(run(althing().args(["policy", "keygen", "--out", key])).code, Some(0));
    let host = Host::start(&["--trust", &format!("{key}.pub")]);
    let bundle = policy("elect-weighted");
    let bundle = bundle.to_str().unwrap();

    let _light = host.member("web", "light", &["--meta", "weight=1"]);
    let _heavy = host.member("web", "heavy", &["--meta", "weight=100"]);
    let _middling = host.member("web", "middling", &["--meta", "weight=50"]);
    let mut watch = host.follow(&["watch", "web"]);
    until_led_by(&mut watch, "light");

    host.refuse(&["policy", "push", bundle], 6, &["not signed", "help: "]);
    let pushed = host.ask_json(&["policy", "push", bundle, "--key", key]);
    assert_eq!((&pushed["phase"], &pushed["done"]), (&"stored".into(), &true.into()));
    assert!(pushed["cases"].as_u64().unwrap() > 0, "{pushed}");
    assert_eq!(host.ask_json(&["policy", "list"])[0]["name"], "elect-weighted");
    assert!(host.ask(&["policy", "show", "elect-weighted"]).contains("election"));

    let group = host.ask_json(&["policy", "activate", "elect-weighted", "--group", "web"]);
    assert_eq!(group["binding"]["digest"], pushed["digest"]);
    until_led_by(&mut watch, "heavy");
    let decisions = host.ask(&["decisions", "web"]);
    assert!(decisions.contains("elect-weighted"), "{decisions}");

    let group = host.ask_json(&["policy", "rollback", "--group", "web"]);
    assert_eq!((&group["binding"], &group["epoch"]), (&serde_json::Value::Null, &2.into()));
    // The built-in rule fills vacancies and moves nobody. By the former rule middling would be next.
    host.ask(&["leader", "stand-down", "web"]);
    until_led_by(&mut watch, "light");
}

#[test]
fn a_bundle_that_was_changed_after_it_was_signed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("ops.key");
    let key = key.to_str().unwrap();
    run(althing().args(["policy", "keygen", "--out", key]));
    assert_eq!(run(althing().args(["policy", "keygen", "--out", key])).code, Some(4));

    let source = policy("elect-oldest");
    let bundle = folder.path().join("bundle");
    std::fs::create_dir(&bundle).unwrap();
    for file in ["policy.toml", "elect_oldest.wasm"] {
        std::fs::copy(source.join(file), bundle.join(file)).unwrap();
    }
    let path = bundle.to_str().unwrap();
    let host = Host::start(&["--trust", &format!("{key}.pub")]);
    host.ask(&["policy", "sign", path, "--key", key]);
    host.ask(&["policy", "push", path]);
    std::fs::write(bundle.join("README.md"), "changed").unwrap();
    host.refuse(&["policy", "push", path], 6, &["signature"]);
}
