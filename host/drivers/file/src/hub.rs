//! One listener per driver: it looks at the log whenever something happens in the directory, and ends the sessions of
//! processes that died. What it hears carries no data, so an event that is lost costs time and never a change.

use std::sync::Arc;
use std::time::Duration;

use althing_core::Result;
use tokio::task::JoinHandle;

use crate::disk::Ear;
use crate::store::{Lane, Look, Store};

/// How often the log is looked at although nothing was heard, and the locks of all sessions are tried.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The same where the kernel lets us hear nothing, and how often until it is asked again.
const LOOK_DEAF_EVERY: Duration = Duration::from_millis(50);
const LOOKS_DEAF: u32 = 100;
/// How long another process has to sync what it wrote before it is synced here.
const PATIENCE: Duration = Duration::from_millis(20);
/// The kernel tells that a file is closed before it frees its lock.
const AFTER_CLOSE: Duration = Duration::from_millis(5);

/// Listens for as long as it lives.
#[derive(Debug)]
pub(crate) struct Hub {
    task: JoinHandle<()>,
}

impl Hub {
    /// Begins to listen on the runtime of the caller.
    pub(crate) fn start(store: Arc<Store>) -> Hub {
        Hub { task: tokio::spawn(listen(store)) }
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(store: Arc<Store>) {
    let mut was_deaf = false;
    loop {
        let place = store.place();
        match Ear::open(&place.folder, &place.sessions()) {
            Ok(ear) => {
                was_deaf = false;
                attend(&store, &ear).await;
            }
            Err(error) => {
                if !was_deaf {
                    tracing::warn!(%error, path = %place.folder.display(), "inotify hears nothing here: watches poll");
                }
                was_deaf = true;
                poll(&store).await;
            }
        }
        // Whoever watches sees for himself what is wrong.
        store.wake();
        store.clock.sleep(LOOK_DEAF_EVERY).await;
    }
}

/// Looks at the log whenever something is heard, until that fails or there is nothing left to listen to.
async fn attend(store: &Arc<Store>, ear: &Ear) {
    let (mut try_locks, mut try_again, mut waits_since) = (true, false, None);
    loop {
        let now = store.clock.now();
        let settle = waits_since.is_some_and(|since| now.since(since) >= PATIENCE);
        let Ok(look) = look(store, try_locks, settle).await else { return };
        waits_since = if look.settled { None } else { waits_since.or(Some(now)) };
        let longest = match (look.settled, try_again) {
            (false, _) => PATIENCE,
            (true, true) => AFTER_CLOSE,
            (true, false) => LOOK_EVERY,
        };
        let until = look.next.map_or(now + longest, |next| next.min(now + longest));
        tokio::select! {
            heard = ear.next() => {
                if heard.gone {
                    return;
                }
                try_again |= heard.closed;
                try_locks = try_again;
            }
            () = store.clock.sleep_until(until) => (try_locks, try_again) = (true, false),
        }
    }
}

/// Looks at the log again and again, for a while or until that fails.
async fn poll(store: &Arc<Store>) {
    for _ in 0..LOOKS_DEAF {
        if look(store, false, true).await.is_err() {
            return;
        }
        store.clock.sleep(LOOK_DEAF_EVERY).await;
    }
}

async fn look(store: &Arc<Store>, try_locks: bool, settle: bool) -> Result<Look> {
    store.call("watch", Lane::Call, move |store, _| store.look(try_locks, settle)).await
}
