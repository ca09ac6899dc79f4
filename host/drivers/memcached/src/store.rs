//! The namespace as this driver knows it: the present state, what was read of it, and how it is changed.
//!
//! A state is believed while the root's compare-and-swap number is what it was: the key of the root carries the
//! epoch, an epoch is begun once, and within one run of the server no number comes twice. Chunks are never changed,
//! so one that was read once is known for good.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use althing_core::{BootTime, Chance, Clock, Committed, Error, Key, Kind, Record, Result, SessionId};
use bytes::Bytes;
use tokio::sync::watch;

use crate::draft::{Draft, Made, Work};
use crate::layout::{
    ChunkId, Leaf, Root, Stored, Value, chunk_key, epoch_item, epoch_key, read_epoch, read_value, root_key,
};
use crate::settings::Settings;
use crate::wire::{Ask, Item, Wire};

/// How often a call begins a new epoch, or finds that somebody did, before it gives up.
const EPOCHS_MAX: u32 = 8;
/// Leaves read at once.
pub(crate) const LEAVES_AT_ONCE: usize = 16;
/// What a server must take at least: the root of a namespace of common size. Larger roots are tried in such steps.
pub(crate) const TRIAL_BYTES: usize = 64 << 10;
/// Where more leaves are remembered, those that the present root does not name are dropped.
const LEAVES_KEPT_MAX: usize = 1024;
/// The longest pause after another host was quicker, and the first one; doubled in between.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_DOUBLINGS_MAX: u32 = 5;

/// A namespace on a server.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
    pub(crate) wire: Arc<Wire>,
    /// The highest revision seen, over all epochs.
    seen: AtomicU64,
    looks: AtomicU64,
    /// The server takes items of so many bytes.
    proven: AtomicUsize,
    /// Counts renewals, so that each looks for other chunks.
    pub(crate) beats: AtomicUsize,
    // A std Mutex: held for a look-up, never over an await.
    live: Mutex<Live>,
    /// Held by whoever writes, so that the writers of one host do not race each other.
    turn: tokio::sync::Mutex<()>,
    /// Tells the watches of this host that there is a new state.
    news: watch::Sender<u64>,
}

/// A state of the namespace.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) epoch: u128,
    pub(crate) root: Root,
    epoch_cas: u64,
    cas: u64,
    /// The highest revision that was seen before this epoch.
    pub(crate) former: u64,
}

impl View {
    /// Tells whether the epoch was begun by somebody who had seen less than this host: tokens would go back.
    fn is_behind(&self) -> bool {
        self.root.revision < self.former
    }
}

#[derive(Debug, Default)]
struct Live {
    view: Option<Arc<View>>,
    /// The look that found the view.
    look: u64,
    leaves: HashMap<ChunkId, Arc<Leaf>>,
    /// Until when a session surely has not expired.
    alive: HashMap<SessionId, BootTime>,
}

/// A read of one state.
pub(crate) type Read<'a, T> = Pin<Box<dyn Future<Output = Result<T, Step>> + Send + 'a>>;

/// Why something must be done anew, or cannot be done.
#[derive(Debug)]
pub(crate) enum Step {
    /// The state that was worked on is no longer the present one.
    Stale,
    Failed(Error),
}

impl From<Error> for Step {
    fn from(error: Error) -> Self {
        Step::Failed(error)
    }
}

impl Store {
    /// Makes the store; connects at the first call.
    pub(crate) fn new(settings: Settings, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Store {
        Store {
            wire: Arc::new(Wire::new(&settings)),
            settings,
            clock,
            chance,
            seen: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            proven: AtomicUsize::new(0),
            beats: AtomicUsize::new(0),
            live: Mutex::default(),
            turn: tokio::sync::Mutex::new(()),
            news: watch::Sender::new(0),
        }
    }

    /// Follows the revisions that this host comes to know.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Returns when a call that begins now must have ended.
    pub(crate) fn deadline(&self) -> BootTime {
        self.clock.now() + self.settings.timeout
    }

    /// Waits for `work` until `deadline`.
    pub(crate) async fn in_time<T>(
        &self,
        operation: &'static str,
        deadline: BootTime,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.clock.sleep_until(deadline) => Err(self.late(operation)),
        }
    }

