//! The image: all that is durable, in memory, from which everything is read. Pure: time is handed in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::time::Duration;

use althing_core::{BootTime, Change, Delta, History, Key, Page, Record, Revision, SessionId, limits};

/// What a file holds of one namespace.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) revision: Revision,
    pub(crate) sessions: Vec<(SessionId, Duration)>,
    pub(crate) records: Vec<Record>,
}

/// What one durable commit of the file changes. Later entries of a key or a session have replaced earlier ones.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) revision: Revision,
    /// `None` removes.
    pub(crate) records: BTreeMap<Key, Option<Record>>,
    /// The lease of a session that began; `None` where it ended.
    pub(crate) sessions: BTreeMap<SessionId, Option<Duration>>,
    pub(crate) changes: Vec<Change>,
}

/// What a renewal found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    Renewed(Duration),
    /// Its lease has run out, but its end is not written yet.
    Due,
    Gone,
}

/// Everything durable of one namespace, the deadlines of its sessions, and its last changes.
#[derive(Debug, Default)]
pub(crate) struct Store {
    revision: Revision,
    records: BTreeMap<Key, Record>,
    sessions: HashMap<SessionId, Open>,
    /// The sessions again, by deadline.
    deadlines: BTreeSet<(BootTime, SessionId)>,
    history: History,
}

/// A session whose end is not written.
#[derive(Debug)]
struct Open {
    lease: Duration,
    deadline: BootTime,
    owned: BTreeSet<Key>,
}

impl Store {
    /// Makes the image of a file. A session that `before` knew keeps its deadline; any other has one whole lease from
    /// `now` on: whoever renewed it last did so before `now`, so nobody who still believes in it is overtaken.
    pub(crate) fn of(contents: Contents, before: &Store, now: BootTime) -> Store {
        let mut store = Store {
            revision: contents.revision,
            history: History::since(contents.revision),
            ..Store::default()
        };
        for (id, lease) in contents.sessions {
            let known = before.sessions.get(&id).map(|open| open.deadline);
            store.begin(id, lease, known.unwrap_or(now + lease));
        }
        for record in contents.records {
            store.put(record);
        }
        store
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// Returns when the next session ends unless it is renewed.
    pub(crate) fn next_deadline(&self) -> Option<BootTime> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Returns the sessions whose deadline has come.
    pub(crate) fn due(&self, now: BootTime) -> impl Iterator<Item = SessionId> {
        self.deadlines.iter().take_while(move |(deadline, _)| *deadline <= now).map(|(_, id)| *id)
    }

    pub(crate) fn lives(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    pub(crate) fn owned(&self, id: SessionId) -> impl Iterator<Item = &Key> {
        self.sessions.get(&id).into_iter().flat_map(|open| &open.owned)
    }

    /// Moves the deadline of a session, unless it has come.
    pub(crate) fn renew(&mut self, id: SessionId, now: BootTime) -> Renewal {
        let Some(open) = self.sessions.get_mut(&id) else { return Renewal::Gone };
        if open.deadline <= now {
            return Renewal::Due;
        }
        self.deadlines.remove(&(open.deadline, id));
        open.deadline = now + open.lease;
        self.deadlines.insert((open.deadline, id));
        Renewal::Renewed(open.lease)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Record> {
        self.records.get(key)
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

    /// Returns what a watcher of `prefix` that has seen everything up to `seen`, or nothing yet, is shown
    /// next, if there is anything, and up to which revision it has then seen everything.
    pub(crate) fn delta(&self, prefix: &Key, seen: Option<Revision>) -> (Option<Delta>, Revision) {
        // A revision we have not reached was given by a file whose place this one took.
        let Some(seen) = seen.filter(|seen| (self.history.floor()..=self.revision).contains(seen)) else {
            let records = self.below(prefix, None).cloned().collect();
            return (Some(Delta::Resync { records, revision: self.revision }), self.revision);
        };
        let (changes, revision) = self.history.after(seen, prefix, self.revision);
        ((!changes.is_empty()).then_some(Delta::Changes { changes, revision }), revision)
    }

    /// Takes in what has become durable. A session that began has its whole lease from `now` on.
    pub(crate) fn apply(&mut self, written: Written, now: BootTime) {
        self.revision = written.revision;
        for (id, lease) in written.sessions {
            match lease {
                Some(lease) => self.begin(id, lease, now + lease),
                None => self.end(id),
            }
        }
        for (key, record) in written.records {
            self.disown(&key);
            match record {
                Some(record) => self.put(record),
                None => drop(self.records.remove(&key)),
            }
        }
        for change in written.changes {
            self.history.push(change);
        }
        self.history.trim();
    }

    fn below<'a>(&'a self, prefix: &'a Key, after: Option<&'a Key>) -> impl Iterator<Item = &'a Record> {
        let start = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let range = self.records.range::<Key, _>((start, Bound::Unbounded));
        range.map(|(_, record)| record).take_while(|record| record.key.starts_with(prefix))
    }

    fn begin(&mut self, id: SessionId, lease: Duration, deadline: BootTime) {
        self.sessions.insert(id, Open { lease, deadline, owned: BTreeSet::new() });
        self.deadlines.insert((deadline, id));
    }

    fn end(&mut self, id: SessionId) {
        if let Some(open) = self.sessions.remove(&id) {
            self.deadlines.remove(&(open.deadline, id));
        }
    }

    fn put(&mut self, record: Record) {
        if let Some(open) = record.session.and_then(|id| self.sessions.get_mut(&id)) {
            open.owned.insert(record.key.clone());
        }
        self.records.insert(record.key.clone(), record);
    }

    fn disown(&mut self, key: &Key) {
        let session = self.records.get(key).and_then(|record| record.session);
        if let Some(open) = session.and_then(|id| self.sessions.get_mut(&id)) {
            open.owned.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(10);
    const ID: SessionId = SessionId(1);

    fn contents() -> Contents {
        Contents { revision: Revision(7), sessions: vec![(ID, LEASE)], records: Vec::new() }
    }

    fn at(seconds: u64) -> BootTime {
        BootTime::new(Duration::from_secs(seconds))
    }

    #[test]
    fn a_stored_session_has_one_whole_lease_from_the_opening() {
        let mut store = Store::of(contents(), &Store::default(), at(100));
        assert_eq!(store.next_deadline(), Some(at(110)));
        assert_eq!(store.due(at(109)).count(), 0);
        assert_eq!(store.renew(ID, at(109)), Renewal::Renewed(LEASE));
        assert_eq!((store.next_deadline(), store.due(at(119)).next()), (Some(at(119)), Some(ID)));
    }

    #[test]
    fn a_file_that_is_read_again_moves_no_deadline() {
        let before = Store::of(contents(), &Store::default(), at(100));
        let mut store = Store::of(contents(), &before, at(109));
        assert_eq!(store.next_deadline(), Some(at(110)));
        assert_eq!(store.renew(ID, at(110)), Renewal::Due);
        assert_eq!(store.renew(SessionId(2), at(110)), Renewal::Gone);
    }
}
