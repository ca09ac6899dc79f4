//! The namespace as this driver knows it: one live connection to one of the members, found anew when it is lost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use althing_core::{BootTime, Chance, Clock, Error, Kind, Result, Revision, limits};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::incarnation::{Incarnation, Met, Origin};
use crate::layout::{self, FORMAT, Layout};
use crate::proto::{
    Compare, Header, KeyValue, PutRequest, RangeRequest, RequestOp, Target, TxnRequest, TxnResponse,
};
use crate::settings::{Server, Settings};
use crate::wire::{Call, Refusal, Wire};

/// The first version with all that this driver asks for: watches in fragments.
const VERSION_MIN: (u32, u32) = (3, 4);
/// How long one member may be silent before the next is tried beside it.
const PATIENCE: Duration = Duration::from_millis(200);
/// A member that was silent for so long is left when a call is dropped. Where the URL allows a call more than
/// [`limits::CALL_DEADLINE`], a host drops it before its time is up here, and a member that went without a word would be
/// asked again and again.
const SILENCE: Duration = Duration::from_secs(1);
const _: () = assert!(SILENCE.as_millis() * 2 <= limits::CALL_DEADLINE.as_millis());
/// How often a call logs in anew because its login has run out.
const LOGINS_MAX: u32 = 2;

/// A namespace on a cluster.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) settings: Settings,
    pub(crate) layout: Layout,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
    /// The member that is tried first.
    first: AtomicUsize,
    // A std Mutex: held for a clone, never over an await.
    live: Mutex<Live>,
    // Likewise.
    met: Mutex<Met>,
    /// Held by whoever connects, so that a thousand callers make one connection.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Live {
    wire: Option<Arc<Wire>>,
    failures: u64,
    failure: Option<Error>,
}

/// A call that was sent. Dropping it when the member was silent for long leaves the member.
struct Sent<'a> {
    store: &'a Store,
    wire: &'a Wire,
    at: BootTime,
    is_over: bool,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        if !self.is_over && self.store.clock.now().since(self.at) >= SILENCE {
            self.store.leave(self.wire);
        }
    }
}

impl Store {
    /// Makes the store; connects at the first call.
    pub(crate) fn new(settings: Settings, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Store {
        Store {
            layout: Layout::new(&settings.namespace),
            // Hosts with the same URL spread over the members.
            first: AtomicUsize::new(chance.bits() as usize % settings.servers.len()),
            settings,
            clock,
            chance,
            live: Mutex::default(),
            met: Mutex::default(),
            connecting: tokio::sync::Mutex::new(()),
        }
    }

    /// Returns when a call that begins now must have ended.
    pub(crate) fn deadline(&self) -> BootTime {
        self.clock.now() + self.settings.timeout
    }

    /// Sends a transaction, before `deadline`.
    pub(crate) async fn txn(
        &self,
        call: Call,
        deadline: BootTime,
        txn: &TxnRequest,
    ) -> Result<TxnResponse, Refusal> {
        let send = |wire: Arc<Wire>| {
            let txn = txn.clone();
            async move { wire.txn(call, txn).await }
        };
        self.call(call, deadline, send).await
    }

    /// Does `work` on the connection, before `deadline`. A connection that failed is not used again.
    pub(crate) async fn call<T, F>(
        &self,
        call: Call,
        deadline: BootTime,
        work: impl Fn(Arc<Wire>) -> F,
    ) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        for _ in 0..LOGINS_MAX {
            let wire = self.wire(call.operation, deadline).await.map_err(Refusal::Failed)?;
            let mut sent = Sent { store: self, wire: &wire, at: self.clock.now(), is_over: false };
            let done = self.within(deadline, work(wire.clone())).await;
            sent.is_over = true;
            let Some(done) = done else {
                self.leave(&wire);
                let late = self.late(call.operation).with("server", wire.server());
                let late = if call.writes { late.with_unknown_effect() } else { late };
                return Err(Refusal::Outage(late));
            };
            match done {
                Err(Refusal::LoggedOut) => wire.condemn(),
                Err(Refusal::Outage(error)) => {
                    self.leave(&wire);
                    return Err(Refusal::Outage(error));
                }
                done => return done,
            }
        }
        Err(Refusal::LoggedOut)
    }

