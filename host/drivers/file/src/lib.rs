//! The backend that is a directory: `file:///var/lib/althing/shared?namespace=prod`. The processes of **one machine** that
//! name it share their groups, leaders, locks and watches, without any server.
//!
//! Options: `namespace`; `timeout`, the longest a call may take.
//!
//! # What lies in the directory
//!
//! `althing`, the format file, and for each namespace a folder with a log, `log.<generation>`, and the folder `sessions` with an
//! empty file for each session. All of it is for one user alone (0600, 0700); a directory that exists keeps its rights.
//!
//! Every change is one frame at the end of the log, written by one `write` with `O_APPEND`: a transaction with its guards, the
//! beginning, the renewal and the end of a session. The kernel puts appends in a row, and the place in that row is when a change
//! happens; what it comes to (written, refused by a guard, too late) whoever reads the log computes for himself, always
//! the same. So there is no lock that a process could hold while it stands still: a host under SIGSTOP, or killed
//! in the middle of a write, keeps no other from anything. What it half wrote is passed over by its checks; a frame that was
//! whole and is not any more is an error that nobody passes over.
//!
//! A commit costs one read of the log's new end, one write and one `fdatasync`, which commits of one process share. What is read
//! is on the disk before it is shown. Each process has the whole namespace in memory, and its watches read there what changed;
//! inotify wakes them.
//!
//! A log that has grown long is sealed, and its state is the beginning of the next one: written and synced beside it while all
//! go on, then completed with what was written meanwhile, and put in place under a name that only one can take. Everyone
//! waits between the seal and that: for one small sync. Whoever finds a seal and no next log makes it, after a fifth of a second
//! where another is at it; nobody has to wait for one who stands still. He writes the whole state first, and sessions are not
//! renewed while he does: leases should be longer than that takes.
//!
//! # Sessions
//!
//! The process that opens a session locks the session's file for as long as it lives (`flock`: a lock of the open file, freed by
//! the kernel also after kill -9), and its deadline, in `CLOCK_BOOTTIME`, stands in the log. Others end it when the deadline
//! has come, which is right under SIGSTOP, or when the lock is free, which is within milliseconds of a death. An
//! expiry names the deadline that it saw, and does nothing if a renewal stands before it in the log: `lease_min` is what was granted,
//! counted from a moment after the renewal was sent. Deadlines mean nothing in another boot of the machine: whoever comes first
//! then goes on with a log without sessions. A renewal is one append and waits for no sync, but between a
//! seal and the next log; room for it is kept, so that a full disk refuses commits and ends no session.
//!
//! # What it is worth
//!
//! One durable server, L1, on a disk; a hint, L0, on a tmpfs, which a restart of the machine empties, and on the root of a
//! container, which goes with it: an overlay is worth what can be seen of its upper directory. File systems of other
//! machines (NFS, SMB, FUSE, 9p …) are refused: neither locks nor boot clocks mean anything there.

mod disk;
mod draft;
mod entry;
mod frame;
mod hub;
mod image;
mod log;
mod place;
mod session;
mod settings;
mod state;
mod store;
mod watch;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use althing_core::{
    Capability, Chance, Clock, Committed, Driver, Error, Expiry, Key, Kind, Lease, Level, Location, Order,
    Page, Record, Result, Revision, Session, SessionId, Txn, Watch, WatchMode, limits,
};
use async_trait::async_trait;

use crate::hub::Hub;
use crate::settings::Settings;
use crate::store::{Lane, Seen, Store, late};
use crate::watch::FileWatch;

/// How long a log may take to be read, and where it has to be begun anew, where a call may not take as long.
const OPEN_DEADLINE: Duration = Duration::from_secs(60);

/// A namespace in a directory of this machine.
pub struct Directory {
    store: Arc<Store>,
    capability: Capability,
    /// Listens from the first watch on.
    hub: OnceLock<Arc<Hub>>,
}

