//! A watch: a place in the log, and a look at the root again and again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{Delta, Error, Key, Kind, Result, Revision, Watch};
use async_trait::async_trait;
use tokio::sync::watch::Receiver;

use crate::store::{Step, Store, View};

/// The pause between two looks: the shortest after something changed, longer by half for each look that found nothing,
/// up to a quarter of the shortest lease. What this host writes itself is told at once.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// How often a look begins anew because somebody wrote while it read.
const STALE_MAX: usize = 64;
/// The first pause after an error; doubled for each further one in a row.
const ERROR_PAUSE: Duration = Duration::from_millis(10);
const ERROR_DOUBLINGS_MAX: u32 = 6;

/// A watcher of one prefix.
pub(crate) struct MemcachedWatch {
    store: Arc<Store>,
    news: Receiver<u64>,
    prefix: Key,
    /// `None` before the first snapshot.
    place: Option<Place>,
    pause: Duration,
    /// Errors in a row.
    errors: u32,
}

/// Everything up to `revision` of this epoch was seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) epoch: u128,
    pub(crate) revision: u64,
}

impl MemcachedWatch {
    pub(crate) fn new(store: Arc<Store>, prefix: Key, place: Option<Place>) -> Self {
        let news = store.subscribe();
        MemcachedWatch { store, news, prefix, place, pause: PAUSE_MIN, errors: 0 }
    }

    /// Looks once. Nothing is marked as seen before there is nothing left to wait for.
    async fn look(&mut self) -> Result<Option<Delta>> {
        for _ in 0..STALE_MAX {
            match self.delta().await {
                Ok((delta, place)) => {
                    self.place = Some(place);
                    return Ok(delta);
                }
                Err(Step::Failed(error)) => return Err(error),
                Err(Step::Stale) => {}
            }
        }
        Err(Error::new(Kind::Unavailable, "watch", "the records change faster than they can be read"))
    }

    async fn delta(&self) -> Result<(Option<Delta>, Place), Step> {
        let view = self.present().await?;
        if let Some(place) = self.place.filter(|place| place.epoch == view.epoch) {
            if place.revision == view.root.revision {
                return Ok((None, place));
            }
            if let Some(news) = self.store.changes(&view, place.revision, &self.prefix).await? {
                let delta = Delta::Changes { changes: news.changes, revision: Revision(news.reached) };
                let place = Place { revision: news.reached, ..place };
                let is_empty = matches!(&delta, Delta::Changes { changes, .. } if changes.is_empty());
                return Ok(((!is_empty).then_some(delta), place));
            }
        }
        let records = self.store.snapshot(&view, &self.prefix).await?;
        let place = Place { epoch: view.epoch, revision: view.root.revision };
        Ok((Some(Delta::Resync { records, revision: Revision(place.revision) }), place))
    }

    /// Returns the present state, whose sessions live. What is read of it then takes as long as it takes: each exchange
    /// for itself ends in time.
    async fn present(&self) -> Result<Arc<View>, Step> {
        let present = async {
            let view = self.store.view("watch").await?;
            let alive = self.store.check_alive("watch", &view, view.root.sessions.keys().copied()).await;
            Ok(alive.map(|()| view))
        };
        self.store.in_time("watch", self.store.deadline(), present).await?
    }

    /// Waits until this host has written something, or `pause` is over.
    async fn rest(&mut self, pause: Duration) {
        let seen = self.place.map_or(0, |place| place.revision);
        let (clock, pause) = (self.store.clock.clone(), self.store.chance.jitter(pause));
        // The sender lives in the store, so waiting for it cannot fail.
        tokio::select! {
            _ = self.news.wait_for(|revision| *revision > seen) => {}
            () = clock.sleep(pause) => {}
        }
    }
}

#[async_trait]
impl Watch for MemcachedWatch {
    async fn next(&mut self) -> Result<Delta> {
        if self.errors > 0 {
            let doublings = (self.errors - 1).min(ERROR_DOUBLINGS_MAX);
            self.rest(ERROR_PAUSE * 2u32.pow(doublings)).await;
        }
        loop {
            let looked = self.look().await;
            self.errors = if looked.is_ok() { 0 } else { self.errors.saturating_add(1) };
            if let Some(delta) = looked? {
                self.pause = PAUSE_MIN;
                return Ok(delta);
            }
            self.rest(self.pause).await;
            self.pause = (self.pause * 3 / 2).min(PAUSE_MAX);
        }
    }
}

impl fmt::Debug for MemcachedWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemcachedWatch").field("prefix", &self.prefix).field("place", &self.place).finish()
    }
}
