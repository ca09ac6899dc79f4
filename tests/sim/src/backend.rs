//! The backends that a fleet can stand on: in memory, or on a private server.

use std::sync::Arc;
use std::time::Duration;

use althing_core::{Driver, OsChance, SystemClock};
use althing_driver_memory::Memory;
use althing_driver_redis::Redis;
use althing_driver_zookeeper::ZooKeeper;
use althing_test_servers::{
    Redis as RedisServer, RedisOptions, ZooKeeper as ZooKeeperServer, ZooKeeperOptions,
};

/// The names by which a backend is chosen.
pub const BACKENDS: [&str; 3] = ["memory", "redis", "zookeeper"];

/// A backend that runs.
#[derive(Debug)]
pub enum Backend {
    /// In this process.
    Memory(Arc<dyn Driver>),
    /// A private Redis.
    Redis(Box<RedisServer>),
    /// A private ZooKeeper.
    ZooKeeper(Box<ZooKeeperServer>),
}

impl Backend {
    /// Starts the backend of this name; `None` where its server is not installed, or nothing has that name.
    pub async fn start(name: &str) -> Option<Backend> {
        match name {
            "memory" => {
                Some(Backend::Memory(Arc::new(Memory::new(Arc::new(SystemClock), Arc::new(OsChance)))))
            }
            "redis" => Some(Backend::Redis(Box::new(RedisServer::start(RedisOptions::default()).await?))),
            "zookeeper" => {
                // So that a lease of one second is granted as it is asked for.
                let options = ZooKeeperOptions { tick: Duration::from_millis(200), ..Default::default() };
                Some(Backend::ZooKeeper(Box::new(ZooKeeperServer::start(options).await?)))
            }
            _ => None,
        }
    }

    /// Makes one more way to it, as each host has its own.
    pub async fn connect(&self) -> Arc<dyn Driver> {
        let (clock, chance) = (Arc::new(SystemClock), Arc::new(OsChance));
        match self {
            Backend::Memory(store) => store.clone(),
            Backend::Redis(server) => {
                let location = server.url("sim").parse().unwrap();
                Arc::new(Redis::connect(&location, clock, chance).await.unwrap())
            }
            Backend::ZooKeeper(server) => {
                let location = server.url("sim").parse().unwrap();
                Arc::new(ZooKeeper::connect(&location, clock, chance).await.unwrap())
            }
        }
    }
}
