//! Histories that must be refused, each for its reason, and good ones beside them.

use std::collections::BTreeMap;

use althing_core::info::{Event, GroupInfo, LeaderInfo, MemberInfo};
use althing_core::{Cause, Requirement, Revision};

use super::{Rule, check};
use crate::history::{Ask, Entry, History, Outcome, Recorder, What};

const GROUP: &str = "web";

/// Checks that a history of (moment, who, what) breaks these rules and no others.
#[track_caller]
fn refuses(rules: &[Rule], entries: Vec<(u64, &str, What)>) {
    let entries = entries.into_iter().map(|(at, by, what)| Entry { at, by: by.into(), what });
    let history = History::new(entries.collect());
    let violations = check(&history);
    let broken: Vec<Rule> = violations.iter().map(|violation| violation.rule).collect();
    assert_eq!(broken, rules, "{violations:#?}");
}

#[track_caller]
fn accepts(entries: Vec<(u64, &str, What)>) {
    refuses(&[], entries);
}

fn held(member: &str, term: u64, from: u64, until: u64) -> What {
    What::Held { group: GROUP.into(), member: member.into(), term: Revision(term), from, until }
}

fn began(member: &str, term: u64) -> What {
    What::TermBegan { group: GROUP.into(), member: member.into(), term: Revision(term) }
}

fn watched(event: Event) -> What {
    What::Watched { group: GROUP.into(), event }
}

fn member(id: &str, incarnation: &str) -> MemberInfo {
    MemberInfo {
        id: id.into(),
        incarnation: incarnation.into(),
        host: "h".into(),
        metadata: BTreeMap::new(),
        capabilities: serde_json::Value::Null,
        candidate: true,
        joined_ms: 0,
        since: Revision(1),
        updated: Revision(1),
        updated_ms: 0,
    }
}

fn leader(id: &str, term: u64) -> LeaderInfo {
    LeaderInfo {
        member: id.into(),
        incarnation: "1".into(),
        host: "h".into(),
        term: Revision(term),
        since_ms: 0,
        successor: None,
        revoked: false,
    }
}

fn group(revision: u64, members: &[&str], led: Option<(&str, u64)>) -> GroupInfo {
    GroupInfo {
        partition: None,
        require: Requirement::NONE,
        ephemeral: false,
        name: GROUP.into(),
        revision: Revision(revision),
        members: members.iter().map(|id| member(id, "1")).collect(),
        leader: led.map(|(id, term)| leader(id, term)),
        binding: None,
        epoch: 0,
        hosts: Vec::new(),
    }
}

fn snapshot(revision: u64, members: &[&str]) -> What {
    watched(Event::Snapshot { group: group(revision, members, None) })
}

fn joined(id: &str, revision: u64) -> What {
    watched(Event::Joined { member: member(id, "1"), revision: Revision(revision) })
}

fn left(id: &str, revision: u64) -> What {
    let incarnation = "1".to_owned();
    watched(Event::Left { id: id.into(), incarnation, cause: Cause::Deleted, revision: Revision(revision) })
}

fn elected(id: &str, term: u64) -> What {
    watched(Event::Elected { leader: leader(id, term), revision: Revision(term) })
}

fn is_in(id: &str) -> What {
    What::Joined { group: GROUP.into(), member: id.into(), incarnation: "1".into() }
}

fn gone(id: &str) -> What {
    What::Gone { group: GROUP.into(), member: id.into() }
}

fn asks(operation: u64, ask: Ask) -> What {
    What::Began { operation, ask }
}

fn ends(operation: u64, outcome: Outcome) -> What {
    What::Ended { operation, outcome }
}

fn shows(groups: &[&str], members: &[&str]) -> What {
    let groups = groups.iter().map(|group| (*group).into()).collect();
    What::Final { groups, group: group(90, members, None), lease: 100 }
}

#[test]
fn two_who_are_sure_at_once_break_exclusion() {
    refuses(&[Rule::Exclusion], vec![(1, "a", held("a", 5, 10, 30)), (2, "b", held("b", 7, 20, 40))]);
    // What lies between two yes of the same term belongs to it.
    refuses(
        &[Rule::Exclusion],
        vec![(1, "a", held("a", 5, 10, 20)), (2, "b", held("b", 7, 25, 30)), (3, "a", held("a", 5, 40, 50))],
    );
    accepts(vec![(1, "a", held("a", 5, 10, 20)), (2, "b", held("b", 7, 20, 30))]);
}

#[test]
fn a_single_yes_is_held_against_nobody_unless_it_surely_fell_within_anothers_time() {
    // Asked once, between 15 and 25.
    refuses(&[Rule::Exclusion], vec![(1, "a", held("a", 5, 10, 30)), (2, "b", held("b", 7, 25, 15))]);
    accepts(vec![(1, "a", held("a", 5, 10, 20)), (2, "b", held("b", 7, 25, 15))]);
}

