//! A Redis master, its replicas and three sentinels, each a process of its own.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use althing_core::{Clock, SystemClock};
use tempfile::TempDir;

use crate::certificate::make_certificate;
use crate::process::{NotStarted, Process};
use crate::resp::{ask, texts};
use crate::{find, free_port, ready_for};

/// What the sentinels call the master.
const MASTER: &str = "main";
const SENTINELS: usize = 3;
/// How long a fail-over may take, and whatever else is waited for.
const WAIT_DEADLINE: Duration = Duration::from_secs(60);
const WAIT_PAUSE: Duration = Duration::from_millis(10);
/// How often other ports are tried when somebody took a free one first.
const PORT_TRIES: u32 = 5;

/// Returns a folder in memory, where there is one. A sentinel stands still while it writes down what it knows, and
/// takes a server for dead that it did not listen to.
fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// How private sentinels and their servers are configured.
#[derive(Clone, Debug, Default)]
pub struct SentinelOptions {
    /// The servers ask clients for this password.
    pub password: Option<String>,
    /// The sentinels ask clients for this password.
    pub sentinel_password: Option<String>,
    /// Servers and sentinels speak TLS with each other and with clients, with a certificate for 127.0.0.1 signed by
    /// itself.
    pub tls: bool,
}

/// A master with one replica, watched over by three sentinels, two of which have to agree. Dropping it ends them all.
#[derive(Debug)]
pub struct Sentinel {
    servers: Vec<Member>,
    sentinels: Vec<Member>,
    options: SentinelOptions,
    is_settled: bool,
    folder: TempDir,
}

#[derive(Debug)]
struct Member {
    process: Process,
    folder: PathBuf,
    ports: Ports,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    plain: u16,
    tls: u16,
}

impl Sentinel {
    /// Starts all of them and waits until they answer. `None` where `redis-server` is missing and not required.
    pub async fn start(options: SentinelOptions) -> Option<Sentinel> {
        if !ready_for("redis-server") {
            return None;
        }
        let folder =
            tempfile::Builder::new().prefix("althing-sentinel-").tempdir_in(memory()).expect("a folder");
        if options.tls {
            make_certificate(folder.path());
        }
        let (servers, sentinels) = (Vec::new(), Vec::new());
        let mut all = Sentinel { servers, sentinels, options, is_settled: false, folder };
        for place in 0..2 {
            let of = all.servers.first().map(|master| all.spoken(master.ports));
            let member =
                all.launch(&format!("server-{place}"), |all, ports| all.server_file(ports, of)).await;
            all.servers.push(member);
        }
        let master = all.spoken(all.servers[0].ports);
        for place in 0..SENTINELS {
            let member =
                all.launch(&format!("sentinel-{place}"), |all, ports| all.sentinel_file(ports, master)).await;
            // So that a test waits for a second where an operator waits for ten. Sentinels that publish more often than
            // this make a replica again of one that was just promoted, before they hear why.
            let periods = ["publish-period", "600", "info-period", "200", "tilt-trigger", "20000"];
            let command = [&["SENTINEL", "DEBUG"][..], &periods].concat();
            all.ask_sentinel(&member, &command).expect("a sentinel of Redis 7");
            all.sentinels.push(member);
        }
        Some(all)
    }

    /// Returns the URL of a namespace by all sentinels, with the passwords that are asked for.
    pub fn url(&self, namespace: &str) -> String {
        let password = |text: &Option<String>, before: &str, after: &str| match text {
            Some(password) => format!("{before}{password}{after}"),
            None => String::new(),
        };
        let scheme = if self.options.tls { "rediss" } else { "redis" };
        let login = password(&self.options.password, ":", "@");
        let address = |member: &Member| format!("127.0.0.1:{}", self.spoken(member.ports));
        let addresses = self.sentinels.iter().map(address).collect::<Vec<_>>().join(",");
        let mut url = format!("{scheme}+sentinel://{login}{addresses}/{MASTER}?namespace={namespace}");
        url += &password(&self.options.sentinel_password, "&sentinel_password=", "");
        if self.options.tls {
            url += &format!("&tls-ca={}", self.folder.path().join("server.crt").display());
        }
        url
    }

