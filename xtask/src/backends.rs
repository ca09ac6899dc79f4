//! `cargo xtask backends`: what each backend passes of the conformance suite and of the runtime's own tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use althing_test_servers::Backend;
use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::steps::{capture, cargo};
use crate::{guests, setup};

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Those backends alone that have this in their name, such as redis.
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

/// Installs the servers that are missing, builds and runs the tests of all backends, and prints a row for each. Fails
/// where one of the tests does, or did not run.
pub(crate) fn table(root: &Path, args: &Args) -> Result<()> {
    let wanted = Backend::ALL.iter().filter(|backend| backend.name().contains(&args.backend));
    wanted.filter_map(|backend| backend.program()).try_for_each(setup::require_server)?;
    guests::build(root)?;
    let (mut table, mut failed) = (Table::new(), Vec::new());
    for Suite { program, of_runtime } in suites(root)? {
        for Ended { backend, test, how } in outcomes(root, &program, &args.backend)? {
            let tally = &mut table.entry(backend.clone()).or_default()[usize::from(of_runtime)];
            match how.as_str() {
                "ok" => tally.passed += tests_of(&test),
                declared if declared.starts_with("ignored, needs") => tally.unsupported += 1,
                _ => {
                    tally.failed += 1;
                    failed.push(format!("{backend}::{test} ({how})"));
                }
            }
        }
    }
    print(&table);
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn print(table: &Table) {
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
        let source = message["target"]["src_path"].as_str()?;
        let of_runtime = source.contains("/tests/sim/");
        // The memory driver's lies with the suite itself.
        let is_suite = of_runtime
            || source.ends_with("/tests/conformance.rs")
            || source.ends_with("/tests/conformance/tests/memory.rs");
        is_suite.then(|| Suite { program: program.into(), of_runtime })
    };
    Ok(capture(&mut build)?.lines().filter_map(suite).collect())
}

/// How a test of a backend ended.
struct Ended {
    backend: String,
    test: String,
    /// In the words of its harness: `ok`, `FAILED`, `ignored, needs …`.
    how: String,
}

/// Runs the tests of a suite whose backend has `wanted` in its name. Fails where the suite itself does.
fn outcomes(root: &Path, program: &Path, wanted: &str) -> Result<Vec<Ended>> {
    let mut command = Command::new(program);
    command.arg(wanted).args(["--test-threads", "2", "--color", "never"]);
    command.current_dir(root.join("tests/sim"));
    let output = command.output();
    let output = output.with_context(|| format!("{} cannot be started", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let ended = |line: &str| {
        let (name, how) = line.strip_prefix("test ")?.split_once(" ... ")?;
        // Tests that are not of one backend are not of this table.
        let (backend, test) = name.split_once("::").filter(|(backend, _)| backend.contains(wanted))?;
        Some(Ended { backend: backend.into(), test: test.trim().into(), how: how.trim().into() })
    };
    if !output.status.success() {
        eprintln!("{text}{}", String::from_utf8_lossy(&output.stderr));
        if !text.contains("test result: FAILED") {
            bail!("{} ended before its tests did: {}", program.display(), output.status);
        }
    }
    Ok(text.lines().filter_map(ended).collect())
}
