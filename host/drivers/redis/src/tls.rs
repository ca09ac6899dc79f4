//! The greeting of a server over TLS.

use std::fmt;
use std::io;

use althing_core::{Location, Result};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How to greet servers over TLS.
#[derive(Clone)]
pub(crate) struct Tls(TlsConnector);

impl Tls {
    /// Reads how `location` wants servers greeted; `None` where it wants plain text. Fails with `Invalid` where a
    /// file cannot be used, or an option makes sense with TLS only.
    pub(crate) fn read(location: &Location) -> Result<Option<Tls>> {
        if location.scheme.starts_with("rediss") {
            return Ok(Some(Tls(TlsConnector::from(althing_tls::config(location)?))));
        }
        match althing_tls::implied_by(location) {
            Some(name) => {
                let advice = location.scheme.replacen("redis", "rediss", 1);
                Err(location.wrong(format!("{name} without TLS")).advise(format!("Write {advice}://")))
            }
            None => Ok(None),
        }
    }

    /// Greets the server called `host`, which has to prove that name.
    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        host: &str,
        stream: S,
    ) -> io::Result<TlsStream<S>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        self.0.connect(name, stream).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}
