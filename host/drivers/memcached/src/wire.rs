//! The connections to the server, and every error of them by name. The only file that knows the client crate.

use std::time::Duration;

use althing_core::{Error, Kind, Result};
use bytes::Bytes;
use memcache::exp::{AsyncMetaClient, Delete, Get, GetResult, Meta, MutationStatus, Set, Ttl};
use tokio::sync::Mutex;

use crate::settings::Settings;

/// Requests under way at once; further ones wait, so that a slow server is not asked ever more.
const CONNECTIONS_MAX: usize = 32;
/// Connections kept while nothing is asked.
const IDLE_MAX: usize = 8;
/// The most items asked for, or sent, in one exchange.
const BATCH_MAX: usize = 64;

const UPGRADE: &str = "Use memcached 1.6.18 or newer";

/// What is asked of one key.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    key: String,
    value: bool,
    /// Begins its time to live anew.
    touch: Option<u32>,
}

impl Ask {
    /// Asks for everything.
    pub(crate) fn value(key: String) -> Ask {
        Ask { key, value: true, touch: None }
    }

    /// Asks whether it is there, for its number and for how long it lives.
    pub(crate) fn there(key: String) -> Ask {
        Ask { key, value: false, touch: None }
    }

    /// Lets it live for `seconds` from now on, if it is there.
    pub(crate) fn touch(key: String, seconds: u32) -> Ask {
        Ask { key, value: false, touch: Some(seconds) }
    }

    fn operation(&self) -> Get {
        let get = Get::new(&self.key).meta(Meta::NONE.cas().ttl());
        let get = if self.value { get } else { get.without_value() };
        match self.touch {
            Some(seconds) => get.touch(Ttl::secs(seconds)),
            None => get,
        }
    }
}

/// What is at a key.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// Empty where it was not asked for.
    pub(crate) value: Bytes,
    /// Changes with each write of the key, and never comes again while the server runs.
    pub(crate) cas: u64,
    /// The seconds it has left by the server's clock; `None` where it does not expire.
    pub(crate) seconds: Option<u64>,
}

/// A server, asked over a few connections.
#[derive(Debug)]
pub(crate) struct Wire {
    address: String,
    timeout: Duration,
    client: Mutex<Option<Client>>,
}

#[derive(Clone)]
struct Client(AsyncMetaClient);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Wire {
    /// Makes the wire; connects at the first request.
    pub(crate) fn new(settings: &Settings) -> Wire {
        Wire { address: settings.address.clone(), timeout: settings.timeout, client: Mutex::new(None) }
    }

    /// Returns what is at each key. One exchange for up to [`BATCH_MAX`] of them, run by the server in their order.
    pub(crate) async fn read(&self, operation: &'static str, asks: &[Ask]) -> Result<Vec<Option<Item>>> {
        let mut found = Vec::with_capacity(asks.len());
        for asks in asks.chunks(BATCH_MAX) {
            let client = self.client(operation).await?;
            let results = client.0.run_many(asks.iter().map(Ask::operation)).await;
            for result in self.judged(operation, results).await? {
                found.push(item(result));
            }
        }
        Ok(found)
    }

    /// Stores items for good. An error has no effect that matters: nobody knows their keys yet.
    pub(crate) async fn store(&self, operation: &'static str, items: &[(String, Bytes)]) -> Result<()> {
        for items in items.chunks(BATCH_MAX) {
            let client = self.client(operation).await?;
            let sets = items.iter().map(|(key, item)| Set::new(key, item).ttl(Ttl::NEVER));
            let results = client.0.run_many(sets).await;
            let stored = self.judged(operation, results).await.map_err(without_effect)?;
            if stored.iter().any(|result| !result.applied()) {
                return Err(Error::new(Kind::Internal, operation, "memcached did not store an item"));
            }
        }
        Ok(())
    }

    /// Stores an item where there is none. Lives for `seconds`, or for good. What came of it can be asked at any time,
    /// so that an error has no effect that matters.
    pub(crate) async fn add(
        &self,
        operation: &'static str,
        key: String,
        item: &Bytes,
        seconds: Option<u32>,
    ) -> Result<bool> {
        let ttl = seconds.map_or(Ttl::NEVER, Ttl::secs);
        let client = self.client(operation).await?;
        let result = client.0.run_many([Set::new(&key, item).ttl(ttl).add()]).await;
        let added = self.judged(operation, result).await.map_err(without_effect)?;
        Ok(added.iter().all(|result| result.applied()))
    }

