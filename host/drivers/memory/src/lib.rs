//! The in-memory backend: one namespace in one process. Nothing survives the process, and no other
//! process sees it; within that it keeps the whole contract, and the suite and the simulator lean on it.
//!
//! Sessions expire lazily: every operation first ends those whose deadline has passed, and every watch
//! wakes at the next deadline, so that an expiry is reported without traffic and without a task of ours.

mod store;
mod watch;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use althing_core::{
    Capability, Cause, Chance, Clock, Committed, Driver, Expiry, Key, Lease, Level, Location, Order, Page,
    Record, Result, Revision, Session, SessionId, Txn, Watch, WatchMode, limits,
};
use async_trait::async_trait;
use tokio::sync::watch::Sender;

use crate::store::Store;
use crate::watch::MemoryWatch;

/// The in-memory backend. Hosts in one process share one by sharing its `Arc`.
#[derive(Clone)]
pub struct Memory(Arc<Shared>);

struct Shared {
    // A std Mutex: it is held for a few map operations and never over an await.
    store: Mutex<Store>,
    /// The store's revision; wakes the watches.
    written: Sender<Revision>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    capability: Capability,
}

impl Memory {
    /// Makes an empty backend, whose first commit has revision 1.
    pub fn new(clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Memory {
        Memory::beginning(Revision::ZERO, clock, chance)
    }

    fn beginning(revision: Revision, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Memory {
        Memory(Arc::new(Shared {
            store: Mutex::new(Store::beginning(revision)),
            written: Sender::new(revision),
            clock,
            chance,
            capability: capability(),
        }))
    }

    /// Makes an empty backend as a URL asks. Fails with `Invalid` on anything but `memory:` and a namespace.
    ///
    /// Revisions begin at the microseconds since 1970, so that they rise over a restart of the process: other processes
    /// may share this backend through it, outlive it, and remember what they saw. No process commits a million times per
    /// second for long.
    pub fn connect(location: &Location, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Result<Memory> {
        location.check_options(&[])?;
        if !location.hosts.is_empty() || !location.path.is_empty() {
            return Err(location.wrong("memory has neither hosts nor a path").advise("Write memory:"));
        }
        let revision = Revision(clock.wall_ms().saturating_mul(1000));
        Ok(Memory::beginning(revision, clock, chance))
    }

    /// Does `work` on the store as it is now, and wakes the watches if that, or an expiry, wrote something.
    fn with<T>(&self, work: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.0.lock();
        let before = store.revision();
        store.expire(self.0.clock.now());
        let result = work(&mut store);
        let after = store.revision();
        // Sent under the lock, so that the watches never see the revision step back.
        if after > before {
            self.0.written.send_replace(after);
        }
        result
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Store> {
        // No code that runs under the lock can panic; a poisoned lock would still guard a whole state.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn capability() -> Capability {
    Capability {
        backend: "memory".into(),
        level: Level::L0,
        linearizable_reads: true,
        across_hosts: false,
        watch: WatchMode::Pushed,
        order: Order::Namespace,
        expiry: Expiry::Driver,
        txn_keys_max: limits::TXN_KEYS_MAX,
        value_bytes_max: limits::VALUE_BYTES_MAX as u32,
        key_bytes_max: limits::KEY_BYTES_MAX as u32,
        lease_min: Duration::from_millis(1),
        token_survives_restart: false,
        token_survives_failover: false,
        beat_requests: 1,
    }
}

#[async_trait]
impl Driver for Memory {
    fn capability(&self) -> Capability {
        self.0.capability.clone()
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        let lease = self.0.capability.grant(ask);
        let id = self.with(|store| {
            let id = store.unused_id(&*self.0.chance);
            store.open(id, lease, self.0.clock.now());
            id
        });
        Ok(Session { id, lease_min: lease })
    }

    async fn renew(&self, session: SessionId) -> Result<Lease> {
        let lease = self.with(|store| store.renew(session, self.0.clock.now()))?;
        Ok(Lease { min: lease, store_time: None })
    }

    async fn close(&self, session: SessionId) -> Result<()> {
        self.with(|store| store.end(session, Cause::Closed));
        Ok(())
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.0.capability.check_key("get", key)?;
        Ok(self.with(|store| store.get(key)))
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<Page> {
        self.0.capability.check_key("list", prefix)?;
        if let Some(after) = after {
            self.0.capability.check_key("list", after)?;
        }
        Ok(self.with(|store| store.list(prefix, after, Page::records_max(limit))))
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        txn.check(&self.0.capability)?;
        self.with(|store| store.commit(txn))
    }

    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>> {
        self.0.capability.check_key("watch", prefix)?;
        Ok(Box::new(MemoryWatch::new(self.clone(), prefix.clone(), from)))
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("revision", &*self.0.written.borrow()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use althing_core::{ManualClock, SeededChance};

    use super::*;

    #[track_caller]
    fn check_refused(url: &str, said: &str) {
        let location = url.parse().unwrap();
        let error = Memory::connect(&location, Arc::new(ManualClock::new()), Arc::new(SeededChance::new(1)));
        assert!(error.unwrap_err().to_string().contains(said), "{url}");
    }

    #[tokio::test]
    async fn revisions_rise_over_a_restart_of_the_process() {
        let clock = Arc::new(ManualClock::new());
        let start =
            || Memory::connect(&"memory:".parse().unwrap(), clock.clone(), Arc::new(SeededChance::new(1)));
        let put =
            async |memory: Memory| memory.commit(Txn::new().put("a".into(), "")).await.unwrap().revision;
        let before = put(start().unwrap()).await;
        clock.advance(Duration::from_millis(1));
        assert!(put(start().unwrap()).await > before);
    }

    #[test]
    fn refuses_a_url_that_says_more_than_memory() {
        check_refused("memory:?namespaec=a", "Did you mean namespace?");
        check_refused("memory:there", "neither hosts nor a path");
        check_refused("memory://host/", "neither hosts nor a path");
    }
}
