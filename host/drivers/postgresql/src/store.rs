//! The namespace as this driver knows it: its connections, the incarnation, the highest revision seen.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use althing_core::{BootTime, Chance, Clock, Error, Kind, Result};
use bytes::Bytes;

use crate::answer::{Answer, Status};
use crate::operation::{Argument, Operation};
use crate::schema::FORMAT;
use crate::server::Server;
use crate::settings::Settings;
use crate::wire::Wire;

/// How often a call takes the namespace into use anew because it changed in between.
const ADOPTIONS_MAX: u32 = 3;

/// A namespace on a server.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
    seen: AtomicU64,
    /// The incarnation we knew last, also while there is no connection.
    known: Mutex<Option<Arc<str>>>,
    /// What the first server said about its disk; the capability stands on it.
    durable: OnceLock<bool>,
    /// Three, because a connection answers in order, and neither a read nor a renewal waits for whoever holds the namespace.
    writes: Lane,
    reads: Lane,
    renewals: Lane,
}

/// A connection that is made when it is needed.
#[derive(Debug, Default)]
struct Lane {
    // A std Mutex: held for a clone, never over an await.
    live: Mutex<Live>,
    /// Held by whoever connects, so that a thousand callers make one connection.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Live {
    adopted: Option<Arc<Adopted>>,
    failures: u64,
    failure: Option<Error>,
}

/// A connection on which the namespace was taken into use.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub(crate) wire: Wire,
    pub(crate) incarnation: Arc<str>,
    /// What the namespace's changes are told on.
    pub(crate) channel: String,
    pub(crate) server: Server,
    space: i32,
}

impl Store {
    /// Makes the store; connects at the first call.
    pub(crate) fn new(settings: Settings, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Store {
        Store {
            settings,
            clock,
            chance,
            seen: AtomicU64::new(0),
            known: Mutex::default(),
            durable: OnceLock::new(),
            writes: Lane::default(),
            reads: Lane::default(),
            renewals: Lane::default(),
        }
    }

    /// Calls a function with what every function takes before `arguments`, and returns its answer with the incarnation
    /// that gave it. Ends within the time limit. Where a session is due, it is ended and the function called again;
    /// where the namespace turned out to be another, it is taken into use first: the function did nothing then.
    pub(crate) async fn call(
        &self,
        operation: Operation,
        arguments: Vec<Argument>,
    ) -> Result<(Answer, Arc<str>)> {
        let deadline = self.clock.now() + self.settings.timeout;
        loop {
            let (answer, incarnation) = self.send(operation, &arguments, deadline).await?;
            if answer.status != Status::Due {
                return Ok((answer, incarnation));
            }
            self.send(Operation::Reap, &[], deadline).await?;
            if self.clock.now() >= deadline {
                return Err(self.late(operation.name()));
            }
        }
    }

    /// Returns the connection for reads, or makes one, before `deadline`. Nothing is written on failure.
    pub(crate) async fn adopted(&self, operation: &'static str, deadline: BootTime) -> Result<Arc<Adopted>> {
        self.adopted_on(&self.reads, operation, deadline).await
    }

    /// Waits for `work` until `deadline`.
    pub(crate) async fn within<T>(&self, deadline: BootTime, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.clock.sleep_until(deadline) => None,
        }
    }

    /// Makes the error that an answer did not come in time.
    pub(crate) fn late(&self, operation: &'static str) -> Error {
        let message = format!("no answer of PostgreSQL within {} ms", self.settings.timeout.as_millis());
        self.placed(Error::new(Kind::Timeout, operation, message))
    }

    /// Says where it went wrong.
    pub(crate) fn placed(&self, error: Error) -> Error {
        error.with("server", self.settings.address()).with("namespace", &self.settings.namespace)
    }

    async fn send(
        &self,
        operation: Operation,
        arguments: &[Argument],
        deadline: BootTime,
    ) -> Result<(Answer, Arc<str>)> {
        let lane = self.lane(operation);
        for _ in 0..ADOPTIONS_MAX {
            let adopted = self.adopted_on(lane, operation.name(), deadline).await?;
            let mut sent = vec![
                Argument::Int(adopted.space),
                Argument::Text(adopted.incarnation.to_string()),
                self.seen(),
                self.patience(),
            ];
            sent.extend_from_slice(arguments);
            let Some(row) = self.within(deadline, adopted.wire.run(operation, &sent)).await else {
                lane.forget(&adopted);
                let late = self.late(operation.name());
                return Err(if operation.writes() { late.with_unknown_effect() } else { late });
            };
            let answer = row.and_then(|row| Answer::read(operation, row));
            let answer = answer.and_then(|answer| self.see(&answer).map(|()| answer));
            let answer = answer.map_err(|error| self.placed(error))?;
            if answer.status != Status::Changed {
                return Ok((answer, adopted.incarnation.clone()));
            }
            lane.forget(&adopted);
        }
        let message = "the store is set back again and again";
        Err(self.placed(Error::new(Kind::Unavailable, operation.name(), message)))
    }

