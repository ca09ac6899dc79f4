//! Fleets on real servers that are killed and started again, or stopped, under them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use althing_core::info::{JoinAsk, SessionEvent};
use althing_core::{Kind, Principal, Requirement};
use althing_runtime::Runtime;
use althing_sim::{Client, Fleet, Stage, Witness, eventually, led_by, next_told, quick};
use althing_test_servers::{Backend, Redis, RedisOptions, Server};

althing_sim::suite! {
    Backend::LASTING => [
        a_server_that_is_killed_and_comes_back_changes_no_leader,
        a_server_that_stands_still_longer_than_the_lease_ends_every_hold,
    ],
    &[Backend::Redis, Backend::Memcached] => [a_server_that_forgot_everything_is_told_of_and_tokens_still_rise],
}

fn runtimes(fleet: &Fleet) -> Vec<Runtime> {
    fleet.hosts.iter().map(|host| host.runtime.clone()).collect()
}

/// One member on each host, the first of which leads.
async fn populate(fleet: &Fleet) -> Vec<Client> {
    fleet.create("web").await;
    let clients: Vec<_> = fleet.hosts.iter().map(|host| host.session()).collect();
    for (index, client) in clients.iter().enumerate() {
        // Made again where the server forgets it.
        let ask = JoinAsk { id: format!("m{index}"), create: true, ..JoinAsk::default() };
        client.runtime.join(&client.key, "web", ask).await.unwrap();
    }
    for host in &fleet.hosts {
        led_by(&host.runtime, "web", "m0").await;
        let runtime = host.runtime.clone();
        let all = || runtime.group("web").unwrap().members.len() == clients.len();
        eventually("all members are seen", all).await;
    }
    clients
}

/// Takes a server that writes nothing to disk.
async fn forgetful(stage: Stage) -> Stage {
    if !matches!(*stage.server.lock().await, Server::Redis(_)) {
        return stage;
    }
    let redis = Redis::start(RedisOptions::default()).await.unwrap();
    Stage::alone_on(Server::Redis(Box::new(redis))).await
}

/// Makes a group by a host's own way to the backend, and waits until the host's watch tells of it.
async fn finds_the_server_again(client: &Client, group: &str) {
    while let Err(error) = client.runtime.create_group(&Principal::Embedder, group, &Requirement::NONE).await
    {
        assert!(matches!(error.kind(), Kind::Unavailable | Kind::Timeout | Kind::Exists), "{error}");
        if error.kind() == Kind::Exists {
            break;
        }
    }
    eventually("the watch goes on", || client.runtime.group(group).is_ok()).await;
}

async fn a_server_that_is_killed_and_comes_back_changes_no_leader(stage: Stage) {
    // So long that no slow machine lets it run out: nothing but the restart could move the leader.
    let patient = |config: &mut althing_runtime::RuntimeConfig| {
        config.tuning = quick();
        config.lease = Duration::from_secs(60);
    };
    let fleet = stage.fleet_with(3, patient).await;
    let clients = populate(&fleet).await;
    let witness = Witness::begin(&fleet.hosts[1].runtime, &runtimes(&fleet), "web");
    let before = fleet.hosts[0].runtime.group("web").unwrap();
    let term = before.leader.as_ref().unwrap().term;
    stage.server.lock().await.restart().await;
    for (index, client) in clients.iter().enumerate() {
        finds_the_server_again(client, &format!("after-{index}")).await;
        let after = client.runtime.group("web").unwrap();
        assert_eq!((&after.leader, &after.members), (&before.leader, &before.members));
    }
    assert!(fleet.hosts[0].runtime.holds("web", term));
    assert_eq!(witness.attest().await.len(), 1);
}

async fn a_server_that_stands_still_longer_than_the_lease_ends_every_hold(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let clients = populate(&fleet).await;
    let witness = Witness::begin(&fleet.hosts[1].runtime, &runtimes(&fleet), "web");
    let mut told = clients[0].events();
    stage.server.lock().await.pause().await;
    next_told(&mut told, |event| matches!(event, SessionEvent::Lost { .. }).then_some(())).await;
    stage.server.lock().await.resume();
    next_told(&mut told, |event| matches!(event, SessionEvent::Rejoined { .. }).then_some(())).await;
    let runtime = &fleet.hosts[1].runtime;
    let whole = || {
        let group = runtime.group("web").unwrap();
        group.members.len() == 2 && group.leader.is_some()
    };
    eventually("both are members again and somebody leads", whole).await;
    witness.attest().await;
}

async fn a_server_that_forgot_everything_is_told_of_and_tokens_still_rise(stage: Stage) {
    let stage = forgetful(stage).await;
    let fleet = stage.fleet(3).await;
    let clients = populate(&fleet).await;
    let before = fleet.hosts[0].runtime.group("web").unwrap().leader.unwrap().term;
    let mut told = clients[0].events();
    stage.server.lock().await.restart().await;
    next_told(&mut told, |event| matches!(event, SessionEvent::Lost { .. }).then_some(())).await;
    next_told(&mut told, |event| matches!(event, SessionEvent::Rejoined { .. }).then_some(())).await;
    let runtime = &fleet.hosts[1].runtime;
    let whole = || runtime.group("web").is_ok_and(|group| group.members.len() == 3 && group.leader.is_some());
    eventually("all are members again and somebody leads", whole).await;
    let after = runtime.group("web").unwrap().leader.unwrap().term;
    assert!(after > before, "{after} follows {before}");
    assert!(!runtimes(&fleet).iter().any(|runtime| runtime.holds("web", before)));
}
