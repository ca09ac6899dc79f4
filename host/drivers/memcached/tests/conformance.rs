//! memcached does what every driver must do, and no more than it says.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use althing_conformance::{Subject, main as run, trials};
use althing_core::{Clock, Driver, Error, Kind, OsChance, Result, SystemClock};
use althing_driver_memcached::Memcached;
use althing_test_servers::{Memcached as Server, MemcachedOptions, ready_for};
use tokio::sync::Mutex;

/// A private server for one case.
struct OnMemcached {
    url: String,
    server: Mutex<Server>,
}

impl OnMemcached {
    async fn start() -> Result<OnMemcached> {
        let missing = || Error::new(Kind::NotFound, "start", "memcached is not in PATH");
        let server = Server::start(MemcachedOptions::default()).await.ok_or_else(missing)?;
        Ok(OnMemcached { url: server.url(""), server: Mutex::new(server) })
    }
}

#[async_trait::async_trait]
impl Subject for OnMemcached {
    async fn connect(&self, namespace: &str) -> Result<Arc<dyn Driver>> {
        let location = format!("{}{namespace}", self.url).parse()?;
        Ok(Arc::new(Memcached::connect(&location, Arc::new(SystemClock), Arc::new(OsChance)).await?))
    }

    async fn pass(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    async fn restart(&self) -> bool {
        self.server.lock().await.restart().await;
        true
    }
}

fn main() -> ExitCode {
    let missing = !ready_for("memcached");
    let all = trials("memcached", OnMemcached::start);
    run(all.into_iter().map(|trial| trial.with_ignored_flag(missing)).collect())
}
