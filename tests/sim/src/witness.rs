//! A witness of elections: what happened in the store, what hosts believed, and whether the promises held.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use althing_core::info::{Event, LeaderInfo};
use althing_core::{Clock, Revision, SystemClock};
use althing_runtime::Runtime;
use tokio::task::JoinHandle;

use crate::eventually;

/// One term as the store ordered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Who led.
    pub member: String,
    /// Through which host.
    pub host: String,
    /// The token.
    pub term: Revision,
}

/// Watches a group from one host and the beliefs of all, until it is asked for its verdict.
#[derive(Debug)]
pub struct Witness {
    observer: Runtime,
    group: String,
    terms: Arc<Mutex<Vec<Term>>>,
    overlaps: Arc<Mutex<Vec<String>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Witness {
    /// Begins to watch. `observer` should be a host that no fault is injected on.
    pub fn begin(observer: &Runtime, hosts: &[Runtime], group: &str) -> Witness {
        let (terms, overlaps) = (Arc::default(), Arc::default());
        let tasks = vec![
            tokio::spawn(follow(observer.clone(), group.to_owned(), Arc::clone(&terms))),
            tokio::spawn(compare(hosts.to_vec(), group.to_owned(), terms.clone(), Arc::clone(&overlaps))),
        ];
        Witness { observer: observer.clone(), group: group.to_owned(), terms, overlaps, tasks }
    }

    /// Returns the terms so far.
    pub fn terms(&self) -> Vec<Term> {
        self.terms.lock().unwrap().clone()
    }

    /// Ends the watch, once it has heard of the term that stands, and fails where tokens did not rise, or where
    /// two hosts held at once.
    pub async fn attest(self) -> Vec<Term> {
        let standing = || self.observer.group(&self.group).ok()?.leader.map(|leader| leader.term);
        let heard = || standing().is_none_or(|term| self.terms().iter().any(|known| known.term >= term));
        eventually("the witness hears of the last term", heard).await;
        self.tasks.iter().for_each(JoinHandle::abort);
        let terms = self.terms();
        if let Some(wrong) = disorder(&terms) {
            panic!("{}: {wrong}", self.group);
        }
        let overlaps = self.overlaps.lock().unwrap();
        assert!(overlaps.is_empty(), "{}: two holders at once: {overlaps:?}", self.group);
        terms
    }
}

/// Returns what is wrong with the order of terms: a token that did not rise.
fn disorder(terms: &[Term]) -> Option<String> {
    terms.windows(2).find_map(|pair| match pair {
        [first, second] if first.term >= second.term => Some(format!("{second:?} follows {first:?}")),
        _ => None,
    })
}

async fn follow(observer: Runtime, group: String, terms: Arc<Mutex<Vec<Term>>>) {
    let mut events = observer.watch_group(&group).unwrap();
    let add = |leader: LeaderInfo| {
        let term = Term { member: leader.member, host: leader.host, term: leader.term };
        let mut terms = terms.lock().unwrap();
        if terms.last() != Some(&term) {
            terms.push(term);
        }
    };
    while let Some(event) = events.next().await {
        match event {
            Event::Snapshot { group } => group.leader.into_iter().for_each(add),
            Event::Elected { leader, .. } => add(leader),
            _ => {}
        }
    }
}

/// Asks all hosts again and again. One that says yes before *and* after another said yes held at the same time.
async fn compare(
    hosts: Vec<Runtime>,
    group: String,
    terms: Arc<Mutex<Vec<Term>>>,
    overlaps: Arc<Mutex<Vec<String>>>,
) {
    let clock = SystemClock;
    let holder = |term: Revision| hosts.iter().position(|host| host.holds(&group, term));
    loop {
        let known: Vec<Revision> = terms.lock().unwrap().iter().rev().take(4).map(|term| term.term).collect();
        for (index, first) in known.iter().enumerate() {
            for second in &known[index + 1..] {
                let before = holder(*first);
                let between = holder(*second);
                let after = holder(*first);
                if let (Some(one), Some(other), true) = (before, between, before == after) {
                    overlaps.lock().unwrap().push(format!("{first} on {one}, {second} on {other}"));
                }
            }
        }
        clock.sleep(Duration::from_micros(500)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(member: &str, term: u64) -> Term {
        Term { member: member.into(), host: "h".into(), term: Revision(term) }
    }

    #[test]
    fn finds_a_token_that_does_not_rise() {
        assert_eq!(disorder(&[term("a", 1), term("b", 3), term("a", 9)]), None);
        assert!(disorder(&[term("a", 3), term("b", 3)]).is_some());
        assert!(disorder(&[term("a", 3), term("b", 2)]).is_some());
    }
}
