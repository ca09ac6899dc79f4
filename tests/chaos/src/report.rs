//! What came of a scenario, for people.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use althing_core::info::Event;

use crate::check::Violation;
use crate::history::{Entry, History, LockStep, What};
use crate::scenarios::{Plan, Scenario};

/// How a fault that kills the host of the leader begins: from there the time is taken until the next one is told.
pub(crate) const HOST_KILLED: &str = "kill -9 of the leader's host, ";
/// What a take-over may take beyond the lease and a tick of the server's.
const TAKE_OVER: Duration = Duration::from_millis(600);

/// What came of a scenario.
#[derive(Clone, Debug)]
pub struct Report {
    /// The backend and the scenario.
    pub name: String,
    /// The seed.
    pub seed: u64,
    /// The faults, in order.
    pub done: Vec<String>,
    /// Operations that were asked for.
    pub operations: usize,
    /// Terms that began.
    pub terms: usize,
    /// Events that subscribers were told of.
    pub events: usize,
    /// Snapshots that subscribers were shown in the middle of a stream, because events had been missed.
    pub resyncs: usize,
    /// Requests for locks that were granted.
    pub grants: usize,
    /// Spans in which a holder was sure to lead, or to have locked something.
    pub holds: usize,
    /// From the death of the leader's host until a subscriber was told of the next leader.
    pub take_overs: Vec<Duration>,
    /// How long that may take: the lease, a tick of the server's, and what the election needs.
    pub take_over_max: Duration,
    /// The promises that were broken.
    pub violations: Vec<Violation>,
    /// Why it could not be played to its end.
    pub failure: Option<String>,
    /// Where all that was seen is kept, if something was wrong.
    pub kept: Option<PathBuf>,
}

impl Report {
    pub(crate) fn new(
        plan: &Plan,
        scenario: &Scenario,
        history: &History,
        violations: Vec<Violation>,
    ) -> Report {
        let count =
            |wanted: fn(&What) -> bool| history.entries().iter().filter(|entry| wanted(&entry.what)).count();
        let terms: BTreeSet<_> = history.entries().iter().filter_map(term).collect();
        Report {
            name: format!("{}, {}", plan.backend.name(), scenario.name),
            seed: plan.seed,
            take_over_max: scenario.setting.lease + scenario.setting.tick + TAKE_OVER,
            done: Vec::new(),
            operations: count(is_operation),
            terms: terms.len(),
            events: count(|what| matches!(what, What::Watched { .. })),
            resyncs: resyncs(history),
            grants: count(|what| matches!(what, What::Lock { step: LockStep::Granted { .. }, .. })),
            holds: count(is_hold),
            take_overs: take_overs(history),
            violations,
            failure: None,
            kept: None,
        }
    }

    /// Tells whether all promises were kept, to the end.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.failure.is_none()
    }
}

fn is_hold(what: &What) -> bool {
    matches!(what, What::Held { .. } | What::Lock { step: LockStep::Held { .. }, .. })
}

fn is_operation(what: &What) -> bool {
    matches!(what, What::Began { .. } | What::Lock { step: LockStep::Asked { .. }, .. })
}

fn term(entry: &Entry) -> Option<(&str, althing_core::Revision)> {
    match &entry.what {
        What::Watched { group, event: Event::Elected { leader, .. } } => Some((group, leader.term)),
        _ => None,
    }
}

fn resyncs(history: &History) -> usize {
    let mut streams = BTreeSet::new();
    let snapshots = history.entries().iter().filter(|entry| {
        matches!(&entry.what, What::Watched { event: Event::Snapshot { .. }, .. })
            && !streams.insert(&entry.by)
    });
    snapshots.count()
}

fn take_overs(history: &History) -> Vec<Duration> {
    let entries = history.entries();
    let killed = entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| matches!(&entry.what, What::Fault { fault } if fault.starts_with(HOST_KILLED)));
    let told = |(index, death): (usize, &Entry)| {
        let next = entries[index..].iter().find(|entry| term(entry).is_some())?;
        Some(Duration::from_nanos(next.at - death.at))
    };
    killed.filter_map(told).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, seed {}", self.name, self.seed)?;
        writeln!(
            f,
            "  {} faults, {} operations, {} terms, {} locks granted, {} events told, {} resyncs, {} spans of sure holds, {} violations",
            self.done.len(),
            self.operations,
            self.terms,
            self.grants,
            self.events,
            self.resyncs,
            self.holds,
            self.violations.len()
        )?;
        if let Some(longest) = self.take_overs.iter().max() {
            writeln!(
                f,
                "  host killed → next leader told: {} ms at most of {}; lease, tick and 0.6 s are {:?}",
                longest.as_millis(),
                self.take_overs.len(),
                self.take_over_max
            )?;
        }
        for violation in &self.violations {
            writeln!(f, "  VIOLATION {violation}")?;
        }
        if let Some(failure) = &self.failure {
            writeln!(f, "  FAILED after {:?}: {failure}", self.done.last())?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "  all that was seen is in {}", kept.display())?;
        }
        Ok(())
    }
}
