//! From a transaction and what was read for it to the steps that the server does at once. Pure.
//!
//! The data version of a bucket's node is what a commit depends on: it writes every bucket in which it writes a
//! record, at the version it read, and checks the version of every bucket it only has a guard in. So nothing of
//! what it read has changed when its steps are done, and a record that was deleted and made again is noticed.

use std::collections::{BTreeMap, BTreeSet};

use althing_core::{
    Cause, Committed, Error, Guard, Key, Kind, Record, Result, Revision, SessionId, Stamp, Txn, Write,
};

use crate::entry::{self, Line};
use crate::layout::{self, Layout, bucket_of};
use crate::wire::{Done, Mode, Step};

/// The most bytes of a request. The server takes 1 MiB less one byte; what is left is for its own frame.
pub(crate) const REQUEST_BYTES_MAX: usize = (1 << 20) - (8 << 10);
/// The largest value: a request, less two names and a key of the longest, escaped, and the frame.
pub(crate) const VALUE_BYTES_MAX: usize = 960 << 10;
/// The most bytes that the names of a bucket's children may take; a list of them is one answer.
const LISTED_BYTES_MAX: u64 = 960 << 10;
/// The most records one session owns; the list of them is one answer too.
const TITLES_MAX: u32 = 26_000;

const _: () = assert!(
    VALUE_BYTES_MAX + 10 * althing_core::limits::KEY_BYTES_MAX + (4 << 10) < REQUEST_BYTES_MAX,
    "a largest value under a longest name fits a request"
);

/// What was read for a transaction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) buckets: BTreeMap<u8, Bucket>,
    /// The records that are there, also those of sessions.
    pub(crate) records: BTreeMap<Key, Record>,
    /// The sessions that are named, and what they own.
    pub(crate) estates: BTreeMap<SessionId, u32>,
    /// Sessions that have ended and whose records still lie there.
    pub(crate) dead: BTreeSet<SessionId>,
}

/// A bucket's version, and the bytes its children's names take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) version: i32,
    pub(crate) bytes: u64,
}

/// The first guard that does not hold.
pub(crate) fn broken<'a>(txn: &'a Txn, facts: &Facts) -> Option<&'a Guard> {
    txn.guards.iter().find(|guard| match (guard, facts.records.get(guard.key())) {
        (Guard::Absent(_), found) => found.is_some(),
        (Guard::Unchanged(_, stamp), found) => found.is_none_or(|record| record.stamp != *stamp),
    })
}

/// A session that a put names and that has ended.
pub(crate) fn lost(txn: &Txn, facts: &Facts) -> Option<SessionId> {
    txn.writes.iter().find_map(|write| match write {
        Write::Put { session: Some(id), .. } if !facts.estates.contains_key(id) => Some(*id),
        _ => None,
    })
}

/// The stamp that a write will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It begins an incarnation, or deleted nothing.
    New,
    /// It goes on with an incarnation.
    Kept(Revision),
    /// It deleted a record with this stamp.
    Gone(Stamp),
}

/// The steps of a transaction, and how to read what they did.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    outcomes: Vec<Outcome>,
}

/// Makes the steps of a transaction whose guards hold and whose sessions live, by `facts`. The first step checks
/// the volume of the log. Fails with `TooLarge` where the server would refuse.
pub(crate) fn plan(layout: &Layout, volume: u32, txn: &Txn, facts: &Facts) -> Result<Plan> {
    let mut draft = Draft { layout, facts, steps: Vec::new(), lines: Vec::new(), growth: BTreeMap::new() };
    let outcomes: Vec<_> = txn.writes.iter().map(|write| draft.write(write)).collect();
    let writes_nothing = txn.writes.is_empty();
    let mut steps = Vec::with_capacity(draft.steps.len() + draft.growth.len() + 4);
    if !writes_nothing {
        steps.push(Step::Check { path: layout.volume(volume), version: Some(0) });
    }
    steps.extend(draft.sessions(txn));
    steps.extend(draft.buckets(txn)?);
    steps.append(&mut draft.steps);
    if !writes_nothing {
        let data = entry::write(&draft.lines);
        steps.push(Step::Create { path: layout.next_entry(volume), data, mode: Mode::Numbered });
    }
    refuse_too_large(&steps)?;
    Ok(Plan { steps, outcomes })
}

/// Fails when the server would drop the connection for the size of this request.
pub(crate) fn refuse_too_large(steps: &[Step]) -> Result<()> {
    let bytes: usize = steps.iter().map(Step::bytes).sum();
    if bytes <= REQUEST_BYTES_MAX {
        return Ok(());
    }
    let message = format!("a transaction of {bytes} bytes; ZooKeeper takes {REQUEST_BYTES_MAX}");
    Err(Error::new(Kind::TooLarge, "commit", message).advise("Write less at once"))
}

