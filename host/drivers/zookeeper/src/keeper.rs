//! The sessions this driver opened, each on a connection of its own, so that what happens to the data does not
//! touch them.
//!
//! The client crate keeps a session alive by itself, and gives it up only later than the server does. Neither is
//! ours to trust: a session is kept while it is renewed through us, and let go when our own deadline has passed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use althing_core::{BootTime, Cause, Error, Kind, Lease, Result, Session, SessionId};
use tokio::sync::Notify;

use crate::end::end;
use crate::entry::{self, Line};
use crate::layout::Estate;
use crate::lease::{TOUCHES_PER_TICK, Touches, lost_time};
use crate::store::Store;
use crate::wire::{Mode, Refusal, Step, Wire};

/// How many sessions that are over we remember, so that a late renewal ends what may be left of them.
const OVER_KEPT: usize = 1024;
/// How often a session is opened anew because a volume of the log was closed meanwhile.
const OPENINGS_MAX: u32 = 3;

/// The sessions this driver opened.
#[derive(Debug)]
pub(crate) struct Keeper {
    store: Arc<Store>,
    /// The servers' tick, or a little more.
    tick: Duration,
    // A std Mutex: held for a look, never over an await.
    sessions: Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    kept: HashMap<SessionId, Arc<Kept>>,
    over: VecDeque<SessionId>,
}

/// A session that is renewed through us.
#[derive(Debug)]
struct Kept {
    id: SessionId,
    granted: Duration,
    lease_min: Duration,
    stop: Notify,
    // A std Mutex: held for a look, never over an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` once it is let go.
    wire: Option<Arc<Wire>>,
    touches: Touches,
    /// Nobody may believe in the session after this.
    deadline: BootTime,
}

enum Place {
    Kept(Arc<Kept>),
    Over,
    Elsewhere,
}

impl Keeper {
    pub(crate) fn new(store: Arc<Store>, tick: Duration) -> Keeper {
        Keeper { store, tick, sessions: Mutex::default() }
    }

    /// Opens a session that the servers end after `timeout` of silence, or after what they grant; later where less than
    /// `least` would be sure.
    pub(crate) async fn open(self: &Arc<Self>, timeout: Duration, least: Duration) -> Result<Session> {
        let store = &self.store;
        let deadline = store.deadline();
        // Connects the data connection first: it knows the volume of the log, and checks the layout.
        store.wire("open", deadline).await?;
        let sent = store.clock.now();
        let dialled = Wire::dial(&store.settings, timeout.max(least + lost_time(self.tick)));
        let wire = store.within(deadline, dialled).await.unwrap_or_else(|| Err(store.late("open")))?;
        let granted = wire.granted();
        let lease_min = granted.saturating_sub(lost_time(self.tick));
        let id = SessionId(store.chance.bits());
        self.record(&wire, id, lease_min, deadline).await?;
        let state =
            State { wire: Some(Arc::new(wire)), touches: Touches::new(sent), deadline: sent + lease_min };
        let kept = Arc::new(Kept { id, granted, lease_min, stop: Notify::new(), state: Mutex::new(state) });
        self.lock().kept.insert(id, kept.clone());
        tokio::spawn(self.clone().keep(kept));
        Ok(Session { id, lease_min })
    }

    /// Makes the nodes of a session, and tells of it, at once.
    async fn record(&self, wire: &Wire, id: SessionId, lease: Duration, deadline: BootTime) -> Result<()> {
        let store = &self.store;
        let value = bytes::Bytes::from(format!("{{\"lease_ms\":{}}}", lease.as_millis()));
        let line = Line::Put { key: id.key(), session: Some(id), created: None, value: Some(value.clone()) };
        let estate = Estate { ended: None, value };
        for _ in 0..OPENINGS_MAX {
            let volume = store.volume();
            let make = |path, data, mode| Step::Create { path, data, mode };
            let steps = [
                Step::Check { path: store.layout.volume(volume), version: Some(0) },
                make(store.layout.session(id), Vec::new(), Mode::Ephemeral),
                make(store.layout.estate(id), estate.data(), Mode::Lasting),
                make(
                    store.layout.next_entry(volume),
                    entry::write(std::slice::from_ref(&line)),
                    Mode::Numbered,
                ),
            ];
            match store.within(deadline, wire.transact("open", &steps)).await {
                Some(Ok(_)) => return Ok(()),
                Some(Err(Refusal::Failed(error))) => return Err(error),
                Some(Err(Refusal::Step(_))) => {
                    store.read("open", deadline, store.find_volume(wire)).await?;
                }
                None => return Err(store.late("open").with_unknown_effect()),
            }
        }
        Err(Error::new(Kind::Busy, "open", "the log goes on to another volume again and again"))
    }

    /// Renews a session. One that another driver keeps is only looked at: it tells whether that lives, and
    /// promises nothing, because what is known of that connection is known there.
    pub(crate) async fn renew(self: &Arc<Self>, id: SessionId) -> Result<Lease> {
        let sent = self.store.clock.now();
        match self.find(id) {
            Place::Kept(kept) if sent < kept.lock().deadline => self.renew_kept(&kept, sent).await,
            Place::Kept(kept) => {
                self.let_go(&kept).await;
                self.finish(id).await
            }
            Place::Over => self.finish(id).await,
            Place::Elsewhere => {
                let store = &self.store;
                let deadline = store.deadline();
                let wire = store.wire("renew", deadline).await?;
                let node = store.layout.session(id);
                let read = async { tokio::try_join!(wire.sync(), wire.look(&node)) };
                match store.read("renew", deadline, read).await? {
                    (_, Some(_)) => Ok(Lease { min: Duration::ZERO, store_time: None }),
                    (_, None) => Err(crate::lost("renew", id)),
                }
            }
        }
    }

