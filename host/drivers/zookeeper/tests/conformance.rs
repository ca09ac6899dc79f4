//! ZooKeeper does what every driver must do, on one server and on three.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use althing_conformance::{Stage, Subject, cases, main as run, trials};
use althing_core::{Clock, Driver, Error, Kind, OsChance, Result, SystemClock};
use althing_driver_zookeeper::ZooKeeper;
use althing_test_servers::{Ensemble, ZooKeeper as Server, ZooKeeperOptions, ready_for};
use libtest_mimic::Trial;
use tokio::sync::Mutex;

/// Private servers for one case.
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

/// How long all cases of a file may take on the wall.
const FILE_DEADLINE: Duration = Duration::from_secs(150);

/// Makes one test of all cases of a file, one after the other on the same three servers: to start them takes
/// longer than most cases.
fn on_three(file: &'static str) -> Trial {
    Trial::test(format!("zookeeper-3::{file}"), move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async move {
            let servers = Arc::new(OnZooKeeper::three().await?);
            let ours = cases().iter().filter(|case| case.name.split("::").next() == Some(file));
            for case in ours {
                let stage = Stage::new(servers.clone(), case.name.replace("::", "-"));
                let run = tokio::time::timeout(FILE_DEADLINE, tokio::spawn((case.run)(stage)));
                let ended = run.await.map_err(|_| format!("{} hangs", case.name))?;
                ended.map_err(|error| format!("{}: {error}", case.name))?;
            }
            Ok(())
        })
    })
}

fn main() -> ExitCode {
    let mut all = trials("zookeeper-1", OnZooKeeper::one);
    let files: BTreeSet<_> = cases().iter().filter_map(|case| case.name.split("::").next()).collect();
    all.extend(files.into_iter().map(on_three));
    let missing = !ready_for("zookeeper");
    run(all.into_iter().map(|trial| trial.with_ignored_flag(missing)).collect())
}
