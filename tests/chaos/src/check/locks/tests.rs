//! Histories of locks that must be refused, each for its reason, and good ones beside them.

use althing_core::Revision;
use althing_core::info::{LockMode, LockSummary, Released};

use crate::check::{Rule, check};
use crate::history::{Entry, History, LockStep, What};
use LockMode::{Exclusive, Permit, Shared};

const LOCK: &str = "db";

/// Checks that a history of (moment, who, what) breaks these rules and no others.
#[track_caller]
fn refuses(rules: &[Rule], entries: Vec<(u64, &str, What)>) {
    let entries = entries.into_iter().map(|(at, by, what)| Entry { at, by: by.into(), what });
    let violations = check(&History::new(entries.collect()));
    let broken: Vec<Rule> = violations.iter().map(|violation| violation.rule).collect();
    assert_eq!(broken, rules, "{violations:#?}");
}

#[track_caller]
fn accepts(entries: Vec<(u64, &str, What)>) {
    refuses(&[], entries);
}

fn step(request: u64, step: LockStep) -> What {
    What::Lock { request, step }
}

fn asked(request: u64, names: &[&str], mode: LockMode) -> What {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let limit = (mode == Permit).then_some(2);
    step(request, LockStep::Asked { names, mode, limit, wait_ms: None })
}

fn granted(request: u64, token: u64) -> What {
    step(request, LockStep::Granted { tokens: vec![(LOCK.into(), Revision(token))] })
}

fn held(request: u64, from: u64, until: u64) -> What {
    step(request, LockStep::Held { lock: LOCK.into(), from, until })
}

fn lost(request: u64) -> What {
    step(request, LockStep::Lost { lock: LOCK.into() })
}

fn told(request: u64) -> What {
    step(request, LockStep::Told { lock: LOCK.into(), why: "the lease ran out".into() })
}

fn releasing(request: u64, sure: bool) -> What {
    step(request, LockStep::Releasing { lock: LOCK.into(), sure })
}

fn released(request: u64, released: Option<Released>) -> What {
    step(request, LockStep::Released { lock: LOCK.into(), released })
}

fn away(clients: &[&str]) -> What {
    What::Away { clients: clients.iter().map(|client| (*client).to_owned()).collect() }
}

fn fault() -> What {
    What::Fault { fault: "kill -9".into() }
}

/// One who asks, is let in at once, and is sure for a while.
fn stay(
    by: &'static str,
    mode: LockMode,
    token: u64,
    [ask, from, until]: [u64; 3],
) -> Vec<(u64, &'static str, What)> {
    vec![
        (ask, by, asked(token, &[LOCK], mode)),
        (from - 1, by, granted(token, token)),
        (until, by, held(token, from, until)),
    ]
}

