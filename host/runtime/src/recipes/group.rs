//! Groups: create, delete, list, show, watch.

use std::sync::Arc;

use althing_core::info::{Event, GroupInfo, GroupSummary};
use althing_core::{Error, Guard, Kind, Principal, Requirement, Result, Revision, Stamp, Txn, limits};
use tokio::sync::broadcast;

use crate::apply::{Applied, Read, contended, no_group};
use crate::layout::{GroupRecord, group_key, members_prefix, partition_key};
use crate::{Host, Runtime, admit};

/// A group's events: first a snapshot, then what happens, in the backend's order. Bounded: who lags behind gets
/// another snapshot.
#[derive(Debug)]
pub struct GroupStream {
    host: Arc<Host>,
    name: String,
    first: Option<GroupInfo>,
    events: broadcast::Receiver<Arc<Event>>,
    over: bool,
}

impl GroupStream {
    /// Waits for the next event; `None` once the group is deleted or the host ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        if let Some(group) = self.first.take() {
            return Some(Event::Snapshot { group });
        }
        if self.over {
            return None;
        }
        let event = tokio::select! {
            event = self.events.recv() => event,
            () = self.host.ended.cancelled() => return None,
        };
        match event {
            Ok(event) => {
                self.over = matches!(*event, Event::Deleted { .. });
                Some(Arc::unwrap_or_clone(event))
            }
            Err(broadcast::error::RecvError::Lagged(_)) => self.begin_again(),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    fn begin_again(&mut self) -> Option<Event> {
        let (group, events) = self.host.mirror.subscribe(&self.name)?;
        self.events = events;
        Some(Event::Snapshot { group })
    }
}

impl Runtime {
    /// Creates a group. Fails with `Exists` when there is one of that name, and with `Unsupported` where the backend
    /// promises less than the group requires of it.
    pub async fn create_group(&self, _by: &Principal, name: &str, require: &Requirement) -> Result<()> {
        admit::name("group", name)?;
        match self.0.make_group(name, self.0.new_group(require, false)?).await? {
            Applied::At(revision) => {
                self.0.settle(revision).await;
                Ok(())
            }
            Applied::Conflict => {
                Err(Error::new(Kind::Exists, "create group", "there is a group of that name")
                    .with("group", name)
                    .advise("Use it, or choose another name"))
            }
        }
    }

    /// Deletes an empty group. Fails with `Conflict` while it has members, and changes nothing then.
    pub async fn delete_group(&self, _by: &Principal, name: &str) -> Result<()> {
        admit::name("group", name)?;
        self.0.delete_group(name).await
    }

    /// Returns all groups by name.
    pub fn groups(&self) -> Result<Vec<GroupSummary>> {
        Ok(self.0.mirror.groups().iter().filter_map(|group| group.summary()).collect())
    }

    /// Returns a group as this host has seen it; what was written through this host is included.
    pub fn group(&self, name: &str) -> Result<GroupInfo> {
        self.0.mirror.info(name).ok_or_else(|| no_group(name))
    }

    /// Follows a group.
    pub fn watch_group(&self, name: &str) -> Result<GroupStream> {
        let (first, events) = self.0.mirror.subscribe(name).ok_or_else(|| no_group(name))?;
        let host = self.0.clone();
        Ok(GroupStream { host, name: name.to_owned(), first: Some(first), events, over: false })
    }
}

/// What came of closing a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// It is deleted.
    Gone,
    /// It has members, and is open again.
    Occupied,
    /// Somebody else deletes it too, found a member in it, or has made another one.
    Overtaken,
}

impl Host {
    /// Makes the record of a new group. Fails where the backend promises less, and where there are too many groups.
    pub(crate) fn new_group(&self, require: &Requirement, ephemeral: bool) -> Result<GroupRecord> {
        self.driver.capability().check("create group", require)?;
        if self.mirror.count() >= limits::GROUPS_MAX {
            return Err(Error::new(
                Kind::TooLarge,
                "create group",
                "the namespace has as many groups as it can",
            )
            .with("groups_max", limits::GROUPS_MAX)
            .advise("Delete groups that nobody uses, or use another namespace"));
        }
        Ok(GroupRecord { ephemeral, ..GroupRecord::new(self.nonce(), *require) })
    }

