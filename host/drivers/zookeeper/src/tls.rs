//! TLS to the servers, past the client crate.
//!
//! The client crate could speak TLS by itself, but only with a process-wide default provider, which a library must
//! not install. So it speaks plain text to a port of the loopback that only this user's processes may use, and
//! what arrives there goes on to the server over TLS.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use althing_core::{Clock, Error, Kind, Location, Result, SystemClock};
use rustls::pki_types::ServerName;
use tokio::io::{copy, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a server may take to greet. The client has gone on to another by then.
const GREETING_DEADLINE: Duration = Duration::from_secs(5);

/// How to greet servers over TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    servers: Arc<[Arc<Server>]>,
    entrances: Arc<OnceCell<Vec<Entrance>>>,
}

struct Server {
    connector: TlsConnector,
    name: ServerName<'static>,
    host: String,
    port: u16,
    // A std Mutex: held for a look, never over an await.
    refusal: Mutex<Option<Error>>,
}

/// A port of the loopback that leads to a server, for as long as it lives.
struct Entrance {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Entrance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tls {
    /// Returns the addresses that lead to the servers; opens them at the first call.
    pub(crate) async fn entrances(&self) -> Result<String> {
        self.servers.iter().for_each(|server| *server.refusal() = None);
        let open = || async {
            let mut entrances = Vec::new();
            for server in self.servers.iter() {
                entrances.push(Entrance::open(server.clone()).await?);
            }
            Ok::<_, std::io::Error>(entrances)
        };
        let entrances = self.entrances.get_or_try_init(open).await.map_err(|error| {
            Error::new(Kind::Unavailable, "connect", "no port of the loopback can be opened").because(error)
        })?;
        let addresses: Vec<_> = entrances.iter().map(|entrance| entrance.address.to_string()).collect();
        Ok(addresses.join(","))
    }

    /// Returns why a server could not be greeted since the addresses were asked for.
    pub(crate) fn refusal(&self) -> Option<Error> {
        self.servers.iter().find_map(|server| server.refusal().clone())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("servers", &self.servers.len()).finish_non_exhaustive()
    }
}

impl Server {
    async fn greet(&self) -> Result<TlsStream<TcpStream>> {
        let unreachable = |error: std::io::Error| {
            let message = format!("ZooKeeper at {}:{} cannot be reached", self.host, self.port);
            Error::new(Kind::Unavailable, "connect", message).because(error)
        };
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        self.connector.connect(self.name.clone(), stream).await.map_err(|error| {
            let message =
                format!("ZooKeeper at {}:{} refused TLS, or is not who it should be", self.host, self.port);
            Error::new(Kind::Unavailable, "connect", message)
                .because(error)
                .advise("Check the port, and tls-ca in the backend URL")
        })
    }

    fn refusal(&self) -> MutexGuard<'_, Option<Error>> {
        // Nothing under the lock can panic; a poisoned one would still guard a whole value.
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entrance {
    async fn open(server: Arc<Server>) -> std::io::Result<Entrance> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        Ok(Entrance { address, task: tokio::spawn(admit(listener, address, server)) })
    }
}

async fn admit(listener: TcpListener, address: SocketAddr, server: Arc<Server>) {
    // Ends with this task, and with it all that goes through.
    let mut passages = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((inner, peer)) if is_ours(peer, address) => {
                    passages.spawn(pass(inner, server.clone()));
                }
                Ok((_, peer)) => tracing::warn!(%peer, "another user was turned away"),
                // Out of sockets, perhaps; the client tries again by itself.
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be taken");
                    SystemClock.sleep(Duration::from_millis(10)).await;
                }
            },
            Some(_) = passages.join_next(), if !passages.is_empty() => {}
        }
    }
}

/// Passes on what one connection says, until either side ends.
async fn pass(inner: TcpStream, server: Arc<Server>) {
    let greeted = tokio::select! {
        greeted = server.greet() => greeted,
        () = SystemClock.sleep(GREETING_DEADLINE) => return,
    };
    let outer = match greeted {
        Ok(outer) => outer,
        Err(error) => {
            tracing::debug!(%error, "no passage to ZooKeeper");
            // Before the client sees that its connection ends.
            *server.refusal() = Some(error);
            return;
        }
    };
    *server.refusal() = None;
    // Without delay where it can be had; without it the connection is only slower.
    let _ = inner.set_nodelay(true);
    let ((mut from_inner, mut to_inner), (mut from_outer, mut to_outer)) = (split(inner), split(outer));
    // What one side has said until it ended is passed on whole; then nobody waits for the other.
    tokio::select! {
        _ = copy(&mut from_inner, &mut to_outer) => {}
        _ = copy(&mut from_outer, &mut to_inner) => {}
    }
}

/// Tells whether the socket at `peer`, connected to `address`, belongs to the user of this process, by the
/// system's table of connections. Where that cannot be read, nobody is let in.
fn is_ours(peer: SocketAddr, address: SocketAddr) -> bool {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    owner(&table, peer, address) == Some(rustix::process::geteuid().as_raw())
}

fn owner(table: &str, from: SocketAddr, to: SocketAddr) -> Option<u32> {
    let [from, to] = [from, to].map(|address| match address {
        SocketAddr::V4(address) => {
            // The system writes the bytes of an address as a number in its own order.
            let number = u32::from_ne_bytes(address.ip().octets());
            format!("{number:08X}:{:04X}", address.port())
        }
        SocketAddr::V6(_) => String::new(),
    });
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next() == Some(&from) && fields.next() == Some(&to);
        is_it.then(|| fields.nth(4)?.parse().ok()).flatten()
    })
}

/// Reads from `location` how to greet `servers`.
pub(crate) fn prepare(location: &Location, servers: &[(String, u16)]) -> Result<Tls> {
    let connector = TlsConnector::from(althing_tls::config(location)?);
    let server = |(host, port): &(String, u16)| {
        let name = althing_tls::server_name(location, host)?;
        let (connector, host, port) = (connector.clone(), host.clone(), *port);
        Ok(Arc::new(Server { connector, name, host, port, refusal: Mutex::default() }))
    };
    let servers = servers.iter().map(server).collect::<Result<_>>()?;
    Ok(Tls { servers, entrances: Arc::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn knows_its_own_connections_in_the_table_of_the_system() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        assert!(is_ours(client.local_addr().unwrap(), address));
        assert!(!is_ours(address, address));
    }

    #[test]
    fn reads_whose_connection_it_is() {
        let number = u32::from_ne_bytes([127, 0, 0, 1]);
        let table = format!(
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: {number:08X}:1F90 {number:08X}:0BB8 01 00000000:00000000 00:00000000 00000000  1000        0 1\n"
        );
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        assert_eq!(owner(&table, at(8080), at(3000)), Some(1000));
        assert_eq!(owner(&table, at(3000), at(8080)), None);
        assert_eq!(owner("", at(8080), at(3000)), None);
    }
}
