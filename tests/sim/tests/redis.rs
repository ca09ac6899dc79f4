//! Fleets on a real Redis that is killed and started again, or stopped, under them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use althing_core::info::{JoinAsk, SessionEvent};
use althing_core::{Driver, Kind, OsChance, Principal, SystemClock};
use althing_driver_redis::Redis;
use althing_runtime::{Runtime, RuntimeConfig};
use althing_sim::{Client, Fleet, Witness, eventually, led_by, next_told, quick, shipped};
use althing_test_servers::{Redis as Server, RedisOptions};

althing_test_servers::suite! {
    "redis-server":
    a_durable_server_that_is_killed_and_comes_back_changes_no_leader,
    a_server_that_forgot_everything_is_told_of_and_tokens_still_rise,
    a_server_that_stands_still_longer_than_the_lease_ends_every_hold,
    a_rule_moves_the_leadership_between_hosts,
}

async fn fleet(server: &Server, hosts: usize) -> Fleet {
    fleet_with(server, hosts, Duration::from_secs(1)).await
}

async fn fleet_with(server: &Server, hosts: usize, lease: Duration) -> Fleet {
    let mut fleet = Fleet::on(connect(server).await);
    for seed in 0..hosts {
        let way = connect(server).await;
        let change = |config: &mut RuntimeConfig| {
            config.tuning = quick();
            config.lease = lease;
        };
        fleet.add_host_with(way, seed as u64 + 2, change).await;
    }
    fleet
}

async fn connect(server: &Server) -> Arc<dyn Driver> {
    let location = server.url("sim").parse().unwrap();
    Arc::new(Redis::connect(&location, Arc::new(SystemClock), Arc::new(OsChance)).await.unwrap())
}

fn runtimes(fleet: &Fleet) -> Vec<Runtime> {
    fleet.hosts.iter().map(|host| host.runtime.clone()).collect()
}

/// One member on each host, the first of which leads.
async fn populate(fleet: &Fleet) -> Vec<Client> {
    fleet.create("web").await;
    let clients: Vec<_> = fleet.hosts.iter().map(|host| host.session()).collect();
    for (index, client) in clients.iter().enumerate() {
        let metadata = [("weight".to_owned(), index.to_string())].into();
        let ask = JoinAsk { id: format!("m{index}"), metadata, create: true, ..JoinAsk::default() };
        client.runtime.join(&client.key, "web", ask).await.unwrap();
    }
    for host in &fleet.hosts {
        led_by(&host.runtime, "web", "m0").await;
    }
    clients
}

async fn a_durable_server_that_is_killed_and_comes_back_changes_no_leader() {
    let mut server = Server::start(RedisOptions::durable()).await.unwrap();
    // So long that no slow machine lets it run out: nothing but the restart could move the leader.
    let fleet = fleet_with(&server, 3, Duration::from_secs(60)).await;
    let clients = populate(&fleet).await;
    let witness = Witness::begin(&fleet.hosts[1].runtime, &runtimes(&fleet), "web");
    let before = fleet.hosts[0].runtime.group("web").unwrap();
    let term = before.leader.as_ref().unwrap().term;
    server.kill();
    server.restart().await;
    for (index, client) in clients.iter().enumerate() {
        // Goes to the server and comes back through the watch: this host has found the server again.
        let group = format!("after-{index}");
        let made = || client.runtime.create_group(&Principal::Embedder, &group);
        while let Err(error) = made().await {
            assert!(matches!(error.kind(), Kind::Unavailable | Kind::Timeout | Kind::Exists), "{error}");
            if error.kind() == Kind::Exists {
                break;
            }
        }
        eventually("the watch goes on", || client.runtime.group(&group).is_ok()).await;
        let after = client.runtime.group("web").unwrap();
        assert_eq!((&after.leader, &after.members), (&before.leader, &before.members));
    }
    assert!(fleet.hosts[0].runtime.holds("web", term));
    assert_eq!(witness.attest().await.len(), 1);
}

async fn a_server_that_forgot_everything_is_told_of_and_tokens_still_rise() {
    let mut server = Server::start(RedisOptions::default()).await.unwrap();
    let fleet = fleet(&server, 3).await;
    let clients = populate(&fleet).await;
    let before = fleet.hosts[0].runtime.group("web").unwrap().leader.unwrap().term;
    let mut told = clients[0].events();
    server.kill();
    server.restart().await;
    next_told(&mut told, |event| matches!(event, SessionEvent::Lost { .. }).then_some(())).await;
    next_told(&mut told, |event| matches!(event, SessionEvent::Rejoined { .. }).then_some(())).await;
    let runtime = &fleet.hosts[1].runtime;
    let whole = || runtime.group("web").is_ok_and(|group| group.members.len() == 3 && group.leader.is_some());
    eventually("all are members again and somebody leads", whole).await;
    let after = runtime.group("web").unwrap().leader.unwrap().term;
    assert!(after > before, "{after} follows {before}");
    assert!(!runtimes(&fleet).iter().any(|runtime| runtime.holds("web", before)));
}

async fn a_server_that_stands_still_longer_than_the_lease_ends_every_hold() {
    let server = Server::start(RedisOptions::default()).await.unwrap();
    let fleet = fleet(&server, 2).await;
    let clients = populate(&fleet).await;
    let witness = Witness::begin(&fleet.hosts[1].runtime, &runtimes(&fleet), "web");
    let mut told = clients[0].events();
    server.pause();
    next_told(&mut told, |event| matches!(event, SessionEvent::Lost { .. }).then_some(())).await;
    server.resume();
    next_told(&mut told, |event| matches!(event, SessionEvent::Rejoined { .. }).then_some(())).await;
    let runtime = &fleet.hosts[1].runtime;
    let whole = || {
        let group = runtime.group("web").unwrap();
        group.members.len() == 2 && group.leader.is_some()
    };
    eventually("both are members again and somebody leads", whole).await;
    witness.attest().await;
}

async fn a_rule_moves_the_leadership_between_hosts() {
    let server = Server::start(RedisOptions::default()).await.unwrap();
    let fleet = fleet(&server, 3).await;
    let witness_of = runtimes(&fleet);
    let clients = populate(&fleet).await;
    let witness = Witness::begin(&fleet.hosts[1].runtime, &witness_of, "web");
    fleet.hosts[0].push(&shipped("elect-weighted")).await;
    fleet.hosts[0].activate("web", "elect-weighted").await;
    led_by(&fleet.hosts[1].runtime, "web", "m2").await;
    clients[2].end().await;
    led_by(&fleet.hosts[0].runtime, "web", "m1").await;
    witness.attest().await;
}
