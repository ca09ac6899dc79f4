//! The Redis backend, by three ways to the same server:
//!
//! - `redis://[user:password@]host[:port][/database]`, or `rediss://` for TLS;
//! - `redis+unix://[user:password@]/path/of/socket`, with the database as the option `db`;
//! - `redis+sentinel://[user:password@]host[:port],…/name-of-the-master[/database]`, or `rediss+sentinel://` for TLS
//!   with sentinels and servers alike. The login before the `@` is for the servers; `sentinel_username` and
//!   `sentinel_password` are for the sentinels.
//!
//! Options: `namespace`; `timeout`, the longest a call may take; `tls-ca`, a file with the authorities to trust
//! instead of the machine's; `tls-cert` and `tls-key`, to show who we are.
//!
//! One script per operation, so that an operation is one step and one round trip. All of a namespace lies under
//! one hash tag: `meta` (layout version, incarnation, revision), `record` (every record with its stamp), `name`
//! (the keys in byte order), `session` (deadlines by the server's clock), `owned` (session and key of what goes
//! with a session) and `log`, the last changes, from which watches read. Every script first ends the sessions
//! that are due.
//!
//! What it is worth depends on the server. With `appendonly yes` and `appendfsync always` every acknowledged
//! commit survives a restart: level L1. Without, a restart loses sessions and maybe records, and this driver
//! tells: the store gets a new incarnation, sessions are `SessionLost`, watches resync, and revisions go on
//! above all that was seen, because every call carries the highest revision that this process saw. Cluster is
//! refused.
//!
//! A full server (`maxmemory` with `noeviction`) refuses `open` and a `commit` that puts, without effect. Renewals, ends of
//! sessions and commits that only delete go on, and so does taking the namespace into use again.
//!
//! # Fail-over by Sentinel
//!
//! Redis replicates after it has answered, so the server that takes over may lack what was acknowledged last:
//! level L0, whatever is on disk. Nobody can know what it lacks, so a fail-over is told as a loss, always: a new
//! incarnation, every session of before is `SessionLost`, watches resync, and revisions go on above all that anybody
//! saw. What a session held stays held, though, until its host calls and is told, or for another lease: a host that does
//! not know yet is not surprised by another one. Two holders at once remain possible in two cases: of what was never
//! replicated, until the first holder calls; and where a host is cut off together with the old master, which goes on
//! answering it.
//!
//! Each time it connects the driver asks all sentinels and believes the one that knows of the latest fail-over, never of
//! one before what it knew itself, unless most of all the sentinels that there are say so; it connects to nothing that
//! calls itself a replica. They say so where Sentinel was set up anew, but also where most of them have not heard yet: the
//! server itself shows then whether it is a master that others have left, and is refused. Four times a second the next
//! sentinel is asked whether the master still is, so that a master which was cut off from sentinels, or paused, and not
//! from us, is left soon. What it acknowledged until then is lost and told. Set `min-replicas-to-write 1` and a small
//! `min-replicas-max-lag` on the servers: such a master then acknowledges nothing, instead of what will be lost. The driver
//! does not send `WAIT`: it would hold up all who share the connection, and still promise nothing.
//!
//! A user behind sentinels needs `INFO`, which tells one server from the next, and on the sentinels
//! `SENTINEL MASTER` and `SENTINEL GET-MASTER-ADDR-BY-NAME`: who lacks one of them is refused.
//!
//! # The wall clock
//!
//! Redis has no other clock. When its machine's clock is set forward, leases end early by as much: sessions that
//! are then due end and are told as expired, while their hosts believe in them until they call or their own
//! deadline comes. Nothing on the server can tell such a step from time that passed; renewals answer with the server's time,
//! so that a host can. When the clock is set back, sessions keep what they had left when anybody last wrote or renewed:
//! none ends early, and none lasts longer by more than the time from that moment to the next call.

mod hub;
mod reply;
mod script;
mod sentinel;
mod server;
mod settings;
mod store;
mod tls;
mod watch;
mod wire;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use althing_core::{
    Capability, Chance, Clock, Committed, Driver, Error, Expiry, Guard, Key, Kind, Lease, Level, Location,
    Order, Page, Record, Result, Revision, Session, SessionId, Txn, Watch, WatchMode, Write, limits,
};
use async_trait::async_trait;
use bytes::Bytes;

use crate::hub::Hub;
use crate::reply::{Answer, Status};
use crate::script::Operation;
use crate::settings::{Endpoint, Settings, Way};
use crate::store::Store;
use crate::watch::{Place, RedisWatch};

