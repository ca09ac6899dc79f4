//! The greeting of a server over TLS.

use std::fmt;

use althing_core::{Location, Result};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How to greet a server over TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    server: ServerName<'static>,
}

impl Tls {
    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> std::io::Result<TlsStream<S>> {
        self.connector.connect(self.server.clone(), stream).await
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
