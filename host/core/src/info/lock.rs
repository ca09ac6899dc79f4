//! What is asked and shown of locks.

use serde::{Deserialize, Serialize};

use crate::{Requirement, Revision};

/// How a name is locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum LockMode {
    /// By one alone.
    #[default]
    Exclusive,
    /// By any number that share it.
    Shared,
    /// By as many as its limit says: a counting semaphore.
    Permit,
}

/// What locking asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LockAsk {
    /// The names: all are locked or none. They are taken in the order of their bytes, so that two who ask for
    /// the same ones never wait for each other.
    pub names: Vec<String>,
    /// How.
    #[serde(default)]
    pub mode: LockMode,
    /// How many permits there are; for that mode only, and the same for all who use the name at one time.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Wait for at most so many milliseconds: 0 only tries. For ever where it is left out.
    #[serde(default)]
    pub wait_ms: Option<u64>,
    /// Names this request. Asked again by the same session, it is answered by the same grant: for when an answer
    /// was lost.
    #[serde(default)]
    pub id: Option<String>,
    /// What an operator sees beside the holder, such as a process id or a task.
    #[serde(default)]
    pub label: Option<String>,
    /// What the backend must promise, else nothing is locked.
    #[serde(default)]
    pub require: Requirement,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LockAnswer {
    /// All names are locked. Otherwise others held one for longer than was waited, and nothing of it stays.
    pub granted: bool,
    /// What is held, in the order of the names' bytes.
    pub locks: Vec<LockHold>,
}

/// A lock that a session holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LockHold {
    /// Its name.
    pub lock: String,
    /// How it is held.
    pub mode: LockMode,
    /// How many permits there are.
    pub limit: Option<u32>,
    /// The fencing token: higher than that of whoever held it before, on whatever host. Those that were let in
    /// together, to share it or by permits, have the same one.
    pub token: Revision,
    /// Wall time at which it was granted, in milliseconds since 1970, as a host saw it.
    pub since_ms: u64,
    /// Names the request by which it was locked.
    pub id: String,
}

/// Asks to give a lock back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReleaseAsk {
    /// The token by which it is held.
    pub token: Revision,
    /// The request by which it was locked, where the session has locked the name several times.
    #[serde(default)]
    pub id: Option<String>,
}

/// What came of giving a lock back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Released {
    /// It was held, and is no longer.
    Released,
    /// It was lost before: taken away, or its host lost its lease.
    Lost,
    /// This session does not hold it by that token, and nobody knows why: it was released before, perhaps by a
    /// request whose answer was lost.
    Gone,
}

/// Asks to take a lock away from whoever holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct BreakAsk {
    /// Only from those who hold it by this token; from all where it is left out.
    #[serde(default)]
    pub token: Option<Revision>,
    /// Do not wait for their word. Whoever holds it may go on to believe so for a moment: only a check of the
    /// token by what the lock protects keeps him from doing harm.
    #[serde(default)]
    pub force: bool,
}

/// What came of taking a lock away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LockBroken {
    /// The tokens that hold it no longer.
    pub broken: Vec<Revision>,
    /// Those whose holders were asked and have not said yet that they stopped; they stop at the latest when their
    /// leases end.
    pub asked: Vec<Revision>,
}

/// A line of the list of locks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LockSummary {
    /// Its name.
    pub name: String,
    /// How it is held, or waited for by whoever is next.
    pub mode: LockMode,
    /// How many permits there are.
    pub limit: Option<u32>,
    /// How many hold it.
    pub holders: usize,
    /// How many wait.
    pub waiters: usize,
}

/// A lock at one moment. One that nobody holds or waits for has empty lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LockInfo {
    /// Its name.
    pub name: String,
    /// How many permits there are.
    pub limit: Option<u32>,
    /// Who holds it.
    pub holders: Vec<LockHolder>,
    /// Who waits, in the order of their turns.
    pub waiters: Vec<LockWaiter>,
}

/// Who holds a lock or waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LockParty {
    /// How it holds it, or wants to.
    pub mode: LockMode,
    /// Who opened the session.
    pub principal: String,
    /// What it says of itself.
    pub label: Option<String>,
    /// The id of the host of its session.
    pub host: String,
    /// Its session on that host.
    pub session: String,
    /// Wall time since when it holds or waits, in milliseconds since 1970, as a host saw it.
    pub since_ms: u64,
}

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LockHolder {
    /// The token by which it is held.
    pub token: Revision,
    /// Who it is.
    #[serde(flatten)]
    pub party: LockParty,
    /// It was asked to stop and has not said yet that it did.
    pub breaking: bool,
}

/// Who waits for a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LockWaiter {
    /// Its place: 1 is next.
    pub position: usize,
    /// Who it is.
    #[serde(flatten)]
    pub party: LockParty,
}

/// A lock that was taken away from its holders, as the audit keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockBreak {
    /// Its name.
    pub lock: String,
    /// Wall time in milliseconds since 1970.
    pub at_ms: u64,
    /// Who asked for it.
    pub by: String,
    /// Nobody waited for the holders' word.
    pub force: bool,
    /// From whom it was taken, or who were asked.
    pub holders: Vec<LockHolder>,
}
