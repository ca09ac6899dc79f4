//! The state of a namespace, as the log tells it. Pure: whoever applies the same entries has the same state.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::time::Duration;

use althing_core::{
    BootTime, Cause, Change, Committed, Delta, Guard, History, Key, Page, Record, Revision, SessionId, Stamp,
    Txn, Write, limits,
};
use bytes::Bytes;

use crate::entry::{Alive, Entry};

/// How many bytes of records one part of a snapshot holds, unless a record alone has more.
const PART_BYTES: usize = 1 << 20;
/// What a record takes in a part beside its key and its value.
const RECORD_EXTRA_BYTES: usize = 64;

/// Everything one namespace holds.
#[derive(Debug, Default)]
pub(crate) struct Image {
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

/// What an entry came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was written.
    Committed(Committed),
    /// This guard of it did not hold.
    Conflict(Key),
    /// The session it names has ended.
    Lost(SessionId),
    /// A session began, or was renewed for so long.
    Alive(Duration),
    /// A session ended by it.
    Ended(SessionId),
    /// Nothing.
    Void,
}

impl Image {
    /// Makes the state with which a file begins, before its parts.
    pub(crate) fn at(revision: Revision) -> Image {
        Image { revision, history: History::since(revision), ..Image::default() }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// Tells whether a session is known and has not ended.
    pub(crate) fn is_alive(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    /// Returns the sessions that have not ended.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.keys().copied()
    }

    /// Returns the lease of a session.
    pub(crate) fn lease(&self, id: SessionId) -> Option<Duration> {
        self.sessions.get(&id).map(|open| open.lease)
    }

    /// Returns when the next session ends unless it is renewed.
    pub(crate) fn next_deadline(&self) -> Option<BootTime> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Returns the sessions whose deadline has come, with that deadline.
    pub(crate) fn due(&self, now: BootTime) -> Vec<(BootTime, SessionId)> {
        self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now).copied().collect()
    }

    /// Takes one step.
    pub(crate) fn apply(&mut self, entry: Entry) -> Outcome {
        let outcome = match entry {
            Entry::Commit { above, txn } => self.commit(above, txn),
            Entry::Open { above, id, lease, deadline } => self.open(above, id, lease, deadline),
            Entry::Beat { id, deadline } => self.beat(id, deadline),
            Entry::End { id, due, cause } => self.end(id, due, cause),
            Entry::Part { sessions, records } => self.restore(sessions, records),
            Entry::Seal => Outcome::Void,
        };
        self.history.trim();
        outcome
    }

