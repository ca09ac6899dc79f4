//! One subscriber connection per driver. It carries no data: it only wakes the watches, which then read the
//! log, so a lost message costs time and never a change.

use std::sync::Arc;
use std::time::Duration;

use althing_core::{BootTime, Result};
use tokio::sync::watch::{Receiver, Sender};
use tokio::task::JoinHandle;

use crate::settings::Endpoint;
use crate::store::Store;
use crate::wire::Ear;

/// How often a silent connection is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(1);
/// The pause after a failed attempt to subscribe; doubled for each further one, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What was heard from the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Rises with every new subscription: what was told before it may have been missed.
    pub(crate) subscriptions: u64,
    /// There is a subscription now.
    pub(crate) attended: bool,
    /// The highest revision told.
    pub(crate) revision: u64,
}

/// Listens for as long as it lives.
#[derive(Debug)]
pub(crate) struct Hub {
    heard: Sender<Heard>,
    task: JoinHandle<()>,
}

impl Hub {
    /// Begins to listen on the runtime of the caller.
    pub(crate) fn start(store: Arc<Store>) -> Hub {
        let heard = Sender::new(Heard::default());
        Hub { task: tokio::spawn(listen(store, heard.clone())), heard }
    }

    /// Returns what is heard, now and from now on.
    pub(crate) fn subscribe(&self) -> Receiver<Heard> {
        self.heard.subscribe()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(store: Arc<Store>, heard: Sender<Heard>) {
    let mut pause = PAUSE_MIN;
    loop {
        let deadline = store.clock.now() + store.settings.timeout;
        if let Some(Ok((ear, endpoint))) = store.within(deadline, open(&store, deadline)).await {
            pause = PAUSE_MIN;
            heard.send_modify(|heard| {
                heard.subscriptions += 1;
                heard.attended = true;
            });
            tokio::select! {
                () = attend(&store, ear, &heard) => {}
                () = store.left(&endpoint) => {}
            }
            heard.send_modify(|heard| heard.attended = false);
        }
        store.clock.sleep(store.chance.jitter(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Subscribes where scripts run: on another server nobody may speak.
async fn open(store: &Store, deadline: BootTime) -> Result<(Ear, Endpoint)> {
    let adopted = store.adopted("watch", deadline).await?;
    let ear = Ear::open(&adopted.target, store.channel()).await?;
    Ok((ear, adopted.target.endpoint.clone()))
}

/// Passes messages on until the connection ends or does not answer.
async fn attend(store: &Store, mut ear: Ear, heard: &Sender<Heard>) {
    loop {
        let quiet_until = store.clock.now() + PING_EVERY;
        match store.within(quiet_until, ear.next()).await {
            Some(Some(message)) => heard.send_modify(|heard| hear(heard, &message)),
            Some(None) => return,
            None => {
                let deadline = store.clock.now() + store.settings.timeout;
                if !matches!(store.within(deadline, ear.ping()).await, Some(Ok(()))) {
                    return;
                }
            }
        }
    }
}

fn hear(heard: &mut Heard, message: &[u8]) {
    match std::str::from_utf8(message).ok().and_then(|text| text.parse().ok()) {
        Some(revision) => heard.revision = heard.revision.max(revision),
        // Somebody else speaks on our channel; looking once too often does no harm.
        None => heard.subscriptions += 1,
    }
}