    /// Replaces an item that still has the number `cas`. Returns its new number, or `None` where it changed or went.
    pub(crate) async fn swap(
        &self,
        operation: &'static str,
        key: &str,
        item: &Bytes,
        cas: u64,
    ) -> Result<Option<u64>> {
        let client = self.client(operation).await?;
        let set = Set::new(key, item).ttl(Ttl::NEVER).compare_cas(cas).return_cas();
        let results = client.0.run_many([set]).await;
        let result = self.judged(operation, results).await?.pop();
        match result.as_ref().map(|result| (result.status, result.cas)) {
            Some((MutationStatus::Applied, Some(cas))) => Ok(Some(cas)),
            Some((MutationStatus::CasMismatch | MutationStatus::NotFound, _)) => Ok(None),
            other => {
                let message = format!("memcached answered {other:?} to a compare-and-swap");
                Err(Error::new(Kind::Internal, operation, message).with_unknown_effect())
            }
        }
    }

    /// Replaces an item as [`Wire::swap`] does, where whoever called has not asked for it.
    pub(crate) async fn raise(
        &self,
        operation: &'static str,
        key: &str,
        item: &Bytes,
        cas: u64,
    ) -> Result<()> {
        self.swap(operation, key, item, cas).await.map(drop).map_err(without_effect)
    }

    /// Removes items; those that are gone already are no error.
    pub(crate) async fn remove(&self, operation: &'static str, keys: &[String]) -> Result<()> {
        for keys in keys.chunks(BATCH_MAX) {
            let client = self.client(operation).await?;
            let results = client.0.run_many(keys.iter().map(Delete::new)).await;
            self.judged(operation, results).await.map_err(without_effect)?;
        }
        Ok(())
    }

    /// Removes an item that still has the number `cas`.
    pub(crate) async fn remove_if(&self, operation: &'static str, key: &str, cas: u64) -> Result<()> {
        let client = self.client(operation).await?;
        let results = client.0.run_many([Delete::new(key).compare_cas(cas)]).await;
        self.judged(operation, results).await.map(drop).map_err(without_effect)
    }

    async fn client(&self, operation: &'static str) -> Result<Client> {
        let mut slot = self.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let builder = AsyncMetaClient::builder()
            .connect_timeout(Some(self.timeout))
            .io_timeout(Some(self.timeout))
            .max_connections(Some(CONNECTIONS_MAX))
            .max_idle(IDLE_MAX);
        let client = builder.connect_async(self.address.as_str()).await;
        let client = client.map(Client).map_err(|error| self.fault(operation, error))?;
        *slot = Some(client.clone());
        Ok(client)
    }

    /// Takes the results of an exchange apart. The first failure is that of all.
    async fn judged<T>(
        &self,
        operation: &'static str,
        results: memcache::exp::Result<Vec<memcache::exp::Result<T>>>,
    ) -> Result<Vec<T>> {
        let fault = match results.and_then(|results| results.into_iter().collect()) {
            Ok(results) => return Ok(results),
            Err(error) => self.fault(operation, error),
        };
        if fault.kind() == Kind::Unavailable {
            // The crate asks for the address once; a server that moved has another.
            *self.client.lock().await = None;
        }
        Err(fault)
    }

    fn fault(&self, operation: &'static str, error: memcache::exp::Error) -> Error {
        fault(operation, error).with("server", &self.address)
    }
}

fn item(result: GetResult) -> Option<Item> {
    result.hit().then(|| Item {
        value: result.value.unwrap_or_default().into(),
        cas: result.item.cas.unwrap_or_default(),
        seconds: result.item.ttl.and_then(|seconds| u64::try_from(seconds).ok()),
    })
}

/// Leaves out that it may have been written: to whoever called, nothing was.
fn without_effect(error: Error) -> Error {
    let plain = Error::new(error.kind(), error.operation(), error.message()).because(error.clone());
    error.advice().map(String::from).into_iter().fold(plain, Error::advise)
}

