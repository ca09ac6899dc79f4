//! The waist for other processes of the machine: who sits here, which sessions are theirs, and what becomes of these when
//! they go.
//!
//! A session is bound to the connection on which it was opened, and is closed as soon as that ends: the kernel closes it
//! with the process, however that died. When the daemon itself ends, or dies, it closes none of them: its peers are alive.
//! They connect again, and a session that is bound to nobody is bound to the connection that renews it.

mod calls;
mod watch;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use althing_client::waist::{Call, Greeting, Request, codec, decode, encode};
use althing_core::{Driver, Error, Kind, Result, SessionId, limits};
use futures::{SinkExt, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::{ReadHalf, WriteHalf, split};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What all connections of the waist share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waist(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    open: Arc<Semaphore>,
    numbers: AtomicU64,
    // A std Mutex: held for a look into a map, never over an await.
    bound: Mutex<HashMap<SessionId, Bound>>,
}

impl Default for Shared {
    fn default() -> Self {
        let open = Arc::new(Semaphore::new(limits::WAIST_CONNECTIONS_MAX));
        Shared { open, numbers: AtomicU64::new(0), bound: Mutex::default() }
    }
}

/// To which connection a session is bound, and for how long the backend keeps it if nobody renews it.
#[derive(Clone, Copy, Debug)]
struct Bound {
    connection: u64,
    lease: Duration,
}

impl Waist {
    fn bound(&self) -> MutexGuard<'_, HashMap<SessionId, Bound>> {
        // Nothing under the lock can panic; a poisoned one would still guard a whole state.
        self.0.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Binds a session to a connection, unless it is bound to another or that one has as many as it may.
    fn bind(&self, connection: u64, session: SessionId, lease: Duration) {
        let mut bound = self.bound();
        if let Some(known) = bound.get_mut(&session) {
            if known.connection == connection {
                known.lease = lease;
            }
        } else if count(&bound, connection) < limits::WAIST_SESSIONS_MAX {
            bound.insert(session, Bound { connection, lease });
        }
    }

    fn check_room(&self, connection: u64) -> Result<()> {
        if count(&self.bound(), connection) < limits::WAIST_SESSIONS_MAX {
            return Ok(());
        }
        let message = format!("{} sessions are open on this connection", limits::WAIST_SESSIONS_MAX);
        Err(Error::new(Kind::Busy, "open", message).advise("Close those that are not needed"))
    }

    fn unbind(&self, session: SessionId) {
        self.bound().remove(&session);
    }

    /// Unbinds all sessions of a connection and returns them.
    fn unbind_all(&self, connection: u64) -> Vec<(SessionId, Duration)> {
        let gone = self.bound().extract_if(|_, bound| bound.connection == connection).collect::<Vec<_>>();
        gone.into_iter().map(|(session, bound)| (session, bound.lease)).collect()
    }
}

fn count(bound: &HashMap<SessionId, Bound>, connection: u64) -> usize {
    bound.values().filter(|bound| bound.connection == connection).count()
}

/// A connection of the server, from where the waist may take it over. It counts among the server's until both are done.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    waist: Waist,
    tasks: TaskTracker,
    permit: Arc<OwnedSemaphorePermit>,
}

impl Seat {
    /// Remembers a connection's place among those of the server.
    pub(crate) fn new(waist: Waist, tasks: TaskTracker, permit: OwnedSemaphorePermit) -> Self {
        Seat { waist, tasks, permit: Arc::new(permit) }
    }

    /// Speaks the waist on the connection as soon as it is no longer HTTP. Fails with `Busy` where as many do already.
    pub(crate) fn take(self, coming: OnUpgrade, party: Party) -> Result<()> {
        let Ok(permit) = self.waist.0.open.clone().try_acquire_owned() else {
            let message = format!("{} connections share the backend already", limits::WAIST_CONNECTIONS_MAX);
            return Err(Error::new(Kind::Busy, "admit", message).advise("Try again later"));
        };
        let number = self.waist.0.numbers.fetch_add(1, Ordering::Relaxed);
        let (waist, seat) = (self.waist.clone(), (self.permit, permit));
        self.tasks.spawn(async move {
            match coming.await {
                Ok(upgraded) => converse(upgraded, waist, number, party).await,
                Err(error) => tracing::debug!(%error, "a connection broke before it was upgraded"),
            }
            drop(seat);
        });
        Ok(())
    }
}