#[test]
fn a_lower_token_after_a_higher_one_breaks_the_order() {
    refuses(&[Rule::TokenOrder], vec![(1, "a", held("a", 7, 10, 20)), (2, "b", held("b", 5, 30, 40))]);
    refuses(&[Rule::TokenOrder], vec![(1, "a", began("a", 7)), (2, "a", began("a", 5))]);
    accepts(vec![(1, "a", began("a", 5)), (2, "a", began("a", 5)), (3, "a", began("a", 7))]);
    let told = |first, second| {
        vec![(1, "w", snapshot(1, &[])), (2, "w", elected("a", first)), (3, "w", elected("b", second))]
    };
    accepts(told(5, 7));
    refuses(&[Rule::TokenOrder, Rule::WatchOrder], told(7, 5));
}

#[test]
fn a_term_of_two_breaks_the_rule_of_one_leader() {
    refuses(&[Rule::OneLeader], vec![(1, "a", began("a", 5)), (2, "b", began("b", 5))]);
    refuses(
        &[Rule::OneLeader],
        vec![(1, "w", snapshot(1, &[])), (2, "w", elected("a", 5)), (3, "b", held("b", 5, 3, 4))],
    );
}

#[test]
fn a_stream_that_goes_back_or_has_no_beginning_breaks_the_order() {
    let begin = (1, "w", snapshot(3, &[]));
    refuses(&[Rule::WatchOrder], vec![(1, "w", joined("a", 5))]);
    refuses(&[Rule::WatchOrder], vec![begin.clone(), (2, "w", joined("a", 3))]);
    refuses(&[Rule::WatchOrder], vec![begin.clone(), (2, "w", joined("a", 6)), (3, "w", joined("b", 5))]);
    refuses(
        &[Rule::WatchOrder],
        vec![begin.clone(), (2, "w", joined("a", 6)), (3, "w", snapshot(5, &["a"]))],
    );
    // Of one commit several events come, in whatever order.
    accepts(vec![
        begin,
        (2, "w", joined("a", 6)),
        (3, "w", joined("b", 6)),
        (4, "w", snapshot(6, &["a", "b"])),
    ]);
}

#[test]
fn an_event_told_twice_breaks_the_rule_of_once() {
    let entries = vec![(1, "w", snapshot(3, &[])), (2, "w", joined("a", 5)), (3, "w", joined("a", 5))];
    refuses(&[Rule::WatchOnce], entries);
}

#[test]
fn an_event_that_others_were_told_of_breaks_the_rule_of_no_gaps() {
    let full = |by| {
        vec![
            (1, by, snapshot(3, &[])),
            (2, by, joined("a", 5)),
            (3, by, left("a", 6)),
            (4, by, joined("b", 7)),
        ]
    };
    let gap = vec![(1, "w", snapshot(3, &[])), (4, "w", joined("b", 7))];
    accepts([full("v"), full("w")].concat());
    refuses(&[Rule::WatchGap], [full("v"), gap].concat());
    // Who is shown a snapshot again was not cheated, nor who stopped listening.
    let resync = vec![(1, "w", snapshot(3, &[])), (4, "w", snapshot(6, &[])), (5, "w", joined("b", 7))];
    accepts([full("v"), resync].concat());
    accepts([full("v"), vec![(1, "w", snapshot(3, &[])), (2, "w", joined("a", 5))]].concat());
}

#[test]
fn an_event_that_cannot_follow_breaks_the_rule_of_no_gaps() {
    refuses(&[Rule::WatchGap], vec![(1, "w", snapshot(3, &[])), (2, "w", left("a", 5))]);
    refuses(&[Rule::WatchGap], vec![(1, "w", snapshot(3, &["a"])), (2, "w", joined("a", 5))]);
    let vacated = Event::Vacated { member: "a".into(), term: Revision(4), revision: Revision(9) };
    let told = |term| {
        vec![(1, "w", snapshot(3, &[])), (2, "w", elected("a", term)), (3, "w", watched(vacated.clone()))]
    };
    accepts(told(4));
    refuses(&[Rule::WatchGap], told(5));
}

#[test]
fn an_event_that_nobody_was_told_of_breaks_the_rule_of_no_gaps() {
    let told = |members: &[&str]| {
        vec![
            (1, "a", is_in("a")),
            (1, "b", is_in("b")),
            (2, "w", snapshot(3, &["a"])),
            (3, "w", joined("b", 5)),
            (9, "h", shows(&[GROUP], members)),
        ]
    };
    accepts(told(&["a", "b"]));
    refuses(&[Rule::WatchGap, Rule::Acknowledged], told(&["b"]));
}

