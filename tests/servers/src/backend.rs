//! The backends by name, and what a test does to any of them.

use std::time::Duration;

use crate::{
    Ensemble, Etcd, EtcdOptions, Memcached, MemcachedOptions, Postgresql, PostgresqlOptions, Redis,
    RedisOptions, ZooKeeper, ZooKeeperOptions,
};

/// How many servers an ensemble has.
pub const VOTERS: usize = 3;

/// A kind of backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In memory, in one host's process.
    Memory,
    /// One Redis that writes every commit to disk before it answers.
    Redis,
    /// One memcached.
    Memcached,
    /// One PostgreSQL.
    Postgresql,
    /// One etcd.
    Etcd,
    /// Three etcds that agree.
    EtcdCluster,
    /// One ZooKeeper.
    ZooKeeper,
    /// Three ZooKeepers that agree.
    Ensemble,
}

impl Backend {
    /// All of them.
    pub const ALL: &'static [Backend] = &[
        Backend::Memory,
        Backend::Redis,
        Backend::Memcached,
        Backend::Postgresql,
        Backend::Etcd,
        Backend::EtcdCluster,
        Backend::ZooKeeper,
        Backend::Ensemble,
    ];

    /// Those that can be killed and have forgotten nothing when they come back.
    pub const LASTING: &'static [Backend] = &[
        Backend::Redis,
        Backend::Postgresql,
        Backend::Etcd,
        Backend::EtcdCluster,
        Backend::ZooKeeper,
        Backend::Ensemble,
    ];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Memory => "memory",
            Backend::Redis => "redis",
            Backend::Memcached => "memcached",
            Backend::Postgresql => "postgresql",
            Backend::Etcd => "etcd",
            Backend::EtcdCluster => "etcd-3",
            Backend::ZooKeeper => "zookeeper",
            Backend::Ensemble => "ensemble",
        }
    }

    /// Finds the backend of a name.
    pub fn named(name: &str) -> Option<Backend> {
        Backend::ALL.iter().copied().find(|backend| backend.name() == name)
    }

    /// Returns the program that it needs, as [`available`](crate::available) knows it.
    pub fn program(self) -> Option<&'static str> {
        match self {
            Backend::Memory => None,
            Backend::Redis => Some("redis-server"),
            Backend::Memcached => Some("memcached"),
            Backend::Postgresql => Some("postgresql"),
            Backend::Etcd | Backend::EtcdCluster => Some("etcd"),
            Backend::ZooKeeper | Backend::Ensemble => Some("zookeeper"),
        }
    }
}

/// A backend that runs.
#[derive(Debug)]
pub enum Server {
    /// Nothing: each who connects has it inside.
    Memory,
    /// One Redis.
    Redis(Box<Redis>),
    /// One memcached.
    Memcached(Box<Memcached>),
    /// One PostgreSQL.
    Postgresql(Box<Postgresql>),
    /// One etcd or three.
    Etcd(Etcd),
    /// One ZooKeeper.
    ZooKeeper(Box<ZooKeeper>),
    /// Three of them.
    Ensemble(Ensemble),
}

impl Server {
    /// Starts a backend, whose unit of time is `tick` where it has one. `None` where its program is missing and not
    /// required.
    pub async fn start(backend: Backend, tick: Duration) -> Option<Server> {
        let options = ZooKeeperOptions { tick, ..ZooKeeperOptions::default() };
        Some(match backend {
            Backend::Memory => Server::Memory,
            Backend::Redis => Server::Redis(Box::new(Redis::start(RedisOptions::durable()).await?)),
            Backend::Memcached => {
                Server::Memcached(Box::new(Memcached::start(MemcachedOptions::default()).await?))
            }
            Backend::Postgresql => {
                Server::Postgresql(Box::new(Postgresql::start(PostgresqlOptions::default()).await?))
            }
            Backend::Etcd => Server::Etcd(Etcd::start(1, EtcdOptions::default()).await?),
            Backend::EtcdCluster => Server::Etcd(Etcd::start(VOTERS, EtcdOptions::default()).await?),
            Backend::ZooKeeper => Server::ZooKeeper(Box::new(ZooKeeper::start(options).await?)),
            Backend::Ensemble => Server::Ensemble(Ensemble::start(VOTERS, options).await?),
        })
    }

    /// Returns the URL of a namespace on it.
    pub fn url(&self, namespace: &str) -> String {
        self.url_by(&self.ports(), namespace)
    }

