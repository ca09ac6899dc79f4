//! The namespace as this driver knows it: its connections, and the highest revision seen.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use althing_core::{BootTime, Chance, Clock, Error, Kind, Result};
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::sync::watch::Sender;

use crate::answer::{Answer, Status, nonsense};
use crate::hub::Heard;
use crate::operation::{Argument, Operation};
use crate::schema::FORMAT;
use crate::server::Server;
use crate::settings::Settings;
use crate::wire::Wire;

/// How often a call takes the namespace into use anew because it changed in between.
const ADOPTIONS_MAX: u32 = 3;
/// Connections at once for what waits for the namespace: while one of them is written to disk, others are prepared.
const WRITERS_MAX: usize = 4;
/// Connections at once for what waits for nobody.
const READERS_MAX: usize = 4;
/// What a request needs besides its arguments, in bytes.
const REQUEST_BYTES: usize = 1024;

/// A namespace on a server.
pub(crate) struct Store {
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
    /// What is known of the namespace, and told to the watches.
    pub(crate) heard: Sender<Heard>,
    /// What the first server said about its disk; the capability stands on it.
    durable: OnceLock<bool>,
    writes: Lane,
    reads: Lane,
    /// Apart, so that a renewal waits for nobody.
    renewals: Lane,
}

/// Connections for one purpose, made when they are needed.
struct Lane {
    permits: Semaphore,
    // A std Mutex: held for a push or a pop, never over an await.
    idle: Mutex<Vec<Adopted>>,
}

/// A connection on which the namespace was taken into use.
struct Adopted {
    wire: Wire,
    namespace: Namespace,
}

/// The namespace, as the server calls it, and what the server takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Namespace {
    pub(crate) incarnation: u128,
    pub(crate) durable: bool,
    space: i64,
    packet: usize,
}