    pub(crate) async fn make_group(&self, name: &str, record: GroupRecord) -> Result<Applied> {
        self.write(name, Guard::Absent(group_key(name)), record, Txn::new()).await
    }

    async fn delete_group(&self, name: &str) -> Result<()> {
        let refused = match self.close_group(name, |_| true).await? {
            Closed::Gone => return Ok(()),
            Closed::Occupied => Error::new(Kind::Conflict, "delete group", "the group has members")
                .advise("Let them leave first"),
            Closed::Overtaken => {
                Error::new(Kind::Conflict, "delete group", "somebody else is deleting the group too")
                    .advise("Look whether it is gone")
            }
        };
        Err(refused.with("group", name))
    }

    /// Marks the group as closing, so that nobody joins any more; then either deletes it or takes the mark back. It is
    /// deleted only as it was when it was found empty: whoever joins writes on a record without the mark. `is_meant` tells
    /// by its record whether it is the group that is to go: another one of that name may have taken its place.
    pub(crate) async fn close_group(
        &self,
        name: &str,
        is_meant: impl Fn(&GroupRecord) -> bool,
    ) -> Result<Closed> {
        let Some((guard, modified)) = self.mark_closing(name, is_meant).await? else {
            return Ok(Closed::Overtaken);
        };
        let occupied = match self.is_occupied(name).await {
            Ok(occupied) => occupied,
            Err(error) => {
                self.open_again(name).await?;
                return Err(error);
            }
        };
        if occupied {
            self.open_again(name).await?;
            return Ok(Closed::Occupied);
        }
        let key = group_key(name);
        let txn = Txn::new().guard(guard).delete(key.clone()).delete(partition_key(name));
        let gone = async || Ok(self.driver.get(&key).await?.is_none().then_some(modified));
        match self.commit_known(txn, gone).await? {
            Applied::At(revision) => {
                self.settle(revision).await;
                Ok(Closed::Gone)
            }
            Applied::Conflict => Ok(Closed::Overtaken),
        }
    }

    /// Tells whether the group has members, as the store has it.
    pub(crate) async fn is_occupied(&self, name: &str) -> Result<bool> {
        Ok(!self.driver.list(&members_prefix(name), None, 1).await?.records.is_empty())
    }

    /// Sees to it that the group is marked, and returns what guards a write made while it is; `None` for another one.
    async fn mark_closing(
        &self,
        name: &str,
        is_meant: impl Fn(&GroupRecord) -> bool,
    ) -> Result<Option<(Guard, Revision)>> {
        for _ in 0..limits::CONFLICT_TRIES {
            let Read { record, guard, modified } = self.read_group(name).await?;
            if !is_meant(&record) {
                return Ok(None);
            }
            if record.closing {
                return Ok(Some((guard, modified)));
            }
            let marked = GroupRecord { closing: true, ..record };
            if let Applied::At(modified) = self.write(name, guard.clone(), marked, Txn::new()).await? {
                return Ok(Some((rewritten(guard, modified), modified)));
            }
        }
        Err(contended(name))
    }

    async fn open_again(&self, name: &str) -> Result<()> {
        self.change::<GroupRecord>(name, |read| {
            Ok(read.record.closing.then(|| GroupRecord { closing: false, ..read.record.clone() }))
        })
        .await
        .map(|_| ())
    }
}

/// Returns the guard of a record after it was written at `modified` under this one.
fn rewritten(guard: Guard, modified: Revision) -> Guard {
    match guard {
        Guard::Unchanged(key, stamp) => Guard::Unchanged(key, Stamp { modified, ..stamp }),
        absent @ Guard::Absent(_) => absent,
    }
}
