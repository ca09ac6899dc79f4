//! The processes of the demo: hosts, members, and the commands of the operator.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use althing_test_servers::Server;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::PATIENCE;
use crate::steps::now;

/// How many of a host's last lines are shown when the demo fails.
const TAIL_LINES: usize = 12;

/// All that runs. Whatever of it still does when this is dropped is killed.
pub(super) struct Stage {
    binary: PathBuf,
    store: Server,
    hosts: Vec<Host>,
    members: Vec<(String, Child)>,
    begin: Instant,
    // Last: the processes above use what is in it.
    folder: TempDir,
}

struct Host {
    name: String,
    process: Child,
    killed: bool,
}

impl Stage {
    /// Makes an empty stage in a folder of its own.
    pub(super) fn new(binary: PathBuf, store: Server) -> Result<Stage> {
        let folder = tempfile::Builder::new().prefix("althing-demo-").tempdir()?;
        Ok(Stage { binary, store, hosts: Vec::new(), members: Vec::new(), begin: now(), folder })
    }

    /// Adds a line to the time line.
    pub(super) fn tell(&self, at: Instant, words: &str) {
        println!("{:>9.3} s  {words}", at.saturating_duration_since(self.begin).as_secs_f64());
    }

    /// Says what comes next.
    pub(super) fn say(&self, words: &str) {
        println!("\n{words}");
    }

    /// Starts one host, or all of `names` where they share a server. Returns how many.
    pub(super) async fn start_hosts(&mut self, names: &[&str], lease: &str) -> Result<usize> {
        self.begin = now();
        let names = if self.store.is_within_a_host() { &names[..1] } else { names };
        let backend = self.store.url("demo");
        for name in names {
            let words =
                ["serve", "--name", name, "--backend", &backend, "--lease", lease, "--trust", "ops.key.pub"];
            show(&words);
            let mut command = self.command(name)?;
            command.args(words).arg("--socket").arg(self.socket(name)).stdout(Stdio::piped());
            let mut host = command.spawn().with_context(|| format!("host {name} cannot be started"))?;
            let ready = first_line(&mut host).await;
            // Kept also if it is not ready, for its log.
            self.hosts.push(Host { name: (*name).to_owned(), process: host, killed: false });
            let ready = ready.with_context(|| format!("host {name} does not answer"))?;
            if !ready.starts_with("ready ") {
                bail!("host {name} says {ready:?} and not that it is ready");
            }
            self.tell(now(), &format!("host {name} answers"));
        }
        Ok(names.len())
    }

    /// Starts a member on a host.
    pub(super) fn start_member(&mut self, host: usize, group: &str, id: &str, weight: u32) -> Result<()> {
        let weight = format!("weight={weight}");
        let words = ["member", "join", group, id, "--meta", &weight];
        show(&words);
        let mut command = self.asking(host)?;
        let member = command.args(words).stdout(Stdio::null()).spawn();
        self.members.push((id.to_owned(), member.with_context(|| format!("{id} cannot be started"))?));
        Ok(())
    }

    /// Runs a command of the operator, and returns the last value it printed.
    pub(super) async fn althing(&self, host: usize, words: &[&str]) -> Result<Value> {
        show(words);
        self.ask(host, words).await
    }

    /// Does the same without showing it.
    pub(super) async fn ask(&self, host: usize, words: &[&str]) -> Result<Value> {
        let name = || format!("`althing {}`", words.join(" "));
        let mut command = self.asking(host)?;
        command.arg("--json").args(words).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = timeout(PATIENCE, command.output()).await;
        let output = output.with_context(|| format!("{} did not end", name()))?.with_context(name)?;
        if !output.status.success() {
            bail!("{} failed: {}", name(), String::from_utf8_lossy(&output.stderr).trim());
        }
        let text = String::from_utf8(output.stdout)?;
        Ok(text.lines().last().map(serde_json::from_str).transpose()?.unwrap_or_default())
    }

