//! What the client needs to greet a server over TLS. It reads certificates itself, and asks the process for the rest.

use std::path::PathBuf;

use althing_core::{Location, Result};

/// How to greet a server over TLS.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    /// Whom to trust, and nobody else.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// The files by which we show who we are: certificate and key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

/// Reads from `location` how to greet the server `host`.
pub(crate) fn prepare(location: &Location, host: &str) -> Result<Tls> {
    althing_tls::server_name(location, host)?;
    // What the client would fail on later, and less clearly.
    althing_tls::config(location)?;
    althing_tls::provide();
    let authorities = althing_tls::authorities(location)?.iter().map(|one| one.to_vec()).collect();
    let file = |name| location.option(name).map(PathBuf::from);
    Ok(Tls { authorities, identity: file("tls-cert").zip(file("tls-key")) })
}
