//! What the command says of itself. That this test exists also has cargo build the binary that `tests/e2e` runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_althing")).args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(arguments: &[&str], said: &[&str]) {
    let help = help(arguments);
    for part in said {
        assert!(help.contains(part), "{part:?} is not in {help}");
    }
}

#[test]
fn help_tells_the_exit_codes_and_the_defaults() {
    check(
        &[],
        &[
            "Exit codes: 0 done 1 failed 2 wrong usage or input 3 not found",
            "ALTHING_SERVER",
            "ALTHING_TOKEN_FILE",
        ],
    );
    check(&["serve"], &["[default: memory:]", "[default: 10s, from 500ms to 300s]", "althing.sock]"]);
    check(&["member", "join"], &["[default: 15s]"]);
    check(&["decisions"], &["[default: 20]"]);
}
