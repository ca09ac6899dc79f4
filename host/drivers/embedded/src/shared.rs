//! What the driver, its watches and the writer share: the image, and who is woken when it changes.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use althing_core::{Chance, Clock, Error, Kind, Result, Revision};
use tokio::sync::watch::{Receiver, Sender};

use crate::store::Store;

/// The image of the namespace while its file is ours.
pub(crate) struct Shared {
    /// What is synced to the disk lasts.
    pub(crate) durable: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
    // A std Mutex: it is held for operations in memory only, never over an await nor while the disk works.
    state: Mutex<State>,
    /// The revision shown last; wakes the watches.
    written: Sender<Revision>,
}

#[derive(Debug)]
struct State {
    store: Store,
    /// False from before the file is let go: nothing is read or renewed here that another process may have changed.
    open: bool,
}

impl Shared {
    pub(crate) fn new(store: Store, durable: bool, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Shared {
        let written = Sender::new(store.revision());
        Shared { durable, clock, chance, state: Mutex::new(State { store, open: true }), written }
    }

    /// Reads or renews; fails with `Closed` once the file is not ours any more.
    pub(crate) fn read<T>(&self, operation: &'static str, work: impl FnOnce(&mut Store) -> T) -> Result<T> {
        let mut state = self.lock();
        if !state.open {
            return Err(closed(operation));
        }
        Ok(work(&mut state.store))
    }

    /// Works on the image for the writer, the only one who changes records.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Store) -> T) -> T {
        work(&mut self.lock().store)
    }

    /// Wakes the watches for what the image holds by now.
    pub(crate) fn show(&self) {
        let revision = self.with(|store| store.revision());
        self.written.send_replace(revision);
    }

    pub(crate) fn subscribe(&self) -> Receiver<Revision> {
        self.written.subscribe()
    }

    /// Ends all reads, renewals and watches.
    pub(crate) fn close(&self) {
        self.lock().open = false;
        self.written.send_modify(|_| {});
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that runs under the lock can panic; a poisoned lock would still guard a whole state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error that the file is not ours any more. Nothing was written.
pub(crate) fn closed(operation: &'static str) -> Error {
    Error::new(Kind::Closed, operation, "the file was closed")
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("revision", &*self.written.borrow()).finish_non_exhaustive()
    }
}
