//! The calls: each on a thread that may block, within a deadline, and with what it may have done.

use std::mem;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use althing_core::{
    BootTime, Cause, Chance, Change, Clock, Committed, Delta, Error, Key, Kind, Lease, Page, Record, Result,
    Revision, SessionId, Txn,
};
use tokio::sync::{Semaphore, watch};

use crate::disk::failed;
use crate::entry::Entry;
use crate::image::Outcome;
use crate::place::Place;
use crate::session::{self, Held};
use crate::settings::Settings;
use crate::state::{Moment, State};

/// Calls that stand on a thread at once; further ones wait. On a disk that answers nobody they stay there.
const CALLS_MAX: usize = 64;
/// The same for renewals, which wait for no sync as a rule, and must not stand in line behind those that do.
const BEATS_MAX: usize = 8;
/// What may have come to a log since the next one took over all, when it is sealed.
const LITTLE_BYTES: u64 = 64 << 10;
/// How many names are tried for a new session.
const NAMES_MAX: u32 = 16;

/// A namespace, and all who use it in this process.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
    // A std Mutex: only held on threads that may block, and while the disk syncs only to go on from one log to the next.
    state: Mutex<State>,
    /// Rises when there is something to be shown.
    pulse: watch::Sender<u64>,
    calls: Arc<Semaphore>,
    beats: Arc<Semaphore>,
    compacting: AtomicBool,
}

/// Which calls a call stands in line with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lane {
    Call,
    Beat,
}

/// How far a call has come, known to the one who waits and the one who works.
#[derive(Debug, Default)]
pub(crate) struct Progress(AtomicU8);

const WAITS: u8 = 0;
const SENT: u8 = 1;
const GIVEN_UP: u8 = 2;

impl Progress {
    /// Says that something is written now. Fails where nobody waits for it any more.
    fn send(&self) -> Result<()> {
        match self.0.compare_exchange(WAITS, SENT, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) | Err(SENT) => Ok(()),
            Err(_) => Err(Error::new(Kind::Timeout, "write", "given up before anything was written")),
        }
    }

    /// Says that nobody waits any more. False if something may have been written.
    fn give_up(&self) -> bool {
        self.0.compare_exchange(WAITS, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Up to where a watcher has seen everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) epoch: u64,
    pub(crate) revision: Revision,
}

/// What a look at the log came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// When the next session ends unless it is renewed.
    pub(crate) next: Option<BootTime>,
    /// Everything that was read is on the disk, and shown.
    pub(crate) settled: bool,
}

impl Store {
    /// Takes the directory into use and reads the namespace.
    pub(crate) fn open(settings: Settings, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Result<Store> {
        let place = Place::take(&settings)?;
        let state = State::open(place, clock.clone(), chance.clone())?;
        Ok(Store {
            settings,
            clock,
            chance,
            state: Mutex::new(state),
            pulse: watch::Sender::new(0),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            beats: Arc::new(Semaphore::new(BEATS_MAX)),
            compacting: AtomicBool::new(false),
        })
    }

    /// Does `work` on a thread that may block. When that takes too long the answer is a time-out, of unknown effect if
    /// something may have been written. Dropped, `work` goes on.
    pub(crate) async fn call<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        lane: Lane,
        work: impl FnOnce(&Arc<Store>, &Progress) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let deadline = self.clock.now() + self.settings.timeout;
        let progress = Arc::new(Progress::default());
        let lane = match lane {
            Lane::Call => self.calls.clone(),
            Lane::Beat => self.beats.clone(),
        };
        let (store, seen) = (self.clone(), progress.clone());
        let task = async move {
            // The semaphore is never closed.
            let place = lane.acquire_owned().await.ok();
            let work = move || {
                let result = work(&store, &seen);
                drop(place);
                result
            };
            let done = tokio::task::spawn_blocking(work).await;
            done.unwrap_or_else(|_| {
                Err(Error::new(Kind::Closed, operation, "the runtime ends").with_unknown_effect())
            })
        };
        tokio::select! {
            biased;
            result = task => result,
            () = self.clock.sleep_until(deadline) => {
                let error = late(operation, self.settings.timeout, &self.settings.directory);
                Err(if progress.give_up() { error } else { error.with_unknown_effect() })
            }
        }
    }

    /// Returns what rises when there is something to be shown.
    pub(crate) fn pulse(&self) -> watch::Receiver<u64> {
        self.pulse.subscribe()
    }