    /// Tells what a transaction would come to, `None` if it would be written.
    pub(crate) fn refusal(&self, txn: &Txn) -> Option<Outcome> {
        let holds = |guard: &&Guard| match guard {
            Guard::Absent(key) => !self.records.contains_key(key),
            Guard::Unchanged(key, stamp) => self.records.get(key).is_some_and(|now| now.stamp == *stamp),
        };
        if let Some(guard) = txn.guards.iter().find(|guard| !holds(guard)) {
            return Some(Outcome::Conflict(guard.key().clone()));
        }
        let ended = txn.writes.iter().find_map(|write| match write {
            Write::Put { session: Some(id), .. } if !self.is_alive(*id) => Some(*id),
            _ => None,
        });
        ended.map(Outcome::Lost)
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

    /// Returns what a watcher of `prefix` that has seen everything up to `seen` is shown next of what happened up to
    /// `shown`, and up to which revision it has then seen everything. `None` where something is missing.
    pub(crate) fn changes(
        &self,
        prefix: &Key,
        seen: Revision,
        shown: Revision,
    ) -> Option<(Vec<Change>, Revision)> {
        // A revision we have not reached was given by a store whose place this one took.
        let known = (self.history.floor()..=self.revision).contains(&seen);
        known.then(|| self.history.after(seen, prefix, shown.max(seen)))
    }

    /// Returns all there is below `prefix`.
    pub(crate) fn snapshot(&self, prefix: &Key) -> Delta {
        Delta::Resync { records: self.below(prefix, None).cloned().collect(), revision: self.revision }
    }

    /// Hands out the whole state in parts, without what sessions own and with no session where `ended` is said.
    pub(crate) fn parts(&self, ended: bool, mut each: impl FnMut(Entry)) {
        let alive =
            |(id, open): (&SessionId, &Open)| Alive { id: *id, lease: open.lease, deadline: open.deadline };
        let sessions = self.sessions.iter().filter(|_| !ended).map(alive).collect();
        each(Entry::Part { sessions, records: Vec::new() });
        let (mut records, mut bytes) = (Vec::new(), 0);
        for record in self.records.values().filter(|record| !ended || record.session.is_none()) {
            if bytes > PART_BYTES {
                each(Entry::Part { sessions: Vec::new(), records: std::mem::take(&mut records) });
                bytes = 0;
            }
            bytes += weight(record);
            records.push(record.clone());
        }
        each(Entry::Part { sessions: Vec::new(), records });
    }

    /// Returns about how many bytes all parts take.
    pub(crate) fn weight(&self) -> u64 {
        let records: usize = self.records.values().map(weight).sum();
        (records + self.sessions.len() * RECORD_EXTRA_BYTES) as u64
    }

    fn below<'a>(&'a self, prefix: &'a Key, after: Option<&'a Key>) -> impl Iterator<Item = &'a Record> {
        let start = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let range = self.records.range::<Key, _>((start, Bound::Unbounded));
        range.map(|(_, record)| record).take_while(|record| record.key.starts_with(prefix))
    }

    fn commit(&mut self, above: Revision, txn: Txn) -> Outcome {
        if let Some(refusal) = self.refusal(&txn) {
            return refusal;
        }
        let revision = self.advance(above);
        let apply = |write| match write {
            Write::Put { key, value, session } => self.put(key, value, session, revision),
            Write::Delete(key) => self.remove(key, revision, Cause::Deleted),
        };
        let stamps = txn.writes.into_iter().map(apply).collect();
        Outcome::Committed(Committed { revision, stamps })
    }

    fn open(&mut self, above: Revision, id: SessionId, lease: Duration, deadline: BootTime) -> Outcome {
        self.begin(Alive { id, lease, deadline });
        let revision = self.advance(above);
        let value = format!("{{\"lease_ms\":{}}}", lease.as_millis());
        self.put(id.key(), value.into(), Some(id), revision);
        Outcome::Alive(lease)
    }

    fn begin(&mut self, alive: Alive) {
        let Alive { id, lease, deadline } = alive;
        self.sessions.insert(id, Open { lease, deadline, owned: BTreeSet::new() });
        self.deadlines.insert((deadline, id));
    }

    fn beat(&mut self, id: SessionId, deadline: BootTime) -> Outcome {
        let Some(open) = self.sessions.get_mut(&id) else { return Outcome::Lost(id) };
        self.deadlines.remove(&(open.deadline, id));
        open.deadline = open.deadline.max(deadline);
        self.deadlines.insert((open.deadline, id));
        Outcome::Alive(open.lease)
    }

    /// Ends a session and removes what it owned, all at one revision.
    fn end(&mut self, id: SessionId, due: Option<BootTime>, cause: Cause) -> Outcome {
        let deadline = self.sessions.get(&id).map(|open| open.deadline);
        // Renewed before this entry was read: it lives on.
        if deadline.is_none() || due.is_some_and(|due| deadline != Some(due)) {
            return Outcome::Void;
        }
        let Some(open) = self.sessions.remove(&id) else { return Outcome::Void };
        self.deadlines.remove(&(open.deadline, id));
        let revision = self.advance(Revision::ZERO);
        for key in open.owned {
            self.remove(key, revision, cause);
        }
        Outcome::Ended(id)
    }

    fn restore(&mut self, sessions: Vec<Alive>, records: Vec<Record>) -> Outcome {
        sessions.into_iter().for_each(|alive| self.begin(alive));
        for record in records {
            if let Some(open) = record.session.and_then(|id| self.sessions.get_mut(&id)) {
                open.owned.insert(record.key.clone());
            }
            self.records.insert(record.key.clone(), record);
        }
        Outcome::Void
    }

    fn advance(&mut self, above: Revision) -> Revision {
        self.revision = Revision(self.revision.max(above).0.saturating_add(1));
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

fn weight(record: &Record) -> usize {
    record.key.as_bytes().len() + record.value.len() + RECORD_EXTRA_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: SessionId = SessionId(7);

    fn at(seconds: u64) -> BootTime {
        BootTime::new(Duration::from_secs(seconds))
    }

    fn furnished() -> Image {
        let mut image = Image::at(Revision(100));
        let lease = Duration::from_secs(10);
        image.apply(Entry::Open { above: Revision::ZERO, id: ID, lease, deadline: at(10) });
        let txn = Txn::new().put_owned("mine".into(), "1", ID).put("free".into(), "1");
        image.apply(Entry::Commit { above: Revision::ZERO, txn });
        image
    }

    #[test]
    fn an_end_by_a_deadline_that_was_moved_does_nothing() {
        let mut image = furnished();
        assert_eq!(
            image.apply(Entry::Beat { id: ID, deadline: at(20) }),
            Outcome::Alive(Duration::from_secs(10))
        );
        let end = |due| Entry::End { id: ID, due: Some(due), cause: Cause::Expired };
        assert_eq!(image.apply(end(at(10))), Outcome::Void);
        assert!(image.get(&"mine".into()).is_some());
        assert_eq!(image.apply(end(at(20))), Outcome::Ended(ID));
        assert_eq!(image.apply(end(at(20))), Outcome::Void);
        assert_eq!((image.get(&"mine".into()), image.revision()), (None, Revision(103)));
        assert_eq!(image.apply(Entry::Beat { id: ID, deadline: at(30) }), Outcome::Lost(ID));
    }

    #[test]
    fn a_late_renewal_moves_no_deadline_back() {
        let mut image = furnished();
        image.apply(Entry::Beat { id: ID, deadline: at(20) });
        image.apply(Entry::Beat { id: ID, deadline: at(15) });
        assert_eq!(image.next_deadline(), Some(at(20)));
        assert_eq!((image.due(at(19)), image.due(at(20))), (vec![], vec![(at(20), ID)]));
    }

    fn rebuilt(image: &Image, ended: bool) -> Image {
        let mut again = Image::at(image.revision());
        image.parts(ended, |part| drop(again.apply(Entry::decode(&part.encode()).unwrap())));
        again
    }

    #[test]
    fn its_parts_make_the_same_state_again() {
        let mut image = furnished();
        let large =
            Txn::new().put("large/1".into(), vec![1; PART_BYTES]).put("large/2".into(), vec![2; PART_BYTES]);
        image.apply(Entry::Commit { above: Revision(500), txn: large });
        let mut again = rebuilt(&image, false);
        assert_eq!(again.snapshot(&Key::default()), image.snapshot(&Key::default()));
        let end = Entry::End { id: ID, due: Some(at(10)), cause: Cause::Closed };
        assert_eq!((again.apply(end.clone()), image.apply(end)), (Outcome::Ended(ID), Outcome::Ended(ID)));
        assert_eq!(again.snapshot(&Key::default()), image.snapshot(&Key::default()));
        assert_eq!(image.revision(), Revision(502));
    }

    #[test]
    fn another_boot_keeps_what_no_session_owned() {
        let again = rebuilt(&furnished(), true);
        assert_eq!(again.sessions().count(), 0);
        let page = again.list(&Key::default(), None, 9);
        assert_eq!(page.records.iter().map(|record| record.key.clone()).collect::<Vec<_>>(), ["free".into()]);
    }

    #[test]
    fn who_comes_from_before_or_from_beyond_is_missing_something() {
        let image = furnished();
        let changes = |seen, shown| image.changes(&Key::default(), Revision(seen), Revision(shown));
        assert_eq!(changes(99, 102), None);
        assert_eq!(changes(103, 102), None);
        assert_eq!(changes(100, 102).unwrap().0.len(), 3);
        assert_eq!(changes(100, 101).unwrap().1, Revision(101), "what is not shown yet waits");
        assert_eq!(changes(102, 101).unwrap(), (vec![], Revision(102)));
    }
}
