//! `postgres`, alone on a port, run by the user `postgres` where we are root: it refuses root.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::certificate::make_certificate;
use crate::process::{NotStarted, Process};
use crate::{find, free_port, ready_for};

/// How long one question whether the server answers may take.
const PING_DEADLINE: Duration = Duration::from_millis(500);
/// How often another port is tried when somebody took the free one first.
const PORT_TRIES: u32 = 5;
/// Where Debian puts the programs of each version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Who may do everything on the server.
const OWNER: &str = "althing";

/// How a private PostgreSQL is configured.
#[derive(Clone, Debug, Default)]
pub struct PostgresqlOptions {
    /// Asks the owner for this password; else nobody is asked.
    pub password: Option<String>,
    /// Further settings, by name and value, such as `("fsync", "off")`.
    pub settings: Vec<(String, String)>,
    /// Speaks TLS too, with a certificate for 127.0.0.1 signed by itself.
    pub tls: bool,
}

/// A private PostgreSQL. Dropping it ends it.
#[derive(Debug)]
pub struct Postgresql {
    process: Process,
    options: PostgresqlOptions,
    port: u16,
    folder: TempDir,
    /// Its process ids may be somebody else's now.
    killed: bool,
}

impl Postgresql {
    /// Starts a server with an empty database and waits until it answers. `None` where PostgreSQL is missing and not
    /// required.
    pub async fn start(options: PostgresqlOptions) -> Option<Postgresql> {
        if !ready_for("postgres") {
            return None;
        }
        let folder = new_folder();
        initialise(folder.path(), &options);
        Some(Self::start_in(folder, options).await)
    }

    /// Starts a standby that follows this server.
    pub async fn standby(&self) -> Postgresql {
        let folder = new_folder();
        run(as_owner("pg_basebackup", folder.path()).args(["-h", "127.0.0.1", "-U", OWNER]).args([
            "-p",
            &self.port.to_string(),
            "-D",
            "data",
            "-R",
            "-X",
            "stream",
            "-c",
            "fast",
        ]));
        Self::start_in(folder, self.options.clone()).await
    }

    async fn start_in(folder: TempDir, options: PostgresqlOptions) -> Postgresql {
        let mut refusal = None;
        for _ in 0..PORT_TRIES {
            let port = free_port();
            match launch(&options, port, folder.path()).await {
                Ok(process) => return Postgresql { process, options, port, folder, killed: false },
                Err(not_started) => refusal = Some(not_started),
            }
        }
        panic!("postgres did not start:\n{}", refusal.map(|refusal| refusal.log).unwrap_or_default());
    }

    /// Returns the URL of a namespace on this server, with the password it asks for.
    pub fn url(&self, namespace: &str) -> String {
        let password =
            self.options.password.iter().map(|password| format!(":{password}")).collect::<String>();
        format!("postgresql://{OWNER}{password}@127.0.0.1:{}/postgres?namespace={namespace}", self.port)
    }

    /// Returns the port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the file with the certificate that the server shows.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("server.crt")
    }

    /// Returns the id of its first process, which starts all others.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns the ids of all other processes that it has now.
    pub fn family(&self) -> Vec<u32> {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.unwrap_or_default().split_whitespace().filter_map(|child| child.parse().ok()).collect()
    }

    /// Kills all its processes with SIGKILL and waits until they are gone. Does nothing where it was killed before.
    pub fn kill(&mut self) {
        if self.killed {
            return;
        }
        self.killed = true;
        let others = self.family();
        self.process.kill();
        others.iter().for_each(|pid| signal(*pid, "KILL"));
        // None of them may still write when the next one starts.
        while others.iter().any(|pid| runs(*pid)) {
            std::thread::yield_now();
        }
    }

    /// Kills it if it runs, and starts it again on the same port with what it left on disk.
    pub async fn restart(&mut self) {
        self.kill();
        match launch(&self.options, self.port, self.folder.path()).await {
            Ok(process) => (self.process, self.killed) = (process, false),
            Err(refusal) => panic!("postgres did not start again:\n{}", refusal.log),
        }
    }

    /// Stops all its processes with SIGSTOP. They keep their sockets and answer nothing.
    pub fn pause(&self) {
        // The first one goes first: it starts no further ones then.
        self.process.pause();
        self.family().iter().for_each(|pid| signal(*pid, "STOP"));
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.family().iter().for_each(|pid| signal(*pid, "CONT"));
        self.process.resume();
    }

    /// Makes a standby a primary, and waits until it is.
    pub async fn promote(&self) {
        run(as_owner("pg_ctl", self.folder.path()).args(["promote", "-w", "-D", "data"]));
    }

    /// Runs SQL as the owner and returns what it prints, bare.
    pub fn sql(&self, sql: &str) -> String {
        run(self.psql().args(["-c", sql]))
    }

    /// Runs SQL as the owner, which must fail, and returns what is said of it.
    pub fn refusal(&self, sql: &str) -> String {
        let done = self.psql().args(["-c", sql]).output().expect("psql runs");
        assert!(!done.status.success(), "{sql:?} was done");
        String::from_utf8_lossy(&done.stderr).into_owned()
    }

    /// Begins a conversation: what it locks stays locked until the value is dropped. Returns once all of `sql` is done.
    pub fn talk(&self, sql: &str) -> PostgresqlTalk {
        let mut child = self
            .psql()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("psql starts");
        let mut input = child.stdin.take().expect("a pipe");
        writeln!(input, "{sql}\n\\echo done").expect("psql reads");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let done = output.lines().any(|line| line.expect("psql writes text") == "done");
        assert!(done, "psql ended before {sql:?} was done");
        PostgresqlTalk { child, input }
    }

    /// Goes on at the port of another server, which is gone. For a standby that takes its place.
    pub async fn take_place_of(&mut self, gone: Postgresql) {
        self.port = gone.port;
        drop(gone);
        self.restart().await;
    }

    fn psql(&self) -> Command {
        let mut command = Command::new("psql");
        command.args(["-h", "127.0.0.1", "-U", OWNER, "-d", "postgres", "-qAtX", "-v", "ON_ERROR_STOP=1"]);
        command.arg("-p").arg(self.port.to_string());
        if let Some(password) = &self.options.password {
            command.env("PGPASSWORD", password);
        }
        command
    }
}

