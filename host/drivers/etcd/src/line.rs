//! The way to a server: a socket, over TLS where the URL says so.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{Error, Kind, Location, Result};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::settings::Server;

/// The kernel asks a silent peer this often whether it is there, and gives up after this many questions.
const KEEPALIVE: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;

/// How to greet a server over TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    server: ServerName<'static>,
}

impl Tls {
    /// Reads from `location` how to greet the server `host`.
    pub(crate) fn prepare(location: &Location, host: &str) -> Result<Tls> {
        let server = althing_tls::server_name(location, host)?;
        let mut config = rustls::ClientConfig::clone(&*althing_tls::config(location)?);
        // gRPC is HTTP/2, and etcd refuses whoever does not say so.
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Tls { connector: TlsConnector::from(Arc::new(config)), server })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server", &self.server).finish_non_exhaustive()
    }
}

/// What bytes go to and come from.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Connects. Nothing is sent but a greeting.
pub(crate) async fn open(server: &Server) -> Result<Box<dyn Stream>> {
    let unreachable = |error: std::io::Error| {
        let message = format!("etcd at {} cannot be reached", server.address());
        Error::new(Kind::Unavailable, "connect", message).because(error)
    };
    let stream = TcpStream::connect((server.host.as_str(), server.port)).await.map_err(unreachable)?;
    tune(&stream).map_err(unreachable)?;
    let Some(tls) = &server.tls else { return Ok(Box::new(stream)) };
    let greeted = tls.connector.connect(tls.server.clone(), stream).await;
    let stream = greeted.map_err(|error| {
        let message = format!("etcd at {} refused TLS, or is not who it should be", server.address());
        Error::new(Kind::Unavailable, "connect", message)
            .because(error)
            .advise("Check the port, and tls-ca, tls-cert and tls-key in the backend URL")
    })?;
    Ok(Box::new(stream))
}

fn tune(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}
