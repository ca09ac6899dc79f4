//! Redis does what every driver must do, with everything on disk and with nothing.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use althing_conformance::{Subject, main as run, trials};
use althing_core::{Clock, Driver, Error, Kind, OsChance, Result, SystemClock};
use althing_driver_redis::Redis;
use althing_test_servers::{Redis as Server, RedisOptions, ready_for};
use tokio::sync::Mutex;

/// A private server for one case.
struct OnRedis {
    url: String,
    server: Mutex<Server>,
}

impl OnRedis {
    async fn start(options: RedisOptions) -> Result<OnRedis> {
        let missing = || Error::new(Kind::NotFound, "start", "redis-server is not in PATH");
        let server = Server::start(options).await.ok_or_else(missing)?;
        Ok(OnRedis { url: server.url(""), server: Mutex::new(server) })
    }
}

#[async_trait::async_trait]
impl Subject for OnRedis {
    async fn connect(&self, namespace: &str) -> Result<Arc<dyn Driver>> {
        let location = format!("{}{namespace}", self.url).parse()?;
        Ok(Arc::new(Redis::connect(&location, Arc::new(SystemClock), Arc::new(OsChance)).await?))
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
    let mut all = trials("redis-durable", || OnRedis::start(RedisOptions::durable()));
    all.extend(trials("redis-volatile", || OnRedis::start(RedisOptions::default())));
    let missing = !ready_for("redis-server");
    run(all.into_iter().map(|trial| trial.with_ignored_flag(missing)).collect())
}
