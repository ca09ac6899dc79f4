//! The records a behaviour reaches on behalf of one request.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use althing_core::{Effect, Error, Guard, Key, Kind, Result, Revision, SessionId, Stamp, Txn, Write, limits};
use althing_engine::{Entry, EntryGuard, EntryPage, EntryWrite, Records, RecordsError};
use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::Host;
use crate::envelope::{ENVELOPE_BYTES, Envelope, data_key, entry, own_key};
use crate::sessions::OwnedRecord;

/// One request of one client, pinned to the session that this host had in the backend when it began.
#[derive(Debug)]
pub(crate) struct Request {
    pub host: Arc<Host>,
    /// The client's session.
    pub session: String,
    /// The request.
    pub id: u128,
    pub anchor: SessionId,
    /// Calls of the store so far.
    pub calls: AtomicU32,
    /// It has read something, so that its answer may rest on what was not there.
    pub has_read: AtomicBool,
    /// It has begun to write something.
    pub has_written: AtomicBool,
    /// Held while a commit is under way: it goes on when the call that began it is cut off.
    pub committing: Arc<tokio::sync::Mutex<()>>,
}

/// What a behaviour reaches while it is asked once.
#[derive(Debug)]
pub(crate) struct Reached {
    request: Arc<Request>,
    /// That the binding under which it is asked still stands.
    binding: Guard,
    /// Done when a commit met another binding: whatever the guest makes of it is of no use.
    pub rebound: CancellationToken,
    written: Mutex<Vec<(Key, Revision)>>,
}

impl Reached {
    pub(crate) fn new(request: Arc<Request>, key: Key, stamp: Stamp) -> Self {
        Reached {
            request,
            binding: Guard::Unchanged(key, stamp),
            rebound: CancellationToken::new(),
            written: Mutex::default(),
        }
    }

    /// Returns what was written, each key at its revision.
    pub(crate) fn written(&self) -> MutexGuard<'_, Vec<(Key, Revision)>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call, and refuses it when the client or its host has lost its session.
    fn begin(&self) -> Result<&Arc<Host>, RecordsError> {
        self.request.calls.fetch_add(1, Ordering::Relaxed);
        match self.request.is_live() {
            true => Ok(&self.request.host),
            false => Err(RecordsError::SessionLost),
        }
    }

    /// Makes the transaction. It is guarded by the binding where the backend can guard one key more.
    fn txn(&self, guards: &[EntryGuard], writes: Vec<EntryWrite>) -> Result<Txn, RecordsError> {
        let mut txn = Txn::new();
        for guard in guards {
            txn = txn.guard(match guard {
                EntryGuard::Absent(key) => Guard::Absent(data_key(key)),
                EntryGuard::Unchanged(key, stamp) => Guard::Unchanged(data_key(key), *stamp),
            });
        }
        for write in writes {
            txn = match write {
                EntryWrite::Delete(key) => txn.delete(data_key(&key)),
                EntryWrite::Put { key, value, owned } => {
                    self.check_value(&value)?;
                    let value = self.request.envelope(value, owned).encode();
                    match owned {
                        true => txn.put_owned(data_key(&key), value, self.request.anchor),
                        false => txn.put(data_key(&key), value),
                    }
                }
            };
        }
        let mut keys: Vec<_> =
            txn.guards.iter().map(Guard::key).chain(txn.writes.iter().map(Write::key)).collect();
        keys.sort_unstable();
        keys.dedup();
        if keys.len() < self.request.host.driver.capability().txn_keys_max as usize {
            // First, so that a conflict with it is told before any other.
            txn.guards.insert(0, self.binding.clone());
        }
        Ok(txn)
    }

    fn check_value(&self, value: &Bytes) -> Result<(), RecordsError> {
        let most = self.request.host.driver.capability().value_bytes_max as usize - ENVELOPE_BYTES;
        if value.len() <= most {
            return Ok(());
        }
        Err(RecordsError::TooLarge(format!("a value of {} bytes; the backend takes {most}", value.len())))
    }