    /// Wakes the watches.
    pub(crate) fn wake(&self) {
        self.pulse.send_modify(|count| *count += 1);
    }

    /// Returns the place of the namespace.
    pub(crate) fn place(&self) -> Place {
        self.lock().place.clone()
    }

    /// Opens a session of ours.
    pub(crate) fn begin(&self, lease: Duration, progress: &Progress) -> Result<SessionId> {
        let mut state = self.lock();
        state.refresh("open", false)?;
        // Locked before anybody can know of it, so that nobody takes it for an orphan.
        let (id, held) = self.hold(&state.place)?;
        let entry = Entry::Open { above: state.above(), id, lease, deadline: self.clock.now() + lease };
        // On an error the lock is dropped: the session, if it was made, ends as an orphan.
        state.write("open", &entry, || progress.send())?;
        state.held.insert(id, held);
        let moment = state.moment("open");
        drop(state);
        let finished = moment.and_then(|moment| self.finish("open", &moment));
        finished.map(|()| id).map_err(Error::with_unknown_effect)
    }

    fn hold(&self, place: &Place) -> Result<(SessionId, Held)> {
        for _ in 0..NAMES_MAX {
            let id = SessionId(self.chance.bits());
            if let Some(held) = session::hold(place, id)? {
                return Ok((id, held));
            }
        }
        Err(Error::new(Kind::Busy, "open", "the files of new sessions are swept away at once"))
    }

    /// Renews a session. Waits for no sync of its own: what a renewal says is worth nothing after the machine went down.
    pub(crate) fn renew(self: &Arc<Self>, id: SessionId, progress: &Progress) -> Result<Lease> {
        let mut state = self.lock();
        state.refresh("renew", false)?;
        let Some(lease) = state.image.lease(id) else { return Err(lost("renew", id)) };
        let entry = Entry::Beat { id, deadline: self.clock.now() + lease };
        let outcome = state.write("renew", &entry, || progress.send())?;
        let is_long = state.is_long();
        drop(state);
        self.compact_if(is_long);
        match outcome {
            Outcome::Alive(min) => Ok(Lease { min, store_time: None }),
            _ => Err(lost("renew", id)),
        }
    }

    /// Ends a session.
    pub(crate) fn end(&self, id: SessionId, progress: &Progress) -> Result<()> {
        let mut state = self.lock();
        state.refresh("close", false)?;
        if state.image.is_alive(id) {
            let entry = Entry::End { id, due: None, cause: Cause::Closed };
            state.write("close", &entry, || progress.send())?;
        }
        session::forget(&state.place, id);
        let moment = state.moment("close");
        drop(state);
        moment.and_then(|moment| self.finish("close", &moment)).map_err(Error::with_unknown_effect)
    }

    /// Writes a transaction.
    pub(crate) fn commit(self: &Arc<Self>, txn: Txn, progress: &Progress) -> Result<Committed> {
        let mut state = self.lock();
        state.refresh("commit", false)?;
        let outcome = match state.image.refusal(&txn) {
            // Refused now: nothing has to be written to know it.
            Some(refusal) => refusal,
            None if txn.writes.is_empty() => {
                Outcome::Committed(Committed { revision: state.image.revision(), stamps: Vec::new() })
            }
            None => {
                let entry = Entry::Commit { above: state.above(), txn };
                state.write("commit", &entry, || progress.send())?
            }
        };
        let (moment, is_long) = (state.moment("commit"), state.is_long());
        drop(state);
        self.compact_if(is_long);
        match outcome {
            Outcome::Committed(committed) => {
                let finished = moment.and_then(|moment| self.finish("commit", &moment));
                finished.map(|()| committed).map_err(Error::with_unknown_effect)
            }
            Outcome::Conflict(key) => {
                Err(Error::new(Kind::Conflict, "commit", "somebody else wrote first").with("key", key))
            }
            Outcome::Lost(id) => Err(lost("commit", id)),
            other => Err(Error::new(Kind::Internal, "commit", format!("a commit came to {other:?}"))),
        }
    }