    fn lane(&self, operation: Operation) -> &Lane {
        match operation {
            Operation::Renew => &self.renewals,
            Operation::Get | Operation::List | Operation::Changes => &self.reads,
            _ => &self.writes,
        }
    }

    async fn adopted_on(
        &self,
        lane: &Lane,
        operation: &'static str,
        deadline: BootTime,
    ) -> Result<Arc<Adopted>> {
        if let Some(adopted) = lane.open_one() {
            return Ok(adopted);
        }
        let connected = self.within(deadline, self.connect(lane)).await;
        connected.unwrap_or_else(|| Err(self.late(operation)))
    }

    async fn connect(&self, lane: &Lane) -> Result<Arc<Adopted>> {
        let failures = lane.lock().failures;
        let _turn = lane.connecting.lock().await;
        if let Some(adopted) = lane.open_one() {
            return Ok(adopted);
        }
        // Whoever had the turn while we waited has just failed: his failure is ours.
        if let Live { failures: now, failure: Some(failure), .. } = &*lane.lock()
            && *now != failures
        {
            return Err(failure.clone());
        }
        let adopted = self.adopt().await.map_err(|error| self.placed(error));
        let mut live = lane.lock();
        match &adopted {
            Ok(adopted) => live.adopted = Some(adopted.clone()),
            Err(error) => {
                live.failures += 1;
                live.failure = Some(error.clone());
            }
        }
        adopted
    }

    /// Makes a connection, asks the server what it is, and takes the namespace into use.
    async fn adopt(&self) -> Result<Arc<Adopted>> {
        let wire = Wire::dial(&self.settings).await?;
        let server = Server::examine(&wire, &self.settings).await?;
        // Asked first, so that the first server is the one that promises.
        let promised = *self.durable.get_or_init(|| server.durable);
        if promised && !server.durable {
            let message = "the server no longer has on disk what it acknowledges";
            return Err(Error::new(Kind::Unsupported, "connect", message)
                .advise("Set fsync and full_page_writes to on, or restart this host to do without"));
        }
        let known = self.known().clone();
        let arguments = [
            Argument::Bytes(Some(Bytes::copy_from_slice(self.settings.namespace.as_bytes()))),
            Argument::Int(FORMAT),
            Argument::Text(format!("{:032x}", self.chance.bits())),
            Argument::Text(known.as_deref().unwrap_or_default().to_owned()),
            self.seen(),
            self.patience(),
        ];
        let answer = Answer::read(Operation::Adopt, wire.run(Operation::Adopt, &arguments).await?)?;
        if answer.status == Status::Foreign {
            return Err(self.foreign(&answer.text("layout")?));
        }
        self.see(&answer)?;
        let incarnation: Arc<str> = answer.text("incarnation")?.into();
        if known.is_some_and(|known| known != incarnation) {
            tracing::warn!(namespace = self.settings.namespace, "the store was set back, or failed over");
        }
        *self.known() = Some(incarnation.clone());
        let (channel, space) = (answer.text("channel")?, answer.int("space")?);
        Ok(Arc::new(Adopted { wire, incarnation, channel, server, space }))
    }

    fn foreign(&self, found: &str) -> Error {
        let message = format!("the namespace is of {found}, not {FORMAT}");
        Error::new(Kind::Format, "connect", message)
            .advise("Choose another namespace, or a host of the version that wrote it")
    }

    fn see(&self, answer: &Answer) -> Result<()> {
        if let Some(revision) = answer.maybe_number("revision")? {
            self.seen.fetch_max(revision, Ordering::AcqRel);
        }
        Ok(())
    }

    fn seen(&self) -> Argument {
        Argument::Long(i64::try_from(self.seen.load(Ordering::Acquire)).unwrap_or(i64::MAX))
    }

    /// Half of the time a call has, so that the server's answer says that nothing was done before we give up.
    fn patience(&self) -> Argument {
        let patience = self.settings.timeout.as_millis() / 2;
        Argument::Int(i32::try_from(patience).unwrap_or(i32::MAX).max(1))
    }

    fn known(&self) -> MutexGuard<'_, Option<Arc<str>>> {
        // Nothing under the lock can panic; a poisoned one would still guard a whole state.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
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

    fn lock(&self) -> MutexGuard<'_, Live> {
        // Nothing under the lock can panic; a poisoned one would still guard a whole state.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
