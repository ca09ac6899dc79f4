//! What this host has seen of the fleet: an image of `fleet/`, kept by one watch, and the events that follow from it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use althing_core::info::{
    BehaviourInfo, BehaviourSummary, Event, GroupInfo, GroupSummary, HostView, LeaderInfo, MemberInfo,
    PartitionInfo,
};
use althing_core::{Cause, Change, Delta, Record, Revision, SessionId, Stamp, limits};
use tokio::sync::{broadcast, watch};
use tracing::warn;

use crate::apply::Kept;
use crate::layout::{
    BehaviourRecord, Bound, GroupRecord, HostRecord, LeaderRecord, MemberRecord, Place, Seat, behaviour_of,
    decode, group_of,
};
use crate::recipes::partition::{Partition, PartitionRecord};

/// The image of the fleet.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    fleet: RwLock<Fleet>,
    /// Up to where the fleet was seen; `None` before the first snapshot.
    seen: watch::Sender<Option<Revision>>,
}

#[derive(Debug, Default)]
struct Fleet {
    groups: HashMap<String, Arc<Group>>,
    behaviours: BTreeMap<String, Arc<Behaviour>>,
    hosts: BTreeMap<String, HostRecord>,
    subscribers: HashMap<String, broadcast::Sender<Arc<Event>>>,
    revision: Revision,
}

/// What a delta changed.
#[derive(Debug)]
pub(crate) struct Touched {
    /// The groups, by name.
    pub groups: BTreeSet<String>,
    /// A host came, went, or followed a binding.
    pub hosts: bool,
}

/// One group as it was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Group {
    pub name: String,
    pub record: Option<(GroupRecord, Stamp)>,
    pub members: BTreeMap<String, Arc<Member>>,
    /// What its members share, where it is partitioned.
    pub partition: Option<Arc<Partition>>,
    /// The revision of the last change of the group or its members.
    pub version: Revision,
}

/// One behaviour as it was seen.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    pub record: BehaviourRecord,
    pub stamp: Stamp,
}

/// One member as it was seen.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub record: MemberRecord,
    pub stamp: Stamp,
    pub session: Option<SessionId>,
}

impl Mirror {
    /// Takes in a delta and returns what changed.
    pub(crate) fn apply(&self, delta: Delta) -> Touched {
        let mut fleet = self.write();
        let hosts = fleet.hosts.clone();
        let (groups, revision) = match delta {
            Delta::Changes { changes, revision } => {
                (changes.into_iter().filter_map(|change| fleet.change(change)).collect(), revision)
            }
            Delta::Resync { records, revision } => {
                // First: the snapshots that subscribers are shown say of when they are.
                fleet.revision = revision;
                (fleet.replace(records), revision)
            }
        };
        fleet.revision = revision;
        let hosts = fleet.hosts != hosts;
        drop(fleet);
        self.seen.send_replace(Some(revision));
        Touched { groups, hosts }
    }

    /// Waits until what was committed at `revision` is seen here.
    pub(crate) async fn reach(&self, revision: Revision) {
        // The sender lives as long as the mirror, so waiting cannot fail.
        let _ = self.seen.subscribe().wait_for(|seen| seen.is_some_and(|seen| seen >= revision)).await;
    }

    /// Waits until a host has said that it followed what is bound there to this epoch.
    pub(crate) async fn followed(&self, host: &str, seat: Seat<'_>, epoch: u64) {
        let followed = |_: &Option<Revision>| !self.is_behind(host, seat, epoch);
        let _ = self.seen.subscribe().wait_for(followed).await;
    }

    /// Waits until a behaviour's record is another one than that of this stamp.
    pub(crate) async fn rebound(&self, name: &str, stamp: Stamp) {
        let rebound =
            |_: &Option<Revision>| self.behaviour(name).is_none_or(|behaviour| behaviour.stamp != stamp);
        let _ = self.seen.subscribe().wait_for(rebound).await;
    }

