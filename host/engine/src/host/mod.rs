//! The functions a guest can call.

pub(crate) mod clock;
pub(crate) mod config;
pub(crate) mod log;
pub(crate) mod random;
pub(crate) mod store;
pub(crate) mod wasi;

use std::sync::Arc;

use althing_core::Digest;

use crate::bundle::Settings;
use crate::host::store::Reach;

/// What a call is about, as far as host functions tell.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// The moment, in milliseconds since 1970.
    pub(crate) now_ms: f64,
    /// What randomness is made from.
    pub(crate) seed: Digest,
    /// The policy's settings.
    pub(crate) settings: Arc<Settings>,
    /// Whether the policy may write to the log.
    pub(crate) may_log: bool,
    /// What a behaviour reaches while it is asked; nothing for a rule.
    pub(crate) reach: Option<Reach>,
}