    /// Says to the guest why a commit failed. One that met another binding is not told of at all.
    async fn refused(&self, error: Error, guards: &[EntryGuard]) -> RecordsError {
        if error.kind() != Kind::Conflict {
            return told(&error);
        }
        let key = error.context().iter().find(|(name, _)| *name == "key").map(|(_, key)| key.as_str());
        if key == Some(self.binding.key().to_string().as_str()) {
            self.rebound.cancel();
            return std::future::pending().await;
        }
        let own = guards.iter().map(|guard| match guard {
            EntryGuard::Absent(key) | EntryGuard::Unchanged(key, _) => key,
        });
        let met = own.clone().find(|own| Some(data_key(own).to_string().as_str()) == key);
        RecordsError::Conflict(met.or(own.clone().next()).cloned().unwrap_or_default())
    }
}

#[async_trait]
impl Records for Reached {
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, RecordsError> {
        let host = self.begin()?;
        self.request.has_read.store(true, Ordering::Relaxed);
        let record = host.driver.get(&data_key(key)).await.map_err(|error| told(&error))?;
        record.as_ref().map(entry).transpose().map_err(|error| told(&error))
    }

    async fn list(&self, prefix: &[u8], after: Option<&[u8]>, limit: u32) -> Result<EntryPage, RecordsError> {
        let host = self.begin()?;
        self.request.has_read.store(true, Ordering::Relaxed);
        let after = after.map(data_key);
        let page = host.driver.list(&data_key(prefix), after.as_ref(), limit).await;
        let page = page.map_err(|error| told(&error))?;
        let entries: Result<Vec<_>> = page.records.iter().map(entry).collect();
        Ok(EntryPage {
            entries: entries.map_err(|error| told(&error))?,
            next: page.next.as_ref().and_then(own_key),
            revision: page.revision,
        })
    }

    async fn commit(
        &self,
        guards: Vec<EntryGuard>,
        writes: Vec<EntryWrite>,
    ) -> Result<Revision, RecordsError> {
        let host = self.begin()?;
        let owned = writes.iter().filter(|write| matches!(write, EntryWrite::Put { owned: true, .. }));
        host.make_room(&self.request.session, owned.count()).await?;
        let txn = self.txn(&guards, writes)?;
        let keys: Vec<_> = txn.writes.iter().map(|write| write.key().clone()).collect();
        let (request, busy) = (self.request.clone(), self.request.committing.clone().lock_owned().await);
        request.has_written.store(true, Ordering::Relaxed);
        // A task of its own: whoever is cut off meanwhile, what lands is known to its owner.
        let task = host.handle.spawn(async move {
            let outcome = request.commit(txn).await;
            drop(busy);
            outcome
        });
        let outcome = task.await.unwrap_or_else(|error| {
            Err(Error::new(Kind::Internal, "commit", "its task ended").with_unknown_effect().because(error))
        });
        match outcome {
            Ok(revision) => {
                self.written().extend(keys.into_iter().map(|key| (key, revision)));
                Ok(revision)
            }
            Err(error) => Err(self.refused(error, &guards).await),
        }
    }
}

impl Request {
    /// Tells whether the client's session and the host's session it began under both stand.
    pub(crate) fn is_live(&self) -> bool {
        self.host.anchor.held() == Some(self.anchor) && self.host.sessions.is_open(&self.session)
    }

    fn envelope(&self, value: Bytes, owned: bool) -> Envelope {
        let owner = u128::from_str_radix(&self.session, 16).ok().filter(|_| owned);
        Envelope { owner, request: self.id, value }
    }

    /// Commits, and enters what is owned with the session of the client.
    async fn commit(self: Arc<Self>, txn: Txn) -> Result<Revision> {
        let writes = txn.writes.clone();
        match self.host.commit(txn).await {
            Ok(committed) => {
                for (write, stamp) in writes.into_iter().zip(committed.stamps) {
                    match write {
                        Write::Put { key, session: Some(_), .. } => self.own(key, stamp),
                        Write::Put { key, .. } | Write::Delete(key) => self.host.sessions.disown(&key),
                    }
                }
                Ok(committed.revision)
            }
            Err(error) => {
                if error.effect() == Effect::Unknown {
                    let host = self.host.clone();
                    host.spawn(self.find_owned(writes));
                }
                Err(error)
            }
        }
    }

