//! Elections while things fail: lost claims, cut-off hosts, bad rules. Promises 1, 2, 4, 12 and 15.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use althing_core::info::{JoinAsk, Outcome, SessionEvent, Standing};
use althing_core::layers::{Fault, Operation};
use althing_core::{Key, Revision, SystemClock, Txn, Write};
use althing_runtime::{Runtime, Tuning};
use althing_sim::{
    Fleet, Stage, Witness, eventually, fixture, led_by, next_told, quick, shipped, told_elected,
};
use althing_test_servers::Backend;

althing_sim::suite! {
    Backend::ALL => [
        a_candidate_whose_claims_are_lost_is_passed_over,
        a_claim_whose_reply_is_lost_is_found_and_held,
        a_host_that_is_cut_off_stops_before_another_leads,
        a_nominee_that_never_answers_leaves_the_incumbent_leading,
        a_rule_that_alternates_moves_no_more_often_than_the_cap,
        bad_rules_leave_a_group_neither_leaderless_nor_without_a_word,
        a_host_that_cannot_load_the_bound_rule_is_behind_and_decides_nothing,
        a_host_that_hears_late_decides_by_the_older_rule_and_changes_nothing_by_it,
        a_storm_of_joins_leaves_swaps_and_lost_messages_keeps_the_promises,
    ],
}

fn runtimes(fleet: &Fleet) -> Vec<Runtime> {
    fleet.hosts.iter().map(|host| host.runtime.clone()).collect()
}

/// Tells whether a transaction writes a group's record: a claim, a resignation, a step of a hand-over.
fn writes_group(txn: &Txn) -> bool {
    let groups = Key::path(["fleet", "group"]).below();
    txn.writes.iter().any(|write| matches!(write, Write::Put { key, .. } if key.starts_with(&groups)))
}

async fn a_candidate_whose_claims_are_lost_is_passed_over(stage: Stage) {
    let fleet = stage.fleet(3).await;
    fleet.create("web").await;
    let witness = Witness::begin(&fleet.hosts[1].runtime, &runtimes(&fleet), "web");
    fleet.hosts[0].faults.inject_on_commits(Fault::LoseRequest, writes_group);
    let clients: Vec<_> = fleet.hosts.iter().map(|host| host.session()).collect();
    for (index, client) in clients.iter().enumerate() {
        client.join("web", &format!("m{index}"), 1).await;
    }
    led_by(&fleet.hosts[1].runtime, "web", "m1").await;
    assert!(fleet.hosts[0].faults.met() > 0, "the oldest did try");
    witness.attest().await;
}

async fn a_claim_whose_reply_is_lost_is_found_and_held(stage: Stage) {
    let fleet = stage.fleet(1).await;
    fleet.create("web").await;
    let host = &fleet.hosts[0];
    host.faults.inject_on_commits(Fault::LoseReply, writes_group);
    let client = host.session();
    let mut told = client.events();
    client.join("web", "a", 1).await;
    let hold = told_elected(&mut told).await;
    assert!(host.runtime.holds("web", hold.term));
    assert_eq!(host.runtime.group("web").unwrap().leader.unwrap().term, hold.term);
}

async fn a_host_that_is_cut_off_stops_before_another_leads(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    let witness = Witness::begin(&fleet.hosts[1].runtime, &runtimes(&fleet), "web");
    let (first, second) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    let mut told = first.events();
    let joined = first.join("web", "a", 1).await;
    led_by(&fleet.hosts[1].runtime, "web", "a").await;
    second.join("web", "b", 1).await;
    for operation in [Operation::Renew, Operation::Commit, Operation::Get, Operation::Next, Operation::Open] {
        fleet.hosts[0].faults.inject(operation, Fault::BlackHole);
    }
    let suspect = |event: &SessionEvent| {
        matches!(event, SessionEvent::Standing { standing: Standing::Suspect, .. }).then_some(())
    };
    next_told(&mut told, suspect).await;
    let lost = |event: &SessionEvent| match event {
        SessionEvent::Lost { hold } => Some(hold.clone()),
        _ => None,
    };
    next_told(&mut told, lost).await;
    led_by(&fleet.hosts[1].runtime, "web", "b").await;
    fleet.hosts[0].faults.heal();
    let again = next_told(&mut told, |event| match event {
        SessionEvent::Rejoined { incarnation, resume, .. } => Some((incarnation.clone(), resume.clone())),
        _ => None,
    })
    .await;
    let (again, resume) = again;
    assert_ne!(again, joined.member.incarnation, "it comes back as another stay");
    let runtime = &fleet.hosts[1].runtime;
    eventually("both are members again", || runtime.group("web").unwrap().members.len() == 2).await;
    assert_eq!(runtime.group("web").unwrap().leader.unwrap().member, "b", "and does not lead by itself");
    let ask = JoinAsk { id: "a".into(), resume: Some(resume), ..JoinAsk::default() };
    assert_ne!(runtime.join(&second.key, "web", ask).await.unwrap().member.incarnation, again);
    witness.attest().await;
}

