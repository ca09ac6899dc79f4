//! The guard of a member: keeps its session, knows at every moment whether it leads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use althing_core::info::{BehaviourAsk, Hold, JoinAsk, Joined, SessionAsk, SessionEvent};
use althing_core::{Clock, Error, Kind, Result, Revision, Secret, SystemClock, limits};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::held::Held;
use crate::{Client, EventStream, SessionKey};

/// A session with a host, kept alive in the background, and what it holds.
///
/// The contract: while [`is_held`](Self::is_held) is true here, it is true nowhere else, as long as the
/// backend keeps what its `Capability` says. It becomes false
/// - at the deadline, counted on the boot clock from the moment the last acknowledged renewal was *sent*,
///   whatever the network or this process did meanwhile;
/// - when the host says stop: first it becomes false, then the stop is confirmed, and only then the
///   leadership moves on;
/// - when the connection to the host is lost: the host drops the members of this session at once.
///
/// It never becomes true again silently: an `Elected` event comes with it. Ask it right before each step that only a
/// leader may take, and give the term along wherever a step can be fenced.
///
/// Dropping the guard closes the connection; the host then removes the members without waiting for the
/// lease. [`close`](Self::close) does the same and waits for it. Needs a tokio runtime with time and I/O.
#[derive(Debug)]
pub struct Membership {
    keeper: Arc<Keeper>,
    tasks: [AbortHandle; 2],
}

#[derive(Debug)]
struct Keeper {
    client: Client,
    session: SessionKey,
    ttl: Duration,
    clock: SystemClock,
    held: Mutex<Held>,
    told: Notify,
}

impl Membership {
    /// Opens a session that ends `ttl` after its last renewal, or at once when this guard goes.
    pub async fn open(client: Client, ttl: Option<Duration>) -> Result<Self> {
        let clock = SystemClock;
        let ttl_ms = ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let sent = clock.now();
        let grant = client.open_session(&SessionAsk { ttl_ms, drop_on_disconnect: true }).await?;
        let session = SessionKey { id: grant.id, secret: Secret::new(grant.secret) };
        let events = client.session_events(&session).await?;
        let keeper = Arc::new(Keeper {
            client,
            session,
            ttl: Duration::from_millis(grant.ttl_ms),
            clock,
            held: Mutex::new(Held::new(sent, &grant.renewal)),
            told: Notify::new(),
        });
        let listening = tokio::spawn(keeper.clone().listen(events));
        let renewing = tokio::spawn(keeper.clone().renew());
        Ok(Membership { keeper, tasks: [listening.abort_handle(), renewing.abort_handle()] })
    }

    /// Joins a group with this session.
    pub async fn join(&self, group: &str, ask: &JoinAsk) -> Result<Joined> {
        self.keeper.client.join(&self.keeper.session, group, ask).await
    }

    /// Leaves a group. If it led, it stops being held before the host is told.
    pub async fn leave(&self, group: &str, id: &str) -> Result<()> {
        self.keeper.change(|held| held.leave(group, id));
        self.keeper.client.leave(&self.keeper.session, group, id).await
    }

    /// Asks a behaviour for an operation with this session: what it gives goes when the session ends. It is lost as well
    /// when a `Standing` event says that the lease is lost.
    pub async fn call_behaviour(&self, name: &str, ask: &BehaviourAsk) -> Result<Bytes> {
        self.keeper.client.call_behaviour(&self.keeper.session, name, ask).await
    }

    /// Tells whether a member of this session leads `group` now. Asks nobody.
    pub fn is_held(&self, group: &str) -> bool {
        self.term(group).is_some()
    }

    /// Returns the fencing token of the term in which a member of this session leads `group` now. Asks nobody.
    pub fn term(&self, group: &str) -> Option<Revision> {
        self.keeper.held().term(group, self.keeper.clock.now())
    }

    /// Waits for what happens next; `None` after the session has ended. Cancel-safe. Who fetches too
    /// slowly gets one `Standing` in place of what was missed.
    pub async fn next_event(&mut self) -> Option<SessionEvent> {
        loop {
            let told = self.keeper.told.notified();
            {
                let mut held = self.keeper.held();
                match held.next_event() {
                    Some(event) => return Some(event),
                    None if held.ended() => return None,
                    None => {}
                }
            }
            told.await;
        }
    }

    /// Ends the session: its members leave and whoever is next may lead. Ending one that is gone succeeds.
    pub async fn close(self) -> Result<()> {
        self.keeper.change(|held| held.end("it was closed here"));
        self.keeper.client.end_session(&self.keeper.session).await
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Keeper {
    fn held(&self) -> MutexGuard<'_, Held> {
        // What is changed under the lock is whole after every statement.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        let changed = change(&mut self.held());
        self.told.notify_one();
        changed
    }

    async fn listen(self: Arc<Self>, mut events: EventStream<SessionEvent>) {
        loop {
            match events.next().await {
                Ok(Some(event)) => {
                    let now = self.clock.now();
                    if let Some(stopped) = self.change(|held| held.hear(event, now)) {
                        tokio::spawn(self.clone().confirm(stopped));
                    }
                }
                Ok(None) => return self.change(|held| held.end("the host ended the connection")),
                Err(error) => {
                    return self.change(|held| held.end(format!("the connection was lost: {error}")));
                }
            }
        }
    }

    /// Tells the host that a leader stopped. If that does not get through, the lease runs out instead.
    async fn confirm(self: Arc<Self>, hold: Hold) {
        let mut pause = limits::RETRY_PAUSE;
        for _ in 0..limits::CALL_TRIES {
            match self.client.confirm_stopped(&self.session, &hold.group, hold.term).await {
                Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Timeout | Kind::Busy) => {}
                _ => return,
            }
            self.clock.sleep(pause).await;
            pause *= 2;
        }
    }

    /// Renews until the session is gone, and gives up what is held at the deadline.
    async fn renew(self: Arc<Self>) {
        let interval = self.ttl / limits::RENEWALS_PER_LEASE;
        let client = self.client.within(interval);
        let mut next = self.clock.now() + interval;
        while !self.held().ended() {
            self.until_deadline(self.clock.sleep_until(next)).await;
            let sent = self.clock.now();
            match self.until_deadline(client.renew_session(&self.session)).await {
                Ok(renewal) => {
                    self.change(|held| held.renewed(sent, &renewal));
                    next = sent + interval;
                }
                Err(error) if is_final(&error) => return self.change(|held| held.end(error.to_string())),
                Err(_) => next = self.clock.now() + interval / 4,
            }
        }
    }

    /// Waits for `work`, and does what the deadline demands if that passes meanwhile.
    async fn until_deadline<T>(&self, work: impl Future<Output = T>) -> T {
        let deadline = self.held().deadline();
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => return done,
            () = self.clock.sleep_until(deadline) => self.change(|held| held.expire(deadline)),
        }
        work.await
    }
}

/// Tells whether a renewal that failed so can never succeed again.
fn is_final(error: &Error) -> bool {
    matches!(error.kind(), Kind::SessionLost | Kind::NotFound | Kind::Denied | Kind::Closed | Kind::Invalid)
}
