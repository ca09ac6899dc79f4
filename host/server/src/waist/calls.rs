//! A connection for calls: many at once, within bounds, and the end of its sessions.

use std::sync::Arc;
use std::time::Duration;

use althing_client::waist::{Answer, Call, Failure, Reply, Request};
use althing_core::{Error, Kind, Result, Session, SessionId, limits};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::{Connection, Frames, Next};

/// Bytes under way are counted in these: a semaphore counts to four thousand million only.
const UNIT_BYTES: usize = 1024;
/// The longest pause between two tries to close a session of a peer that is gone.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long a host that ends looks whether a peer has died just before: it may not have been told yet.
const LAST_LOOK: Duration = Duration::from_millis(50);

/// What a connection may have under way.
struct Bounds {
    calls: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// The room that a call takes until it is answered.
struct Room(#[expect(dead_code, reason = "held, and given back when dropped")] [OwnedSemaphorePermit; 2]);

impl Bounds {
    fn new() -> Self {
        let units = limits::WAIST_BYTES_MAX / UNIT_BYTES;
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Bounds { calls: semaphore(limits::WAIST_CALLS_MAX), bytes: semaphore(units) }
    }

    /// Waits until there is room for a request and its answer. `None` never comes: nobody closes these.
    async fn room(&self, request: &Request, length: usize) -> Option<Room> {
        let call = self.calls.clone().acquire_owned().await.ok()?;
        let units = length.max(answer_bytes(&request.call)).div_ceil(UNIT_BYTES) as u32;
        let bytes = self.bytes.clone().acquire_many_owned(units).await.ok()?;
        Some(Room([call, bytes]))
    }
}

/// Tells whether the peer has died, and not only the host ends.
async fn has_left(frames: &mut Frames) -> bool {
    matches!(timeout(LAST_LOOK, frames.next()).await, Ok(None | Some(Err(_))))
}

/// Returns how large an answer may be.
fn answer_bytes(call: &Call) -> usize {
    match call {
        Call::Get(_) => limits::VALUE_BYTES_MAX,
        Call::List { .. } => {
            limits::PAGE_BYTES_MAX + limits::PAGE_RECORDS_MAX as usize * (limits::KEY_BYTES_MAX + UNIT_BYTES)
        }
        _ => UNIT_BYTES,
    }
}

impl Connection {
    /// Answers requests until the peer is gone or the host ends.
    pub(super) async fn calls(self: Arc<Self>, first: Request, length: usize, mut frames: Frames) {
        let (bounds, calls) = (Bounds::new(), TaskTracker::new());
        let mut next = Next::Request(first, length);
        let is_gone = loop {
            let (request, length) = match next {
                Next::Request(request, length) => (request, length),
                Next::Gone => break true,
                Next::Ending => break false,
            };
            let room = tokio::select! {
                room = bounds.room(&request, length) => room,
                () = self.broken.cancelled() => break true,
                () = self.party.ending.cancelled() => break false,
            };
            let connection = self.clone();
            calls.spawn(async move {
                connection.answer(request).await;
                drop(room);
            });
            next = self.next(&mut frames).await;
        };
        calls.close();
        if !is_gone && !has_left(&mut frames).await {
            // Its peer lives, and comes back to whoever follows us: its sessions are left to their leases.
            calls.wait().await;
            self.waist.unbind_all(self.number);
            return;
        }
        self.broken.cancel();
        self.close_all().await;
        // A call that was under way may have opened one more.
        calls.wait().await;
        self.close_all().await;
    }

    async fn answer(&self, request: Request) {
        let result = self.call(request.call).await.map_err(|error| Failure::from(&error));
        self.send(&Answer { id: request.id, result }).await;
    }

    async fn call(&self, call: Call) -> Result<Reply> {
        let driver = &self.party.driver;
        match call {
            Call::Open { ask } => self.open(ask).await.map(Reply::Session),
            Call::Renew(session) => self.renew(session).await,
            Call::Close(session) => self.close(session).await.map(|()| Reply::Done),
            Call::Get(key) => driver.get(&key).await.map(Reply::Record),
            Call::List { prefix, after, limit } => {
                driver.list(&prefix, after.as_ref(), limit).await.map(Reply::Page)
            }
            Call::Commit(txn) => driver.commit(txn).await.map(Reply::Committed),
            Call::Watch { .. } => {
                let message = "a watch has a connection of its own, and is the first that is asked on it";
                Err(Error::new(Kind::Invalid, "watch", message))
            }
        }
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        self.waist.check_room(self.number)?;
        let session = self.party.driver.open(ask).await?;
        self.waist.bind(self.number, session.id, session.lease_min);
        Ok(session)
    }

    async fn renew(&self, session: SessionId) -> Result<Reply> {
        let renewed = self.party.driver.renew(session).await;
        match &renewed {
            Ok(lease) => self.waist.bind(self.number, session, lease.min),
            Err(error) if error.kind() == Kind::SessionLost => self.waist.unbind(session),
            Err(_) => {}
        }
        renewed.map(Reply::Lease)
    }

    async fn close(&self, session: SessionId) -> Result<()> {
        self.party.driver.close(session).await?;
        self.waist.unbind(session);
        Ok(())
    }

    /// Closes the sessions of a peer that is gone, all at once.
    async fn close_all(&self) {
        let sessions = self.waist.unbind_all(self.number);
        if !sessions.is_empty() {
            tracing::info!(peer = ?self.party, sessions = sessions.len(), "a peer is gone: its sessions end");
        }
        let closing = sessions.into_iter().map(|(session, lease)| self.close_within(session, lease));
        futures::future::join_all(closing).await;
    }

    /// Closes a session, if need be again and again, until the backend ends it by itself.
    async fn close_within(&self, session: SessionId, lease: Duration) {
        let close = async {
            let mut pause = limits::RETRY_PAUSE;
            while let Err(error) = self.party.driver.close(session).await {
                tracing::warn!(peer = ?self.party, %error, "the session of a peer that is gone is not closed yet");
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        };
        if timeout(lease, close).await.is_err() {
            tracing::warn!(peer = ?self.party, "the session of a peer that is gone was left to its lease");
        }
    }
}