impl Plan {
    /// Says what was committed. `None` where the server's answer does not tell.
    pub(crate) fn committed(&self, done: &[Done]) -> Option<Committed> {
        let revision = done.iter().find_map(|done| match done {
            Done::Set(node) => Some(node.modified),
            _ => None,
        })?;
        let stamp = |outcome: &Outcome| match *outcome {
            Outcome::New => Stamp { created: revision, modified: revision },
            Outcome::Kept(created) => Stamp { created, modified: revision },
            Outcome::Gone(last) => last,
        };
        Some(Committed { revision, stamps: self.outcomes.iter().map(stamp).collect() })
    }
}

struct Draft<'a> {
    layout: &'a Layout,
    facts: &'a Facts,
    steps: Vec<Step>,
    lines: Vec<Line>,
    /// How the bytes of each bucket's list change; every bucket written in is here.
    growth: BTreeMap<u8, i64>,
}

impl Draft<'_> {
    fn write(&mut self, write: &Write) -> Outcome {
        let found = self.facts.records.get(write.key());
        self.growth.entry(bucket_of(write.key())).or_default();
        match (write, found) {
            (Write::Put { key, value, session }, Some(record)) if record.session == *session => {
                let data = layout::record_data(*session, value);
                self.steps.push(Step::Set { path: self.layout.record(key), data, version: None });
                self.put_line(write, Some(record.stamp.created));
                Outcome::Kept(record.stamp.created)
            }
            (Write::Put { key, value, session }, found) => {
                if let Some(record) = found {
                    self.remove(record);
                }
                self.make(key, value, *session);
                self.put_line(write, None);
                Outcome::New
            }
            (Write::Delete(_), Some(record)) => {
                self.remove(record);
                let (key, last) = (record.key.clone(), record.stamp);
                self.lines.push(Line::Deleted { key, last, cause: Cause::Deleted });
                Outcome::Gone(last)
            }
            (Write::Delete(_), None) => Outcome::New,
        }
    }

    fn make(&mut self, key: &Key, value: &[u8], session: Option<SessionId>) {
        let (path, data) = (self.layout.record(key), layout::record_data(session, value));
        self.steps.push(Step::Create { path, data, mode: Mode::Lasting });
        self.grow(key, 1);
        if let Some(id) = session {
            let (path, data) = (self.layout.title(id, key), key.as_bytes().to_vec());
            self.steps.push(Step::Create { path, data, mode: Mode::Lasting });
        }
    }

    fn remove(&mut self, record: &Record) {
        self.steps.push(Step::Delete { path: self.layout.record(&record.key) });
        self.grow(&record.key, -1);
        if let Some(id) = record.session {
            self.steps.push(Step::Delete { path: self.layout.title(id, &record.key) });
        }
    }

    fn grow(&mut self, key: &Key, sign: i64) {
        *self.growth.entry(bucket_of(key)).or_default() += sign * layout::listed_bytes(key) as i64;
    }

    fn put_line(&mut self, write: &Write, created: Option<Revision>) {
        if let Write::Put { key, value, session } = write {
            let (key, value) = (key.clone(), Some(value.clone()));
            self.lines.push(Line::Put { key, session: *session, created, value });
        }
    }

    /// Every session that is named, or owns what is written or guarded, lives.
    fn sessions(&self, txn: &Txn) -> Vec<Step> {
        let named = txn.writes.iter().filter_map(|write| match write {
            Write::Put { session, .. } => *session,
            Write::Delete(_) => None,
        });
        let keys = txn.writes.iter().map(Write::key).chain(txn.guards.iter().map(Guard::key));
        let owners = keys.filter_map(|key| self.facts.records.get(key)?.session);
        let sessions: BTreeSet<_> = named.chain(owners).collect();
        sessions.into_iter().map(|id| Step::Check { path: self.layout.session(id), version: None }).collect()
    }

    /// Every bucket is as it was read.
    fn buckets(&self, txn: &Txn) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        for (number, bucket) in &self.facts.buckets {
            let (path, version) = (self.layout.bucket(*number), Some(bucket.version));
            steps.push(match self.growth.get(number) {
                None => Step::Check { path, version },
                Some(growth) => {
                    let bytes = bucket.bytes.saturating_add_signed(*growth);
                    if bytes > LISTED_BYTES_MAX && *growth > 0 {
                        return Err(full("the names of the records take more than ZooKeeper lists"));
                    }
                    Step::Set { path, data: layout::bucket_data(bytes), version }
                }
            });
        }
        let owns = |id: &SessionId| self.facts.estates.get(id).copied().unwrap_or(0);
        let over = txn
            .writes
            .iter()
            .find(|write| matches!(write, Write::Put { session: Some(id), .. } if owns(id) >= TITLES_MAX));
        match over {
            Some(_) => Err(full("a session that owns more records than ZooKeeper lists")),
            None => Ok(steps),
        }
    }
}

