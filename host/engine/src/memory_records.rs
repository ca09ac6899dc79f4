//! Records in memory: what the cases of a behaviour run on.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use althing_core::{Page, Revision, Stamp};
use async_trait::async_trait;
use bytes::Bytes;

use crate::records::{Entry, EntryGuard, EntryPage, EntryWrite, Records, RecordsError};

/// Records in memory, as one client session sees them. Exact: guards hold, revisions rise, and what a session owns goes
/// when it ends. Clones, and the views of other sessions, share the records.
#[derive(Clone, Debug)]
pub struct MemoryRecords {
    session: String,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<Bytes, Entry>,
    revision: Revision,
    ended: BTreeSet<String>,
}

impl MemoryRecords {
    /// Makes a store with nothing in it, as `session` sees it.
    pub fn new(session: impl Into<String>) -> Self {
        MemoryRecords { session: session.into(), state: Arc::default() }
    }

    /// Returns the same records as another session sees them.
    pub fn seen_by(&self, session: impl Into<String>) -> Self {
        MemoryRecords { session: session.into(), state: self.state.clone() }
    }

    /// Puts a record there as it is; commits go on after its stamp.
    pub fn insert(&self, entry: Entry) {
        let mut state = self.state();
        state.revision = state.revision.max(entry.stamp.modified);
        state.entries.insert(entry.key.clone(), entry);
    }

    /// Returns all records, in the order of their keys.
    pub fn entries(&self) -> Vec<Entry> {
        self.state().entries.values().cloned().collect()
    }

    /// Ends this session: what it owns goes, and it can own nothing more.
    pub fn end_session(&self) {
        let mut state = self.state();
        state.ended.insert(self.session.clone());
        state.revision.0 += 1;
        state.entries.retain(|_, entry| entry.session.as_ref() != Some(&self.session));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Records for MemoryRecords {
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, RecordsError> {
        Ok(self.state().entries.get(key).cloned())
    }

    async fn list(&self, prefix: &[u8], after: Option<&[u8]>, limit: u32) -> Result<EntryPage, RecordsError> {
        let state = self.state();
        let from = after.filter(|after| *after >= prefix).map_or(Bound::Included(prefix), Bound::Excluded);
        let mut below = state.entries.range::<[u8], _>((from, Bound::Unbounded));
        let mut below = std::iter::from_fn(|| below.next().filter(|(key, _)| key.starts_with(prefix)));
        let page = below.by_ref().take(Page::records_max(limit));
        let entries: Vec<_> = page.map(|(_, entry)| entry.clone()).collect();
        let next = below.next().and_then(|_| entries.last().map(|last| last.key.clone()));
        Ok(EntryPage { entries, next, revision: state.revision })
    }

    async fn commit(
        &self,
        guards: Vec<EntryGuard>,
        writes: Vec<EntryWrite>,
    ) -> Result<Revision, RecordsError> {
        let mut state = self.state();
        if let Some(broken) = guards.into_iter().find(|guard| !state.holds(guard)) {
            return Err(RecordsError::Conflict(broken.into_key()));
        }
        let is_owned = |write: &EntryWrite| matches!(write, EntryWrite::Put { owned: true, .. });
        if state.ended.contains(&self.session) && writes.iter().any(is_owned) {
            return Err(RecordsError::SessionLost);
        }
        state.revision.0 += 1;
        for write in writes {
            state.write(write, &self.session);
        }
        Ok(state.revision)
    }
}

impl State {
    fn holds(&self, guard: &EntryGuard) -> bool {
        match guard {
            EntryGuard::Absent(key) => !self.entries.contains_key(key),
            EntryGuard::Unchanged(key, stamp) => {
                self.entries.get(key).is_some_and(|entry| entry.stamp == *stamp)
            }
        }
    }

    fn write(&mut self, write: EntryWrite, session: &str) {
        match write {
            EntryWrite::Delete(key) => drop(self.entries.remove(&key)),
            EntryWrite::Put { key, value, owned } => {
                let session = owned.then(|| session.to_owned());
                let former = self.entries.get(&key).filter(|former| former.session == session);
                let created = former.map_or(self.revision, |former| former.stamp.created);
                let stamp = Stamp { created, modified: self.revision };
                self.entries.insert(key.clone(), Entry { key, value, session, stamp });
            }
        }
    }
}

impl EntryGuard {
    fn into_key(self) -> Bytes {
        match self {
            EntryGuard::Absent(key) | EntryGuard::Unchanged(key, _) => key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str, owned: bool) -> EntryWrite {
        EntryWrite::Put { key: key.into(), value: Bytes::new(), owned }
    }

    fn keys(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| std::str::from_utf8(&entry.key).unwrap()).collect()
    }

    #[tokio::test]
    async fn pages_follow_one_another_and_end() {
        let records = MemoryRecords::new("one");
        let writes = ["a", "p/1", "p/2", "p/3", "q"].map(|key| put(key, false)).to_vec();
        records.commit(Vec::new(), writes).await.unwrap();
        let first = records.list(b"p/", None, 2).await.unwrap();
        assert_eq!((keys(&first.entries), first.next.as_deref()), (vec!["p/1", "p/2"], Some(&b"p/2"[..])));
        let second = records.list(b"p/", first.next.as_deref(), 2).await.unwrap();
        assert_eq!((keys(&second.entries), second.next), (vec!["p/3"], None));
    }

    #[tokio::test]
    async fn guards_tell_incarnations_apart_and_a_broken_one_writes_nothing() {
        let one = MemoryRecords::new("one");
        let two = one.seen_by("two");
        one.commit(vec![EntryGuard::Absent("a".into())], vec![put("a", true)]).await.unwrap();
        let old = one.get(b"a").await.unwrap().unwrap().stamp;
        two.commit(Vec::new(), vec![put("a", true)]).await.unwrap();
        let broken = one.commit(vec![EntryGuard::Unchanged("a".into(), old)], vec![put("b", true)]).await;
        assert_eq!(broken, Err(RecordsError::Conflict("a".into())));
        assert_eq!(keys(&one.entries()), ["a"]);
    }

    #[tokio::test]
    async fn what_a_session_owns_goes_with_it_and_it_owns_nothing_more() {
        let one = MemoryRecords::new("one");
        one.commit(Vec::new(), vec![put("mine", true), put("everybodys", false)]).await.unwrap();
        one.end_session();
        assert_eq!(keys(&one.entries()), ["everybodys"]);
        assert_eq!(one.commit(Vec::new(), vec![put("mine", true)]).await, Err(RecordsError::SessionLost));
        one.commit(Vec::new(), vec![EntryWrite::Delete("everybodys".into())]).await.unwrap();
    }
}