    /// Enters a record with the client's session; removes it when that has ended meanwhile.
    fn own(&self, key: Key, stamp: Stamp) {
        let record = OwnedRecord { stamp, anchor: self.anchor };
        if !self.host.sessions.own(&self.session, &key, record) {
            let host = self.host.clone();
            self.host.spawn(async move { host.remove_records(vec![(key, record)]).await });
        }
    }

    /// After a commit of unknown effect, enters what it wrote: at once, and once more when it can no longer be
    /// on its way.
    async fn find_owned(self: Arc<Self>, writes: Vec<Write>) {
        for wait in [std::time::Duration::ZERO, limits::CALL_DEADLINE] {
            self.host.clock.sleep(wait).await;
            for write in &writes {
                let Write::Put { key, session: Some(_), .. } = write else { continue };
                match self.host.driver.get(key).await {
                    Ok(Some(record)) if record.session == Some(self.anchor) => {
                        let wrote = Envelope::decode(&record).is_ok_and(|found| found.request == self.id);
                        if wrote {
                            self.own(key.clone(), record.stamp);
                        }
                    }
                    Ok(_) => {}
                    Err(error) => warn!(%key, %error, "cannot tell yet whether a behaviour wrote a record"),
                }
            }
        }
    }
}

impl Host {
    /// Removes records that went with a session, however long the backend stays away: unless the host's session
    /// that owns them ends, which removes them as well. A record that was written again is left alone.
    pub(crate) async fn remove_records(&self, records: Vec<(Key, OwnedRecord)>) {
        for (key, record) in records {
            let txn = Txn::new().guard(Guard::Unchanged(key.clone(), record.stamp)).delete(key.clone());
            let mut pause = limits::RETRY_PAUSE;
            while let Err(error) = self.commit(txn.clone()).await {
                if error.kind() == Kind::Conflict || self.anchor.state().session != Some(record.anchor) {
                    break;
                }
                warn!(%key, %error, "cannot remove the record of a session that ended yet");
                self.clock.sleep(pause).await;
                pause = (pause * 2).min(limits::CALL_DEADLINE);
            }
        }
    }

    /// Sees to it that a session may own so many more records. Others can delete them too, so before one is
    /// refused, what is remembered is compared with the store.
    async fn make_room(&self, session: &str, more: usize) -> Result<(), RecordsError> {
        if self.sessions.has_room(session, more) {
            return Ok(());
        }
        for (key, record) in self.sessions.records_to_compare(session, self.clock.now()) {
            let found = self.driver.get(&key).await.map_err(|error| told(&error))?;
            if found.is_none_or(|found| found.stamp != record.stamp) {
                self.sessions.forget_record(&key, record);
            }
        }
        match (self.sessions.has_room(session, more), self.sessions.is_open(session)) {
            (true, _) => Ok(()),
            (false, false) => Err(RecordsError::SessionLost),
            (false, true) => Err(RecordsError::TooLarge(format!(
                "a session owns at most {} records of behaviours",
                limits::BEHAVIOUR_SESSION_RECORDS_MAX
            ))),
        }
    }
}

/// Says to a guest what failed.
fn told(error: &Error) -> RecordsError {
    let text = error.to_string();
    match error.kind() {
        _ if error.effect() == Effect::Unknown => RecordsError::Unknown(text),
        Kind::SessionLost => RecordsError::SessionLost,
        Kind::TooLarge => RecordsError::TooLarge(text),
        Kind::Unavailable | Kind::Timeout | Kind::Busy | Kind::Closed => RecordsError::Unavailable(text),
        // The rest is about what was asked, or about the state of the backend: no use in trying again.
        _ => RecordsError::Other(text),
    }
}
