//! Partitioned groups: the members share objects among them, and no object has two owners while it moves.
//!
//! The shares lie in one record beside the group's. When members come, go or change their weights, the host of the oldest
//! member writes the next version: what every member is to have, what it had, and who loses something. Those have to say that
//! they gave it up; until then what moves away from them belongs to nobody, and no further version is written. Who is gone
//! holds nothing: a stay that is over never comes back.

use std::collections::BTreeMap;

use althing_core::info::{Algorithm, Owners, OwnersAsk, OwnersInfo, PartitionAsk, PartitionInfo, Share};
use althing_core::{Error, Guard, Key, Kind, Principal, Record, Result, Stamp, Txn, limits};
use althing_ring::{Hash, Points, Shares, Way, losers};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::apply::{Applied, Kept, contended, no_group};
use crate::layout::{LAYOUT, MemberRecord, decode, partition_key, refuse_newer};
use crate::mirror::Group;
use crate::{Host, Runtime, SessionKey, admit};

/// The shares of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartitionRecord {
    pub layout: u32,
    /// Names this write, so that a write of unknown effect can be recognised.
    pub nonce: String,
    #[serde(flatten)]
    pub settings: PartitionAsk,
    pub version: u64,
    /// Oldest first.
    pub members: Vec<Share>,
    pub former: Vec<Share>,
    /// The incarnations of those who have not said yet that they gave up what they lost.
    pub pending: Vec<String>,
}

/// The shares of a group as they were seen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Partition {
    pub record: PartitionRecord,
    pub stamp: Stamp,
}

impl Kept for PartitionRecord {
    fn key(name: &str) -> Key {
        partition_key(name)
    }

    fn read(record: &Record) -> Result<Self> {
        let partition: PartitionRecord = decode(record)?;
        refuse_newer(partition.layout, record)?;
        Ok(partition)
    }

    fn absent(name: &str) -> Result<Self> {
        Err(not_partitioned(name))
    }

    fn nonce(&mut self) -> &mut String {
        &mut self.nonce
    }
}

impl Runtime {
    /// Lets the members of a group share objects. Asked again with the same settings it changes nothing; `Conflict` with
    /// others. It goes with the group.
    pub async fn partition_group(
        &self,
        _by: &Principal,
        group: &str,
        ask: &PartitionAsk,
    ) -> Result<PartitionInfo> {
        admit::name("group", group)?;
        if !(1..=limits::PARTITION_POINTS_MAX).contains(&ask.points) {
            let message = format!("{} points for each unit of weight", ask.points);
            let advice = format!("Choose 1 to {}", limits::PARTITION_POINTS_MAX);
            return Err(Error::new(Kind::Invalid, "partition", message).advise(advice));
        }
        let host = &self.0;
        for _ in 0..limits::CONFLICT_TRIES {
            let image = host.mirror.group(group).filter(|image| image.record.is_some());
            let image = image.ok_or_else(|| no_group(group))?;
            if let Some(found) = host.driver.get(&partition_key(group)).await? {
                let found = PartitionRecord::read(&found)?;
                host.mirror
                    .until(|mirror| mirror.group(group).is_none_or(|now| now.partition.is_some()))
                    .await;
                return if found.settings == *ask {
                    self.partition(group)
                } else {
                    Err(settled_otherwise(group))
                };
            }
            let read = host.read_group(group).await?;
            let record = PartitionRecord {
                layout: LAYOUT,
                nonce: String::new(),
                settings: *ask,
                version: 1,
                members: shares(&image, *ask),
                former: Vec::new(),
                pending: Vec::new(),
            };
            // Not of a group that is being deleted.
            let txn = Txn::new().guard(read.guard);
            let absent = Guard::Absent(partition_key(group));
            if let Applied::At(revision) = host.write(group, absent, record, txn).await? {
                host.settle(revision).await;
                return self.partition(group);
            }
        }
        Err(contended(group))
    }

    /// Returns the shares of a group's members as this host has seen them. `NotFound` where the group is not partitioned.
    pub fn partition(&self, group: &str) -> Result<PartitionInfo> {
        let image = self.0.mirror.group(group).filter(|image| image.record.is_some());
        let image = image.ok_or_else(|| no_group(group))?;
        image.partition_info().ok_or_else(|| not_partitioned(group))
    }

    /// Takes a member's word that it gave up what it lost by a version. Saying so twice, or of a former version, is fine.
    pub async fn settle_partition(
        &self,
        key: &SessionKey,
        group: &str,
        member: &str,
        version: u64,
    ) -> Result<PartitionInfo> {
        let host = &self.0;
        host.sessions.check(key)?;
        let Some(placed) = host.sessions.placed(&key.id, group, member) else {
            return Err(Error::new(
                Kind::Denied,
                "settle partition",
                "no such member joined through this session",
            )
            .with("group", group)
            .with("member", member));
        };
        host.change::<PartitionRecord>(group, |read| {
            let waits = read.record.version == version && read.record.pending.contains(&placed.incarnation);
            Ok(waits.then(|| {
                let mut record = read.record.clone();
                record.pending.retain(|pending| *pending != placed.incarnation);
                record
            }))
        })
        .await?;
        self.partition(group)
    }

