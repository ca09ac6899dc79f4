//! What becomes of members while they stay, and of groups that go with them: changes, evictions, hand-overs that somebody
//! asked for, ephemeral groups.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use althing_core::info::{
    Event, Evicted, JoinAsk, Joined, MemberInfo, Outcome, SessionAsk, SessionEvent, StoodDown, UpdateAsk,
};
use althing_core::layers::{Fault, Operation};
use althing_core::{Effect, Key, Kind, Principal, Result, Txn, Write, limits};
use althing_runtime::{Runtime, SessionStream};
use althing_sim::{
    Client, Fleet, Host, Stage, Witness, eventually, led_by, next_event, next_told, shipped, told_elected,
    writes_member,
};
use althing_test_servers::Backend;
use serde_json::{Value, json};

althing_sim::suite! {
    Backend::ALL => [
        a_change_is_told_once_and_keeps_stay_and_seniority,
        a_member_is_changed_only_by_the_session_it_joined_through,
        a_change_is_kept_when_its_host_loses_its_session,
        a_change_whose_reply_is_lost_is_found_and_told_once,
        a_join_whose_host_just_lost_its_session_is_made_in_the_next_one,
        who_does_not_stand_for_election_never_leads,
        a_leader_that_no_longer_stands_resigns_and_is_not_passed_over,
        an_evicted_leader_stops_first_and_does_not_come_back,
        an_eviction_is_not_undone_by_a_host_that_lost_its_session,
        a_leader_hands_over_to_whom_somebody_asked_for_against_the_rule,
        a_leader_goes_on_where_the_one_asked_for_cannot_take_over,
        a_join_that_makes_its_group_is_one_commit,
        an_ephemeral_group_goes_with_its_last_member,
        an_ephemeral_group_goes_with_the_host_of_its_last_member,
        a_member_of_an_ephemeral_group_comes_back_with_its_host,
        a_group_that_took_the_place_of_an_ephemeral_one_stays,
        a_join_that_meets_a_deletion_is_in_the_old_group_or_in_a_new_one,
        a_join_that_may_have_made_its_group_leaves_nothing_behind,
        a_deletion_that_was_given_up_keeps_nobody_out_who_may_create_the_group,
    ],
}

fn named(id: &str) -> JoinAsk {
    JoinAsk { id: id.into(), ..JoinAsk::default() }
}

fn ephemeral(id: &str) -> JoinAsk {
    JoinAsk { create: true, ephemeral: true, ..named(id) }
}

fn observer(id: &str) -> JoinAsk {
    JoinAsk { candidate: false, ..named(id) }
}

fn candidate(stands: bool) -> UpdateAsk {
    UpdateAsk { candidate: Some(stands), ..UpdateAsk::default() }
}

fn capable(of: Value) -> UpdateAsk {
    UpdateAsk { capabilities: Some(of), ..UpdateAsk::default() }
}

fn runtimes(fleet: &Fleet) -> Vec<Runtime> {
    fleet.hosts.iter().map(|host| host.runtime.clone()).collect()
}

async fn join(client: &Client, group: &str, ask: JoinAsk) -> Joined {
    client.runtime.join(&client.key, group, ask).await.unwrap()
}

async fn update(client: &Client, id: &str, ask: UpdateAsk) -> Result<MemberInfo> {
    client.runtime.update_member(&client.key, "web", id, ask).await
}

/// Opens a session as a client elsewhere does, which is waited for until it confirms.
fn remote(host: &Host) -> Client {
    host.session_with(SessionAsk { ttl_ms: Some(600_000), ..SessionAsk::default() }, true)
}

fn members(runtime: &Runtime, group: &str) -> Vec<String> {
    let members = runtime.group(group).map(|group| group.members).unwrap_or_default();
    members.into_iter().map(|member| member.id).collect()
}

async fn gone(runtime: &Runtime, group: &str) {
    eventually("the group is gone", || runtime.group(group).is_err()).await;
}