impl Directory {
    /// Takes the directory that `location` names into use, and makes it where only its parent exists. Fails with `Invalid` on a URL it does
    /// not understand, `Denied` where this user may not write, `Unsupported` on a file system or in a time namespace on which the
    /// contract cannot hold, and `Format` on a directory that is not ours or is damaged. Nothing foreign is ever changed.
    ///
    /// When the directory is removed while it is in use, calls fail with `Unavailable` until another is in its place. To
    /// drop this value and the last of its watches ends the sessions that were opened through it.
    pub async fn connect(
        location: &Location,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Result<Directory> {
        let settings = Settings::read(location)?;
        let (longest, directory) = (settings.timeout.max(OPEN_DEADLINE), settings.directory.clone());
        let deadline = clock.now() + longest;
        let its_clock = clock.clone();
        let open = tokio::task::spawn_blocking(move || Store::open(settings, its_clock, chance));
        let store = tokio::select! {
            biased;
            opened = open => opened.map_err(|_| Error::new(Kind::Closed, "connect", "the runtime ends"))??,
            () = clock.sleep_until(deadline) => {
                return Err(late("connect", longest, &directory));
            }
        };
        let capability = capability_on(store.place().durable);
        Ok(Directory { store: Arc::new(store), capability, hub: OnceLock::new() })
    }
}

/// Returns what a directory on a disk promises. One on a tmpfs is a hint, and is empty when the machine was started anew.
pub fn capability() -> Capability {
    capability_on(true)
}

fn capability_on(durable: bool) -> Capability {
    Capability {
        backend: "file".into(),
        level: if durable { Level::L1 } else { Level::L0 },
        linearizable_reads: true,
        across_hosts: false,
        watch: WatchMode::Pushed,
        order: Order::Namespace,
        expiry: Expiry::Driver,
        txn_keys_max: limits::TXN_KEYS_MAX,
        value_bytes_max: limits::VALUE_BYTES_MAX as u32,
        key_bytes_max: limits::KEY_BYTES_MAX as u32,
        lease_min: limits::LEASE_MIN,
        token_survives_restart: durable,
        // There is one machine, and nothing that could take its place.
        token_survives_failover: false,
        beat_requests: 1,
    }
}

#[async_trait]
impl Driver for Directory {
    fn capability(&self) -> Capability {
        self.capability.clone()
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        let lease = self.capability.grant(ask);
        let begin = move |store: &Arc<Store>, progress: &_| store.begin(lease, progress);
        let id = self.store.call("open", Lane::Call, begin).await?;
        Ok(Session { id, lease_min: lease })
    }

    async fn renew(&self, id: SessionId) -> Result<Lease> {
        self.store.call("renew", Lane::Beat, move |store, progress| store.renew(id, progress)).await
    }

    async fn close(&self, id: SessionId) -> Result<()> {
        self.store.call("close", Lane::Call, move |store, progress| store.end(id, progress)).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.capability.check_key("get", key)?;
        let key = key.clone();
        self.store.call("get", Lane::Call, move |store, _| store.get(&key)).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<Page> {
        for key in after.into_iter().chain([prefix]) {
            self.capability.check_key("list", key)?;
        }
        let (prefix, after, most) = (prefix.clone(), after.cloned(), Page::records_max(limit));
        self.store.call("list", Lane::Call, move |store, _| store.list(&prefix, after.as_ref(), most)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        txn.check(&self.capability)?;
        self.store.call("commit", Lane::Call, move |store, progress| store.commit(txn, progress)).await
    }

    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>> {
        self.capability.check_key("watch", prefix)?;
        let epoch = self.store.call("watch", Lane::Call, |store, _| store.epoch()).await?;
        let hub = self.hub.get_or_init(|| Arc::new(Hub::start(self.store.clone()))).clone();
        let seen = (from != Revision::ZERO).then_some(Seen { epoch, revision: from });
        Ok(Box::new(FileWatch::new(self.store.clone(), hub, prefix.clone(), seen)))
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("path", &self.store.settings.directory)
            .field("namespace", &self.store.settings.namespace)
            .finish_non_exhaustive()
    }
}