    /// Returns the URL of a namespace by which it is reached through `ports`, each of which leads to one of its own, and
    /// through no other.
    pub fn url_by(&self, ports: &[u16], namespace: &str) -> String {
        let addresses: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        match self {
            Server::Memory => "memory:".into(),
            Server::Redis(_) => format!("redis://{}/0?namespace={namespace}", addresses[0]),
            Server::Memcached(_) => format!("memcached://{}/?namespace={namespace}", addresses[0]),
            Server::Postgresql(server) => {
                server.url(namespace).replace(&format!("127.0.0.1:{}", server.port()), &addresses[0])
            }
            Server::Etcd(_) => format!("etcd://{}/?namespace={namespace}", addresses.join(",")),
            Server::ZooKeeper(_) | Server::Ensemble(_) => {
                format!("zookeeper://{}/?namespace={namespace}", addresses.join(","))
            }
        }
    }

    /// Returns the ports that its processes listen on.
    pub fn ports(&self) -> Vec<u16> {
        match self {
            Server::Memory => Vec::new(),
            Server::Redis(redis) => vec![redis.port()],
            Server::Memcached(server) => vec![server.port()],
            Server::Postgresql(server) => vec![server.port()],
            Server::Etcd(cluster) => cluster.members().iter().map(|member| member.port()).collect(),
            Server::ZooKeeper(server) => vec![server.node().port()],
            Server::Ensemble(ensemble) => ensemble.nodes().iter().map(|node| node.port()).collect(),
        }
    }

    /// Returns the place of the process that leads, where several agree.
    pub fn leader(&self) -> Option<usize> {
        match self {
            Server::Ensemble(ensemble) => ensemble.leader(),
            Server::Etcd(cluster) => cluster.leader(),
            _ => None,
        }
    }

    /// Returns the id of its process, of several the one that leads.
    pub fn pid(&self) -> Option<u32> {
        let leader = self.leader().unwrap_or_default();
        match self {
            Server::Memory => None,
            Server::Redis(redis) => Some(redis.pid()),
            Server::Memcached(server) => Some(server.pid()),
            Server::Postgresql(server) => Some(server.pid()),
            Server::Etcd(cluster) => Some(cluster.members()[leader].pid()),
            Server::ZooKeeper(server) => Some(server.node().pid()),
            Server::Ensemble(ensemble) => Some(ensemble.nodes()[leader].pid()),
        }
    }

    /// Kills one process with SIGKILL, of several the one that leads, and starts it again with what it left on disk.
    pub async fn restart_one(&mut self) {
        let leader = self.leader().unwrap_or_default();
        match self {
            Server::Ensemble(ensemble) => ensemble.nodes_mut()[leader].restart().await,
            Server::Etcd(cluster) => cluster.members_mut()[leader].restart().await,
            _ => self.restart().await,
        }
    }

    /// Kills all of it with SIGKILL, starts it again with what it left on disk and waits until it serves.
    pub async fn restart(&mut self) {
        match self {
            Server::Memory => {}
            Server::Redis(redis) => redis.restart().await,
            Server::Memcached(server) => server.restart().await,
            Server::Postgresql(server) => server.restart().await,
            Server::Etcd(cluster) => cluster.restart().await,
            Server::ZooKeeper(server) => server.node_mut().restart().await,
            Server::Ensemble(ensemble) => ensemble.restart().await,
        }
    }

    /// Stops all of it with SIGSTOP.
    pub fn pause(&self) {
        match self {
            Server::Memory => {}
            Server::Redis(redis) => redis.pause(),
            Server::Memcached(server) => server.pause(),
            Server::Postgresql(server) => server.pause(),
            Server::Etcd(cluster) => cluster.pause(),
            Server::ZooKeeper(server) => server.node().pause(),
            Server::Ensemble(ensemble) => ensemble.nodes().iter().for_each(|node| node.pause()),
        }
    }

    /// Lets it go on.
    pub fn resume(&self) {
        match self {
            Server::Memory => {}
            Server::Redis(redis) => redis.resume(),
            Server::Memcached(server) => server.resume(),
            Server::Postgresql(server) => server.resume(),
            Server::Etcd(cluster) => cluster.resume(),
            Server::ZooKeeper(server) => server.node().resume(),
            Server::Ensemble(ensemble) => ensemble.nodes().iter().for_each(|node| node.resume()),
        }
    }
}
