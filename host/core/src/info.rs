//! What is shown of groups, members, leaders, policies and decisions: the same in Rust and in JSON.

mod behaviour;
mod lock;
mod member;
mod partition;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Capability, Cause, Digest, Requirement, Revision, SessionId, Verdict};

pub use behaviour::{BehaviourAsk, BehaviourCall, BehaviourInfo, BehaviourOutcome, BehaviourSummary};
pub use lock::{
    BreakAsk, LockAnswer, LockAsk, LockBreak, LockBroken, LockHold, LockHolder, LockInfo, LockMode,
    LockParty, LockSummary, LockWaiter, ReleaseAsk, Released,
};
pub use member::{Evicted, JoinAsk, Joined, MemberInfo, UpdateAsk, bytes_as_json, bytes_of_json};
pub use partition::{
    Algorithm, Owners, OwnersAsk, OwnersInfo, PartitionAsk, PartitionInfo, SettledAsk, Share,
};

/// A group at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// The revision up to which this host has seen the backend.
    pub revision: Revision,
    /// Its members, oldest first.
    pub members: Vec<MemberInfo>,
    /// Who leads.
    pub leader: Option<LeaderInfo>,
    /// What its backend must promise.
    #[serde(default)]
    pub require: Requirement,
    /// What its members share, where it is partitioned.
    #[serde(default)]
    pub partition: Option<Box<PartitionInfo>>,
    /// It is deleted when its last member has gone.
    #[serde(default)]
    pub ephemeral: bool,
    /// The rule that decides; `None` is the native rule: the oldest leads.
    pub binding: Option<BindingInfo>,
    /// Rises with every activation and rollback; 0 before the first.
    pub epoch: u64,
    /// Every host of the fleet and how far it has followed.
    pub hosts: Vec<HostView>,
}

/// A line of the list of groups.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GroupSummary {
    /// Its name.
    pub name: String,
    /// How many members it has.
    pub members: usize,
    /// The id of the member that leads.
    pub leader: Option<String>,
    /// The name of the policy that decides.
    pub policy: Option<String>,
    /// It is deleted when its last member has gone.
    #[serde(default)]
    pub ephemeral: bool,
}

/// Who leads a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LeaderInfo {
    /// The member's id.
    pub member: String,
    /// The member's incarnation.
    pub incarnation: String,
    /// The id of its host.
    pub host: String,
    /// The fencing token of its term: strictly rising over all terms of the group.
    pub term: Revision,
    /// Wall time at which the term began, in milliseconds since 1970, as its host saw it.
    pub since_ms: u64,
    /// The member being asked to take over, while a hand-over is under way.
    pub successor: Option<String>,
    /// Set when the leader was asked to stop and has not confirmed yet.
    pub revoked: bool,
}

/// A policy bound to a group or a behaviour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BindingInfo {
    /// The policy's name.
    pub policy: String,
    /// Its version.
    pub version: String,
    /// The digest of its bundle.
    pub digest: Digest,
    /// The digest of its settings.
    pub settings_digest: Digest,
    /// Who bound it.
    pub bound_by: String,
    /// Wall time of the activation in milliseconds since 1970.
    pub bound_ms: u64,
}

/// How far a host has followed the bindings of a group or a behaviour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostView {
    /// The host's id.
    pub id: String,
    /// The host's name, for people.
    pub name: String,
    /// The epoch it decides by.
    pub epoch: u64,
    /// It has not loaded what is bound now, and decides nothing there.
    pub behind: bool,
    /// Why it could not load it.
    pub reason: Option<String>,
}

/// This host itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HostInfo {
    /// Its id, kept in the state directory.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// By which name it knows the backend that is asked about.
    pub backend: String,
    /// Names this run of the host.
    pub incarnation: String,
    /// Its session in the backend, while it has one.
    pub session: Option<SessionId>,
    /// `held`, `suspect` or `lost`.
    pub standing: Standing,
    /// For how many milliseconds its session is surely kept from now.
    pub remaining_ms: f64,
    /// Client sessions on this host.
    pub sessions: usize,
    /// Members that joined through this host.
    pub members: usize,
}

/// A backend of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BackendInfo {
    /// The name by which the host knows it.
    pub name: String,
    /// What it promises, as it is configured.
    pub capability: Capability,
}

/// What is known of a lease, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Renewed in time.
    Held,
    /// A renewal is overdue; the deadline has not passed.
    Suspect,
    /// The deadline has passed or the store has ended the session.
    Lost,
}

