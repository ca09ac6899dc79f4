//! Groups: create, delete, list, show, watch.

use std::sync::Arc;

use althing_core::info::{Event, GroupInfo, GroupSummary};
use althing_core::{Error, Guard, Key, Kind, Principal, Requirement, Result, Txn, limits};
use tokio::sync::broadcast;

use crate::apply::{Applied, no_group};
use crate::layout::{GroupRecord, group_key, members_prefix};
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
        match self.0.make_group(name, require).await? {
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

impl Host {
    pub(crate) async fn make_group(&self, name: &str, require: &Requirement) -> Result<Applied> {
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
        let record = GroupRecord::new(self.nonce(), *require);
        self.write(name, Guard::Absent(group_key(name)), record, Txn::new()).await
    }

    /// Marks the group as closing, so that nobody joins any more; then either deletes it or takes the mark back.
    async fn delete_group(&self, name: &str) -> Result<()> {
        self.mark_closing(name, true).await?;
        let occupied = match self.driver.list(&members_prefix(name), None, 1).await {
            Ok(page) => !page.records.is_empty(),
            Err(error) => {
                self.mark_closing(name, false).await?;
                return Err(error);
            }
        };
        if occupied {
            self.mark_closing(name, false).await?;
            return Err(Error::new(Kind::Conflict, "delete group", "the group has members")
                .with("group", name)
                .advise("Let them leave first"));
        }
        self.remove_group(name, group_key(name)).await
    }

    async fn mark_closing(&self, name: &str, closing: bool) -> Result<()> {
        self.change::<GroupRecord>(name, |read| {
            Ok((read.record.closing != closing).then(|| GroupRecord { closing, ..read.record.clone() }))
        })
        .await
        .map(|_| ())
    }

    async fn remove_group(&self, name: &str, key: Key) -> Result<()> {
        let read = self.read_group(name).await?;
        if !read.record.closing {
            return Err(Error::new(
                Kind::Conflict,
                "delete group",
                "somebody else is deleting the group too",
            )
            .with("group", name)
            .advise("Look whether it is gone"));
        }
        let txn = Txn::new().guard(read.guard).delete(key.clone());
        let gone = async || Ok(self.driver.get(&key).await?.is_none().then_some(read.modified));
        match self.commit_known(txn, gone).await? {
            Applied::At(revision) => {
                self.settle(revision).await;
                Ok(())
            }
            Applied::Conflict => Err(crate::apply::contended(name)),
        }
    }
}
