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
    match stage.server {
        // Nothing outlives the only host.
        Server::Memory => return Ok(()),
        Server::Embedded(_) => return restart_host(stage).await,
        _ => kill_host(stage).await?,
    }
    if stage.server.pid().is_none() {
        return Ok(());
    }
    kill_server(stage).await?;
    stop_server(stage).await
}

async fn kill_member(stage: &mut Stage) -> Result<()> {
    let (place, leader) = stage.leader().await?;
    stage.fault(format!("kill -9 of {}, which leads", leader.member));
    stage.kill_member(place).await;
    stage.leader_after(leader.term).await?;
    stage.members[place].start()?;
    stage.heal().await
}

async fn stop_member(stage: &mut Stage) -> Result<()> {
    let (place, leader) = stage.leader().await?;
    stage.fault(format!("{}, which leads, stands still for three leases", leader.member));
    let stopped = Stopped::new(stage.members[place].pid());
    stage.stand(3 * stage.setting.lease).await;
    stopped.resume();
    stage.heal().await
}

async fn stop_host(stage: &mut Stage) -> Result<()> {
    let (place, _) = stage.leader().await?;
    let host = &stage.hosts[stage.members[place].host];
    let (name, stopped) = (host.name.clone(), Stopped::new(host.pid()));
    stage.fault(format!("{name}, whose member leads, stands still for three leases"));
    stage.stand(3 * stage.setting.lease).await;
    stopped.resume();
    stage.heal().await
}

async fn kill_host(stage: &mut Stage) -> Result<()> {
    let (place, leader) = stage.leader().await?;
    let host = stage.members[place].host;
    stage.fault(format!("{}{}", crate::report::HOST_KILLED, stage.hosts[host].name));
    stage.hosts[host].kill().await;
    stage.leader_after(leader.term).await?;
    stage.hosts[host].start().await?;
    stage.heal().await
}

async fn restart_host(stage: &mut Stage) -> Result<()> {
    let (_, leader) = stage.leader().await?;
    stage.fault(format!("kill -9 of {}, the only host, and its restart", stage.hosts[0].name));
    stage.hosts[0].kill().await;
    stage.hosts[0].start().await?;
    stage.leader_after(leader.term).await?;
    stage.heal().await
}

async fn kill_server(stage: &mut Stage) -> Result<()> {
    stage.fault("kill -9 of the server that leads, and its restart");
    stage.server.restart_one().await;
    stage.heal().await
}

async fn stop_server(stage: &mut Stage) -> Result<()> {
    stage.fault("the server that leads stands still for three leases");
    stage.server.pause_one().await;
    stage.stand(3 * stage.setting.lease).await;
    stage.server.resume();
    stage.heal().await
}
