//! A watch: a place in what changed, read again whenever there is news, or a while has passed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{Change, Delta, Error, Key, Kind, Record, Result, Revision, Watch, limits};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch::Receiver;

use crate::answer::Status;
use crate::hub::{Heard, Hub};
use crate::operation::{Argument, Operation};
use crate::store::Store;

/// How often a snapshot is begun anew because what changed is not known from its first page to its last.
const SNAPSHOTS_MAX: u32 = 5;
/// How often a watch looks by itself although the hub does: nobody has to trust that every look comes.
const LOOK_ANYWAY_EVERY: Duration = Duration::from_secs(5);
/// The pause after an error; doubled for each further one in a row, up to the longest. The end of an outage
/// cuts it short.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_DOUBLINGS_MAX: u32 = 6;

/// A watcher of one prefix.
pub(crate) struct MysqlWatch {
    store: Arc<Store>,
    // Kept so that it goes on looking while only a watch is left.
    _hub: Arc<Hub>,
    heard: Receiver<Heard>,
    prefix: Key,
    /// `None` before the first snapshot.
    place: Option<Place>,
    /// Errors in a row.
    errors: u32,
}

/// Everything up to `revision` of this incarnation was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) incarnation: u128,
    pub(crate) revision: Revision,
}

/// What one read of the log gave.
struct Look {
    place: Place,
    changes: Vec<Change>,
    more: bool,
}

impl MysqlWatch {
    pub(crate) fn new(store: Arc<Store>, hub: Arc<Hub>, prefix: Key, place: Option<Place>) -> Self {
        let heard = hub.subscribe();
        MysqlWatch { store, _hub: hub, heard, prefix, place, errors: 0 }
    }

    /// Goes on from the place. `None` where there is nothing new.
    async fn step(&mut self) -> Result<Option<Delta>> {
        loop {
            let Some(place) = self.place else { return self.resync().await.map(Some) };
            let Some(look) = self.look(place).await? else { return self.resync().await.map(Some) };
            self.place = Some(look.place);
            let (changes, revision) = (look.changes, look.place.revision);
            if !changes.is_empty() {
                return Ok(Some(Delta::Changes { changes, revision }));
            }
            if !look.more {
                return Ok(None);
            }
        }
    }

    /// Reads what came after `place`. `None` where something is missing.
    async fn look(&self, place: Place) -> Result<Option<Look>> {
        let arguments = vec![
            Argument::Long(i64::try_from(place.revision.0).unwrap_or(i64::MAX)),
            Argument::bytes(Bytes::copy_from_slice(self.prefix.as_bytes())),
            Argument::Long(limits::DELTA_CHANGES_MAX as i64),
            Argument::Long(limits::PAGE_BYTES_MAX as i64),
        ];
        let (mut answer, incarnation) = self.store.call(Operation::Changes, arguments).await?;
        if answer.status == Status::Refused || incarnation != place.incarnation {
            return Ok(None);
        }
        let place = Place { incarnation, revision: answer.number("upto").map(Revision)? };
        Ok(Some(Look { place, changes: answer.changes()?, more: answer.flag("more")? }))
    }

    /// Makes a snapshot of one moment: the pages, each of its own moment, and then what changed since the
    /// first of them. The server never has to copy the whole prefix at once.
    async fn resync(&mut self) -> Result<Delta> {
        for _ in 0..SNAPSHOTS_MAX {
            let Some((mut records, start)) = self.pages().await? else { continue };
            if let Some(place) = self.catch_up(&mut records, start).await? {
                self.place = Some(place);
                let records = records.into_values().collect();
                return Ok(Delta::Resync { records, revision: place.revision });
            }
        }
        Err(Error::new(Kind::Busy, "watch", "the records change faster than they can be read"))
    }

    /// Reads all pages. `None` where the store was lost in between.
    async fn pages(&self) -> Result<Option<(BTreeMap<Key, Record>, Place)>> {
        let mut records = BTreeMap::new();
        let (mut first, mut after) = (None::<Place>, None);
        loop {
            let (page, incarnation) = crate::page(&self.store, &self.prefix, after.as_ref(), 0).await?;
            let start = first.get_or_insert(Place { incarnation, revision: page.revision });
            if start.incarnation != incarnation {
                return Ok(None);
            }
            records.extend(page.records.into_iter().map(|record| (record.key.clone(), record)));
            after = page.next;
            if after.is_none() {
                return Ok(first.map(|place| (records, place)));
            }
        }
    }

    /// Brings `records` from `place` to now. `None` where something is missing.
    async fn catch_up(&self, records: &mut BTreeMap<Key, Record>, mut place: Place) -> Result<Option<Place>> {
        loop {
            let Some(look) = self.look(place).await? else { return Ok(None) };
            for change in look.changes {
                match change {
                    Change::Put(record) => records.insert(record.key.clone(), record),
                    Change::Deleted { key, .. } => records.remove(&key),
                };
            }
            place = look.place;
            if !look.more {
                return Ok(Some(place));
            }
        }
    }

    /// Waits until there may be something new since `before`, or `pause` is over.
    async fn rest(&mut self, before: Heard, pause: Option<Duration>) {
        let seen = self.place.map_or(0, |place| place.revision.0);
        let clock = self.store.clock.clone();
        let deaf = !before.attended;
        let longest = if deaf { self.store.settings.poll.1 } else { LOOK_ANYWAY_EVERY };
        let pause = pause.map_or(longest, |pause| pause.min(longest));
        let news = |heard: &Heard| {
            let told = heard.revision > before.revision && heard.revision > seen;
            // That nobody looks any more is news too: it shortens the wait.
            told || heard.recoveries != before.recoveries || heard.attended == deaf
        };
        // The sender lives in the store, so waiting for it cannot fail.
        tokio::select! {
            _ = self.heard.wait_for(news) => {}
            () = clock.sleep(pause) => {}
        }
    }
}

#[async_trait]
impl Watch for MysqlWatch {
    async fn next(&mut self) -> Result<Delta> {
        if self.errors > 0 {
            let doublings = (self.errors - 1).min(PAUSE_DOUBLINGS_MAX);
            let pause = self.store.chance.jitter(PAUSE_MIN * 2u32.pow(doublings));
            let before = *self.heard.borrow();
            self.rest(before, Some(pause)).await;
        }
        loop {
            // Taken before the changes are read: what is told meanwhile wakes us again.
            let before = *self.heard.borrow();
            let stepped = self.step().await;
            self.errors = if stepped.is_ok() { 0 } else { self.errors.saturating_add(1) };
            if let Some(delta) = stepped? {
                return Ok(delta);
            }
            self.rest(before, None).await;
        }
    }
}

impl fmt::Debug for MysqlWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlWatch").field("prefix", &self.prefix).field("place", &self.place).finish()
    }
}
