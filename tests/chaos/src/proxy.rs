//! A TCP proxy for one link, with faults that are switched while connections live.
//!
//! A proxy stands for a network, so it does nothing that no network does: bytes of one connection stay in order, and a
//! stream that lost some of its bytes never goes on: it is reset when the link heals. What is random
//! comes from the seed, the number of the connection and its direction alone, so a seed reproduces it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use althing_core::{Clock, SystemClock};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::lane::{Broken, Lane};

/// A direction of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From whoever connected to the server.
    Up,
    /// From the server to whoever connected.
    Down,
}

/// What happens to bytes that go one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They pass.
    #[default]
    Pass,
    /// They arrive later: by `least`, and up to `jitter` more.
    Delay {
        /// The least delay.
        least: Duration,
        /// The most that is added to it.
        jitter: Duration,
    },
    /// They are kept until the link heals, and arrive then: a network that is cut for a while.
    Hold,
    /// They vanish, the end of the stream too, while the connection stays.
    BlackHole,
    /// So many arrive at a time.
    Drip {
        /// How many bytes.
        bytes: usize,
        /// How often.
        every: Duration,
    },
    /// So many more arrive on each connection, then it is reset: a message that is cut in the middle.
    Cut {
        /// How many bytes.
        after: usize,
    },
}

/// What goes wrong with a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Something happens to the bytes that go one way, until the link heals.
    Flow(Way, Flow),
    /// On every connection there is, the end to which bytes go this way is closed, and the other one is never told.
    HalfOpen(Way),
    /// Every connection there is is reset on both ends.
    Reset,
    /// New connections are refused until the link heals. Those there are go on.
    Refuse,
}

/// A proxy on a port of its own. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    link: Arc<Link>,
    accepting: AbortHandle,
}

/// What the proxy and its connections share.
#[derive(Debug)]
struct Link {
    /// Where the server is.
    server: SocketAddr,
    seed: u64,
    state: watch::Sender<State>,
    /// Bytes that arrived, up and down.
    arrived: [AtomicU64; 2],
}

/// The faults of a link at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct State {
    up: Flow,
    down: Flow,
    refuses: bool,
    /// How many blows there were; a connection suffers those that fall while it lives.
    blows: u64,
    blow: Blow,
    healed: u64,
}

/// What befalls the connections there are, once.
#[derive(Clone, Copy, Debug, Default)]
enum Blow {
    #[default]
    Reset,
    HalfOpen(Way),
}

impl State {
    pub(crate) fn flow(&self, way: Way) -> Flow {
        match way {
            Way::Up => self.up,
            Way::Down => self.down,
        }
    }

    fn strike(&mut self, blow: Blow) {
        self.blow = blow;
        self.blows += 1;
    }
}

impl Proxy {
    /// Starts a proxy to a port of the loopback, on the tokio runtime that this is called on.
    pub fn start(server_port: u16, seed: u64) -> Proxy {
        let listener = bind(0).listen(BACKLOG).expect("a free port can be listened on");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, server_port));
        let link =
            Arc::new(Link { server, seed, state: watch::Sender::default(), arrived: Default::default() });
        let accepting = tokio::spawn(accept(listener, link.clone())).abort_handle();
        Proxy { port, link, accepting }
    }

    /// Returns the port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets a fault begin. It stands beside those that there are; of two on the bytes of one way the later counts.
    pub fn inject(&self, fault: Fault) {
        self.link.state.send_modify(|state| match fault {
            Fault::Flow(Way::Up, flow) => state.up = flow,
            Fault::Flow(Way::Down, flow) => state.down = flow,
            Fault::HalfOpen(way) => state.strike(Blow::HalfOpen(way)),
            Fault::Reset => state.strike(Blow::Reset),
            Fault::Refuse => state.refuses = true,
        });
    }

    /// Ends all faults. What was held arrives; connections that lost bytes, or one of whose ends was closed, are reset.
    pub fn heal(&self) {
        self.link.state.send_modify(|state| {
            let State { blows, blow, healed, .. } = *state;
            *state = State { blows, blow, healed: healed + 1, ..State::default() };
        });
    }

    /// Returns how many bytes arrived so far that went this way.
    pub fn arrived(&self, way: Way) -> u64 {
        self.link.arrived[way as usize].load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

const BACKLOG: u32 = 128;
/// The pause before a port that is still in use is tried again.
const BIND_PAUSE: Duration = Duration::from_millis(1);

fn bind(port: u16) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket can be made");
    socket.set_reuseaddr(true).expect("a new socket takes options");
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).expect("the port is ours");
    socket
}

