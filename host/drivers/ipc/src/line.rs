//! One connection for calls: what was asked on it waits here for its answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;

use althing_client::waist::{Answer, Call, Dialled, Failure, Reply, Request, decode, encode};
use althing_core::{Result, limits};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

pub(crate) type Frames = FramedRead<OwnedReadHalf, LengthDelimitedCodec>;
pub(crate) type Sink = FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>;

/// A connection that answers. It closes when this is dropped.
#[derive(Debug)]
pub(crate) struct Line {
    // An async Mutex: a message is written by one at a time. What a dropped call left in its buffer is written by the next.
    sink: tokio::sync::Mutex<Sink>,
    waiting: Waiting,
    numbers: AtomicU64,
    /// So many calls as the host answers at once.
    room: Semaphore,
    reader: JoinHandle<()>,
}

type Outcome = Result<Reply, Failure>;

/// Who waits for an answer; `None` once the connection is gone.
#[derive(Clone, Debug)]
struct Waiting(Arc<Mutex<Option<Senders>>>);

type Senders = HashMap<u64, oneshot::Sender<Outcome>>;

/// The connection is gone.
#[derive(Debug)]
pub(crate) struct Broken;

impl Line {
    /// Begins to read what the host says, on the runtime of the caller.
    pub(crate) fn start(dialled: Dialled) -> Line {
        let waiting = Waiting(Arc::new(Mutex::new(Some(HashMap::new()))));
        Line {
            sink: tokio::sync::Mutex::new(dialled.sink),
            numbers: AtomicU64::new(0),
            room: Semaphore::new(limits::WAIST_CALLS_MAX),
            reader: tokio::spawn(read(dialled.frames, waiting.clone())),
            waiting,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.waiting.lock().is_some()
    }

    /// Asks and waits for the answer. `sent` is set before the first byte leaves: until then nothing was asked.
    /// A message that cannot be written is an error of its own.
    pub(crate) async fn ask(&self, call: Call, sent: &AtomicBool) -> Result<Result<Outcome, Broken>> {
        let id = self.numbers.fetch_add(1, Ordering::Relaxed);
        let frame = encode(&Request { id, call })?;
        let Ok(_room) = self.room.acquire().await else { return Ok(Err(Broken)) };
        let (sender, receiver) = oneshot::channel();
        let Some(_place) = self.waiting.enter(id, sender) else { return Ok(Err(Broken)) };
        let mut sink = self.sink.lock().await;
        // Room is made in the buffer first, and the whole message then put there at once.
        let ready = |context: &mut Context<'_>| SinkExt::<Bytes>::poll_ready_unpin(&mut *sink, context);
        if futures::future::poll_fn(ready).await.is_err() {
            return Ok(Err(Broken));
        }
        sent.store(true, Ordering::Release);
        if sink.send(frame).await.is_err() {
            return Ok(Err(Broken));
        }
        drop(sink);
        Ok(receiver.await.map_err(|_| Broken))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Option<Senders>> {
        // Nothing under the lock can panic; a poisoned one would still guard a whole state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, id: u64, sender: oneshot::Sender<Outcome>) -> Option<Place<'_>> {
        self.lock().as_mut()?.insert(id, sender);
        Some(Place { waiting: self, id })
    }
}

/// A place among those who wait, left by whoever waits no longer.
struct Place<'a> {
    waiting: &'a Waiting,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = &mut *self.waiting.lock() {
            waiting.remove(&self.id);
        }
    }
}

/// Hands out answers until the connection ends. Who waits then is told by the end of its channel.
async fn read(mut frames: Frames, waiting: Waiting) {
    while let Some(Ok(frame)) = frames.next().await {
        match decode::<Answer>(&frame) {
            Ok(Answer { id, result }) => {
                let sender = waiting.lock().as_mut().and_then(|waiting| waiting.remove(&id));
                if let Some(sender) = sender {
                    // Who waits no longer does not hear it.
                    drop(sender.send(result));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the host says what no host says; the connection to it is ended");
                break;
            }
        }
    }
    *waiting.lock() = None;
}
