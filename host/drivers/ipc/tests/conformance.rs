//! A daemon's backend does what every driver must do, in parts of its namespace, over memory and over Redis.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: what it does not expect ends it"
)]

mod daemon;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use althing_conformance::{Subject, main as run, trials};
use althing_core::{Clock, Driver, Error, Kind, OsChance, Result, SystemClock};
use althing_test_servers::{Redis as Server, RedisOptions, ready_for};
use tokio::sync::Mutex;

use crate::daemon::{Daemon, connect};

/// A daemon for one case. Its own fleet lives beside the case's namespace, which must not show it.
struct OnDaemon {
    daemon: Mutex<Daemon>,
    /// The backend of the daemon, where that is a process.
    redis: Option<Mutex<Server>>,
}

impl OnDaemon {
    async fn on_memory() -> Result<OnDaemon> {
        Ok(OnDaemon { daemon: Mutex::new(Daemon::on_memory().await), redis: None })
    }

    async fn on_redis() -> Result<OnDaemon> {
        let missing = || Error::new(Kind::NotFound, "start", "redis-server is not in PATH");
        let server = Server::start(RedisOptions::durable()).await.ok_or_else(missing)?;
        let location = server.url("daemon").parse()?;
        let redis =
            althing_driver_redis::Redis::connect(&location, Arc::new(SystemClock), Arc::new(OsChance))
                .await?;
        let daemon = Mutex::new(Daemon::start(Arc::new(redis)).await);
        Ok(OnDaemon { daemon, redis: Some(Mutex::new(server)) })
    }
}

#[async_trait::async_trait]
impl Subject for OnDaemon {
    async fn connect(&self, namespace: &str) -> Result<Arc<dyn Driver>> {
        let url = self.daemon.lock().await.url(namespace);
        Ok(Arc::new(connect(&url).await?))
    }

    async fn pass(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    /// The daemon dies, and its backend with it where that can come back.
    async fn restart(&self) -> bool {
        let mut daemon = self.daemon.lock().await;
        daemon.die().await;
        if let Some(redis) = &self.redis {
            redis.lock().await.restart().await;
        }
        daemon.begin().await;
        true
    }
}

fn main() -> ExitCode {
    let mut all = trials("ipc-memory", OnDaemon::on_memory);
    let missing = !ready_for("redis-server");
    let on_redis = trials("ipc-redis", OnDaemon::on_redis);
    all.extend(on_redis.into_iter().map(|trial| trial.with_ignored_flag(missing)));
    run(all)
}
