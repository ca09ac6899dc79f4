//! etcd: one member, or several that agree, each a process of its own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::certificate::make_certificate;
use crate::process::{NotStarted, Process};
use crate::{find, free_port, ready_for};

/// How long one question to a member may take.
const ASK_DEADLINE: Duration = Duration::from_secs(5);
/// How often other ports are tried when somebody took a free one first.
const PORT_TRIES: u32 = 5;

/// How private members are configured.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    /// Further flags, by name and value, such as `("election-timeout", "2000")`.
    pub settings: Vec<(String, String)>,
    /// Speaks TLS with clients, with a certificate for 127.0.0.1 signed by itself.
    pub tls: bool,
    /// Asks clients for a certificate signed by the member's own.
    pub asks_certificate: bool,
}

/// One member. Dropping it kills it.
#[derive(Debug)]
pub struct EtcdMember {
    process: Process,
    folder: TempDir,
    flags: Vec<String>,
    port: u16,
    status_port: u16,
}

impl EtcdMember {
    /// Returns the port for clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns the file with the certificate that it shows, where the options asked for TLS.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("server.crt")
    }

    /// Returns the file with the key of that certificate.
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("server.key")
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it with SIGTERM and waits until it is gone.
    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// Stops it with SIGSTOP. It keeps its sockets and answers nothing.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Tells whether it serves clients and knows a leader.
    pub fn does_serve(&self) -> bool {
        does_serve(self.status_port)
    }

    /// Tells whether it leads, as far as it knows.
    pub fn is_leader(&self) -> bool {
        let answer = ask(self.status_port, "GET /metrics", "", "");
        answer.is_ok_and(|text| text.lines().any(|line| line == "etcd_server_is_leader 1"))
    }

    /// Kills it if it runs, starts it again with what it left on disk, and does not wait until it serves.
    pub async fn begin_restart(&mut self) {
        self.process.kill();
        self.process = spawn(&self.flags, self.folder.path()).await.expect("it is not waited for");
    }

    /// Waits until it serves clients.
    pub async fn serves(&mut self) {
        let port = self.status_port;
        let served = self.process.wait_until(|| does_serve(port)).await;
        served.unwrap_or_else(|refusal| panic!("etcd does not serve:\n{}", refusal.log));
    }

    /// Kills it if it runs, starts it again with what it left on disk, and waits until it serves.
    pub async fn restart(&mut self) {
        self.begin_restart().await;
        self.serves().await;
    }

    /// Kills it, keeps what it left on disk, to be put back later, starts it again and waits until it serves.
    pub async fn keep(&mut self) {
        self.kill();
        let copied = Command::new("cp").args(["-a", "data", "kept"]).current_dir(self.folder.path()).status();
        assert!(copied.expect("cp runs").success(), "its folder can be copied");
        self.restart().await;
    }

    /// Kills it and puts back what `keep` has kept, as an operator does who restores a backup. It does not run then.
    pub fn set_back(&mut self) {
        self.forget();
        let folder = self.folder.path();
        std::fs::rename(folder.join("kept"), folder.join("data")).expect("it was kept before");
    }

    /// Kills it and removes all that it left on disk.
    pub fn forget(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.folder.path().join("data")).expect("its folder is ours");
    }

    /// Sends a request of API v3 as JSON, such as `("kv/compaction", r#"{"revision": 7}"#)`, and returns the answer. Not
    /// over TLS.
    pub fn post(&self, path: &str, body: &str) -> String {
        self.send(path, "", body)
    }

    /// Logs in, and sends such a request as that user.
    pub fn post_as(&self, user: &str, password: &str, path: &str, body: &str) -> String {
        let answer =
            self.post("auth/authenticate", &format!(r#"{{"name": "{user}", "password": "{password}"}}"#));
        let token = answer.split(r#""token":""#).nth(1).and_then(|rest| rest.split('"').next());
        let token = token.unwrap_or_else(|| panic!("no token in {answer}"));
        self.send(path, &format!("Authorization: {token}\r\n"), body)
    }

    fn send(&self, path: &str, headers: &str, body: &str) -> String {
        ask(self.port, &format!("POST /v3/{path}"), headers, body).expect("the member answers")
    }
}

/// A private cluster, of one member or more. Dropping it ends it.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<EtcdMember>,
}

impl Etcd {
    /// Starts `count` members and waits until all serve. `None` where etcd is not installed and not required.
    pub async fn start(count: usize, options: EtcdOptions) -> Option<Etcd> {
        if !ready_for("etcd") {
            return None;
        }
        let mut refusal = None;
        for _ in 0..PORT_TRIES {
            match try_start(count, &options).await {
                Ok(cluster) => return Some(cluster),
                Err(not_started) => refusal = Some(not_started),
            }
        }
        panic!("etcd did not start:\n{}", refusal.map(|refusal| refusal.log).unwrap_or_default());
    }

    /// Returns the URL of a namespace, with all members in it.
    pub fn url(&self, namespace: &str) -> String {
        let hosts: Vec<_> = self.members.iter().map(|member| format!("127.0.0.1:{}", member.port)).collect();
        format!("etcd://{}/?namespace={namespace}", hosts.join(","))
    }

    /// Returns the members.
    pub fn members(&self) -> &[EtcdMember] {
        &self.members
    }

    /// Returns the members, to end them or start them.
    pub fn members_mut(&mut self) -> &mut [EtcdMember] {
        &mut self.members
    }

    /// Returns the number of the member that leads now.
    pub fn leader(&self) -> Option<usize> {
        self.members.iter().position(EtcdMember::is_leader)
    }

    /// Returns the number of the member whose standing still ends no lease that is renewed: the one that leads, but for an
    /// etcd whose former leaders do, where it is one that follows.
    pub fn to_pause(&self) -> usize {
        let leader = self.leader().unwrap_or_default();
        if self.members.len() > 1 && ends_renewed_leases() {
            (leader + 1) % self.members.len()
        } else {
            leader
        }
    }

    /// Kills every member.
    pub fn kill(&mut self) {
        self.members.iter_mut().for_each(EtcdMember::kill);
    }

    /// Kills every member, starts all again and waits until all serve.
    pub async fn restart(&mut self) {
        self.kill();
        for member in &mut self.members {
            member.begin_restart().await;
        }
        for member in &mut self.members {
            member.serves().await;
        }
    }

    /// Ends and starts one member after the other, the leader last, each when the one before serves again.
    pub async fn roll(&mut self) {
        let leader = self.leader();
        let mut order: Vec<usize> = (0..self.members.len()).collect();
        order.sort_by_key(|index| Some(*index) == leader);
        for index in order {
            self.members[index].stop();
            self.members[index].restart().await;
        }
    }

    /// Stops every member with SIGSTOP.
    pub fn pause(&self) {
        self.members.iter().for_each(EtcdMember::pause);
    }

    /// Lets every member go on.
    pub fn resume(&self) {
        self.members.iter().for_each(EtcdMember::resume);
    }
}

/// Tells whether a leader that stood still, while another was elected, ends leases when it goes on that others have renewed
/// meanwhile: etcd's issue 15247, mended in 3.4.31 and 3.5.13.
fn ends_renewed_leases() -> bool {
    let told = Command::new(find("etcd").expect("asked for before")).arg("--version").output();
    let told = told.expect("etcd tells its version");
    let told = String::from_utf8_lossy(&told.stdout);
    let version = told.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()));
    has_issue_15247(version.expect("etcd has a version"))
}

