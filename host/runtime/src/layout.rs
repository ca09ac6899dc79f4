//! Where things lie in a namespace, and what their records hold.
//!
//! | key | owner | what |
//! |---|---|---|
//! | `fleet/group/<group>` | nobody | [`GroupRecord`]: binding, epoch, who leads |
//! | `fleet/member/<group>/<id>` | the host's session | [`MemberRecord`] |
//! | `fleet/partition/<group>` | nobody | [`PartitionRecord`](crate::recipes::partition::PartitionRecord): who shares what |
//! | `fleet/behaviour/<behaviour>` | nobody | [`BehaviourRecord`]: binding, epoch |
//! | `fleet/host/<host>` | the host's session | [`HostRecord`]: how far it has followed the bindings |
//! | `policy/<name>` | nobody | [`PolicyRecord`]: what was pushed under that name |
//! | `artefact/<digest>/<n>` | nobody | a packed bundle, in chunks |
//! | `lock/<name>` | nobody | who holds it, who waits (`recipes/lock/record.rs`) |
//! | `data/<key>` | nobody, or the session of the host of its owner | what a behaviour wrote, in an [`Envelope`](crate::envelope::Envelope) |
//!
//! All that a host must follow lies below `fleet/`, so that one watch sees it in one order. Who leads is
//! part of the group's record, beside the binding and its epoch: a decision made under an older binding
//! meets a changed record and conflicts, on every backend, with a guard on a single key.

use std::collections::BTreeMap;

use althing_core::info::{BindingInfo, PolicyVersion};
use althing_core::{Digest, Error, Key, Kind, Record, Requirement, Result, Revision, SessionId, limits};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The layout written here. A host refuses records of a newer one.
pub(crate) const LAYOUT: u32 = 1;

/// What is known of a group and shared by all hosts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct GroupRecord {
    pub layout: u32,
    /// Names this write, so that a write of unknown effect can be recognised.
    pub nonce: String,
    /// It is being deleted; nobody joins.
    #[serde(default)]
    pub closing: bool,
    /// What the backend must promise whoever joins.
    #[serde(default)]
    pub require: Requirement,
    #[serde(flatten)]
    pub bound: Bound,
    #[serde(default)]
    pub leader: Option<LeaderRecord>,
    /// Voluntary moves of the leadership so far; every host counts their rate by its own clock.
    #[serde(default)]
    pub moves: u64,
    /// Incarnations that were asked to stand down, newest last.
    #[serde(default)]
    pub stood_down: Vec<String>,
    /// It goes with its last member.
    #[serde(default)]
    pub ephemeral: bool,
    /// Stays that were asked to end, newest last. Each is ended by its own host, which alone may write its record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evicted: Vec<Eviction>,
}

/// A mark that asks a member's host to let it go. It outlives the stay, so that a host which lost its session does not
/// undo it by joining its members again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Eviction {
    pub incarnation: String,
    pub by: String,
}

/// What is bound, and what was before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bound {
    /// Rises with every change of the binding.
    #[serde(default)]
    pub epoch: u64,
    #[serde(default)]
    pub binding: Option<BindingInfo>,
    /// Former bindings, newest last, for a rollback.
    #[serde(default)]
    pub former: Vec<Option<BindingInfo>>,
}

/// What is known of a behaviour and shared by all hosts. Something is always bound to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BehaviourRecord {
    pub layout: u32,
    /// Names this write, so that a write of unknown effect can be recognised.
    pub nonce: String,
    #[serde(flatten)]
    pub bound: Bound,
}

/// A term.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LeaderRecord {
    pub member: String,
    pub incarnation: String,
    pub host: String,
    pub session: SessionId,
    /// The revision of the commit that began the term. `None` in that very commit, which cannot know it; whoever
    /// reads that takes the revision of the record ([`group_of`]).
    pub term: Option<Revision>,
    /// Names this term before its revision is known.
    pub nonce: String,
    pub since_ms: u64,
    /// The epoch under which it was decided.
    pub epoch: u64,
    #[serde(default)]
    pub handover: Option<Handover>,
    /// Somebody asked the leader to stop.
    #[serde(default)]
    pub revoke: Option<Revoke>,
    /// Somebody asked for this very leader: for a while, no rule moves the leadership on.
    #[serde(default)]
    pub asked_for: bool,
}

