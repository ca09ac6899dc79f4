//! One connection per driver that listens. It carries no data: it only wakes the watches, which then read what
//! changed, so a lost message costs time and never a change.

use std::sync::Arc;
use std::time::Duration;

use althing_core::Result;
use tokio::sync::watch::{Receiver, Sender};
use tokio::task::JoinHandle;

use crate::store::Store;
use crate::wire::Ear;

/// How often a silent connection is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(1);
/// How often a word is said to ourselves, and how long we listen after each time. A pooler that lends connections for a
/// transaction each never delivers it; a server that has much to do may be slow once.
const PROBES_MAX: u32 = 3;
const PROBE_DEADLINE: Duration = Duration::from_secs(1);
/// The pause after a failed attempt to listen; doubled for each further one, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What was heard from the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Rises with every new connection: what was told before it may have been missed.
    pub(crate) connections: u64,
    /// There is a connection now that hears.
    pub(crate) attended: bool,
    /// How many messages came.
    pub(crate) messages: u64,
    /// The highest revision told.
    pub(crate) revision: u64,
}

/// Listens for as long as it lives.
#[derive(Debug)]
pub(crate) struct Hub {
    heard: Sender<Heard>,
    task: Option<JoinHandle<()>>,
}

impl Hub {
    /// Begins to listen on the runtime of the caller, if the server lets it: else the watches look by themselves, and
    /// one line says so.
    pub(crate) async fn start(store: &Arc<Store>) -> Result<Hub> {
        let heard = Sender::new(Heard::default());
        let deadline = store.clock.now() + store.settings.timeout;
        let ear = store.within(deadline, open(store)).await.unwrap_or_else(|| Err(store.late("connect")))?;
        let task = match ear {
            Some(ear) => {
                attend_from_now(&heard);
                Some(tokio::spawn(listen(store.clone(), ear, heard.clone())))
            }
            None => {
                tracing::warn!(
                    server = store.settings.address(),
                    "LISTEN hears nothing here, as behind a pooler of transactions: watches poll. \
                     Name the server itself, or say listen=false"
                );
                None
            }
        };
        Ok(Hub { heard, task })
    }

    /// Makes one that hears nothing.
    pub(crate) fn deaf() -> Hub {
        Hub { heard: Sender::new(Heard::default()), task: None }
    }

    /// Tells whether it listens at all.
    pub(crate) fn listens(&self) -> bool {
        self.task.is_some()
    }

    /// Returns what is heard, now and from now on.
    pub(crate) fn subscribe(&self) -> Receiver<Heard> {
        self.heard.subscribe()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn attend_from_now(heard: &Sender<Heard>) {
    heard.send_modify(|heard| {
        heard.connections += 1;
        heard.attended = true;
    });
}

/// Makes a connection and says something on another one. `None` where that is not heard.
async fn open(store: &Store) -> Result<Option<Ear>> {
    let deadline = store.clock.now() + store.settings.timeout;
    let adopted = store.adopted("watch", deadline).await?;
    let placed = |error| store.placed(error);
    let mut ear = Ear::open(&store.settings, &adopted.channel).await.map_err(placed)?;
    let word = format!("word {:032x}", store.chance.bits());
    // All of it ends sooner than a call gives up: not to be told is no failure.
    let patience = PROBE_DEADLINE.min(store.settings.timeout / (PROBES_MAX + 1));
    for _ in 0..PROBES_MAX {
        adopted.wire.notify(&adopted.channel, &word).await.map_err(placed)?;
        let heard = store.within(store.clock.now() + patience, hears(&mut ear, &word)).await;
        if heard == Some(true) {
            return Ok(Some(ear));
        }
    }
    Ok(None)
}

/// Waits for a word. False where the connection ends.
async fn hears(ear: &mut Ear, word: &str) -> bool {
    while let Some(message) = ear.next().await {
        if message == word {
            return true;
        }
    }
    false
}

async fn listen(store: Arc<Store>, ear: Ear, heard: Sender<Heard>) {
    let (mut ear, mut pause) = (Some(ear), PAUSE_MIN);
    loop {
        if let Some(ear) = ear.take() {
            pause = PAUSE_MIN;
            attend(&store, ear, &heard).await;
            heard.send_modify(|heard| heard.attended = false);
        }
        store.clock.sleep(store.chance.jitter(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
        let deadline = store.clock.now() + store.settings.timeout;
        if let Some(Ok(Some(opened))) = store.within(deadline, open(&store)).await {
            attend_from_now(&heard);
            ear = Some(opened);
        }
    }
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

fn hear(heard: &mut Heard, message: &str) {
    heard.messages += 1;
    // Anything else is the word of a host that has just begun to listen.
    if let Ok(revision) = message.parse() {
        heard.revision = heard.revision.max(revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_highest_revision_and_passes_over_words() {
        let mut heard = Heard::default();
        for message in ["7", "5", "word 00000000000000000000000000000abc", ""] {
            hear(&mut heard, message);
        }
        assert_eq!(heard, Heard { messages: 4, revision: 7, ..Heard::default() });
    }
}
