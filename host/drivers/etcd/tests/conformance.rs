//! etcd does what every driver must do, on one member and on three.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use althing_conformance::{Subject, main as run, trials_by_file};
use althing_core::{Clock, Driver, Error, Kind, OsChance, Result, SystemClock};
use althing_driver_etcd::Etcd;
use althing_test_servers::{Etcd as Server, EtcdOptions, ready_for};
use tokio::sync::Mutex;

/// Private members for the cases of a file.
struct OnEtcd {
    url: String,
    servers: Mutex<Server>,
}

impl OnEtcd {
    async fn start(count: usize) -> Result<OnEtcd> {
        let missing = || Error::new(Kind::NotFound, "start", "etcd is not installed");
        let servers = Server::start(count, EtcdOptions::default()).await.ok_or_else(missing)?;
        Ok(OnEtcd { url: servers.url(""), servers: Mutex::new(servers) })
    }
}

#[async_trait::async_trait]
impl Subject for OnEtcd {
    async fn connect(&self, namespace: &str) -> Result<Arc<dyn Driver>> {
        // Three members and a case share the processors of a small machine: a call may take long.
        let location = format!("{}{namespace}&timeout=10s", self.url).parse()?;
        Ok(Arc::new(Etcd::connect(&location, Arc::new(SystemClock), Arc::new(OsChance)).await?))
    }

    async fn pass(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    async fn restart(&self) -> bool {
        self.servers.lock().await.restart().await;
        true
    }
}

fn main() -> ExitCode {
    let mut all = trials_by_file("etcd", || OnEtcd::start(1));
    all.extend(trials_by_file("etcd-3", || OnEtcd::start(3)));
    let missing = !ready_for("etcd");
    run(all.into_iter().map(|trial| trial.with_ignored_flag(missing)).collect())
}
