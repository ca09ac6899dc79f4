//! A part of a namespace that is a namespace of its own: all below one prefix, and nothing else.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Capability, Change, Committed, Delta, Driver, Error, Guard, Key, Kind, Lease, Page, Record, Result,
    Revision, Session, SessionId, Txn, Watch, Write, limits,
};

/// Shows what lies below a prefix as if there were nothing else. Keys are as much shorter as the prefix is long.
///
/// Sessions are those of the driver below, and the record that shows one is written here, so that `open` costs two
/// requests and nothing else costs more. Whoever knows the id of a session of another part could renew it or end it;
/// ids are random and shown only within their part.
#[derive(Clone, Debug)]
pub struct Scope {
    inner: Arc<dyn Driver>,
    prefix: Key,
    capability: Capability,
}

impl Scope {
    /// Makes the part of that name of what `inner` holds, which lies below `ipc/<name>/`. Fails with `Invalid` on an
    /// empty name, and with `TooLarge` where it is longer than [`limits::SCOPE_BYTES_MAX`] or the backend's keys
    /// leave nothing below it.
    pub fn new(inner: Arc<dyn Driver>, name: &str) -> Result<Scope> {
        if name.is_empty() {
            let error = Error::new(Kind::Invalid, "scope", "a namespace without a name");
            return Err(error.advise("Give it a name, or leave it out for the daemon's own"));
        }
        let most = limits::SCOPE_BYTES_MAX;
        if name.len() > most {
            let message = format!("a namespace with a name of {} bytes; at most {most}", name.len());
            return Err(Error::new(Kind::TooLarge, "scope", message));
        }
        let prefix = Key::path(["ipc", name]).below();
        let mut capability = inner.capability();
        let (length, most) = (prefix.as_bytes().len() as u32, capability.key_bytes_max);
        let session = SessionId(0).key().as_bytes().len() as u32;
        if length + session > most {
            let message =
                format!("{} allows keys of {most} bytes; {length} go before each", capability.backend);
            return Err(Error::new(Kind::TooLarge, "scope", message).advise("Choose a shorter namespace"));
        }
        capability.key_bytes_max = most - length;
        Ok(Scope { inner, prefix, capability })
    }

    fn outer(&self, key: &Key) -> Key {
        self.prefix.followed_by(key)
    }

    /// Writes the record by which the session is seen here, and ends the session where that fails.
    async fn show(&self, session: &Session) -> Result<()> {
        let value = format!("{{\"lease_ms\":{}}}", session.lease_min.as_millis());
        let txn = Txn::new().put_owned(self.outer(&session.id.key()), value, session.id);
        let Err(error) = self.inner.commit(txn).await else { return Ok(()) };
        let kind = if error.kind() == Kind::SessionLost { Kind::Unavailable } else { error.kind() };
        let failed = Error::new(kind, "open", "the session cannot be shown").because(error);
        // Nothing is left once it is closed, whatever became of the record.
        match self.inner.close(session.id).await {
            Ok(()) => Err(failed),
            Err(_) => Err(failed.with_unknown_effect()),
        }
    }

    fn commit_below(&self, txn: Txn) -> Txn {
        let guard = |guard| match guard {
            Guard::Absent(key) => Guard::Absent(self.outer(&key)),
            Guard::Unchanged(key, stamp) => Guard::Unchanged(self.outer(&key), stamp),
        };
        let write = |write| match write {
            Write::Put { key, value, session } => Write::Put { key: self.outer(&key), value, session },
            Write::Delete(key) => Write::Delete(self.outer(&key)),
        };
        Txn {
            guards: txn.guards.into_iter().map(guard).collect(),
            writes: txn.writes.into_iter().map(write).collect(),
        }
    }
}

/// Takes the prefix off what comes from below. What lies elsewhere is nothing of ours.
fn record(prefix: &Key, record: Record) -> Option<Record> {
    Some(Record { key: record.key.after(prefix)?, ..record })
}

fn change(prefix: &Key, change: Change) -> Option<Change> {
    Some(match change {
        Change::Put(put) => Change::Put(record(prefix, put)?),
        Change::Deleted { key, last, revision, cause } => {
            Change::Deleted { key: key.after(prefix)?, last, revision, cause }
        }
    })
}

/// Takes the prefix off the key that an error names.
fn error(prefix: &Key, error: Error) -> Error {
    let prefix = prefix.to_string();
    error.map_context(|name, value| match value.strip_prefix(&prefix) {
        Some(rest) if name == "key" => rest.to_owned(),
        _ => value,
    })
}

#[async_trait]
impl Driver for Scope {
    fn capability(&self) -> Capability {
        self.capability.clone()
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        let session = self.inner.open(ask).await?;
        self.show(&session).await?;
        Ok(session)
    }

    async fn renew(&self, session: SessionId) -> Result<Lease> {
        self.inner.renew(session).await
    }

    async fn close(&self, session: SessionId) -> Result<()> {
        self.inner.close(session).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.capability.check_key("get", key)?;
        let found = self.inner.get(&self.outer(key)).await.map_err(|failed| error(&self.prefix, failed))?;
        Ok(found.and_then(|found| record(&self.prefix, found)))
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<Page> {
        self.capability.check_key("list", prefix)?;
        if let Some(after) = after {
            self.capability.check_key("list", after)?;
        }
        let after = after.map(|after| self.outer(after));
        let page = self.inner.list(&self.outer(prefix), after.as_ref(), limit).await;
        let page = page.map_err(|failed| error(&self.prefix, failed))?;
        let ours = |found| record(&self.prefix, found);
        Ok(Page {
            records: page.records.into_iter().filter_map(ours).collect(),
            next: page.next.and_then(|next| next.after(&self.prefix)),
            revision: page.revision,
        })
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        txn.check(&self.capability)?;
        self.inner.commit(self.commit_below(txn)).await.map_err(|failed| error(&self.prefix, failed))
    }

    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>> {
        self.capability.check_key("watch", prefix)?;
        let watch = self.inner.watch(&self.outer(prefix), from).await;
        let watch = watch.map_err(|failed| error(&self.prefix, failed))?;
        Ok(Box::new(ScopeWatch { watch, prefix: self.prefix.clone() }))
    }
}

#[derive(Debug)]
struct ScopeWatch {
    watch: Box<dyn Watch>,
    prefix: Key,
}

#[async_trait]
impl Watch for ScopeWatch {
    async fn next(&mut self) -> Result<Delta> {
        let delta = self.watch.next().await.map_err(|failed| error(&self.prefix, failed))?;
        let prefix = &self.prefix;
        Ok(match delta {
            Delta::Changes { changes, revision } => {
                let ours = changes.into_iter().filter_map(|told| change(prefix, told));
                Delta::Changes { changes: ours.collect(), revision }
            }
            Delta::Resync { records, revision } => {
                let ours = records.into_iter().filter_map(|found| record(prefix, found));
                Delta::Resync { records: ours.collect(), revision }
            }
        })
    }
}
