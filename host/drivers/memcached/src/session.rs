//! Sessions: opened, renewed, ended, and found expired.
//!
//! A session lives as long as its item does. memcached counts in whole seconds of a clock that it reads once a second
//! and cuts: what is to live for N seconds may go almost two seconds early. So a lease of L seconds is asked for as
//! L + 2, and is surely kept for L.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use althing_core::{BootTime, Cause, Kind, Lease, Result, SessionId, Txn, Write};

use crate::draft::{Work, lost, txn_keys};
use crate::layout::{ChunkId, Value, chunk_key, session_item, session_key};
use crate::store::{Step, Store, View};
use crate::wire::Ask;

/// How much earlier than asked for an item may go.
const EARLY_SECONDS: u32 = 2;
/// Chunks that a renewal looks for, in turn; looking also keeps them from being thrown away first.
const PROBES: usize = 5;
/// Requests of a renewal: the session, the epoch, the root, and the chunks.
pub(crate) const BEAT_REQUESTS: u32 = 3 + PROBES as u32;
/// A request that took longer is not believed: a server that stood still may have stamped it with a clock that it had
/// not read since.
const SLOW: Duration = Duration::from_millis(500);
/// What a server that goes on surely needs at most until it has read its clock.
const CLOCK_READ: Duration = Duration::from_millis(250);

impl Store {
    /// Opens a session with a lease of so many seconds.
    pub(crate) async fn open(&self, id: SessionId, seconds: u32) -> Result<()> {
        let deadline = self.deadline();
        let sent = self.in_time("open", deadline, self.begin_life(id, seconds)).await?;
        self.write("open", deadline, &Work::Open(id, seconds)).await?;
        self.set_alive(id, sent + seconds_of(seconds));
        Ok(())
    }

    /// Stores the item of a session, anew until the server answers at once. Returns since when it surely lives.
    async fn begin_life(&self, id: SessionId, seconds: u32) -> Result<BootTime> {
        let (key, item) = (session_key(id), session_item());
        loop {
            let sent = self.clock.now();
            self.wire.add("open", key.clone(), &item, Some(seconds + EARLY_SECONDS)).await?;
            if !self.is_slow(sent) {
                return Ok(sent);
            }
            self.clock.sleep(CLOCK_READ).await;
            self.wire.remove("open", std::slice::from_ref(&key)).await?;
        }
    }

    /// Renews a session, and looks whether what it rests on is there.
    pub(crate) async fn renew(&self, id: SessionId) -> Result<Lease> {
        let done = self.in_time("renew", self.deadline(), self.beat(id)).await;
        // It may be that the session lives on; that nobody can rely on it is all that matters.
        done.map_err(|error| if error.kind() == Kind::Timeout { error.with_unknown_effect() } else { error })
    }

    /// Ends a session. Ending a gone one succeeds.
    pub(crate) async fn close(&self, id: SessionId) -> Result<()> {
        self.write("close", self.deadline(), &Work::End(&[id], Cause::Closed)).await?;
        self.forget_keys(vec![session_key(id)]);
        Ok(())
    }

    async fn beat(&self, id: SessionId) -> Result<Lease> {
        let mut view = match self.known().filter(|view| view.root.sessions.contains_key(&id)) {
            Some(view) => view,
            None => self.view("renew").await?,
        };
        let Some(seconds) = view.root.sessions.get(&id).copied() else { return Err(lost("renew", id)) };
        let sent = self.clock.now();
        let asks = self.asks(&view, id, seconds);
        let (now, found) = self.view_and("renew", &asks).await?;
        let (Some(Some(_)), Some(chunks)) = (found.first(), found.get(1..)) else {
            return Err(lost("renew", id));
        };
        // Where something was written meanwhile, a chunk that is gone was replaced.
        let hole = Arc::ptr_eq(&view, &now) && chunks.iter().any(Option::is_none);
        if hole && let Step::Failed(error) = self.missing("renew", &view).await {
            return Err(error);
        }
        view = now;
        if hole || self.is_slow(sent) {
            view = self.touch_again(id, &asks[..1]).await?;
        }
        if !view.root.sessions.contains_key(&id) {
            return Err(lost("renew", id));
        }
        let min = seconds_of(seconds);
        self.set_alive(id, sent + min);
        // memcached tells its clock only to those who ask in another protocol.
        Ok(Lease { min, store_time: None })
    }

