//! A watch: a connection of its own, read only when it is asked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use althing_client::waist::{Answer, Call, Request, Told, decode, encode};
use althing_core::{Change, Delta, Key, Record, Result, Revision, Watch};
use async_trait::async_trait;
use futures::{SinkExt, StreamExt};

use crate::line::{Frames, Sink};
use crate::store::Store;

/// The pause after an error; doubled for each further one in a row, up to so often.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_DOUBLINGS_MAX: u32 = 6;

/// A watcher of one prefix.
pub(crate) struct IpcWatch {
    store: Arc<Store>,
    prefix: Key,
    /// `None` after it broke: the next call makes another, which begins with a snapshot.
    stream: Option<Stream>,
    /// Errors in a row.
    errors: u32,
}

struct Stream {
    frames: Frames,
    // Kept open: its end is the watch's end there.
    _sink: Sink,
    /// What came of a delta that has not come as a whole.
    changes: Vec<Change>,
    records: Vec<Record>,
}

impl IpcWatch {
    pub(crate) async fn begin(store: Arc<Store>, prefix: Key, from: Revision) -> Result<Self> {
        let stream = Some(connect(&store, "watch", &prefix, from).await?);
        Ok(IpcWatch { store, prefix, stream, errors: 0 })
    }

    /// Waits for the next delta. A dropped call loses nothing: what came stands in the stream.
    async fn step(&mut self) -> Result<Delta> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            stream => stream.insert(connect(&self.store, "next", &self.prefix, Revision::ZERO).await?),
        };
        loop {
            let Some(Ok(frame)) = stream.frames.next().await else {
                self.stream = None;
                return Err(self.store.broken("next"));
            };
            let told = match decode(&frame) {
                Ok(told) => told,
                Err(error) => {
                    self.stream = None;
                    return Err(error);
                }
            };
            if let Some(delta) = stream.gather(told) {
                return delta;
            }
        }
    }
}

impl Stream {
    /// Takes in what was told. Returns the delta that is whole with it.
    fn gather(&mut self, told: Told) -> Option<Result<Delta>> {
        match told {
            Told::Failed(failure) => Some(Err(failure.into_error("next"))),
            Told::Changes { changes, revision, more } => {
                self.changes.extend(changes);
                (!more).then(|| Ok(Delta::Changes { changes: std::mem::take(&mut self.changes), revision }))
            }
            Told::Records { records, revision, more } => {
                self.records.extend(records);
                (!more).then(|| Ok(Delta::Resync { records: std::mem::take(&mut self.records), revision }))
            }
        }
    }
}

/// Makes the connection of a watch, within the time limit.
async fn connect(store: &Store, operation: &'static str, prefix: &Key, from: Revision) -> Result<Stream> {
    let deadline = store.clock.now() + store.settings.timeout;
    let ask = async {
        let mut dialled = store.dial_for_watch(operation).await?;
        let call = Call::Watch { prefix: prefix.clone(), from };
        let asked = dialled.sink.send(encode(&Request { id: 0, call })?).await;
        let frame = match asked {
            Ok(()) => dialled.frames.next().await,
            Err(_) => None,
        };
        let Some(Ok(frame)) = frame else { return Err(store.broken(operation)) };
        match decode::<Answer>(&frame)?.result {
            Ok(_) => Ok(dialled),
            Err(failure) => Err(failure.into_error(operation)),
        }
    };
    let Some(dialled) = store.within(deadline, ask).await else { return Err(store.late(operation)) };
    let dialled = dialled?;
    let (changes, records) = (Vec::new(), Vec::new());
    Ok(Stream { frames: dialled.frames, _sink: dialled.sink, changes, records })
}

#[async_trait]
impl Watch for IpcWatch {
    async fn next(&mut self) -> Result<Delta> {
        if self.errors > 0 && self.stream.is_none() {
            let doublings = (self.errors - 1).min(PAUSE_DOUBLINGS_MAX);
            self.store.clock.sleep(self.store.chance.jitter(PAUSE_MIN * 2u32.pow(doublings))).await;
        }
        let delta = self.step().await;
        match &delta {
            Ok(Delta::Changes { revision, .. } | Delta::Resync { revision, .. }) => {
                self.errors = 0;
                self.store.see(*revision);
            }
            Err(_) => self.errors = self.errors.saturating_add(1),
        }
        delta
    }
}

impl fmt::Debug for IpcWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IpcWatch")
            .field("prefix", &self.prefix)
            .field("is_connected", &self.stream.is_some())
            .finish_non_exhaustive()
    }
}
