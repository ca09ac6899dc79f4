//! `store`: the records within the grants. What a guest asks wrongly is answered with an error, never with a trap.

use std::collections::BTreeSet;
use std::sync::Arc;

use althing_core::{Stamp, limits};
use bytes::Bytes;

use crate::bindings::behaviour::althing::policy::store as wit;
use crate::bundle::Bundle;
use crate::records::{Entry, EntryGuard, EntryWrite, Records, RecordsError};
use crate::store::Call;

/// What one call of a behaviour reaches, and how often it asked.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    records: Arc<dyn Records>,
    bundle: Arc<Bundle>,
    calls: u32,
}

impl Reach {
    pub(crate) fn new(records: Arc<dyn Records>, bundle: Arc<Bundle>) -> Self {
        Reach { records, bundle, calls: 0 }
    }

    fn count(&mut self) -> Result<(), RecordsError> {
        let max = limits::BEHAVIOUR_STORE_CALLS_MAX;
        if self.calls == max {
            return Err(RecordsError::TooLarge(format!(
                "the store was called {max} times, which is the most while a request is asked once"
            )));
        }
        self.calls += 1;
        Ok(())
    }

    fn check_key(&self, key: &[u8]) -> Result<(), RecordsError> {
        let max = limits::BEHAVIOUR_KEY_BYTES_MAX;
        if key.len() > max {
            return Err(RecordsError::TooLarge(format!("a key of {} bytes; at most {max}", key.len())));
        }
        check_granted(&self.bundle.manifest.grants.store, key).map_err(RecordsError::Denied)
    }
}

/// Tells why `key` may not be used, if it does not begin with one of the granted prefixes.
pub(crate) fn check_granted(prefixes: &[String], key: &[u8]) -> Result<(), String> {
    if prefixes.iter().any(|prefix| key.starts_with(prefix.as_bytes())) {
        return Ok(());
    }
    let shown = &key[..key.len().min(limits::BEHAVIOUR_PREFIX_BYTES_MAX)];
    let shown = String::from_utf8_lossy(shown);
    Err(format!("{shown:?} lies outside the prefixes that are granted: {}", prefixes.join(", ")))
}

impl Call {
    /// Counts a call of the store, and returns what it reaches.
    fn reach(&mut self) -> Result<&Reach, RecordsError> {
        let Some(reach) = &mut self.subject.reach else {
            return Err(RecordsError::Denied("there is no store while settings are checked".into()));
        };
        reach.count()?;
        Ok(reach)
    }

    async fn get(&mut self, key: &[u8]) -> Result<Option<Entry>, RecordsError> {
        let reach = self.reach()?;
        reach.check_key(key)?;
        let records = reach.records.clone();
        self.journal.apart(records.get(key)).await
    }

    async fn list(
        &mut self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: u32,
    ) -> Result<wit::Page, RecordsError> {
        let reach = self.reach()?;
        reach.check_key(prefix)?;
        after.map_or(Ok(()), |after| reach.check_key(after))?;
        let records = reach.records.clone();
        let most = limits::PAGE_RECORDS_MAX;
        let limit = if limit == 0 { most } else { limit.min(most) };
        let page = self.journal.apart(records.list(prefix, after, limit)).await?;
        Ok(wit::Page {
            entries: page.entries.into_iter().map(entry).collect(),
            next: page.next.map(Vec::from),
            revision: page.revision.to_string(),
        })
    }

    async fn commit(
        &mut self,
        guards: Vec<wit::Guard>,
        writes: Vec<wit::Write>,
    ) -> Result<String, RecordsError> {
        let reach = self.reach()?;
        let guards = guards.into_iter().map(guard).collect::<Result<Vec<_>, _>>()?;
        let writes: Vec<_> = writes.into_iter().map(write).collect();
        reach.check(&guards, &writes)?;
        let records = reach.records.clone();
        let revision = self.journal.apart(records.commit(guards, writes)).await?;
        Ok(revision.to_string())
    }
}

