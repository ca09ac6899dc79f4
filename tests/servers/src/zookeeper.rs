//! ZooKeeper: one server, or an ensemble of several, each a Java process of its own.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::certificate::make_certificate;
use crate::process::{NotStarted, Process};
use crate::{find, free_port, ready_for};

/// Debian's package; its manifest names everything else it needs.
const JAR: &str = "/usr/share/java/zookeeper.jar";
/// What that manifest forgets, and only TLS needs; and what writes warnings to the log.
const MORE_JARS: &str =
    "/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar:/usr/share/java/slf4j-simple.jar";
/// How long one question whether a server answers may take.
const ASK_DEADLINE: Duration = Duration::from_millis(500);
/// How long servers that have voted may take to find together before they vote again. Sooner than we give up on them.
const INIT_DEADLINE: Duration = Duration::from_secs(10);
/// How often other ports are tried when somebody took a free one first.
const PORT_TRIES: u32 = 5;

/// How private ZooKeeper servers are configured.
#[derive(Clone, Debug)]
pub struct ZooKeeperOptions {
    /// The server's unit of time; the shortest session it grants is two of them.
    pub tick: Duration,
    /// Further settings, by name and value, such as `("syncLimit", "5")`. They stand after ours, so they win.
    pub settings: Vec<(String, String)>,
    /// Further words for the Java machine, such as `-Djute.maxbuffer=4096`.
    pub java: Vec<String>,
    /// Speaks TLS on [`ZooKeeper::tls_port`], with a certificate for 127.0.0.1 signed by itself.
    pub tls: bool,
}

impl Default for ZooKeeperOptions {
    fn default() -> Self {
        ZooKeeperOptions {
            tick: Duration::from_millis(100),
            settings: Vec::new(),
            java: Vec::new(),
            tls: false,
        }
    }
}

/// Tells whether Java and Debian's ZooKeeper are installed.
pub(crate) fn is_installed() -> bool {
    find("java").is_some() && Path::new(JAR).is_file()
}

/// One server process. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    process: Process,
    folder: TempDir,
    java: Vec<String>,
    port: u16,
}

impl Node {
    /// Returns the port for clients.
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

    /// Returns what the server says of itself (`srvr`); `None` where it does not serve.
    pub fn status(&self) -> Option<String> {
        ask(self.port, "srvr").ok().filter(|answer| answer.contains("Mode: "))
    }

    /// Tells whether it leads its ensemble.
    pub fn is_leader(&self) -> bool {
        self.status().is_some_and(|status| status.contains("Mode: leader"))
    }

    /// Kills it if it runs, starts it again with what it left on disk, and does not wait until it serves.
    pub async fn begin_restart(&mut self) {
        self.process.kill();
        self.process = spawn(&self.java, self.folder.path()).await.expect("it is not waited for");
    }

    /// Waits until it serves clients.
    pub async fn serves(&mut self) {
        let port = self.port;
        let served = self.process.wait_until(|| does_serve(port)).await;
        served.unwrap_or_else(|refusal| panic!("ZooKeeper does not serve:\n{}", refusal.log));
    }

    /// Kills it if it runs, starts it again with what it left on disk, and waits until it serves.
    pub async fn restart(&mut self) {
        self.begin_restart().await;
        self.serves().await;
    }
}

/// A private server that stands alone. Dropping it ends it.
#[derive(Debug)]
pub struct ZooKeeper {
    node: Node,
    tls_port: u16,
}

impl ZooKeeper {
    /// Starts a server and waits until it serves. `None` where it is not installed and not required.
    pub async fn start(options: ZooKeeperOptions) -> Option<ZooKeeper> {
        if !ready_for("zookeeper") {
            return None;
        }
        let mut refusal = None;
        for _ in 0..PORT_TRIES {
            let (port, tls_port) = (free_port(), free_port());
            let mut settings = format!("clientPort={port}\nclientPortAddress=127.0.0.1\n");
            if options.tls {
                let factory = "org.apache.zookeeper.server.NettyServerCnxnFactory";
                let _ = writeln!(settings, "secureClientPort={tls_port}\nserverCnxnFactory={factory}");
                settings.push_str("secureClientPortAddress=127.0.0.1\nssl.clientAuth=none\n");
                settings.push_str("ssl.keyStore.location=server.pem\nssl.keyStore.type=PEM\n");
                settings.push_str("ssl.trustStore.location=server.crt\nssl.trustStore.type=PEM\n");
            }
            let mut node = launch(&options, port, &settings, None).await;
            match node.process.wait_until(|| does_serve(port)).await {
                Ok(()) => return Some(ZooKeeper { node, tls_port }),
                Err(not_started) => refusal = Some(not_started),
            }
        }
        panic!("ZooKeeper did not start:\n{}", refusal.map(|refusal| refusal.log).unwrap_or_default());
    }