/// A namespace on a Redis server.
pub struct Redis {
    store: Arc<Store>,
    capability: Capability,
    /// Listens from the first watch on.
    hub: OnceLock<Arc<Hub>>,
}

impl Redis {
    /// Connects to the server that `location` names and takes the namespace into use. Fails with `Invalid` on a
    /// URL it does not understand, `Unavailable`, `Timeout` or `Denied` where the server cannot be reached or
    /// refuses us, `Unsupported` on a server the contract cannot hold on, and `Format` on a foreign namespace.
    /// Later a lost connection is made anew by the next call.
    pub async fn connect(
        location: &Location,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Result<Redis> {
        let store = Store::new(Settings::read(location)?, clock, chance);
        let deadline = store.clock.now() + store.settings.timeout;
        let adopted = store.adopted("connect", deadline).await?;
        let capability = capability(&store.settings, adopted.server.durable);
        Ok(Redis { store, capability, hub: OnceLock::new() })
    }
}

fn capability(settings: &Settings, durable: bool) -> Capability {
    let is_local = matches!(settings.way, Way::Direct(Endpoint::Unix(_)));
    Capability {
        backend: if settings.is_replicated() { "redis+sentinel" } else { "redis" }.into(),
        level: if durable { Level::L1 } else { Level::L0 },
        linearizable_reads: true,
        across_hosts: !is_local,
        watch: WatchMode::Pushed,
        order: Order::Namespace,
        expiry: Expiry::Driver,
        txn_keys_max: limits::TXN_KEYS_MAX,
        value_bytes_max: limits::VALUE_BYTES_MAX as u32,
        key_bytes_max: limits::KEY_BYTES_MAX as u32,
        lease_min: limits::LEASE_MIN,
        token_survives_restart: durable,
        // Replication is asynchronous: a replica that takes over may not have the last commits.
        token_survives_failover: false,
        beat_requests: 1,
    }
}

#[async_trait]
impl Driver for Redis {
    fn capability(&self) -> Capability {
        self.capability.clone()
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        let id = SessionId(self.store.chance.bits());
        // Whole milliseconds, because the server counts in them.
        let lease_ms = self.capability.grant(ask).as_millis() as u64;
        let value = format!("{{\"lease_ms\":{lease_ms}}}");
        let arguments = vec![session(id), key(&id.key()), number(lease_ms), value.into()];
        self.store.call(Operation::Open, arguments).await?;
        Ok(Session { id, lease_min: Duration::from_millis(lease_ms) })
    }

    async fn renew(&self, id: SessionId) -> Result<Lease> {
        let mut answer = self.store.call(Operation::Renew, vec![session(id), key(&id.key())]).await?;
        if answer.status == Status::SessionLost {
            return Err(lost("renew", id));
        }
        let min = Duration::from_millis(answer.unsigned()?);
        let store_time = Duration::from_secs(answer.unsigned()?) + Duration::from_micros(answer.unsigned()?);
        Ok(Lease { min, store_time: Some(store_time) })
    }

    async fn close(&self, id: SessionId) -> Result<()> {
        self.store.call(Operation::Close, vec![session(id)]).await.map(drop)
    }

