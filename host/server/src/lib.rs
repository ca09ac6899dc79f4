//! The HTTP surface of a host: JSON under `/v1`, events as server-sent events, on a Unix socket and, where
//! asked for, on a loopback TCP port.

mod admit;
mod answer;
mod connections;
mod listen;
mod openapi;
mod routes;
mod stream;
mod token;
mod waist;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use althing_client::Address;
use althing_core::{Result, limits};
use althing_runtime::Backends;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connections::Surface;
use crate::listen::{TcpDoor, UnixDoor};
use crate::waist::Waist;

/// Where a host answers.
#[derive(Clone)]
pub struct ServerConfig {
    /// The Unix socket. Made with mode 0660; a file that a dead host left there is replaced.
    pub socket: PathBuf,
    /// The TCP port, on a loopback address; port 0 takes a free one.
    pub listen: Option<SocketAddr>,
    /// Where the bearer token for TCP lies; made with mode 0600 where it is missing.
    pub token_file: PathBuf,
    /// What `/metrics` answers.
    pub metrics: Option<MetricsPage>,
}

/// Writes all metrics of this process in the text format of Prometheus.
pub type MetricsPage = Arc<dyn Fn() -> String + Send + Sync>;

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("socket", &self.socket)
            .field("listen", &self.listen)
            .field("token_file", &self.token_file)
            .finish_non_exhaustive()
    }
}

/// A host's sockets, open. Connections queue until [`run`](Self::run) is called.
#[derive(Debug)]
pub struct Server {
    unix: UnixDoor,
    tcp: Option<TcpDoor>,
    surface: Surface,
    addresses: Vec<Address>,
    token_file: PathBuf,
}

impl Server {
    /// Opens the sockets. Fails with `Exists` where another host answers on the same socket, and with
    /// `Unsupported` where `listen` is not a loopback address. Nothing stays open after a failure.
    pub async fn bind(config: ServerConfig, backends: impl Into<Backends>) -> Result<Server> {
        let tcp = match config.listen {
            Some(address) => Some(TcpDoor::open(address, &config.token_file).await?),
            None => None,
        };
        let unix = UnixDoor::open(&config.socket).await?;
        let mut addresses = vec![Address::Unix(config.socket)];
        addresses.extend(tcp.iter().map(|tcp| Address::Tcp(tcp.address.to_string())));
        let ending = CancellationToken::new();
        let state =
            routes::State { backends: backends.into(), ending: ending.clone(), metrics: config.metrics };
        let surface = Surface {
            router: routes::router(state),
            requests: Arc::new(Semaphore::new(limits::REQUESTS_MAX)),
            connections: Arc::new(Semaphore::new(limits::CONNECTIONS_MAX)),
            open: TaskTracker::new(),
            ending,
            waist: Waist::default(),
        };
        Ok(Server { unix, tcp, surface, addresses, token_file: config.token_file })
    }

    /// Returns where it answers.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Returns where the bearer token lies, if it listens on TCP.
    pub fn token_file(&self) -> Option<&Path> {
        self.tcp.as_ref().map(|_| self.token_file.as_path())
    }

    /// Answers until `shutdown` is ready. Then it takes no more connections, ends the event streams, lets
    /// requests that are under way finish for at most [`limits::DRAIN_DEADLINE`], and removes its socket.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let surface = &self.surface;
        tokio::select! {
            () = shutdown => {}
            () = surface.accept_unix(&self.unix) => {}
            () = surface.accept_tcp(self.tcp.as_ref()), if self.tcp.is_some() => {}
        }
        // Whoever comes now finds no socket, while those who are here are still answered.
        drop(self.unix);
        surface.end().await;
    }
}
