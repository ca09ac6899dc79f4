//! Elections on fleets of one and three hosts, on a healthy backend.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use althing_core::info::{Event, Outcome, SessionAsk, SessionEvent, StoodDown};
use althing_core::layers::{Fault, Operation};
use althing_core::{Kind, Principal};
use althing_runtime::Runtime;
use althing_sim::{
    Fleet, Stage, Witness, eventually, led_by, next_event, next_told, shipped, told_elected, writes_member,
};
use althing_test_servers::Backend;

althing_sim::suite! {
    Backend::ALL => [
        the_oldest_leads_and_the_next_follows_when_its_session_ends,
        a_weighted_rule_moves_the_leadership_to_another_host_and_back,
        a_remote_leader_is_asked_to_stop_and_the_move_waits_for_its_word,
        a_leader_that_stands_down_is_passed_over_while_there_are_others,
        a_member_that_was_passed_over_is_asked_for_again_when_its_back_off_ends,
        a_member_whose_join_is_not_done_is_waited_for_and_not_passed_over,
        nobody_leads_below_the_quorum_and_somebody_does_above_it,
        no_decision_after_a_swap_is_made_by_the_retired_digest,
    ],
}

fn runtimes(fleet: &Fleet) -> Vec<Runtime> {
    fleet.hosts.iter().map(|host| host.runtime.clone()).collect()
}

/// Waits until every host sees that every host runs the first rule.
async fn followed(fleet: &Fleet) {
    for host in &fleet.hosts {
        let followed = || {
            let hosts = host.runtime.group("web").unwrap().hosts;
            hosts.len() == fleet.hosts.len() && hosts.iter().all(|host| host.epoch == 1 && !host.behind)
        };
        eventually("every host has followed", followed).await;
    }
}

