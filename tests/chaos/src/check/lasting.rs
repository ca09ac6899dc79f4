//! What must be there in the end, what must not, and that somebody leads.

use std::collections::{BTreeMap, BTreeSet};

use super::{Rule, Violation, seconds, violation};
use crate::history::{Ask, Entry, History, Nanos, Outcome, What};

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut violations = idle_groups(history);
    let mut known = Known::default();
    for entry in history.entries() {
        match &entry.what {
            What::Began { operation, ask } => known.begin(entry, *operation, ask),
            What::Ended { operation, outcome } => known.end(entry, *operation, *outcome),
            What::Joined { group, member, .. } => {
                known.stays.insert((group, member), Stay::In);
            }
            What::Gone { group, member } => {
                known.stays.insert((group, member), Stay::Out(entry.at));
            }
            What::Final { groups, group, lease } => {
                let names: BTreeSet<&str> = groups.iter().map(String::as_str).collect();
                violations.extend(known.wrong_groups(entry, &names));
                let ids = group.members.iter().map(|member| member.id.as_str()).collect();
                violations.extend(known.wrong_members(entry, &group.name, &ids, *lease));
            }
            _ => {}
        }
    }
    violations
}

/// What is known of a member from its own side.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stay {
    /// It asked to join, and does not know.
    Open,
    In,
    Out(Nanos),
}

/// What is known of a group from the side of whoever made it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Made {
    Open,
    There,
    Not,
}

#[derive(Debug, Default)]
struct Known<'a> {
    asked: BTreeMap<(&'a str, u64), &'a Ask>,
    groups: BTreeMap<&'a str, Made>,
    stays: BTreeMap<(&'a str, &'a str), Stay>,
}

impl<'a> Known<'a> {
    fn begin(&mut self, entry: &'a Entry, operation: u64, ask: &'a Ask) {
        self.asked.insert((&entry.by, operation), ask);
        match ask {
            Ask::Create(group) | Ask::Delete(group) => drop(self.groups.insert(group, Made::Open)),
            Ask::Join { group, member } => drop(self.stays.insert((group, member), Stay::Open)),
        }
    }

    fn end(&mut self, entry: &'a Entry, operation: u64, outcome: Outcome) {
        let ask = self.asked.remove(&(entry.by.as_str(), operation));
        let made = match (ask, outcome) {
            (Some(Ask::Create(group)), Outcome::Done) => (group, Made::There),
            (Some(Ask::Create(group)), Outcome::Refused) | (Some(Ask::Delete(group)), Outcome::Done) => {
                (group, Made::Not)
            }
            // A join is known by `Joined` and `Gone`; what a refused deletion found is not known here.
            _ => return,
        };
        self.groups.insert(made.0, made.1);
    }

    fn wrong_groups(&self, entry: &Entry, shown: &BTreeSet<&str>) -> Vec<Violation> {
        let wrong = self.groups.iter().filter_map(|(group, made)| match (made, shown.contains(group)) {
            (Made::There, false) => {
                Some(format!("the group {group} was created, and {} does not show it", entry.by))
            }
            (Made::Not, true) => {
                Some(format!("the group {group} was refused or deleted, and {} shows it", entry.by))
            }
            _ => None,
        });
        wrong.map(|what| violation(Rule::Acknowledged, entry.at, what)).collect()
    }

    fn wrong_members(
        &self,
        entry: &Entry,
        group: &str,
        shown: &BTreeSet<&str>,
        lease: Nanos,
    ) -> Vec<Violation> {
        let stays = self.stays.iter().filter(|((of, _), _)| *of == group);
        let lost = stays.filter(|((_, member), stay)| **stay == Stay::In && !shown.contains(member));
        let lost = lost.map(|((_, member), _)| {
            let what = format!("{member} is in {group}, and {} does not show it", entry.by);
            violation(Rule::Acknowledged, entry.at, what)
        });
        let orphans = shown.iter().filter_map(|member| {
            let why = match self.stays.get(&(group, *member)) {
                None => "whom nobody has seen join".to_owned(),
                Some(Stay::Out(since)) if since + lease < entry.at => {
                    format!("gone since {}", seconds(*since))
                }
                Some(_) => return None,
            };
            Some(violation(Rule::Orphan, entry.at, format!("{} shows {member} in {group}, {why}", entry.by)))
        });
        lost.chain(orphans).collect()
    }
}

/// Finds groups that have a member, and in which nobody was sure to lead in good time after a healing.
fn idle_groups(history: &History) -> Vec<Violation> {
    let entries = history.entries();
    let end = entries.last().map_or(0, |entry| entry.at);
    let mut violations = Vec::new();
    let mut groups = BTreeSet::new();
    for (index, entry) in entries.iter().enumerate() {
        match &entry.what {
            What::Joined { group, .. } => drop(groups.insert(group.as_str())),
            What::Healed { within } => {
                let due = entry.at + within;
                let next = entries[index + 1..].iter().find(|entry| matches!(entry.what, What::Fault { .. }));
                // It was cut short: there was no time to make progress in.
                if next.is_some_and(|fault| fault.at < due) || end < due {
                    continue;
                }
                let idle = groups.iter().filter(|group| !is_held(history, group, entry.at, due));
                violations.extend(idle.map(|group| {
                    let what = format!("nobody led {group} from the healing at {} on", seconds(entry.at));
                    violation(Rule::Progress, due, what)
                }));
            }
            _ => {}
        }
    }
    violations
}

/// Tells whether somebody was sure to lead at some moment from `from` to `until`.
fn is_held(history: &History, name: &str, begin: Nanos, end: Nanos) -> bool {
    history.entries().iter().any(|entry| match &entry.what {
        What::Held { group, from, until, .. } => group == name && *until >= begin && *from <= end,
        _ => false,
    })
}