async fn a_nominee_that_never_answers_leaves_the_incumbent_leading(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    let witness = Witness::begin(&fleet.hosts[0].runtime, &runtimes(&fleet), "web");
    let (first, second) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    first.join("web", "a", 1).await;
    led_by(&fleet.hosts[0].runtime, "web", "a").await;
    fleet.hosts[1].faults.inject_on_commits(Fault::Refuse, writes_group);
    second.join("web", "b", 99).await;
    fleet.hosts[0].push(&shipped("elect-weighted")).await;
    fleet.hosts[0].activate("web", "elect-weighted").await;
    let runtime = &fleet.hosts[0].runtime;
    let nominated = || {
        let decisions = runtime.decisions("web", 100).unwrap();
        decisions.iter().any(|decision| decision.outcome == Outcome::Nominated)
    };
    eventually("b is nominated", nominated).await;
    let withdrawn = || runtime.group("web").unwrap().leader.is_some_and(|leader| leader.successor.is_none());
    eventually("the nomination is withdrawn", withdrawn).await;
    let terms = witness.attest().await;
    assert_eq!(terms.len(), 1, "the incumbent never stopped: {terms:?}");
}

async fn a_rule_that_alternates_moves_no_more_often_than_the_cap(stage: Stage) {
    let cap = 4;
    let fleet = stage.fleet_paced(2, Tuning { moves_per_minute: cap, ..quick() }).await;
    fleet.create("web").await;
    let witness = Witness::begin(&fleet.hosts[0].runtime, &runtimes(&fleet), "web");
    let clients: Vec<_> = fleet.hosts.iter().map(|host| host.session()).collect();
    for (index, client) in clients.iter().enumerate() {
        client.join("web", &format!("m{index}"), 1).await;
    }
    led_by(&fleet.hosts[1].runtime, "web", "m0").await;
    fleet.hosts[0].push(&fixture("alternates", 1)).await;
    fleet.hosts[0].activate("web", "alternates").await;
    let deferred = || {
        runtimes(&fleet).iter().any(|runtime| {
            let decisions = runtime.decisions("web", 10).unwrap();
            // The last moves are over, and the next one was put off for the cap, not for the tenure.
            decisions.first().is_some_and(|last| last.outcome == Outcome::Deferred)
                && witness.terms().len() > cap as usize
        })
    };
    eventually("the cap is reached", deferred).await;
    // Ten times as long as the tenure that would allow another move: time for a move that must not come.
    let clock = SystemClock;
    althing_core::Clock::sleep(&clock, Duration::from_millis(500)).await;
    let terms = witness.attest().await;
    assert_eq!(terms.len(), cap as usize + 1, "{terms:?}");
}

async fn bad_rules_leave_a_group_neither_leaderless_nor_without_a_word(stage: Stage) {
    let fleet = stage.fleet(2).await;
    for (name, said) in [("traps", "trap"), ("answers-a-stranger", "no member"), ("spins", "cpu")] {
        fleet.create(name).await;
        fleet.hosts[0].push(&fixture(name, 1)).await;
        fleet.hosts[0].activate(name, name).await;
        let clients: Vec<_> = fleet.hosts.iter().map(|host| host.session()).collect();
        for (index, client) in clients.iter().enumerate() {
            client.join(name, &format!("m{index}"), 1).await;
        }
        led_by(&fleet.hosts[1].runtime, name, "m0").await;
        clients[0].end().await;
        led_by(&fleet.hosts[1].runtime, name, "m1").await;
        let runtime = &fleet.hosts[1].runtime;
        let claim = || {
            let decisions = runtime.decisions(name, 100).unwrap();
            decisions.into_iter().find(|decision| decision.outcome == Outcome::Claimed)
        };
        eventually("the claim is recorded", || claim().is_some()).await;
        let claim = claim().unwrap();
        let fault = claim.fault.clone().unwrap_or_default();
        assert!(fault.to_lowercase().contains(said), "{name}: {fault}");
        assert_eq!(claim.policy.as_deref(), Some(name));
    }
}

async fn a_host_that_cannot_load_the_bound_rule_is_behind_and_decides_nothing(stage: Stage) {
    let fleet = stage.fleet(3).await;
    fleet.create("web").await;
    let witness = Witness::begin(&fleet.hosts[0].runtime, &runtimes(&fleet), "web");
    // Host 2 cannot read what lies in the backend, only what its watch brings.
    fleet.hosts[2].faults.inject(Operation::List, Fault::Refuse);
    fleet.hosts[0].push(&shipped("elect-oldest")).await;
    let bound = fleet.hosts[0].activate("web", "elect-oldest").await;
    let clients: Vec<_> = fleet.hosts.iter().map(|host| host.session()).collect();
    clients[2].join("web", "m2", 1).await;
    let behind = || {
        let hosts = fleet.hosts[0].runtime.group("web").unwrap().hosts;
        hosts.iter().any(|host| host.behind && host.name == "host-2" && host.reason.is_some())
    };
    eventually("host 2 is reported behind, with a reason", behind).await;
    clients[0].join("web", "m0", 1).await;
    led_by(&fleet.hosts[1].runtime, "web", "m0").await;
    assert_eq!(
        fleet.hosts[2].runtime.decisions("web", 10).unwrap(),
        [],
        "it decided nothing, not even natively"
    );
    fleet.hosts[2].faults.heal();
    let caught_up = || {
        let hosts = fleet.hosts[0].runtime.group("web").unwrap().hosts;
        hosts.iter().all(|host| !host.behind && host.epoch == bound.epoch)
    };
    eventually("host 2 catches up", caught_up).await;
    clients[0].end().await;
    led_by(&fleet.hosts[1].runtime, "web", "m2").await;
    witness.attest().await;
}

