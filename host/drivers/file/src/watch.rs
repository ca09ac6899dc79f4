//! A watch: a place in what changed, looked at again whenever the hub wakes it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{Delta, Key, Result, Watch};
use async_trait::async_trait;
use tokio::sync::watch::Receiver;

use crate::hub::Hub;
use crate::store::{Lane, Seen, Store};

/// The pause after an error; doubled for each further one in a row, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_DOUBLINGS_MAX: u32 = 5;

/// A watcher of one prefix.
pub(crate) struct FileWatch {
    store: Arc<Store>,
    // Kept so that it goes on listening while only a watch is left.
    _hub: Arc<Hub>,
    pulse: Receiver<u64>,
    prefix: Key,
    /// `None` before the first snapshot.
    seen: Option<Seen>,
    /// Errors in a row.
    errors: u32,
}

impl FileWatch {
    pub(crate) fn new(store: Arc<Store>, hub: Arc<Hub>, prefix: Key, seen: Option<Seen>) -> FileWatch {
        let pulse = store.pulse();
        FileWatch { store, _hub: hub, pulse, prefix, seen, errors: 0 }
    }

    async fn step(&mut self) -> Result<Option<Delta>> {
        let (prefix, seen) = (self.prefix.clone(), self.seen);
        let (delta, seen) =
            self.store.call("watch", Lane::Call, move |store, _| store.step(&prefix, seen)).await?;
        self.seen = Some(seen);
        Ok(delta)
    }
}

#[async_trait]
impl Watch for FileWatch {
    async fn next(&mut self) -> Result<Delta> {
        if self.errors > 0 {
            let doublings = (self.errors - 1).min(PAUSE_DOUBLINGS_MAX);
            let pause = self.store.chance.jitter(PAUSE_MIN * 2u32.pow(doublings));
            self.store.clock.sleep(pause).await;
        }
        loop {
            // Marked as seen before the state is looked at: what comes after the look wakes us again.
            self.pulse.borrow_and_update();
            match self.step().await {
                Ok(delta) => {
                    self.errors = 0;
                    if let Some(delta) = delta {
                        return Ok(delta);
                    }
                    // The sender lives in `store`, so waiting for it cannot fail.
                    let _ = self.pulse.changed().await;
                }
                Err(error) => {
                    self.errors = self.errors.saturating_add(1);
                    return Err(error);
                }
            }
        }
    }
}

impl fmt::Debug for FileWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileWatch").field("prefix", &self.prefix).field("seen", &self.seen).finish()
    }
}
