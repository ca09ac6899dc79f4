//! A watch: a place in the history, and how it wakes.

use std::fmt;
use std::sync::Arc;

use althing_core::{Delta, Key, Result, Revision, Watch};
use async_trait::async_trait;
use tokio::sync::watch::Receiver;

use crate::shared::Shared;

/// A watcher of one prefix. Holds a place, not a queue: what it has not read yet stands in the history,
/// which is bounded, and who lags behind that is given a resync. Keeps neither the file nor the driver open.
pub(crate) struct EmbeddedWatch {
    shared: Arc<Shared>,
    prefix: Key,
    /// `None` before the snapshot with which a watch from the beginning begins, even of an empty file.
    seen: Option<Revision>,
    written: Receiver<Revision>,
}

impl EmbeddedWatch {
    pub(crate) fn new(shared: Arc<Shared>, prefix: Key, from: Revision) -> Self {
        let written = shared.subscribe();
        EmbeddedWatch { shared, prefix, seen: (from != Revision::ZERO).then_some(from), written }
    }

    fn look(&mut self) -> Result<Option<Delta>> {
        // Marked as seen before the image is read: a commit after the read wakes us again.
        self.written.borrow_and_update();
        let (delta, seen) = self.shared.read("next", |store| store.delta(&self.prefix, self.seen))?;
        self.seen = Some(seen);
        Ok(delta)
    }
}

#[async_trait]
impl Watch for EmbeddedWatch {
    async fn next(&mut self) -> Result<Delta> {
        loop {
            if let Some(delta) = self.look()? {
                return Ok(delta);
            }
            // The sender lives in `shared`, so waiting for it cannot fail.
            let _ = self.written.changed().await;
        }
    }
}

impl fmt::Debug for EmbeddedWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedWatch").field("prefix", &self.prefix).field("seen", &self.seen).finish()
    }
}
