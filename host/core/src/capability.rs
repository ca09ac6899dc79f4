//! What a backend promises, in this configuration. Recipes ask this, never the backend's name.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How much a held leadership or lock is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Level {
    /// A hint: the store may forget what it acknowledged.
    L0,
    /// One durable server: what it acknowledged survives its restart.
    L1,
    /// Consensus: what it acknowledged survives the loss of a minority.
    L2,
}

/// How a watch learns of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum WatchMode {
    /// The backend tells.
    Pushed,
    /// The driver asks again and again.
    Polled,
}

/// Within what revisions are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Over all keys of the namespace.
    Namespace,
    /// For each key by itself.
    Key,
}

/// Who ends a session whose lease ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Expiry {
    /// The backend, by its own clock.
    Backend,
    /// Whichever driver looks next, by the backend's clock.
    Driver,
}

/// What a backend promises in its configuration. The conformance suite fails a driver that does less or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Capability {
    /// The scheme of its URL, such as `redis`.
    pub backend: String,
    /// How much its word is worth.
    pub level: Level,
    /// A read sees every commit acknowledged before it began.
    pub linearizable_reads: bool,
    /// Hosts on several machines can share it.
    pub across_hosts: bool,
    /// How watches learn of changes.
    pub watch: WatchMode,
    /// Within what revisions are ordered.
    pub order: Order,
    /// Who ends sessions.
    pub expiry: Expiry,
    /// Keys that one transaction may guard and write, all together.
    pub txn_keys_max: u32,
    /// The largest value, in bytes.
    pub value_bytes_max: u32,
    /// The longest key, in bytes.
    pub key_bytes_max: u32,
    /// The shortest lease it grants.
    pub lease_min: Duration,
    /// Revisions go on rising after the server was restarted, and no acknowledged commit is lost.
    pub token_survives_restart: bool,
    /// Revisions go on rising after a fail-over of the server.
    pub token_survives_failover: bool,
    /// Requests that one renewal costs, whatever the session owns.
    pub beat_requests: u32,
}
