//! A watch: a place in the log. What comes after it is in the ring of the hub, or else in the log itself, or else
//! everything is read anew.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{Change, Delta, Error, Key, Kind, Record, Result, Revision, Watch};
use async_trait::async_trait;
use tokio::sync::watch::Receiver;

use crate::hub::{self, Hub, Look};
use crate::log::{self, Entry, Part};
use crate::read;
use crate::store::Store;

/// How often a snapshot is begun anew because the log did not reach from its beginning to its end.
const SNAPSHOTS_MAX: u32 = 5;
/// The pause after an error; doubled for each further one in a row, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_DOUBLINGS_MAX: u32 = 6;

/// A watcher of one prefix.
pub(crate) struct ZooKeeperWatch {
    store: Arc<Store>,
    hub: Arc<Hub>,
    news: Receiver<u64>,
    prefix: Key,
    /// Everything up to here was told; `None` before the first snapshot.
    place: Option<Revision>,
    /// What was read from the log because the ring did not hold it.
    backlog: VecDeque<Entry>,
    /// Errors in a row.
    errors: u32,
}

impl ZooKeeperWatch {
    pub(crate) fn new(store: Arc<Store>, hub: Arc<Hub>, prefix: Key, place: Option<Revision>) -> Self {
        let news = hub.ring().subscribe();
        ZooKeeperWatch { store, hub, news, prefix, place, backlog: VecDeque::new(), errors: 0 }
    }

    /// Goes on from the place. `None`: nothing is there to be told.
    async fn step(&mut self) -> Result<Option<Delta>> {
        let Some(from) = self.place else { return self.resync().await.map(Some) };
        let look = match self.backlog.is_empty() {
            false => hub::gather(&self.backlog, &self.prefix, from),
            true => self.hub.ring().look(&self.prefix, from),
        };
        let Look::Seen { changes, revision } = look else { return self.go_back(from).await };
        self.backlog.retain(|entry| entry.revision > revision);
        self.place = Some(revision);
        Ok((!changes.is_empty()).then_some(Delta::Changes { changes, revision }))
    }

    /// Reads what the ring does not hold from the log, where it still lies there.
    async fn go_back(&mut self, from: Revision) -> Result<Option<Delta>> {
        let deadline = self.store.deadline();
        let wire = self.store.wire("watch", deadline).await?;
        match self.store.read("watch", deadline, log::since(&self.store, &wire, from)).await? {
            Part::Whole(entries) if !entries.is_empty() => {
                self.backlog = entries.into();
                Ok(None)
            }
            _ => self.resync().await.map(Some),
        }
    }

    /// Makes a snapshot of one moment: the records, each of its own moment, and then what the log tells since
    /// the first of them.
    async fn resync(&mut self) -> Result<Delta> {
        for _ in 0..SNAPSHOTS_MAX {
            let (mut records, start) = read::snapshot(&self.store, &self.prefix).await?;
            let deadline = self.store.deadline();
            let wire = self.store.wire("watch", deadline).await?;
            let since = log::since(&self.store, &wire, start);
            let Part::Whole(entries) = self.store.read("watch", deadline, since).await? else { continue };
            let revision = entries.last().map_or(start, |last| last.revision);
            for change in entries.into_iter().flat_map(|entry| entry.changes) {
                apply(&mut records, &self.prefix, change);
            }
            self.backlog.clear();
            self.place = Some(revision);
            return Ok(Delta::Resync { records: records.into_values().collect(), revision });
        }
        Err(Error::new(Kind::Busy, "watch", "the records change faster than they can be read"))
    }
}

/// Lets a change be seen among the records below `prefix`.
pub(crate) fn apply(records: &mut BTreeMap<Key, Record>, prefix: &Key, change: Change) {
    match change {
        Change::Put(record) if record.key.starts_with(prefix) => {
            records.insert(record.key.clone(), record);
        }
        Change::Deleted { key, .. } => drop(records.remove(&key)),
        Change::Put(_) => {}
    }
}

#[async_trait]
impl Watch for ZooKeeperWatch {
    async fn next(&mut self) -> Result<Delta> {
        if self.errors > 0 {
            let pause = PAUSE_MIN * 2u32.pow((self.errors - 1).min(PAUSE_DOUBLINGS_MAX));
            self.store.clock.sleep(self.store.chance.jitter(pause)).await;
        }
        loop {
            // The hub has found the log before its ring is asked; it stays so.
            // The sender lives in `hub`, so waiting for it cannot fail.
            let _ = self.news.wait_for(|news| *news > 0).await;
            self.news.mark_unchanged();
            let read_back = !self.backlog.is_empty();
            match self.step().await {
                Ok(Some(delta)) => {
                    self.errors = 0;
                    return Ok(delta);
                }
                // What was read back is told first, then what the ring holds by now.
                Ok(None) if read_back || !self.backlog.is_empty() => {}
                Ok(None) => {
                    self.errors = 0;
                    let _ = self.news.changed().await;
                }
                Err(error) => {
                    self.errors = self.errors.saturating_add(1);
                    return Err(error);
                }
            }
        }
    }
}

impl fmt::Debug for ZooKeeperWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeperWatch").field("prefix", &self.prefix).field("place", &self.place).finish()
    }
}
