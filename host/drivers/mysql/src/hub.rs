//! One task per driver that looks for news while somebody watches, however many watches there are. It carries no data:
//! it only wakes the watches, which then read what changed.

use std::sync::Arc;
use std::time::Duration;

use althing_core::Result;
use tokio::sync::Notify;
use tokio::sync::watch::Receiver;
use tokio::task::JoinHandle;

use crate::operation::Operation;
use crate::store::Store;

/// What is known of the namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The highest revision anybody here was told.
    pub(crate) revision: u64,
    /// The last look was answered.
    pub(crate) attended: bool,
    /// Rises each time looks are answered again.
    pub(crate) recoveries: u64,
}

/// Looks for as long as it lives.
#[derive(Debug)]
pub(crate) struct Hub {
    store: Arc<Store>,
    wanted: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Hub {
    /// Makes one on the runtime of the caller. It looks only while somebody watches.
    pub(crate) fn start(store: &Arc<Store>) -> Hub {
        let wanted = Arc::new(Notify::new());
        let task = tokio::spawn(attend(store.clone(), wanted.clone()));
        Hub { store: store.clone(), wanted, task }
    }

    /// Returns what is known, now and from now on.
    pub(crate) fn subscribe(&self) -> Receiver<Heard> {
        let heard = self.store.heard.subscribe();
        self.wanted.notify_one();
        heard
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn attend(store: Arc<Store>, wanted: Arc<Notify>) {
    let (shortest, longest) = store.settings.poll;
    let mut news = store.heard.subscribe();
    let mut pause = shortest;
    loop {
        // One of them is our own.
        while store.heard.receiver_count() < 2 {
            wanted.notified().await;
        }
        let before = news.borrow_and_update().revision;
        let looked = look(&store).await;
        note(&store, looked.is_ok());
        let known = news.borrow_and_update().revision;
        pause = if known > before { shortest } else { (pause * 3 / 2).min(longest) };
        let due = looked.ok().flatten().unwrap_or(pause);
        let is_news = tokio::select! {
            // The sender lives in the store, so waiting for it cannot fail.
            told = news.wait_for(|heard| heard.revision > known) => told.is_ok(),
            () = store.clock.sleep(store.chance.jitter(pause.min(due))) => false,
        };
        if is_news {
            // What comes next comes soon; but who writes himself need not be looked after each time.
            pause = shortest;
            store.clock.sleep(shortest).await;
        }
    }
}

/// Asks for the newest revision and ends the sessions that are due. Returns when the next one may be.
async fn look(store: &Store) -> Result<Option<Duration>> {
    let (mut answer, _) = store.call(Operation::Look, Vec::new()).await?;
    let wait =
        answer.maybe_number("wait_ms")?.map(|wait| Duration::from_millis(wait.try_into().unwrap_or(0)));
    if wait == Some(Duration::ZERO) {
        store.call(Operation::Reap, Vec::new()).await?;
        return Ok(None);
    }
    Ok(wait)
}

fn note(store: &Store, is_answered: bool) {
    store.heard.send_if_modified(|heard| {
        let is_other = heard.attended != is_answered;
        heard.attended = is_answered;
        heard.recoveries += u64::from(is_other && is_answered);
        is_other
    });
}
