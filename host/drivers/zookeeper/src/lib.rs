//! The ZooKeeper backend: `zookeeper://[user:password@]host[:port],host…[/chroot]`, or `kazoo://`.
//!
//! Options: `namespace`; `timeout`, the longest a call may take; `tls=true`, `tls-ca`, a file with the authorities
//! to trust instead of the machine's, `tls-cert` and `tls-key`, to show who we are; `acl`, who may use what we
//! make: `open`, `creator` or `read` (everybody may read); without it `creator` where the URL has a login, which
//! is given to the scheme `digest`, and else `open`; `tick`, the servers' `tickTime` where it cannot be told from
//! the shortest session they grant (`minSessionTimeout` below two ticks). SASL is not spoken.
//!
//! Below `/chroot/namespace` lie: `format`, the version of this layout; `record/<bucket>/<name>`, the records,
//! spread over 128 buckets by the digest of their keys; `session/<id>`, one ephemeral node per session;
//! `owned/<id>/<digest>`, which session owns which keys; and `log/<volume>/e<number>`, the last changes, from
//! which watches read. A commit is one `multi`. It writes the node of each bucket it writes a record in, at the
//! version it read, so that whatever changed in between makes it fail; it adds one entry to the log, and the
//! transaction number (zxid) of all this is its revision. A guard costs no request of its own.
//!
//! What it costs, in round trips: a commit two (read, multi), two or three more for each race it lost; a get one,
//! two where a session owns the record; a page of a list three, and two for each 64 records, one more where others
//! commit meanwhile (what they commit is taken from the log); opening a session a connection and one write; a renewal one write, beside four reads per tick; a change is told by one push and one
//! read for all watches of a driver.
//!
//! What it is worth: level L2 with three voting servers or more, else L1. Reads begin with `sync`, or, where servers
//! vote, with a transaction that changes nothing: a leader may answer `sync` before it has applied what its followers
//! have acknowledged, and one that was deposed and has not noticed answers it too.
//!
//! The servers end a session that fell silent for as long as was asked for, rounded up to a tick. For how long a session
//! is *surely* kept is two ticks less (and at least one tick and 250 ms less), see `lease.rs`: with the usual tick of
//! two seconds and a lease of ten, six seconds. The shortest such time is two ticks and at least half a second, so
//! that whoever asks for less than four ticks gets four; the longest is what `maxSessionTimeout` leaves, which is 20
//! ticks by default.

mod commit;
mod end;
mod entry;
mod hub;
mod keeper;
mod layout;
mod lease;
mod log;
mod plan;
mod read;
mod settings;
mod store;
mod tls;
mod watch;
mod wire;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use althing_core::{
    Capability, Chance, Clock, Committed, Driver, Error, Expiry, Key, Kind, Lease, Level, Location, Order,
    Page, Record, Result, Revision, Session, SessionId, Txn, Watch, WatchMode, limits,
};
use async_trait::async_trait;

use crate::hub::Hub;
use crate::keeper::Keeper;
use crate::lease::lost_time;
use crate::read::Ask;
use crate::settings::Settings;
use crate::store::Store;
use crate::watch::ZooKeeperWatch;
use crate::wire::Wire;

/// The time-outs asked for to learn the shortest that is granted: two ticks, unless the operator set another.
/// The client gives up connecting after that time, so it is tried more than once, and where the network or a
/// server is slow, with a longer one. What is learned then is too long by so much, which is safe.
const PROBES: [Duration; 5] = [
    Duration::from_millis(200),
    Duration::from_millis(200),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(4),
];
/// The servers that make an ensemble outlive the loss of one.
const VOTERS_MIN: usize = 3;

/// A namespace on a ZooKeeper ensemble.
pub struct ZooKeeper {
    store: Arc<Store>,
    keeper: Arc<Keeper>,
    capability: Capability,
    /// Reads from the first watch on.
    hub: OnceLock<Arc<Hub>>,
}

