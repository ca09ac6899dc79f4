//! What is seen of locks.

use althing_core::Revision;
use althing_core::info::{LockMode, Released};
use serde::{Deserialize, Serialize};

use super::Nanos;

/// What happens with a request for locks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum LockStep {
    /// It is about to be sent, for the first time.
    Asked {
        /// What is to be locked, all or none.
        names: Vec<String>,
        /// How.
        mode: LockMode,
        /// How many permits there are.
        limit: Option<u32>,
        /// For how long to wait; for ever where there is none.
        wait_ms: Option<u64>,
    },
    /// All is locked.
    Granted {
        /// Each name, and the token by which it is held.
        tokens: Vec<(String, Revision)>,
    },
    /// Nothing came of it, and nobody waits for it any more.
    Failed {
        /// Why.
        why: String,
    },
    /// A guard was asked again and again whether it is held, and always said yes. It was asked at `from` at the latest for
    /// the first time, and at `until` at the earliest for the last.
    Held {
        /// The lock.
        lock: String,
        /// After the first yes.
        from: Nanos,
        /// Before the last yes.
        until: Nanos,
    },
    /// A guard that was not released said that it is not held.
    Lost {
        /// The lock.
        lock: String,
    },
    /// The holder was told that a lock is lost, or to stop using it.
    Told {
        /// The lock.
        lock: String,
        /// What was said.
        why: String,
    },
    /// A lock is about to be released.
    Releasing {
        /// The lock.
        lock: String,
        /// Its guard said right before that it is held.
        sure: bool,
    },
    /// The answer to that.
    Released {
        /// The lock.
        lock: String,
        /// What came of it; nothing where nobody knows.
        released: Option<Released>,
    },
}
