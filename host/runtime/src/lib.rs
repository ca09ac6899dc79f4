//! The road that every request and every event takes: admit → view → decide → apply.
//!
//! A [`Runtime`] is one host of a fleet. It keeps one session in the backend, an image of the fleet
//! by one watch, and one task per group that decides and claims. Recipes ([groups](Runtime::create_group),
//! [members](Runtime::join), elections, [locks](Runtime::lock), [policies](Runtime::activate), [behaviours](Runtime::call_behaviour)) are written once, against
//! [`althing_core::Driver`]. Policies advise; every change of a leadership is one guarded transaction.

mod admit;
mod anchor;
mod apply;
mod audit;
mod backends;
mod config;
mod decide;
mod envelope;
mod following;
mod identity;
mod layout;
mod mirror;
mod recipes;
mod sessions;
mod shelf;
mod stream;
mod view;

use std::future::Future;
use std::sync::Arc;

use althing_core::info::{HostInfo, Renewal, SessionAsk, SessionEvent, SessionGrant, Standing};
use althing_core::{Capability, Chance, Clock, Driver, Error, Kind, Principal, Result, Revision, SessionId};
use althing_engine::Engine;
use tokio_util::sync::CancellationToken;

use crate::anchor::Anchor;
use crate::audit::Audit;
use crate::following::Following;
use crate::identity::Identity;
use crate::mirror::Mirror;
use crate::recipes::behaviour::Hub;
use crate::recipes::election::Elections;
use crate::recipes::lock::Locks;
use crate::recipes::policy::Jobs;
use crate::sessions::{Left, Sessions};
use crate::shelf::Shelf;

pub use crate::backends::{Backends, DEFAULT_BACKEND};
pub use crate::config::{RuntimeConfig, Tuning};
pub use crate::decide::native;
pub use crate::recipes::group::GroupStream;
pub use crate::sessions::SessionKey;
pub use crate::stream::SessionStream;

/// One host of a fleet. A handle: clones share everything.
#[derive(Clone, Debug)]
pub struct Runtime(Arc<Host>);

/// What the handles and the tasks share.
#[derive(Debug)]
struct Host {
    config: RuntimeConfig,
    identity: Identity,
    driver: Arc<dyn Driver>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    engine: Engine,
    anchor: Anchor,
    mirror: Mirror,
    sessions: Sessions,
    elections: Elections,
    following: Following,
    shelf: Shelf,
    audit: Audit,
    jobs: Jobs,
    hub: Hub,
    locks: Locks,
    /// Where this host's tasks run; the renewals run on `config.io`.
    handle: tokio::runtime::Handle,
    ended: CancellationToken,
}

impl Runtime {
    /// Starts a host on the caller's tokio runtime: ends the sessions of its former run, opens one, sees the fleet
    /// once, and follows it from then on.
    pub async fn start(config: RuntimeConfig, driver: Arc<dyn Driver>, engine: Engine) -> Result<Runtime> {
        let state = config.state.as_deref();
        let (identity, former) = Identity::load(&config.name, state, &*config.chance)?;
        for session in former {
            driver.close(session).await?;
        }
        let audit = Audit::begin(config.state.clone())?;
        let (clock, chance) = (config.clock.clone(), config.chance.clone());
        let host = Arc::new_cyclic(|host| Host {
            anchor: Anchor::new(driver.clone(), clock.clone(), chance.clone(), config.lease),
            mirror: Mirror::default(),
            sessions: Sessions::new(clock.clone(), chance.clone()),
            elections: Elections::new(host.clone()),
            following: Following::default(),
            shelf: Shelf::default(),
            audit,
            jobs: Jobs::default(),
            hub: Hub::default(),
            locks: Locks::default(),
            handle: tokio::runtime::Handle::current(),
            ended: CancellationToken::new(),
            config,
            identity,
            driver,
            clock,
            chance,
            engine,
        });
        let session = host.anchor.open().await?;
        host.keep_sessions(Some(session), None);
        // Until it has begun, a host that fails or is no longer waited for ends its tasks again.
        let begun = host.ended.clone().drop_guard();
        host.clone().run();
        host.see_once().await?;
        begun.disarm();
        Ok(Runtime(host))
    }

