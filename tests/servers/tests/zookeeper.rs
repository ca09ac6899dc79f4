//! The private ZooKeeper does what faults need: it dies, comes back, and an ensemble outlives a member.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use althing_core::{Clock, SystemClock};
use althing_test_servers::{Ensemble, EnsemblePlan, ZooKeeper, ZooKeeperOptions};

althing_test_servers::suite! {
    "zookeeper":
    comes_back_after_a_kill,
    an_ensemble_finds_another_leader,
    servers_reach_each_other_by_the_routes_they_are_given,
}

async fn comes_back_after_a_kill() {
    let mut server = ZooKeeper::start(ZooKeeperOptions::default()).await.expect("the server is there");
    server.node_mut().kill();
    assert_eq!(server.node().status(), None);
    server.node_mut().restart().await;
    assert!(server.node().status().is_some_and(|status| status.contains("Mode: standalone")));
}

async fn an_ensemble_finds_another_leader() {
    let mut ensemble = Ensemble::start(3, ZooKeeperOptions::default()).await.expect("the servers are there");
    let leader = ensemble.leader().expect("one of them leads");
    ensemble.nodes_mut()[leader].kill();
    while ensemble.leader().is_none_or(|found| found == leader) {
        SystemClock.sleep(Duration::from_millis(20)).await;
    }
    ensemble.nodes_mut()[leader].restart().await;
    assert!(!ensemble.nodes()[leader].is_leader());
}

/// Passes connections to `port` on, and counts them.
fn detour(port: u16) -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (here, count) = (listener.local_addr().expect("an address").port(), Arc::new(AtomicU32::new(0)));
    let passed = count.clone();
    std::thread::spawn(move || {
        for inner in listener.incoming().flatten() {
            let Ok(outer) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            passed.fetch_add(1, Ordering::Relaxed);
            for (mut from, mut to) in
                [(inner.try_clone().expect("a socket"), outer.try_clone().expect("a socket")), (outer, inner)]
            {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    (here, count)
}

async fn servers_reach_each_other_by_the_routes_they_are_given() {
    let route = |plan: &mut EnsemblePlan| {
        [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)].map(|(from, to)| {
            let [quorum, vote] = plan.peer_ports(to);
            let (here, count) = detour(quorum);
            plan.route(from, to, [here, vote]);
            (from, to, count)
        })
    };
    let started = Ensemble::start_routed(3, ZooKeeperOptions::default(), route).await;
    let (ensemble, counts) = started.expect("ZooKeeper is there");
    let leader = ensemble.leader().expect("one of them leads");
    for (from, to, count) in counts {
        let passed = count.load(Ordering::Relaxed) > 0;
        assert_eq!(passed, to == leader, "{from} reaches {to}, and {leader} leads");
    }
}