fn has_issue_15247(version: &str) -> bool {
    let numbers: Vec<u32> = version.split('.').map(|number| number.parse().unwrap_or(0)).collect();
    numbers < vec![3, 4, 31] || numbers >= vec![3, 5] && numbers < vec![3, 5, 13]
}

async fn try_start(count: usize, options: &EtcdOptions) -> Result<Etcd, NotStarted> {
    let ports: Vec<[u16; 3]> = (0..count).map(|_| [free_port(), free_port(), free_port()]).collect();
    let peers = ports.iter().enumerate();
    let peers: Vec<_> =
        peers.map(|(index, [_, peer, _])| format!("m{index}=http://127.0.0.1:{peer}")).collect();
    let mut members = Vec::new();
    for (index, ports) in ports.iter().enumerate() {
        let folder = tempfile::Builder::new().prefix("althing-etcd-").tempdir().expect("a folder");
        if options.tls {
            make_certificate(folder.path());
        }
        let flags = flags(options, index, *ports, &peers.join(","));
        let process = spawn(&flags, folder.path()).await?;
        let [port, _, status_port] = *ports;
        members.push(EtcdMember { process, folder, flags, port, status_port });
    }
    for member in &mut members {
        let port = member.status_port;
        member.process.wait_until(|| does_serve(port)).await?;
    }
    Ok(Etcd { members })
}

fn flags(options: &EtcdOptions, index: usize, [port, peer, status]: [u16; 3], cluster: &str) -> Vec<String> {
    let client = format!("{}://127.0.0.1:{port}", if options.tls { "https" } else { "http" });
    let (peer, status) = (format!("http://127.0.0.1:{peer}"), format!("http://127.0.0.1:{status}"));
    let name = format!("m{index}");
    let mut flags: Vec<(&str, &str)> = vec![
        ("name", &name),
        ("data-dir", "data"),
        ("listen-client-urls", &client),
        ("advertise-client-urls", &client),
        ("listen-peer-urls", &peer),
        ("initial-advertise-peer-urls", &peer),
        ("initial-cluster", cluster),
        ("listen-metrics-urls", &status),
        ("logger", "zap"),
        ("log-level", "warn"),
    ];
    if options.tls {
        flags.extend([("cert-file", "server.crt"), ("key-file", "server.key")]);
    }
    if options.asks_certificate {
        flags.extend([("client-cert-auth", "true"), ("trusted-ca-file", "server.crt")]);
    }
    flags.extend(options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    flags.into_iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

async fn spawn(flags: &[String], folder: &Path) -> Result<Process, NotStarted> {
    let mut command = Command::new(find("etcd").expect("asked for before"));
    command.args(flags).current_dir(folder);
    Process::start(&mut command, &folder.join("server.log"), || true).await
}

/// Asks for a read through the quorum.
fn does_serve(status_port: u16) -> bool {
    ask(status_port, "GET /health", "", "").is_ok_and(|answer| answer.contains("\"health\":\"true\""))
}

/// Sends a request of HTTP with further `headers`, each with the end of its line, and returns the body of the answer.
fn ask(port: u16, request: &str, headers: &str, body: &str) -> std::io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, ASK_DEADLINE)?;
    stream.set_read_timeout(Some(ASK_DEADLINE))?;
    let length = body.len();
    let headers = format!("Host: 127.0.0.1\r\n{headers}Content-Length: {length}\r\n");
    write!(stream, "{request} HTTP/1.0\r\n{headers}\r\n{body}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_by_its_version_which_etcd_ends_leases_that_were_renewed() {
        for (version, has) in [
            ("3.4.23", true),
            ("3.4.31", false),
            ("3.5.0", true),
            ("3.5.12", true),
            ("3.5.13", false),
            ("3.6.0", false),
        ] {
            assert_eq!(has_issue_15247(version), has, "{version}");
        }
    }
}
