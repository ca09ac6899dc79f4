//! Which promises a history breaks.
//!
//! Everything is compared with what somebody was told; nothing is known here of how hosts work. What a history leaves
//! open, such as an operation that was never answered, is never held against anybody.

mod holds;
mod lasting;
mod locks;
mod watching;

use std::fmt;

use crate::history::{History, Nanos};

/// A promise. DESIGN §4 says more about each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Tokens of a name rise in the order in which its terms begin.
    TokenOrder,
    /// No two members are sure at the same time that they lead.
    Exclusion,
    /// A term has one leader.
    OneLeader,
    /// A stream begins with a snapshot and goes on in the order of revisions.
    WatchOrder,
    /// A stream tells an event once.
    WatchOnce,
    /// A stream leaves nothing out, unless it shows a snapshot again.
    WatchGap,
    /// What was acknowledged is there, and what was refused is not.
    Acknowledged,
    /// When all faults are over, somebody leads before long, and whoever asks for locks is let in.
    Progress,
    /// Whoever is gone is no longer shown after a lease, nor what he locked.
    Orphan,
    /// The token of a lock is higher than that of whoever held it before and excludes it, and than that of whoever had it
    /// before it was asked for.
    LockOrder,
    /// No two are sure at the same time to hold locks that exclude each other, and no more than there are permits.
    LockExclusion,
    /// Whoever loses a lock is told so, and does not get it back by itself.
    LockLoss,
    /// While nothing is wrong, nobody is overtaken for ever by others who ask later.
    Starvation,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub rule: Rule,
    /// When it was seen to be broken.
    pub at: Nanos,
    /// By what.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:.6} s: {}", self.rule, self.at as f64 / 1e9, self.what)
    }
}

/// Returns the promises that `history` breaks, in the order of time.
pub fn check(history: &History) -> Vec<Violation> {
    let mut violations = holds::check(history);
    violations.extend(watching::check(history));
    violations.extend(lasting::check(history));
    violations.extend(locks::check(history));
    violations.sort_by_key(|violation| violation.at);
    violations
}

fn violation(rule: Rule, at: Nanos, what: String) -> Violation {
    Violation { rule, at, what }
}

/// Says when something was, for people.
fn seconds(at: Nanos) -> String {
    format!("{:.6} s", at as f64 / 1e9)
}

#[cfg(test)]
mod tests;
