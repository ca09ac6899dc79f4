//! `cargo xtask backends`: what each backend passes of the conformance suite and of the runtime's own tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::guests;
use crate::steps::{capture, cargo};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Those tests alone whose backend's name has this in it, such as redis.
    #[arg(long, value_name = "NAME", default_value = "")]
    backend: String,
}

/// How the tests of one backend ended.
#[derive(Clone, Copy, Default)]
struct Tally {
    passed: usize,
    /// The backend declares that it does not promise this.
    unsupported: usize,
    failed: usize,
}

/// The tests of each backend: those of the conformance suite, and the runtime's own.
type Table = BTreeMap<String, [Tally; 2]>;

/// Builds and runs the tests of all backends, and prints a row for each. Fails where one of them does.
pub(crate) fn table(root: &Path, args: &Args) -> Result<()> {
    guests::build(root)?;
    let mut table = Table::new();
    let mut failed = Vec::new();
    for Suite { program, of_runtime } in suites(root)? {
        for (name, words) in outcomes(root, &program, &args.backend)? {
            // Tests that are not of one backend are not of this table.
            let Some((backend, test)) = name.split_once("::") else { continue };
            let tally = &mut table.entry(backend.to_owned()).or_default()[usize::from(of_runtime)];
            match words.split(',').next() {
                Some("ok") => tally.passed += tests_of(test),
                Some("ignored") => tally.unsupported += 1,
                _ => {
                    tally.failed += 1;
                    failed.push(name);
                }
            }
        }
    }
    println!("{:24} {:^34} {:^14}", "", "conformance", "runtime's own");
    println!(
        "{:24} {:>7} {:>19} {:>6} {:>7} {:>6}",
        "backend", "passed", "declared otherwise", "failed", "passed", "failed"
    );
    for (backend, [suite, own]) in table {
        println!(
            "{backend:24} {:>7} {:>19} {:>6} {:>7} {:>6}",
            suite.passed, suite.unsupported, suite.failed, own.passed, own.failed
        );
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Returns how many tests a line of a suite stands for: seven where it ends with `all-of-7`.
fn tests_of(name: &str) -> usize {
    name.rsplit_once("all-of-").and_then(|(_, count)| count.parse().ok()).unwrap_or(1)
}

/// A binary of tests whose names begin with that of a backend.
struct Suite {
    program: PathBuf,
    of_runtime: bool,
}

/// Builds the suites, and the `althing` that lies beside them, with all that `cargo xtask test` builds.
fn suites(root: &Path) -> Result<Vec<Suite>> {
    let mut build = cargo(root);
    build.args(["build", "--workspace", "--tests", "--bins", "--message-format", "json-render-diagnostics"]);
    let suite = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let program = message["executable"].as_str().filter(|_| message["target"]["kind"][0] == "test")?;
        let of_runtime = message["target"]["src_path"].as_str()?.contains("/tests/sim/");
        let is_suite = of_runtime || message["target"]["name"] == "conformance";
        is_suite.then(|| Suite { program: program.into(), of_runtime })
    };
    Ok(capture(&mut build)?.lines().filter_map(suite).collect())
}

/// Runs the tests of a suite that `wanted` is in the names of. Returns each with how it ended.
fn outcomes(root: &Path, program: &Path, wanted: &str) -> Result<Vec<(String, String)>> {
    let mut command = Command::new(program);
    command.arg(wanted).args(["--test-threads", "2"]).current_dir(root.join("tests/sim"));
    let output = command.stderr(Stdio::null()).output();
    let output = output.with_context(|| format!("{} cannot be started", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().filter_map(|line| line.strip_prefix("test ")?.split_once(" ... "));
    Ok(lines.map(|(name, outcome)| (name.trim().to_owned(), outcome.trim().to_owned())).collect())
}
