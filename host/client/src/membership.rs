//! The guard of a member: keeps its session, knows at every moment whether it leads.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use althing_core::info::{
    BehaviourAsk, Hold, JoinAsk, Joined, LockHold, MemberInfo, SessionAsk, SessionEvent, UpdateAsk,
};
use althing_core::{Clock, Error, Kind, Result, Revision, Secret, SystemClock, limits};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::held::Held;
use crate::{Address, Client, EventStream, SessionKey};

/// A session with a host, kept alive in the background, and what it holds.
///
/// The contract: while [`is_held`](Self::is_held) is true here, it is true nowhere else, as long as the
/// backend keeps what its `Capability` says. It becomes false
/// - at the deadline, counted on the boot clock from the moment the last acknowledged renewal was *sent*,
///   whatever the network or this process did meanwhile;
/// - when the host says stop: first it becomes false, then the stop is confirmed, and only then the
///   leadership moves on;
/// - when the connection to the host is lost. Over a Unix socket both ends see that, so the host drops the members of this
///   session at once; over a network it may show on the host's side alone, so the host waits for the lease to run out.
///
/// It never becomes true again silently: an `Elected` event comes with it. Ask it right before each step that only a
/// leader may take, and give the term along wherever a step can be fenced.
///
/// Dropping the guard ends all that is held by it, and the host removes the members without waiting for the
/// lease. [`close`](Self::close) does the same and waits for it. Needs a tokio runtime with time and I/O.
#[derive(Debug)]
pub struct Membership {
    keeper: Arc<Keeper>,
    tasks: [AbortHandle; 2],
    is_closed: bool,
}

#[derive(Debug)]
pub(crate) struct Keeper {
    pub client: Client,
    pub session: SessionKey,
    pub clock: SystemClock,
    held: Mutex<Held>,
    unheard: Notify,
    /// Rung for everybody when what is held has changed.
    pub changed: Notify,
}

impl Membership {
    /// Opens a session that ends `ttl` after its last renewal, or at once when this guard goes; when its process dies, at
    /// once over a Unix socket.
    pub async fn open(client: Client, ttl: Option<Duration>) -> Result<Self> {
        let clock = SystemClock;
        let ttl_ms = ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let sent = clock.now();
        // Who asks for it promises to stop when the connection closes, and so must see that it does.
        let drop_on_disconnect = matches!(client.address(), Address::Unix(_));
        let grant = client.open_session(&SessionAsk { ttl_ms, drop_on_disconnect }).await?;
        let session = SessionKey { id: grant.id, secret: Secret::new(grant.secret) };
        let events = client.session_events(&session).await?;
        let keeper = Arc::new(Keeper {
            client,
            session,
            clock,
            held: Mutex::new(Held::new(sent, &grant.renewal)),
            unheard: Notify::new(),
            changed: Notify::new(),
        });
        let listening = tokio::spawn(keeper.clone().listen(events));
        let renewing = tokio::spawn(keeper.clone().renew());
        Ok(Membership {
            keeper,
            tasks: [listening.abort_handle(), renewing.abort_handle()],
            is_closed: false,
        })
    }

    /// Joins a group with this session.
    pub async fn join(&self, group: &str, ask: &JoinAsk) -> Result<Joined> {
        let joined = self.keeper.client.join(&self.keeper.session, group, ask).await?;
        self.keeper.change(|held| held.joined(group, &ask.id, &joined.member.incarnation));
        Ok(joined)
    }

    /// Changes what a member of this session says of itself. One that no longer stands for election and leads is asked to
    /// stop.
    pub async fn update(&self, group: &str, id: &str, ask: &UpdateAsk) -> Result<MemberInfo> {
        self.keeper.client.update_member(&self.keeper.session, group, id, ask).await
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

    pub(crate) fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
    }

    /// Waits for what happens next; `None` after the session has ended. Cancel-safe. Who fetches too
    /// slowly gets one `Standing` in place of what was missed.
    pub async fn next_event(&mut self) -> Option<SessionEvent> {
        loop {
            let unheard = self.keeper.unheard.notified();
            {
                let mut held = self.keeper.held();
                match held.next_event() {
                    Some(event) => return Some(event),
                    None if held.ended() => return None,
                    None => {}
                }
            }
            unheard.await;
        }
    }