async fn a_host_that_hears_late_decides_by_the_older_rule_and_changes_nothing_by_it(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    for policy in ["elect-oldest", "elect-weighted"] {
        fleet.hosts[0].push(&shipped(policy)).await;
    }
    fleet.hosts[0].activate("web", "elect-oldest").await;
    let (first, second) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    first.join("web", "a", 1).await;
    led_by(&fleet.hosts[1].runtime, "web", "a").await;
    second.join("web", "b", 1).await;
    let late = &fleet.hosts[1].runtime;
    eventually("the late host has the first rule", || {
        late.group("web").unwrap().hosts.iter().all(|host| host.epoch == 1)
    })
    .await;
    let witness = Witness::begin(&fleet.hosts[0].runtime, &runtimes(&fleet), "web");
    // It decides as soon as it hears of the vacancy; when its claim arrives, the rule has changed, which it has not heard.
    let faults = &fleet.hosts[1].faults;
    faults.inject_on_commits(Fault::BlackHole, writes_group);
    first.end().await;
    eventually("the claim is on its way", || faults.met() > 0).await;
    faults.inject(Operation::Next, Fault::BlackHole);
    fleet.hosts[0].activate("web", "elect-weighted").await;
    faults.heal();
    led_by(&fleet.hosts[0].runtime, "web", "b").await;
    let made = |epoch: u64, outcome: Outcome| {
        let decisions = late.decisions("web", 100).unwrap();
        decisions.iter().any(|decision| decision.epoch == epoch && decision.outcome == outcome)
    };
    eventually("the claim under the new rule is recorded", || made(2, Outcome::Claimed)).await;
    assert!(made(1, Outcome::Conflict), "it did decide by the older rule, and the store refused");
    assert!(!made(1, Outcome::Claimed));
    witness.attest().await;
}

async fn a_storm_of_joins_leaves_swaps_and_lost_messages_keeps_the_promises(stage: Stage) {
    let fleet = stage.fleet(3).await;
    fleet.create("web").await;
    for policy in ["elect-oldest", "elect-weighted"] {
        fleet.hosts[0].push(&shipped(policy)).await;
    }
    let witness = Witness::begin(&fleet.hosts[0].runtime, &runtimes(&fleet), "web");
    for host in &fleet.hosts[1..] {
        host.faults.inject_sometimes(Operation::Commit, Fault::LoseReply, 0.05);
        host.faults.inject_sometimes(Operation::Commit, Fault::LoseRequest, 0.05);
        host.faults.inject_sometimes(Operation::Renew, Fault::Refuse, 0.3);
        host.faults.inject_sometimes(Operation::Next, Fault::Delay(Duration::from_millis(5)), 0.2);
    }
    for round in 0..40u32 {
        let host = &fleet.hosts[round as usize % 3];
        let client = host.session();
        let joined = client.runtime.join(
            &client.key,
            "web",
            JoinAsk {
                id: format!("m{round}"),
                metadata: [("weight".to_owned(), round.to_string())].into(),
                ..Default::default()
            },
        );
        let lost = joined.await.is_err();
        if round % 10 == 5 {
            let policy = ["elect-oldest", "elect-weighted"][(round / 10) as usize % 2];
            fleet.hosts[0].activate("web", policy).await;
        }
        if lost || round % 4 != 0 {
            // A session may end with a lost message too; the host goes on until its members are gone.
            drop(client.runtime.end_session(&client.key).await);
        }
    }
    fleet.hosts.iter().for_each(|host| host.faults.heal());
    let runtime = &fleet.hosts[0].runtime;
    let stay: Vec<String> = (0..40).filter(|round| round % 4 == 0).map(|round| format!("m{round}")).collect();
    let settled = || {
        let group = runtime.group("web").unwrap();
        group.leader.is_some() && group.members.iter().all(|member| stay.contains(&member.id))
    };
    eventually("one of those that stayed leads, and nobody else is left", settled).await;
    assert!(witness.attest().await.len() > 1);
    let mut claims: Vec<_> = runtimes(&fleet)
        .iter()
        .flat_map(|runtime| runtime.decisions("web", 1000).unwrap())
        .filter_map(|decision| Some((decision.term?, decision.epoch)))
        .collect();
    claims.sort_unstable();
    let in_order = |pair: &[(Revision, u64)]| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1;
    assert!(claims.windows(2).all(in_order), "no term twice, none by a rule that was retired: {claims:?}");
}
