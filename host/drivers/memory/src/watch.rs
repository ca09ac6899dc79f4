//! A watch: a place in the history, and how it wakes.

use std::fmt;

use althing_core::{BootTime, Clock, Delta, Key, Result, Revision, Watch};
use async_trait::async_trait;
use tokio::sync::watch::Receiver;

use crate::Memory;

/// A watcher of one prefix. Holds a place, not a queue: what it has not read yet stands in the history,
/// which is bounded, and who lags behind that is given a resync.
pub(crate) struct MemoryWatch {
    memory: Memory,
    prefix: Key,
    /// `None` before the snapshot with which a watch from the beginning begins, even of an empty store.
    seen: Option<Revision>,
    written: Receiver<Revision>,
}

impl MemoryWatch {
    pub(crate) fn new(memory: Memory, prefix: Key, from: Revision) -> Self {
        let written = memory.0.written.subscribe();
        MemoryWatch { memory, prefix, seen: (from != Revision::ZERO).then_some(from), written }
    }

    /// Returns the next delta, or when to look again if nothing is written before.
    fn look(&mut self) -> Result<Delta, Option<BootTime>> {
        // Marked as seen before the store is read: a commit after the read wakes us again.
        self.written.borrow_and_update();
        let (prefix, seen) = (&self.prefix, self.seen);
        let (delta, seen, deadline) = self.memory.with(|store| {
            let (delta, seen) = store.delta(prefix, seen);
            (delta, seen, store.next_deadline())
        });
        self.seen = Some(seen);
        delta.ok_or(deadline)
    }
}

#[async_trait]
impl Watch for MemoryWatch {
    async fn next(&mut self) -> Result<Delta> {
        loop {
            let deadline = match self.look() {
                Ok(delta) => return Ok(delta),
                Err(deadline) => deadline,
            };
            let clock = &self.memory.0.clock;
            // The sender lives in `memory`, so waiting for it cannot fail.
            tokio::select! {
                _ = self.written.changed() => {}
                () = wait_until(&**clock, deadline) => {}
            }
        }
    }
}

async fn wait_until(clock: &dyn Clock, deadline: Option<BootTime>) {
    match deadline {
        Some(deadline) => clock.sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl fmt::Debug for MemoryWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryWatch").field("prefix", &self.prefix).field("seen", &self.seen).finish()
    }
}