    /// Returns the ports by which clients reach the sentinels.
    pub fn ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(|sentinel| self.spoken(sentinel.ports)).collect()
    }

    /// Returns the place of the server that is the master by its own word and that of all sentinels; `None` while there
    /// is none.
    pub fn master(&self) -> Option<usize> {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER];
        let named = |sentinel| self.ask_sentinel(sentinel, &words).ok()?.get(1)?.parse::<u16>().ok();
        let port = named(self.sentinels.first()?)?;
        let place = self.servers.iter().position(|server| self.spoken(server.ports) == port)?;
        let agree = self.sentinels.iter().all(|sentinel| named(sentinel) == Some(port));
        (agree && self.role(place).as_deref() == Some("master")).then_some(place)
    }

    /// Returns what a server says that it is, `master` or `slave`; `None` where it does not answer.
    pub fn role(&self, server: usize) -> Option<String> {
        self.texts(server, &["ROLE"])?.first().cloned()
    }

    /// Returns how many servers there are.
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Returns the process id of a server.
    pub fn pid(&self, server: usize) -> u32 {
        self.servers[server].process.pid()
    }

    /// Sends one command to a server and returns the first line of the answer.
    pub fn command(&self, server: usize, words: &[&str]) -> String {
        let commands = self.logged_in(&self.options.password, words);
        ask(self.servers[server].ports.plain, &commands).expect("the server answers")
    }

    /// Sends one command to a server and returns the texts of the answer; `None` where it does not answer.
    pub fn texts(&self, server: usize, words: &[&str]) -> Option<Vec<String>> {
        texts(self.servers[server].ports.plain, &self.logged_in(&self.options.password, words)).ok()
    }

    /// Waits until the sentinels know each other and the replica, which has all that the master has: from then on a
    /// fail-over is possible.
    pub async fn settle(&mut self) {
        if !self.is_settled {
            self.wait("the sentinels know each other", Sentinel::is_ready).await;
            self.is_settled = true;
        }
    }

    /// Kills a server with SIGKILL, once a fail-over is possible.
    pub async fn kill(&mut self, server: usize) {
        self.settle().await;
        self.servers[server].process.kill();
    }

    /// Stops a server with SIGSTOP, once a fail-over is possible.
    pub async fn pause(&mut self, server: usize) {
        self.settle().await;
        self.servers[server].process.pause();
    }

    /// Lets a server go on.
    pub fn resume(&self, server: usize) {
        self.servers[server].process.resume();
    }

    /// Starts a killed server again with what it left on disk: it knows whether it was the master, and no record.
    pub async fn restart(&mut self, server: usize) {
        self.servers[server].process = self.again(&self.servers[server]).await;
    }

    /// Waits until all sentinels name another master than `former`, and it is one. Returns its place.
    pub async fn wait_for_fail_over(&mut self, former: usize) -> usize {
        let other = |all: &Sentinel| all.master().filter(|place| *place != former);
        self.wait("a fail-over", |all| other(all).is_some()).await;
        other(self).expect("waited for")
    }

    /// Waits until `server` is a replica and has all that the master has.
    pub async fn wait_for_replica(&mut self, server: usize) {
        self.wait("a replica", |all| all.role(server).as_deref() == Some("slave") && all.is_synchronous())
            .await;
    }

    /// Makes the sentinels move the mastership though the master is well. Returns the place of the new one.
    pub async fn fail_over(&mut self) -> usize {
        self.settle().await;
        let former = self.master().expect("there is a master");
        let order = ["SENTINEL", "FAILOVER", MASTER];
        // A sentinel that has not heard of the replica lately has none to promote, and one that has not heard of the last
        // fail-over may undo this one: it is ordered for as long as all name the former master.
        self.wait("a fail-over", |all| {
            let master = all.master();
            if master == Some(former) {
                let _ = all.ask_sentinel(&all.sentinels[0], &order);
            }
            master.is_some_and(|place| place != former)
        })
        .await;
        self.wait_for_fail_over(former).await
    }

    /// Lets no replica have what the master `server` writes from now on. Ends when that is restarted.
    pub async fn cut_replication(&mut self, server: usize) {
        self.settle().await;
        assert_eq!(self.command(server, &["ACL", "SETUSER", "replica", "off"]), "+OK");
        self.command(server, &["CLIENT", "KILL", "TYPE", "replica"]);
        self.wait("an end of replication", |all| {
            all.info(server, "connected_slaves").as_deref() == Some("0")
        })
        .await;
    }

    /// Makes the master `server` unreachable for replica and sentinels, and for nobody else, until it is restarted.
    /// Needs a password: it is theirs that no longer counts.
    pub async fn isolate(&mut self, server: usize) {
        assert!(self.options.password.is_some(), "sentinels would go on without logging in");
        self.cut_replication(server).await;
        assert_eq!(self.command(server, &["ACL", "SETUSER", "sentinel", "off"]), "+OK");
        self.command(server, &["CLIENT", "KILL", "USER", "sentinel"]);
    }

    /// Makes the master `server` and one sentinel unreachable for all other servers and sentinels, and for nobody else,
    /// and waits until those know another master. Needs a password.
    pub async fn isolate_with(&mut self, server: usize, sentinel: usize) {
        self.settle().await;
        let user = "apart";
        let rights = ["ACL", "SETUSER", user, "on", ">apart", "allchannels", "+@all"];
        assert_eq!(self.command(server, &rights), "+OK");
        let login = ["SENTINEL", "SET", MASTER, "auth-user", user, "auth-pass", "apart"];
        assert_eq!(self.ask(sentinel, &login), ["+OK"]);
        // The other sentinels would tell it of a fail-over; what it tells them is out of date.
        let deaf = ["ACL", "SETUSER", "default", "-ping", "-publish", "-sentinel|is-master-down-by-addr"];
        assert_eq!(self.ask(sentinel, &deaf), ["+OK"]);
        self.isolate(server).await;
        // The sentinel was logged in with the others as one of those that may.
        for other in (0..self.servers.len()).filter(|other| *other != server) {
            self.command(other, &["CLIENT", "KILL", "USER", "sentinel"]);
        }
        let former = self.fail_overs(sentinel).expect("the sentinel answers");
        let others: Vec<_> = (0..self.sentinels.len()).filter(|other| *other != sentinel).collect();
        self.wait("a fail-over without them", |all| {
            others.iter().all(|other| all.fail_overs(*other) > Some(former))
        })
        .await;
    }

    /// Makes all sentinels forget what they know, and watch over `server` as the master, as if they were new.
    pub fn set_up_anew(&self, server: usize) {
        let port = self.spoken(self.servers[server].ports).to_string();
        let monitor = ["SENTINEL", "MONITOR", MASTER, "127.0.0.1", &port, "2"];
        for words in [&["SENTINEL", "REMOVE", MASTER][..], &monitor] {
            for sentinel in 0..self.sentinels.len() {
                assert_eq!(self.ask(sentinel, words), ["+OK"]);
            }
        }
    }

    /// Returns the number of the latest fail-over that a sentinel knows of; `None` where it does not answer.
    pub fn fail_overs(&self, sentinel: usize) -> Option<u64> {
        let about = self.ask_sentinel(&self.sentinels[sentinel], &["SENTINEL", "MASTER", MASTER]).ok()?;
        about.chunks_exact(2).find(|pair| pair[0] == "config-epoch")?[1].parse().ok()
    }

    /// Sends one command to a sentinel and returns the texts of the answer.
    pub fn ask(&self, sentinel: usize, words: &[&str]) -> Vec<String> {
        self.ask_sentinel(&self.sentinels[sentinel], words).expect("the sentinel answers")
    }

    /// Kills a sentinel with SIGKILL.
    pub fn kill_sentinel(&mut self, sentinel: usize) {
        self.sentinels[sentinel].process.kill();
    }

    /// Starts a killed sentinel again with what it knew.
    pub async fn restart_sentinel(&mut self, sentinel: usize) {
        self.sentinels[sentinel].process = self.again(&self.sentinels[sentinel]).await;
    }

    async fn again(&self, member: &Member) -> Process {
        let started = self.run(&member.folder, member.ports).await;
        started.unwrap_or_else(|refusal| panic!("redis-server did not start again:\n{}", refusal.log))
    }

    async fn wait(&mut self, what: &str, until: impl Fn(&Sentinel) -> bool) {
        let deadline = SystemClock.now() + WAIT_DEADLINE;
        while !until(self) {
            if SystemClock.now() >= deadline {
                let log = |member: &Member| fs::read_to_string(member.folder.join("log")).unwrap_or_default();
                let logs: Vec<_> = self.servers.iter().chain(&self.sentinels).map(log).collect();
                panic!("waited in vain for {what}:\n{}", logs.join("\n"));
            }
            SystemClock.sleep(WAIT_PAUSE).await;
        }
    }

    fn is_ready(&self) -> bool {
        self.sentinels.iter().all(|sentinel| self.is_informed(sentinel)) && self.is_synchronous()
    }

    fn is_informed(&self, sentinel: &Member) -> bool {
        let about = self.ask_sentinel(sentinel, &["SENTINEL", "MASTER", MASTER]).unwrap_or_default();
        let is =
            |name: &str, value: &str| about.chunks_exact(2).any(|pair| pair[0] == name && pair[1] == value);
        let replicas = self.ask_sentinel(sentinel, &["SENTINEL", "REPLICAS", MASTER]).unwrap_or_default();
        let tells = |name: &str, value: &str| replicas.chunks_exact(2).any(|pair| pair == [name, value]);
        // Whoever takes a replica for a master makes it a replica again, also when it was just promoted.
        let is_linked = tells("master-link-status", "ok") && tells("role-reported", "slave");
        is("num-slaves", "1") && is("num-other-sentinels", "2") && is("flags", "master") && is_linked
    }

    /// Tells whether the replica has by now what the master had when asked, however busy it is.
    fn is_synchronous(&self) -> bool {
        let (master, replica) = match [self.role(0).as_deref(), self.role(1).as_deref()] {
            [Some("master"), Some("slave")] => (0, 1),
            [Some("slave"), Some("master")] => (1, 0),
            _ => return false,
        };
        let offset = |server| self.info(server, "master_repl_offset")?.parse::<u64>().ok();
        let had = offset(master);
        self.info(replica, "master_link_status").as_deref() == Some("up")
            && had.is_some()
            && offset(replica) >= had
    }

    fn info(&self, server: usize, name: &str) -> Option<String> {
        let info = self.texts(server, &["INFO", "replication"])?.concat();
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim_end().to_owned())
    }

    fn ask_sentinel(&self, sentinel: &Member, words: &[&str]) -> std::io::Result<Vec<String>> {
        texts(sentinel.ports.plain, &self.logged_in(&self.options.sentinel_password, words))
    }

    fn logged_in<'a>(&self, password: &'a Option<String>, words: &[&'a str]) -> Vec<Vec<&'a str>> {
        let login = password.iter().map(|password| vec!["AUTH", password.as_str()]);
        login.chain([words.to_vec()]).collect()
    }

    /// Returns the port by which clients, servers and sentinels speak.
    fn spoken(&self, ports: Ports) -> u16 {
        if self.options.tls { ports.tls } else { ports.plain }
    }

    async fn launch(&self, name: &str, file: impl Fn(&Sentinel, Ports) -> String) -> Member {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).expect("a folder can be made");
        let mut refusal = None;
        for _ in 0..PORT_TRIES {
            let ports = Ports { plain: free_port(), tls: free_port() };
            fs::write(folder.join("redis.conf"), file(self, ports)).expect("a file can be written");
            match self.run(&folder, ports).await {
                Ok(process) => return Member { process, folder, ports },
                Err(not_started) => refusal = Some(not_started),
            }
        }
        panic!("{name} did not start:\n{}", refusal.map(|refusal| refusal.log).unwrap_or_default());
    }

    async fn run(&self, folder: &PathBuf, ports: Ports) -> Result<Process, NotStarted> {
        let mut command = Command::new(find("redis-server").expect("asked for before"));
        command.current_dir(folder).arg("redis.conf");
        if folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("sentinel")) {
            command.arg("--sentinel");
        }
        let answers = || {
            ask(ports.plain, &[vec!["PING"]]).is_ok_and(|line| line == "+PONG" || line.starts_with("-NOAUTH"))
        };
        Process::start(&mut command, &folder.join("log"), answers).await
    }

    /// Writes the file of a server, of a replica where it is told of what port.
    fn server_file(&self, ports: Ports, of: Option<u16>) -> String {
        let mut file = self.common_file(ports);
        let password = match &self.options.password {
            Some(password) => format!(">{password}"),
            None => "nopass".into(),
        };
        file += "save \"\"\nrepl-diskless-sync-delay 0\nmasteruser replica\nmasterauth replica\n";
        file += "user replica on >replica +psync +replconf +ping\n";
        file += "user sentinel on >sentinel allchannels +@all\n";
        let _ = writeln!(file, "user default on {password} ~* &* +@all");
        if let Some(master) = of {
            let _ = writeln!(file, "replicaof 127.0.0.1 {master}");
        }
        file
    }

    fn sentinel_file(&self, ports: Ports, master: u16) -> String {
        let mut file = self.common_file(ports);
        let _ = writeln!(file, "sentinel monitor {MASTER} 127.0.0.1 {master} 2");
        let _ = writeln!(file, "sentinel down-after-milliseconds {MASTER} 1500");
        let _ = writeln!(file, "sentinel failover-timeout {MASTER} 3000");
        let _ = writeln!(file, "sentinel auth-user {MASTER} sentinel");
        let _ = writeln!(file, "sentinel auth-pass {MASTER} sentinel");
        if let Some(password) = &self.options.sentinel_password {
            let _ = writeln!(file, "requirepass {password}\nsentinel sentinel-pass {password}");
        }
        file
    }

    fn common_file(&self, ports: Ports) -> String {
        let mut file = format!("bind 127.0.0.1\nport {}\n", ports.plain);
        if self.options.tls {
            let _ = writeln!(file, "tls-port {}\ntls-replication yes\ntls-auth-clients no", ports.tls);
            file +=
                "tls-cert-file ../server.crt\ntls-key-file ../server.key\ntls-ca-cert-file ../server.crt\n";
        }
        file
    }
}