/// Ends a host's session in the backend, as one that is not renewed in time ends.
async fn lose_session(fleet: &Fleet, host: usize) {
    let session = fleet.hosts[host].runtime.host().session.unwrap();
    fleet.store.close(session).await.unwrap();
}

async fn removed(told: &mut SessionStream) -> String {
    next_told(told, |event| match event {
        SessionEvent::Removed { reason, .. } => Some(reason.clone()),
        _ => None,
    })
    .await
}

async fn a_change_is_told_once_and_keeps_stay_and_seniority(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    let (first, second) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    let joined = first.join("web", "a", 1).await.member;
    assert_eq!((joined.updated, joined.updated_ms), (joined.since, joined.joined_ms));
    second.join("web", "b", 1).await;
    let mut events = second.runtime.watch_group("web").unwrap();
    let metadata = [("zone".to_owned(), "north".to_owned())].into();
    let ask = UpdateAsk { metadata: Some(metadata), ..capable(json!({ "gpus": [1, 2] })) };
    let changed = update(&first, "a", ask.clone()).await.unwrap();
    assert!(changed.updated > changed.since);
    let expected = MemberInfo {
        metadata: ask.metadata.clone().unwrap(),
        capabilities: json!({ "gpus": [1, 2] }),
        updated: changed.updated,
        updated_ms: changed.updated_ms,
        ..joined
    };
    assert_eq!(changed, expected, "the same stay");
    assert_eq!(first.runtime.member("web", "a").unwrap(), changed);
    assert_eq!(update(&first, "a", ask).await.unwrap(), changed, "what changes nothing is not written");
    let back = update(&first, "a", capable(Value::Null)).await.unwrap();
    assert_eq!(back.metadata, changed.metadata, "what is left out stays");
    first.leave("web", "a").await;
    let mut told = Vec::new();
    loop {
        let event = next_event(&mut events, |event| Some(event.clone())).await;
        match event {
            Event::Updated { member, revision } => {
                assert_eq!(revision, member.updated);
                told.push(member);
            }
            Event::Joined { .. } => panic!("a change is no joining: {event:?}"),
            Event::Left { .. } => break,
            _ => {}
        }
    }
    assert_eq!(told, [changed, back]);
}

async fn a_member_is_changed_only_by_the_session_it_joined_through(stage: Stage) {
    let fleet = stage.fleet(1).await;
    fleet.create("web").await;
    let (owner, other) = (fleet.hosts[0].session(), fleet.hosts[0].session());
    owner.join("web", "a", 1).await;
    let kind = |outcome: Result<MemberInfo>| outcome.unwrap_err().kind();
    assert_eq!(kind(update(&other, "a", candidate(false)).await), Kind::Denied);
    assert_eq!(kind(update(&owner, "nobody", candidate(false)).await), Kind::NotFound);
    let large = Value::String("x".repeat(limits::CAPABILITIES_BYTES_MAX));
    assert_eq!(kind(update(&owner, "a", capable(large.clone())).await), Kind::TooLarge);
    let ask = JoinAsk { capabilities: large, ..named("b") };
    assert_eq!(owner.runtime.join(&owner.key, "web", ask).await.unwrap_err().kind(), Kind::TooLarge);
    assert!(owner.runtime.member("web", "a").unwrap().candidate);
    assert_eq!(owner.runtime.member("web", "nobody").unwrap_err().kind(), Kind::NotFound);
}

