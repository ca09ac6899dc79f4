//! TLS by rustls with the one provider of the tree. No process-wide default is set or used.

use std::fmt;
use std::sync::Arc;

use althing_core::{Location, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
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

/// Reads the certificates that `location` names; without `tls-ca`, the machine's.
pub(crate) fn prepare(location: &Location, host: &str) -> Result<Tls> {
    let server = ServerName::try_from(host.to_owned()).map_err(|error| {
        location.wrong(format!("{host:?} cannot be the name of a TLS server")).because(error)
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| location.wrong("TLS cannot be set up").because(error))?
        .with_root_certificates(roots(location)?);
    let config = match (location.option("tls-cert"), location.option("tls-key")) {
        (None, None) => builder.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| location.wrong(format!("tls-key {key} cannot be read")).because(error))?;
            builder
                .with_client_auth_cert(certificates(location, "tls-cert", certificate)?, key)
                .map_err(|error| location.wrong("tls-cert and tls-key do not fit").because(error))?
        }
        _ => return Err(location.wrong("tls-cert and tls-key need each other")),
    };
    Ok(Tls { connector: TlsConnector::from(Arc::new(config)), server })
}

fn roots(location: &Location) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = location.option("tls-ca") {
        for certificate in certificates(location, "tls-ca", file)? {
            roots
                .add(certificate)
                .map_err(|error| location.wrong(format!("tls-ca {file} is not usable")).because(error))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(location.wrong("no certificate authority to trust").advise("Name a file with tls-ca"));
    }
    Ok(roots)
}

fn certificates(location: &Location, option: &str, file: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| location.wrong(format!("{option} {file} cannot be read")).because(error))
}
