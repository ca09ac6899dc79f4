//! Partitioned groups on fleets of two and three hosts: every object has one owner or none, whatever moves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use althing_core::info::{Algorithm, Event, JoinAsk, OwnersAsk, PartitionAsk, PartitionInfo, UpdateAsk};
use althing_core::layers::{Fault, Operation};
use althing_core::{Kind, Principal};
use althing_runtime::Runtime;
use althing_sim::{Client, Fleet, Stage, eventually, next_event};
use althing_test_servers::Backend;
use serde_json::json;

althing_sim::suite! {
    Backend::ALL => [
        what_moves_belongs_to_nobody_until_it_was_given_up,
        who_is_gone_holds_nothing_and_is_not_waited_for,
        changes_that_come_while_shares_move_wait_for_their_turn,
        a_weight_that_changes_moves_shares_and_zero_takes_all,
        settings_are_made_once_and_go_with_the_group,
        a_host_that_is_cut_off_leaves_its_members_shares_to_others,
    ],
}

const OBJECTS: usize = 200;

fn objects() -> Vec<String> {
    (0..OBJECTS).map(|index| format!("object-{index}")).collect()
}

/// Whom each object belongs to, as a host has seen it.
fn owners(runtime: &Runtime) -> BTreeMap<String, Option<String>> {
    let ask = OwnersAsk { objects: objects(), replicas: None };
    let owners = runtime.owners("web", &ask).unwrap().objects;
    owners.into_iter().map(|owners| (owners.object, owners.owner)).collect()
}

fn nobodys(runtime: &Runtime) -> usize {
    owners(runtime).values().filter(|owner| owner.is_none()).count()
}

async fn join(client: &Client, id: &str, weight: u64) {
    let ask = JoinAsk { id: id.into(), capabilities: json!({ "weight": weight }), ..JoinAsk::default() };
    client.runtime.join(&client.key, "web", ask).await.unwrap();
}

/// Waits until every host sees so many members.
async fn joined(fleet: &Fleet, members: usize) {
    for host in &fleet.hosts {
        let runtime = host.runtime.clone();
        eventually("all have joined", || runtime.group("web").unwrap().members.len() == members).await;
    }
}

async fn partition(runtime: &Runtime, algorithm: Algorithm) -> PartitionInfo {
    let ask = PartitionAsk { algorithm, ..PartitionAsk::default() };
    runtime.partition_group(&Principal::Embedder, "web", &ask).await.unwrap()
}

/// Waits until every host sees this version with so many pending.
async fn seen(fleet: &Fleet, version: u64, pending: &[&str]) {
    for host in &fleet.hosts {
        let runtime = host.runtime.clone();
        let is_so =
            || runtime.partition("web").is_ok_and(|info| info.version == version && info.pending == pending);
        eventually(&format!("version {version} waits for {pending:?}"), is_so).await;
    }
}

async fn settle(client: &Client, id: &str) {
    let version = client.runtime.partition("web").unwrap().version;
    client.runtime.settle_partition(&client.key, "web", id, version).await.unwrap();
}

/// A fleet of two hosts with a group, and a session on each.
async fn pair(stage: &Stage) -> (Fleet, Client, Client) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    let (one, two) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    (fleet, one, two)
}

async fn what_moves_belongs_to_nobody_until_it_was_given_up(stage: Stage) {
    let (fleet, one, two) = pair(&stage).await;
    join(&one, "a", 1).await;
    let first = partition(&one.runtime, Algorithm::Ring).await;
    assert_eq!((first.version, first.members.len(), first.pending.len()), (1, 1, 0));
    assert!(owners(&one.runtime).values().all(|owner| owner.as_deref() == Some("a")));
    let mut events = fleet.hosts[1].runtime.watch_group("web").unwrap();
    join(&two, "b", 1).await;
    seen(&fleet, 2, &["a"]).await;
    for host in &fleet.hosts {
        let moving = owners(&host.runtime);
        assert!(moving.values().all(|owner| owner.as_deref() != Some("b")), "b has to wait");
        let nobodys = moving.values().filter(|owner| owner.is_none()).count();
        assert!((50..150).contains(&nobodys), "{nobodys} of {OBJECTS} move");
    }
    let error = two.runtime.settle_partition(&two.key, "web", "a", 2).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Denied, "it is not his to say");
    one.runtime.settle_partition(&one.key, "web", "a", 1).await.unwrap();
    seen(&fleet, 2, &["a"]).await;
    settle(&one, "a").await;
    seen(&fleet, 2, &[]).await;
    let settled = next_event(&mut events, |event| match event {
        Event::Partitioned { partition, .. } if partition.version == 2 => Some(partition.pending.is_empty()),
        _ => None,
    });
    assert!(!settled.await, "first it waits");
    assert_eq!(nobodys(&two.runtime), 0);
    assert!(owners(&two.runtime).values().any(|owner| owner.as_deref() == Some("b")));
    settle(&one, "a").await;
}

