//! What changed lately, kept in the memory of a host: one bounded queue that all watches of a driver read.

use std::collections::VecDeque;

use crate::{Change, Key, Revision, limits};

/// The last changes, in order, in whole commits. At most [`limits::HISTORY_CHANGES_MAX`] of them,
/// with at most [`limits::HISTORY_BYTES_MAX`] bytes of values.
#[derive(Debug, Default)]
pub struct History {
    changes: VecDeque<Change>,
    /// The bytes of all values in `changes`.
    bytes: usize,
    /// Every change after this revision is kept.
    floor: Revision,
}

impl History {
    /// Makes a history that knows nothing of what came up to `floor`.
    pub fn since(floor: Revision) -> History {
        History { floor, ..History::default() }
    }

    /// Returns the revision after which nothing is missing.
    pub fn floor(&self) -> Revision {
        self.floor
    }

    /// Adds the next change. Its revision is at least that of the last one.
    pub fn push(&mut self, change: Change) {
        self.bytes += value_bytes(&change);
        self.changes.push_back(change);
    }

    /// Forgets the oldest commits until the bounds hold. Called when a commit is whole: a commit that is
    /// larger than the history goes at once, and whoever watches is given a resync.
    pub fn trim(&mut self) {
        while self.changes.len() > limits::HISTORY_CHANGES_MAX || self.bytes > limits::HISTORY_BYTES_MAX {
            let Some(oldest) = self.changes.front() else { return };
            self.floor = oldest.revision();
            while let Some(change) = self.changes.pop_front_if(|change| change.revision() == self.floor) {
                self.bytes -= value_bytes(&change);
            }
        }
    }

    /// Returns the changes below `prefix` after `seen` and up to `now`, in whole commits, and the revision they reach to.
    /// At most [`limits::DELTA_CHANGES_MAX`], unless one commit alone has more.
    pub fn after(&self, seen: Revision, prefix: &Key, now: Revision) -> (Vec<Change>, Revision) {
        let start = self.changes.partition_point(|change| change.revision() <= seen);
        let end = self.changes.partition_point(|change| change.revision() <= now).max(start);
        let mut found: Vec<Change> = Vec::new();
        let mut whole = 0;
        for change in self.changes.range(start..end).filter(|change| change.key().starts_with(prefix)) {
            if found.last().is_some_and(|last| last.revision() < change.revision()) {
                whole = found.len();
            }
            if found.len() >= limits::DELTA_CHANGES_MAX && whole > 0 {
                found.truncate(whole);
                let reached = found[whole - 1].revision();
                return (found, reached);
            }
            found.push(change.clone());
        }
        (found, now)
    }
}

fn value_bytes(change: &Change) -> usize {
    match change {
        Change::Put(record) => record.value.len(),
        Change::Deleted { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use crate::{Cause, Record, Stamp};

    use super::*;

    fn filled(commits: &[usize]) -> (History, Revision) {
        let mut history = History::default();
        for (index, changes) in commits.iter().enumerate() {
            let revision = Revision(index as u64 + 1);
            for _ in 0..*changes {
                let last = Stamp { created: revision, modified: revision };
                let change = Change::Deleted { key: "k".into(), last, revision, cause: Cause::Deleted };
                history.push(change);
            }
            history.trim();
        }
        (history, Revision(commits.len() as u64))
    }

    #[test]
    fn forgets_whole_commits_and_says_from_where_it_knows() {
        let (history, _) = filled(&[1, limits::HISTORY_CHANGES_MAX - 1, 1]);
        assert_eq!((history.floor(), history.changes.len()), (Revision(1), limits::HISTORY_CHANGES_MAX));
        let (history, _) = filled(&[1, limits::HISTORY_CHANGES_MAX + 1]);
        assert_eq!((history.floor(), history.changes.len()), (Revision(2), 0));
    }

    #[test]
    fn forgets_by_the_bytes_it_holds() {
        let mut history = History::default();
        let value = bytes::Bytes::from(vec![0; limits::HISTORY_BYTES_MAX / 2]);
        for revision in 1..=3 {
            let stamp = Stamp { created: Revision(revision), modified: Revision(revision) };
            history.push(Change::Put(Record { key: "k".into(), value: value.clone(), session: None, stamp }));
            history.trim();
        }
        assert_eq!((history.floor(), history.changes.len()), (Revision(1), 2));
    }

    #[track_caller]
    fn check_delta(commits: &[usize], seen: u64, expected: (usize, u64)) {
        let (_, now) = filled(commits);
        check_delta_until(now.0, commits, seen, expected);
    }

    #[track_caller]
    fn check_delta_until(now: u64, commits: &[usize], seen: u64, expected: (usize, u64)) {
        let (history, _) = filled(commits);
        let (changes, reached) = history.after(Revision(seen), &Key::default(), Revision(now));
        assert_eq!((changes.len(), reached.0), expected, "{commits:?} after {seen}");
    }

    #[test]
    fn a_delta_holds_whole_commits() {
        const MOST: usize = limits::DELTA_CHANGES_MAX;
        check_delta(&[1, 2, 3], 1, (5, 3));
        check_delta(&[1, 2, 3], 3, (0, 3));
        check_delta(&[MOST - 1, 1, 1], 0, (MOST, 2));
        check_delta(&[MOST - 1, 2], 0, (MOST - 1, 1));
        check_delta(&[MOST + 5, 1], 0, (MOST + 5, 1));
        check_delta(&[MOST + 5, 1], 1, (1, 2));
    }

    #[test]
    fn what_comes_after_the_end_waits() {
        check_delta_until(2, &[1, 2, 3], 1, (2, 2));
        check_delta_until(1, &[1, 2, 3], 1, (0, 1));
    }
}
