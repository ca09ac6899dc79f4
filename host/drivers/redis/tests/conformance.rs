//! Redis does what every driver must do: with everything on disk and with nothing, by its socket, by its sentinels.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use althing_conformance::{Subject, main as run, trials};
use althing_core::{Clock, Driver, Error, Kind, OsChance, Result, SystemClock};
use althing_driver_redis::Redis;
use althing_test_servers::{Redis as Server, RedisOptions, Sentinel, SentinelOptions, ready_for};
use tokio::sync::Mutex;

/// A private server for one case.
struct OnRedis {
    url: String,
    server: Mutex<Server>,
}

impl OnRedis {
    async fn start(options: RedisOptions, url: impl Fn(&Server) -> String) -> Result<OnRedis> {
        let server = Server::start(options).await.ok_or_else(missing)?;
        Ok(OnRedis { url: url(&server), server: Mutex::new(server) })
    }
}

fn missing() -> Error {
    Error::new(Kind::NotFound, "start", "redis-server is not in PATH")
}

async fn connect(url: &str) -> Result<Arc<dyn Driver>> {
    Ok(Arc::new(Redis::connect(&url.parse()?, Arc::new(SystemClock), Arc::new(OsChance)).await?))
}

#[async_trait::async_trait]
impl Subject for OnRedis {
    async fn connect(&self, namespace: &str) -> Result<Arc<dyn Driver>> {
        connect(&format!("{}{namespace}", self.url)).await
    }

    async fn pass(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    async fn restart(&self) -> bool {
        self.server.lock().await.restart().await;
        true
    }
}

/// Private servers and sentinels for one case.
struct OnSentinel(Mutex<Sentinel>);

#[async_trait::async_trait]
impl Subject for OnSentinel {
    async fn connect(&self, namespace: &str) -> Result<Arc<dyn Driver>> {
        let url = self.0.lock().await.url(namespace);
        connect(&url).await
    }

    async fn pass(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    /// Kills the master for good: what it had on disk is of no use to the one that takes over.
    async fn restart(&self) -> bool {
        let mut servers = self.0.lock().await;
        servers.kill(0).await;
        servers.wait_for_fail_over(0).await;
        true
    }
}

fn main() -> ExitCode {
    let by_port = |server: &Server| server.url("");
    let by_socket = |server: &Server| server.unix_url("");
    let mut all = trials("redis", move || OnRedis::start(RedisOptions::durable(), by_port));
    all.extend(trials("redis-volatile", move || OnRedis::start(RedisOptions::default(), by_port)));
    all.extend(trials("redis-unix", move || OnRedis::start(RedisOptions::default(), by_socket)));
    all.extend(trials("redis-sentinel", || async {
        let servers = Sentinel::start(SentinelOptions::default()).await.ok_or_else(missing)?;
        Ok(OnSentinel(Mutex::new(servers)))
    }));
    let missing = !ready_for("redis-server");
    run(all.into_iter().map(|trial| trial.with_ignored_flag(missing)).collect())
}