    /// Ends the session: its members leave and whoever is next may lead. Ending one that is gone succeeds.
    pub async fn close(mut self) -> Result<()> {
        self.keeper.change(|held| held.end("it was closed here"));
        let ended = self.keeper.client.end_session(&self.keeper.session).await;
        self.is_closed = ended.is_ok();
        ended
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // The guards of its locks may live on, and must not be sure of anything from here on.
        self.keeper.change(|held| held.end("its membership was dropped"));
        self.tasks.iter().for_each(AbortHandle::abort);
        if !self.is_closed {
            self.keeper.clone().end_in_background();
        }
    }
}

impl Keeper {
    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        // What is changed under the lock is whole after every statement.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        let changed = change(&mut self.held());
        self.unheard.notify_one();
        self.changed.notify_waiters();
        changed
    }

    async fn listen(self: Arc<Self>, mut events: EventStream<SessionEvent>) {
        loop {
            match events.next().await {
                Ok(Some(event)) => {
                    let now = self.clock.now();
                    if let Some(stopped) = self.change(|held| held.hear(event, now)) {
                        tokio::spawn(self.clone().confirm(GivenUp::Leading(stopped)));
                    }
                }
                Ok(None) => return self.change(|held| held.end("the host ended the connection")),
                Err(error) => {
                    return self.change(|held| held.end(format!("the connection was lost: {error}")));
                }
            }
        }
    }

    /// Tells the host what is held no longer, a few times if it must be. Where that does not get through, a lease runs
    /// out or the next renewal shows it.
    async fn confirm(self: Arc<Self>, given_up: GivenUp) {
        let mut pause = limits::RETRY_PAUSE;
        for _ in 0..limits::CALL_TRIES {
            let told = match &given_up {
                GivenUp::Leading(Hold { group, term, .. }) => {
                    self.client.confirm_stopped(&self.session, group, *term).await
                }
                GivenUp::Lock(lock) => self.client.release_lock(&self.session, lock).await.map(drop),
            };
            match told {
                Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Timeout | Kind::Busy) => {}
                _ => break,
            }
            self.clock.sleep(pause).await;
            pause *= 2;
        }
        if let GivenUp::Lock(lock) = &given_up {
            self.change(|held| held.unlocked(lock));
        }
    }

    /// Waits until the session has ended, as far as is known here. Cancel-safe.
    pub(crate) async fn until_ended(&self) {
        loop {
            let changed = self.changed.notified();
            if self.held().ended() {
                return;
            }
            changed.await;
        }
    }

    /// Ends the session. Over a Unix socket its connection says the same.
    fn end_in_background(self: Arc<Self>) {
        let runtime = tokio::runtime::Handle::try_current();
        if let (Address::Tcp(_), Ok(runtime)) = (self.client.address(), runtime) {
            runtime.spawn(async move {
                // Where it does not get through, the lease runs out.
                let _ = self.client.end_session(&self.session).await;
            });
        }
    }

    pub(crate) fn release_in_background(self: Arc<Self>, lock: LockHold) {
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(self.confirm(GivenUp::Lock(lock)))),
            // The next renewal shows it.
            Err(_) => self.change(|held| held.unlocked(&lock)),
        }
    }

    /// Renews until the session is gone, and gives up what is held at the deadline.
    async fn renew(self: Arc<Self>) {
        let begun = self.clock.now();
        // The host's own lease bounds what it grants. How long that lasts is seen by what was granted at best.
        let mut granted = self.held().deadline().since(begun);
        let mut next = begun + interval(granted);
        while !self.held().ended() {
            self.until_deadline(self.clock.sleep_until(next)).await;
            let sent = self.clock.now();
            let interval = interval(granted);
            let client = self.client.within(interval);
            match self.until_deadline(client.renew_session(&self.session)).await {
                Ok(renewal) => {
                    let forgotten = self.change(|held| held.renewed(sent, &renewal));
                    forgotten.into_iter().for_each(|lock| self.clone().release_in_background(lock));
                    granted = granted.max(self.held().deadline().since(sent));
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

/// Returns the pause between two renewals, where each is good for so long.
fn interval(granted: Duration) -> Duration {
    (granted / limits::RENEWALS_PER_LEASE).max(limits::LEASE_GUARD_MIN)
}

/// What the host is to hear of.
#[derive(Debug)]
enum GivenUp {
    Leading(Hold),
    Lock(LockHold),
}

/// Tells whether a renewal that failed so can never succeed again.
fn is_final(error: &Error) -> bool {
    matches!(error.kind(), Kind::SessionLost | Kind::NotFound | Kind::Denied | Kind::Closed | Kind::Invalid)
}
