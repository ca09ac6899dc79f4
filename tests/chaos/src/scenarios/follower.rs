//! A server that is cut off from its leader and does not know it: it answers pings, so whoever takes an answered ping for
//! a living session believes too long (measured: 4.8 s with usual settings).

use std::time::Duration;

use althing_core::info::LeaderInfo;
use althing_core::{Clock, Revision, SystemClock};
use althing_test_servers::Server;
use anyhow::{Context, Result, ensure};
use tokio::time::timeout;

use crate::process::PATIENCE;
use crate::proxy::{Fault, Flow, Way};
use crate::stage::{GROUP, LOOK, Stage};

/// How long the cut stands at least: the next leader is there by then, and the server has not yet noticed by itself.
const CUT: Duration = Duration::from_secs(7);

/// Cuts off the server to which the host of the leader is pinned.
pub(super) async fn round(stage: &mut Stage) -> Result<()> {
    let (place, leader) = led_beside_a_follower(stage).await?;
    let cut_off = stage.members[place].host;
    let leads = stage.ground.server.leader().context("a server leads")?;
    let link = stage.ground.routes.iter().find(|route| (route.from, route.to) == (cut_off, leads));
    let link = &link.context("there is a link to the leader")?.proxy;
    for way in [Way::Up, Way::Down] {
        link.inject(Fault::Flow(way, Flow::Hold));
    }
    stage
        .ground
        .fault(format!("server {cut_off}, by which {} leads, is cut off from {leads}", leader.member));
    let begun = SystemClock.now();
    let next = next_elsewhere(stage, cut_off, leader.term).await?;
    stage.ground.done.push(format!("{next} leads after {:.1?}", SystemClock.now().since(begun)));
    ensure!(
        serves(stage, cut_off),
        "server {cut_off} noticed too early that it is cut off: nothing was shown"
    );
    stage.ground.stand((begun + CUT).since(SystemClock.now())).await;
    stage.heal().await
}

/// Sees to it that the leader's host is pinned to a server that follows. Returns the leader and its place.
async fn led_beside_a_follower(stage: &mut Stage) -> Result<(usize, LeaderInfo)> {
    let (mut place, mut leader) = stage.leader().await?;
    while stage.ground.server.leader() == Some(stage.members[place].host) {
        stage.kill_member(place).await;
        let next = stage.leader_after(leader.term).await?;
        stage.members[place].start()?;
        (place, leader) = next;
    }
    stage.settle().await?;
    Ok((place, leader))
}

/// Waits until a host other than the one at `cut_off` shows a leader of a later term. Returns its name.
async fn next_elsewhere(stage: &Stage, cut_off: usize, term: Revision) -> Result<String> {
    let others = || stage.ground.hosts.iter().enumerate().filter(|(place, _)| *place != cut_off);
    let search = async {
        loop {
            for (_, host) in others() {
                match host.client.leader(GROUP).await {
                    Ok(Some(next)) if next.term > term => return next.member,
                    _ => SystemClock.sleep(LOOK).await,
                }
            }
        }
    };
    timeout(PATIENCE, search).await.context("nobody else comes to lead")
}

/// Tells whether a server takes itself for a follower still, and serves its clients.
fn serves(stage: &Stage, place: usize) -> bool {
    match &stage.ground.server {
        Server::Ensemble(ensemble) => {
            ensemble.nodes()[place].status().is_some_and(|status| status.contains("Mode: follower"))
        }
        _ => false,
    }
}
