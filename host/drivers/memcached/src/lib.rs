//! The memcached backend: `memcached://host[:port]`.
//!
//! Options: `namespace`; `timeout`, the longest a call may take. One server: several memcached know nothing of each
//! other. The client speaks plain TCP and does not log in, so users, passwords and TLS are refused with a line that
//! says so. Needs memcached 1.6.18 or newer, for its meta commands.
//!
//! **What it is worth.** Level L0. memcached is a cache: it keeps everything in memory, forgets all of it when it is
//! restarted or flushed, and throws items away when it is full. This driver cannot change that. It makes sure that a
//! loss is *seen*, by everybody, and that nothing of what was lost comes back.
//!
//! **Layout.** memcached changes one item at a time, and a claim of a leadership is about two records. One item per
//! record would make transactions of one key, with which the recipes of the runtime cannot work. So all records hang
//! on one item, the *root*, and a commit is one compare-and-swap of the root, whatever it writes: transactions on many
//! keys, one order of revisions, pages and snapshots of one moment. What the root names are *chunks* that are never
//! changed: leaves of some 16 KiB with records in the order of their keys, large values, and segments of the log from
//! which watches read. That this puts all eggs in one basket costs nothing: there is no second basket in a memcached.
//! See `layout.rs` for the keys.
//!
//! A commit stores the leaves it changes while it looks whether epoch and root are those it knows, and then swaps the
//! root: two exchanges, and some 10 to 20 KiB sent. Where somebody else wrote, or what is known refuses the commit, it
//! reads what is there and begins again: two or three exchanges more. A read is one exchange. The price is that all
//! writers of a namespace contend for one item: some thousand commits a second in all. The index in the root may take
//! 768 KiB, which is some ten thousand leaves; who wants to write more is refused.
//!
//! **Loss.** The key of the root carries the *epoch*, a random number that a record of the namespace names. Where that
//! record, the root or a chunk is missing, and the root has not changed meanwhile, all is lost: the epoch is removed
//! and a new one begun, with revisions above all that this host has seen. A host that saw more raises them again. Old
//! sessions are `SessionLost`, watches resync, and what is left of the old epoch has no name any more. Who never was
//! connected before the loss cannot know how far the tokens had come: `token_survives_restart` is not promised. Between
//! a loss and the next renewal of a former holder, somebody else may hold what he still believes to hold: that is what
//! L0 means.
//!
//! **Sessions** live as long as an item with a time to live; see `session.rs` for why a lease of L seconds is asked for
//! as L + 2. Leases are whole seconds. An expired session is seen by whoever looks at what it owned, and at the latest
//! by the next look of any watch; it is ended by a commit of its own, at one revision. A renewal is one exchange: it touches
//! the session and looks for the epoch, the root and five of the chunks, in turn, so that a loss is told with the
//! next beat, and what is looked for is not thrown away first.
//!
//! Do not start the server with `-M`: one that refuses items when it is full drops the one that was to be replaced, and
//! that may be the root.
//!
//! One assumption on the server: its clock goes on while it runs. A memcached that was stopped and goes on may, in
//! the first instant, stamp with a clock from before; a renewal that took half a second or more is sent again for that.
//!
//! **Watches** look at the root every 20 to 250 ms.

mod codec;
mod draft;
mod layout;
mod read;
mod session;
mod settings;
mod store;
mod watch;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{
    Capability, Chance, Clock, Committed, Driver, Expiry, Key, Lease, Level, Location, Order, Page, Record,
    Result, Revision, Session, SessionId, Txn, Watch, WatchMode, limits,
};
use async_trait::async_trait;

use crate::draft::Work;
use crate::session::BEAT_REQUESTS;
use crate::settings::Settings;
use crate::store::{Store, TRIAL_BYTES};
use crate::watch::{MemcachedWatch, Place};

/// memcached keeps items of 1 MiB with all that belongs to them, unless it is told otherwise.
const VALUE_BYTES_MAX: u32 = (1 << 20) - (4 << 10);

/// A namespace on a memcached server.
pub struct Memcached {
    store: Arc<Store>,
    capability: Capability,
}

impl Memcached {
    /// Connects to the server that `location` names and takes the namespace into use. Fails with `Invalid` on a
    /// URL it does not understand, `Unavailable` or `Timeout` where the server cannot be reached, `Unsupported` or
    /// `Denied` on a server that does not speak to us, `TooLarge` on one that keeps small items only, and `Format` where something foreign lies under our keys.
    /// Later a lost connection is made anew by the next call.
    pub async fn connect(
        location: &Location,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Result<Memcached> {
        let store = Store::new(Settings::read(location)?, clock, chance);
        let begin = async {
            store.view("connect").await?;
            store.try_size("connect", TRIAL_BYTES).await
        };
        store.in_time("connect", store.deadline(), begin).await?;
        Ok(Memcached { store: Arc::new(store), capability: capability() })
    }
}

/// Says what every memcached gives.
pub fn capability() -> Capability {
    Capability {
        backend: "memcached".into(),
        level: Level::L0,
        linearizable_reads: true,
        across_hosts: true,
        watch: WatchMode::Polled,
        order: Order::Namespace,
        expiry: Expiry::Driver,
        txn_keys_max: limits::TXN_KEYS_MAX,
        value_bytes_max: VALUE_BYTES_MAX,
        key_bytes_max: limits::KEY_BYTES_MAX as u32,
        lease_min: Duration::from_secs(1),
        token_survives_restart: false,
        token_survives_failover: false,
        beat_requests: BEAT_REQUESTS,
    }
}

#[async_trait]
impl Driver for Memcached {
    fn capability(&self) -> Capability {
        self.capability.clone()
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        let id = SessionId(self.store.chance.bits());
        let lease = self.capability.grant(ask);
        let seconds = lease.as_secs() as u32 + u32::from(lease.subsec_nanos() > 0);
        self.store.open(id, seconds).await?;
        Ok(Session { id, lease_min: Duration::from_secs(seconds.into()) })
    }

    async fn renew(&self, id: SessionId) -> Result<Lease> {
        self.store.renew(id).await
    }

    async fn close(&self, id: SessionId) -> Result<()> {
        self.store.close(id).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.capability.check_key("get", key)?;
        self.store.reading("get", |view| Box::pin(self.store.record(view, key))).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<Page> {
        self.capability.check_key("list", prefix)?;
        if let Some(after) = after {
            self.capability.check_key("list", after)?;
        }
        let most = Page::records_max(limit);
        self.store.reading("list", |view| Box::pin(self.store.page(view, prefix, after, most))).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        txn.check(&self.capability)?;
        self.store.write("commit", self.store.deadline(), &Work::Commit(&txn)).await
    }

    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>> {
        self.capability.check_key("watch", prefix)?;
        let view = self.store.in_time("watch", self.store.deadline(), self.store.view("watch")).await?;
        // What was seen before this epoch is no place in its log.
        let place = Place { epoch: view.epoch, revision: from.0 };
        let place = (from.0 > view.former).then_some(place);
        Ok(Box::new(MemcachedWatch::new(self.store.clone(), prefix.clone(), place)))
    }
}

impl fmt::Debug for Memcached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memcached")
            .field("server", &self.store.settings.address)
            .field("namespace", &self.store.settings.namespace)
            .finish_non_exhaustive()
    }
}
