//! What a runtime is started with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{Chance, Clock, OsChance, SystemClock, limits};
use althing_engine::PublicKey;

use crate::DEFAULT_BACKEND;

/// What a runtime is started with.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// The host's name, for people.
    pub name: String,
    /// The name of the backend, for a process that has several.
    pub backend: String,
    /// The lease to ask of the backend.
    pub lease: Duration,
    /// Where the host's identity, its decisions and a cache of bundles are kept.
    pub state: Option<PathBuf>,
    /// Whose bundles are run.
    pub trusted: Vec<PublicKey>,
    /// Run bundles without a trusted signature too.
    pub allow_unsigned: bool,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from.
    pub chance: Arc<dyn Chance>,
    /// Where the backend session is renewed: a runtime that nothing else keeps busy.
    pub io: tokio::runtime::Handle,
    /// How elections are paced.
    pub tuning: Tuning,
}

impl RuntimeConfig {
    /// Makes the default configuration, renewing on `io`.
    pub fn new(io: tokio::runtime::Handle) -> Self {
        RuntimeConfig {
            name: "host".into(),
            backend: DEFAULT_BACKEND.into(),
            lease: limits::LEASE_DEFAULT,
            state: None,
            trusted: Vec::new(),
            allow_unsigned: false,
            clock: Arc::new(SystemClock),
            chance: Arc::new(OsChance),
            io,
            tuning: Tuning::default(),
        }
    }
}

/// How elections are paced. The defaults are those of [`limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How long each better-ranked candidate has to claim before the next one may.
    pub claim_window: Duration,
    /// How long a nominee has to accept, and then to claim.
    pub handover_window: Duration,
    /// How long a leader leads at least before a rule may move the leadership.
    pub tenure_min: Duration,
    /// The most voluntary moves of a group's leadership within a minute.
    pub moves_per_minute: u32,
    /// How long a candidate that let its turn pass, or stood down, is passed over.
    pub passed_backoff: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            claim_window: limits::CLAIM_WINDOW,
            handover_window: limits::HANDOVER_WINDOW,
            tenure_min: limits::TENURE_MIN,
            moves_per_minute: limits::MOVES_PER_MINUTE_MAX,
            passed_backoff: limits::PASSED_BACKOFF,
        }
    }
}
