//! What is shown of behaviours and of the calls they took.

use serde::{Deserialize, Serialize};

use super::{BindingInfo, HostView};
use crate::Digest;

/// A behaviour at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BehaviourInfo {
    /// Its name.
    pub name: String,
    /// The policy that answers.
    pub binding: BindingInfo,
    /// Rises with every activation and rollback; 1 after the first.
    pub epoch: u64,
    /// Every host of the fleet and how far it has followed.
    pub hosts: Vec<HostView>,
    /// The last calls that this host took for it, newest first.
    pub calls: Vec<BehaviourCall>,
}

/// A line of the list of behaviours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BehaviourSummary {
    /// Its name.
    pub name: String,
    /// The name of the policy that answers.
    pub policy: String,
    /// The policy's version.
    pub version: String,
    /// Rises with every activation and rollback.
    pub epoch: u64,
}

/// What a call of a behaviour asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BehaviourAsk {
    /// What is wanted, as the behaviour names its operations.
    pub operation: String,
    /// What goes to the behaviour.
    pub body: bytes::Bytes,
    /// How long to wait for the answer; [`limits::BEHAVIOUR_TIMEOUT_DEFAULT`] where it is left out.
    ///
    /// [`limits::BEHAVIOUR_TIMEOUT_DEFAULT`]: crate::limits::BEHAVIOUR_TIMEOUT_DEFAULT
    pub timeout: Option<std::time::Duration>,
}

/// One call of a behaviour: who asked what, what came of it, and what it cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BehaviourCall {
    /// The behaviour's name.
    pub behaviour: String,
    /// Names the request.
    pub id: String,
    /// Wall time of its beginning in milliseconds since 1970.
    pub at_ms: u64,
    /// The epoch of the binding that answered last; 0 where none was asked.
    pub epoch: u64,
    /// The digest of the bundle that answered last.
    pub digest: Option<Digest>,
    /// What was wanted.
    pub operation: String,
    /// Who asked.
    pub principal: String,
    /// The client's session.
    pub session: String,
    /// How often the behaviour was asked.
    pub attempts: u32,
    /// How often it called the store.
    pub store_calls: u32,
    /// How long the client waited, in milliseconds.
    pub took_ms: f64,
    /// What came of it.
    pub outcome: BehaviourOutcome,
    /// Why it failed.
    pub error: Option<String>,
    /// What the behaviour logged when it was asked last.
    pub log: Vec<String>,
}

/// What came of a call of a behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum BehaviourOutcome {
    /// It was done.
    Done,
    /// The behaviour refused, or gave up on an error of the store.
    Refused,
    /// It was not done in time.
    TimedOut,
    /// The client went away.
    Gone,
    /// The session of the client, or of its host, ended meanwhile.
    SessionLost,
    /// The behaviour failed: it trapped, ran out of its budget or answered nonsense.
    Fault,
    /// The host or its backend failed it.
    Failed,
}