/// A policy that was pushed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PolicyInfo {
    /// Its name.
    pub name: String,
    /// What was pushed under this name, newest first.
    pub versions: Vec<PolicyVersion>,
    /// The groups it is bound to, as this host sees them.
    pub groups: Vec<String>,
    /// The behaviours it answers for, as this host sees them.
    #[serde(default)]
    pub behaviours: Vec<String>,
}

/// One pushed version of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PolicyVersion {
    /// Its version, from the manifest.
    pub version: String,
    /// Its kind, such as `election`.
    pub kind: String,
    /// The digest of its bundle.
    pub digest: Digest,
    /// The id of the key that signed it.
    pub signed_by: Option<String>,
    /// Who pushed it.
    pub pushed_by: String,
    /// Wall time of the push in milliseconds since 1970.
    pub pushed_ms: u64,
    /// The size of the packed bundle in bytes.
    pub bytes: u64,
    /// The number of cases it was proven with.
    pub cases: usize,
}

/// How far an upload has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JobInfo {
    /// Its id.
    pub id: String,
    /// What it is doing, or where it failed.
    pub phase: Phase,
    /// The digest of the bundle, once it is known.
    pub digest: Option<Digest>,
    /// The policy's name, once it is known.
    pub policy: Option<String>,
    /// The number of cases that passed, once they did.
    pub cases: Option<usize>,
    /// Why it failed.
    pub error: Option<ErrorInfo>,
    /// It will not change any more.
    pub done: bool,
}

/// The steps of an upload, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The bytes are here.
    Uploaded,
    /// Digest and signature are good.
    Verified,
    /// It imports no more than it was granted, and is compiled.
    Compiled,
    /// Its cases passed on this host.
    Proven,
    /// It lies in the backend; every host of the fleet can load it.
    Stored,
}

/// An error as it is shown to clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ErrorInfo {
    /// What went wrong, such as `conflict`.
    pub kind: crate::Kind,
    /// Whether it may have been written.
    pub effect: crate::Effect,
    /// The whole sentence.
    pub message: String,
    /// What to do about it.
    pub advice: Option<String>,
    /// Where it happened.
    pub context: BTreeMap<String, String>,
}

impl From<&crate::Error> for ErrorInfo {
    fn from(error: &crate::Error) -> Self {
        ErrorInfo {
            kind: error.kind(),
            effect: error.effect(),
            message: error.to_string(),
            advice: error.advice().map(String::from),
            context: error
                .context()
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        }
    }
}

/// One decision: what was asked, what was answered, what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Decision {
    /// The group.
    pub group: String,
    /// Wall time in milliseconds since 1970.
    pub at_ms: u64,
    /// The epoch of the binding it was made under.
    pub epoch: u64,
    /// The name of the policy; `None` for the native rule.
    pub policy: Option<String>,
    /// The digest of the policy's bundle.
    pub digest: Option<Digest>,
    /// The digest of the engine that ran it.
    pub engine: Digest,
    /// The digest of the view it was shown.
    pub view: Digest,
    /// What was decided; after a fault, the stated default.
    pub verdict: Verdict,
    /// Why the policy's own answer was not used.
    pub fault: Option<String>,
    /// What the policy logged.
    pub log: Vec<String>,
    /// What came of it.
    pub outcome: Outcome,
    /// The term that began.
    pub term: Option<Revision>,
}

/// What came of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Nothing was to be done.
    Unchanged,
    /// It was a rehearsal.
    Rehearsed,
    /// Another candidate has the turn to claim first.
    Waiting,
    /// A move was put off: tenure or the cap on moves.
    Deferred,
    /// A term began.
    Claimed,
    /// A hand-over was begun.
    Nominated,
    /// The leadership was given up.
    Vacated,
    /// Somebody else wrote first; nothing was changed.
    Conflict,
    /// The backend failed; nothing is known to have changed.
    Failed(String),
}

