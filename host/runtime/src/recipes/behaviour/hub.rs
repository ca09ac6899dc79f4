//! One watch over all that behaviours write, for all calls of this host that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use althing_core::{Delta, Key, Revision, limits};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::Host;
use crate::envelope::data_key;

/// Tells whoever listens what changed. The watch begins with the first listener.
#[derive(Debug)]
pub(crate) struct Hub {
    news: broadcast::Sender<Arc<News>>,
    started: AtomicBool,
}

/// What changed below `data/`.
#[derive(Debug)]
enum News {
    /// These keys, each at its revision.
    Changed(Vec<(Key, Revision)>),
    /// Nobody knows.
    Anything,
}

impl Default for Hub {
    fn default() -> Self {
        let news = broadcast::Sender::new(limits::SUBSCRIBER_EVENTS_MAX);
        Hub { news, started: AtomicBool::new(false) }
    }
}

/// Hears of every change from the moment it was made on.
#[derive(Debug)]
pub(crate) struct Listener(broadcast::Receiver<Arc<News>>);

impl Listener {
    /// Waits until something below `prefix` changed, other than by these writes.
    pub(crate) async fn changed(&mut self, prefix: &Key, except: &[(Key, Revision)]) {
        loop {
            match self.0.recv().await {
                Ok(news) => match &*news {
                    News::Anything => return,
                    News::Changed(changes) => {
                        let concerns = |change: &&(Key, Revision)| {
                            change.0.starts_with(prefix) && !except.contains(change)
                        };
                        if changes.iter().any(|change| concerns(&change)) {
                            return;
                        }
                    }
                },
                // Whoever lags behind, or is left without a watch, looks for itself.
                Err(RecvError::Lagged(_) | RecvError::Closed) => return,
            }
        }
    }
}

impl Host {
    /// Listens to changes from now on. What changed before the watch has begun is made up for: its first word is
    /// that anything may have changed.
    pub(crate) fn listen(self: &Arc<Self>) -> Listener {
        let listener = Listener(self.hub.news.subscribe());
        if !self.hub.started.swap(true, Ordering::SeqCst) {
            self.spawn(self.clone().watch_data());
        }
        listener
    }

    async fn watch_data(self: Arc<Self>) {
        self.follow(data_key(b""), |delta| {
            let news = match delta {
                Delta::Changes { changes, .. } => {
                    let changed = changes.iter().map(|change| (change.key().clone(), change.revision()));
                    News::Changed(changed.collect())
                }
                Delta::Resync { .. } => News::Anything,
            };
            // Nobody listening is no error.
            let _ = self.hub.news.send(Arc::new(news));
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn wakes(news: News, except: &[(Key, Revision)]) -> bool {
        let (sender, receiver) = broadcast::channel(4);
        sender.send(Arc::new(news)).unwrap();
        let mut listener = Listener(receiver);
        let prefix = data_key(b"a/");
        // What is queued is looked at in the first poll.
        timeout(Duration::ZERO, listener.changed(&prefix, except)).await.is_ok()
    }

    #[tokio::test]
    async fn wakes_for_what_others_wrote_below_the_prefix_and_whenever_nobody_knows() {
        let change = |key: &[u8]| (data_key(key), Revision(7));
        assert!(wakes(News::Changed(vec![change(b"b"), change(b"a/1")]), &[]).await);
        assert!(!wakes(News::Changed(vec![change(b"b"), change(b"a")]), &[]).await);
        assert!(!wakes(News::Changed(vec![change(b"a/1")]), &[change(b"a/1")]).await);
        assert!(wakes(News::Changed(vec![change(b"a/1")]), &[(data_key(b"a/1"), Revision(6))]).await);
        assert!(wakes(News::Anything, &[]).await);
    }
}
