//! ZooKeeper does what every driver must do, on one server and on three.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use althing_conformance::{Subject, main as run, trials_by_file};
use althing_core::{Clock, Driver, Error, Kind, OsChance, Result, SystemClock};
use althing_driver_zookeeper::ZooKeeper;
use althing_test_servers::{Ensemble, ZooKeeper as Server, ZooKeeperOptions, ready_for};
use tokio::sync::Mutex;

/// Private servers for the cases of a file.
struct OnZooKeeper {
    url: String,
    servers: Mutex<Servers>,
}

enum Servers {
    One(Server),
    Three(Ensemble),
}

fn missing() -> Error {
    Error::new(Kind::NotFound, "start", "ZooKeeper is not installed")
}

impl OnZooKeeper {
    async fn one() -> Result<OnZooKeeper> {
        let server = Server::start(ZooKeeperOptions::default()).await.ok_or_else(missing)?;
        Ok(OnZooKeeper { url: server.url(""), servers: Mutex::new(Servers::One(server)) })
    }

    async fn three() -> Result<OnZooKeeper> {
        let ensemble = Ensemble::start(3, ZooKeeperOptions::default()).await.ok_or_else(missing)?;
        Ok(OnZooKeeper { url: ensemble.url(""), servers: Mutex::new(Servers::Three(ensemble)) })
    }
}

#[async_trait::async_trait]
impl Subject for OnZooKeeper {
    async fn connect(&self, namespace: &str) -> Result<Arc<dyn Driver>> {
        // Three servers and a case share the processors of a small machine: a call may take long, and a session
        // may be touched late. To say a longer tick than the servers have is to be careful.
        let location = format!("{}{namespace}&timeout=10s&tick=600ms", self.url).parse()?;
        Ok(Arc::new(ZooKeeper::connect(&location, Arc::new(SystemClock), Arc::new(OsChance)).await?))
    }

    async fn pass(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    async fn restart(&self) -> bool {
        match &mut *self.servers.lock().await {
            Servers::One(server) => server.node_mut().restart().await,
            Servers::Three(ensemble) => ensemble.restart().await,
        }
        true
    }
}

fn main() -> ExitCode {
    let mut all = trials_by_file("zookeeper", OnZooKeeper::one);
    all.extend(trials_by_file("ensemble", OnZooKeeper::three));
    let missing = !ready_for("zookeeper");
    run(all.into_iter().map(|trial| trial.with_ignored_flag(missing)).collect())
}