async fn accept(mut listener: TcpListener, link: Arc<Link>) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    let mut states = link.state.subscribe();
    for number in 0.. {
        let client = loop {
            if states.borrow_and_update().refuses {
                listener = refuse(listener, &mut states).await;
            }
            tokio::select! {
                accepted = listener.accept() => if let Ok((client, _)) = accepted { break client },
                _ = states.changed() => {}
            }
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(connect(client, link.clone(), number));
    }
}

/// Refuses connections until the link heals. The port stays ours: a socket that is bound and does not listen refuses.
async fn refuse(listener: TcpListener, states: &mut watch::Receiver<State>) -> TcpListener {
    let port = listener.local_addr().expect("a bound socket has an address").port();
    drop(listener);
    let socket = bind(port);
    // The sender lives as long as the link, which this task shares.
    let _ = states.wait_for(|state| !state.refuses).await;
    let mut socket = Some(socket);
    loop {
        match socket.take().unwrap_or_else(|| bind(port)).listen(BACKLOG) {
            Ok(listener) => return listener,
            Err(_) => SystemClock.sleep(BIND_PAUSE).await,
        }
    }
}

async fn connect(client: TcpStream, link: Arc<Link>, number: u64) {
    match TcpStream::connect(link.server).await {
        Ok(server) => carry(client, server, &link, number).await,
        Err(_) => reset(&client),
    }
}

/// How a connection ends.
enum End {
    Closed,
    Reset,
    HalfOpen(Way),
}

async fn carry(mut client: TcpStream, mut server: TcpStream, link: &Link, number: u64) {
    let mut states = link.state.subscribe();
    // What is passed on must not wait for more of it.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let lane = |way| {
            let seed = link.seed ^ (number * 2 + way as u64 + 1).wrapping_mul(0xD134_2543_DE82_EF95);
            Lane::new(way, link.state.subscribe(), seed, &link.arrived[way as usize])
        };
        let (up, down) = (lane(Way::Up), lane(Way::Down));
        let passed =
            async { tokio::try_join!(up.run(from_client, to_server), down.run(from_server, to_client)) };
        tokio::select! {
            passed = passed => match passed {
                Ok(_) => End::Closed,
                Err(Broken) => End::Reset,
            },
            end = struck(&mut states) => end,
        }
    };
    match end {
        End::Closed => {}
        End::Reset => {
            reset(&client);
            reset(&server);
        }
        End::HalfOpen(Way::Up) => forsake(server, client, &mut states).await,
        End::HalfOpen(Way::Down) => forsake(client, server, &mut states).await,
    }
}

/// Waits until a blow falls on this connection.
async fn struck(states: &mut watch::Receiver<State>) -> End {
    let blows = states.borrow().blows;
    let blow = states.wait_for(|state| state.blows > blows).await.map(|state| state.blow);
    match blow {
        Ok(Blow::HalfOpen(way)) => End::HalfOpen(way),
        Ok(Blow::Reset) | Err(_) => End::Reset,
    }
}

/// Closes one end and goes on as if nothing were with the other, until the link heals.
async fn forsake(closed: TcpStream, mut kept: TcpStream, states: &mut watch::Receiver<State>) {
    drop(closed);
    let healed = states.borrow().healed;
    let swallow = async {
        let mut bytes = [0; 4096];
        while kept.read(&mut bytes).await.is_ok_and(|length| length > 0) {}
    };
    tokio::select! {
        _ = states.wait_for(|state| state.healed > healed) => {}
        () = swallow => {}
    }
    reset(&kept);
}

/// Lets the stream end with a reset when it is dropped.
fn reset(stream: &TcpStream) {
    // A stream that is broken already needs no reset.
    let _ = stream.set_zero_linger();
}
