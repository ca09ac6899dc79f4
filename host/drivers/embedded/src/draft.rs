//! What a batch would write: operations one after another, over an image that stays as it is.

use std::time::Duration;

use althing_core::{
    Cause, Chance, Change, Committed, Error, Guard, Key, Kind, Record, Result, Revision, SessionId, Stamp,
    Txn, Write,
};
use bytes::Bytes;

use crate::store::{Store, Written};

/// An image and what is to be written over it. Each operation sees those before it.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    store: &'a Store,
    written: Written,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Draft { store, written: Written { revision: store.revision(), ..Written::default() } }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.written.revision
    }

    /// Returns what is to be written, if there is anything.
    pub(crate) fn finish(self) -> Option<Written> {
        (self.written.revision > self.store.revision()).then_some(self.written)
    }

    /// Begins a session. Its id holds the revision at which it begins, so no file gives an id twice, whatever chance does.
    pub(crate) fn open(&mut self, lease: Duration, chance: &dyn Chance) -> SessionId {
        let revision = self.advance();
        let id = SessionId(u128::from(revision.0) << 64 | u128::from(chance.bits() as u64));
        self.written.sessions.insert(id, Some(lease));
        let value = format!("{{\"lease_ms\":{}}}", lease.as_millis());
        self.put(id.key(), value.into(), Some(id), revision);
        id
    }

    /// Ends a session and removes what it owned, all at one revision. Does nothing if it has ended.
    pub(crate) fn end(&mut self, id: SessionId, cause: Cause) {
        if !self.lives(id) {
            return;
        }
        let revision = self.advance();
        let owned = |key: &&Key| self.get(key).is_some_and(|record| record.session == Some(id));
        let known = self.store.owned(id).chain(self.written.records.keys());
        let mut keys: Vec<Key> = known.filter(owned).cloned().collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            self.remove(key, revision, cause);
        }
        self.written.sessions.insert(id, None);
    }

    pub(crate) fn lives(&self, id: SessionId) -> bool {
        self.written.sessions.get(&id).map_or_else(|| self.store.lives(id), Option::is_some)
    }

    /// Writes all of `txn` at one revision if all its guards hold. Guards alone write nothing, and no revision.
    pub(crate) fn commit(&mut self, txn: Txn) -> Result<Committed> {
        self.check_guards(&txn.guards)?;
        self.check_sessions(&txn.writes)?;
        if txn.writes.is_empty() {
            return Ok(Committed { revision: self.revision(), stamps: Vec::new() });
        }
        let revision = self.advance();
        let apply = |write| match write {
            Write::Put { key, value, session } => self.put(key, value, session, revision),
            Write::Delete(key) => self.remove(key, revision, Cause::Deleted),
        };
        let stamps = txn.writes.into_iter().map(apply).collect();
        Ok(Committed { revision, stamps })
    }

    fn get(&self, key: &Key) -> Option<&Record> {
        match self.written.records.get(key) {
            Some(record) => record.as_ref(),
            None => self.store.get(key),
        }
    }

    fn check_guards(&self, guards: &[Guard]) -> Result<()> {
        let holds = |guard: &&Guard| match guard {
            Guard::Absent(key) => self.get(key).is_none(),
            Guard::Unchanged(key, stamp) => self.get(key).is_some_and(|now| now.stamp == *stamp),
        };
        match guards.iter().find(|guard| !holds(guard)) {
            Some(guard) => {
                let message = "somebody else wrote first";
                Err(Error::new(Kind::Conflict, "commit", message).with("key", guard.key()))
            }
            None => Ok(()),
        }
    }

    fn check_sessions(&self, writes: &[Write]) -> Result<()> {
        for write in writes {
            if let Write::Put { session: Some(id), .. } = write
                && !self.lives(*id)
            {
                return Err(lost("commit", *id));
            }
        }
        Ok(())
    }

    fn advance(&mut self) -> Revision {
        self.written.revision.0 += 1;
        self.written.revision
    }

    fn put(&mut self, key: Key, value: Bytes, session: Option<SessionId>, revision: Revision) -> Stamp {
        let created = match self.get(&key) {
            Some(former) if former.session == session => former.stamp.created,
            _ => revision,
        };
        let stamp = Stamp { created, modified: revision };
        let record = Record { key: key.clone(), value, session, stamp };
        self.written.changes.push(Change::Put(record.clone()));
        self.written.records.insert(key, Some(record));
        stamp
    }

    fn remove(&mut self, key: Key, revision: Revision, cause: Cause) -> Stamp {
        let Some(last) = self.get(&key).map(|record| record.stamp) else {
            return Stamp { created: revision, modified: revision };
        };
        self.written.records.insert(key.clone(), None);
        self.written.changes.push(Change::Deleted { key, last, revision, cause });
        last
    }
}