    /// Returns whom objects belong to as this host has seen it.
    pub fn owners(&self, group: &str, ask: &OwnersAsk) -> Result<OwnersInfo> {
        let replicas = ask.replicas.unwrap_or(1);
        if ask.objects.len() > limits::OWNERS_OBJECTS_MAX
            || !(1..=limits::OWNERS_REPLICAS_MAX).contains(&replicas)
        {
            let message = format!("{} owners of {} objects", replicas, ask.objects.len());
            return Err(Error::new(Kind::TooLarge, "list owners", message)
                .with("objects_max", limits::OWNERS_OBJECTS_MAX)
                .with("replicas_max", limits::OWNERS_REPLICAS_MAX)
                .advise("Ask for them in several requests"));
        }
        let info = self.partition(group)?;
        let shares = shares_of(&info);
        let owners = |object: &String| Owners {
            object: object.clone(),
            owner: shares.owner(object.as_bytes()).cloned(),
            owners: shares.owners(object.as_bytes(), replicas).into_iter().cloned().collect(),
        };
        Ok(OwnersInfo { version: info.version, objects: ask.objects.iter().map(owners).collect() })
    }
}

impl Host {
    /// Writes the next version of a group's shares, if it is due and the oldest member is of this host.
    pub(crate) async fn rebalance(&self, name: &str) -> Result<()> {
        let Some(group) = self.mirror.group(name) else { return Ok(()) };
        let Some(partition) = &group.partition else { return Ok(()) };
        let oldest = group.by_seniority().first().and_then(|oldest| oldest.session);
        if oldest.is_none() || oldest != self.anchor.held() {
            return Ok(());
        }
        let Some(next) = partition.record.next(&group) else { return Ok(()) };
        info!(group = name, version = next.version, pending = next.pending.len(), "shares move");
        let guard = Guard::Unchanged(partition_key(name), partition.stamp);
        // A conflict means that somebody else wrote, which this host will see.
        self.write(name, guard, next, Txn::new()).await.map(drop)
    }
}

impl PartitionRecord {
    /// Returns the next version; `None` while the last one is under way, and when nothing changed.
    fn next(&self, group: &Group) -> Option<PartitionRecord> {
        let members = shares(group, self.settings);
        if members == self.members || !self.pending_in(group).is_empty() {
            return None;
        }
        let weights = |shares: &[Share]| -> BTreeMap<String, u32> {
            shares.iter().map(|share| (share.id.clone(), share.weight)).collect()
        };
        let losers = losers(way(self.settings), &weights(&self.members), &weights(&members));
        let loses = |share: &&Share| {
            losers.contains(&share.id) && group.stay(&share.id, &share.incarnation).is_some()
        };
        let pending = self.members.iter().filter(loses).map(|share| share.incarnation.clone()).collect();
        let (version, former) = (self.version + 1, self.members.clone());
        Some(PartitionRecord { version, members, former, pending, ..self.clone() })
    }

    /// Returns those who have to give something up and are still there.
    fn pending_in(&self, group: &Group) -> Vec<String> {
        let pending = |share: &&Share| {
            self.pending.contains(&share.incarnation) && group.stay(&share.id, &share.incarnation).is_some()
        };
        self.former.iter().filter(pending).map(|share| share.id.clone()).collect()
    }
}

impl Group {
    /// Returns the shares as they are shown.
    pub(crate) fn partition_info(&self) -> Option<PartitionInfo> {
        let record = &self.partition.as_ref()?.record;
        Some(PartitionInfo {
            algorithm: record.settings.algorithm,
            points: record.settings.points,
            version: record.version,
            members: record.members.clone(),
            former: record.former.clone(),
            pending: record.pending_in(self),
        })
    }
}

/// Returns the parts of a group's members, as they say themselves. Where they are too many for one record or one ring, those
/// who came last have none.
fn shares(group: &Group, settings: PartitionAsk) -> Vec<Share> {
    let share = |record: &MemberRecord| Share {
        id: record.id.clone(),
        incarnation: record.incarnation.clone(),
        weight: weight(record),
    };
    let members = group.by_seniority();
    let shares = members.into_iter().take(limits::PARTITION_MEMBERS_MAX).map(|member| share(&member.record));
    let (mut bytes, mut points) = (0, 0);
    let fits = |share: &Share| {
        bytes += share.id.len() + share.incarnation.len();
        points += u64::from(share.weight) * u64::from(settings.points);
        bytes <= limits::PARTITION_NAMES_BYTES_MAX && points <= limits::PARTITION_RING_POINTS_MAX
    };
    shares.take_while(fits).collect()
}

fn weight(record: &MemberRecord) -> u32 {
    let of_capabilities = record.capabilities.get("weight").and_then(serde_json::Value::as_u64);
    let of_metadata = || record.metadata.get("weight").and_then(|weight| weight.parse().ok());
    let weight = of_capabilities.or_else(of_metadata).unwrap_or(1);
    u32::try_from(weight).unwrap_or(u32::MAX).min(limits::PARTITION_WEIGHT_MAX)
}

fn way(settings: PartitionAsk) -> Way {
    match settings.algorithm {
        Algorithm::Ring => Way::Ring(Points { partitions: settings.points, hash: Hash::Md5 }),
        Algorithm::Rendezvous => Way::Rendezvous,
    }
}

/// Makes the shares of what is shown of a partition.
fn shares_of(info: &PartitionInfo) -> Shares<String> {
    let weights = |shares: &[Share]| -> Vec<(String, u32)> {
        shares.iter().map(|share| (share.id.clone(), share.weight)).collect()
    };
    let settings = PartitionAsk { algorithm: info.algorithm, points: info.points };
    Shares::new(way(settings), weights(&info.former), weights(&info.members), info.pending.iter().cloned())
}

fn not_partitioned(group: &str) -> Error {
    Error::new(Kind::NotFound, "partition", "the group is not partitioned")
        .with("group", group)
        .advise("Partition it first")
}

fn settled_otherwise(group: &str) -> Error {
    Error::new(Kind::Conflict, "partition", "the group is partitioned in another way")
        .with("group", group)
        .advise("All who use it say the same; or delete the group and make it anew")
}
