//! Who asks.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whoever makes a request, as the surface that took it established.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Principal {
    /// The host itself.
    Host,
    /// Code that embeds the host.
    Embedder,
    /// A process of this machine, by the user id the kernel told.
    Uid(u32),
    /// Whoever knows the bearer token of this name.
    Token(String),
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Host => f.write_str("host"),
            Principal::Embedder => f.write_str("embedder"),
            Principal::Uid(uid) => write!(f, "uid:{uid}"),
            Principal::Token(name) => write!(f, "token:{name}"),
        }
    }
}
