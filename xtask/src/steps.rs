//! Runs commands, and shows which step is under way and how long each took.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Returns the root of the repository, wherever the command was started.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Makes a command that runs this cargo at `root`.
pub(crate) fn cargo(root: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // A toolchain that is not installed is an error here, never a download.
    command.current_dir(root).env("RUSTUP_AUTO_INSTALL", "0");
    command
}

/// Runs `command` with its output shown. Fails, naming the command, if it cannot start or does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", line(command));
    }
    Ok(())
}

/// Runs `command` and returns what it wrote to its standard output.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{}`", line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", line(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` wrote bytes that are not text", line(command)))
}

/// Builds what `arguments` of cargo say, and returns where the program `name` of it lies. The whole workspace decides
/// which features of wasmtime are built: they are the same for all commands, and none builds it anew.
pub(crate) fn built(root: &Path, arguments: &[&str], name: &str) -> Result<PathBuf> {
    let mut build = cargo(root);
    build
        .args(["build", "--workspace"])
        .args(arguments)
        .args(["--message-format", "json-render-diagnostics"]);
    let messages = capture(&mut build)?;
    let program = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let program = message["executable"].as_str().filter(|_| message["target"]["name"] == name)?;
        Some(PathBuf::from(program))
    };
    messages.lines().find_map(program).with_context(|| format!("cargo built no program {name}"))
}

/// Returns where `program` stands in PATH.
pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Returns `command` as somebody would type it.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    std::iter::once(program)
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A row of numbered steps. A step that fails does not stop the next ones: one run shows everything that is wrong.
pub(crate) struct Steps {
    planned: usize,
    done: Vec<Step>,
}

struct Step {
    name: &'static str,
    took: Duration,
    failure: Option<String>,
}

impl Steps {
    /// Begins a row of `planned` steps.
    pub(crate) fn new(planned: usize) -> Self {
        Steps { planned, done: Vec::new() }
    }

    /// Runs one step, and prints its number before and its time after.
    pub(crate) fn step(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) {
        let place = format!("[{}/{}] {name}", self.done.len() + 1, self.planned);
        println!("\n{place} …");
        let begin = now();
        let failure = work().err().map(|error| format!("{error:#}"));
        let took = now() - begin;
        let seconds = took.as_secs_f64();
        match &failure {
            None => println!("{place}: ok, {seconds:.1} s"),
            Some(failure) => println!("{place}: FAILED after {seconds:.1} s: {failure}"),
        }
        self.done.push(Step { name, took, failure });
    }

    /// Prints how every step went. Fails, naming the failed ones, if there are any.
    pub(crate) fn finish(self) -> Result<()> {
        println!("\n{}", self.summary());
        let failed: Vec<_> =
            self.done.iter().filter(|step| step.failure.is_some()).map(|step| step.name).collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }

    fn summary(&self) -> String {
        let row = |step: &Step| {
            let outcome = step.failure.as_ref().map_or("ok", |_| "FAILED");
            format!("  {:<12} {outcome:<7} {:>7.1} s", step.name, step.took.as_secs_f64())
        };
        self.done.iter().map(row).collect::<Vec<_>>().join("\n")
    }
}

/// Returns the moment now.
#[expect(
    clippy::disallowed_methods,
    reason = "tells a person how long a step took; nothing is decided by it"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_named_in_its_error() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c exit 3` failed (exit status: 3)");
        let error = run(&mut Command::new("no-such-program-anywhere")).unwrap_err();
        assert!(error.to_string().starts_with("cannot start `no-such-program-anywhere`"), "{error}");
    }

    #[test]
    fn a_failed_step_is_told_at_the_end_and_stops_no_other() {
        let mut steps = Steps::new(2);
        steps.step("first", || bail!("no luck"));
        let mut second_ran = false;
        steps.step("second", || {
            second_ran = true;
            Ok(())
        });
        assert!(second_ran);
        assert!(steps.summary().contains("first        FAILED"), "{}", steps.summary());
        assert_eq!(steps.finish().unwrap_err().to_string(), "failed: first");
    }

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("host/core/Cargo.toml").is_file());
    }
}