async fn a_change_is_kept_when_its_host_loses_its_session(stage: Stage) {
    let fleet = stage.fleet(1).await;
    fleet.create("web").await;
    let client = fleet.hosts[0].session();
    let mut told = client.events();
    let first = join(&client, "web", observer("a")).await.member;
    update(&client, "a", capable(json!(0))).await.unwrap();
    lose_session(&fleet, 0).await;
    // Changes go on while the member is joined again; whatever is acknowledged must not be lost.
    let mut acknowledged = 0;
    let mut rejoined = false;
    for round in 1.. {
        match update(&client, "a", capable(json!(round))).await {
            Ok(_) => acknowledged = round,
            Err(error) => assert!(matches!(error.kind(), Kind::Unavailable | Kind::Conflict), "{error}"),
        }
        rejoined |= client.runtime.member("web", "a").is_ok_and(|now| now.incarnation != first.incarnation);
        if rejoined && acknowledged == round {
            break;
        }
        tokio::task::yield_now().await;
    }
    next_told(&mut told, |event| matches!(event, SessionEvent::Rejoined { .. }).then_some(())).await;
    let member = client.runtime.member("web", "a").unwrap();
    assert_eq!((member.capabilities, member.candidate), (json!(acknowledged), false));
    assert_ne!(member.incarnation, first.incarnation, "it is another stay");
    lose_session(&fleet, 0).await;
    next_told(&mut told, |event| matches!(event, SessionEvent::Rejoined { .. }).then_some(())).await;
    assert_eq!(client.runtime.member("web", "a").unwrap().capabilities, json!(acknowledged));
}

async fn a_change_whose_reply_is_lost_is_found_and_told_once(stage: Stage) {
    let fleet = stage.fleet(1).await;
    fleet.create("web").await;
    let client = fleet.hosts[0].session();
    let mut told = client.events();
    let joined = client.join("web", "a", 1).await.member;
    led_by(&client.runtime, "web", "a").await;
    let mut events = client.runtime.watch_group("web").unwrap();
    for (round, fault) in [Fault::LoseReply, Fault::LoseRequest].into_iter().enumerate() {
        let commits = AtomicUsize::new(0);
        let first = move |txn: &Txn| writes_member(txn) && commits.fetch_add(1, Ordering::Relaxed) == 0;
        fleet.hosts[0].faults.inject_on_commits(fault, first);
        let changed = update(&client, "a", capable(json!(round))).await.unwrap();
        assert_eq!(changed.incarnation, joined.incarnation);
        let revision = next_event(&mut events, |event| match event {
            Event::Updated { revision, .. } => Some(*revision),
            _ => None,
        });
        assert_eq!(revision.await, changed.updated);
        fleet.hosts[0].faults.heal();
    }
    lose_session(&fleet, 0).await;
    next_told(&mut told, |event| matches!(event, SessionEvent::Rejoined { .. }).then_some(())).await;
    assert_eq!(client.runtime.member("web", "a").unwrap().capabilities, json!(1));
}

async fn a_join_whose_host_just_lost_its_session_is_made_in_the_next_one(stage: Stage) {
    let fleet = stage.fleet(1).await;
    fleet.create("web").await;
    let client = fleet.hosts[0].session();
    for id in ["a", "b", "c"] {
        lose_session(&fleet, 0).await;
        join(&client, "web", named(id)).await;
    }
    let all_are_in = || {
        let mut members = members(&client.runtime, "web");
        members.sort();
        members == ["a", "b", "c"]
    };
    eventually("all are in", all_are_in).await;
}

async fn who_does_not_stand_for_election_never_leads(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    let witness = Witness::begin(&fleet.hosts[0].runtime, &runtimes(&fleet), "web");
    let runtime = &fleet.hosts[0].runtime;
    let (first, second) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    join(&first, "web", observer("oldest")).await;
    second.join("web", "b", 1).await;
    led_by(runtime, "web", "b").await;
    let next = fleet.hosts[1].session();
    join(&next, "web", observer("older")).await;
    next.join("web", "c", 1).await;
    second.end().await;
    led_by(runtime, "web", "c").await;
    next.leave("web", "c").await;
    eventually("nobody leads", || runtime.group("web").unwrap().leader.is_none()).await;
    let verdict = runtime.rehearse("web").await.unwrap().verdict;
    assert_eq!(verdict.choice, althing_core::Choice::Vacate, "nobody is shown to the rule");
    // One that comes later leads before those that only watch.
    first.join("web", "d", 1).await;
    led_by(runtime, "web", "d").await;
    let terms = witness.attest().await;
    assert_eq!(terms.iter().map(|term| term.member.as_str()).collect::<Vec<_>>(), ["b", "c", "d"]);
}