impl Store {
    /// Makes the store; connects at the first call.
    pub(crate) fn new(settings: Settings, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Store {
        Store {
            settings,
            clock,
            chance,
            heard: Sender::new(Heard::default()),
            durable: OnceLock::new(),
            writes: Lane::new(WRITERS_MAX),
            reads: Lane::new(READERS_MAX),
            renewals: Lane::new(1),
        }
    }

    /// Calls a procedure with what every procedure takes before `arguments`, and returns its answer with the incarnation
    /// that gave it. Ends within the time limit. Where a session is due, it is ended and the procedure called again; where
    /// the namespace turned out to be another, it is taken into use first: the procedure did nothing then.
    pub(crate) async fn call(
        &self,
        operation: Operation,
        arguments: Vec<Argument>,
    ) -> Result<(Answer, u128)> {
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

    /// Takes the namespace into use, if no connection has done so.
    pub(crate) async fn namespace(&self, operation: &'static str) -> Result<Namespace> {
        let deadline = self.clock.now() + self.settings.timeout;
        let Some(_permit) = self.within(deadline, self.reads.permits.acquire()).await else {
            return Err(self.late(operation));
        };
        let adopted = self.adopted(&self.reads, operation, deadline).await?;
        let namespace = adopted.namespace;
        self.reads.give(adopted);
        Ok(namespace)
    }

    /// Waits for `work` until `deadline`.
    pub(crate) async fn within<T>(&self, deadline: BootTime, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.clock.sleep_until(deadline) => None,
        }
    }

    fn late(&self, operation: &'static str) -> Error {
        self.placed(Error::new(Kind::Timeout, operation, "MySQL did not answer in time"))
    }

    /// Says where it went wrong.
    fn placed(&self, error: Error) -> Error {
        error.with("server", self.settings.address()).with("namespace", &self.settings.namespace)
    }

    async fn send(
        &self,
        operation: Operation,
        arguments: &[Argument],
        deadline: BootTime,
    ) -> Result<(Answer, u128)> {
        let lane = self.lane(operation);
        let Some(_permit) = self.within(deadline, lane.permits.acquire()).await else {
            return Err(self.late(operation.name()));
        };
        for _ in 0..ADOPTIONS_MAX {
            let Adopted { wire, namespace } = self.adopted(lane, operation.name(), deadline).await?;
            let sent = self.arguments(namespace, arguments);
            if let Err(error) = fits(operation, &sent, namespace.packet) {
                lane.give(Adopted { wire, namespace });
                return Err(self.placed(error));
            }
            let Some((wire, reply)) = self.within(deadline, wire.run(operation, sent)).await else {
                // Nor is any other connection trusted that was made before.
                self.forget();
                let late = self.late(operation.name());
                return Err(if operation.writes() { late.with_unknown_effect() } else { late });
            };
            match wire {
                Some(wire) => lane.give(Adopted { wire, namespace }),
                None => self.forget(),
            }
            let answer = reply.and_then(|reply| Answer::read(operation, reply));
            let answer = answer.map_err(|error| self.placed(error))?;
            self.see(&answer);
            if answer.status != Status::Changed {
                return Ok((answer, namespace.incarnation));
            }
            self.forget();
        }
        let message = "the store is set back again and again";
        Err(self.placed(Error::new(Kind::Unavailable, operation.name(), message)))
    }

    fn lane(&self, operation: Operation) -> &Lane {
        match operation {
            Operation::Renew => &self.renewals,
            _ if operation.locks() => &self.writes,
            _ => &self.reads,
        }
    }

    fn arguments(&self, namespace: Namespace, arguments: &[Argument]) -> Vec<Argument> {
        let mut sent = vec![
            Argument::Long(namespace.space),
            Argument::bytes(sixteen(namespace.incarnation)),
            Argument::Long(self.seen()),
        ];
        sent.extend_from_slice(arguments);
        sent
    }

    /// Takes an idle connection, or makes one before `deadline`. Nothing of the caller's is written on failure.
    async fn adopted(&self, lane: &Lane, operation: &'static str, deadline: BootTime) -> Result<Adopted> {
        let idle = lane.idle().pop();
        if let Some(adopted) = idle {
            return Ok(adopted);
        }
        match self.within(deadline, self.adopt()).await {
            Some(adopted) => adopted.map_err(|error| self.placed(error)),
            None => Err(self.late(operation)),
        }
    }

    /// Makes a connection, asks the server what it is, and takes the namespace into use.
    async fn adopt(&self) -> Result<Adopted> {
        let wire = Wire::dial(&self.settings).await?;
        let (wire, server) = Server::examine(wire, &self.settings).await?;
        self.refuse_less_durable(&server)?;
        let arguments = vec![
            Argument::bytes(Bytes::copy_from_slice(self.settings.namespace.as_bytes())),
            Argument::Long(FORMAT),
            Argument::bytes(sixteen(self.chance.bits())),
            Argument::bytes(server.name),
            Argument::Long(self.seen()),
        ];
        let (wire, reply) = wire.run(Operation::Adopt, arguments).await;
        let mut answer = Answer::read(Operation::Adopt, reply?)?;
        if answer.status == Status::Foreign {
            return Err(self.foreign(answer.number("layout")?));
        }
        self.see(&answer);
        if let Some(kept) = answer.maybe_number("kept")? {
            let namespace = &self.settings.namespace;
            tracing::warn!(namespace, kept, "the server was started again, or the store set back");
        }
        let wire = wire.ok_or_else(|| nonsense(Operation::Adopt, "no connection"))?;
        let namespace = Namespace {
            incarnation: answer.bits("incarnation")?,
            durable: server.durable,
            space: answer.maybe_number("space")?.ok_or_else(|| nonsense(Operation::Adopt, "space"))?,
            packet: server.packet,
        };
        Ok(Adopted { wire, namespace })
    }

    fn refuse_less_durable(&self, server: &Server) -> Result<()> {
        // Asked first, so that the first server is the one that promises.
        let promised = *self.durable.get_or_init(|| server.durable);
        if server.durable || !promised {
            return Ok(());
        }
        let message = "the server no longer has on disk what it acknowledges";
        let advice = "Set innodb_flush_log_at_trx_commit to 1, innodb_doublewrite to on, and sync_binlog to 1 where there \
            is a binary log, or restart this host to do without";
        Err(Error::new(Kind::Unsupported, "connect", message).advise(advice))
    }

    fn foreign(&self, found: u64) -> Error {
        let message = format!("the namespace is of layout version {found}, not {FORMAT}");
        Error::new(Kind::Format, "connect", message)
            .advise("Choose another namespace, or a host of the version that wrote it")
    }

    /// Keeps the highest revision, and wakes the watches: what this host wrote or read itself needs no look.
    fn see(&self, answer: &Answer) {
        let Some(revision) = answer.revision else { return };
        self.heard.send_if_modified(|heard| {
            let is_news = revision > heard.revision;
            heard.revision = heard.revision.max(revision);
            is_news
        });
    }

    fn seen(&self) -> i64 {
        i64::try_from(self.heard.borrow().revision).unwrap_or(i64::MAX)
    }

    /// Uses no connection again that is idle now.
    fn forget(&self) {
        [&self.writes, &self.reads, &self.renewals].iter().for_each(|lane| lane.idle().clear());
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Lane {
    fn new(connections: usize) -> Lane {
        Lane { permits: Semaphore::new(connections), idle: Mutex::default() }
    }

    fn give(&self, adopted: Adopted) {
        self.idle().push(adopted);
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Adopted>> {
        // Nothing under the lock can panic; a poisoned one would still guard a whole state.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fits(operation: Operation, arguments: &[Argument], packet: usize) -> Result<()> {
    let size = arguments.iter().map(Argument::size).sum::<usize>() + REQUEST_BYTES;
    if size <= packet {
        return Ok(());
    }
    let message = format!("{size} bytes, and the server takes {packet} at once");
    Err(Error::new(Kind::TooLarge, operation.name(), message)
        .advise("Raise max_allowed_packet, or write less at once"))
}

fn sixteen(number: u128) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}
