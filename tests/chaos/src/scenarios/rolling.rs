//! A rolling restart of servers that agree, under load: what an operator does on a working day.

use althing_test_servers::Server;
use anyhow::{Result, ensure};

use crate::stage::Stage;

/// Restarts every server, the leader last. The leader of the group must be the same before and after; that nobody
/// missed an event is for the checker to say.
pub(super) async fn round(stage: &mut Stage) -> Result<()> {
    let (_, before) = stage.leader().await?;
    stage.ground.fault("rolling restart of all servers");
    match &mut stage.ground.server {
        Server::Ensemble(ensemble) => ensemble.roll().await,
        Server::Etcd(cluster) => cluster.roll().await,
        _ => {}
    }
    stage.heal().await?;
    let (_, after) = stage.leader().await?;
    ensure!(after.term == before.term, "the leader changed: {after:?} follows {before:?}");
    Ok(())
}