async fn a_leader_that_no_longer_stands_resigns_and_is_not_passed_over(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    let witness = Witness::begin(&fleet.hosts[1].runtime, &runtimes(&fleet), "web");
    let runtime = &fleet.hosts[1].runtime;
    let first = remote(&fleet.hosts[0]);
    let mut told = first.events();
    first.join("web", "a", 1).await;
    let hold = told_elected(&mut told).await;
    fleet.hosts[1].session().join("web", "b", 1).await;
    update(&first, "a", candidate(false)).await.unwrap();
    next_told(&mut told, |event| matches!(event, SessionEvent::Stop { .. }).then_some(())).await;
    assert_eq!(runtime.group("web").unwrap().leader.unwrap().member, "a", "it has not confirmed yet");
    first.runtime.confirm_stopped(&first.key, "web", hold.term).unwrap();
    led_by(runtime, "web", "b").await;
    update(&first, "a", candidate(true)).await.unwrap();
    runtime.stand_down(&Principal::Embedder, "web").await.unwrap();
    led_by(runtime, "web", "a").await;
    witness.attest().await;
}

async fn an_evicted_leader_stops_first_and_does_not_come_back(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    let witness = Witness::begin(&fleet.hosts[1].runtime, &runtimes(&fleet), "web");
    let (leader, runtime) = (remote(&fleet.hosts[0]), fleet.hosts[1].runtime.clone());
    let mut told = leader.events();
    leader.join("web", "a", 1).await;
    let hold = told_elected(&mut told).await;
    fleet.hosts[1].session().join("web", "b", 1).await;
    let none = runtime.evict(&Principal::Embedder, "web", "nobody").await.unwrap_err();
    assert_eq!(none.kind(), Kind::NotFound);
    let asking = tokio::spawn({
        let runtime = runtime.clone();
        async move { runtime.evict(&Principal::Embedder, "web", "a").await.unwrap() }
    });
    next_told(&mut told, |event| matches!(event, SessionEvent::Stop { .. }).then_some(())).await;
    let group = runtime.group("web").unwrap();
    assert_eq!(
        (group.leader.unwrap().member.as_str(), group.members.len()),
        ("a", 2),
        "it has not confirmed"
    );
    leader.runtime.confirm_stopped(&leader.key, "web", hold.term).unwrap();
    assert_eq!(removed(&mut told).await, "evicted by embedder");
    assert_eq!(asking.await.unwrap(), Evicted::Evicted);
    led_by(&runtime, "web", "b").await;
    assert_eq!(members(&runtime, "web"), ["b"]);
    lose_session(&fleet, 0).await;
    let held = |event: &SessionEvent| {
        matches!(event, SessionEvent::Standing { standing, .. } if *standing == althing_core::info::Standing::Held).then_some(())
    };
    next_told(&mut told, held).await;
    leader.join("web", "c", 1).await;
    assert_eq!(members(&leader.runtime, "web"), ["b", "c"], "its host does not bring it back");
    leader.join("web", "a", 1).await;
    eventually("its client does", || members(&runtime, "web") == ["b", "c", "a"]).await;
    let evicted = leader.runtime.evict(&Principal::Embedder, "web", "c").await.unwrap();
    assert_eq!((evicted, members(&leader.runtime, "web").len()), (Evicted::Evicted, 2));
    witness.attest().await;
}