/// A hand-over under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Handover {
    pub nominee: String,
    pub incarnation: String,
    pub phase: HandoverPhase,
}

/// How far a hand-over has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HandoverPhase {
    /// The leader leads on and waits for the nominee's host to accept.
    Nominated,
    /// The nominee's host is ready; the leader leads until its client has stopped.
    Accepted,
    /// The leader has stopped: nobody leads, and the nominee may claim.
    Offered,
}

/// A mark that asks a leader to stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Revoke {
    pub by: String,
    pub at_ms: u64,
    /// The stay that is to lead next; without one, the rule says who.
    #[serde(default)]
    pub successor: Option<String>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct MemberRecord {
    pub id: String,
    /// Names this stay; also the nonce by which a join of unknown effect is recognised.
    pub incarnation: String,
    pub host: String,
    pub host_incarnation: String,
    pub joined_ms: u64,
    pub metadata: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub capabilities: Value,
    /// It stands for election.
    #[serde(default = "stands")]
    pub candidate: bool,
    /// Wall time of the last change; 0 before the first.
    #[serde(default)]
    pub updated_ms: u64,
    /// The digest of the key that supersedes this stay.
    pub resume: Digest,
}

fn stands() -> bool {
    true
}

/// A host of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct HostRecord {
    pub name: String,
    pub incarnation: String,
    #[serde(flatten)]
    pub groups: Followed,
    #[serde(default)]
    pub behaviours: Followed,
}

/// How far a host has followed bindings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Followed {
    /// For each name something is bound to, the epoch this host decides by.
    pub epochs: BTreeMap<String, u64>,
    /// For each name it could not follow, why.
    pub behind: BTreeMap<String, String>,
}

/// What a policy is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat<'a> {
    Group(&'a str),
    Behaviour(&'a str),
}

/// What was pushed under one name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PolicyRecord {
    pub layout: u32,
    /// Newest first.
    pub versions: Vec<PolicyVersion>,
}

/// The prefix that every host follows.
pub(crate) fn fleet() -> Key {
    Key::path(["fleet"]).below()
}

pub(crate) fn group_key(group: &str) -> Key {
    Key::path(["fleet", "group", group])
}

pub(crate) fn member_key(group: &str, id: &str) -> Key {
    Key::path(["fleet", "member", group, id])
}

pub(crate) fn members_prefix(group: &str) -> Key {
    Key::path(["fleet", "member", group]).below()
}

pub(crate) fn partition_key(group: &str) -> Key {
    Key::path(["fleet", "partition", group])
}

pub(crate) fn host_key(host: &str) -> Key {
    Key::path(["fleet", "host", host])
}

pub(crate) fn behaviour_key(behaviour: &str) -> Key {
    Key::path(["fleet", "behaviour", behaviour])
}

pub(crate) fn policies_prefix() -> Key {
    Key::path(["policy"]).below()
}

pub(crate) fn policy_key(name: &str) -> Key {
    Key::path(["policy", name])
}

pub(crate) fn chunk_key(digest: &Digest, index: usize) -> Key {
    Key::path(["artefact", &digest.to_string(), &format!("{index:06}")])
}

pub(crate) fn chunks_prefix(digest: &Digest) -> Key {
    Key::path(["artefact", &digest.to_string()]).below()
}

/// What a key below `fleet/` is about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Group(String),
    Member(String, String),
    Partition(String),
    Host(String),
    Behaviour(String),
}