/// The error that a session has ended.
pub(crate) fn lost(operation: &'static str, id: SessionId) -> Error {
    Error::new(Kind::SessionLost, operation, "the session has ended").with("session", id)
}

#[cfg(test)]
mod tests {
    use althing_core::{BootTime, SeededChance};

    use super::*;

    const LEASE: Duration = Duration::from_secs(10);

    /// Runs `work` as one batch.
    fn batch<T>(store: &mut Store, work: impl FnOnce(&mut Draft<'_>) -> T) -> T {
        let mut draft = Draft::new(store);
        let done = work(&mut draft);
        if let Some(written) = draft.finish() {
            store.apply(written, BootTime::default());
        }
        done
    }

    #[test]
    fn an_operation_sees_what_the_batch_wrote_before_it() {
        let mut store = Store::default();
        let claim = || Txn::new().guard(Guard::Absent("a".into())).put("a".into(), "1");
        let (won, lost) = batch(&mut store, |draft| (draft.commit(claim()), draft.commit(claim())));
        assert_eq!(won.unwrap().revision, Revision(1));
        assert_eq!(lost.unwrap_err().kind(), Kind::Conflict);
        assert_eq!(store.revision(), Revision(1));
    }

    #[test]
    fn a_session_takes_along_what_it_owns_now_and_nothing_it_owned_once() {
        let mut store = Store::default();
        let chance = SeededChance::new(1);
        let owned = |key: &str, id| Txn::new().put_owned(key.into(), "1", id);
        let id = batch(&mut store, |draft| draft.open(LEASE, &chance));
        batch(&mut store, |draft| draft.commit(owned("given away", id)).and(draft.commit(owned("old", id))))
            .unwrap();
        batch(&mut store, |draft| {
            draft.commit(Txn::new().put("given away".into(), "2")).unwrap();
            draft.commit(owned("new", id)).unwrap();
            draft.end(id, Cause::Closed);
            assert_eq!(draft.commit(owned("late", id)).unwrap_err().kind(), Kind::SessionLost);
        });
        let left = store.list(&Key::default(), None, 10).records;
        assert_eq!(left.iter().map(|record| record.key.clone()).collect::<Vec<_>>(), ["given away".into()]);
        assert!(!store.lives(id) && store.next_deadline().is_none());
    }

    #[test]
    fn the_same_chance_gives_no_id_twice() {
        let mut store = Store::default();
        let first = batch(&mut store, |draft| draft.open(LEASE, &SeededChance::new(1)));
        batch(&mut store, |draft| draft.end(first, Cause::Closed));
        assert_ne!(batch(&mut store, |draft| draft.open(LEASE, &SeededChance::new(1))), first);
    }

    #[test]
    fn guards_alone_write_nothing() {
        let mut store = Store::default();
        let guard = Txn::new().guard(Guard::Absent("a".into()));
        assert_eq!(batch(&mut store, |draft| draft.commit(guard)).unwrap().revision, Revision::ZERO);
        assert!(Draft::new(&store).finish().is_none());
    }
}
