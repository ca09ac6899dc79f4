//! The etcd backend: `etcd://[user:password@]host[:port][,host[:port]…]/`, by API v3, etcd 3.4 or newer.
//!
//! Options: `namespace`; `timeout`, the longest a call may take; `tls=true` for TLS; `tls-ca`, a file with the authorities to
//! trust instead of the machine's; `tls-cert` and `tls-key`, to show who we are.
//!
//! What lies where is said in `layout.rs`. A commit is one transaction of etcd and nearly always one round trip, a read
//! goes through the quorum, a session is a lease with a record of its own (`session.rs` says why it can be
//! believed), and a watch is one of etcd's over the whole namespace. etcd's revisions are the namespace's: they rise over
//! restarts and over the loss of members. A cluster set back to a backup hands out revisions again; watches tell it
//! by a resync where anything of etcd shows it (`incarnation.rs` says what), but tokens of terms before it may then be the
//! higher ones.
//!
//! The level is that of the cluster as it was when the host connected: L2 where three members or more voted, else L1.
//!
//! One connection to one member serves all calls. A member that does not answer in time, or has no leader, is left, and
//! the next call goes to the next of the URL.
//!
//! etcd before the fix of its issue 15247 (Debian's 3.4.23 among them) may end leases early that were renewed: a leader that
//! was stopped and has lost its office meanwhile ends, when it goes on, those that it has not seen renewed. A host that
//! it happens to learns it by its next renewal, and none of its writes land after it.
//!
//! The client is tonic with messages written by hand (`proto.rs`): the crate `etcd-client` makes everybody who builds
//! Althing install `protoc`.

mod commit;
mod events;
mod follow;
mod incarnation;
mod layout;
mod line;
mod proto;
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

use crate::follow::Place;
use crate::incarnation::Incarnation;
use crate::settings::Settings;
use crate::store::Store;
use crate::watch::EtcdWatch;
use crate::wire::{Call, Refusal};

/// The members that make a cluster outlive the loss of one.
const VOTERS_MIN: usize = 3;

/// A namespace on an etcd cluster.
pub struct Etcd {
    store: Arc<Store>,
    capability: Capability,
}

impl Etcd {
    /// Connects to the members that `location` names and takes the namespace into use. Fails with `Invalid` on a URL it
    /// does not understand, `Unavailable`, `Timeout` or `Denied` where no member can be reached or they refuse us,
    /// `Unsupported` on a version that is too old, and `Format` on a foreign namespace. Later a lost connection is made
    /// anew by the next call.
    pub async fn connect(
        location: &Location,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Result<Etcd> {
        let store = Arc::new(Store::new(Settings::read(location)?, clock, chance));
        let call = Call { operation: "connect", writes: false };
        let asked = store.call(call, store.deadline(), |wire| {
            let store = store.clone();
            async move { Ok((wire.voters().await?, session::lease_min(&store, &wire).await?)) }
        });
        let (voters, lease_min) = asked.await.map_err(|refusal: Refusal| refusal.into_error("connect"))?;
        Ok(Etcd { store, capability: capability(voters, lease_min) })
    }
}

/// Says what a cluster promises, by the members that vote as it is connected to. Those that join or leave later change
/// nothing until the host connects anew, at its next start.
fn capability(voters: usize, lease_min: Duration) -> Capability {
    Capability {
        backend: "etcd".into(),
        level: if voters >= VOTERS_MIN { Level::L2 } else { Level::L1 },
        linearizable_reads: true,
        across_hosts: true,
        watch: WatchMode::Pushed,
        order: Order::Namespace,
        expiry: Expiry::Backend,
        txn_keys_max: limits::TXN_KEYS_MAX,
        value_bytes_max: limits::VALUE_BYTES_MAX as u32,
        key_bytes_max: limits::KEY_BYTES_MAX as u32,
        lease_min,
        token_survives_restart: true,
        token_survives_failover: true,
        beat_requests: 2,
    }
}

#[async_trait]
impl Driver for Etcd {
    fn capability(&self) -> Capability {
        self.capability.clone()
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        session::open(&self.store, self.capability.grant(ask)).await
    }

    async fn renew(&self, id: SessionId) -> Result<Lease> {
        session::renew(&self.store, id).await
    }

    async fn close(&self, id: SessionId) -> Result<()> {
        session::close(&self.store, id).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.capability.check_key("get", key)?;
        read::get(&self.store, key).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<Page> {
        self.capability.check_key("list", prefix)?;
        if let Some(after) = after {
            self.capability.check_key("list", after)?;
        }
        read::list(&self.store, prefix, after, limit).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        txn.check(&self.capability)?;
        commit::commit(&self.store, &txn).await
    }

    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>> {
        self.capability.check_key("watch", prefix)?;
        self.store.wire("watch", self.store.deadline()).await?;
        let place = Place { incarnation: Incarnation::FIRST, revision: from };
        let place = (from != Revision::ZERO).then_some(place);
        Ok(Box::new(EtcdWatch::start(self.store.clone(), prefix.clone(), place)))
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd")
            .field("servers", &self.store.settings.address())
            .field("namespace", &self.store.settings.namespace)
            .finish_non_exhaustive()
    }
}