impl Place {
    /// Reads a key; `None` for keys that this version does not know.
    pub(crate) fn of(key: &Key) -> Option<Place> {
        let names: Vec<String> =
            key.names()?.into_iter().map(String::from_utf8).collect::<Result<_, _>>().ok()?;
        let mut names = names.into_iter();
        let mut next = || names.next();
        match (next()?.as_str(), next()?.as_str()) {
            ("fleet", "group") => Some(Place::Group(next()?)),
            ("fleet", "member") => Some(Place::Member(next()?, next()?)),
            ("fleet", "partition") => Some(Place::Partition(next()?)),
            ("fleet", "host") => Some(Place::Host(next()?)),
            ("fleet", "behaviour") => Some(Place::Behaviour(next()?)),
            _ => None,
        }
    }
}

/// Writes a record's value.
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // These structures have string keys only, so writing them to memory cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Reads a record's value.
pub(crate) fn decode<T: DeserializeOwned>(record: &Record) -> Result<T> {
    serde_json::from_slice(&record.value).map_err(|error| {
        Error::new(Kind::Format, "decode", "a record does not have the shape this version writes")
            .with("key", &record.key)
            .advise(
                "Another program writes to this namespace, or a newer Althing; use a namespace of its own",
            )
            .because(error)
    })
}

/// Reads a group's record and fills in the token of a term that began with this very write.
pub(crate) fn group_of(record: &Record) -> Result<GroupRecord> {
    let mut group: GroupRecord = decode(record)?;
    refuse_newer(group.layout, record)?;
    if let Some(leader) = &mut group.leader {
        leader.term.get_or_insert(record.stamp.modified);
    }
    Ok(group)
}

/// Reads a behaviour's record.
pub(crate) fn behaviour_of(record: &Record) -> Result<BehaviourRecord> {
    let behaviour: BehaviourRecord = decode(record)?;
    refuse_newer(behaviour.layout, record)?;
    Ok(behaviour)
}

/// Fails on a record of a layout that this version does not know.
pub(crate) fn refuse_newer(layout: u32, record: &Record) -> Result<()> {
    if layout <= LAYOUT {
        return Ok(());
    }
    Err(Error::new(Kind::Format, "read", "the record was written by a newer Althing")
        .with("key", &record.key)
        .advise("Upgrade this host"))
}

impl HostRecord {
    /// Returns how far the host has followed what is bound there.
    pub(crate) fn epoch(&self, seat: Seat<'_>) -> u64 {
        let (followed, name) = match seat {
            Seat::Group(name) => (&self.groups, name),
            Seat::Behaviour(name) => (&self.behaviours, name),
        };
        followed.epochs.get(name).copied().unwrap_or(0)
    }

    /// Returns why the host could not follow.
    pub(crate) fn reason(&self, seat: Seat<'_>) -> Option<&String> {
        match seat {
            Seat::Group(name) => self.groups.behind.get(name),
            Seat::Behaviour(name) => self.behaviours.behind.get(name),
        }
    }
}

impl GroupRecord {
    pub(crate) fn new(nonce: String, require: Requirement) -> Self {
        GroupRecord {
            layout: LAYOUT,
            nonce,
            closing: false,
            require,
            bound: Bound::default(),
            leader: None,
            moves: 0,
            stood_down: Vec::new(),
            ephemeral: false,
            evicted: Vec::new(),
        }
    }

    /// Notes that a stay gave up the leadership because somebody asked for that: it is passed over for a while.
    pub(crate) fn note_stood_down(&mut self, incarnation: &str) {
        self.stood_down.push(incarnation.to_owned());
        let surplus = self.stood_down.len().saturating_sub(limits::BINDINGS_KEPT_MAX);
        self.stood_down.drain(..surplus);
    }

    /// Marks a stay as one that is asked to end. Of too many marks the oldest of a stay that is over is forgotten; returns
    /// false, and marks nothing, where all of them are here still.
    pub(crate) fn evict(&mut self, mark: Eviction, is_here: impl Fn(&str) -> bool) -> bool {
        if self.evicted.len() >= limits::EVICTIONS_KEPT_MAX {
            let Some(over) = self.evicted.iter().position(|mark| !is_here(&mark.incarnation)) else {
                return false;
            };
            self.evicted.remove(over);
        }
        self.evicted.push(mark);
        true
    }

