//! A watch: a place in what changed, read again whenever the hub wakes it, a session may be due, or a while has passed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{Change, Delta, Error, Key, Kind, Record, Result, Revision, Watch, limits};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch::Receiver;

use crate::answer::Status;
use crate::hub::{Count, Heard, Hub};
use crate::operation::{Argument, Operation};
use crate::store::Store;

/// How often a snapshot is begun anew because what changed is not known from its first page to its last.
const SNAPSHOTS_MAX: u32 = 5;
/// How often a watch looks by itself while the hub hears nothing.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often it looks although the hub hears: nobody has to trust that every message comes.
const LOOK_ANYWAY_EVERY: Duration = Duration::from_secs(5);
/// How many revisions may have passed that did not concern it before it looks all the same.
const LAG_MAX: u64 = 256;
/// The pause after an error; doubled for each further one in a row, up to the longest. The end of an outage
/// cuts it short.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_DOUBLINGS_MAX: u32 = 6;

/// A watcher of one prefix.
pub(crate) struct PostgresqlWatch {
    store: Arc<Store>,
    // Kept so that it goes on listening while only a watch is left.
    _hub: Arc<Hub>,
    heard: Receiver<Heard>,
    prefix: Key,
    /// The same in hexadecimal.
    head: String,
    /// `None` before the first snapshot.
    place: Option<Place>,
    /// All was read that was told before this, and a session may end after that time.
    caught_up: Option<(Count, Option<Duration>)>,
    /// Errors in a row.
    errors: u32,
}

/// Everything up to `revision` of this incarnation was seen.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) incarnation: Arc<str>,
    pub(crate) revision: Revision,
}

/// What one read of the log gave.
struct Look {
    place: Place,
    changes: Vec<Change>,
    more: bool,
    /// When a session may end next.
    wait: Option<Duration>,
}

impl PostgresqlWatch {
    pub(crate) fn new(store: Arc<Store>, hub: Arc<Hub>, prefix: Key, place: Option<Place>) -> Self {
        let heard = hub.subscribe();
        let head = prefix.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        PostgresqlWatch { store, _hub: hub, heard, prefix, head, place, caught_up: None, errors: 0 }
    }

    /// Goes on from the place, knowing all that was told until `before`. `None` where nothing is new.
    async fn step(&mut self, before: Count) -> Result<Option<Delta>> {
        let Some(place) = &self.place else { return self.resync().await.map(Some) };
        let Some(look) = self.look(place).await? else { return self.resync().await.map(Some) };
        let Look { place, changes, more, wait } = look;
        let revision = place.revision;
        self.place = Some(place);
        self.caught_up = (!more).then_some((before, wait));
        if !changes.is_empty() {
            return Ok(Some(Delta::Changes { changes, revision }));
        }
        if wait == Some(Duration::ZERO) {
            self.store.call(Operation::Reap, Vec::new()).await?;
        }
        Ok(None)
    }

    /// Reads what came after `place`. `None` where something is missing.
    async fn look(&self, place: &Place) -> Result<Option<Look>> {
        let arguments = vec![
            Argument::Long(i64::try_from(place.revision.0).unwrap_or(i64::MAX)),
            Argument::Bytes(Some(Bytes::copy_from_slice(self.prefix.as_bytes()))),
            Argument::Int(limits::DELTA_CHANGES_MAX as i32),
            Argument::Long(limits::PAGE_BYTES_MAX as i64),
        ];
        let (answer, incarnation) = self.store.call(Operation::Changes, arguments).await?;
        if answer.status == Status::Refused || incarnation != place.incarnation {
            return Ok(None);
        }
        Ok(Some(Look {
            place: Place { incarnation, revision: answer.revision("upto")? },
            changes: answer.changes()?,
            more: answer.flag("more")?,
            wait: answer.maybe_number("wait_ms")?.map(Duration::from_millis),
        }))
    }

    /// Makes a snapshot of one moment: the pages, each of its own moment, and then what changed since the
    /// first of them. The server never has to copy the whole prefix at once.
    async fn resync(&mut self) -> Result<Delta> {
        for _ in 0..SNAPSHOTS_MAX {
            let Some((mut records, start)) = self.pages().await? else { continue };
            if let Some(place) = self.catch_up(&mut records, start).await? {
                let revision = place.revision;
                self.place = Some(place);
                return Ok(Delta::Resync { records: records.into_values().collect(), revision });
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
            let start =
                first.get_or_insert(Place { incarnation: incarnation.clone(), revision: page.revision });
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
            let Some(look) = self.look(&place).await? else { return Ok(None) };
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

    /// Waits until there may be something new since `before`: told by the hub, or `wait` is over.
    async fn rest(&mut self, before: Count, wait: Option<Duration>) {
        let seen = self.place.as_ref().map_or(0, |place| place.revision.0);
        let clock = self.store.clock.clone();
        let deaf = !self.heard.borrow().attended;
        let longest = if deaf { LOOK_EVERY } else { LOOK_ANYWAY_EVERY };
        let wait = wait.map_or(longest, |wait| wait.min(longest));
        let news = |heard: &Heard| {
            let told = heard.count.messages != before.messages && heard.revision(&self.head) > seen;
            // Who lags far behind others' changes catches up before they are forgotten.
            let lags = heard.revision("") > seen.saturating_add(LAG_MAX);
            // Deafness is news too: it shortens the wait.
            told || lags || heard.count.connections != before.connections || heard.attended == deaf
        };
        // The sender lives in `_hub`, so waiting for it cannot fail.
        tokio::select! {
            _ = self.heard.wait_for(news) => {}
            () = clock.sleep(wait) => {}
        }
    }
}

#[async_trait]
impl Watch for PostgresqlWatch {
    async fn next(&mut self) -> Result<Delta> {
        if self.errors > 0 {
            let doublings = (self.errors - 1).min(PAUSE_DOUBLINGS_MAX);
            let pause = self.store.chance.jitter(PAUSE_MIN * 2u32.pow(doublings));
            let before = self.heard.borrow().count;
            self.rest(before, Some(pause)).await;
        }
        loop {
            if let Some((before, wait)) = self.caught_up.take() {
                self.rest(before, wait).await;
            }
            // Taken before the changes are read: what is told meanwhile wakes us again.
            let before = self.heard.borrow().count;
            let step = self.step(before).await;
            self.errors = if step.is_ok() { 0 } else { self.errors.saturating_add(1) };
            if let Some(step) = step.transpose() {
                return step;
            }
        }
    }
}

impl fmt::Debug for PostgresqlWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresqlWatch").field("prefix", &self.prefix).field("place", &self.place).finish()
    }
}
