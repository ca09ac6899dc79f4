//! etcd does what every driver must do, on one member and on three.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use althing_conformance::{Stage, Subject, cases, main as run, trials};
use althing_core::{Clock, Driver, Error, Kind, OsChance, Result, SystemClock};
use althing_driver_etcd::Etcd;
use althing_test_servers::{Etcd as Server, EtcdOptions, ready_for};
use libtest_mimic::Trial;
use tokio::sync::Mutex;

/// Private members for one case.
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

/// How long one case may take on the wall.
const CASE_DEADLINE: Duration = Duration::from_secs(150);

/// Makes one test of all cases of a file, one after the other on the same three members.
fn on_three(file: &'static str) -> Trial {
    Trial::test(format!("etcd-3::{file}"), move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async move {
            let servers = Arc::new(OnEtcd::start(3).await?);
            let ours = cases().iter().filter(|case| case.name.split("::").next() == Some(file));
            for case in ours {
                let stage = Stage::new(servers.clone(), case.name.replace("::", "-"));
                let run = tokio::time::timeout(CASE_DEADLINE, tokio::spawn((case.run)(stage)));
                let ended = run.await.map_err(|_| format!("{} hangs", case.name))?;
                ended.map_err(|error| format!("{}: {error}", case.name))?;
            }
            Ok(())
        })
    })
}

fn main() -> ExitCode {
    let mut all = trials("etcd-1", || OnEtcd::start(1));
    let files: BTreeSet<_> = cases().iter().filter_map(|case| case.name.split("::").next()).collect();
    all.extend(files.into_iter().map(on_three));
    let missing = !ready_for("etcd");
    run(all.into_iter().map(|trial| trial.with_ignored_flag(missing)).collect())
}