    /// Waits until what is seen of the fleet is so.
    pub(crate) async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        let _ = self.seen.subscribe().wait_for(|_: &Option<Revision>| is_so(self)).await;
    }

    /// Waits until the fleet was seen for the first time, even if nothing was there.
    pub(crate) async fn seen_once(&self) {
        let _ = self.seen.subscribe().wait_for(|seen| seen.is_some()).await;
    }

    pub(crate) fn group(&self, name: &str) -> Option<Arc<Group>> {
        self.read().groups.get(name).cloned()
    }

    /// Returns how many groups were seen.
    pub(crate) fn count(&self) -> usize {
        self.read().groups.len()
    }

    pub(crate) fn groups(&self) -> Vec<Arc<Group>> {
        let mut groups: Vec<_> = self.read().groups.values().cloned().collect();
        groups.sort_by(|left, right| left.name.cmp(&right.name));
        groups
    }

    pub(crate) fn info(&self, name: &str) -> Option<GroupInfo> {
        self.read().info(name)
    }

    pub(crate) fn behaviour(&self, name: &str) -> Option<Arc<Behaviour>> {
        self.read().behaviours.get(name).cloned()
    }

    /// Returns a behaviour as it is shown, without its calls.
    pub(crate) fn behaviour_info(&self, name: &str) -> Option<BehaviourInfo> {
        let fleet = self.read();
        let bound = &fleet.behaviours.get(name)?.record.bound;
        Some(BehaviourInfo {
            name: name.to_owned(),
            binding: bound.binding.clone()?,
            epoch: bound.epoch,
            hosts: fleet.host_views(Seat::Behaviour(name), bound.epoch),
            calls: Vec::new(),
        })
    }

    /// Returns all behaviours by name.
    pub(crate) fn behaviours(&self) -> Vec<BehaviourSummary> {
        let fleet = self.read();
        let summary = |(name, behaviour): (&String, &Arc<Behaviour>)| {
            let bound = &behaviour.record.bound;
            let binding = bound.binding.as_ref()?;
            Some(BehaviourSummary {
                name: name.clone(),
                policy: binding.policy.clone(),
                version: binding.version.clone(),
                epoch: bound.epoch,
            })
        };
        fleet.behaviours.iter().filter_map(summary).collect()
    }

    /// Shows `see` whatever policies are or were bound to, and what is bound there.
    pub(crate) fn each_bound(&self, mut see: impl FnMut(Seat<'_>, &Bound)) {
        let fleet = self.read();
        for (name, group) in &fleet.groups {
            if let Some((record, _)) = &group.record {
                see(Seat::Group(name), &record.bound);
            }
        }
        for (name, behaviour) in &fleet.behaviours {
            see(Seat::Behaviour(name), &behaviour.record.bound);
        }
    }

    /// Tells whether a host has not followed what is bound there to this epoch yet, as far as it has said.
    pub(crate) fn is_behind(&self, host: &str, seat: Seat<'_>, epoch: u64) -> bool {
        self.read().hosts.get(host).map_or(0, |host| host.epoch(seat)) < epoch
    }

    /// Tells whether this is the first of the hosts, in the order of their ids: the one that does what one does for all.
    pub(crate) fn is_first(&self, host: &str) -> bool {
        self.read().hosts.keys().next().is_some_and(|first| first == host)
    }

    /// Subscribes to a group's events. The snapshot is of the very moment at which the subscription begins.
    pub(crate) fn subscribe(&self, name: &str) -> Option<(GroupInfo, broadcast::Receiver<Arc<Event>>)> {
        let mut fleet = self.write();
        let info = fleet.info(name)?;
        let sender = fleet
            .subscribers
            .entry(name.to_owned())
            .or_insert_with(|| broadcast::Sender::new(limits::SUBSCRIBER_EVENTS_MAX));
        Some((info, sender.subscribe()))
    }

    fn read(&self) -> RwLockReadGuard<'_, Fleet> {
        self.fleet.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Fleet> {
        self.fleet.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fleet {
    /// Takes in one change; returns the group it is about.
    fn change(&mut self, change: Change) -> Option<String> {
        let revision = change.revision();
        let name = match Place::of(change.key())? {
            Place::Host(host) => {
                self.change_host(host, change);
                return None;
            }
            Place::Behaviour(name) => {
                self.change_behaviour(name, change);
                return None;
            }
            Place::Group(name) => {
                let before = self.before(&name, revision);
                self.change_group(&name, change);
                self.tell_group(&name, before, revision);
                name
            }
            Place::Partition(name) => {
                self.before(&name, revision);
                let before = self.partition_info(&name);
                self.change_partition(&name, change);
                self.tell_partition(&name, before, revision);
                name
            }
            Place::Member(name, id) => {
                let before = self.before(&name, revision);
                let partition = self.partition_info(&name);
                let event = self.change_member(&name, id, change);
                let after = self.groups.get(&name).and_then(|group| group.leading());
                self.tell_leader(&name, before.1, after, revision);
                event.into_iter().for_each(|event| self.tell(&name, event));
                self.tell_partition(&name, partition, revision);
                name
            }
        };
        if self.groups.get(&name).is_some_and(|group| group.is_gone()) {
            self.groups.remove(&name);
            self.subscribers.remove(&name);
        }
        Some(name)
    }

    /// Marks a group as changed and returns what must be compared afterwards: its epoch and who led.
    fn before(&mut self, name: &str, revision: Revision) -> (Option<u64>, Option<LeaderInfo>) {
        let group = self.group_mut(name);
        group.version = group.version.max(revision);
        (group.record.as_ref().map(|(record, _)| record.bound.epoch), group.leading())
    }

    fn group_mut(&mut self, name: &str) -> &mut Group {
        let group = self.groups.entry(name.to_owned()).or_default();
        let group = Arc::make_mut(group);
        if group.name.is_empty() {
            group.name = name.to_owned();
        }
        group
    }

    fn change_host(&mut self, host: String, change: Change) {
        match change {
            Change::Put(record) => match decode::<HostRecord>(&record) {
                Ok(value) => drop(self.hosts.insert(host, value)),
                Err(error) => warn!(%error, "a host's record cannot be read"),
            },
            Change::Deleted { .. } => drop(self.hosts.remove(&host)),
        }
    }

    fn change_behaviour(&mut self, name: String, change: Change) {
        match change {
            Change::Put(record) => match behaviour_of(&record) {
                Ok(value) => {
                    let behaviour = Behaviour { record: value, stamp: record.stamp };
                    self.behaviours.insert(name, Arc::new(behaviour));
                }
                Err(error) => warn!(%error, "a behaviour's record cannot be read"),
            },
            Change::Deleted { .. } => drop(self.behaviours.remove(&name)),
        }
    }

    fn change_group(&mut self, name: &str, change: Change) {
        let record = match change {
            Change::Deleted { .. } => None,
            Change::Put(record) => match group_of(&record) {
                Ok(value) => Some((value, record.stamp)),
                Err(error) => return warn!(%error, "a group's record cannot be read"),
            },
        };
        self.group_mut(name).record = record;
    }

    fn change_partition(&mut self, name: &str, change: Change) {
        let partition = match change {
            Change::Deleted { .. } => None,
            Change::Put(record) => match PartitionRecord::read(&record) {
                Ok(value) => Some(Arc::new(Partition { record: value, stamp: record.stamp })),
                Err(error) => return warn!(%error, "the shares of a group cannot be read"),
            },
        };
        self.group_mut(name).partition = partition;
    }

    fn partition_info(&self, name: &str) -> Option<PartitionInfo> {
        self.groups.get(name)?.partition_info()
    }

    /// Tells that shares changed, or that somebody who had to give something up has done so or is gone.
    fn tell_partition(&self, name: &str, before: Option<PartitionInfo>, revision: Revision) {
        let after = self.partition_info(name);
        if before != after
            && let Some(partition) = after
        {
            self.tell(name, Event::Partitioned { partition, revision });
        }
    }

    fn change_member(&mut self, name: &str, id: String, change: Change) -> Vec<Event> {
        let group = self.group_mut(name);
        match change {
            Change::Put(record) => {
                let member = match member_of(&record) {
                    Ok(member) => Arc::new(member),
                    Err(error) => {
                        warn!(%error, "a member's record cannot be read");
                        return Vec::new();
                    }
                };
                let (revision, info) = (record.stamp.modified, member.info());
                let stay = member.record.incarnation.clone();
                match group.members.insert(id, member) {
                    Some(former) if former.stamp.modified == revision => Vec::new(),
                    Some(former) if former.record.incarnation == stay => {
                        vec![Event::Updated { member: info, revision }]
                    }
                    Some(former) => {
                        vec![former.left(Cause::Deleted, revision), Event::Joined { member: info, revision }]
                    }
                    None => vec![Event::Joined { member: info, revision }],
                }
            }
            Change::Deleted { revision, cause, .. } => {
                group.members.remove(&id).map(|member| member.left(cause, revision)).into_iter().collect()
            }
        }
    }

    /// Tells what follows from a change of the group's record.
    fn tell_group(&self, name: &str, before: (Option<u64>, Option<LeaderInfo>), revision: Revision) {
        let Some(group) = self.groups.get(name) else { return };
        let Some((record, _)) = &group.record else {
            return self.tell(name, Event::Deleted { revision });
        };
        self.tell_leader(name, before.1, group.leading(), revision);
        let Bound { epoch, binding, .. } = &record.bound;
        if before.0.is_some_and(|before| before != *epoch) {
            let event = Event::Bound { binding: binding.clone(), epoch: *epoch, revision };
            self.tell(name, event);
        }
    }

    fn tell_leader(
        &self,
        name: &str,
        before: Option<LeaderInfo>,
        after: Option<LeaderInfo>,
        revision: Revision,
    ) {
        let term = |leader: &Option<LeaderInfo>| leader.as_ref().map(|leader| leader.term);
        match (before, after) {
            (before, after) if term(&before) == term(&after) => {}
            (_, Some(leader)) => self.tell(name, Event::Elected { leader, revision }),
            (Some(before), None) => {
                self.tell(name, Event::Vacated { member: before.member, term: before.term, revision });
            }
            (None, None) => {}
        }
    }

    fn tell(&self, name: &str, event: Event) {
        if let Some(sender) = self.subscribers.get(name) {
            // Nobody listening is no error.
            let _ = sender.send(Arc::new(event));
        }
    }

    /// Begins anew from a snapshot; subscribers are shown one too, never a silent gap.
    fn replace(&mut self, records: Vec<Record>) -> BTreeSet<String> {
        let mut touched: BTreeSet<String> = self.groups.keys().cloned().collect();
        let subscribers = std::mem::take(&mut self.subscribers);
        self.groups.clear();
        self.hosts.clear();
        self.behaviours.clear();
        touched.extend(records.into_iter().filter_map(|record| self.change(Change::Put(record))));
        self.subscribers = subscribers;
        for name in self.subscribers.keys() {
            let event = match self.info(name) {
                Some(group) => Event::Snapshot { group },
                None => Event::Deleted { revision: self.revision },
            };
            self.tell(name, event);
        }
        touched
    }

    fn info(&self, name: &str) -> Option<GroupInfo> {
        let group = self.groups.get(name)?;
        let (record, _) = group.record.as_ref()?;
        Some(GroupInfo {
            name: name.to_owned(),
            revision: self.revision.max(group.version),
            members: group.by_seniority().into_iter().map(|member| member.info()).collect(),
            leader: group.leading(),
            require: record.require,
            partition: group.partition_info().map(Box::new),
            ephemeral: record.ephemeral,
            binding: record.bound.binding.clone(),
            epoch: record.bound.epoch,
            hosts: self.host_views(Seat::Group(name), record.bound.epoch),
        })
    }

    fn host_views(&self, seat: Seat<'_>, epoch: u64) -> Vec<HostView> {
        self.hosts.iter().map(|(id, host)| host_view(id, host, seat, epoch)).collect()
    }
}

impl Group {
    /// Tells whether nothing of it is left.
    fn is_gone(&self) -> bool {
        self.record.is_none() && self.members.is_empty() && self.partition.is_none()
    }

    /// Returns the members, oldest first: the store's order of joining, no host's clock.
    pub(crate) fn by_seniority(&self) -> Vec<&Arc<Member>> {
        let mut members: Vec<_> = self.members.values().collect();
        members.sort_by(|left, right| {
            (left.stamp.created, &left.record.id).cmp(&(right.stamp.created, &right.record.id))
        });
        members
    }

    /// Returns the term recorded, if its member is still here: a stay that is over never comes back, so a record of
    /// a gone stay means that nobody leads.
    pub(crate) fn term(&self) -> Option<&LeaderRecord> {
        let leader = self.record.as_ref()?.0.leader.as_ref()?;
        self.stay(&leader.member, &leader.incarnation)?;
        Some(leader)
    }

    /// Returns a member, if it is still in this stay.
    pub(crate) fn stay(&self, id: &str, incarnation: &str) -> Option<&Arc<Member>> {
        self.members.get(id).filter(|member| member.record.incarnation == incarnation)
    }

    /// Returns who leads now.
    pub(crate) fn leading(&self) -> Option<LeaderInfo> {
        let leader = self.term().filter(|leader| leader.leads())?;
        Some(LeaderInfo {
            member: leader.member.clone(),
            incarnation: leader.incarnation.clone(),
            host: leader.host.clone(),
            term: leader.token(),
            since_ms: leader.since_ms,
            successor: leader.handover.as_ref().map(|handover| handover.nominee.clone()),
            revoked: leader.revoke.is_some(),
        })
    }

    pub(crate) fn summary(&self) -> Option<GroupSummary> {
        let (record, _) = self.record.as_ref()?;
        Some(GroupSummary {
            name: self.name.clone(),
            members: self.members.len(),
            leader: self.leading().map(|leader| leader.member),
            policy: record.bound.binding.as_ref().map(|binding| binding.policy.clone()),
            ephemeral: record.ephemeral,
        })
    }

    /// Tells whether a member may lead: it stands for election, and was not asked to go.
    pub(crate) fn may_lead(&self, member: &Member) -> bool {
        let is_evicted =
            |(record, _): &(GroupRecord, Stamp)| record.eviction(&member.record.incarnation).is_some();
        member.record.candidate && !self.record.as_ref().is_some_and(is_evicted)
    }
}

impl Member {
    pub(crate) fn info(&self) -> MemberInfo {
        MemberInfo {
            id: self.record.id.clone(),
            incarnation: self.record.incarnation.clone(),
            host: self.record.host.clone(),
            metadata: self.record.metadata.clone(),
            capabilities: self.record.capabilities.clone(),
            candidate: self.record.candidate,
            joined_ms: self.record.joined_ms,
            since: self.stamp.created,
            updated: self.stamp.modified,
            updated_ms: self.record.updated_ms.max(self.record.joined_ms),
        }
    }

    fn left(&self, cause: Cause, revision: Revision) -> Event {
        let incarnation = self.record.incarnation.clone();
        Event::Left { id: self.record.id.clone(), incarnation, cause, revision }
    }
}

/// Reads a member's record.
pub(crate) fn member_of(record: &Record) -> althing_core::Result<Member> {
    Ok(Member { record: decode(record)?, stamp: record.stamp, session: record.session })
}

/// Returns a member as it is shown.
pub(crate) fn member_info(record: &Record) -> althing_core::Result<MemberInfo> {
    member_of(record).map(|member| member.info())
}

fn host_view(id: &str, host: &HostRecord, seat: Seat<'_>, epoch: u64) -> HostView {
    let followed = host.epoch(seat);
    HostView {
        id: id.to_owned(),
        name: host.name.clone(),
        epoch: followed,
        behind: followed < epoch,
        reason: host.reason(seat).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use althing_core::Requirement;

    use super::*;
    use crate::layout::{encode, group_key};

    fn resync(revision: u64) -> Delta {
        let (key, stamp) = (group_key("web"), Stamp { created: Revision(3), modified: Revision(3) });
        let value = encode(&GroupRecord::new("n".into(), Requirement::NONE)).into();
        Delta::Resync {
            records: vec![Record { key, value, session: None, stamp }],
            revision: Revision(revision),
        }
    }

    #[test]
    fn a_snapshot_after_a_gap_is_of_the_revision_up_to_which_all_was_seen() {
        let mirror = Mirror::default();
        mirror.apply(resync(10));
        let (shown, mut events) = mirror.subscribe("web").unwrap();
        assert_eq!(shown.revision, Revision(10));
        mirror.apply(resync(20));
        match &*events.try_recv().unwrap() {
            Event::Snapshot { group } => assert_eq!(group.revision, Revision(20)),
            other => panic!("{other:?}"),
        }
    }
}
