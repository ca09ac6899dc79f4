//! Locks: who was sure to hold them, by which tokens, and that whoever asks is let in.

mod turns;

use std::collections::{BTreeMap, BTreeSet};

use althing_core::Revision;
use althing_core::info::{LockMode, Released};

use super::{Rule, Violation, seconds, violation};
use crate::history::{Entry, History, LockStep, Nanos, What};

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for grants in grants(history).values() {
        violations.extend(clashes(grants));
        violations.extend(falling_tokens(grants));
    }
    violations.extend(untold_losses(history));
    violations.extend(left_behind(history));
    violations.extend(turns::check(history));
    violations
}

/// Names a request: who asked, and its number.
type Request<'a> = (&'a str, u64);

/// Returns the steps of requests, in the order of time.
fn steps(history: &History) -> impl Iterator<Item = (Request<'_>, &Entry, &LockStep)> {
    history.entries().iter().filter_map(|entry| match &entry.what {
        What::Lock { request, step } => Some(((entry.by.as_str(), *request), entry, step)),
        _ => None,
    })
}

/// A lock that was granted.
#[derive(Clone, Debug)]
struct Grant<'a> {
    by: &'a str,
    mode: LockMode,
    limit: Option<u32>,
    token: Revision,
    asked: Nanos,
    /// When its holder knew.
    granted: Nanos,
    /// From the first to the last moment at which its holder was sure, as far as that is known: after the first yes,
    /// and before the last one.
    sure: Option<(Nanos, Nanos)>,
}

impl Grant<'_> {
    fn excludes(&self, other: &Grant<'_>) -> bool {
        self.mode == LockMode::Exclusive || other.mode == LockMode::Exclusive
    }

    fn who(&self) -> String {
        format!("{} by token {} ({:?})", self.by, self.token, self.mode)
    }
}

/// Returns what was granted of each lock.
fn grants(history: &History) -> BTreeMap<&str, Vec<Grant<'_>>> {
    let mut asked: BTreeMap<Request<'_>, (Nanos, LockMode, Option<u32>)> = BTreeMap::new();
    let mut granted: BTreeMap<(&str, Request<'_>), Grant<'_>> = BTreeMap::new();
    for (request, entry, step) in steps(history) {
        match step {
            LockStep::Asked { mode, limit, .. } => drop(asked.insert(request, (entry.at, *mode, *limit))),
            LockStep::Granted { tokens } => {
                let Some((asked, mode, limit)) = asked.get(&request).copied() else { continue };
                for (lock, token) in tokens {
                    let (by, token, granted_at, sure) = (request.0, *token, entry.at, None);
                    let grant = Grant { by, mode, limit, token, asked, granted: granted_at, sure };
                    granted.insert((lock, request), grant);
                }
            }
            LockStep::Held { lock, from, until } => {
                if let Some(grant) = granted.get_mut(&(lock.as_str(), request)) {
                    let (first, last) = grant.sure.unwrap_or((*from, *until));
                    grant.sure = Some((first.min(*from), last.max(*until)));
                }
            }
            _ => {}
        }
    }
    let mut locks: BTreeMap<&str, Vec<Grant<'_>>> = BTreeMap::new();
    for ((lock, _), grant) in granted {
        locks.entry(lock).or_default().push(grant);
    }
    locks
}