/// What happens in a group, in the order of the backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// All there is now: first in every stream, and again after a gap.
    Snapshot {
        /// The group.
        group: GroupInfo,
    },
    /// A member joined.
    Joined {
        /// It.
        member: MemberInfo,
        /// The revision of the event.
        revision: Revision,
    },
    /// A member changed what it says of itself; it is in the same stay.
    Updated {
        /// It, as it is now.
        member: MemberInfo,
        /// The revision of the event.
        revision: Revision,
    },
    /// A member is gone.
    Left {
        /// Its id.
        id: String,
        /// Its incarnation.
        incarnation: String,
        /// Why.
        cause: Cause,
        /// The revision of the event.
        revision: Revision,
    },
    /// A term began.
    Elected {
        /// Who leads.
        leader: LeaderInfo,
        /// The revision of the event.
        revision: Revision,
    },
    /// Nobody leads any more.
    Vacated {
        /// Who led.
        member: String,
        /// The term that ended.
        term: Revision,
        /// The revision of the event.
        revision: Revision,
    },
    /// Another policy decides from now on.
    Bound {
        /// The policy; `None` is the native rule.
        binding: Option<BindingInfo>,
        /// The new epoch.
        epoch: u64,
        /// The revision of the event.
        revision: Revision,
    },
    /// Shares changed, or somebody who had to give something up has done so or is gone.
    Partitioned {
        /// All shares as they are now.
        partition: PartitionInfo,
        /// The revision of the event.
        revision: Revision,
    },
    /// The group was deleted; the stream ends.
    Deleted {
        /// The revision of the event.
        revision: Revision,
    },
}

/// What happens to a client's own session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum SessionEvent {
    /// The standing of the lease changed. First in every stream.
    Standing {
        /// What is known now.
        standing: Standing,
        /// What the session leads now.
        holds: Vec<Hold>,
        /// What it has locked now.
        #[serde(default)]
        locks: Vec<LockHold>,
    },
    /// One of its members leads from now on.
    Elected {
        /// What it holds.
        hold: Hold,
    },
    /// Stop acting as leader and confirm: the leadership moves on once you did, or once your lease ran out.
    Stop {
        /// What it no longer holds.
        hold: Hold,
    },
    /// The leadership is lost.
    Lost {
        /// What it no longer holds.
        hold: Hold,
    },
    /// Stop using what this protects, then release it: somebody wants it broken, and it goes once you did, or once your
    /// lease ran out.
    LockStop {
        /// What is no longer held.
        lock: LockHold,
    },
    /// The lock is lost.
    LockLost {
        /// What is no longer held.
        lock: LockHold,
        /// Why.
        reason: String,
    },
    /// After a loss, the member was joined again under a new incarnation.
    Rejoined {
        /// The group.
        group: String,
        /// The member's id.
        member: String,
        /// Its new incarnation.
        incarnation: String,
        /// The key by which whoever has it may take the place of this stay, as [`Joined::resume`]; the former one is void.
        resume: String,
    },
    /// A member is gone though its client did not leave: it was evicted, or could not be joined again.
    Removed {
        /// The group.
        group: String,
        /// The member's id.
        member: String,
        /// Why.
        reason: String,
    },
    /// The session ended.
    Ended {
        /// Why.
        reason: String,
    },
}

/// A leadership that a session holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Hold {
    /// The group.
    pub group: String,
    /// The member's id.
    pub member: String,
    /// The fencing token.
    pub term: Revision,
}

/// What opening a session asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SessionAsk {
    /// End the session when it is not renewed for this many milliseconds. Without it, a client's session has the
    /// default lease, and one inside the host's process lasts as long as the host.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
    /// End it at once when its event stream closes. Who asks for this promises to stop then.
    #[serde(default)]
    pub drop_on_disconnect: bool,
}

/// A session that was opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SessionGrant {
    /// Its id.
    pub id: String,
    /// Proves that a later request comes from whoever opened it.
    pub secret: String,
    /// Its lease in milliseconds.
    pub ttl_ms: u64,
    /// What was granted now.
    pub renewal: Renewal,
}

/// What a renewal grants, counted from the moment the client *sent* the request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Renewal {
    /// For how many milliseconds the session is surely kept: what is left of the client's own lease or of the host's,
    /// whichever is shorter. A client that asks for a longer lease than its host has asks more often than that lease alone
    /// would need.
    pub remaining_ms: f64,
    /// What it leads; anything else is lost.
    pub holds: Vec<Hold>,
    /// What it has locked; anything else is lost.
    #[serde(default)]
    pub locks: Vec<LockHold>,
}

/// What came of asking a leader to stand down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum StoodDown {
    /// It confirmed that it stopped.
    Stopped,
    /// It was asked, and has not stopped yet; without its word it stops at the latest when its lease ends.
    Asked,
    /// Nobody led.
    Vacant,
}