/// Who speaks, and to what.
pub(crate) struct Party {
    pub(crate) driver: Arc<dyn Driver>,
    /// Done when the host ends.
    pub(crate) ending: CancellationToken,
    /// For the log.
    pub(crate) who: String,
}

impl fmt::Debug for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.who)
    }
}

type Frames = FramedRead<ReadHalf<TokioIo<Upgraded>>, LengthDelimitedCodec>;
type Sink = FramedWrite<WriteHalf<TokioIo<Upgraded>>, LengthDelimitedCodec>;

/// What is known of a connection besides what it reads.
#[derive(Debug)]
struct Connection {
    number: u64,
    waist: Waist,
    party: Party,
    sink: tokio::sync::Mutex<Sink>,
    /// Cancelled when nothing can be written any more.
    broken: CancellationToken,
}

/// What comes next on a connection.
enum Next {
    /// A request, and its length.
    Request(Request, usize),
    /// The peer is gone, or speaks another language.
    Gone,
    /// The host ends.
    Ending,
}

async fn converse(upgraded: Upgraded, waist: Waist, number: u64, party: Party) {
    let (read, write) = split(TokioIo::new(upgraded));
    let (mut frames, sink) = (FramedRead::new(read, codec()), FramedWrite::new(write, codec()));
    let capability = party.driver.capability();
    let connection = Arc::new(Connection {
        number,
        waist,
        party,
        sink: tokio::sync::Mutex::new(sink),
        broken: CancellationToken::new(),
    });
    connection.send(&Greeting { capability }).await;
    match connection.next(&mut frames).await {
        Next::Request(Request { id, call: Call::Watch { prefix, from } }, _) => {
            connection.watch(id, prefix, from, frames).await;
        }
        Next::Request(first, length) => connection.calls(first, length, frames).await,
        Next::Gone | Next::Ending => {}
    }
}

impl Connection {
    /// Waits for the next request. Looks at the peer first: one that died just before the host ends is dead.
    async fn next(&self, frames: &mut Frames) -> Next {
        let frame = tokio::select! {
            biased;
            frame = frames.next() => frame,
            () = self.broken.cancelled() => return Next::Gone,
            () = self.party.ending.cancelled() => return Next::Ending,
        };
        let refused = match frame {
            None => return Next::Gone,
            Some(Ok(frame)) => match decode(&frame) {
                Ok(request) => return Next::Request(request, frame.len()),
                Err(error) => error.to_string(),
            },
            Some(Err(error)) => match error.kind() {
                // What the codec says of a message that is too large.
                std::io::ErrorKind::InvalidData => error.to_string(),
                _ => return Next::Gone,
            },
        };
        tracing::warn!(peer = ?self.party, "a connection to the backend is ended: {refused}");
        Next::Gone
    }

    /// Says something, unless the peer is gone.
    async fn send(&self, message: &impl Serialize) {
        let sent = match encode(message) {
            Ok(frame) => self.sink.lock().await.send(frame).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = sent {
            tracing::debug!(peer = ?self.party, "a connection to the backend broke: {error}");
            self.broken.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_stays_with_the_first_that_lives_and_goes_to_the_next_that_renews_it() {
        let (waist, lease) = (Waist::default(), Duration::from_secs(1));
        waist.bind(1, SessionId(7), lease);
        waist.bind(2, SessionId(7), lease);
        assert_eq!(waist.unbind_all(2), []);
        assert_eq!(waist.unbind_all(1), [(SessionId(7), lease)]);
        waist.bind(2, SessionId(7), lease * 2);
        waist.unbind(SessionId(8));
        assert_eq!(waist.unbind_all(2), [(SessionId(7), lease * 2)]);
    }

    #[test]
    fn a_connection_holds_so_many_sessions_and_no_more() {
        let waist = Waist::default();
        for id in 0..limits::WAIST_SESSIONS_MAX {
            waist.check_room(1).unwrap();
            waist.bind(1, SessionId(id as u128), Duration::ZERO);
        }
        assert_eq!(waist.check_room(1).unwrap_err().kind(), Kind::Busy);
        waist.check_room(2).unwrap();
        waist.bind(1, SessionId(u128::MAX), Duration::ZERO);
        assert_eq!(waist.unbind_all(1).len(), limits::WAIST_SESSIONS_MAX);
    }
}