#[test]
fn a_group_that_is_lost_or_comes_from_nowhere_breaks_what_was_acknowledged() {
    let asked = |ask: Ask, outcome| vec![(1, "c", asks(1, ask)), (2, "c", ends(1, outcome))];
    let create = || Ask::Create("x".into());
    let delete = || vec![(3, "c", asks(2, Ask::Delete("x".into()))), (4, "c", ends(2, Outcome::Done))];
    let there = || vec![(9, "h", shows(&["x"], &[]))];
    let not = || vec![(9, "h", shows(&[], &[]))];
    accepts([asked(create(), Outcome::Done), there()].concat());
    accepts([asked(create(), Outcome::Refused), not()].concat());
    accepts([asked(create(), Outcome::Done), delete(), not()].concat());
    refuses(&[Rule::Acknowledged], [asked(create(), Outcome::Done), not()].concat());
    refuses(&[Rule::Acknowledged], [asked(create(), Outcome::Refused), there()].concat());
    refuses(&[Rule::Acknowledged], [asked(create(), Outcome::Done), delete(), there()].concat());
    for end in [there(), not()] {
        accepts([asked(create(), Outcome::Unknown), end.clone()].concat());
        accepts([vec![(1, "c", asks(1, create()))], end].concat());
    }
}

#[test]
fn a_member_that_is_in_and_not_shown_breaks_what_was_acknowledged() {
    refuses(&[Rule::Acknowledged], vec![(1, "a", is_in("a")), (9, "h", shows(&[], &[]))]);
    accepts(vec![(1, "a", is_in("a")), (2, "a", gone("a")), (9, "h", shows(&[], &[]))]);
    let join = Ask::Join { group: GROUP.into(), member: "a".into() };
    for members in [&["a"][..], &[]] {
        accepts(vec![(1, "a", gone("a")), (2, "a", asks(1, join.clone())), (909, "h", shows(&[], members))]);
    }
}

#[test]
fn a_member_shown_a_lease_after_it_went_is_an_orphan() {
    let at = |end| vec![(1, "a", is_in("a")), (2, "a", gone("a")), (end, "h", shows(&[], &["a"]))];
    accepts(at(100));
    refuses(&[Rule::Orphan], at(103));
    refuses(&[Rule::Orphan], vec![(9, "h", shows(&[], &["b"]))]);
}

#[test]
fn nobody_leading_after_all_was_healed_breaks_progress() {
    let healed = |then: Vec<(u64, &'static str, What)>| {
        let begin =
            vec![(1, "a", is_in("a")), (2, "a", held("a", 3, 2, 9)), (10, "f", What::Healed { within: 50 })];
        [begin, then].concat()
    };
    let fault = What::Fault { fault: "x".into() };
    refuses(&[Rule::Progress], healed(vec![(70, "f", fault.clone())]));
    refuses(&[Rule::Progress], healed(vec![(80, "a", held("a", 5, 61, 79))]));
    accepts(healed(vec![(80, "a", held("a", 5, 59, 79))]));
    accepts(healed(vec![(80, "b", held("a", 3, 2, 11))]));
    // No time to make progress in.
    accepts(healed(vec![(59, "f", fault), (80, "a", began("a", 5))]));
    accepts(healed(vec![(59, "a", began("a", 5))]));
}

#[tokio::test]
async fn a_history_of_several_files_is_read_back_in_the_order_of_time_and_without_a_line_that_was_cut() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (Recorder::new(folder.path(), "a"), Recorder::new(folder.path(), "b"));
    first.note_at(2, elected("a", 5));
    second.note_at(1, snapshot(3, &["a"]));
    first.note_at(3, held("a", 5, 2, 3));
    let path = folder.path().join("b.jsonl");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("{\"at\":9,\"by\":\"b\",\"wh");
    std::fs::write(&path, text).unwrap();
    let entry = |at, by: &str, what| Entry { at, by: by.into(), what };
    let expected = [
        entry(1, "b", snapshot(3, &["a"])),
        entry(2, "a", elected("a", 5)),
        entry(3, "a", held("a", 5, 2, 3)),
    ];
    assert_eq!(History::read(folder.path()).entries(), expected);
    let error = althing_core::Error::new(althing_core::Kind::Timeout, "create", "late").with_unknown_effect();
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::new(folder.path(), "c");
    recorder.operation(Ask::Create("x".into()), async { Err::<(), _>(error) }).await.unwrap_err();
    recorder.operation(Ask::Create("y".into()), async { Ok(()) }).await.unwrap();
    let history = History::read(folder.path());
    let ended = history.entries().iter().filter_map(|entry| match entry.what {
        What::Ended { outcome, .. } => Some(outcome),
        _ => None,
    });
    assert_eq!(ended.collect::<Vec<_>>(), [Outcome::Unknown, Outcome::Done]);
}