    /// Returns the mark by which a stay was asked to end.
    pub(crate) fn eviction(&self, incarnation: &str) -> Option<&Eviction> {
        self.evicted.iter().find(|mark| mark.incarnation == incarnation)
    }
}

impl LeaderRecord {
    /// The fencing token of the term.
    pub(crate) fn token(&self) -> Revision {
        self.term.unwrap_or_default()
    }

    /// Tells whether somebody asked for this stay to lead next.
    pub(crate) fn is_to_give_way_to(&self, incarnation: &str) -> bool {
        let successor = self.revoke.as_ref().and_then(|revoke| revoke.successor.as_deref());
        successor == Some(incarnation)
    }

    /// Tells whether somebody leads by this record: not once it is on offer.
    pub(crate) fn leads(&self) -> bool {
        self.handover.as_ref().is_none_or(|handover| handover.phase != HandoverPhase::Offered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_back_whatever_the_names() {
        for name in ["web", "", "a/b", "%", "\u{1F980}", "\n"] {
            assert_eq!(Place::of(&group_key(name)), Some(Place::Group(name.into())));
            assert_eq!(Place::of(&member_key(name, "x/")), Some(Place::Member(name.into(), "x/".into())));
            assert!(member_key(name, "m").starts_with(&members_prefix(name)));
            assert!(group_key(name).starts_with(&fleet()));
            assert_eq!(Place::of(&partition_key(name)), Some(Place::Partition(name.into())));
            assert_eq!(Place::of(&behaviour_key(name)), Some(Place::Behaviour(name.into())));
        }
        assert_eq!(Place::of(&policy_key("web")), None);
    }

    #[test]
    fn of_too_many_evictions_only_one_that_is_done_is_forgotten() {
        let mut group = GroupRecord::new(String::new(), Requirement::NONE);
        let mark = |stay: usize| Eviction { incarnation: stay.to_string(), by: String::new() };
        for stay in 0..limits::EVICTIONS_KEPT_MAX {
            assert!(group.evict(mark(stay), |_| true));
        }
        assert!(!group.evict(mark(999), |_| true), "all of them are under way");
        assert!(group.evict(mark(999), |stay| stay != "7"));
        assert_eq!(group.evicted.len(), limits::EVICTIONS_KEPT_MAX);
        assert!(
            group.eviction("7").is_none() && group.eviction("0").is_some() && group.eviction("999").is_some()
        );
    }

    #[test]
    fn records_of_the_first_layout_are_read_as_they_were_written() {
        let group = r#"{"layout":1,"nonce":"n","closing":false,"epoch":3,"binding":null,"former":[null],
            "leader":null,"moves":2,"stood_down":[]}"#;
        let group: GroupRecord = serde_json::from_str(group).unwrap();
        assert_eq!((group.bound.epoch, group.bound.former.len(), group.moves), (3, 1, 2));
        assert!(!group.ephemeral && group.evicted.is_empty());
        let digest = Digest::of("key");
        let member = format!(
            r#"{{"id":"a","incarnation":"i","host":"h","host_incarnation":"j","joined_ms":7,"metadata":{{}},"resume":"{digest}"}}"#
        );
        let member: MemberRecord = serde_json::from_str(&member).unwrap();
        assert!(member.candidate && member.capabilities.is_null() && member.updated_ms == 0);
        let leader = r#"{"member":"a","incarnation":"i","host":"h","session":"1","term":null,"nonce":"n",
            "since_ms":1,"epoch":3,"revoke":{"by":"me","at_ms":2}}"#;
        let leader: LeaderRecord = serde_json::from_str(leader).unwrap();
        assert!(!leader.asked_for && leader.revoke.is_some_and(|revoke| revoke.successor.is_none()));
        let host = r#"{"name":"a","incarnation":"i","epochs":{"web":3},"behind":{}}"#;
        let host: HostRecord = serde_json::from_str(host).unwrap();
        assert_eq!((host.epoch(Seat::Group("web")), host.epoch(Seat::Behaviour("web"))), (3, 0));
    }
}