    /// Reads a record.
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.read("get", |state| state.image.get(key))
    }

    /// Reads a page.
    pub(crate) fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Page> {
        self.read("list", |state| state.image.list(prefix, after, limit))
    }

    /// Returns the epoch in which a watch begins.
    pub(crate) fn epoch(&self) -> Result<u64> {
        let mut state = self.lock();
        state.refresh("watch", false)?;
        Ok(state.epoch)
    }

    /// Returns what a watcher is shown next, if there is anything, and what he has then seen.
    pub(crate) fn step(&self, prefix: &Key, seen: Option<Seen>) -> Result<(Option<Delta>, Seen)> {
        let mut state = self.lock();
        state.refresh("watch", false)?;
        let epoch = state.epoch;
        let seen = seen.filter(|seen| seen.epoch == epoch);
        let changes = seen.and_then(|seen| state.image.changes(prefix, seen.revision, state.shown));
        if let Some((changes, revision)) = changes {
            return Ok((delta(changes, revision), Seen { epoch, revision }));
        }
        let (snapshot, moment) = (state.image.snapshot(prefix), state.moment("watch")?);
        drop(state);
        self.finish("watch", &moment)?;
        Ok((Some(snapshot), Seen { epoch, revision: moment.revision }))
    }

    /// Reads what is new, ends what is over, and shows what is on the disk. What another process has written and not
    /// synced yet is synced here only with `settle`.
    pub(crate) fn look(&self, try_locks: bool, settle: bool) -> Result<Look> {
        let mut state = self.lock();
        state.refresh("watch", try_locks)?;
        let (moment, next) = (state.moment("watch")?, state.image.next_deadline());
        drop(state);
        let settled = settle || moment.tape.is_settled(moment.end);
        if settled {
            self.finish("watch", &moment)?;
        }
        Ok(Look { next, settled })
    }

    /// Reads something of the present state, and returns it when that state is on the disk.
    fn read<T>(&self, operation: &'static str, work: impl FnOnce(&State) -> T) -> Result<T> {
        let mut state = self.lock();
        state.refresh(operation, false)?;
        let (answer, moment) = (work(&state), state.moment(operation)?);
        drop(state);
        self.finish(operation, &moment)?;
        Ok(answer)
    }

    /// Returns when a moment is on the disk, and where the others will find it.
    fn finish(&self, operation: &'static str, moment: &Moment) -> Result<()> {
        let settled = moment.tape.settle(moment.end);
        settled.map_err(|error| failed(operation, "sync the log in", &self.settings.directory, error))?;
        let mut state = self.lock();
        // The log of that moment may have been replaced meanwhile: by the next one, or by a stranger.
        state.catch_up(operation, None)?;
        if state.moment(operation)?.incarnation != moment.incarnation {
            let message = "the directory was replaced while this was written";
            return Err(Error::new(Kind::Unavailable, operation, message));
        }
        if state.epoch == moment.epoch && state.shown < moment.revision {
            state.shown = moment.revision;
            self.wake();
        }
        Ok(())
    }

    /// Begins the log anew where it is long, beside whoever is served meanwhile.
    fn compact_if(self: &Arc<Self>, is_long: bool) {
        if !is_long || self.compacting.swap(true, Ordering::AcqRel) {
            return;
        }
        let store = self.clone();
        tokio::task::spawn_blocking(move || {
            let done = store.compact();
            if let Err(error) = done {
                tracing::warn!(%error, "the log could not be begun anew; it goes on growing");
            }
            store.compacting.store(false, Ordering::Release);
        });
    }

    /// Everything is written before the log is sealed, and what came meanwhile too: from the seal on everyone waits.
    fn compact(&self) -> Result<()> {
        let Some((mut draft, parts)) = self.lock().draft()? else { return Ok(()) };
        parts.iter().try_for_each(|part| draft.write("compact", part))?;
        let mut rest = u64::MAX;
        // Not in vain: where others write as fast as this, less will not be left.
        while rest > LITTLE_BYTES {
            draft.sync("compact")?;
            let before = mem::replace(&mut rest, draft.catch_up("compact")?);
            if rest > before / 2 {
                break;
            }
        }
        self.lock().seal(draft)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that runs under the lock can panic; a poisoned lock would still guard a state to catch up from.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn delta(changes: Vec<Change>, revision: Revision) -> Option<Delta> {
    (!changes.is_empty()).then_some(Delta::Changes { changes, revision })
}

/// Makes the error that there was no answer for so long.
pub(crate) fn late(operation: &'static str, longest: Duration, directory: &Path) -> Error {
    Error::new(Kind::Timeout, operation, format!("no answer of the disk within {longest:?}"))
        .with("path", directory.display())
        .advise("Look after the disk, or give it longer with timeout=")
}

fn lost(operation: &'static str, id: SessionId) -> Error {
    Error::new(Kind::SessionLost, operation, "the session has ended").with("session", id)
}
