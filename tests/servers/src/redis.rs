//! `redis-server`, alone on a port, with or without an append-only file.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::certificate::make_certificate;
use crate::process::{NotStarted, Process};
use crate::resp::ask;
use crate::wall::WallClock;
use crate::{find, free_port, ready_for};

/// How often another port is tried when somebody took the free one first.
const PORT_TRIES: u32 = 5;
const VERSION_MIN: u32 = 7;
/// The name of its Unix socket, in its folder.
const SOCKET: &str = "redis.sock";

/// How a private Redis is configured.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Writes every command to disk before it answers (`appendonly yes`, `appendfsync always`). Else nothing
    /// survives a restart.
    pub append_only: bool,
    /// Asks clients for this password.
    pub password: Option<String>,
    /// Further settings, by name and value, such as `("cluster-enabled", "yes")`.
    pub settings: Vec<(String, String)>,
    /// Speaks TLS on the port [`Redis::tls_port`], with a certificate for 127.0.0.1 signed by itself.
    pub tls: bool,
    /// Has a wall clock that [`Redis::step_clock`] sets. Needs a C compiler.
    pub own_clock: bool,
}

impl RedisOptions {
    /// Makes the configuration whose acknowledged writes survive a kill.
    pub fn durable() -> Self {
        RedisOptions { append_only: true, ..RedisOptions::default() }
    }
}

/// Tells whether a server of a version that tests know is there: an older one has neither the commands of its sentinels
/// nor the rights of users that they use.
pub(crate) fn is_installed() -> bool {
    let Some(program) = find("redis-server") else { return false };
    let Ok(said) = Command::new(program).arg("--version").output() else { return false };
    let said = String::from_utf8_lossy(&said.stdout);
    let version = said.split_once("v=").and_then(|(_, rest)| rest.split('.').next()?.parse::<u32>().ok());
    version.is_some_and(|version| version >= VERSION_MIN)
}

/// A private Redis. Dropping it ends it.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    options: RedisOptions,
    port: u16,
    tls_port: u16,
    clock: Option<WallClock>,
    folder: TempDir,
}

impl Redis {
    /// Starts a server and waits until it answers. `None` where `redis-server` is missing and not required.
    pub async fn start(options: RedisOptions) -> Option<Redis> {
        if !ready_for("redis-server") {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("althing-redis-").tempdir().expect("a folder");
        if options.tls {
            make_certificate(folder.path());
        }
        let clock = options.own_clock.then(|| WallClock::make(folder.path()));
        let mut refusal = None;
        for _ in 0..PORT_TRIES {
            let (port, tls_port) = (free_port(), free_port());
            match launch(&options, clock.as_ref(), port, tls_port, folder.path()).await {
                Ok(process) => return Some(Redis { process, options, port, tls_port, clock, folder }),
                Err(not_started) => refusal = Some(not_started),
            }
        }
        panic!("redis-server did not start:\n{}", refusal.map(|refusal| refusal.log).unwrap_or_default());
    }

    /// Returns the URL of a namespace on this server, with the password it asks for.
    pub fn url(&self, namespace: &str) -> String {
        let login = match &self.options.password {
            Some(password) => format!(":{password}@"),
            None => String::new(),
        };
        format!("redis://{login}127.0.0.1:{}/0?namespace={namespace}", self.port)
    }

    /// Returns the URL of a namespace on this server by its Unix socket, with the password it asks for.
    pub fn unix_url(&self, namespace: &str) -> String {
        let login = match &self.options.password {
            Some(password) => format!(":{password}@"),
            None => String::new(),
        };
        let socket = self.folder.path().join(SOCKET);
        format!("redis+unix://{login}{}?namespace={namespace}", socket.display())
    }

    /// Returns the port that speaks plain text.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the port that speaks TLS, where the options asked for it.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// Returns the file with the certificate that the server shows on its TLS port.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("server.crt")
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it if it runs, and starts it again on the same port with what it left on disk.
    pub async fn restart(&mut self) {
        self.process.kill();
        let clock = self.clock.as_ref();
        match launch(&self.options, clock, self.port, self.tls_port, self.folder.path()).await {
            Ok(process) => self.process = process,
            Err(refusal) => panic!("redis-server did not start again:\n{}", refusal.log),
        }
    }

    /// Stops it with SIGSTOP. It keeps its sockets and answers nothing.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Steps its wall clock, by seconds forward or backward, where the options asked for one of its own.
    pub fn step_clock(&self, seconds: i64) {
        self.clock.as_ref().expect("the options ask for a clock").step(seconds);
    }

    /// Sends one command in plain text, such as `["SET", "a", "b"]`, and returns the first line of the answer.
    pub fn command(&self, words: &[&str]) -> String {
        let mut lines = vec![];
        if let Some(password) = &self.options.password {
            lines.push(vec!["AUTH", password.as_str()]);
        }
        lines.push(words.to_vec());
        ask(self.port, &lines).expect("the server answers")
    }
}

async fn launch(
    options: &RedisOptions,
    clock: Option<&WallClock>,
    port: u16,
    tls_port: u16,
    folder: &Path,
) -> Result<Process, NotStarted> {
    let mut command = Command::new(find("redis-server").expect("asked for before"));
    command.current_dir(folder).args(["--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]);
    command.arg("--port").arg(port.to_string()).arg("--dir").arg(folder).args(["--unixsocket", SOCKET]);
    if let Some(clock) = clock {
        clock.give(&mut command);
    }
    if options.append_only {
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
    }
    if let Some(password) = &options.password {
        command.arg("--requirepass").arg(password);
    }
    if options.tls {
        command.arg("--tls-port").arg(tls_port.to_string());
        command.args(["--tls-cert-file", "server.crt", "--tls-key-file", "server.key"]);
        command.args(["--tls-ca-cert-file", "server.crt", "--tls-auth-clients", "no"]);
    }
    for (name, value) in &options.settings {
        command.arg(format!("--{name}")).arg(value);
    }
    // A server that wants a password answers PING too, with an error; one that still loads answers LOADING.
    let answers =
        || ask(port, &[vec!["PING"]]).is_ok_and(|line| line == "+PONG" || line.starts_with("-NOAUTH"));
    Process::start(&mut command, &folder.join("server.log"), answers).await
}