    /// Does a read, anew whenever the state has changed under it. Ends within the time of one call.
    pub(crate) async fn reading<'a, T>(
        &'a self,
        operation: &'static str,
        read: impl Fn(Arc<View>) -> Read<'a, T>,
    ) -> Result<T> {
        let tries = async {
            loop {
                match read(self.view(operation).await?).await {
                    Ok(found) => return Ok(found),
                    Err(Step::Failed(error)) => return Err(error),
                    Err(Step::Stale) => {}
                }
            }
        };
        self.in_time(operation, self.deadline(), tries).await
    }

    /// Returns the state that was known last, without asking.
    pub(crate) fn known(&self) -> Option<Arc<View>> {
        self.lock().view.clone()
    }

    /// Returns the present state. One exchange while nothing changed, two when something did. Begins a new epoch
    /// where the namespace is new, or was lost.
    pub(crate) async fn view(&self, operation: &'static str) -> Result<Arc<View>> {
        self.view_and(operation, &[]).await.map(|(view, _)| view)
    }

    /// Returns the present state, and in the same exchange what is at some other keys.
    pub(crate) async fn view_and(
        &self,
        operation: &'static str,
        others: &[Ask],
    ) -> Result<(Arc<View>, Vec<Option<Item>>)> {
        let mut beside = None;
        for _ in 0..EPOCHS_MAX {
            let look = self.looks.fetch_add(1, Ordering::AcqRel) + 1;
            let known = self.known();
            let mut asks = vec![Ask::value(epoch_key(&self.settings.namespace))];
            asks.extend(known.iter().map(|known| Ask::there(root_key(known.epoch))));
            let place = asks.len();
            if beside.is_none() {
                asks.extend_from_slice(others);
            }
            let mut found = self.wire.read(operation, &asks).await?;
            let beside = beside.get_or_insert(found.split_off(place));
            let Some(Some(item)) = found.first() else {
                self.begin(operation, known.as_deref()).await?;
                continue;
            };
            let epoch = read_epoch(&item.value).map_err(|error| self.in_namespace(error))?;
            let root_cas = found.get(1).and_then(Option::as_ref).map(|root| root.cas);
            let is_present =
                |known: &Arc<View>| known.epoch == epoch && Some(known.cas) == root_cas && !known.is_behind();
            if let Some(known) = known.filter(is_present) {
                return Ok((known, std::mem::take(beside)));
            }
            if let Some(view) = self.take_in(operation, look, epoch, item.cas).await? {
                return Ok((view, std::mem::take(beside)));
            }
        }
        Err(Error::new(Kind::Unavailable, operation, "the store is lost again and again"))
    }

    /// Reads the root of an epoch. `None` where there is none any more, or it had to be changed first.
    async fn take_in(
        &self,
        operation: &'static str,
        look: u64,
        epoch: u128,
        epoch_cas: u64,
    ) -> Result<Option<Arc<View>>> {
        let found = self.wire.read(operation, &[Ask::value(root_key(epoch))]).await?;
        let Some(Some(item)) = found.into_iter().next() else {
            self.abandon(operation, epoch, epoch_cas).await?;
            return Ok(None);
        };
        let root = Root::decode(&item.value).map_err(|error| self.in_namespace(error))?;
        let view = self.publish(look, View { epoch, root, epoch_cas, cas: item.cas, former: 0 });
        if view.is_behind() {
            // Begun by somebody who had seen less: tokens rise for us too.
            let root = Root { revision: view.former + 1, ..view.root.clone() }.encode();
            self.wire.raise(operation, &root_key(epoch), &root, view.cas).await?;
            return Ok(None);
        }
        Ok(Some(view))
    }

    /// Begins an epoch above all that was seen, unless somebody is quicker.
    async fn begin(&self, operation: &'static str, known: Option<&View>) -> Result<()> {
        if let Some(known) = known {
            tracing::warn!(namespace = self.settings.namespace, "the store was lost; its sessions are gone");
            // What may be left of it must not be written any more.
            self.wire.remove(operation, &[root_key(known.epoch)]).await?;
        }
        let epoch = self.chance.bits();
        let root = Root::empty(self.seen.load(Ordering::Acquire) + 1).encode();
        self.wire.add(operation, root_key(epoch), &root, None).await?;
        let key = epoch_key(&self.settings.namespace);
        if !self.wire.add(operation, key, &epoch_item(epoch), None).await? {
            self.wire.remove(operation, &[root_key(epoch)]).await?;
        }
        Ok(())
    }

    /// Ends an epoch of which something is missing: all of it is lost, and nobody goes on with a part.
    async fn abandon(&self, operation: &'static str, epoch: u128, epoch_cas: u64) -> Result<()> {
        tracing::warn!(namespace = self.settings.namespace, "memcached threw away a part of the store");
        self.wire.remove(operation, &[root_key(epoch)]).await?;
        self.wire.remove_if(operation, &epoch_key(&self.settings.namespace), epoch_cas).await
    }

    /// Makes a view the present one, unless a newer one is known.
    fn publish(&self, look: u64, mut view: View) -> Arc<View> {
        let mut live = self.lock();
        view.former = match &live.view {
            Some(known) if known.epoch == view.epoch => known.former,
            _ => self.seen.load(Ordering::Acquire),
        };
        let view = Arc::new(view);
        let newer = match &live.view {
            Some(known) if known.epoch == view.epoch => view.root.revision > known.root.revision,
            Some(_) => look > live.look,
            None => true,
        };
        if newer {
            let (sessions, leaves) = (&view.root.sessions, &view.root.leaves);
            live.alive.retain(|id, _| sessions.contains_key(id));
            if live.leaves.len() > LEAVES_KEPT_MAX {
                let named: HashSet<ChunkId> = leaves.iter().map(|leaf| leaf.id).collect();
                live.leaves.retain(|id, _| named.contains(id));
            }
            live.view = Some(view.clone());
            live.look = live.look.max(look);
            self.seen.fetch_max(view.root.revision, Ordering::AcqRel);
            self.news.send_replace(view.root.revision);
        }
        view
    }

    /// Returns the leaves at these places of the root.
    pub(crate) async fn leaves(
        &self,
        operation: &'static str,
        view: &View,
        places: impl IntoIterator<Item = usize>,
    ) -> Result<BTreeMap<usize, Arc<Leaf>>, Step> {
        let (mut found, mut missing) = (BTreeMap::new(), Vec::new());
        {
            let live = self.lock();
            for (place, leaf) in places.into_iter().filter_map(|at| Some((at, view.root.leaves.get(at)?))) {
                match live.leaves.get(&leaf.id) {
                    Some(known) => drop(found.insert(place, known.clone())),
                    None => missing.push((place, leaf.id)),
                }
            }
        }
        for missing in missing.chunks(LEAVES_AT_ONCE) {
            let ids: Vec<ChunkId> = missing.iter().map(|(_, id)| *id).collect();
            let items = self.chunks(operation, view, &ids).await?;
            for ((place, id), item) in missing.iter().zip(items) {
                let leaf = Arc::new(Leaf::decode(&item)?);
                self.remember(*id, leaf.clone());
                found.insert(*place, leaf);
            }
        }
        Ok(found)
    }

    /// Returns chunks that `view` names. A missing one tells that the state has changed, or else that all is lost.
    pub(crate) async fn chunks(
        &self,
        operation: &'static str,
        view: &View,
        ids: &[ChunkId],
    ) -> Result<Vec<Bytes>, Step> {
        let asks: Vec<Ask> = ids.iter().map(|id| Ask::value(chunk_key(*id))).collect();
        let found = self.wire.read(operation, &asks).await?;
        let whole: Option<Vec<Bytes>> = found.into_iter().map(|item| Some(item?.value)).collect();
        match whole {
            Some(items) => Ok(items),
            None => Err(self.missing(operation, view).await),
        }
    }

    /// Says what it means that a chunk of `view` is not there.
    pub(crate) async fn missing(&self, operation: &'static str, view: &View) -> Step {
        let now = match self.view(operation).await {
            Ok(now) => now,
            Err(error) => return Step::Failed(error),
        };
        if (now.epoch, now.cas) != (view.epoch, view.cas) {
            return Step::Stale;
        }
        match self.abandon(operation, now.epoch, now.epoch_cas).await {
            Ok(()) => Step::Stale,
            Err(error) => Step::Failed(error),
        }
    }

    /// Makes records of what leaves hold: fetches the large values, and copies the small ones, so that nobody keeps
    /// a whole leaf for the sake of one record.
    pub(crate) async fn records(
        &self,
        operation: &'static str,
        view: &View,
        stored: Vec<(Key, Stored)>,
    ) -> Result<Vec<Record>, Step> {
        let chunk = |(_, stored): &(Key, Stored)| match stored.value {
            Value::Chunk { id, .. } => Some(id),
            Value::Here(_) => None,
        };
        let ids: Vec<ChunkId> = stored.iter().filter_map(chunk).collect();
        let mut large = Vec::new();
        if !ids.is_empty() {
            large = self.chunks(operation, view, &ids).await?;
        }
        let mut large = large.iter();
        let record = |(key, stored): (Key, Stored)| {
            let value = match &stored.value {
                Value::Here(bytes) => Bytes::copy_from_slice(bytes),
                Value::Chunk { .. } => read_value(large.next().unwrap_or(&Bytes::new()))?,
            };
            let key = Key::new(Bytes::copy_from_slice(key.as_bytes()));
            Ok(Record { key, value, session: stored.session, stamp: stored.stamp })
        };
        stored.into_iter().map(record).collect::<Result<_>>().map_err(Step::Failed)
    }

    /// Does a work and stores what comes of it. Where somebody was quicker the work is done anew, until `deadline`.
    pub(crate) async fn write(
        &self,
        operation: &'static str,
        deadline: BootTime,
        work: &Work<'_>,
    ) -> Result<Committed> {
        let doubt = AtomicBool::new(false);
        let tries = async {
            for round in 0u32.. {
                if let Some(done) = self.write_in_turn(operation, work, &doubt).await? {
                    return Ok(done);
                }
                let most = PAUSE_MIN * 2u32.pow(round.min(PAUSE_DOUBLINGS_MAX));
                self.clock.sleep(most.mul_f64(self.chance.unit())).await;
            }
            Err(self.late(operation))
        };
        let done = self.in_time(operation, deadline, tries).await;
        // A request under way when the time was over may be done yet.
        done.map_err(|error| {
            let late = error.kind() == Kind::Timeout && doubt.load(Ordering::Acquire);
            if late { error.with_unknown_effect() } else { error }
        })
    }

    /// `None` where the state has changed meanwhile.
    async fn write_in_turn(
        &self,
        operation: &'static str,
        work: &Work<'_>,
        doubt: &AtomicBool,
    ) -> Result<Option<Committed>> {
        let _turn = self.turn.lock().await;
        if let Some(done) = self.write_on_known(operation, work, doubt).await? {
            return Ok(Some(done));
        }
        let view = self.view(operation).await?;
        let written = async {
            self.settle(operation, &view, work).await?;
            self.try_write(operation, &view, work, doubt).await
        };
        match written.await {
            Ok(done) => Ok(done),
            Err(Step::Stale) => Ok(None),
            Err(Step::Failed(error)) => Err(error),
        }
    }

    /// Stores what comes of a work on the state that was known last, and looks whether that is the present one while
    /// the chunks are stored. `None` where it is not, or where the work cannot be done on it.
    async fn write_on_known(
        &self,
        operation: &'static str,
        work: &Work<'_>,
        doubt: &AtomicBool,
    ) -> Result<Option<Committed>> {
        let Some(known) = self.known() else { return Ok(None) };
        let drafted = async {
            self.settle(operation, &known, work).await?;
            self.draft(operation, &known, work).await
        };
        let Ok((done, Some(made))) = drafted.await else { return Ok(None) };
        let (stored, present) = tokio::join!(self.store_chunks(operation, &made), self.view(operation));
        let is_known = |present: &Arc<View>| (present.epoch, present.cas) == (known.epoch, known.cas);
        match stored.and(present) {
            Ok(present) if is_known(&present) => {
                Ok(self.swap(operation, &known, made, doubt).await?.then_some(done))
            }
            other => {
                self.forget(made.ids());
                other.map(|_| None)
            }
        }
    }

    /// Stores what comes of a work on `view`, the present state. `None` where somebody was quicker.
    pub(crate) async fn try_write(
        &self,
        operation: &'static str,
        view: &View,
        work: &Work<'_>,
        doubt: &AtomicBool,
    ) -> Result<Option<Committed>, Step> {
        let (done, made) = self.draft(operation, view, work).await?;
        let Some(made) = made else { return Ok(Some(done)) };
        self.store_chunks(operation, &made).await?;
        Ok(self.swap(operation, view, made, doubt).await?.then_some(done))
    }

    /// Does a work on `view`, and says what must be stored for it: nothing where it changes nothing.
    async fn draft(
        &self,
        operation: &'static str,
        view: &View,
        work: &Work<'_>,
    ) -> Result<(Committed, Option<Made>), Step> {
        let leaves = self.leaves(operation, view, work.leaves(&view.root)).await?;
        let mut draft = Draft::new(&view.root, leaves, &*self.chance);
        let done = draft.apply(work)?;
        let made = if draft.is_changed() { Some(draft.finish()?) } else { None };
        Ok((done, made))
    }

    async fn store_chunks(&self, operation: &'static str, made: &Made) -> Result<()> {
        self.try_size(operation, made.root.len()).await?;
        let items: Vec<(String, Bytes)> =
            made.chunks.iter().map(|(id, item)| (chunk_key(*id), item.clone())).collect();
        self.wire.store(operation, &items).await
    }

    /// Makes what was made of `view` the present state, unless somebody was quicker.
    async fn swap(
        &self,
        operation: &'static str,
        view: &View,
        made: Made,
        doubt: &AtomicBool,
    ) -> Result<bool> {
        doubt.store(true, Ordering::Release);
        let swapped = self.wire.swap(operation, &root_key(view.epoch), &made.root, view.cas).await?;
        doubt.store(false, Ordering::Release);
        match swapped {
            Some(cas) => self.take_over(view, made, cas)?,
            None => self.forget(made.ids()),
        }
        Ok(swapped.is_some())
    }

    /// Sees to it that the server takes a root of so many bytes. It drops the former item where it refuses the new one as
    /// too large, and with the root all would be lost: so something as large is stored beside it before.
    pub(crate) async fn try_size(&self, operation: &'static str, bytes: usize) -> Result<()> {
        if bytes <= self.proven.load(Ordering::Acquire) {
            return Ok(());
        }
        let bytes = bytes.next_multiple_of(TRIAL_BYTES);
        let id = self.chance.bits();
        self.wire.store(operation, &[(chunk_key(id), Bytes::from(vec![0; bytes]))]).await?;
        self.forget([id]);
        self.proven.fetch_max(bytes, Ordering::AcqRel);
        Ok(())
    }

    /// Makes what was just stored the present state, and throws away what it replaced.
    fn take_over(&self, view: &View, made: Made, cas: u64) -> Result<()> {
        for (id, item) in made.chunks.iter().filter(|(id, _)| made.leaves.contains(id)) {
            // Read from its own bytes, so that it keeps none of the leaf before it.
            self.remember(*id, Arc::new(Leaf::decode(item)?));
        }
        let root = Root::decode(&made.root)?;
        let View { epoch, epoch_cas, .. } = *view;
        // No look of ours: it does not bring back an epoch that is known to be over.
        self.publish(0, View { epoch, root, epoch_cas, cas, former: 0 });
        let mut live = self.lock();
        made.stale.iter().for_each(|id| drop(live.leaves.remove(id)));
        drop(live);
        self.forget(made.stale);
        Ok(())
    }

    /// Removes chunks that no state names, in the background. Those that stay are never asked for again, and what
    /// nobody asks for is what memcached throws away first.
    fn forget(&self, ids: impl IntoIterator<Item = ChunkId>) {
        let keys: Vec<String> = ids.into_iter().map(chunk_key).collect();
        self.forget_keys(keys);
    }

    /// Removes items in the background.
    pub(crate) fn forget_keys(&self, keys: Vec<String>) {
        if keys.is_empty() {
            return;
        }
        let wire = self.wire.clone();
        tokio::spawn(async move {
            if let Err(error) = wire.remove("forget", &keys).await {
                tracing::debug!(%error, "chunks that nobody needs stay for now");
            }
        });
    }

    /// Returns until when a session surely has not expired, as far as is known.
    pub(crate) fn alive_until(&self, id: SessionId) -> BootTime {
        self.lock().alive.get(&id).copied().unwrap_or_default()
    }

    /// Remembers that a session does not expire before `until`.
    pub(crate) fn set_alive(&self, id: SessionId, until: BootTime) {
        let mut live = self.lock();
        let known = live.alive.entry(id).or_default();
        *known = until.max(*known);
    }

    /// Returns the leaves of `view` that are remembered.
    pub(crate) fn remembered(&self, view: &View) -> Vec<Arc<Leaf>> {
        let live = self.lock();
        view.root.leaves.iter().filter_map(|leaf| live.leaves.get(&leaf.id).cloned()).collect()
    }

    fn remember(&self, id: ChunkId, leaf: Arc<Leaf>) {
        self.lock().leaves.insert(id, leaf);
    }

    fn in_namespace(&self, error: Error) -> Error {
        error.with("namespace", &self.settings.namespace).with("server", &self.settings.address)
    }

    fn late(&self, operation: &'static str) -> Error {
        let message = format!("no answer of memcached within {} ms", self.settings.timeout.as_millis());
        Error::new(Kind::Timeout, operation, message).with("server", &self.settings.address)
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        // Nothing under the lock can panic; a poisoned one would still guard a whole state.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