fn full(message: &str) -> Error {
    Error::new(Kind::TooLarge, "commit", message).advise("Use shorter names, or fewer of them")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, session: Option<SessionId>, created: u64, modified: u64) -> Record {
        let stamp = Stamp { created: Revision(created), modified: Revision(modified) };
        Record { key: key.into(), value: "old".into(), session, stamp }
    }

    fn facts(records: &[Record], keys: &[&str]) -> Facts {
        let bucket = |key: &&str| (bucket_of(&Key::from(*key)), Bucket { version: 5, bytes: 100 });
        Facts {
            buckets: keys.iter().map(bucket).collect(),
            records: records.iter().map(|record| (record.key.clone(), record.clone())).collect(),
            estates: [(SessionId(7), 1)].into(),
            dead: BTreeSet::new(),
        }
    }

    fn layout() -> Layout {
        Layout::new("/n".into())
    }

    fn steps(txn: &Txn, facts: &Facts) -> Vec<Step> {
        plan(&layout(), 3, txn, facts).unwrap().steps
    }

    #[test]
    fn a_put_over_the_record_of_another_session_makes_it_anew() {
        let facts = facts(&[record("a", Some(SessionId(7)), 3, 4)], &["a"]);
        let key = Key::from("a");
        let done = steps(&Txn::new().put(key.clone(), "new"), &facts);
        let delete = |path| done.contains(&Step::Delete { path });
        assert!(delete(layout().record(&key)) && delete(layout().title(SessionId(7), &key)));
        assert!(done.contains(&Step::Check { path: layout().session(SessionId(7)), version: None }));
        let set = Step::Set {
            path: layout().bucket(bucket_of(&key)),
            data: layout::bucket_data(100),
            version: Some(5),
        };
        assert!(done.contains(&set), "the list is as long as before: {done:?}");
    }

    #[test]
    fn guards_alone_check_their_buckets_and_write_nothing() {
        let facts = facts(&[record("a", None, 3, 4)], &["a"]);
        let stamp = Stamp { created: Revision(3), modified: Revision(4) };
        let txn = Txn::new().guard(Guard::Unchanged("a".into(), stamp));
        assert_eq!(broken(&txn, &facts), None);
        let path = layout().bucket(bucket_of(&"a".into()));
        assert_eq!(steps(&txn, &facts), [Step::Check { path, version: Some(5) }]);
    }

    #[test]
    fn the_first_broken_guard_is_named() {
        let facts = facts(&[record("a", None, 3, 4)], &["a", "b"]);
        let stamp = Stamp { created: Revision(3), modified: Revision(3) };
        let txn = Txn::new().guard(Guard::Absent("b".into())).guard(Guard::Unchanged("a".into(), stamp));
        assert_eq!(broken(&txn, &facts).map(Guard::key), Some(&Key::from("a")));
        assert_eq!(lost(&Txn::new().put_owned("a".into(), "", SessionId(8)), &facts), Some(SessionId(8)));
        assert_eq!(lost(&Txn::new().put_owned("a".into(), "", SessionId(7)), &facts), None);
    }

    #[track_caller]
    fn check_too_large(txn: Txn, facts: &Facts) {
        let error = plan(&layout(), 0, &txn, facts).unwrap_err();
        assert_eq!(error.kind(), Kind::TooLarge, "{error}");
    }

    #[test]
    fn refuses_what_the_server_would_drop_the_connection_for() {
        let half = vec![0; REQUEST_BYTES_MAX / 2];
        let txn = Txn::new().put("a".into(), half.clone()).put("b".into(), half);
        check_too_large(txn, &facts(&[], &["a", "b"]));
        let mut full = facts(&[], &["a"]);
        full.buckets.values_mut().for_each(|bucket| bucket.bytes = LISTED_BYTES_MAX);
        check_too_large(Txn::new().put("a".into(), ""), &full);
        let mut rich = facts(&[], &["a"]);
        rich.estates.insert(SessionId(7), TITLES_MAX);
        check_too_large(Txn::new().put_owned("a".into(), "", SessionId(7)), &rich);
    }
}