    /// Returns a command that asks a host and may stay.
    pub(super) fn asking(&self, host: usize) -> Result<Command> {
        // The first command makes a key, before there is a host.
        let name = self.hosts.get(host).map_or("operator", |host| &host.name);
        let mut command = self.command("operator")?;
        command.arg("--server").arg(format!("unix:{}", self.socket(name).display()));
        Ok(command)
    }

    /// Copies the files of a bundle, so that the signature does not end up in the repository.
    pub(super) fn copy_bundle(&self, from: &Path, name: &str) -> Result<()> {
        copy(from, &self.folder.path().join(name))
            .with_context(|| format!("{} cannot be copied", from.display()))
    }

    /// Kills a member's process, and returns when.
    pub(super) fn kill_member(&mut self, id: &str) -> Result<Instant> {
        let place = self.members.iter().position(|(member, _)| member == id);
        let (_, mut member) = self.members.remove(place.context("it is a member of ours")?);
        println!("             $ kill -9 <{id}>");
        kill(&mut member)
    }

    /// Kills a host's process, and returns when.
    pub(super) fn kill_host(&mut self, host: usize) -> Result<Instant> {
        let host = self.hosts.get_mut(host).context("it is a host of ours")?;
        println!("             $ kill -9 <host {}>", host.name);
        host.killed = true;
        kill(&mut host.process)
    }

    /// Returns the places of the hosts that were not killed.
    pub(super) fn living_hosts(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|place| !self.hosts[*place].killed).collect()
    }

    /// Ends members and hosts as SIGTERM does, and removes everything.
    pub(super) async fn end(&mut self) -> Result<()> {
        self.say("everything ends");
        for (id, mut member) in std::mem::take(&mut self.members) {
            terminate(&mut member).await.with_context(|| format!("{id} did not end"))?;
        }
        for Host { name, process, killed } in &mut self.hosts {
            terminate(process).await.with_context(|| format!("host {name} did not end"))?;
            if !*killed && self.folder.path().join(format!("{name}.sock")).exists() {
                bail!("host {name} left its socket");
            }
        }
        self.store = Server::Memory;
        let (folder, end) = (self.folder.path(), now());
        fs::remove_dir_all(folder).with_context(|| format!("{} cannot be removed", folder.display()))?;
        self.tell(end, "the members have left, the hosts have ended, the temporary files are removed");
        Ok(())
    }

    /// Returns the last lines of every log.
    pub(super) fn log_tails(&self) -> String {
        let tail = |Host { name, .. }: &Host| {
            let log = fs::read_to_string(self.log(name)).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
            format!("--- {name}\n{}\n", last.join("\n"))
        };
        self.hosts.iter().map(tail).collect()
    }

    /// Makes a command in the stage's folder, whose errors go to the log of `name`.
    fn command(&self, name: &str) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.log(name))?;
        let mut command = Command::new(&self.binary);
        command.current_dir(self.folder.path()).kill_on_drop(true).stdin(Stdio::null()).stderr(log);
        command.env("ALTHING_LOG", "info").env("NO_COLOR", "1");
        Ok(command)
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.sock"))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }
}

/// Shows a command as somebody would type it.
fn show(words: &[&str]) {
    println!("             $ althing {}", words.join(" "));
}

async fn first_line(process: &mut Child) -> Result<String> {
    let output = process.stdout.take().context("it has no output")?;
    let mut lines = BufReader::new(output).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.context("it says nothing")??;
    line.context("it ended")
}

fn kill(process: &mut Child) -> Result<Instant> {
    let killed = now();
    process.start_kill()?;
    Ok(killed)
}

async fn terminate(process: &mut Child) -> Result<()> {
    if let Some(pid) = process.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        // It may have ended since.
        let _ = kill_process(pid, Signal::TERM);
    }
    timeout(PATIENCE, process.wait()).await.context("it goes on after SIGTERM")??;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, place) = (entry?.path(), to);
        let place = place.join(entry.file_name().unwrap_or_default());
        if entry.is_dir() { copy(&entry, &place)? } else { fs::copy(&entry, &place).map(drop)? }
    }
    Ok(())
}