    /// Returns the URL of a namespace on this server.
    pub fn url(&self, namespace: &str) -> String {
        url([self.node.port], namespace)
    }

    /// Returns the port that speaks TLS, where the options asked for it.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// Returns the file with the certificate that the server shows.
    pub fn certificate(&self) -> PathBuf {
        self.node.folder.path().join("server.crt")
    }

    /// Returns the server's process.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Returns the server's process, to end it or start it.
    pub fn node_mut(&mut self) -> &mut Node {
        &mut self.node
    }
}

/// The ports of an ensemble before it is started, so that something can be put between its servers.
#[derive(Debug)]
pub struct EnsemblePlan {
    options: ZooKeeperOptions,
    /// Of each server: where it serves clients, its followers when it leads, and the other voters.
    ports: Vec<[u16; 3]>,
    /// For each pair, the ports by which the first reaches the second: as a follower, and to vote.
    routes: Vec<Vec<[u16; 2]>>,
}

impl EnsemblePlan {
    fn new(count: usize, options: ZooKeeperOptions) -> EnsemblePlan {
        let ports: Vec<_> = (0..count).map(|_| [free_port(), free_port(), free_port()]).collect();
        let direct: Vec<_> = ports.iter().map(|[_, quorum, vote]| [*quorum, *vote]).collect();
        EnsemblePlan { options, routes: vec![direct; count], ports }
    }

    /// Returns the port on which server `index` will serve clients.
    pub fn client_port(&self, index: usize) -> u16 {
        self.ports[index][0]
    }

    /// Returns the ports on which server `index` will listen to followers and to voters.
    pub fn peer_ports(&self, index: usize) -> [u16; 2] {
        [self.ports[index][1], self.ports[index][2]]
    }

    /// Makes server `from` reach server `to` by other ports of the loopback: as a follower, and to vote. Votes
    /// may still travel directly: the server with the lower number calls back at the address it is told.
    pub fn route(&mut self, from: usize, to: usize, [quorum, vote]: [u16; 2]) {
        assert_ne!(from, to, "a server listens on its own ports");
        self.routes[from][to] = [quorum, vote];
    }

    async fn start(self) -> Result<Ensemble, NotStarted> {
        let mut nodes = Vec::new();
        for (index, [port, ..]) in self.ports.iter().enumerate() {
            let mut settings = format!("clientPort={port}\nclientPortAddress=127.0.0.1\n");
            for (other, [quorum, vote]) in self.routes[index].iter().enumerate() {
                let _ = writeln!(settings, "server.{}=127.0.0.1:{quorum}:{vote}", other + 1);
            }
            nodes.push(launch(&self.options, *port, &settings, Some(index + 1)).await);
        }
        for node in &mut nodes {
            let port = node.port;
            node.process.wait_until(|| does_serve(port)).await?;
        }
        Ok(Ensemble { nodes })
    }
}

/// Private servers that agree. Dropping it ends them.
#[derive(Debug)]
pub struct Ensemble {
    nodes: Vec<Node>,
}

impl Ensemble {
    /// Starts `count` servers and waits until all serve. `None` where it is not installed and not required.
    pub async fn start(count: usize, options: ZooKeeperOptions) -> Option<Ensemble> {
        let (ensemble, ()) = Ensemble::start_routed(count, options, |_| ()).await?;
        Some(ensemble)
    }