    /// Returns the connection in use, or makes one, before `deadline`. Nothing is written on failure.
    pub(crate) async fn wire(&self, operation: &'static str, deadline: BootTime) -> Result<Arc<Wire>> {
        if let Some(wire) = self.open_one() {
            return Ok(wire);
        }
        let connected = self.within(deadline, self.connect()).await;
        connected.unwrap_or_else(|| Err(self.late(operation)))
    }

    /// Waits for `work` until `deadline`.
    pub(crate) async fn within<T>(&self, deadline: BootTime, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.clock.sleep_until(deadline) => None,
        }
    }

    /// Reads, through the quorum, which state of the namespace this is, and its revision now.
    pub(crate) async fn now(&self, call: Call, wire: &Wire) -> Result<(Incarnation, Revision), Refusal> {
        let range = RangeRequest { key: self.layout.meta(), ..RangeRequest::default() };
        let known = lock(&self.met).term();
        let found = wire.range(call, range).await?;
        let header = header(call.operation, found.header).map_err(Refusal::Failed)?;
        let origin = self.read_meta(&header, found.kvs.first()).map_err(Refusal::Failed)?;
        let incarnation = lock(&self.met).meet(origin, known, header.raft_term);
        Ok((incarnation, layout::revision(header.revision)))
    }

    async fn connect(&self) -> Result<Arc<Wire>> {
        let failures = lock(&self.live).failures;
        let _turn = self.connecting.lock().await;
        if let Some(wire) = self.open_one() {
            return Ok(wire);
        }
        // Whoever had the turn while we waited has just failed: his failure is ours.
        if let Live { failures: now, failure: Some(failure), .. } = &*lock(&self.live)
            && *now != failures
        {
            return Err(failure.clone());
        }
        let dialled = self.dial_some().await;
        let mut live = lock(&self.live);
        match &dialled {
            Ok(wire) => live.wire = Some(wire.clone()),
            Err(error) => {
                live.failures += 1;
                live.failure = Some(error.clone());
            }
        }
        dialled
    }

    /// Tries one member after the other. One that does not answer soon is not waited for alone.
    async fn dial_some(&self) -> Result<Arc<Wire>> {
        let servers = &self.settings.servers;
        let first = self.first.load(Ordering::Relaxed);
        let mut untried = (first..first + servers.len()).map(|number| number % servers.len());
        let (mut dials, mut failure) = (FuturesUnordered::new(), None);
        loop {
            let next = untried.next();
            let has_next = next.is_some();
            dials.extend(next.map(|number| self.dial(&servers[number], number)));
            let done = tokio::select! {
                biased;
                done = dials.next() => done,
                () = self.clock.sleep(PATIENCE), if has_next => continue,
            };
            match done {
                Some((number, Ok(wire))) => {
                    self.first.store(number, Ordering::Relaxed);
                    return Ok(Arc::new(wire));
                }
                Some((_, Err(Refusal::Outage(error)))) => failure = Some(error),
                Some((_, Err(refusal))) => return Err(refusal.into_error("connect")),
                None => return Err(failure.unwrap_or_else(|| self.late("connect"))),
            }
        }
    }

    /// Uses a connection for nothing more, and tries another member first.
    pub(crate) fn leave(&self, wire: &Wire) {
        wire.condemn();
        let next = (wire.number() + 1) % self.settings.servers.len();
        // Somebody else may have left it already.
        let _ = self.first.compare_exchange(wire.number(), next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Makes a connection on which the quorum answers and the namespace is ours.
    async fn dial(&self, server: &Server, number: usize) -> (usize, Result<Wire, Refusal>) {
        (number, self.dial_one(server, number).await)
    }

    async fn dial_one(&self, server: &Server, number: usize) -> Result<Wire, Refusal> {
        let wire = Wire::dial(&self.settings, server, number).await?;
        // Whether it is etcd at all, and whether it lets us in, shows at the first answer.
        let version = wire.version().await.map_err(|refusal| match refusal {
            Refusal::Outage(error) => Refusal::Outage(error.advise(server.hint())),
            refusal => refusal,
        })?;
        check_version(&version).map_err(Refusal::Failed)?;
        self.adopt(&wire).await?;
        Ok(wire)
    }

    /// Takes the namespace into use: reads its format where it holds something, writes it where it holds nothing.
    async fn adopt(&self, wire: &Wire) -> Result<(), Refusal> {
        // Written once for ever, whether we hear of it or not: of no effect that matters to a caller.
        let call = Call { operation: "connect", writes: false };
        let meta = RangeRequest { key: self.layout.meta(), ..RangeRequest::default() };
        if !wire.range(call, meta.clone()).await?.kvs.is_empty() {
            return self.now(call, wire).await.map(drop);
        }
        let all = self.layout.all();
        let value = format!("{FORMAT} {:032x}", self.chance.bits()).into();
        let txn = TxnRequest {
            compare: vec![Compare::equal(all.start, all.end, Target::Create, 0)],
            success: vec![RequestOp::put(PutRequest { key: self.layout.meta(), value, lease: 0 })],
            failure: Vec::new(),
        };
        wire.txn(call, txn).await?;
        self.now(call, wire).await.map(drop)
    }

    fn read_meta(&self, header: &Header, found: Option<&KeyValue>) -> Result<Origin> {
        let wrong = |message: String| {
            Error::new(Kind::Format, "connect", message).with("namespace", &self.settings.namespace)
        };
        let Some(found) = found else {
            let error = wrong("the namespace holds records without a format record".to_owned());
            return Err(
                error.advise("Choose another namespace; this one was not written by Althing, or was damaged")
            );
        };
        let format = found.value.split(|byte| *byte == b' ').next().unwrap_or_default();
        if format != FORMAT.as_bytes() {
            let format = format[..format.len().min(32)].escape_ascii();
            let error = wrong(format!("the namespace holds layout version {format}, not {FORMAT}"));
            return Err(error.advise("Choose another namespace, or a host of the version that wrote it"));
        }
        let name = found.value.clone();
        Ok(Origin { cluster: header.cluster_id, begun: found.create_revision, name })
    }

    fn open_one(&self) -> Option<Arc<Wire>> {
        lock(&self.live).wire.clone().filter(|wire| wire.is_open())
    }

    pub(crate) fn late(&self, operation: &'static str) -> Error {
        let message = format!("no answer of etcd within {} ms", self.settings.timeout.as_millis());
        Error::new(Kind::Timeout, operation, message).with("servers", self.settings.address())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under the locks can panic; a poisoned one would still guard a whole state.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the header, which every answer has.
pub(crate) fn header(operation: &'static str, header: Option<Header>) -> Result<Header> {
    header.ok_or_else(|| Error::new(Kind::Internal, operation, "etcd answered without a header"))
}

/// Returns what each range of a transaction found, in their order.
pub(crate) fn ranges(answer: TxnResponse) -> impl Iterator<Item = Vec<KeyValue>> {
    answer.responses.into_iter().filter_map(|response| response.range).map(|range| range.kvs)
}

fn check_version(version: &str) -> Result<()> {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= VERSION_MIN {
        return Ok(());
    }
    let (major, minor) = VERSION_MIN;
    Err(Error::new(Kind::Unsupported, "connect", format!("etcd {version} is too old"))
        .advise(format!("Althing needs etcd {major}.{minor} or newer")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_an_old_server_by_its_version() {
        for (version, fits) in
            [("3.4.23", true), ("3.6.0-rc.1", true), ("4.0.0", true), ("3.3.27", false), ("", false)]
        {
            assert_eq!(check_version(version).is_ok(), fits, "{version}");
        }
    }
}