fn all(stays: &[Vec<(u64, &'static str, What)>]) -> Vec<(u64, &'static str, What)> {
    stays.concat()
}

#[test]
fn accepts_holders_that_follow_each_other_with_rising_tokens() {
    accepts(all(&[
        stay("a", Exclusive, 3, [1, 10, 20]),
        stay("b", Exclusive, 7, [2, 20, 30]),
        stay("c", Exclusive, 9, [3, 31, 40]),
    ]));
}

#[test]
fn refuses_two_who_are_sure_at_the_same_time() {
    for (mode, other) in [(Exclusive, Exclusive), (Exclusive, Shared), (Shared, Exclusive)] {
        refuses(
            &[Rule::LockExclusion],
            all(&[stay("a", mode, 3, [1, 10, 20]), stay("b", other, 7, [2, 19, 30])]),
        );
    }
    // The one that lies within the time of another, and is found past one that does not.
    refuses(
        &[Rule::LockExclusion],
        all(&[
            stay("a", Exclusive, 3, [1, 10, 50]),
            stay("b", Shared, 8, [2, 60, 90]),
            stay("c", Shared, 8, [3, 62, 64]),
            stay("d", Exclusive, 9, [3, 70, 80]),
        ]),
    );
}

#[test]
fn who_was_sure_once_was_so_until_he_was_so_for_the_last_time() {
    let mut a = stay("a", Exclusive, 3, [1, 10, 12]);
    a.push((40, "a", held(3, 38, 40)));
    refuses(&[Rule::LockExclusion], all(&[a, stay("b", Exclusive, 7, [2, 20, 22])]));
}

#[test]
fn a_single_yes_within_a_moment_that_is_not_known_clashes_with_nobody() {
    accepts(all(&[stay("a", Exclusive, 3, [1, 10, 20]), stay("b", Exclusive, 7, [2, 19, 18])]));
}

#[test]
fn accepts_readers_together_and_refuses_more_than_there_are_permits() {
    for (mode, rules) in [(Shared, &[][..]), (Permit, &[Rule::LockExclusion])] {
        refuses(
            rules,
            all(&[
                stay("a", mode, 3, [1, 10, 20]),
                stay("b", mode, 3, [2, 12, 22]),
                stay("c", mode, 7, [3, 19, 30]),
            ]),
        );
    }
    accepts(all(&[
        stay("a", Permit, 3, [1, 10, 20]),
        stay("b", Permit, 3, [2, 12, 22]),
        stay("c", Permit, 7, [3, 20, 30]),
    ]));
}

#[test]
fn refuses_a_token_that_does_not_rise_from_holder_to_holder() {
    for token in [2, 3] {
        let mut second = stay("b", Exclusive, token, [2, 20, 30]);
        second[0].0 = 2;
        refuses(&[Rule::LockOrder], all(&[stay("a", Exclusive, 3, [1, 10, 19]), second]));
    }
    // A writer after readers, and a reader after a writer; readers among themselves may come in any order.
    refuses(
        &[Rule::LockOrder],
        all(&[stay("a", Shared, 9, [1, 10, 19]), stay("b", Exclusive, 7, [2, 20, 30])]),
    );
    refuses(
        &[Rule::LockOrder],
        all(&[stay("a", Exclusive, 9, [1, 10, 19]), stay("b", Shared, 7, [2, 20, 30])]),
    );
    accepts(all(&[stay("a", Shared, 9, [1, 10, 19]), stay("b", Shared, 7, [2, 20, 30])]));
}

#[test]
fn refuses_a_token_that_does_not_rise_from_who_was_let_in_to_who_asked_later() {
    for mode in [Exclusive, Shared, Permit] {
        for token in [3, 9] {
            let first = vec![(1, "a", asked(1, &[LOCK], mode)), (5, "a", granted(1, 9))];
            let second = vec![(6, "b", asked(2, &[LOCK], mode)), (8, "b", granted(2, token))];
            refuses(&[Rule::LockOrder], all(&[first, second]));
        }
    }
}

#[test]
fn refuses_a_loss_that_nobody_was_told_of() {
    let lost_and_on = |told: &[(u64, &'static str, What)]| {
        let mut entries = stay("a", Exclusive, 3, [1, 10, 20]);
        entries.push((22, "a", lost(3)));
        entries.extend_from_slice(told);
        entries.push((30, "a", asked(4, &["other"], Exclusive)));
        entries
    };
    refuses(&[Rule::LockLoss], lost_and_on(&[]));
    refuses(&[Rule::LockLoss], lost_and_on(&[(25, "b", told(3))]));
    accepts(lost_and_on(&[(25, "a", told(3))]));
    accepts(lost_and_on(&[(21, "a", told(3))]));
}

#[test]
fn refuses_a_lock_that_comes_back() {
    let mut entries = stay("a", Exclusive, 3, [1, 10, 20]);
    entries.extend([(22, "a", lost(3)), (23, "a", told(3)), (30, "a", held(3, 26, 30))]);
    refuses(&[Rule::LockLoss], entries);
}

#[test]
fn refuses_a_release_of_what_was_lost_unseen() {
    let end = |sure, answer, heard: bool| {
        let mut entries = stay("a", Exclusive, 3, [1, 10, 20]);
        entries.extend([(21, "a", releasing(3, sure)), (23, "a", released(3, answer))]);
        entries.extend(heard.then(|| (20, "a", told(3))));
        entries
    };
    for answer in [Released::Lost, Released::Gone] {
        refuses(&[Rule::LockLoss], end(true, Some(answer), false));
        accepts(end(false, Some(answer), false));
        accepts(end(true, Some(answer), true));
    }
    accepts(end(true, Some(Released::Released), false));
    accepts(end(true, None, false));
}

#[test]
fn refuses_what_is_left_when_all_are_gone() {
    let left = |shown: Vec<LockSummary>, records: &[&str]| {
        let records = records.iter().map(|record| (*record).to_owned()).collect();
        vec![(90, "stage", What::LocksLeft { since: 50, within: 30, shown, records })]
    };
    accepts(left(Vec::new(), &[]));
    refuses(&[Rule::Orphan], left(Vec::new(), &["lock/db"]));
    let summary = LockSummary { name: LOCK.into(), mode: Exclusive, limit: None, holders: 0, waiters: 1 };
    refuses(&[Rule::Orphan], left(vec![summary], &[]));
}

#[test]
fn refuses_one_who_is_not_let_in_after_a_healing() {
    let healed = || (20, "stage", What::Healed { within: 30 });
    let waits = || vec![(2, "a", asked(1, &[LOCK], Exclusive)), healed()];
    let end = |at| (at, "stage", fault());
    refuses(&[Rule::Progress], all(&[waits(), vec![end(60)]]));
    refuses(&[Rule::Progress], all(&[waits(), vec![(51, "a", granted(1, 3)), end(60)]]));
    // In time, or there was no time, or it is gone.
    accepts(all(&[waits(), vec![(50, "a", granted(1, 3)), end(60)]]));
    accepts(all(&[waits(), vec![end(40), (55, "stage", away(&["b"]))]]));
    accepts(waits());
    accepts(all(&[waits(), vec![(30, "stage", away(&["a"])), end(60)]]));
    // It was gone before, and is there again.
    let again = vec![(3, "stage", away(&["a"])), (4, "a", asked(2, &[LOCK], Exclusive)), end(60)];
    refuses(&[Rule::Progress], all(&[waits(), again]));
}

/// A waits for names while B is let in again and again.
fn overtaken(names: &[&str], times: u64, fault_at: u64) -> Vec<(u64, &'static str, What)> {
    let mut entries = all(&[stay("a", Shared, 1, [1, 3, 4])]);
    entries.push((9, "a", asked(2, names, Shared)));
    for time in 0..times {
        let at = 10 + 4 * time;
        entries.extend(stay("b", Shared, at, [at, at + 2, at + 3]));
        if time == fault_at {
            entries.push((at + 3, "stage", fault()));
        }
    }
    entries
}

#[test]
fn refuses_one_who_is_overtaken_for_ever() {
    let never = u64::MAX;
    refuses(&[Rule::Starvation], overtaken(&[LOCK], 6, never));
    accepts(overtaken(&[LOCK], 5, never));
    // Nobody promises that in the middle of faults, nor where another of its names is not to be had.
    accepts(overtaken(&[LOCK], 8, 4));
    accepts(overtaken(&[LOCK, "other"], 9, never));
}