/// Finds those who were sure at the same time and must not be, however the moments of each fell within what is known.
fn clashes(grants: &[Grant<'_>]) -> Vec<Violation> {
    let mut sure: Vec<_> = grants.iter().filter_map(|grant| grant.sure.map(|sure| (sure, grant))).collect();
    sure.retain(|((from, until), _)| from < until);
    sure.sort_by_key(|((from, _), _)| *from);
    let mut violations = Vec::new();
    let mut active: Vec<(Nanos, &Grant<'_>)> = Vec::new();
    for ((from, until), grant) in sure {
        active.retain(|(until, _)| *until > from);
        if let Some((until, other)) = active.iter().find(|(_, other)| grant.excludes(other)) {
            let what = format!(
                "{} was sure from {} on, {} until {}",
                grant.who(),
                seconds(from),
                other.who(),
                seconds(*until)
            );
            violations.push(violation(Rule::LockExclusion, from, what));
        } else if let Some(limit) = grant.limit.filter(|limit| active.len() >= *limit as usize) {
            let others: Vec<_> = active.iter().map(|(_, other)| other.who()).collect();
            let what = format!("{} was sure beside {others:?}: more than {limit}", grant.who());
            violations.push(violation(Rule::LockExclusion, from, what));
        }
        active.push((until, grant));
    }
    violations
}

/// Finds tokens that do not rise: from one holder to the next that excludes it, and from whoever knew of his grant to whoever
/// asked after that.
fn falling_tokens(grants: &[Grant<'_>]) -> Vec<Violation> {
    let mut violations = fallen_between_holders(grants);
    let mut known: Vec<_> = grants.iter().collect();
    let mut asked = known.clone();
    known.sort_by_key(|grant| grant.granted);
    asked.sort_by_key(|grant| grant.asked);
    let mut known = known.into_iter().peekable();
    let mut highest: Option<&Grant<'_>> = None;
    for grant in asked {
        while let Some(before) = known.next_if(|before| before.granted < grant.asked) {
            highest = higher(highest, before);
        }
        if let Some(before) = highest.filter(|before| before.token >= grant.token)
            && violations.iter().all(|found| found.at != grant.granted)
        {
            let what = format!("{} asked after {} was let in", grant.who(), before.who());
            violations.push(violation(Rule::LockOrder, grant.granted, what));
        }
    }
    violations
}

fn fallen_between_holders(grants: &[Grant<'_>]) -> Vec<Violation> {
    let mut sure: Vec<_> =
        grants.iter().filter_map(|grant| grant.sure.map(|(from, _)| (from, grant))).collect();
    sure.sort_by_key(|(from, _)| *from);
    let mut violations = Vec::new();
    let (mut highest, mut highest_alone) = (None, None);
    for (_, grant) in sure {
        let is_alone = grant.mode == LockMode::Exclusive;
        let before: Option<&Grant<'_>> = if is_alone { highest } else { highest_alone };
        if let Some(before) = before.filter(|before| before.token >= grant.token) {
            let what = format!("{} held after {}", grant.who(), before.who());
            violations.push(violation(Rule::LockOrder, grant.granted, what));
        }
        highest = higher(highest, grant);
        if is_alone {
            highest_alone = higher(highest_alone, grant);
        }
    }
    violations
}

fn higher<'a>(highest: Option<&'a Grant<'a>>, grant: &'a Grant<'a>) -> Option<&'a Grant<'a>> {
    match highest {
        Some(highest) if highest.token >= grant.token => Some(highest),
        _ => Some(grant),
    }
}

/// Finds losses that nobody was told of before he went on, what was lost and came back, and releases that found nothing to
/// release though the holder had been sure the moment before.
fn untold_losses(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut told: BTreeSet<(Request<'_>, &str)> = BTreeSet::new();
    let mut lost: BTreeMap<(Request<'_>, &str), Nanos> = BTreeMap::new();
    let mut sure: BTreeSet<(Request<'_>, &str)> = BTreeSet::new();
    for (request, entry, step) in steps(history) {
        let mut blame = |what: String| violations.push(violation(Rule::LockLoss, entry.at, what));
        match step {
            LockStep::Told { lock, .. } => drop(told.insert((request, lock))),
            LockStep::Lost { lock } => drop(lost.insert((request, lock), entry.at)),
            LockStep::Held { lock, until, .. } => {
                if let Some(since) = lost.get(&(request, lock.as_str())).filter(|since| *since < until) {
                    blame(format!("{} held {lock} again, which was lost at {}", entry.by, seconds(*since)));
                }
            }
            LockStep::Releasing { lock, sure: true } => drop(sure.insert((request, lock))),
            LockStep::Released { lock, released: Some(Released::Lost | Released::Gone) }
                if sure.contains(&(request, lock)) && !told.contains(&(request, lock)) =>
            {
                blame(format!("{} was sure to hold {lock}, released it, and had not held it", entry.by));
            }
            LockStep::Asked { .. } => {
                for ((_, lock), since) in lost.extract_if(.., |lost, _| lost.0.0 == request.0) {
                    if !told.iter().any(|(of, name)| of.0 == request.0 && *name == lock) {
                        blame(format!("{} was not told that it lost {lock} at {}", entry.by, seconds(since)));
                    }
                }
                told.retain(|(of, _)| of.0 != request.0);
                sure.retain(|(of, _)| of.0 != request.0);
            }
            _ => {}
        }
    }
    violations
}

fn left_behind(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    for entry in history.entries() {
        let What::LocksLeft { since, shown, records, .. } = &entry.what else { continue };
        if !shown.is_empty() || !records.is_empty() {
            let what = format!(
                "all are gone since {}, and {} shows {shown:?}; the store keeps {records:?}",
                seconds(*since),
                entry.by
            );
            violations.push(violation(Rule::Orphan, entry.at, what));
        }
    }
    violations
}

#[cfg(test)]
mod tests;
