//! The MySQL and MariaDB backend: `mysql://user[:password]@host[:port]/database`, also `mariadb://`.
//!
//! Options: `namespace`; `timeout`, the longest a call may take; `poll-min` and `poll-max`, the pause between two looks for
//! news while something happens and while nothing does; `schema=given`, to never make tables and procedures but take what
//! [`schema`] printed and somebody else made; `tls=true`, `tls-ca`, a file with the authorities to trust instead of the
//! machine's, `tls-cert` and `tls-key`, to show who we are.
//!
//! All lies in tables named `althing_` of the database in the URL: `althing_namespace` (layout version, incarnation and
//! the counter of revisions, one row for each namespace), `althing_record`, `althing_session` (deadlines by the server's
//! clock) and `althing_change`, the last changes, from which watches read. Each operation is one call of a stored
//! procedure and **one round trip**, a commit too, however many keys it has; a connection that makes a call for the first
//! time prepares it in another one. The procedure holds its transaction, so none stays open while the network or a host
//! stands still.
//!
//! A commit locks the row of its namespace, so revisions become visible in their order; a counter of the server's would
//! not do. Whoever finds a session due ends it, under the same lock, with the changes that tell so: no read shows a record
//! as gone before that is written. Reads and renewals lock nothing that a commit holds. A transaction that ran into
//! another one is sent again. After any other error, but that of a wait that was too long, the connection is ended: the
//! server does not run the rest of a procedure that somebody killed, and what that had begun would stay open.
//!
//! Nobody is told of news here. One task per host asks for the newest revision while somebody watches, from every 10 ms
//! after something happened to every 250 ms while nothing does, however many watches there are; what this host writes
//! or reads itself wakes them at once.
//!
//! Level L1 with `innodb_flush_log_at_trx_commit=1`, `innodb_doublewrite` on, and `sync_binlog=1` where there is a binary log;
//! else L0. InnoDB shows a commit to others a moment before it is on disk, so a crash may take back what was read and not yet
//! acknowledged. Therefore the counter leaps each time the server was started again, was replaced by another one, or
//! turns out to be behind: no revision is given out twice, and a watch that had seen what is gone begins anew, no other.
//! Replication and Galera are not consensus: after a fail-over the commits that the new primary never got are lost, and told
//! in the same way. All hosts must name the same server, or an address that leads to whichever is the primary.
//!
//! A step of the server's clock ends sessions early or late by as much: a renewal tells the server's time, by which a host
//! notices.

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
use crate::watch::{MysqlWatch, Place};

pub use crate::schema::schema;

/// A namespace in a MySQL or MariaDB database.
pub struct Mysql {
    store: Arc<Store>,
    capability: Capability,
    hub: Arc<Hub>,
}

impl Mysql {
    /// Connects to the server that `location` names, makes tables and procedures where they are missing and allowed, and
    /// takes the namespace into use. Fails with `Invalid` on a URL it does not understand, `Unavailable`, `Timeout` or
    /// `Denied` where the server cannot be reached, refuses us or only reads, `Unsupported` on a server the contract cannot
    /// hold on, and `Format` on foreign tables or a foreign namespace. Later a lost connection is made anew by the next
    /// call.
    pub async fn connect(
        location: &Location,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Result<Mysql> {
        let store = Arc::new(Store::new(Settings::read(location)?, clock, chance));
        let capability = capability(store.namespace("connect").await?.durable);
        let hub = Arc::new(Hub::start(&store));
        Ok(Mysql { store, capability, hub })
    }
}

fn capability(durable: bool) -> Capability {
    Capability {
        backend: "mysql".into(),
        level: if durable { Level::L1 } else { Level::L0 },
        linearizable_reads: true,
        across_hosts: true,
        watch: WatchMode::Polled,
        order: Order::Namespace,
        expiry: Expiry::Driver,
        txn_keys_max: limits::TXN_KEYS_MAX,
        value_bytes_max: limits::VALUE_BYTES_MAX as u32,
        key_bytes_max: limits::KEY_BYTES_MAX as u32,
        lease_min: limits::LEASE_MIN,
        token_survives_restart: durable,
        // They rise, but a replica that follows at a distance may not have the last commits.
        token_survives_failover: false,
        beat_requests: 1,
    }
}

#[async_trait]
impl Driver for Mysql {
    fn capability(&self) -> Capability {
        self.capability.clone()
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        let id = SessionId(self.store.chance.bits());
        // Whole milliseconds, because the tables count in them.
        let lease_ms = self.capability.grant(ask).as_millis() as u64;
        let value = format!("{{\"lease_ms\":{lease_ms}}}");
        let arguments =
            vec![session(id), Argument::Long(lease_ms as i64), key(&id.key()), Argument::bytes(value)];
        self.store.call(Operation::Open, arguments).await?;
        Ok(Session { id, lease_min: Duration::from_millis(lease_ms) })
    }