    /// Ends the host: its members leave, what it held is lost, its session is closed. Stopping twice is fine.
    pub async fn stop(&self) {
        self.0.ended.cancel();
        let session = self.0.anchor.give_up();
        // What is locked goes with the host's session.
        drop(self.0.sessions.stand(Standing::Lost));
        self.0.sessions.remove_all("the host ends");
        if let Some(session) = session
            && let Err(error) = self.0.driver.close(session).await
        {
            tracing::warn!(%error, "the host's session is not closed: what it owned goes when its lease ends");
        }
        self.0.identity.leave();
    }

    /// Ends the host's tasks and nothing else: what it owns in the backend goes when its lease ends.
    pub fn abandon(&self) {
        self.0.ended.cancel();
        self.0.anchor.give_up();
        // What is locked goes with the host's session.
        drop(self.0.sessions.stand(Standing::Lost));
        self.0.sessions.remove_all("the host was dropped");
        self.0.identity.leave();
    }

    /// Returns the name by which this process knows the backend.
    pub fn backend(&self) -> &str {
        &self.0.config.backend
    }

    /// Returns what the backend promises.
    pub fn capability(&self) -> Capability {
        self.0.driver.capability()
    }

    /// Returns the backend below this host, with the layers that retry and bound. What is written there is not checked.
    pub fn driver(&self) -> Arc<dyn Driver> {
        self.0.driver.clone()
    }

    /// Returns who and how this host is.
    pub fn host(&self) -> HostInfo {
        let state = self.0.anchor.state();
        let (sessions, members) = self.0.sessions.count();
        HostInfo {
            id: self.0.identity.id.clone(),
            name: self.0.identity.name.clone(),
            backend: self.0.config.backend.clone(),
            incarnation: self.0.identity.incarnation.clone(),
            session: state.session,
            standing: state.standing,
            remaining_ms: self.0.anchor.remaining().as_secs_f64() * 1000.0,
            sessions,
            members,
        }
    }

    /// Waits until the host has a session in its backend: a moment at most, while it gets a new one.
    pub async fn ready(&self) {
        self.0.anchor.next(None).await;
    }

    /// Opens a client session. `remote` says that its holder learns of a loss only by a message, so that a
    /// hand-over waits for its word; a caller in this process asks [`Runtime::holds`] instead, and its session lasts
    /// as long as the host where it asks for no lease.
    pub fn open_session(&self, by: &Principal, ask: SessionAsk, remote: bool) -> Result<SessionGrant> {
        self.0.held("open session")?;
        let grant = self.0.sessions.open(by, &ask, remote, self.0.anchor.remaining())?;
        let (host, id) = (self.0.clone(), grant.id.clone());
        self.0.spawn(async move {
            host.sessions.expired(&id).await;
            host.end_session(&id, "it was not renewed in time");
        });
        Ok(grant)
    }

    /// Renews a client session. The answer is about all it holds: what is not in it is lost.
    pub fn renew_session(&self, key: &SessionKey) -> Result<Renewal> {
        self.0.sessions.renew(key, self.0.anchor.remaining())
    }

    /// Tells what a client session holds and for how long it is surely kept, without renewing it. For whoever renews less
    /// often than the host renews its own lease, which bounds every session.
    pub fn session(&self, key: &SessionKey) -> Result<Renewal> {
        self.0.sessions.look(key, self.0.anchor.remaining())
    }

