//! The namespace as this driver knows it: one live connection, the incarnation, the highest revision seen.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use althing_core::{BootTime, Chance, Clock, Error, Kind, Result};
use bytes::Bytes;
use tokio::sync::watch;

use crate::reply::{Answer, Reply, Status};
use crate::script::{self, Operation};
use crate::sentinel::Sentry;
use crate::server::Server;
use crate::settings::{Endpoint, Settings, Target, Way};
use crate::wire::Wire;

/// The layout of the records. Another number is another layout.
const FORMAT: &str = "1";
/// How often a call takes the store into use anew because it changed in between.
const ADOPTIONS_MAX: u32 = 3;
/// The share of a call that sentinels may take to answer once one of them has.
const SENTINELS_SHARE: u32 = 8;

/// A namespace on a server.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
    keys: [String; 6],
    seen: AtomicU64,
    // A std Mutex: held for a clone, never over an await.
    live: Mutex<Live>,
    /// Held by whoever connects, so that a thousand callers make one connection.
    connecting: tokio::sync::Mutex<()>,
    /// Where the connection in use leads, or the last one unless it was abandoned.
    at: watch::Sender<Option<Endpoint>>,
    sentry: OnceLock<Sentry>,
}

#[derive(Debug, Default)]
struct Live {
    adopted: Option<Arc<Adopted>>,
    /// The incarnation we knew last, also while there is no connection.
    known: Option<Arc<str>>,
    failures: u64,
    failure: Option<Error>,
}

/// A connection on which the namespace was taken into use.
#[derive(Debug)]
pub(crate) struct Adopted {
    wire: Wire,
    pub(crate) target: Target,
    pub(crate) incarnation: Arc<str>,
    pub(crate) server: Server,
}

impl Store {
    /// Makes the store; connects at the first call. Where sentinels know the master, looks from now on whether it
    /// still is.
    pub(crate) fn new(settings: Settings, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Arc<Store> {
        let store = Arc::new(Store {
            keys: script::keys(&settings.namespace),
            settings,
            clock,
            chance,
            seen: AtomicU64::new(0),
            live: Mutex::default(),
            connecting: tokio::sync::Mutex::new(()),
            at: watch::Sender::new(None),
            sentry: OnceLock::new(),
        });
        if store.settings.is_replicated() {
            store.sentry.get_or_init(|| Sentry::start(&store));
        }
        store
    }

    /// Returns the channel on which scripts tell that they wrote.
    pub(crate) fn channel(&self) -> &str {
        let [.., log] = &self.keys;
        log
    }

    /// Runs the script of `operation` with what every script takes before `arguments`. Ends within the time
    /// limit. Where the store turned out to be another, it is taken into use and the script sent again: it did
    /// nothing then.
    pub(crate) async fn call(&self, operation: Operation, arguments: Vec<Bytes>) -> Result<Answer> {
        let deadline = self.clock.now() + self.settings.timeout;
        let mut sent: Vec<Bytes> = vec![Bytes::new(), Bytes::new()];
        sent.extend(arguments);
        for _ in 0..ADOPTIONS_MAX {
            let adopted = self.adopted(operation.name(), deadline).await?;
            sent[0] = Bytes::copy_from_slice(adopted.incarnation.as_bytes());
            sent[1] = self.seen.load(Ordering::Acquire).to_string().into();
            let run = adopted.wire.run(operation, &self.keys, &sent);
            let Some(reply) = self.within(deadline, run).await else {
                self.forget(&adopted);
                let late = self.late(operation.name());
                return Err(if operation.writes() { late.with_unknown_effect() } else { late });
            };
            let answer = Answer::read(operation.name(), adopted.incarnation.clone(), reply?)?;
            if answer.status != Status::Changed {
                self.seen.fetch_max(answer.revision.0, Ordering::AcqRel);
                return Ok(answer);
            }
            self.forget(&adopted);
        }
        Err(Error::new(Kind::Unavailable, operation.name(), "the store is lost again and again"))
    }

    /// Returns the connection in use, or makes one, before `deadline`. Nothing is written on failure.
    pub(crate) async fn adopted(&self, operation: &'static str, deadline: BootTime) -> Result<Arc<Adopted>> {
        if let Some(adopted) = self.open_one() {
            return Ok(adopted);
        }
        let connected = self.within(deadline, self.connect()).await;
        connected.unwrap_or_else(|| Err(self.late(operation)))
    }

    /// Gives up the connection in use: another server is the master now. Calls under way on it go on until they end.
    pub(crate) fn abandon(&self) {
        if self.lock().adopted.take().is_some() {
            tracing::warn!(namespace = self.settings.namespace, "another server became the master");
        }
        self.at.send_replace(None);
    }

    /// Waits until the connection in use is not one to `endpoint`.
    pub(crate) async fn left(&self, endpoint: &Endpoint) {
        let mut at = self.at.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = at.wait_for(|at| at.as_ref() != Some(endpoint)).await;
    }

    /// Waits for `work` until `deadline`.
    pub(crate) async fn within<T>(&self, deadline: BootTime, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.clock.sleep_until(deadline) => None,
        }
    }

