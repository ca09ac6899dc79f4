//! A private memcached.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{NotStarted, Process};
use crate::{find, free_port, ready_for};

/// How long an answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// How often another port is tried because somebody took the first one between asking for it and using it.
const PORT_TRIES: u32 = 5;

/// How a private memcached is configured.
#[derive(Clone, Debug, Default)]
pub struct MemcachedOptions {
    /// The memory for items, in MiB; 64 where nothing is said.
    pub memory_mib: Option<u32>,
    /// Further arguments, such as `-I` and `128k`.
    pub arguments: Vec<String>,
}

/// A private memcached. Dropping it ends it.
#[derive(Debug)]
pub struct Memcached {
    process: Process,
    options: MemcachedOptions,
    port: u16,
    folder: TempDir,
}

impl Memcached {
    /// Starts a server and waits until it answers. `None` where `memcached` is missing and not required.
    pub async fn start(options: MemcachedOptions) -> Option<Memcached> {
        if !ready_for("memcached") {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("althing-memcached-").tempdir().expect("a folder");
        let mut refusal = None;
        for _ in 0..PORT_TRIES {
            let port = free_port();
            match launch(&options, port, &folder).await {
                Ok(process) => return Some(Memcached { process, options, port, folder }),
                Err(not_started) => refusal = Some(not_started),
            }
        }
        panic!("memcached did not start:\n{}", refusal.map(|refusal| refusal.log).unwrap_or_default());
    }

    /// Returns the URL of a namespace on this server.
    pub fn url(&self, namespace: &str) -> String {
        format!("memcached://127.0.0.1:{}/?namespace={namespace}", self.port)
    }

    /// Returns its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it if it runs, and starts it again on the same port, empty.
    pub async fn restart(&mut self) {
        self.process.kill();
        match launch(&self.options, self.port, &self.folder).await {
            Ok(process) => self.process = process,
            Err(refusal) => panic!("memcached did not start again:\n{}", refusal.log),
        }
    }

    /// Stops it with SIGSTOP, and waits until all its threads stand still: before that one of them may yet answer. It
    /// keeps its sockets and answers nothing.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Sends one command, such as `flush_all`, and returns the first line of the answer.
    pub fn command(&self, line: &str) -> String {
        self.connect().command(line)
    }

    /// Returns the keys of all items that begin with `prefix`, in order.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        // The server walks its lists while it moves items about, and may pass over one: what is told three times over
        // is taken to be so.
        let mut told = [self.dump(prefix), self.dump(prefix), self.dump(prefix)];
        while told[0] != told[1] || told[1] != told[2] {
            told.rotate_left(1);
            told[2] = self.dump(prefix);
        }
        told[0].clone()
    }

    fn dump(&self, prefix: &str) -> Vec<String> {
        let mut connection = self.connect();
        let mut line = connection.command("lru_crawler metadump all");
        let mut keys = Vec::new();
        while line != "END" {
            assert!(line.starts_with("key="), "the crawler answers {line:?}");
            let key = line.trim_start_matches("key=").split(' ').next().unwrap_or_default();
            keys.push(key.replace("%3A", ":"));
            line = read_line(&mut connection.0).expect("the server answers");
        }
        keys.retain(|key| key.starts_with(prefix));
        keys.sort_unstable();
        keys
    }

    /// Opens a connection of its own for further commands.
    pub fn connect(&self) -> MemcachedConnection {
        MemcachedConnection(connect(self.port).expect("the server answers"))
    }
}

/// A connection on which a test says what no driver says.
#[derive(Debug)]
pub struct MemcachedConnection(TcpStream);

impl MemcachedConnection {
    /// Sends one command and returns the first line of the answer; what follows it must not be.
    pub fn command(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n").as_bytes())
    }

    /// Stores an item and returns the answer.
    pub fn set(&mut self, key: &str, value: &[u8]) -> String {
        let request = [format!("set {key} 0 0 {}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat();
        self.send(&request)
    }

    fn send(&mut self, request: &[u8]) -> String {
        self.0.write_all(request).expect("the server reads");
        read_line(&mut self.0).expect("the server answers")
    }
}

async fn launch(options: &MemcachedOptions, port: u16, folder: &TempDir) -> Result<Process, NotStarted> {
    let mut command = Command::new(find("memcached").expect("asked for before"));
    // Without a user it refuses to be run by root; run by anybody else it passes over the user.
    command.current_dir(folder.path()).args(["-u", "nobody", "-l", "127.0.0.1", "-U", "0"]);
    command.arg("-p").arg(port.to_string());
    if let Some(memory) = options.memory_mib {
        command.arg("-m").arg(memory.to_string());
    }
    command.args(&options.arguments);
    // One that wants a password answers this too, with an error.
    let answers = || {
        let ask = |mut stream: TcpStream| {
            stream.write_all(b"version\r\n")?;
            read_line(&mut stream)
        };
        connect(port).and_then(ask).is_ok_and(|line| line.starts_with("VERSION") || line.contains("unauth"))
    };
    Process::start(&mut command, &folder.path().join("server.log"), answers).await
}

fn connect(port: u16) -> std::io::Result<TcpStream> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect_timeout(&address, ANSWER_DEADLINE)?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn read_line(stream: &mut TcpStream) -> std::io::Result<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    // The crawler ends its lines without a carriage return.
    while !line.ends_with(b"\n") {
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}