impl ZooKeeper {
    /// Connects to the servers that `location` names and takes the namespace into use. Fails with `Invalid` on a
    /// URL it does not understand, `Unavailable`, `Timeout` or `Denied` where no server can be reached or they
    /// refuse us, and `Format` on a foreign namespace. Later a lost connection is made anew by the next call.
    pub async fn connect(
        location: &Location,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Result<ZooKeeper> {
        let store = Arc::new(Store::new(Settings::read(location)?, clock, chance));
        let deadline = store.deadline();
        let wire = store.wire("connect", deadline).await?;
        let voters = store.read("connect", deadline, wire.ensemble()).await?.map_or(0, |text| voters(&text));
        let shortest = store.read("connect", deadline, probe(&store.settings)).await?;
        let tick = store.settings.tick.unwrap_or(shortest / 2);
        let capability = capability(voters, tick, shortest);
        tokio::spawn({
            let store = store.clone();
            async move { log::prune(&store, &wire).await }
        });
        let keeper = Arc::new(Keeper::new(store.clone(), tick));
        Ok(ZooKeeper { store, keeper, capability, hub: OnceLock::new() })
    }

    /// Returns the reader of the log; the first who asks begins it.
    fn hub(&self) -> &Arc<Hub> {
        self.hub.get_or_init(|| Arc::new(Hub::start(self.store.clone())))
    }
}

/// Returns the shortest time-out that the servers grant, or a little more.
async fn probe(settings: &Settings) -> Result<Duration> {
    let mut failure = None;
    for ask in PROBES {
        match Wire::dial(settings, ask).await {
            Ok(wire) => return Ok(wire.granted()),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| Error::new(Kind::Internal, "connect", "nothing was asked")))
}

/// Counts the servers that vote, in what the ensemble says about itself.
fn voters(config: &[u8]) -> usize {
    let config = String::from_utf8_lossy(config);
    config.lines().filter(|line| line.starts_with("server.") && line.contains(":participant")).count()
}

fn capability(voters: usize, tick: Duration, shortest: Duration) -> Capability {
    // Whole milliseconds, because the server counts in them.
    let whole = |time: Duration| Duration::from_millis(time.as_micros().div_ceil(1000) as u64);
    let lease_min = limits::LEASE_MIN.max(tick * 2).max(shortest.saturating_sub(lost_time(tick)));
    Capability {
        backend: "zookeeper".into(),
        level: if voters >= VOTERS_MIN { Level::L2 } else { Level::L1 },
        linearizable_reads: true,
        across_hosts: true,
        watch: WatchMode::Pushed,
        order: Order::Namespace,
        expiry: Expiry::Backend,
        txn_keys_max: limits::TXN_KEYS_MAX,
        value_bytes_max: plan::VALUE_BYTES_MAX as u32,
        key_bytes_max: limits::KEY_BYTES_MAX as u32,
        lease_min: whole(lease_min),
        token_survives_restart: true,
        token_survives_failover: true,
        beat_requests: 1,
    }
}

#[async_trait]
impl Driver for ZooKeeper {
    fn capability(&self) -> Capability {
        self.capability.clone()
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        self.keeper.open(self.capability.grant(ask), self.capability.lease_min).await
    }

    async fn renew(&self, id: SessionId) -> Result<Lease> {
        self.keeper.renew(id).await
    }

    async fn close(&self, id: SessionId) -> Result<()> {
        self.keeper.close(id).await
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
        read::list(&self.store, self.hub().ring(), Ask { prefix, after, limit }).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        txn.check(&self.capability)?;
        commit::commit(&self.store, &txn).await
    }

    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>> {
        self.capability.check_key("watch", prefix)?;
        let now = read::current_revision(&self.store, self.store.deadline()).await?;
        // What was never reached is of another store, or of a future that was lost.
        let place = (from != Revision::ZERO && from <= now).then_some(from);
        Ok(Box::new(ZooKeeperWatch::new(self.store.clone(), self.hub().clone(), prefix.clone(), place)))
    }
}

impl fmt::Debug for ZooKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeper")
            .field("servers", &self.store.settings.address())
            .field("node", &self.store.settings.root)
            .finish_non_exhaustive()
    }
}

fn lost(operation: &'static str, id: SessionId) -> Error {
    Error::new(Kind::SessionLost, operation, "the session has ended").with("session", id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_voters_and_no_observers() {
        let config = b"server.1=a:1:2:participant;0.0.0.0:3\nserver.2=b:1:2:observer\nserver.3=c:1:2:participant\nversion=0";
        assert_eq!(voters(config), 2);
        assert_eq!(voters(b""), 0);
    }

    #[test]
    fn promises_no_lease_that_the_servers_do_not_grant() {
        let lease = |tick, shortest| {
            let ms = Duration::from_millis;
            capability(3, ms(tick), ms(shortest)).lease_min.as_millis()
        };
        assert_eq!(lease(100, 200), 500);
        assert_eq!(lease(2000, 4000), 4000);
        assert_eq!(lease(2000, 10_000), 6000);
    }
}