async fn who_is_gone_holds_nothing_and_is_not_waited_for(stage: Stage) {
    let (fleet, one, two) = pair(&stage).await;
    join(&one, "a", 1).await;
    join(&two, "b", 1).await;
    joined(&fleet, 2).await;
    partition(&two.runtime, Algorithm::Rendezvous).await;
    two.leave("web", "b").await;
    // Who gains everything gives nothing up.
    seen(&fleet, 2, &[]).await;
    assert!(owners(&one.runtime).values().all(|owner| owner.as_deref() == Some("a")));
    join(&two, "c", 1).await;
    seen(&fleet, 3, &["a"]).await;
    one.end().await;
    seen(&fleet, 4, &[]).await;
    assert!(owners(&two.runtime).values().all(|owner| owner.as_deref() == Some("c")));
}

async fn changes_that_come_while_shares_move_wait_for_their_turn(stage: Stage) {
    let fleet = stage.fleet(3).await;
    fleet.create("web").await;
    let clients: Vec<_> = fleet.hosts.iter().map(|host| host.session()).collect();
    join(&clients[0], "a", 1).await;
    partition(&clients[0].runtime, Algorithm::Ring).await;
    join(&clients[1], "b", 1).await;
    seen(&fleet, 2, &["a"]).await;
    join(&clients[2], "c", 1).await;
    eventually("c is a member", || fleet.hosts[0].runtime.group("web").unwrap().members.len() == 3).await;
    assert_eq!(fleet.hosts[0].runtime.partition("web").unwrap().members.len(), 2, "its turn comes");
    settle(&clients[0], "a").await;
    seen(&fleet, 3, &["a", "b"]).await;
    settle(&clients[0], "a").await;
    seen(&fleet, 3, &["b"]).await;
    settle(&clients[1], "b").await;
    seen(&fleet, 3, &[]).await;
    let shares = owners(&clients[2].runtime);
    for member in ["a", "b", "c"] {
        assert!(shares.values().filter(|owner| owner.as_deref() == Some(member)).count() > 20, "{member}");
    }
}

async fn a_weight_that_changes_moves_shares_and_zero_takes_all(stage: Stage) {
    let (fleet, one, two) = pair(&stage).await;
    join(&one, "a", 3).await;
    join(&two, "b", 1).await;
    joined(&fleet, 2).await;
    partition(&one.runtime, Algorithm::Ring).await;
    let of_a = || owners(&one.runtime).values().filter(|owner| owner.as_deref() == Some("a")).count();
    let before = of_a();
    let weigh = async |weight: u64| {
        let ask = UpdateAsk { capabilities: Some(json!({ "weight": weight })), ..UpdateAsk::default() };
        one.runtime.update_member(&one.key, "web", "a", ask).await.unwrap();
    };
    weigh(1).await;
    seen(&fleet, 2, &["a"]).await;
    settle(&one, "a").await;
    seen(&fleet, 2, &[]).await;
    assert!(of_a() < before, "{} of {before}", of_a());
    weigh(0).await;
    seen(&fleet, 3, &["a"]).await;
    settle(&one, "a").await;
    seen(&fleet, 3, &[]).await;
    assert_eq!(of_a(), 0);
}

async fn settings_are_made_once_and_go_with_the_group(stage: Stage) {
    let fleet = stage.fleet(2).await;
    fleet.create("web").await;
    let runtime = &fleet.hosts[0].runtime;
    assert_eq!(runtime.partition("web").unwrap_err().kind(), Kind::NotFound);
    let made = partition(runtime, Algorithm::Ring).await;
    assert_eq!(partition(&fleet.hosts[1].runtime, Algorithm::Ring).await, made);
    let other = PartitionAsk { points: 64, ..PartitionAsk::default() };
    let error = runtime.partition_group(&Principal::Embedder, "web", &other).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    let none = PartitionAsk { points: 0, ..PartitionAsk::default() };
    let error = runtime.partition_group(&Principal::Embedder, "web", &none).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    runtime.delete_group(&Principal::Embedder, "web").await.unwrap();
    eventually("it is gone", || fleet.hosts[1].runtime.partition("web").is_err()).await;
    fleet.create("web").await;
    assert_eq!(runtime.partition("web").unwrap_err().kind(), Kind::NotFound);
}

async fn a_host_that_is_cut_off_leaves_its_members_shares_to_others(stage: Stage) {
    let (fleet, one, two) = pair(&stage).await;
    join(&one, "a", 1).await;
    join(&two, "b", 1).await;
    joined(&fleet, 2).await;
    partition(&two.runtime, Algorithm::Ring).await;
    for operation in [Operation::Renew, Operation::Commit, Operation::Get, Operation::Next, Operation::Open] {
        fleet.hosts[0].faults.inject(operation, Fault::BlackHole);
    }
    let runtime = &fleet.hosts[1].runtime;
    eventually("b has all", || owners(runtime).values().all(|owner| owner.as_deref() == Some("b"))).await;
    fleet.hosts[0].faults.heal();
    // It joined again, and what it is to get has to be given up first.
    eventually("b is to give up", || runtime.partition("web").unwrap().pending == ["b"]).await;
    settle(&two, "b").await;
    eventually("a has a part again", || nobodys(runtime) == 0).await;
    assert!(owners(runtime).values().any(|owner| owner.as_deref() == Some("a")));
}
