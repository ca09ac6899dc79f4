//! The greeting of a server over TLS.

use std::fmt;

use althing_core::{Location, Result};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How to greet a server over TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    server: ServerName<'static>,
}

impl Tls {
    pub(crate) async fn connect(self, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.server, stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Reads from `location` how to greet the server `host`.
pub(crate) fn prepare(location: &Location, host: &str) -> Result<Tls> {
    let server = althing_tls::server_name(location, host)?;
    Ok(Tls { connector: TlsConnector::from(althing_tls::config(location)?), server })
}