    async fn renew_kept(self: &Arc<Self>, kept: &Arc<Kept>, sent: BootTime) -> Result<Lease> {
        let store = &self.store;
        let Some(wire) = kept.lock().wire.clone() else { return self.finish(kept.id).await };
        let deadline = store.deadline();
        let node = store.layout.session(kept.id);
        // A transaction that changes nothing: what counts is that the ensemble agreed to it.
        let steps = [Step::Check { path: node, version: None }];
        let renewal = async {
            // What cannot be sent now is not left to be sent later.
            wire.connected().await.map_err(Refusal::Failed)?;
            wire.transact("renew", &steps).await
        };
        match store.within(deadline, renewal).await {
            Some(Ok(_)) => {
                let mut state = kept.lock();
                state.touches.note(sent, store.clock.now());
                let proven = state.touches.proven(sent, kept.granted, self.tick);
                state.deadline = state.deadline.max(sent + kept.lease_min);
                Ok(Lease { min: proven.min(kept.lease_min), store_time: None })
            }
            Some(Err(Refusal::Step(_))) => {
                self.let_go(kept).await;
                self.finish(kept.id).await
            }
            Some(Err(Refusal::Failed(_))) if wire.is_over() => {
                self.let_go(kept).await;
                self.finish(kept.id).await
            }
            Some(Err(Refusal::Failed(error))) => Err(error),
            None => Err(store.late("renew").with_unknown_effect()),
        }
    }

    /// Ends what may be left of a session that is over for us, before that is said.
    async fn finish(&self, id: SessionId) -> Result<Lease> {
        let store = &self.store;
        end(store, id, Cause::Expired, "renew", store.deadline()).await?;
        let wire = store.wire("renew", store.deadline()).await?;
        let node = store.layout.session(id);
        let left = async { tokio::try_join!(wire.sync(), wire.look(&node)) };
        if let (_, Some(_)) = store.read("renew", store.deadline(), left).await? {
            // Its node goes, and whoever sees that removes what it owned.
            store.read("renew", store.deadline(), wire.delete(&node)).await?;
            end(store, id, Cause::Expired, "renew", store.deadline()).await?;
        }
        Err(crate::lost("renew", id))
    }

    /// Ends a session, whoever opened it.
    pub(crate) async fn close(self: &Arc<Self>, id: SessionId) -> Result<()> {
        end(&self.store, id, Cause::Closed, "close", self.store.deadline()).await?;
        if let Place::Kept(kept) = self.find(id) {
            self.let_go(&kept).await;
        }
        self.lock().over.retain(|over| *over != id);
        Ok(())
    }

    /// Touches a session until it is let go, its node is gone, or nobody renewed it in time.
    async fn keep(self: Arc<Self>, kept: Arc<Kept>) {
        let clock = self.store.clock.clone();
        let node = self.store.layout.session(kept.id);
        let pause = self.tick / TOUCHES_PER_TICK;
        loop {
            let (sent, deadline) = (clock.now(), kept.lock().deadline);
            let Some(wire) = kept.lock().wire.clone() else { return };
            if sent >= deadline || wire.is_over() {
                break;
            }
            tokio::select! {
                found = wire.look(&node) => match found {
                    Ok(Some(_)) => kept.lock().touches.note(sent, clock.now()),
                    Ok(None) => break,
                    // The connection is made anew by the crate, or is over.
                    Err(_) => {}
                },
                () = clock.sleep_until(deadline) => continue,
                () = kept.stop.notified() => return,
            }
            drop(wire);
            tokio::select! {
                () = clock.sleep(pause) => {}
                () = kept.stop.notified() => return,
            }
        }
        self.let_go(&kept).await;
    }

    /// Gives up the connection of a session, and with it the session, and waits a while until the server has
    /// ended it.
    async fn let_go(&self, kept: &Kept) {
        {
            let mut sessions = self.lock();
            if sessions.kept.remove(&kept.id).is_some() {
                if sessions.over.len() == OVER_KEPT {
                    sessions.over.pop_front();
                }
                sessions.over.push_back(kept.id);
            }
        }
        let wire = kept.lock().wire.take();
        kept.stop.notify_one();
        // A renewal or a touch that is under way holds it a little longer, and drops it then.
        if let Some(wire) = wire.and_then(Arc::into_inner) {
            let _ = self.store.within(self.store.deadline(), wire.end()).await;
        }
    }

    fn find(&self, id: SessionId) -> Place {
        let sessions = self.lock();
        match sessions.kept.get(&id) {
            Some(kept) => Place::Kept(kept.clone()),
            None if sessions.over.contains(&id) => Place::Over,
            None => Place::Elsewhere,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        // Nothing under the lock can panic; a poisoned one would still guard a whole state.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can panic; a poisoned one would still guard a whole state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // The runtime ended before the session did. To drop the wire would end the session while its holder may
        // still believe in it; the server ends it when its time is over.
        if let Some(wire) = self.wire.take() {
            std::mem::forget(wire);
        }
    }
}