    /// Ends a client session: its members leave before this returns, or as soon as the backend can be reached.
    pub async fn end_session(&self, key: &SessionKey) -> Result<()> {
        match self.0.sessions.check(key) {
            Ok(_) => {}
            Err(error) if error.kind() == Kind::SessionLost => return Ok(()),
            Err(error) => return Err(error),
        }
        // The leaves go on if the caller does not wait for them.
        let leaving = self.0.end_session(&key.id, "it was ended");
        leaving.await.map_err(|error| Error::new(Kind::Closed, "end session", "the host ends").because(error))
    }

    /// Follows a client session. With `drop_on_disconnect`, dropping the stream ends the session.
    pub fn session_events(&self, key: &SessionKey) -> Result<SessionStream> {
        let (first, events) = self.0.sessions.subscribe(key, self.0.anchor.state().standing)?;
        Ok(SessionStream::new(self.0.clone(), key.id.clone(), first, events))
    }

    /// Takes a client's word that it stopped acting as leader.
    pub fn confirm_stopped(&self, key: &SessionKey, group: &str, term: Revision) -> Result<()> {
        self.0.sessions.confirm(key, group, term)
    }

    /// Tells whether a member of this host surely leads in this term right now. No round trip.
    pub fn holds(&self, group: &str, term: Revision) -> bool {
        self.0.anchor.held().is_some() && self.0.sessions.holds(group, term)
    }
}

impl Host {
    /// Starts the tasks that run as long as the host.
    fn run(self: Arc<Self>) {
        let host = self.clone();
        let renewals = async move { host.anchor.run().await };
        let ended = self.ended.clone();
        self.config.io.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = renewals => {}
            }
        });
        self.spawn(self.clone().watch_fleet());
        self.spawn(self.clone().follow_anchor());
        self.spawn(self.clone().follow_bindings());
    }

    /// Returns the host's session in the backend, as long as it is surely held.
    fn held(&self, operation: &'static str) -> Result<SessionId> {
        self.anchor.held().ok_or_else(|| match self.ended.is_cancelled() {
            true => Error::new(Kind::Closed, operation, "the host has ended"),
            false => recipes::member::no_lease(operation),
        })
    }

    /// Returns the host's session; where there is none, or `former` has ended, waits a moment for the next.
    async fn next_session(&self, operation: &'static str, former: Option<SessionId>) -> Result<SessionId> {
        match self.anchor.next(former).await {
            Some(session) => Ok(session),
            None if self.ended.is_cancelled() => self.held(operation),
            None => Err(recipes::member::no_lease(operation)),
        }
    }

    /// Waits until the fleet was seen once, so that the first answer is not an empty one.
    async fn see_once(&self) -> Result<()> {
        let deadline = althing_core::limits::CALL_DEADLINE * 2;
        tokio::select! {
            () = self.mirror.seen_once() => Ok(()),
            () = self.clock.sleep(deadline) => Err(Error::new(
                Kind::Timeout, "start", format!("the backend showed nothing within {deadline:?}"),
            ).advise("Look at the backend's log")),
        }
    }

    /// Runs a task until it is done or the host ends.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
        let ended = self.ended.clone();
        self.handle.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = task => {}
            }
        })
    }

    /// Takes a client session away: what it owns is removed and its members leave.
    fn end_session(self: &Arc<Self>, id: &str, reason: &str) -> tokio::task::JoinHandle<()> {
        let Left { members, records, locks } = self.sessions.remove(id, reason);
        self.leave_locks(locks);
        let host = self.clone();
        self.spawn(async move {
            let anchor = host.anchor.state().session;
            tokio::join!(host.remove_records(records), host.clone().leave_all(members, anchor));
        })
    }

    /// Makes a name that nobody else makes.
    fn nonce(&self) -> String {
        format!("{:032x}", self.chance.bits())
    }

    /// Tells a session's stream what the session holds after it lagged behind.
    fn standing_of(&self, session: &str) -> Option<SessionEvent> {
        self.sessions.standing(session, self.anchor.state().standing)
    }
}