    async fn renew(&self, id: SessionId) -> Result<Lease> {
        let (mut answer, _) = self.store.call(Operation::Renew, vec![session(id)]).await?;
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
        committed(&txn, answer)
    }

    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>> {
        self.capability.check_key("watch", prefix)?;
        let incarnation = self.store.namespace("watch").await?.incarnation;
        let place = (from != Revision::ZERO).then_some(Place { incarnation, revision: from });
        Ok(Box::new(MysqlWatch::new(self.store.clone(), self.hub.clone(), prefix.clone(), place)))
    }
}

impl fmt::Debug for Mysql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mysql")
            .field("server", &self.store.settings.address())
            .field("database", &self.store.settings.database)
            .field("namespace", &self.store.settings.namespace)
            .finish_non_exhaustive()
    }
}

/// Reads one page, and the incarnation of the store that gave it.
async fn page(store: &Store, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<(Page, u128)> {
    let after = after.filter(|after| *after >= prefix);
    let arguments = vec![
        key(after.unwrap_or(prefix)),
        Argument::Long(after.is_some().into()),
        prefix.end().as_ref().map_or(Argument::Bytes(None), key),
        Argument::Long(Page::records_max(limit) as i64),
        Argument::Long(limits::PAGE_BYTES_MAX as i64),
    ];
    let (mut answer, incarnation) = store.call(Operation::List, arguments).await?;
    let (records, more) = (answer.records()?, answer.flag("more")?);
    let next = records.last().filter(|_| more).map(|record| record.key.clone());
    Ok((Page { records, next, revision: answer.revision()? }, incarnation))
}

/// Packs a transaction as `sql/operations.sql` takes it apart.
fn commit_arguments(txn: &Txn) -> Vec<Argument> {
    let (mut guards, mut writes) = (Vec::new(), Vec::new());
    for guard in &txn.guards {
        pack_key(&mut guards, guard.key());
        let (created, modified) = match guard {
            Guard::Absent(_) => (0, 0),
            Guard::Unchanged(_, stamp) => (revision(stamp.created), revision(stamp.modified)),
        };
        guards.extend(created.to_be_bytes());
        guards.extend(modified.to_be_bytes());
    }
    for write in &txn.writes {
        pack_key(&mut writes, write.key());
        let (kind, owner, value) = match write {
            Write::Delete(_) => (0, None, &[][..]),
            Write::Put { value, session: None, .. } => (1, None, &value[..]),
            Write::Put { value, session: Some(id), .. } => (2, Some(id), &value[..]),
        };
        writes.push(kind);
        writes.extend(owner.map_or(0, |id| id.0).to_be_bytes());
        writes.extend((value.len() as u32).to_be_bytes());
        writes.extend_from_slice(value);
    }
    vec![Argument::bytes(guards), Argument::bytes(writes)]
}

/// The limits of keys and values were checked: their lengths fit.
fn pack_key(packed: &mut Vec<u8>, key: &Key) {
    packed.extend((key.as_bytes().len() as u16).to_be_bytes());
    packed.extend_from_slice(key.as_bytes());
}

fn committed(txn: &Txn, mut answer: Answer) -> Result<Committed> {
    match answer.status {
        Status::Refused => {
            let error = Error::new(Kind::Conflict, "commit", "somebody else wrote first");
            let guard = txn.guards.get(answer.number("place")? as usize);
            Err(guard.iter().fold(error, |error, guard| error.with("key", guard.key())))
        }
        Status::SessionLost => match txn.writes.get(answer.number("place")? as usize) {
            Some(Write::Put { session: Some(id), .. }) => Err(lost("commit", *id)),
            _ => Err(answer::nonsense(Operation::Commit, "place")),
        },
        _ => Ok(Committed { revision: answer.revision()?, stamps: answer.stamps(txn.writes.len())? }),
    }
}

fn lost(operation: &'static str, id: SessionId) -> Error {
    Error::new(Kind::SessionLost, operation, "the session has ended").with("session", id)
}

/// A revision as the server counts. None of its own is nought or as high as the highest, so what does not fit never
/// matches.
fn revision(revision: Revision) -> i64 {
    i64::try_from(revision.0).ok().filter(|number| *number > 0).unwrap_or(i64::MAX)
}

fn key(key: &Key) -> Argument {
    Argument::bytes(Bytes::copy_from_slice(key.as_bytes()))
}

fn session(id: SessionId) -> Argument {
    Argument::bytes(Bytes::copy_from_slice(&id.0.to_be_bytes()))
}
