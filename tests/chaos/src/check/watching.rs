//! What subscribers were told: in order, once, and without gaps.

use std::collections::{BTreeMap, BTreeSet};

use althing_core::Revision;
use althing_core::info::{Event, GroupInfo};

use super::{Rule, Violation, violation};
use crate::history::{Entry, History, Nanos, What};

/// Names an event, the same for all who are told of it.
type Name = (Revision, String);

/// What a subscriber was told from one snapshot on.
#[derive(Debug)]
struct Stretch<'a> {
    by: &'a str,
    group: &'a str,
    /// The revision of the snapshot: everything after it must be told.
    from: Revision,
    /// The revision of the latest event.
    to: Revision,
    /// When that was told.
    at: Nanos,
    told: BTreeSet<Name>,
    view: View,
}

/// The group as a subscriber can tell it from what it was told.
#[derive(Clone, Debug, Default, PartialEq)]
struct View {
    members: BTreeMap<String, String>,
    term: Option<Revision>,
}

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut stretches: Vec<Stretch<'_>> = Vec::new();
    // The latest stretch of each subscriber.
    let mut open: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for entry in history.entries() {
        match &entry.what {
            What::Watched { group, event: Event::Snapshot { group: shown } } => {
                let former = open.insert((&entry.by, group), stretches.len()).map(|index| &stretches[index]);
                violations.extend(former.and_then(|former| fallen_back(former, entry, shown.revision)));
                stretches.push(Stretch::begin(entry, group, shown));
            }
            What::Watched { group, event } => match open.get(&(entry.by.as_str(), group.as_str())) {
                Some(index) => violations.extend(stretches[*index].hear(entry, event)),
                None => {
                    let what = format!("{} was told of {} before any snapshot", entry.by, name(event).1);
                    violations.push(violation(Rule::WatchOrder, entry.at, what));
                }
            },
            What::Final { group, .. } => {
                violations.extend(other_views(entry, group, open.values().map(|index| &stretches[*index])));
            }
            _ => {}
        }
    }
    violations.extend(gaps(&stretches));
    violations
}

impl<'a> Stretch<'a> {
    fn begin(entry: &'a Entry, group: &'a str, shown: &GroupInfo) -> Self {
        Stretch {
            by: &entry.by,
            group,
            from: shown.revision,
            to: shown.revision,
            at: entry.at,
            told: BTreeSet::new(),
            view: View::of(shown),
        }
    }

    fn hear(&mut self, entry: &Entry, event: &Event) -> Option<Violation> {
        let name = name(event);
        let broken = |rule, what: String| {
            Some(violation(
                rule,
                entry.at,
                format!("{} was told of {} at {:?} {what}", entry.by, name.1, name.0),
            ))
        };
        if !self.told.insert(name.clone()) {
            return broken(Rule::WatchOnce, "twice".into());
        }
        if name.0 < self.to || name.0 == self.from {
            return broken(Rule::WatchOrder, format!("after {:?}", self.to));
        }
        (self.to, self.at) = (name.0, entry.at);
        match self.view.take(event) {
            Ok(()) => None,
            Err(what) => broken(Rule::WatchGap, what),
        }
    }
}

impl View {
    fn of(group: &GroupInfo) -> Self {
        let members = group.members.iter().map(|member| (member.id.clone(), member.incarnation.clone()));
        View { members: members.collect(), term: group.leader.as_ref().map(|leader| leader.term) }
    }

