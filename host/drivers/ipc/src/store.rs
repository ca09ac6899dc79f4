//! The host as this driver knows it: a connection for sessions and one for records, what it promises, the highest revision
//! seen.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use althing_client::waist::{Call, Dialled, Reply, dial};
use althing_core::layers::Operation;
use althing_core::{BootTime, Capability, Chance, Clock, Error, Key, Kind, Order, Result, Revision};

use crate::line::{Broken, Line};
use crate::settings::Settings;

/// Which connection a call takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lane {
    /// That to which sessions are bound.
    Sessions,
    /// That of all other calls.
    Records,
}

/// A host, and how to reach it.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
    // Std Mutexes: held for a clone, never over an await.
    capability: Mutex<Capability>,
    seen: AtomicU64,
    sessions: Connected,
    records: Connected,
}

/// One connection, made where it is missing.
#[derive(Debug, Default)]
struct Connected {
    live: Mutex<Live>,
    /// Held by whoever connects, so that a thousand callers make one connection.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Live {
    line: Option<Arc<Line>>,
    failures: u64,
    failure: Option<Error>,
}

impl Store {
    pub(crate) async fn connect(
        settings: Settings,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Result<Store> {
        let deadline = clock.now() + settings.timeout;
        let Some(dialled) = within(&*clock, deadline, dial("connect", &settings.place)).await else {
            return Err(late("connect", &settings));
        };
        let dialled = dialled?;
        let capability = Mutex::new(dialled.greeting.capability.clone());
        let line = Some(Arc::new(Line::start(dialled)));
        let sessions =
            Connected { live: Mutex::new(Live { line, ..Live::default() }), ..Connected::default() };
        let (seen, records) = (AtomicU64::new(0), Connected::default());
        Ok(Store { settings, clock, chance, capability, seen, sessions, records })
    }

    pub(crate) fn capability(&self) -> Capability {
        lock(&self.capability).clone()
    }

    /// Remembers that the backend has come so far.
    pub(crate) fn see(&self, revision: Revision) {
        self.seen.fetch_max(revision.0, Ordering::AcqRel);
    }

    /// Does one call within the time limit. Of unknown effect is what writes and may have left.
    pub(crate) async fn call(&self, operation: Operation, lane: Lane, call: Call) -> Result<Reply> {
        let name = operation.name();
        let deadline = self.clock.now() + self.settings.timeout;
        let line = self.line(name, lane, deadline).await?;
        let sent = AtomicBool::new(false);
        let error = match self.within(deadline, line.ask(call, &sent)).await {
            Some(Err(unsaid)) => return Err(unsaid),
            Some(Ok(Ok(outcome))) => return outcome.map_err(|failure| failure.into_error(name)),
            Some(Ok(Err(Broken))) => self.broken(name),
            None => late(name, &self.settings),
        };
        let is_unknown = operation.writes() && sent.load(Ordering::Acquire);
        Err(if is_unknown { error.with_unknown_effect() } else { error })
    }

    /// Makes another connection, for a watch, to a host that goes on from what was seen. The first request on it is the
    /// watch, so what is there is asked on one more; made after it, because a host that was replaced in between has ended
    /// the first.
    pub(crate) async fn dial_for_watch(&self, operation: &'static str) -> Result<Dialled> {
        let dialled = self.dial(operation).await?;
        if self.least(&dialled).is_some() {
            self.checked(operation).await?;
        }
        Ok(dialled)
    }

    async fn dial(&self, operation: &'static str) -> Result<Dialled> {
        let dialled = dial(operation, &self.settings.place).await?;
        let promised = &dialled.greeting.capability;
        let mut known = lock(&self.capability);
        if *known != *promised {
            tracing::warn!(before = ?*known, now = ?promised, "the host has come back with another backend");
            *known = promised.clone();
        }
        drop(known);
        Ok(dialled)
    }

    /// Waits for `work` until `deadline`.
    pub(crate) async fn within<T>(&self, deadline: BootTime, work: impl Future<Output = T>) -> Option<T> {
        within(&*self.clock, deadline, work).await
    }

    /// Makes the error that the connection ended while something was asked on it.
    pub(crate) fn broken(&self, operation: &'static str) -> Error {
        let socket = self.settings.place.socket.display();
        Error::new(Kind::Unavailable, operation, format!("the connection to the host at unix:{socket} broke"))
    }

    pub(crate) fn late(&self, operation: &'static str) -> Error {
        late(operation, &self.settings)
    }

    /// Returns the connection in use, or makes one, before `deadline`. Nothing is written on failure.
    async fn line(&self, operation: &'static str, lane: Lane, deadline: BootTime) -> Result<Arc<Line>> {
        let connected = match lane {
            Lane::Sessions => &self.sessions,
            Lane::Records => &self.records,
        };
        if let Some(line) = connected.open_one() {
            return Ok(line);
        }
        let line = self.within(deadline, self.connect_anew(operation, connected)).await;
        line.unwrap_or_else(|| Err(self.late(operation)))
    }

    async fn connect_anew(&self, operation: &'static str, connected: &Connected) -> Result<Arc<Line>> {
        let failures = lock(&connected.live).failures;
        let _turn = connected.connecting.lock().await;
        if let Some(line) = connected.open_one() {
            return Ok(line);
        }
        // Whoever had the turn while we waited has just failed: his failure is ours.
        if let Live { failures: now, failure: Some(failure), .. } = &*lock(&connected.live)
            && *now != failures
        {
            return Err(failure.clone());
        }
        let line = self.checked(operation).await;
        let mut live = lock(&connected.live);
        match &line {
            Ok(line) => live.line = Some(line.clone()),
            Err(error) => {
                live.failures += 1;
                live.failure = Some(error.clone());
            }
        }
        line
    }

    /// Connects, and makes sure that what is there goes on from what was seen: a host that came back with another
    /// backend, or with one that lost its revisions, would take what was read before for what is there now.
    async fn checked(&self, operation: &'static str) -> Result<Arc<Line>> {
        let dialled = self.dial(operation).await?;
        let least = self.least(&dialled);
        let line = Arc::new(Line::start(dialled));
        let Some(least) = least else { return Ok(line) };
        let nothing = Call::List { prefix: Key::from("session/"), after: None, limit: 1 };
        let outcome = line.ask(nothing, &AtomicBool::new(false)).await?;
        match outcome.map_err(|Broken| self.broken(operation))? {
            Ok(Reply::Page(page)) if page.revision.0 >= least => Ok(line),
            Ok(_) => {
                let socket = self.settings.place.socket.display();
                let message =
                    format!("the host at unix:{socket} has a backend that is older than what was seen of it");
                let advice =
                    "See whether the daemon was given another backend; restart what embeds this host if so";
                Err(Error::new(Kind::Unavailable, operation, message).advise(advice))
            }
            Err(failure) => Err(failure.into_error(operation)),
        }
    }

    /// Returns the revision to which a host must have come, where one was seen and they tell an order.
    fn least(&self, dialled: &Dialled) -> Option<u64> {
        let seen = self.seen.load(Ordering::Acquire);
        (seen > 0 && dialled.greeting.capability.order != Order::Key).then_some(seen)
    }
}

impl Connected {
    fn open_one(&self) -> Option<Arc<Line>> {
        lock(&self.live).line.clone().filter(|line| line.is_open())
    }
}

async fn within<T>(clock: &dyn Clock, deadline: BootTime, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock.sleep_until(deadline) => None,
    }
}

fn late(operation: &'static str, settings: &Settings) -> Error {
    let (socket, most) = (settings.place.socket.display(), settings.timeout.as_millis());
    let message = format!("no answer of the host at unix:{socket} within {most} ms");
    Error::new(Kind::Timeout, operation, message)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can panic; a poisoned one would still guard a whole state.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
