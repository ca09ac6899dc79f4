//! Hosts and members as processes.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use althing_client::{Address, Client};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::locker::LockerAsk;
use crate::member::MemberAsk;
use crate::signal::terminate;

/// The longest anything is waited for that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How often a host is started until it is ready.
const START_TRIES: usize = 4;

/// The programs that scenarios start.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `althing`.
    pub althing: PathBuf,
    /// This package's own, which is a member or a locker when asked to.
    pub chaos: PathBuf,
}

impl Programs {
    /// Takes `althing` from beside `chaos`.
    pub fn beside(chaos: PathBuf) -> Result<Programs> {
        let althing = chaos.with_file_name("althing");
        if !althing.is_file() {
            bail!("{} is missing: run `cargo build -p althing-cli`", althing.display());
        }
        Ok(Programs { althing, chaos })
    }
}

/// A host that can be killed and started again, as the same host.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// Speaks to it past all proxies.
    pub(crate) client: Client,
    /// Where it listens on TCP.
    pub(crate) port: u16,
    pub(crate) token_file: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    process: Option<Child>,
}

impl Host {
    /// Describes a host in a folder of its own; it is not started yet.
    pub(crate) fn new(
        program: &Path,
        folder: &Path,
        name: &str,
        url: &str,
        lease: Duration,
        port: u16,
    ) -> Host {
        let (socket, state) = (folder.join(format!("{name}.sock")), folder.join(name));
        let text = |path: &Path| path.display().to_string();
        let arguments = [
            "serve",
            "--name",
            name,
            "--backend",
            url,
            "--lease",
            &format!("{}ms", lease.as_millis()),
            "--socket",
            &text(&socket),
            "--state",
            &text(&state),
            "--listen",
            &format!("127.0.0.1:{port}"),
        ];
        Host {
            name: name.to_owned(),
            client: Client::new(Address::Unix(socket)).within(Duration::from_secs(2)),
            port,
            token_file: state.join("token"),
            program: program.to_owned(),
            arguments: arguments.map(str::to_owned).to_vec(),
            log: folder.join(format!("{name}.log")),
            process: None,
        }
    }

    /// Starts it and waits until it says that it is ready. One that cannot reach its backend in time ends, on a slow
    /// machine too, and is started again, as a supervisor would do.
    pub(crate) async fn start(&mut self) -> Result<()> {
        for _ in 1..START_TRIES {
            if self.start_once().await.is_ok() {
                return Ok(());
            }
            self.kill().await;
        }
        self.start_once().await
    }

    async fn start_once(&mut self) -> Result<()> {
        let mut command = clean(&self.program);
        command.env("ALTHING_LOG", "info").args(&self.arguments);
        let mut process = command.stdout(Stdio::piped()).stderr(log(&self.log)?).spawn()?;
        let output = process.stdout.take().context("its output is read")?;
        // Kept from here on, so that it ends with this value whatever happens.
        self.process = Some(process);
        let mut lines = BufReader::new(output).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.context("it says nothing")??;
        if line.is_none_or(|line| !line.starts_with("ready ")) {
            bail!("{} is not ready:\n{}", self.name, std::fs::read_to_string(&self.log).unwrap_or_default());
        }
        Ok(())
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        end(&mut self.process).await;
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn pid(&self) -> u32 {
        pid(&self.process)
    }
}

/// What a process of this package's own program is told to be.
pub(crate) trait Role: Serialize {
    /// The word by which the program knows it.
    const NAME: &'static str;

    /// Returns where it writes down what it sees.
    fn folder(&self) -> &Path;
}

impl Role for MemberAsk {
    const NAME: &'static str = "member";

    fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Role for LockerAsk {
    const NAME: &'static str = "locker";

    fn folder(&self) -> &Path {
        &self.folder
    }
}

/// A member, under an id of its own.
pub(crate) type Member = Actor<MemberAsk>;

/// A process with several clients that lock and release.
pub(crate) type Locker = Actor<LockerAsk>;

/// Somebody who can be killed and started again, as the same one.
#[derive(Debug)]
pub(crate) struct Actor<R> {
    pub(crate) ask: R,
    /// The place of its host.
    pub(crate) host: usize,
    program: PathBuf,
    process: Option<Child>,
}

impl<R: Role> Actor<R> {
    pub(crate) fn new(program: &Path, host: usize, ask: R) -> Self {
        Actor { ask, host, program: program.to_owned(), process: None }
    }

    pub(crate) fn start(&mut self) -> Result<()> {
        let ask = serde_json::to_string(&self.ask)?;
        let errors = log(&self.ask.folder().join(format!("{}s.log", R::NAME)))?;
        let mut command = clean(&self.program);
        command.args([R::NAME, &ask]).stdout(Stdio::null()).stderr(errors);
        self.process = Some(command.spawn()?);
        Ok(())
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        end(&mut self.process).await;
    }

    /// Asks it to end and waits until it has.
    pub(crate) async fn end(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        terminate(process.id().context("it runs")?);
        timeout(PATIENCE, process.wait()).await.context("it does not end")??;
        Ok(())
    }

    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn pid(&self) -> u32 {
        pid(&self.process)
    }
}

/// Makes a command that is blind to the settings of whoever runs the tests, and ends with its value.
fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    let settings =
        ["ALTHING_SERVER", "ALTHING_TOKEN_FILE", "ALTHING_ON", "ALTHING_LOG", "RUST_LOG", "XDG_RUNTIME_DIR"];
    for variable in settings {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn end(process: &mut Option<Child>) {
    if let Some(mut process) = process.take() {
        process.kill().await.expect("our own child can be killed");
    }
}

fn pid(process: &Option<Child>) -> u32 {
    process.as_ref().and_then(Child::id).expect("it runs")
}

fn log(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("{} cannot be written", path.display()))
}