    /// Does as [`Ensemble::start`], and has `route` put what it likes between the servers before they start. Where they
    /// do not come to serve, all is planned and routed anew, on other ports.
    pub async fn start_routed<R>(
        count: usize,
        options: ZooKeeperOptions,
        route: impl Fn(&mut EnsemblePlan) -> R,
    ) -> Option<(Ensemble, R)> {
        if !ready_for("zookeeper") {
            return None;
        }
        let mut refusal = None;
        for _ in 0..PORT_TRIES {
            let mut plan = EnsemblePlan::new(count, options.clone());
            let routed = route(&mut plan);
            match plan.start().await {
                Ok(ensemble) => return Some((ensemble, routed)),
                Err(not_started) => refusal = Some(not_started),
            }
        }
        panic!("the ensemble did not start:\n{}", refusal.map(|refusal| refusal.log).unwrap_or_default());
    }

    /// Returns the URL of a namespace, with all servers in it.
    pub fn url(&self, namespace: &str) -> String {
        url(self.nodes.iter().map(Node::port), namespace)
    }

    /// Returns the servers.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the servers, to end them or start them.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// Returns the number of the server that leads now.
    pub fn leader(&self) -> Option<usize> {
        self.nodes.iter().position(Node::is_leader)
    }

    /// Kills every server, starts all again and waits until all serve.
    pub async fn restart(&mut self) {
        for node in &mut self.nodes {
            node.kill();
        }
        for node in &mut self.nodes {
            node.begin_restart().await;
        }
        for node in &mut self.nodes {
            node.serves().await;
        }
    }

    /// Ends and starts one server after the other, the leader last, each when the one before serves again.
    pub async fn roll(&mut self) {
        let leader = self.leader();
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by_key(|index| Some(*index) == leader);
        for index in order {
            self.nodes[index].stop();
            self.nodes[index].restart().await;
        }
    }
}

/// Returns the URL of a namespace on servers of the loopback with these ports.
fn url(ports: impl IntoIterator<Item = u16>, namespace: &str) -> String {
    let hosts: Vec<_> = ports.into_iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!("zookeeper://{}/?namespace={namespace}", hosts.join(","))
}

/// Writes the configuration of a server and starts it, without waiting until it serves.
async fn launch(options: &ZooKeeperOptions, port: u16, settings: &str, number: Option<usize>) -> Node {
    let folder = tempfile::Builder::new().prefix("althing-zookeeper-").tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    let mut text = format!("tickTime={}\ndataDir=./data\n{settings}", options.tick.as_millis());
    let ticks = INIT_DEADLINE.as_millis().div_ceil(options.tick.as_millis());
    let _ = writeln!(text, "initLimit={ticks}\nsyncLimit=20\nmaxClientCnxns=0\nmaxSessionTimeout=600000");
    text.push_str("admin.enableServer=false\n4lw.commands.whitelist=srvr\n");
    for (name, value) in &options.settings {
        let _ = writeln!(text, "{name}={value}");
    }
    write("zoo.cfg", &text);
    std::fs::create_dir(folder.path().join("data")).expect("a folder");
    if let Some(number) = number {
        write("data/myid", &number.to_string());
    }
    if options.tls {
        make_certificate(folder.path());
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("just made");
        write("server.pem", &(read("server.key") + &read("server.crt")));
    }
    let process = spawn(&options.java, folder.path()).await.expect("it is not waited for");
    Node { process, folder, java: options.java.clone(), port }
}

async fn spawn(java: &[String], folder: &Path) -> Result<Process, NotStarted> {
    let mut command = Command::new(find("java").expect("asked for before"));
    // Small and quick to start: a test runs up to three of them beside itself.
    command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]);
    command.args(["-XX:-UsePerfData", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]);
    // A vote that was lost while three servers start on a busy machine is repeated soon, and not ever later.
    command.args(["-Dzookeeper.fastleader.maxNotificationInterval=500", "-Dzookeeper.cnxTimeout=1000"]);
    command.args(java).arg("-cp").arg(format!("{JAR}:{MORE_JARS}"));
    command.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain").arg("./zoo.cfg").current_dir(folder);
    Process::start(&mut command, &folder.join("server.log"), || true).await
}

fn does_serve(port: u16) -> bool {
    ask(port, "srvr").is_ok_and(|answer| answer.contains("Mode: "))
}

/// Sends one of the server's four-letter words and returns the answer.
fn ask(port: u16, word: &str) -> std::io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, ASK_DEADLINE)?;
    stream.set_read_timeout(Some(ASK_DEADLINE))?;
    stream.write_all(word.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
