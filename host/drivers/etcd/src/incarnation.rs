//! Whether the namespace is still the one that this host has met: a cluster made anew, or set back to a backup, hands out
//! its revisions again.
//!
//! Three things tell: the cluster's number, the record `meta`, and raft's term. A backup that is restored under the old
//! names has the old number and the old `meta`, and begins its terms anew. Where it has passed the term that was seen
//! last, and the revisions too, nothing of etcd tells it from the store before.

use bytes::Bytes;

/// Which state of the namespace, of those this host has met: the first, or one that took its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Incarnation(u64);

impl Incarnation {
    /// The one that was there when the host connected. Revisions that a caller brings along may be of it, whatever
    /// came since.
    pub(crate) const FIRST: Incarnation = Incarnation(0);
}

/// What one incarnation has and another has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) cluster: u64,
    /// When the namespace was taken into use, and by what random name.
    pub(crate) begun: i64,
    pub(crate) name: Bytes,
}

/// What reads through the quorum have told.
#[derive(Debug, Default)]
pub(crate) struct Met {
    origin: Option<Origin>,
    term: u64,
    incarnation: Incarnation,
}

impl Met {
    /// Returns the highest term that was told of this incarnation. No read that is sent now has a lower one.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// Takes in what a read has told that was sent when `known` was the highest term. Returns which incarnation it is of.
    /// Reads that were under way together may make two of one: a resync too many, never one too few.
    pub(crate) fn meet(&mut self, origin: Origin, known: u64, term: u64) -> Incarnation {
        let is_other = self.origin.as_ref().is_some_and(|former| *former != origin);
        if is_other || term < known {
            self.incarnation.0 += 1;
            self.term = 0;
        }
        self.origin = Some(origin);
        self.term = self.term.max(term);
        self.incarnation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(name: &'static str) -> Origin {
        Origin { cluster: 7, begun: 2, name: name.into() }
    }

    #[test]
    fn another_name_or_a_lower_term_is_another_incarnation() {
        let mut met = Met::default();
        let mut meet = |name, term| {
            let known = met.term();
            met.meet(origin(name), known, term)
        };
        assert_eq!(meet("a", 5), Incarnation::FIRST);
        assert_eq!(meet("a", 6), Incarnation::FIRST);
        let back = meet("a", 2);
        assert_ne!(back, Incarnation::FIRST);
        // It is told once, and what comes after it has terms of its own.
        assert_eq!((meet("a", 2), meet("a", 3)), (back, back));
        assert_ne!(meet("b", 3), back);
    }

    #[test]
    fn an_answer_that_was_overtaken_by_an_election_is_no_other_incarnation() {
        let mut met = Met::default();
        met.meet(origin("a"), 0, 5);
        let (early, late) = (met.term(), met.term());
        assert_eq!(met.meet(origin("a"), late, 6), Incarnation::FIRST);
        assert_eq!(met.meet(origin("a"), early, 5), Incarnation::FIRST);
    }
}