async fn the_oldest_leads_and_the_next_follows_when_its_session_ends(stage: Stage) {
    let fleet = stage.fleet(1).await;
    fleet.create("web").await;
    let runtime = &fleet.hosts[0].runtime;
    let witness = Witness::begin(runtime, &runtimes(&fleet), "web");
    let (first, second) = (fleet.hosts[0].session(), fleet.hosts[0].session());
    first.join("web", "a", 1).await;
    led_by(runtime, "web", "a").await;
    second.join("web", "b", 9).await;
    let mut events = runtime.watch_group("web").unwrap();
    first.end().await;
    let left = next_event(&mut events, |event| match event {
        Event::Left { id, .. } => Some(id.clone()),
        _ => None,
    });
    assert_eq!(left.await, "a");
    led_by(runtime, "web", "b").await;
    let terms = witness.attest().await;
    assert_eq!(terms.iter().map(|term| term.member.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

async fn a_weighted_rule_moves_the_leadership_to_another_host_and_back(stage: Stage) {
    let fleet = stage.fleet(3).await;
    fleet.create("web").await;
    let witness = Witness::begin(&fleet.hosts[0].runtime, &runtimes(&fleet), "web");
    let clients: Vec<_> = fleet.hosts.iter().map(|host| host.session()).collect();
    for (index, client) in clients.iter().enumerate() {
        client.join("web", &format!("m{index}"), index as u32 * 10).await;
    }
    led_by(&fleet.hosts[2].runtime, "web", "m0").await;
    fleet.hosts[1].push(&shipped("elect-weighted")).await;
    let info = fleet.hosts[1].activate("web", "elect-weighted").await;
    assert_eq!((info.epoch, info.binding.unwrap().policy.as_str()), (1, "elect-weighted"));
    led_by(&fleet.hosts[0].runtime, "web", "m2").await;
    followed(&fleet).await;
    clients[2].end().await;
    led_by(&fleet.hosts[0].runtime, "web", "m1").await;
    let info = fleet.hosts[0].runtime.rollback(&Principal::Embedder, "web").await.unwrap();
    assert_eq!((info.epoch, info.binding), (2, None));
    witness.attest().await;
}

async fn a_remote_leader_is_asked_to_stop_and_the_move_waits_for_its_word(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    let ask = SessionAsk { ttl_ms: Some(600_000), ..SessionAsk::default() };
    let leader = fleet.hosts[0].session_with(ask, true);
    let mut told = leader.events();
    leader.join("web", "a", 1).await;
    let hold = told_elected(&mut told).await;
    fleet.hosts[1].session().join("web", "b", 99).await;
    fleet.hosts[0].push(&shipped("elect-weighted")).await;
    fleet.hosts[0].activate("web", "elect-weighted").await;
    let stop = next_told(&mut told, |event| match event {
        SessionEvent::Stop { hold } => Some(hold.clone()),
        _ => None,
    })
    .await;
    assert_eq!(stop, hold);
    assert!(!fleet.hosts[0].runtime.holds("web", hold.term), "it was told to stop");
    let leading = fleet.hosts[1].runtime.group("web").unwrap().leader.unwrap();
    assert_eq!(leading.member, "a", "it has not confirmed: nobody may take over yet");
    assert!(leader.runtime.renew_session(&leader.key).unwrap().holds.is_empty());
    leader.runtime.confirm_stopped(&leader.key, "web", hold.term).unwrap();
    led_by(&fleet.hosts[1].runtime, "web", "b").await;
}

async fn a_leader_that_stands_down_is_passed_over_while_there_are_others(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    fleet.hosts[0].session().join("web", "a", 1).await;
    led_by(&fleet.hosts[1].runtime, "web", "a").await;
    fleet.hosts[1].session().join("web", "b", 1).await;
    let stood = fleet.hosts[1].runtime.stand_down(&Principal::Embedder, "web").await.unwrap();
    assert_eq!(stood, StoodDown::Stopped);
    led_by(&fleet.hosts[0].runtime, "web", "b").await;
    let none = fleet.hosts[0].runtime.stand_down(&Principal::Embedder, "absent").await.unwrap_err();
    assert_eq!(none.kind(), Kind::NotFound);
}

async fn a_member_that_was_passed_over_is_asked_for_again_when_its_back_off_ends(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    fleet.hosts[0].push(&shipped("elect-weighted")).await;
    fleet.hosts[0].activate("web", "elect-weighted").await;
    followed(&fleet).await;
    let runtime = &fleet.hosts[1].runtime;
    fleet.hosts[0].session().join("web", "heavy", 9).await;
    led_by(runtime, "web", "heavy").await;
    fleet.hosts[1].session().join("web", "light", 1).await;
    let stood = runtime.stand_down(&Principal::Embedder, "web").await.unwrap();
    assert_eq!(stood, StoodDown::Stopped);
    led_by(runtime, "web", "light").await;
    // Nothing changes in the group any more but that time passes.
    led_by(runtime, "web", "heavy").await;
}

async fn a_member_whose_join_is_not_done_is_waited_for_and_not_passed_over(stage: Stage) {
    let fleet = stage.fleet(1).await;
    let host = &fleet.hosts[0];
    fleet.create("web").await;
    host.push(&shipped("elect-weighted")).await;
    host.activate("web", "elect-weighted").await;
    host.session().join("web", "light", 1).await;
    led_by(&host.runtime, "web", "light").await;
    // The watch shows the member before its own join knows that it was written.
    host.faults.inject_on_commits(Fault::LoseReply, writes_member);
    host.faults.inject(Operation::Get, Fault::Delay(Duration::from_secs(1)));
    host.session().join("web", "heavy", 9).await;
    led_by(&host.runtime, "web", "heavy").await;
    let outcomes: Vec<_> =
        host.runtime.decisions("web", 16).unwrap().into_iter().map(|made| made.outcome).collect();
    assert!(outcomes.contains(&Outcome::Waiting), "it was named while it joined: {outcomes:?}");
    assert!(!outcomes.contains(&Outcome::Nominated), "nobody else is asked within one host: {outcomes:?}");
}

async fn nobody_leads_below_the_quorum_and_somebody_does_above_it(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    fleet.hosts[0].push(&shipped("elect-quorum")).await;
    fleet.hosts[0].activate("web", "elect-quorum").await;
    let clients: Vec<_> = (0..4).map(|index| fleet.hosts[index % 2].session()).collect();
    clients[0].join("web", "m0", 1).await;
    assert!(fleet.hosts[0].runtime.rehearse("web").await.unwrap().fault.is_none());
    for (index, client) in clients.iter().enumerate().skip(1) {
        client.join("web", &format!("m{index}"), 1).await;
    }
    led_by(&fleet.hosts[0].runtime, "web", "m0").await;
    for client in &clients[1..] {
        client.end().await;
    }
    let runtime = &fleet.hosts[1].runtime;
    eventually("the leader gives up", || runtime.group("web").unwrap().leader.is_none()).await;
}

async fn no_decision_after_a_swap_is_made_by_the_retired_digest(stage: Stage) {
    let fleet = stage.fleet(1).await;
    fleet.create("web").await;
    let host = &fleet.hosts[0];
    host.session().join("web", "a", 1).await;
    for policy in ["elect-oldest", "elect-quorum"] {
        host.push(&shipped(policy)).await;
    }
    host.activate("web", "elect-oldest").await;
    let retired = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (runtime, retired) = (host.runtime.clone(), retired.clone());
            tokio::spawn(async move {
                let mut made = 0u64;
                while made < 100_000 {
                    let epoch = retired.load(std::sync::atomic::Ordering::SeqCst);
                    let decision = runtime.rehearse("web").await.unwrap();
                    assert!(decision.epoch > epoch, "epoch {} after {epoch} was retired", decision.epoch);
                    // Of so many calls one may be charged, on a busy machine, for more than its processor time.
                    let is_busy = |fault: &String| fault.starts_with("fault (cpu)");
                    assert!(decision.fault.as_ref().is_none_or(is_busy), "{:?}", decision.fault);
                    made += 1;
                }
            })
        })
        .collect();
    for swap in 0..50 {
        let policy = ["elect-quorum", "elect-oldest"][swap % 2];
        let info = host.activate("web", policy).await;
        retired.store(info.epoch - 1, std::sync::atomic::Ordering::SeqCst);
    }
    callers.iter().for_each(|caller| assert!(!caller.is_finished(), "callers decided all the while"));
    callers.iter().for_each(tokio::task::JoinHandle::abort);
}
