//! The PostgreSQL backend: `postgresql://user[:password]@host[:port][/database]`, also `postgres://`.
//!
//! Options: `namespace`; `timeout`, the longest a call may take; `schema=given`, to never make the schema but take what
//! [`schema`] printed and its owner made; `listen=false`, to poll instead of listening; `tls=true`, `tls-ca`, a file with
//! the authorities to trust instead of the machine's, `tls-cert` and `tls-key`, to show who we are.
//!
//! All lies in the schema `althing`, which the first host makes under a lock: `namespace` (layout version, incarnation
//! and the counter of revisions, one row for each namespace), `record`, `session` (deadlines by the server's clock) and
//! `change`, the last changes, from which watches read. Each operation is one function, called by one statement of one
//! round trip: no transaction stays open while the network or a host stands still, and nothing belongs to a connection.
//!
//! A commit locks the row of its namespace until it is on disk, so revisions become visible in their order; a sequence
//! would not do. Whoever finds a session due ends it, under the same lock, with the changes that tell so: no read shows
//! a record as gone before that is written. Reads and renewals lock nothing that a commit holds, and a connection answers
//! in order: so there is one for commits, one for reads, one for renewals, and one that listens. `NOTIFY` only wakes,
//! and says how the keys begin that changed, so that only watches of such keys read.
//! Where it is not heard, as behind a pooler that lends connections for one transaction each, watches poll; there, say
//! `listen=false`, because the server's connection that once listened goes on being told, and the pooler logs each.
//!
//! Level L1: acknowledged commits are on disk, also where `synchronous_commit` is off, which is turned on for each of
//! ours. With `fsync` or `full_page_writes` off it is L0. After a fail-over or a recovery to a point in time the counter
//! goes on above all that was given out and watches resync; commits that the new primary never got are lost.
//!
//! A server with a foreign clock jump makes sessions end early or late: a renewal tells the server's time, by which a
//! host notices.

mod answer;
mod hub;
mod operation;
mod schema;
mod server;
mod settings;
mod store;
mod tls;
mod watch;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{
    Capability, Chance, Clock, Committed, Driver, Error, Expiry, Guard, Key, Kind, Lease, Level, Location,
    Order, Page, Record, Result, Revision, Session, SessionId, Txn, Watch, WatchMode, Write, limits,
};
use async_trait::async_trait;
use bytes::Bytes;

use crate::answer::{Answer, Status};
use crate::hub::Hub;
use crate::operation::{Argument, Operation};
use crate::settings::Settings;
use crate::store::Store;
use crate::watch::{Place, PostgresqlWatch};

pub use crate::schema::schema;

/// A namespace in a PostgreSQL database.
pub struct Postgresql {
    store: Arc<Store>,
    capability: Capability,
    hub: Arc<Hub>,
}

impl Postgresql {
    /// Connects to the server that `location` names, makes the schema where it is missing and allowed, and takes the
    /// namespace into use. Fails with `Invalid` on a URL it does not understand, `Unavailable`, `Timeout` or `Denied`
    /// where the server cannot be reached, refuses us or only reads, `Unsupported` on a server the contract cannot hold
    /// on, and `Format` on a foreign schema or namespace. Later a lost connection is made anew by the next call.
    pub async fn connect(
        location: &Location,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Result<Postgresql> {
        let store = Arc::new(Store::new(Settings::read(location)?, clock, chance));
        let deadline = store.clock.now() + store.settings.timeout;
        let adopted = store.adopted("connect", deadline).await?;
        let hub = if store.settings.listen { Hub::start(&store).await? } else { Hub::deaf() };
        let capability = capability(adopted.server.durable, hub.listens());
        Ok(Postgresql { store, capability, hub: Arc::new(hub) })
    }
}

fn capability(durable: bool, listens: bool) -> Capability {
    Capability {
        backend: "postgresql".into(),
        level: if durable { Level::L1 } else { Level::L0 },
        linearizable_reads: true,
        across_hosts: true,
        watch: if listens { WatchMode::Pushed } else { WatchMode::Polled },
        order: Order::Namespace,
        expiry: Expiry::Driver,
        txn_keys_max: limits::TXN_KEYS_MAX,
        value_bytes_max: limits::VALUE_BYTES_MAX as u32,
        key_bytes_max: limits::KEY_BYTES_MAX as u32,
        lease_min: limits::LEASE_MIN,
        token_survives_restart: durable,
        // They rise, but a standby that follows at a distance may not have the last commits.
        token_survives_failover: false,
        beat_requests: 1,
    }
}

#[async_trait]
impl Driver for Postgresql {
    fn capability(&self) -> Capability {
        self.capability.clone()
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        let id = SessionId(self.store.chance.bits());
        // Whole milliseconds, because the schema counts in them.
        let lease_ms = self.capability.grant(ask).as_millis() as u64;
        let value = format!("{{\"lease_ms\":{lease_ms}}}");
        let arguments =
            vec![session(id), Argument::Long(lease_ms as i64), key(&id.key()), bytes(value.into_bytes())];
        self.store.call(Operation::Open, arguments).await?;
        Ok(Session { id, lease_min: Duration::from_millis(lease_ms) })
    }