    /// Takes in an event; fails when it cannot follow what was told before.
    fn take(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Joined { member, .. } => {
                match self.members.insert(member.id.clone(), member.incarnation.clone()) {
                    Some(former) => Err(format!("while it is in as {former}")),
                    None => Ok(()),
                }
            }
            Event::Left { id, incarnation, .. } => match self.members.remove(id) {
                Some(former) if former == *incarnation => Ok(()),
                former => Err(format!("while it is in as {former:?}")),
            },
            Event::Updated { member, .. } => match self.members.get(&member.id) {
                Some(stay) if *stay == member.incarnation => Ok(()),
                stay => Err(format!("while it is in as {stay:?}")),
            },
            Event::Elected { leader, .. } => {
                self.term = Some(leader.term);
                Ok(())
            }
            Event::Vacated { term, .. } => match self.term.take() {
                Some(former) if former == *term => Ok(()),
                former => Err(format!("while the term is {former:?}")),
            },
            Event::Snapshot { .. }
            | Event::Bound { .. }
            | Event::Partitioned { .. }
            | Event::Deleted { .. } => Ok(()),
        }
    }
}

fn fallen_back(former: &Stretch<'_>, entry: &Entry, shown: Revision) -> Option<Violation> {
    (shown < former.to).then(|| {
        let what = format!("{} was shown a snapshot of {shown:?} after {:?}", entry.by, former.to);
        violation(Rule::WatchOrder, entry.at, what)
    })
}

/// Finds events that somebody was told of and that a stretch, though it went on, leaves out.
fn gaps(stretches: &[Stretch<'_>]) -> Vec<Violation> {
    let mut all: BTreeMap<&str, BTreeSet<&Name>> = BTreeMap::new();
    for stretch in stretches {
        all.entry(stretch.group).or_default().extend(&stretch.told);
    }
    let gap = |stretch: &Stretch<'_>| {
        // Of the last revision a stream may have told a part when it ended.
        let inside = |name: &&&Name| name.0 > stretch.from && name.0 < stretch.to;
        let missing = all[stretch.group].iter().filter(inside).find(|name| !stretch.told.contains(**name))?;
        let what = format!(
            "{} was told all from {:?} to {:?} but for {} at {:?}",
            stretch.by, stretch.from, stretch.to, missing.1, missing.0
        );
        Some(violation(Rule::WatchGap, stretch.at, what))
    };
    stretches.iter().filter_map(gap).collect()
}

/// Compares how a host shows a group in the end with what its subscribers must take it to be. One whose stream ended
/// earlier is behind, and left out.
fn other_views<'a>(
    entry: &Entry,
    group: &GroupInfo,
    open: impl Iterator<Item = &'a Stretch<'a>>,
) -> Vec<Violation> {
    let open: Vec<_> = open.filter(|stretch| stretch.group == group.name).collect();
    let latest = open.iter().map(|stretch| stretch.to).max().unwrap_or_default();
    let shown = View::of(group);
    let other = open.iter().filter(|stretch| stretch.to == latest && stretch.view != shown);
    let told = other.map(|stretch| {
        let what = format!(
            "{} must take {} to be {:?}, and {} shows {shown:?}",
            stretch.by, group.name, stretch.view, entry.by
        );
        violation(Rule::WatchGap, entry.at, what)
    });
    told.collect()
}

fn name(event: &Event) -> Name {
    match event {
        Event::Snapshot { group } => (group.revision, "a snapshot".into()),
        Event::Joined { member, revision } => {
            (*revision, format!("the joining of {} as {}", member.id, member.incarnation))
        }
        Event::Updated { member, revision } => {
            (*revision, format!("the change of {} as {}", member.id, member.incarnation))
        }
        Event::Left { id, incarnation, revision, .. } => {
            (*revision, format!("the leaving of {id} as {incarnation}"))
        }
        Event::Elected { leader, revision } => {
            (*revision, format!("the election of {} in {}", leader.member, leader.term))
        }
        Event::Vacated { member, term, revision } => (*revision, format!("the end of {member} in {term}")),
        Event::Bound { epoch, revision, .. } => (*revision, format!("the binding of {epoch}")),
        Event::Partitioned { partition, revision } => {
            let (version, pending) = (partition.version, &partition.pending);
            (*revision, format!("the shares of version {version}, with {pending:?} pending"))
        }
        Event::Deleted { revision } => (*revision, "the deletion".into()),
    }
}