impl Reach {
    fn check(&self, guards: &[EntryGuard], writes: &[EntryWrite]) -> Result<(), RecordsError> {
        let mut keys = BTreeSet::new();
        for write in writes {
            let key = check_write(write)?;
            self.check_key(key)?;
            if !keys.insert(key) {
                let key = String::from_utf8_lossy(key);
                return Err(RecordsError::Other(format!("a transaction that writes {key:?} twice")));
            }
        }
        for guard in guards {
            let (EntryGuard::Absent(key) | EntryGuard::Unchanged(key, _)) = guard;
            self.check_key(key)?;
            keys.insert(key);
        }
        let (count, max) = (keys.len(), limits::BEHAVIOUR_TXN_KEYS_MAX);
        match count {
            0 => Err(RecordsError::Other("an empty transaction".into())),
            _ if count > max => {
                Err(RecordsError::TooLarge(format!("a transaction on {count} keys; at most {max}")))
            }
            _ => Ok(()),
        }
    }
}

fn check_write(write: &EntryWrite) -> Result<&Bytes, RecordsError> {
    let max = limits::BEHAVIOUR_VALUE_BYTES_MAX;
    match write {
        EntryWrite::Put { value, .. } if value.len() > max => {
            Err(RecordsError::TooLarge(format!("a value of {} bytes; at most {max}", value.len())))
        }
        EntryWrite::Put { key, .. } | EntryWrite::Delete(key) => Ok(key),
    }
}

impl wit::Host for Call {
    async fn get(&mut self, key: Vec<u8>) -> Result<Option<wit::Entry>, wit::Error> {
        Ok(Call::get(self, &key).await?.map(entry))
    }

    async fn list(
        &mut self,
        prefix: Vec<u8>,
        after: Option<Vec<u8>>,
        limit: u32,
    ) -> Result<wit::Page, wit::Error> {
        Ok(Call::list(self, &prefix, after.as_deref(), limit).await?)
    }

    async fn commit(
        &mut self,
        guards: Vec<wit::Guard>,
        writes: Vec<wit::Write>,
    ) -> Result<String, wit::Error> {
        Ok(Call::commit(self, guards, writes).await?)
    }
}

fn entry(entry: Entry) -> wit::Entry {
    let Entry { key, value, session, stamp } = entry;
    let stamp = wit::Stamp { created: stamp.created.to_string(), modified: stamp.modified.to_string() };
    wit::Entry { key: key.into(), value: value.into(), session, stamp }
}

fn guard(guard: wit::Guard) -> Result<EntryGuard, RecordsError> {
    Ok(match guard {
        wit::Guard::Absent(key) => EntryGuard::Absent(key.into()),
        wit::Guard::Unchanged((key, wit::Stamp { created, modified })) => {
            let stamp = Stamp { created: revision(&created)?, modified: revision(&modified)? };
            EntryGuard::Unchanged(key.into(), stamp)
        }
    })
}

fn write(write: wit::Write) -> EntryWrite {
    match write {
        wit::Write::Delete(key) => EntryWrite::Delete(key.into()),
        wit::Write::Put(wit::Put { key, value, owned_by_caller }) => {
            EntryWrite::Put { key: key.into(), value: value.into(), owned: owned_by_caller }
        }
    }
}

/// Reads a revision as guests are given it: twenty digits.
fn revision(text: &str) -> Result<althing_core::Revision, RecordsError> {
    let is_whole = text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_whole).ok_or_else(|| {
        let shown = &text[..text.floor_char_boundary(40)];
        RecordsError::Other(format!("a stamp says {shown:?}, which is no revision of twenty digits"))
    })
}

impl From<RecordsError> for wit::Error {
    fn from(error: RecordsError) -> Self {
        match error {
            RecordsError::Conflict(key) => wit::Error::Conflict(key.into()),
            RecordsError::SessionLost => wit::Error::SessionLost,
            RecordsError::Denied(text) => wit::Error::Denied(text),
            RecordsError::TooLarge(text) => wit::Error::TooLarge(text),
            RecordsError::Unavailable(text) => wit::Error::Unavailable(text),
            RecordsError::Unknown(text) => wit::Error::Unknown(text),
            RecordsError::Other(text) => wit::Error::Other(text),
        }
    }
}