/// Says what an error of the client crate means.
fn fault(operation: &'static str, error: memcache::exp::Error) -> Error {
    use memcache::exp::Error as Wrong;
    let make = |kind, message: &str| Error::new(kind, operation, message);
    let fault = match &error {
        Wrong::Io(_) => make(Kind::Unavailable, "memcached cannot be reached"),
        Wrong::Timeout { .. } => make(Kind::Timeout, "no answer of memcached in time"),
        // The crate calls every failure of a sent write unknown, an answer that says no among them.
        Wrong::Ambiguous { source, .. } => match &**source {
            Wrong::Server(line) => refusal(operation, line),
            Wrong::Rejected(line) => rejection(operation, line),
            Wrong::Timeout { .. } => {
                make(Kind::Timeout, "no answer of memcached in time").with_unknown_effect()
            }
            Wrong::Io(_) => {
                make(Kind::Unavailable, "the connection to memcached broke").with_unknown_effect()
            }
            _ => make(Kind::Internal, "memcached answered what makes no sense").with_unknown_effect(),
        },
        Wrong::Server(line) => refusal(operation, line),
        Wrong::Rejected(line) => rejection(operation, line),
        // Before 1.6.18 a miss does not repeat the number by which answers are told apart.
        Wrong::Protocol(line) if line.contains("carries opaque None") => {
            make(Kind::Unsupported, "this memcached is older than 1.6.18").advise(UPGRADE)
        }
        Wrong::Protocol(_) => {
            make(Kind::Internal, "memcached answered what makes no sense").with_unknown_effect()
        }
        Wrong::Usage(_) => make(Kind::Internal, "the client refused"),
        // Of the crate's layer above, which is not used here; the crate may add kinds.
        _ => make(Kind::Internal, "the client failed").with_unknown_effect(),
    };
    fault.because(error)
}

/// `SERVER_ERROR`: the server has not done it.
fn refusal(operation: &'static str, line: &str) -> Error {
    if line.starts_with("object too large") {
        let message = "memcached is told to keep smaller items only";
        return Error::new(Kind::TooLarge, operation, message)
            .advise("Start it with -I 1m, its default, or more");
    }
    Error::new(Kind::Unavailable, operation, "memcached has no room, or is in trouble")
        .advise("Give it more memory (-m), and do not start it with -M")
}

/// `CLIENT_ERROR` or `ERROR`: the server does not do such a thing.
fn rejection(operation: &'static str, line: &str) -> Error {
    if line.contains("unauthenticated") {
        let message = "memcached wants a password, and this driver cannot log in";
        return Error::new(Kind::Denied, operation, message)
            .advise("Start it without -Y, or choose another backend");
    }
    Error::new(Kind::Unsupported, operation, "this server does not know the meta commands").advise(UPGRADE)
}

#[cfg(test)]
mod tests {
    use std::io;

    use althing_core::Effect;
    use memcache::exp::Error as Wrong;

    use super::*;

    #[track_caller]
    fn check(error: Wrong, kind: Kind, effect: Effect) {
        let fault = fault("commit", error);
        assert_eq!((fault.kind(), fault.effect()), (kind, effect), "{fault}");
    }

    fn ambiguous(source: Wrong) -> Wrong {
        Wrong::Ambiguous { key: b"k".into(), source: Box::new(source) }
    }

    #[test]
    fn names_what_happened_and_whether_it_may_have_been_done() {
        let broken = || Wrong::Io(io::ErrorKind::ConnectionReset.into());
        check(broken(), Kind::Unavailable, Effect::None);
        check(ambiguous(broken()), Kind::Unavailable, Effect::Unknown);
        check(Wrong::Timeout { key: b"k".into() }, Kind::Timeout, Effect::None);
        check(ambiguous(Wrong::Timeout { key: b"k".into() }), Kind::Timeout, Effect::Unknown);
        let large = || Wrong::Server("object too large for cache".into());
        check(ambiguous(large()), Kind::TooLarge, Effect::None);
        check(large(), Kind::TooLarge, Effect::None);
        check(Wrong::Server("out of memory storing object".into()), Kind::Unavailable, Effect::None);
        check(Wrong::Rejected("ERROR".into()), Kind::Unsupported, Effect::None);
        check(ambiguous(Wrong::Rejected("unauthenticated".into())), Kind::Denied, Effect::None);
        check(Wrong::Protocol("x".into()), Kind::Internal, Effect::Unknown);
        let old = "batch response 0 carries opaque None, expected 1";
        check(Wrong::Protocol(old.into()), Kind::Unsupported, Effect::None);
        check(Wrong::Usage("x"), Kind::Internal, Effect::None);
    }

    #[test]
    fn what_stored_nothing_that_anybody_knows_has_no_effect() {
        let late = fault("commit", ambiguous(Wrong::Timeout { key: b"k".into() }));
        let plain = without_effect(late);
        assert_eq!((plain.kind(), plain.effect()), (Kind::Timeout, Effect::None));
    }
}
