//! Where a fleet stands: a namespace of its own on a backend.

use std::sync::Arc;
use std::time::Duration;

use althing::backends;
use althing_core::{Driver, OsChance, SystemClock};
use althing_runtime::{RuntimeConfig, Tuning};
use althing_test_servers::Server;
use tokio::sync::Mutex;

use crate::{Fleet, quick};

/// The unit of time of servers that have one.
pub const TICK: Duration = Duration::from_millis(200);

/// A namespace on a backend, which whoever connects to it shares.
#[derive(Debug)]
pub struct Stage {
    /// The backend, for tests that disturb it.
    pub server: Arc<Mutex<Server>>,
    /// The lease of its hosts.
    pub lease: Duration,
    url: String,
    /// What lies within one host is connected to once, not by each host.
    within: Option<Arc<dyn Driver>>,
}

impl Stage {
    /// Makes a stage of a namespace on a running backend.
    pub async fn on(server: Arc<Mutex<Server>>, namespace: &str) -> Stage {
        let guard = server.lock().await;
        let (mut url, mut lease) = (guard.url(namespace), Duration::from_secs(1));
        if matches!(
            *guard,
            Server::Sentinel(_)
                | Server::Postgresql(_)
                | Server::Mysql(_)
                | Server::Etcd(_)
                | Server::ZooKeeper(_)
                | Server::Ensemble(_)
        ) {
            // Servers of several processes and a fleet share the processors of a small machine.
            url.push_str("&timeout=10s");
            lease = Duration::from_secs(3);
        }
        let within = if guard.is_within_a_host() { Some(connect(&url).await) } else { None };
        drop(guard);
        Stage { server, lease, url, within }
    }

    /// Makes a stage of a backend that nothing else stands on.
    pub async fn alone_on(server: Server) -> Stage {
        Stage::on(Arc::new(Mutex::new(server)), "alone").await
    }

    /// Makes one more way to it, as each host has its own.
    pub async fn connect(&self) -> Arc<dyn Driver> {
        match &self.within {
            Some(store) => store.clone(),
            None => connect(&self.url).await,
        }
    }

    /// Starts hosts.
    pub async fn fleet(&self, hosts: usize) -> Fleet {
        self.fleet_paced(hosts, quick()).await
    }

    /// Starts hosts with a pace of their own.
    pub async fn fleet_paced(&self, hosts: usize, tuning: Tuning) -> Fleet {
        self.fleet_with(hosts, |config| config.tuning = tuning).await
    }

    /// Starts hosts whose configuration `change` makes another.
    pub async fn fleet_with(&self, hosts: usize, change: impl Fn(&mut RuntimeConfig)) -> Fleet {
        let mut fleet = Fleet { hosts: Vec::new(), store: self.connect().await };
        for index in 0..hosts {
            self.add_host(&mut fleet, index as u64 + 2, &change).await;
        }
        fleet
    }

    /// Starts one more host, whose configuration `change` makes another.
    pub async fn add_host(&self, fleet: &mut Fleet, seed: u64, change: impl FnOnce(&mut RuntimeConfig)) {
        let lease = |config: &mut RuntimeConfig| {
            config.lease = self.lease;
            change(config);
        };
        fleet.add_host(self.connect().await, seed, lease).await;
    }
}

async fn connect(url: &str) -> Arc<dyn Driver> {
    let location = url.parse().unwrap();
    backends::connect(location, Arc::new(SystemClock), Arc::new(OsChance)).await.unwrap()
}