    async fn connect(&self) -> Result<Arc<Adopted>> {
        let failures = self.lock().failures;
        let _turn = self.connecting.lock().await;
        if let Some(adopted) = self.open_one() {
            return Ok(adopted);
        }
        // Whoever had the turn while we waited has just failed: his failure is ours.
        if let Live { failures: now, failure: Some(failure), .. } = &*self.lock()
            && *now != failures
        {
            return Err(failure.clone());
        }
        let adopted = self.adopt().await;
        let mut live = self.lock();
        match &adopted {
            Ok(adopted) => {
                live.known = Some(adopted.incarnation.clone());
                live.adopted = Some(adopted.clone());
            }
            Err(error) => {
                live.failures += 1;
                live.failure = Some(error.clone());
            }
        }
        adopted
    }

    /// Makes a connection, asks the server what it is, and takes the namespace into use.
    async fn adopt(&self) -> Result<Arc<Adopted>> {
        let settings = &self.settings;
        let (endpoint, epoch) = self.find().await?;
        let target = settings.target(endpoint);
        let wire = Wire::dial(&target).await?;
        let server = Server::examine(&wire, &target.endpoint, settings.is_replicated()).await?;
        let known = self.lock().known.clone();
        let arguments: Vec<Bytes> = vec![
            FORMAT.into(),
            format!("{:032x}", self.chance.bits()).into(),
            server.run.clone().into(),
            kept(&server, settings).into(),
            Bytes::copy_from_slice(known.as_deref().unwrap_or_default().as_bytes()),
            self.seen.load(Ordering::Acquire).to_string().into(),
        ];
        let reply = wire.run(Operation::Adopt, &self.keys, &arguments).await.map_err(|error| {
            let rights = format!(
                "A user needs the keys {{{0}}}:* and the channel {1}",
                self.settings.namespace,
                self.channel()
            );
            if error.kind() == Kind::Denied { error.advise(rights) } else { error }
        })?;
        let answer = self.read_adoption(reply);
        let mut answer = answer.map_err(|error| error.with("server", &target.endpoint))?;
        let incarnation: Arc<str> = answer.text()?.into();
        self.seen.fetch_max(answer.revision.0, Ordering::AcqRel);
        if known.is_some_and(|known| known != incarnation) {
            tracing::warn!(namespace = self.settings.namespace, "the store was lost; its sessions are gone");
        }
        if let Way::Sentinels(sentinels) = &settings.way {
            sentinels.follow(epoch);
        }
        self.at.send_replace(Some(target.endpoint.clone()));
        Ok(Arc::new(Adopted { wire, target, incarnation, server }))
    }

    /// Returns where the server is, and the number of the fail-over that led there: zero without sentinels.
    async fn find(&self) -> Result<(Endpoint, u64)> {
        match &self.settings.way {
            Way::Direct(endpoint) => Ok((endpoint.clone(), 0)),
            Way::Sentinels(sentinels) => {
                let patience = self.settings.timeout / SENTINELS_SHARE;
                sentinels.find(self.clock.as_ref(), patience).await.map(|word| (word.endpoint, word.epoch))
            }
        }
    }

    fn read_adoption(&self, reply: Reply) -> Result<Answer> {
        let mut answer = Answer::read(Operation::Adopt.name(), "".into(), reply)?;
        let (kind, message, advice) = match answer.status {
            Status::Foreign => (
                Kind::Format,
                format!("the namespace holds {}, not layout version {FORMAT}", answer.text()?),
                "Choose another namespace, or a host of the version that wrote it".to_owned(),
            ),
            Status::Stale => (
                Kind::Unavailable,
                "the sentinels lead to a master that others have left: it has less than was seen on another"
                    .into(),
                format!(
                    "Look why these sentinels know of no later fail-over. If it is to be the master all the same, \
                     send it HDEL {{{}}}:meta run",
                    self.settings.namespace
                ),
            ),
            _ => return Ok(answer),
        };
        let error = Error::new(kind, "connect", message).with("namespace", &self.settings.namespace);
        Err(error.advise(advice))
    }

    fn open_one(&self) -> Option<Arc<Adopted>> {
        self.lock().adopted.clone().filter(|adopted| adopted.wire.is_open())
    }

    /// Uses `adopted` for no further call. Calls under way on it go on until they end.
    fn forget(&self, adopted: &Arc<Adopted>) {
        let mut live = self.lock();
        if live.adopted.as_ref().is_some_and(|now| Arc::ptr_eq(now, adopted)) {
            live.adopted = None;
        }
    }

    fn late(&self, operation: &'static str) -> Error {
        let message = format!("no answer of Redis within {} ms", self.settings.timeout.as_millis());
        Error::new(Kind::Timeout, operation, message).with("server", &self.settings.way)
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        // Nothing under the lock can panic; a poisoned one would still guard a whole state.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says, as `adopt.lua` takes it, what the server has of before where it was started since, or took over.
fn kept(server: &Server, settings: &Settings) -> &'static str {
    match (settings.is_replicated(), server.durable) {
        (true, _) => "r",
        (false, true) => "1",
        (false, false) => "0",
    }
}
