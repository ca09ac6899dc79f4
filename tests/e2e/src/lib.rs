//! Whole hosts as processes: the `althing` command, started, spoken to, stopped and killed.
//!
//! Nothing here sleeps. A process is waited for by what it prints; one that prints nothing for
//! [`PATIENCE`] fails its test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "only tests use this; what does not work must end the test with what was seen"
)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a process may print nothing that a test waits for. Nothing that works takes as long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Returns the bundle of a shipped policy, and fails where its component was not built.
pub fn policy(name: &str) -> PathBuf {
    let folder = root().join("policies").join(name);
    let component = folder.join(format!("{}.wasm", name.replace('-', "_")));
    assert!(component.is_file(), "{} is missing: run `cargo xtask guests`", component.display());
    folder
}

/// Makes a command that runs `althing`, blind to the settings of whoever runs the tests.
pub fn althing() -> Command {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    let binary = folder.join("althing");
    assert!(binary.is_file(), "{} is missing: run `cargo build -p althing-cli`", binary.display());
    let mut command = Command::new(binary);
    let settings =
        ["ALTHING_SERVER", "ALTHING_TOKEN_FILE", "ALTHING_ON", "ALTHING_LOG", "RUST_LOG", "XDG_RUNTIME_DIR"];
    for variable in settings {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    command
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` after a signal.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A running process, whose lines are read as they come. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Running {
    /// Starts a command.
    pub fn start(command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let (sender, lines) = channel();
        let reader = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            // Ends with the process, or when the test no longer listens.
            reader.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Running { child, lines, seen: Vec::new() }
    }

    /// Waits for the next line, and fails with all that were seen where none comes.
    pub fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                self.seen.push(line.clone());
                line
            }
            Err(error) => panic!("{error}; it had printed:\n{}", self.seen.join("\n")),
        }
    }

    /// Waits for a line of JSON of which `pick` makes something.
    pub fn until<T>(&mut self, mut pick: impl FnMut(&Value) -> Option<T>) -> T {
        loop {
            let line = self.line();
            let value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if let Some(found) = pick(&value) {
                return found;
            }
        }
    }

    /// Waits for an event of this name and returns it.
    pub fn event(&mut self, name: &str) -> Value {
        self.until(|value| (value["event"] == name).then(|| value.clone()))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it ends by itself.
    pub fn end(&mut self) -> ExitStatus {
        // Its output closes when it ends.
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A host in its own folder.
#[derive(Debug)]
pub struct Host {
    /// The process.
    pub process: Running,
    /// The addresses of its `ready` line.
    pub addresses: Vec<String>,
    /// The token file of its `ready` line.
    pub token_file: Option<String>,
    /// Its folder; the socket `a.sock` is in it.
    pub folder: tempfile::TempDir,
}

impl Host {
    /// Starts `althing serve` with these options and waits for its `ready` line.
    pub fn start(options: &[&str]) -> Host {
        let folder = tempfile::tempdir().unwrap();
        let mut command = althing();
        command.env("ALTHING_LOG", "warn").args(["--json", "serve", "--socket"]);
        command.arg(folder.path().join("a.sock")).args(options);
        let mut process = Running::start(&mut command);
        let (addresses, token_file) = process.until(|line| {
            let addresses =
                line["ready"].as_array()?.iter().map(|address| address.as_str().unwrap().to_owned());
            Some((addresses.collect(), line["token_file"].as_str().map(String::from)))
        });
        Host { process, addresses, token_file, folder }
    }

    /// Makes a command that asks this host, over its Unix socket.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = althing();
        command.env("ALTHING_SERVER", &self.addresses[0]).args(arguments);
        command
    }

    /// Runs a verb and returns what it printed. Fails unless it succeeds.
    #[track_caller]
    pub fn ask(&self, arguments: &[&str]) -> String {
        let ended = run(&mut self.command(arguments));
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        ended.stdout
    }

    /// Runs a verb with `--json` and returns what it printed last.
    #[track_caller]
    pub fn ask_json(&self, arguments: &[&str]) -> Value {
        let stdout = self.ask(&[&["--json"], arguments].concat());
        serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
    }

    /// Runs a verb that must fail with this exit code and these words.
    #[track_caller]
    pub fn refuse(&self, arguments: &[&str], code: i32, said: &[&str]) {
        check_refused(&mut self.command(arguments), code, said);
    }

    /// Starts a verb that goes on, with `--json`.
    pub fn follow(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(&[&["--json"], arguments].concat()))
    }

    /// Starts a member and waits until it joined.
    pub fn member(&self, group: &str, id: &str, options: &[&str]) -> Running {
        let mut member = self.follow(&[&["member", "join", group, id, "--create"], options].concat());
        member.event("joined");
        member
    }
}

/// Checks that a command fails with this exit code, and says these words to people.
#[track_caller]
pub fn check_refused(command: &mut Command, code: i32, said: &[&str]) {
    let ended = run(command);
    assert_eq!(ended.code, Some(code), "{command:?}: {ended:?}");
    assert_eq!(ended.stdout, "", "{command:?}");
    for part in said {
        assert!(ended.stderr.contains(part), "{part:?} is not in {}", ended.stderr);
    }
}
