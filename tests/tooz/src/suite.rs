//! Tooz's own functional suite, unmodified, through our driver.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use althing_core::{Clock, SystemClock};
use althing_test_servers::Server;
use anyhow::{Context, Result};
use tokio::process::Command;
use tokio::time::timeout;

use crate::failures::LEASE;
use crate::host::Host;

/// How many tests pass: all that a driver from outside can pass.
pub const PASSED: usize = 97;
/// How many are skipped: one asks for a method that only Tooz's own drivers have.
pub const SKIPPED: usize = 1;
/// How long the suite may take.
const PATIENCE: Duration = Duration::from_secs(170);
/// Where the suite lies in the installed package.
const FILES: &[&str] = &["test_coordination.py", "test_partitioner.py"];

/// How the suite ended.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many tests passed.
    pub passed: usize,
    /// How many were skipped.
    pub skipped: usize,
    /// How many failed, or could not be begun.
    pub failed: usize,
    /// How long it took.
    pub took: Duration,
    /// What pytest printed.
    pub told: String,
}

impl Tally {
    /// Tells whether it ended as it must.
    pub fn is_good(&self) -> bool {
        (self.passed, self.skipped, self.failed) == (PASSED, SKIPPED, 0)
    }

    /// Reads the last line of pytest's: `1 failed, 96 passed, 1 skipped in 4.11s`.
    fn read(told: String) -> Tally {
        let last = told.lines().rev().find(|line| line.contains(" in ")).unwrap_or_default().to_owned();
        let count = |word: &str| {
            let mut words = last.split([' ', ',', '=']).filter(|word| !word.is_empty()).peekable();
            let mut found = 0;
            while let Some(number) = words.next() {
                if words.peek().is_some_and(|next| next.trim_end_matches('s') == word) {
                    found = number.parse().unwrap_or(0);
                }
            }
            found
        };
        let failed = count("failed") + count("error");
        Tally { passed: count("passed"), skipped: count("skipped"), failed, took: Duration::ZERO, told }
    }
}

/// Runs the suite on a host of its own on a backend.
pub async fn run_suite(python: &Path, server: &Server) -> Result<Tally> {
    let host = Host::start(&server.url("tooz"), &["--lease", LEASE]).await?;
    let folder = tempfile::tempdir()?;
    let tests = tests_folder(python).await?;
    let mut command = Command::new(python);
    command.args(["-W", "ignore", "-m", "pytest", "-q", "-rfEs", "--tb=short", "--color=no"]);
    command.args(["-p", "no:cacheprovider", "--timeout=60", "--rootdir"]).arg(folder.path());
    command.args(FILES.iter().map(|file| tests.join(file)));
    command.env("TOOZ_TEST_URL", host.url()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    let begin = SystemClock.now();
    let output = timeout(PATIENCE, command.output()).await.context("the suite does not end")??;
    let mut told = String::from_utf8_lossy(&output.stdout).into_owned();
    told.push_str(&String::from_utf8_lossy(&output.stderr));
    let tally = Tally::read(told);
    Ok(Tally { took: SystemClock.now().since(begin), ..tally })
}

/// Returns where the tests of the installed Tooz lie.
async fn tests_folder(python: &Path) -> Result<std::path::PathBuf> {
    let script = "import os, tooz.tests; print(os.path.dirname(tooz.tests.__file__))";
    let output = Command::new(python).args(["-W", "ignore", "-c", script]).output().await?;
    let folder = String::from_utf8(output.stdout)?;
    anyhow::ensure!(output.status.success(), "{} has no Tooz", python.display());
    Ok(folder.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_pytest_is_read() {
        let tally = Tally::read("FAILED in x\n2 failed, 95 passed, 1 skipped, 1 error in 4.11s\n".to_owned());
        assert_eq!((tally.passed, tally.skipped, tally.failed), (95, 1, 3));
        assert!(!tally.is_good());
        let tally = Tally::read("97 passed, 1 skipped, 5 warnings in 10.02s\n".to_owned());
        assert!(tally.is_good());
        let tally = Tally::read("Killed".to_owned());
        assert!(!tally.is_good());
    }
}
