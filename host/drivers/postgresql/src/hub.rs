//! One connection per driver that listens. It carries no data: it only wakes the watches, which then read what
//! changed, so a lost message costs time and never a change.

use std::collections::BTreeMap;
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

/// How many beginnings of keys are told apart. With more of them, every watch looks once.
const HEADS_MAX: usize = 256;

/// What was heard from the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) count: Count,
    /// There is a connection now that hears.
    pub(crate) attended: bool,
    /// The highest revision told, by how the keys begin that changed at it, in hexadecimal.
    heads: BTreeMap<String, u64>,
}

/// How much was heard until some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Rises with every new connection: what was told before it may have been missed.
    pub(crate) connections: u64,
    pub(crate) messages: u64,
}

impl Heard {
    /// Returns the highest revision told of keys that may begin so; `prefix` is in hexadecimal.
    pub(crate) fn revision(&self, prefix: &str) -> u64 {
        let may_be = |head: &str| head.starts_with(prefix) || prefix.starts_with(head);
        let told = self.heads.iter().filter(|(head, _)| may_be(head));
        told.map(|(_, revision)| *revision).max().unwrap_or(0)
    }

    /// Takes in a message: a revision, and how the keys begin that changed; without these, all may have.
    fn hear(&mut self, message: &str) {
        self.count.messages += 1;
        let mut words = message.split(' ');
        // Anything else is the word of a host that has just begun to listen.
        let Some(Ok(revision)) = words.next().map(str::parse::<u64>) else { return };
        let mut heads: Vec<_> = words.collect();
        if heads.is_empty() || self.heads.len() >= HEADS_MAX {
            let highest = self.revision("");
            self.heads = BTreeMap::from([(String::new(), highest)]);
            heads = vec![""];
        }
        for head in heads {
            let highest = self.heads.entry(head.to_owned()).or_default();
            *highest = revision.max(*highest);
        }
    }
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
        heard.count.connections += 1;
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
            Some(Some(message)) => heard.send_modify(|heard| heard.hear(&message)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(messages: &[&str]) -> Heard {
        let mut heard = Heard::default();
        messages.iter().for_each(|message| heard.hear(message));
        heard
    }

    #[test]
    fn keeps_the_highest_revision_and_passes_over_words() {
        let heard = heard(&["7", "5", "word 00000000000000000000000000000abc", ""]);
        assert_eq!((heard.revision("ab"), heard.count.messages), (7, 4));
    }

    #[test]
    fn a_watch_is_woken_by_keys_that_may_be_its_own() {
        let heard = heard(&["3 aabb01", "4 aabb02 cc", "5 dd"]);
        let told: Vec<_> = ["aabb01", "aabb0102", "aabb02", "aabb", "aabb03", "ccdd", "ee", ""]
            .map(|it| heard.revision(it))
            .into();
        assert_eq!(told, [3, 3, 4, 4, 0, 4, 0, 5]);
    }

    #[test]
    fn where_the_server_does_not_tell_which_keys_every_watch_is_woken() {
        for message in ["9", "9 ", "9 aa "] {
            assert_eq!(heard(&[message]).revision("bb"), 9, "{message:?}");
        }
        let many: Vec<_> = (0..=HEADS_MAX).map(|n| format!("{n} {n:08x}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(heard(&many).revision("bb"), HEADS_MAX as u64);
    }
}