    /// Renews a session anew until the server answers at once.
    async fn touch_again(&self, id: SessionId, touch: &[Ask]) -> Result<Arc<View>> {
        loop {
            self.clock.sleep(CLOCK_READ).await;
            let sent = self.clock.now();
            let (view, found) = self.view_and("renew", touch).await?;
            if !matches!(found.first(), Some(Some(_))) {
                return Err(lost("renew", id));
            }
            if !self.is_slow(sent) {
                return Ok(view);
            }
        }
    }

    /// Tells whether an answer of now to what was sent then may rest on an old clock.
    fn is_slow(&self, sent: BootTime) -> bool {
        self.clock.now().since(sent) > SLOW
    }

    /// Asks for the session to live on, and for some of the chunks that records are in: each time for the next few.
    fn asks(&self, view: &View, id: SessionId, seconds: u32) -> Vec<Ask> {
        let leaves = view.root.leaves.iter().map(|leaf| leaf.id);
        let remembered = self.remembered(view);
        let values =
            remembered.iter().flat_map(|leaf| leaf.0.values()).filter_map(|stored| match stored.value {
                Value::Chunk { id, .. } => Some(id),
                Value::Here(_) => None,
            });
        let chunks: Vec<ChunkId> = leaves.chain(values).collect();
        let start = self.beats.fetch_add(PROBES, Ordering::Relaxed) % chunks.len().max(1);
        let next = chunks.iter().cycle().skip(start).take(PROBES.min(chunks.len()));
        let touch = Ask::touch(session_key(id), seconds + EARLY_SECONDS);
        [touch].into_iter().chain(next.map(|id| Ask::there(chunk_key(*id)))).collect()
    }

    /// Sees to it that no session that `work` rests on has expired. `Stale` where one had: it was ended.
    pub(crate) async fn settle(
        &self,
        operation: &'static str,
        view: &View,
        work: &Work<'_>,
    ) -> Result<(), Step> {
        let Work::Commit(txn) = work else { return Ok(()) };
        let leaves = self.leaves(operation, view, work.leaves(&view.root)).await?;
        let owner = |key| leaves.get(&view.root.locate(key))?.0.get(key)?.session;
        let sessions = txn_keys(txn).filter_map(owner).chain(named(txn));
        self.check_alive(operation, view, sessions).await
    }

    /// Ends those of the sessions that have expired. `Stale` where there was one.
    pub(crate) async fn check_alive(
        &self,
        operation: &'static str,
        view: &View,
        sessions: impl IntoIterator<Item = SessionId>,
    ) -> Result<(), Step> {
        let now = self.clock.now();
        let open = sessions.into_iter().filter(|id| view.root.sessions.contains_key(id));
        let due: BTreeSet<SessionId> = open.filter(|id| self.alive_until(*id) <= now).collect();
        if due.is_empty() {
            return Ok(());
        }
        let asks: Vec<Ask> = due.iter().map(|id| Ask::there(session_key(*id))).collect();
        let found = self.wire.read(operation, &asks).await?;
        let mut dead = Vec::new();
        for (id, item) in due.into_iter().zip(found) {
            match item {
                Some(item) => self.set_alive(id, surely_until(now, item.seconds.unwrap_or_default())),
                None => dead.push(id),
            }
        }
        if dead.is_empty() {
            return Ok(());
        }
        self.try_write(operation, view, &Work::End(&dead, Cause::Expired), &AtomicBool::new(false)).await?;
        Err(Step::Stale)
    }
}

fn named(txn: &Txn) -> impl Iterator<Item = SessionId> {
    txn.writes.iter().filter_map(|write| match write {
        Write::Put { session, .. } => *session,
        Write::Delete(_) => None,
    })
}

fn seconds_of(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

/// Returns until when an item is surely there that had so many seconds left when asked at `now`.
fn surely_until(now: BootTime, seconds: u64) -> BootTime {
    now + Duration::from_secs(seconds.saturating_sub(EARLY_SECONDS.into()))
}