/// A session of its own on the server. Dropping it ends it.
#[derive(Debug)]
pub struct PostgresqlTalk {
    child: Child,
    input: ChildStdin,
}

impl PostgresqlTalk {
    /// Says more, and does not wait until it is done.
    pub fn say(&mut self, sql: &str) {
        writeln!(self.input, "{sql}").expect("psql reads");
    }
}

impl Drop for PostgresqlTalk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Postgresql {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Tells whether the programs are there.
pub(crate) fn is_installed() -> bool {
    program("postgres").is_some()
}

/// Finds a program of the server: in `PATH`, or where Debian puts those of the newest version.
fn program(name: &str) -> Option<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN).ok().into_iter().flatten().filter_map(|entry| entry.ok());
    let mut found: Vec<_> =
        versions.map(|entry| entry.path().join("bin").join(name)).filter(|file| file.is_file()).collect();
    found.sort();
    found.pop().or_else(|| find(name))
}

fn new_folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("althing-postgresql-").tempdir().expect("a folder");
    if is_root() {
        run(Command::new("chown").arg("postgres").arg(folder.path()));
    }
    folder
}

fn initialise(folder: &Path, options: &PostgresqlOptions) {
    let password = folder.join("password");
    std::fs::write(&password, options.password.as_deref().unwrap_or("none")).expect("a file");
    if options.tls {
        make_certificate(folder);
    }
    if is_root() {
        run(Command::new("chown").arg("-R").arg("postgres").arg(folder));
    }
    let way = if options.password.is_some() { "scram-sha-256" } else { "trust" };
    let mut command = as_owner("initdb", folder);
    command.args(["-D", "data", "-U", OWNER, "--no-sync", "--auth", way, "--pwfile", "password"]);
    command.args(["--encoding", "UTF8", "--locale", "C"]);
    run(&mut command);
}

async fn launch(options: &PostgresqlOptions, port: u16, folder: &Path) -> Result<Process, NotStarted> {
    // What a killed server left would hold up the next one.
    let _ = std::fs::remove_file(folder.join("data/postmaster.pid"));
    let mut command = as_owner("postgres", folder);
    command.args(["-D", "data", "-p", &port.to_string()]);
    let mut set = |name: &str, value: &str| {
        command.arg("-c").arg(format!("{name}={value}"));
    };
    set("listen_addresses", "127.0.0.1");
    set("unix_socket_directories", "");
    set("shared_buffers", "16MB");
    set("max_connections", "200");
    if options.tls {
        set("ssl", "on");
        set("ssl_cert_file", "../server.crt");
        set("ssl_key_file", "../server.key");
    }
    for (name, value) in &options.settings {
        set(name, value);
    }
    let ready = folder.join("data/postmaster.pid");
    let answers = || {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let state = std::fs::read_to_string(&ready).unwrap_or_default();
        // The last line of its file says how far it is; a standby never gets further than that.
        let up = state.lines().nth(7).is_some_and(|state| matches!(state.trim(), "ready" | "standby"));
        up && TcpStream::connect_timeout(&address, PING_DEADLINE).is_ok()
    };
    Process::start(&mut command, &folder.join("server.log"), answers).await
}

/// Makes a command that runs in `folder`, as the user `postgres` where we are root.
fn as_owner(name: &str, folder: &Path) -> Command {
    let program = program(name).expect("asked for before");
    let mut command = Command::new(if is_root() { Path::new("setpriv") } else { &program });
    if is_root() {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--"]).arg(&program);
    }
    command.current_dir(folder).env("LC_ALL", "C");
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Tells whether a process runs. One that ended and was not yet asked about does not.
fn runs(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit_once(')').is_some_and(|(_, state)| !state.trim_start().starts_with(['Z', 'X']))
}

fn signal(pid: u32, name: &str) {
    // It may have ended by itself.
    let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
}

fn run(command: &mut Command) -> String {
    let done = command.output().expect("the program runs");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
}