    async fn get(&self, name: &Key) -> Result<Option<Record>> {
        self.capability.check_key("get", name)?;
        self.store.call(Operation::Get, vec![key(name)]).await?.record(name.clone())
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<Page> {
        self.capability.check_key("list", prefix)?;
        if let Some(after) = after {
            self.capability.check_key("list", after)?;
        }
        page(&self.store, prefix, after, limit).await.map(|(page, _)| page)
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        txn.check(&self.capability)?;
        let puts = txn.writes.iter().any(|write| matches!(write, Write::Put { .. }));
        let operation = if puts { Operation::Commit } else { Operation::Delete };
        let answer = self.store.call(operation, commit_arguments(&txn)).await?;
        committed(&txn, answer)
    }

    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>> {
        self.capability.check_key("watch", prefix)?;
        let deadline = self.store.clock.now() + self.store.settings.timeout;
        let adopted = self.store.adopted("watch", deadline).await?;
        let hub = self.hub.get_or_init(|| Arc::new(Hub::start(self.store.clone())));
        let place = Place { incarnation: adopted.incarnation.clone(), revision: from };
        let place = (from != Revision::ZERO).then_some(place);
        Ok(Box::new(RedisWatch::new(self.store.clone(), hub.clone(), prefix.clone(), place)))
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("server", &self.store.settings.way.to_string())
            .field("namespace", &self.store.settings.namespace)
            .finish_non_exhaustive()
    }
}

/// Reads one page, and the incarnation of the store that gave it.
async fn page(store: &Store, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<(Page, Arc<str>)> {
    let (lowest, highest) = range(prefix, after);
    let arguments =
        vec![lowest, highest, number(Page::records_max(limit) as u64), number(limits::PAGE_BYTES_MAX as u64)];
    let mut answer = store.call(Operation::List, arguments).await?;
    let more = answer.integer()? == 1;
    let mut records = Vec::new();
    while !answer.is_empty() {
        let name = Key::new(answer.bytes()?);
        records.extend(answer.record(name)?);
    }
    let next = records.last().filter(|_| more).map(|record| record.key.clone());
    Ok((Page { records, next, revision: answer.revision }, answer.incarnation))
}

/// Returns the lowest and the highest name below `prefix` and after `after`, as `ZRANGEBYLEX` wants them.
fn range(prefix: &Key, after: Option<&Key>) -> (Bytes, Bytes) {
    let bound = |sign: u8, name: &[u8]| Bytes::from([&[sign], name].concat());
    let lowest = match after.filter(|after| *after >= prefix) {
        Some(after) => bound(b'(', after.as_bytes()),
        None => bound(b'[', prefix.as_bytes()),
    };
    // The first name that does not begin with `prefix`: its last byte that can rise, raised.
    let prefix = prefix.as_bytes();
    let highest = match prefix.iter().rposition(|byte| *byte != u8::MAX) {
        Some(last) => {
            let mut name = prefix[..=last].to_vec();
            name[last] += 1;
            bound(b'(', &name)
        }
        None => Bytes::from_static(b"+"),
    };
    (lowest, highest)
}

fn commit_arguments(txn: &Txn) -> Vec<Bytes> {
    let mut arguments = Vec::with_capacity(1 + 2 * txn.guards.len() + 3 * txn.writes.len());
    arguments.push(number(txn.guards.len() as u64));
    for guard in &txn.guards {
        arguments.push(key(guard.key()));
        arguments.push(match guard {
            Guard::Absent(_) => Bytes::new(),
            Guard::Unchanged(_, stamp) => reply::stamp_text(*stamp).into(),
        });
    }
    for write in &txn.writes {
        arguments.push(key(write.key()));
        match write {
            Write::Put { value, session: owner, .. } => {
                arguments.push(owner.map(session).unwrap_or_default());
                arguments.push(value.clone());
            }
            Write::Delete(_) => arguments.extend([Bytes::from_static(b"-"), Bytes::new()]),
        }
    }
    arguments
}

fn committed(txn: &Txn, mut answer: Answer) -> Result<Committed> {
    match answer.status {
        Status::Refused => {
            let guard = answer.unsigned().map(|index| txn.guards.get(index as usize))?;
            let error = Error::new(Kind::Conflict, "commit", "somebody else wrote first");
            Err(guard.iter().fold(error, |error, guard| error.with("key", guard.key())))
        }
        Status::SessionLost => Err(lost("commit", answer.text()?.parse()?)),
        _ => {
            let stamps = txn.writes.iter().map(|_| answer.stamp()).collect::<Result<_>>()?;
            Ok(Committed { revision: answer.revision, stamps })
        }
    }
}

fn lost(operation: &'static str, id: SessionId) -> Error {
    Error::new(Kind::SessionLost, operation, "the session has ended").with("session", id)
}

fn key(key: &Key) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

fn session(id: SessionId) -> Bytes {
    id.to_string().into()
}

fn number(number: u64) -> Bytes {
    number.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_range(prefix: &[u8], after: Option<&[u8]>, lowest: &[u8], highest: &[u8]) {
        let after = after.map(|after| Key::new(after.to_vec()));
        let found = range(&Key::new(prefix.to_vec()), after.as_ref());
        assert_eq!((found.0.as_ref(), found.1.as_ref()), (lowest, highest));
    }

    #[test]
    fn a_range_ends_before_the_first_name_that_does_not_begin_with_the_prefix() {
        check_range(b"", None, b"[", b"+");
        check_range(b"a/", None, b"[a/", b"(a0");
        check_range(b"a\xff", None, b"[a\xff", b"(b");
        check_range(b"\xff\xff", None, b"[\xff\xff", b"+");
        check_range(b"a/", Some(b"a/k"), b"(a/k", b"(a0");
        check_range(b"b/", Some(b"a"), b"[b/", b"(b0");
    }
}
