//! The state: records, sessions, one counter. Pure: time and chance are handed in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::time::Duration;

use althing_core::{
    BootTime, Cause, Chance, Change, Committed, Delta, Error, Guard, History, Key, Kind, Page, Record,
    Result, Revision, SessionId, Stamp, Txn, Write, limits,
};
use bytes::Bytes;

/// Everything one namespace holds.
#[derive(Debug, Default)]
pub(crate) struct Store {
    revision: Revision,
    records: BTreeMap<Key, Record>,
    sessions: HashMap<SessionId, Open>,
    /// The sessions again, by deadline.
    deadlines: BTreeSet<(BootTime, SessionId)>,
    history: History,
}

/// A session that has not ended.
#[derive(Debug)]
struct Open {
    lease: Duration,
    deadline: BootTime,
    owned: BTreeSet<Key>,
}

impl Store {
    /// Makes an empty store whose first commit is the one after `revision`.
    pub(crate) fn beginning(revision: Revision) -> Self {
        Store { revision, history: History::since(revision), ..Store::default() }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// Returns when the next session ends unless it is renewed.
    pub(crate) fn next_deadline(&self) -> Option<BootTime> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Ends the sessions whose deadline has come.
    pub(crate) fn expire(&mut self, now: BootTime) {
        while let Some((deadline, id)) = self.deadlines.first().copied() {
            if deadline > now {
                return;
            }
            self.end(id, Cause::Expired);
        }
    }

    pub(crate) fn unused_id(&self, chance: &dyn Chance) -> SessionId {
        // Ids of ended sessions are not remembered: 128 random bits do not repeat.
        std::iter::repeat_with(|| SessionId(chance.bits()))
            .find(|id| !self.sessions.contains_key(id))
            .unwrap_or(SessionId(0))
    }

    pub(crate) fn open(&mut self, id: SessionId, lease: Duration, now: BootTime) {
        let deadline = now + lease;
        self.sessions.insert(id, Open { lease, deadline, owned: BTreeSet::new() });
        self.deadlines.insert((deadline, id));
        let revision = self.advance();
        let value = format!("{{\"lease_ms\":{}}}", lease.as_millis());
        self.put(id.key(), value.into(), Some(id), revision);
        self.history.trim();
    }

    pub(crate) fn renew(&mut self, id: SessionId, now: BootTime) -> Result<Duration> {
        let open = self.sessions.get_mut(&id).ok_or_else(|| lost("renew", id))?;
        self.deadlines.remove(&(open.deadline, id));
        open.deadline = now + open.lease;
        self.deadlines.insert((open.deadline, id));
        Ok(open.lease)
    }

    /// Ends a session and removes what it owned, all at one revision. Does nothing if it has ended.
    pub(crate) fn end(&mut self, id: SessionId, cause: Cause) {
        let Some(open) = self.sessions.remove(&id) else { return };
        self.deadlines.remove(&(open.deadline, id));
        let revision = self.advance();
        for key in open.owned {
            self.remove(key, revision, cause);
        }
        self.history.trim();
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Record> {
        self.records.get(key).cloned()
    }

    pub(crate) fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Page {
        let mut records: Vec<Record> = Vec::new();
        let (mut next, mut bytes) = (None, 0);
        for record in self.below(prefix, after) {
            bytes += record.value.len();
            let full = records.len() == limit || bytes > limits::PAGE_BYTES_MAX;
            if full && let Some(last) = records.last() {
                next = Some(last.key.clone());
                break;
            }
            records.push(record.clone());
        }
        Page { records, next, revision: self.revision }
    }

    pub(crate) fn commit(&mut self, txn: Txn) -> Result<Committed> {
        self.check_guards(&txn.guards)?;
        self.check_sessions(&txn.writes)?;
        let revision = self.advance();
        let apply = |write| match write {
            Write::Put { key, value, session } => self.put(key, value, session, revision),
            Write::Delete(key) => self.remove(key, revision, Cause::Deleted),
        };
        let stamps = txn.writes.into_iter().map(apply).collect();
        self.history.trim();
        Ok(Committed { revision, stamps })
    }

    /// Returns what a watcher of `prefix` that has seen everything up to `seen`, or nothing yet, is shown
    /// next, if there is anything, and up to which revision it has then seen everything.
    pub(crate) fn delta(&self, prefix: &Key, seen: Option<Revision>) -> (Option<Delta>, Revision) {
        // A revision we have not reached was given by a store whose place we took.
        let Some(seen) = seen.filter(|seen| (self.history.floor()..=self.revision).contains(seen)) else {
            let records = self.below(prefix, None).cloned().collect();
            return (Some(Delta::Resync { records, revision: self.revision }), self.revision);
        };
        let (changes, revision) = self.history.after(seen, prefix, self.revision);
        ((!changes.is_empty()).then_some(Delta::Changes { changes, revision }), revision)
    }

    fn below<'a>(&'a self, prefix: &'a Key, after: Option<&'a Key>) -> impl Iterator<Item = &'a Record> {
        let start = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let range = self.records.range::<Key, _>((start, Bound::Unbounded));
        range.map(|(_, record)| record).take_while(|record| record.key.starts_with(prefix))
    }

    fn check_guards(&self, guards: &[Guard]) -> Result<()> {
        let holds = |guard: &&Guard| match guard {
            Guard::Absent(key) => !self.records.contains_key(key),
            Guard::Unchanged(key, stamp) => self.records.get(key).is_some_and(|now| now.stamp == *stamp),
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
                && !self.sessions.contains_key(id)
            {
                return Err(lost("commit", *id));
            }
        }
        Ok(())
    }

    fn advance(&mut self) -> Revision {
        self.revision.0 += 1;
        self.revision
    }

    fn put(&mut self, key: Key, value: Bytes, session: Option<SessionId>, revision: Revision) -> Stamp {
        let former = self.records.get(&key);
        let former_session = former.and_then(|record| record.session);
        let created = match former {
            Some(record) if former_session == session => record.stamp.created,
            _ => revision,
        };
        let stamp = Stamp { created, modified: revision };
        if former_session != session {
            self.disown(&key, former_session);
        }
        if let Some(open) = session.and_then(|id| self.sessions.get_mut(&id)) {
            open.owned.insert(key.clone());
        }
        let record = Record { key: key.clone(), value, session, stamp };
        self.history.push(Change::Put(record.clone()));
        self.records.insert(key, record);
        stamp
    }

    fn remove(&mut self, key: Key, revision: Revision, cause: Cause) -> Stamp {
        let Some(record) = self.records.remove(&key) else {
            return Stamp { created: revision, modified: revision };
        };
        self.disown(&key, record.session);
        self.history.push(Change::Deleted { key, last: record.stamp, revision, cause });
        record.stamp
    }

    fn disown(&mut self, key: &Key, session: Option<SessionId>) {
        if let Some(open) = session.and_then(|id| self.sessions.get_mut(&id)) {
            open.owned.remove(key);
        }
    }
}

fn lost(operation: &'static str, id: SessionId) -> Error {
    Error::new(Kind::SessionLost, operation, "the session has ended").with("session", id)
}