async fn an_eviction_is_not_undone_by_a_host_that_lost_its_session(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    let client = fleet.hosts[0].session();
    let mut told = client.events();
    client.join("web", "a", 1).await;
    let runtime = &fleet.hosts[1].runtime;
    eventually("the member is seen", || members(runtime, "web") == ["a"]).await;
    // Its host hears nothing of the eviction, and joins its members again on what it saw before.
    fleet.hosts[0].faults.inject(Operation::Next, Fault::BlackHole);
    let asked = runtime.evict(&Principal::Embedder, "web", "a").await.unwrap();
    assert_eq!(asked, Evicted::Asked);
    lose_session(&fleet, 0).await;
    assert_eq!(removed(&mut told).await, "evicted by embedder");
    fleet.hosts[0].faults.heal();
    eventually("it is gone", || members(runtime, "web").is_empty()).await;
    assert_eq!(client.runtime.host().members, 0);
}

async fn a_leader_hands_over_to_whom_somebody_asked_for_against_the_rule(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    let me = Principal::Embedder;
    let runtime = &fleet.hosts[1].runtime;
    fleet.hosts[0].push(&shipped("elect-weighted")).await;
    fleet.hosts[0].activate("web", "elect-weighted").await;
    let (first, second) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    first.join("web", "heavy", 9).await;
    led_by(runtime, "web", "heavy").await;
    let witness = Witness::begin(runtime, &runtimes(&fleet), "web");
    first.join("web", "middle", 5).await;
    second.join("web", "light", 1).await;
    join(&second, "web", observer("watcher")).await;
    let refused =
        async |successor: &str| runtime.stand_down_to(&me, "web", successor).await.unwrap_err().kind();
    assert_eq!(refused("nobody").await, Kind::NotFound);
    assert_eq!((refused("watcher").await, refused("heavy").await), (Kind::Conflict, Kind::Conflict));
    assert_eq!(runtime.stand_down_to(&me, "web", "light").await.unwrap(), StoodDown::Stopped);
    assert_eq!(runtime.group("web").unwrap().leader.unwrap().member, "light");
    let deferred = || {
        let decisions = runtime.decisions("web", 16).unwrap();
        decisions.first().is_some_and(|last| last.outcome == Outcome::Deferred)
    };
    eventually("the rule's move is put off", deferred).await;
    assert_eq!(runtime.group("web").unwrap().leader.unwrap().member, "light");
    // Within one host, too; nothing but the end of the back-off lets the rule have its way.
    join(&second, "web", named("lighter")).await;
    assert_eq!(runtime.stand_down_to(&me, "web", "lighter").await.unwrap(), StoodDown::Stopped);
    led_by(runtime, "web", "lighter").await;
    led_by(runtime, "web", "heavy").await;
    let terms = witness.attest().await;
    let led: Vec<_> = terms.iter().map(|term| term.member.as_str()).take(3).collect();
    assert_eq!(led, ["heavy", "light", "lighter"]);
}

async fn a_leader_goes_on_where_the_one_asked_for_cannot_take_over(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    let witness = Witness::begin(&fleet.hosts[0].runtime, &runtimes(&fleet), "web");
    let runtime = &fleet.hosts[0].runtime;
    fleet.hosts[0].session().join("web", "a", 1).await;
    led_by(runtime, "web", "a").await;
    fleet.hosts[1].session().join("web", "b", 1).await;
    eventually("both are seen", || members(runtime, "web") == ["a", "b"]).await;
    fleet.hosts[1].faults.inject(Operation::Commit, Fault::Refuse);
    let refused = runtime.stand_down_to(&Principal::Embedder, "web", "b").await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict, "{refused}");
    let leader = runtime.group("web").unwrap().leader.unwrap();
    assert_eq!((leader.member.as_str(), leader.revoked, leader.successor), ("a", false, None));
    assert!(runtime.holds("web", leader.term));
    assert_eq!(witness.terms().len(), 1);
    fleet.hosts[1].faults.heal();
    let stood = runtime.stand_down_to(&Principal::Embedder, "web", "b").await.unwrap();
    assert_eq!(stood, StoodDown::Stopped, "who is asked for again has its whole window again");
    led_by(runtime, "web", "b").await;
    witness.attest().await;
}

