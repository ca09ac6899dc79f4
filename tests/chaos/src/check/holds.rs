//! Terms and who is sure to hold them.

use std::collections::{BTreeMap, BTreeSet};

use althing_core::Revision;
use althing_core::info::Event;

use super::{Rule, Violation, seconds, violation};
use crate::history::{History, Nanos, What};

/// From the first to the last moment at which a member was sure to lead in a term. The first yes fell before `from`, the
/// last one after `until`; a single yes fell somewhere between `until` and `from`.
#[derive(Clone, Debug)]
struct Span<'a> {
    member: &'a str,
    term: Revision,
    from: Nanos,
    until: Nanos,
}

impl Span<'_> {
    /// Tells whether both said yes within the time of the other one, however the yes of each fell within what is known.
    fn overlaps(&self, other: &Span<'_>) -> bool {
        self.from < other.until && other.from < self.until
    }
}

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for spans in spans(history).values() {
        violations.extend(clashes(spans));
    }
    violations.extend(two_leaders(history));
    violations.extend(falling_tokens(history));
    violations
}

/// Returns the spans of each group in the order of time. What a member held, lost and got back under the same token is one
/// span: nobody else may have held meanwhile.
fn spans(history: &History) -> BTreeMap<&str, Vec<Span<'_>>> {
    let mut spans: BTreeMap<(&str, Revision, &str), (Nanos, Nanos)> = BTreeMap::new();
    for entry in history.entries() {
        if let What::Held { group, member, term, from, until } = &entry.what {
            let span = spans.entry((group, *term, member)).or_insert((*from, *until));
            *span = (span.0.min(*from), span.1.max(*until));
        }
    }
    let mut groups: BTreeMap<&str, Vec<Span<'_>>> = BTreeMap::new();
    for ((group, term, member), (from, until)) in spans {
        groups.entry(group).or_default().push(Span { member, term, from, until });
    }
    groups.values_mut().for_each(|spans| spans.sort_by_key(|span| span.from));
    groups
}

fn clashes(spans: &[Span<'_>]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (index, later) in spans.iter().enumerate() {
        let earlier = &spans[..index];
        if let Some(other) = earlier.iter().find(|other| other.overlaps(later)) {
            let what = format!(
                "{} held in term {} until {}, {} held in term {} from {}",
                other.member,
                other.term,
                seconds(other.until),
                later.member,
                later.term,
                seconds(later.from)
            );
            violations.push(violation(Rule::Exclusion, later.from, what));
        } else if let Some(other) = earlier.iter().find(|other| other.term > later.term) {
            let what = format!(
                "{} held in term {} after {} had held in term {}",
                later.member, later.term, other.member, other.term
            );
            violations.push(violation(Rule::TokenOrder, later.from, what));
        }
    }
    violations
}

fn two_leaders(history: &History) -> Vec<Violation> {
    let mut leaders: BTreeMap<(&str, Revision), BTreeSet<&str>> = BTreeMap::new();
    let mut violations = Vec::new();
    for entry in history.entries() {
        let Some((group, term, member)) = leader(&entry.what) else { continue };
        let known = leaders.entry((group, term)).or_default();
        if known.insert(member) && known.len() > 1 {
            let what = format!("term {term} of {group} has the leaders {known:?}");
            violations.push(violation(Rule::OneLeader, entry.at, what));
        }
    }
    violations
}

fn leader(what: &What) -> Option<(&str, Revision, &str)> {
    match what {
        What::TermBegan { group, member, term } | What::Held { group, member, term, .. } => {
            Some((group, *term, member))
        }
        What::Watched { group, event: Event::Elected { leader, .. } } => {
            Some((group, leader.term, &leader.member))
        }
        What::Watched { group: name, event: Event::Snapshot { group } } => {
            group.leader.as_ref().map(|leader| (name.as_str(), leader.term, leader.member.as_str()))
        }
        _ => None,
    }
}

/// Finds terms that were told to one member, or to one subscriber, in another order than that of their tokens.
fn falling_tokens(history: &History) -> Vec<Violation> {
    let mut latest: BTreeMap<(&str, &str), Revision> = BTreeMap::new();
    let mut violations = Vec::new();
    for entry in history.entries() {
        let is_told_again = matches!(
            &entry.what,
            What::TermBegan { .. } | What::Watched { event: Event::Snapshot { .. }, .. }
        );
        if matches!(entry.what, What::Held { .. }) {
            continue;
        }
        let Some((group, term, member)) = leader(&entry.what) else { continue };
        let latest = latest.entry((&entry.by, group)).or_default();
        if term < *latest || (term == *latest && !is_told_again) {
            let what = format!("{} was told of term {term} of {member} after that of {latest}", entry.by);
            violations.push(violation(Rule::TokenOrder, entry.at, what));
        }
        *latest = term.max(*latest);
    }
    violations
}
