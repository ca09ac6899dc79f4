//! `cargo xtask test`: everything a change has to pass.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::steps::{Steps, capture, cargo, run};
use crate::{guests, setup};

/// Where nextest leaves its report; `.config/nextest.toml` says so.
const REPORT: &str = "target/nextest/default/junit.xml";

/// What to test.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Check and test this package only.
    #[arg(long)]
    package: Option<String>,

    /// Arguments for nextest, for instance part of a test's name.
    #[arg(last = true)]
    nextest: Vec<String>,
}

impl Args {
    /// Returns the arguments that tell cargo what to work on: the one package, or `all`.
    fn packages<'a>(&'a self, all: &'a str) -> Vec<&'a str> {
        self.package.as_deref().map_or(vec![all], |name| vec!["--package", name])
    }
}

/// Sets up, builds the guests, checks form and lints, runs all tests, and ends with a line `N passed, N failed`.
///
/// A step that fails does not stop the next ones. Fails if any of them did.
pub(crate) fn check_all(root: &Path, args: &Args) -> Result<()> {
    let mut steps = Steps::new(6);
    let mut count = Count::default();
    steps.step("set-up", || setup::install_missing(root));
    steps.step("guests", || guests::build(root));
    steps.step("format", || format(root, args));
    steps.step("lints", || lints(root, args));
    steps.step("tests", || nextest(root, args, &mut count));
    steps.step("doc tests", || doc_tests(root, args, &mut count));
    let outcome = steps.finish();
    println!("{} passed, {} failed", count.passed, count.failed);
    outcome
}

fn format(root: &Path, args: &Args) -> Result<()> {
    run(cargo(root).arg("fmt").args(args.packages("--all")).arg("--check"))?;
    if args.package.is_some() {
        return Ok(());
    }
    // The guests are a workspace of their own.
    run(cargo(&root.join("guests")).args(["fmt", "--all", "--check"]))
}

fn lints(root: &Path, args: &Args) -> Result<()> {
    let targets = ["--all-targets", "--", "-D", "warnings"];
    run(cargo(root).arg("clippy").args(args.packages("--workspace")).args(targets))
}

fn nextest(root: &Path, args: &Args, count: &mut Count) -> Result<()> {
    let report = root.join(REPORT);
    // The report of an earlier run must not be counted if this one does not get as far as testing.
    if let Err(error) = fs::remove_file(&report)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("cannot remove {}", report.display()));
    }
    let outcome =
        run(cargo(root).args(["nextest", "run"]).args(args.packages("--workspace")).args(&args.nextest));
    if let Ok(report) = fs::read_to_string(&report) {
        count.add(Count::of_report(&report)?);
    }
    outcome
}

fn doc_tests(root: &Path, args: &Args, count: &mut Count) -> Result<()> {
    if let Some(name) = &args.package
        && !has_library(root, name)?
    {
        println!("  {name} has no library, so it has no doc tests");
        return Ok(());
    }
    let mut command = cargo(root);
    command.args(["test", "--doc"]).args(args.packages("--workspace"));
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start `cargo test --doc`")?;
    let output = child.stdout.take().context("`cargo test --doc` has no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        count.add(Count::of_doc_tests(&line));
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`cargo test --doc` failed ({status})");
    }
    Ok(())
}

fn has_library(root: &Path, name: &str) -> Result<bool> {
    let metadata = capture(cargo(root).args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let package = packages.iter().find(|package| package["name"] == name);
    let targets = package.and_then(|package| package["targets"].as_array());
    let targets = targets.with_context(|| format!("there is no package {name:?}"))?;
    Ok(targets.iter().any(|target| target["doctest"] == true))
}

/// How many tests there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

impl Count {
    fn add(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Reads the totals at the head of a JUnit report: `<testsuites … tests="9" failures="1" errors="0">`.
    fn of_report(report: &str) -> Result<Self> {
        let head = report.split_once("<testsuites").and_then(|(_, rest)| rest.split_once('>'));
        let (head, _) = head.context("the report of the tests has no totals")?;
        let total = |name: &str| {
            let value = head.split_once(&format!(" {name}=\"")).and_then(|(_, rest)| rest.split_once('"'));
            value
                .and_then(|(digits, _)| digits.parse::<u64>().ok())
                .with_context(|| format!("the report of the tests does not say how many {name} there were"))
        };
        let failed = total("failures")? + total("errors")?;
        Ok(Count { passed: total("tests")?.saturating_sub(failed), failed })
    }

    /// Reads a line of rustdoc's: `test result: ok. 3 passed; 0 failed; …`. Any other line counts nothing.
    fn of_doc_tests(line: &str) -> Self {
        let Some((_, totals)) = line.split_once("test result: ").and_then(|(_, rest)| rest.split_once(". "))
        else {
            return Count::default();
        };
        let total = |word: &str| {
            let part = totals.split("; ").find_map(|part| part.strip_suffix(word));
            part.and_then(|digits| digits.parse().ok()).unwrap_or(0)
        };
        Count { passed: total(" passed"), failed: total(" failed") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_failures_and_errors_of_a_report_as_failed() {
        let report = r#"<?xml version="1.0"?><testsuites name="n" tests="9" failures="2" errors="1" uuid="u"><testsuite tests="4"/>"#;
        assert_eq!(Count::of_report(report).unwrap(), Count { passed: 6, failed: 3 });
    }

    #[test]
    fn refuses_a_report_without_totals() {
        assert!(Count::of_report("<testsuites name=\"n\">").is_err());
        assert!(Count::of_report("").is_err());
    }

    #[test]
    fn counts_only_the_result_line_of_doc_tests() {
        let line = "test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(Count::of_doc_tests(line), Count { passed: 3, failed: 1 });
        assert_eq!(Count::of_doc_tests("test src/lib.rs - open (line 3) ... ok"), Count::default());
    }
}
