//! A member's part in what a group shares.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use althing_core::info::{Algorithm, Event, PartitionAsk, PartitionInfo, Share};
use althing_core::{Clock, Result, limits};
use althing_ring::{Hash, Points, Shares, Way};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::Membership;
use crate::membership::Keeper;

/// What one member of a partitioned group may work on, known at every moment without asking anybody.
///
/// While [`owns`](Self::owns) says so here, it says so nowhere else. When shares move, it is false at once for what this
/// member loses, and becomes true for what it gains only after whoever had that has given it up. So finish what you are at, then
/// [`settle`](Self::settle): until then the others wait.
///
/// Dropping it keeps the member in the group; what it loses from then on is never given up, so leave as well.
#[derive(Debug)]
pub struct Partition {
    watched: Arc<Watched>,
    watching: AbortHandle,
}

/// A member's group as it was told last.
#[derive(Debug)]
struct Watched {
    keeper: Arc<Keeper>,
    group: String,
    member: String,
    known: Mutex<Known>,
    changed: Notify,
}

/// What is known in one stay of the member. Versions begin anew with the group, and that may have gone only while the
/// member was not in it.
#[derive(Debug, Default)]
struct Known {
    stay: Option<String>,
    seen: Option<Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    info: PartitionInfo,
    shares: Arc<Shares<String>>,
}

impl Membership {
    /// Lets the members of a group share objects, and follows the part of one of this session's members in it, which has
    /// joined before.
    pub async fn partition(&self, group: &str, member: &str, ask: &PartitionAsk) -> Result<Partition> {
        let info = self.keeper().client.partition_group(group, ask).await?;
        let watched = Arc::new(Watched {
            keeper: self.keeper().clone(),
            group: group.to_owned(),
            member: member.to_owned(),
            known: Mutex::default(),
            changed: Notify::new(),
        });
        watched.see(Some(info));
        let watching = tokio::spawn(watched.clone().follow()).abort_handle();
        Ok(Partition { watched, watching })
    }
}

impl Partition {
    /// Tells whether this member may work on an object now. Asks nobody.
    pub fn owns(&self, object: impl AsRef<[u8]>) -> bool {
        let watched = &self.watched;
        let owner = watched.part().and_then(|seen| seen.shares.owner(object.as_ref()).cloned());
        owner.is_some_and(|owner| owner == watched.member)
    }

    /// Returns the shares as they were told last; `None` once the group was deleted.
    pub fn info(&self) -> Option<PartitionInfo> {
        self.watched.known().seen.as_ref().map(|seen| seen.info.clone())
    }

    /// Waits until shares moved, what this member waits for was given up, or the group was deleted. Cancel-safe.
    pub async fn changed(&self, since: &PartitionInfo) {
        loop {
            let changed = self.watched.changed.notified();
            if self.info().as_ref() != Some(since) {
                return;
            }
            changed.await;
        }
    }

    /// Says that this member has stopped working on all that it does not own any more. Saying so twice is fine.
    pub async fn settle(&self) -> Result<()> {
        let Watched { keeper, group, member, .. } = &*self.watched;
        let Some(info) = self.info().filter(|info| info.pending.contains(member)) else {
            return Ok(());
        };
        let Keeper { client, session, .. } = &**keeper;
        self.watched.see(Some(client.settle_partition(session, group, member, info.version).await?));
        Ok(())
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl Watched {
    /// Returns the shares, if the member has a part in them in the stay in which it surely is.
    fn part(&self) -> Option<Seen> {
        let stay = self.stay()?;
        let seen = self.known().seen.clone()?;
        let is_ours = |share: &Share| share.id == self.member && share.incarnation == stay;
        seen.info.members.iter().any(is_ours).then_some(seen)
    }

    /// Returns the stay in which the member surely is.
    fn stay(&self) -> Option<String> {
        let held = self.keeper.held();
        held.stay(&self.group, &self.member, self.keeper.clock.now()).map(str::to_owned)
    }

    /// Takes in what was told, unless something newer was told before; `None` is the end of the group.
    fn see(&self, info: Option<PartitionInfo>) {
        let stay = self.stay();
        let mut known = self.known();
        if stay.is_some() && stay != known.stay {
            *known = Known { stay, seen: None };
        }
        let is_old =
            |info: &PartitionInfo| known.seen.as_ref().is_some_and(|seen| !is_newer(info, &seen.info));
        if !info.as_ref().is_some_and(is_old) {
            known.seen = info.map(Seen::of);
        }
        drop(known);
        self.changed.notify_waiters();
    }

    /// Follows the group for ever. Without a connection what is known stays true: nobody takes what was not given up.
    async fn follow(self: Arc<Self>) {
        let Keeper { client, clock, .. } = &*self.keeper;
        let mut pause = limits::RETRY_PAUSE;
        loop {
            if let Ok(mut events) = client.group_events(&self.group).await {
                while let Ok(Some(event)) = events.next().await {
                    pause = limits::RETRY_PAUSE;
                    self.hear(event);
                }
            }
            clock.sleep(pause).await;
            pause = (pause * 2).min(limits::CALL_DEADLINE);
        }
    }

    fn hear(&self, event: Event) {
        match event {
            Event::Snapshot { group } => self.see(group.partition.map(|info| *info)),
            Event::Partitioned { partition, .. } => self.see(Some(partition)),
            Event::Deleted { .. } => self.see(None),
            _ => {}
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // What is changed under the lock is whole after every statement.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn of(info: PartitionInfo) -> Seen {
        let shares = Arc::new(shares_of(&info));
        Seen { info, shares }
    }
}

fn is_newer(info: &PartitionInfo, known: &PartitionInfo) -> bool {
    known.version < info.version
        || (known.version == info.version && info.pending.len() < known.pending.len())
}

fn shares_of(info: &PartitionInfo) -> Shares<String> {
    let way = match info.algorithm {
        Algorithm::Ring => Way::Ring(Points { partitions: info.points, hash: Hash::Md5 }),
        Algorithm::Rendezvous => Way::Rendezvous,
    };
    let weights = |shares: &[Share]| -> Vec<(String, u32)> {
        shares.iter().map(|share| (share.id.clone(), share.weight)).collect()
    };
    Shares::new(way, weights(&info.former), weights(&info.members), info.pending.iter().cloned())
}