/// Tells which kinds of records a transaction writes.
fn kinds(txn: &Txn) -> Vec<String> {
    let kind = |key: &Key| String::from_utf8(key.names().unwrap()[1].clone()).unwrap();
    let written = |write: &Write| match write {
        Write::Put { key, .. } | Write::Delete(key) => kind(key),
    };
    txn.writes.iter().map(written).collect()
}

async fn a_join_that_makes_its_group_is_one_commit(stage: Stage) {
    let fleet = stage.fleet(1).await;
    let commits = Arc::new(Mutex::new(Vec::new()));
    let seen = commits.clone();
    let note = move |txn: &Txn| {
        seen.lock().unwrap().push(kinds(txn));
        false
    };
    fleet.hosts[0].faults.inject_on_commits(Fault::Refuse, note);
    let client = fleet.hosts[0].session();
    join(&client, "web", JoinAsk { create: true, ..named("a") }).await;
    let mut first = commits.lock().unwrap().iter().find(|kinds| **kinds != ["host"]).unwrap().clone();
    first.sort();
    assert_eq!(first, ["group", "member"]);
    assert!(!client.runtime.group("web").unwrap().ephemeral);
    let with_member = commits.lock().unwrap().iter().filter(|kinds| kinds.contains(&"member".into())).count();
    assert_eq!(with_member, 1);
}

async fn an_ephemeral_group_goes_with_its_last_member(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let (first, second) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    let alone = JoinAsk { ephemeral: true, ..named("a") };
    assert_eq!(first.runtime.join(&first.key, "web", alone).await.unwrap_err().kind(), Kind::Invalid);
    join(&first, "web", ephemeral("a")).await;
    assert!(first.runtime.group("web").unwrap().ephemeral && first.runtime.groups().unwrap()[0].ephemeral);
    eventually("the group is seen", || second.runtime.group("web").is_ok()).await;
    join(&second, "web", named("b")).await;
    let mut events = second.runtime.watch_group("web").unwrap();
    first.leave("web", "a").await;
    led_by(&second.runtime, "web", "b").await;
    second.leave("web", "b").await;
    next_event(&mut events, |event| matches!(event, Event::Deleted { .. }).then_some(())).await;
    gone(&first.runtime, "web").await;
    // A group that was there before stays.
    fleet.create("web").await;
    join(&second, "web", ephemeral("b")).await;
    assert!(!second.runtime.group("web").unwrap().ephemeral);
    second.leave("web", "b").await;
    join(&first, "other", ephemeral("a")).await;
    first.leave("other", "a").await;
    gone(&second.runtime, "other").await;
    assert!(members(&second.runtime, "web").is_empty() && second.runtime.group("web").is_ok());
}

async fn an_ephemeral_group_goes_with_the_host_of_its_last_member(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let client = fleet.hosts[0].session();
    join(&client, "web", ephemeral("a")).await;
    let runtime = &fleet.hosts[1].runtime;
    eventually("the group is seen", || members(runtime, "web") == ["a"]).await;
    fleet.hosts[0].runtime.abandon();
    gone(runtime, "web").await;
}

async fn a_member_of_an_ephemeral_group_comes_back_with_its_host(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let (first, second) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    join(&first, "web", ephemeral("a")).await;
    eventually("the group is seen", || second.runtime.group("web").is_ok()).await;
    // It did not ask for a group to be made, but came to one that goes with its members.
    join(&second, "web", named("b")).await;
    first.leave("web", "a").await;
    let mut told = second.events();
    lose_session(&fleet, 1).await;
    next_told(&mut told, |event| matches!(event, SessionEvent::Rejoined { .. }).then_some(())).await;
    led_by(&first.runtime, "web", "b").await;
    second.leave("web", "b").await;
    gone(&first.runtime, "web").await;
}

