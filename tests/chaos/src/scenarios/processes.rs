//! Processes that die and come back, or stand still for longer than anybody believes in them.

use althing_test_servers::Server;
use anyhow::Result;

use crate::signal::Stopped;
use crate::stage::Stage;

/// Each process suffers each fate once; where one of several may be chosen, it is the one that leads.
pub(super) async fn round(stage: &mut Stage) -> Result<()> {
    kill_member(stage).await?;
    stop_member(stage).await?;
    stop_host(stage).await?;
    match stage.ground.server {
        // Nothing outlives the only host.
        Server::Memory => return Ok(()),
        Server::Embedded(_) => return restart_host(stage).await,
        _ => kill_host(stage).await?,
    }
    if stage.ground.server.pid().is_none() {
        return Ok(());
    }
    kill_server(stage).await?;
    stop_server(stage).await
}

async fn kill_member(stage: &mut Stage) -> Result<()> {
    let (place, leader) = stage.leader().await?;
    stage.ground.fault(format!("kill -9 of {}, which leads", leader.member));
    stage.kill_member(place).await;
    stage.leader_after(leader.term).await?;
    stage.members[place].start()?;
    stage.heal().await
}

async fn stop_member(stage: &mut Stage) -> Result<()> {
    let (place, leader) = stage.leader().await?;
    stage.ground.fault(format!("{}, which leads, stands still for three leases", leader.member));
    let stopped = Stopped::new(stage.members[place].pid());
    stage.ground.stand(3 * stage.ground.setting.lease).await;
    stopped.resume();
    stage.heal().await
}

async fn stop_host(stage: &mut Stage) -> Result<()> {
    let (place, _) = stage.leader().await?;
    let host = &stage.ground.hosts[stage.members[place].host];
    let (name, stopped) = (host.name.clone(), Stopped::new(host.pid()));
    stage.ground.fault(format!("{name}, whose member leads, stands still for three leases"));
    stage.ground.stand(3 * stage.ground.setting.lease).await;
    stopped.resume();
    stage.heal().await
}

async fn kill_host(stage: &mut Stage) -> Result<()> {
    let (place, leader) = stage.leader().await?;
    let host = stage.members[place].host;
    stage.ground.fault(format!("{}{}", crate::report::HOST_KILLED, stage.ground.hosts[host].name));
    stage.ground.hosts[host].kill().await;
    stage.leader_after(leader.term).await?;
    stage.ground.hosts[host].start().await?;
    stage.heal().await
}

async fn restart_host(stage: &mut Stage) -> Result<()> {
    let (_, leader) = stage.leader().await?;
    stage.ground.fault(format!("kill -9 of {}, the only host, and its restart", stage.ground.hosts[0].name));
    stage.ground.hosts[0].kill().await;
    stage.ground.hosts[0].start().await?;
    stage.leader_after(leader.term).await?;
    stage.heal().await
}

async fn kill_server(stage: &mut Stage) -> Result<()> {
    stage.ground.fault("kill -9 of the server that leads, and its restart");
    stage.ground.server.restart_one().await;
    stage.heal().await
}

async fn stop_server(stage: &mut Stage) -> Result<()> {
    stage.ground.fault(format!("{} stands still for three leases", stage.ground.server.to_pause()));
    stage.ground.server.pause_one().await;
    stage.ground.stand(3 * stage.ground.setting.lease).await;
    stage.ground.server.resume();
    stage.heal().await
}