    async fn renew(&self, id: SessionId) -> Result<Lease> {
        let (answer, _) = self.store.call(Operation::Renew, vec![session(id)]).await?;
        if answer.status == Status::SessionLost {
            return Err(lost("renew", id));
        }
        let min = Duration::from_millis(answer.number("lease_ms")?);
        Ok(Lease { min, store_time: Some(Duration::from_micros(answer.number("time_us")?)) })
    }

    async fn close(&self, id: SessionId) -> Result<()> {
        self.store.call(Operation::Close, vec![session(id)]).await.map(drop)
    }

    async fn get(&self, name: &Key) -> Result<Option<Record>> {
        self.capability.check_key("get", name)?;
        let (answer, _) = self.store.call(Operation::Get, vec![key(name)]).await?;
        answer.record(name.clone())
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
        let (answer, _) = self.store.call(Operation::Commit, commit_arguments(&txn)).await?;
        committed(&txn, &answer)
    }

    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>> {
        self.capability.check_key("watch", prefix)?;
        let deadline = self.store.clock.now() + self.store.settings.timeout;
        let adopted = self.store.adopted("watch", deadline).await?;
        let place = Place { incarnation: adopted.incarnation.clone(), revision: from };
        let place = (from != Revision::ZERO).then_some(place);
        Ok(Box::new(PostgresqlWatch::new(self.store.clone(), self.hub.clone(), prefix.clone(), place)))
    }
}

impl fmt::Debug for Postgresql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgresql")
            .field("server", &self.store.settings.address())
            .field("database", &self.store.settings.database)
            .field("namespace", &self.store.settings.namespace)
            .finish_non_exhaustive()
    }
}

/// Reads one page, and the incarnation of the store that gave it.
async fn page(store: &Store, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<(Page, Arc<str>)> {
    let after = after.filter(|after| *after >= prefix);
    let arguments = vec![
        key(after.unwrap_or(prefix)),
        Argument::Flag(after.is_some()),
        Argument::Bytes(prefix.end().as_ref().map(key_bytes)),
        Argument::Int(Page::records_max(limit) as i32),
        Argument::Long(limits::PAGE_BYTES_MAX as i64),
    ];
    let (answer, incarnation) = store.call(Operation::List, arguments).await?;
    let (records, more) = (answer.records()?, answer.flag("more")?);
    let next = records.last().filter(|_| more).map(|record| record.key.clone());
    Ok((Page { records, next, revision: answer.revision("revision")? }, incarnation))
}

fn commit_arguments(txn: &Txn) -> Vec<Argument> {
    let stamps = txn.guards.iter().map(|guard| match guard {
        Guard::Absent(_) => (None, None),
        Guard::Unchanged(_, stamp) => (Some(revision(stamp.created)), Some(revision(stamp.modified))),
    });
    let (created, modified) = stamps.unzip();
    let writes = txn.writes.iter().map(|write| match write {
        Write::Put { value, session, .. } => (session.map(id_bytes), Some(value.clone())),
        Write::Delete(_) => (None, None),
    });
    let (sessions, values) = writes.unzip();
    vec![
        Argument::BytesList(txn.guards.iter().map(|guard| Some(key_bytes(guard.key()))).collect()),
        Argument::Longs(created),
        Argument::Longs(modified),
        Argument::BytesList(txn.writes.iter().map(|write| Some(key_bytes(write.key()))).collect()),
        Argument::BytesList(sessions),
        Argument::BytesList(values),
    ]
}

fn committed(txn: &Txn, answer: &Answer) -> Result<Committed> {
    let place = || answer.number("place").map(|place| place as usize);
    match answer.status {
        Status::Refused => {
            let error = Error::new(Kind::Conflict, "commit", "somebody else wrote first");
            let guard = txn.guards.get(place()?);
            Err(guard.iter().fold(error, |error, guard| error.with("key", guard.key())))
        }
        Status::SessionLost => match txn.writes.get(place()?) {
            Some(Write::Put { session: Some(id), .. }) => Err(lost("commit", *id)),
            _ => Err(answer::nonsense(Operation::Commit, "place")),
        },
        _ => {
            Ok(Committed { revision: answer.revision("revision")?, stamps: answer.stamps(txn.writes.len())? })
        }
    }
}

fn lost(operation: &'static str, id: SessionId) -> Error {
    Error::new(Kind::SessionLost, operation, "the session has ended").with("session", id)
}

/// A revision as the server counts. None of its own is as high as the highest, so what does not fit never matches.
fn revision(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn bytes(bytes: impl Into<Bytes>) -> Argument {
    Argument::Bytes(Some(bytes.into()))
}

fn key(key: &Key) -> Argument {
    bytes(key_bytes(key))
}

fn key_bytes(key: &Key) -> Bytes {
    Bytes::copy_from_slice(key.as_bytes())
}

fn session(id: SessionId) -> Argument {
    bytes(id_bytes(id))
}

fn id_bytes(id: SessionId) -> Bytes {
    Bytes::copy_from_slice(&id.0.to_be_bytes())
}