async fn a_group_that_took_the_place_of_an_ephemeral_one_stays(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let (first, second) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    join(&first, "web", ephemeral("a")).await;
    eventually("the member is seen", || members(&second.runtime, "web") == ["a"]).await;
    // The other host sees the empty group, and is kept from doing anything about it until there is another one.
    let faults = &fleet.hosts[1].faults;
    let before = faults.met();
    faults.inject(Operation::List, Fault::BlackHole);
    fleet.hosts[0].faults.inject(Operation::List, Fault::BlackHole);
    first.leave("web", "a").await;
    eventually("both look", || faults.met() > before && fleet.hosts[0].faults.met() > 0).await;
    fleet.hosts[0].faults.heal();
    gone(&first.runtime, "web").await;
    fleet.create("web").await;
    faults.heal();
    // By the time the host has deleted this one, it is done with that one.
    join(&second, "other", ephemeral("a")).await;
    second.leave("other", "a").await;
    gone(&second.runtime, "other").await;
    for runtime in runtimes(&fleet) {
        assert!(!runtime.group("web").unwrap().ephemeral);
    }
}

async fn a_join_that_meets_a_deletion_is_in_the_old_group_or_in_a_new_one(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let (first, second) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    join(&first, "web", ephemeral("a0")).await;
    let mut leaving = (first.clone(), "a0".to_owned());
    for round in 1..12 {
        let next = if round % 2 == 0 { &first } else { &second };
        let id = format!("a{round}");
        let leave = async {
            leaving.0.leave("web", &leaving.1).await;
        };
        let come = async {
            // Now before the group is marked, now after, now when it is gone.
            for _ in 0..round * 3 {
                tokio::task::yield_now().await;
            }
            join(next, "web", ephemeral(&id)).await
        };
        let ((), joined) = tokio::join!(leave, come);
        for runtime in runtimes(&fleet) {
            eventually("it is in the group", || members(&runtime, "web") == [id.as_str()]).await;
        }
        let changed = update(next, &id, capable(json!(round))).await.unwrap();
        assert_eq!(changed.incarnation, joined.member.incarnation);
        led_by(&next.runtime, "web", &id).await;
        leaving = (next.clone(), id);
    }
    leaving.0.leave("web", &leaving.1).await;
    for runtime in runtimes(&fleet) {
        gone(&runtime, "web").await;
    }
}

async fn a_join_that_may_have_made_its_group_leaves_nothing_behind(stage: Stage) {
    let fleet = stage.fleet(1).await;
    let client = fleet.hosts[0].session();
    let (runtime, faults) = (&fleet.hosts[0].runtime, &fleet.hosts[0].faults);
    for fault in [Fault::LoseReply, Fault::LoseRequest] {
        faults.inject_on_commits(fault, writes_member);
        faults.inject(Operation::Get, Fault::Refuse);
        let error = runtime.join(&client.key, "web", ephemeral("a")).await.unwrap_err();
        assert_eq!(error.effect(), Effect::Unknown, "{error}");
        faults.heal();
        let key = Key::path(["fleet", "group", "web"]);
        let is_gone =
            async || fleet.store.get(&key).await.unwrap().is_none() && runtime.group("web").is_err();
        althing_sim::eventually_found("the group is gone", is_gone).await;
        join(&client, "web", ephemeral("a")).await;
        client.leave("web", "a").await;
        gone(runtime, "web").await;
    }
}

async fn a_deletion_that_was_given_up_keeps_nobody_out_who_may_create_the_group(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    let deletes = |txn: &Txn| txn.writes.iter().any(|write| matches!(write, Write::Delete(_)));
    fleet.hosts[0].faults.inject_on_commits(Fault::Refuse, deletes);
    fleet.hosts[0].runtime.delete_group(&Principal::Embedder, "web").await.unwrap_err();
    let client = fleet.hosts[1].session();
    let refused = client.runtime.join(&client.key, "web", named("a")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::NotFound, "{refused}");
    join(&client, "web", JoinAsk { create: true, ..named("a") }).await;
    led_by(&client.runtime, "web", "a").await;
}
