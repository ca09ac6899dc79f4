//! That whoever asks for locks is let in: before long once all faults are over, and not after everybody else.

use std::collections::{BTreeMap, BTreeSet};

use super::{Request, Rule, Violation, seconds, violation};
use crate::history::{Entry, History, LockStep, Nanos, What};

/// How often one may be overtaken while all is well, for each client there is: requests reach the queue on several ways.
const OVERTAKEN_MAX: usize = 2;

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut violations = idle_clients(history);
    violations.extend(Quiet::default().watch(history));
    violations
}

/// Finds clients that were let in nowhere in good time after a healing.
fn idle_clients(history: &History) -> Vec<Violation> {
    let entries = history.entries();
    let mut violations = Vec::new();
    let mut there: BTreeSet<&str> = BTreeSet::new();
    for (index, entry) in entries.iter().enumerate() {
        match &entry.what {
            What::Lock { .. } => drop(there.insert(&entry.by)),
            What::Away { clients } => there.retain(|client| !is_among(client, clients)),
            What::Healed { within } => {
                let (due, idle) = (entry.at + within, idle(&entries[index + 1..], entry.at + within, &there));
                violations.extend(idle.into_iter().map(|client| {
                    let what =
                        format!("{client} was let in nowhere from the healing at {} on", seconds(entry.at));
                    violation(Rule::Progress, due, what)
                }));
            }
            _ => {}
        }
    }
    violations
}

/// Returns who of those that were there was not let in until `due`; nobody where another fault or the end came before.
fn idle<'a>(entries: &'a [Entry], due: Nanos, there: &BTreeSet<&'a str>) -> BTreeSet<&'a str> {
    let mut idle = there.clone();
    for entry in entries {
        if entry.at > due {
            return idle;
        }
        match &entry.what {
            What::Fault { .. } => break,
            What::Lock { step: LockStep::Granted { .. }, .. } => drop(idle.remove(entry.by.as_str())),
            What::Away { clients } => idle.retain(|client| !is_among(client, clients)),
            _ => {}
        }
    }
    BTreeSet::new()
}

fn is_among(client: &str, clients: &[String]) -> bool {
    clients.iter().any(|other| other == client)
}

/// What is known of the time since the last healing.
#[derive(Debug, Default)]
struct Quiet<'a> {
    clients: BTreeSet<&'a str>,
    /// Who was let in since: these have all they need to stand in a queue.
    warm: BTreeSet<&'a str>,
    waiting: BTreeMap<Request<'a>, Wait<'a>>,
}

#[derive(Debug)]
struct Wait<'a> {
    since: Nanos,
    /// How often others who asked later got each of its names.
    overtaken: BTreeMap<&'a str, usize>,
}

impl<'a> Quiet<'a> {
    fn watch(mut self, history: &'a History) -> Vec<Violation> {
        let mut violations = Vec::new();
        for entry in history.entries() {
            match &entry.what {
                What::Fault { .. } | What::Healed { .. } => {
                    self.warm.clear();
                    self.waiting.clear();
                }
                What::Away { clients } => {
                    self.waiting.retain(|(client, _), _| !is_among(client, clients));
                }
                What::Lock { request, step } => {
                    violations.extend(self.follow((&entry.by, *request), entry.at, step));
                }
                _ => {}
            }
        }
        violations
    }

    fn follow(&mut self, request: Request<'a>, at: Nanos, step: &'a LockStep) -> Option<Violation> {
        self.clients.insert(request.0);
        match step {
            LockStep::Asked { names, .. } if self.warm.contains(request.0) => {
                let overtaken = names.iter().map(|name| (name.as_str(), 0)).collect();
                self.waiting.insert(request, Wait { since: at, overtaken });
            }
            LockStep::Failed { .. } => drop(self.waiting.remove(&request)),
            LockStep::Granted { tokens } => {
                self.warm.insert(request.0);
                // One that asked before all was well overtakes nobody.
                let since = self.waiting.remove(&request)?.since;
                let names: Vec<_> = tokens.iter().map(|(name, _)| name.as_str()).collect();
                return self.overtake(since, at, &names);
            }
            _ => {}
        }
        None
    }

    /// Counts for all who asked before `since` that somebody got these names. Of those who were overtaken too often, returns
    /// one, and forgets it.
    fn overtake(&mut self, since: Nanos, at: Nanos, names: &[&str]) -> Option<Violation> {
        let most = OVERTAKEN_MAX * self.clients.len();
        for wait in self.waiting.values_mut().filter(|wait| wait.since < since) {
            for (name, times) in &mut wait.overtaken {
                *times += usize::from(names.contains(name));
            }
        }
        let starves = |wait: &Wait<'_>| wait.overtaken.values().all(|times| *times > most);
        let (request, wait) = self.waiting.extract_if(.., |_, wait| starves(wait)).next()?;
        let what = format!(
            "{} waits since {}, and others who asked later had it: {:?}",
            request.0,
            seconds(wait.since),
            wait.overtaken
        );
        Some(violation(Rule::Starvation, at, what))
    }
}
