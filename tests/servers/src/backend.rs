//! The backends by name, and what a test does to any of them.

use std::time::Duration;

use tempfile::TempDir;

use crate::{
    Daemon, Ensemble, Etcd, EtcdOptions, Folder, Memcached, MemcachedOptions, Mysql, MysqlOptions,
    Postgresql, PostgresqlOptions, Redis, RedisOptions, Sentinel, SentinelOptions, ZooKeeper,
    ZooKeeperOptions,
};

/// How many servers an ensemble has.
pub const VOTERS: usize = 3;

/// A kind of backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In memory, in one host's process.
    Memory,
    /// A file of one host's process.
    Embedded,
    /// A directory that hosts share.
    File,
    /// One daemon, which keeps what it is given in a file.
    Ipc,
    /// One Redis that writes every commit to disk before it answers.
    Redis,
    /// A Redis, its replica, and three sentinels.
    Sentinel,
    /// One memcached.
    Memcached,
    /// One PostgreSQL.
    Postgresql,
    /// One MariaDB.
    Mysql,
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
        Backend::Embedded,
        Backend::File,
        Backend::Ipc,
        Backend::Redis,
        Backend::Sentinel,
        Backend::Memcached,
        Backend::Postgresql,
        Backend::Mysql,
        Backend::Etcd,
        Backend::EtcdCluster,
        Backend::ZooKeeper,
        Backend::Ensemble,
    ];

    /// Those with a server that can be killed and has forgotten nothing when it comes back.
    pub const LASTING: &'static [Backend] = &[
        Backend::Ipc,
        Backend::Redis,
        Backend::Postgresql,
        Backend::Mysql,
        Backend::Etcd,
        Backend::EtcdCluster,
        Backend::ZooKeeper,
        Backend::Ensemble,
    ];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Memory => "memory",
            Backend::Embedded => "embedded",
            Backend::File => "file",
            Backend::Ipc => "ipc",
            Backend::Redis => "redis",
            Backend::Sentinel => "redis-sentinel",
            Backend::Memcached => "memcached",
            Backend::Postgresql => "postgresql",
            Backend::Mysql => "mysql",
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

    /// Reads names with commas between them, `redis,etcd`, or `all`. Where there is no such backend, says which there are.
    pub fn list(names: &str) -> Result<Vec<Backend>, String> {
        if names == "all" {
            return Ok(Backend::ALL.to_vec());
        }
        names.split(',').map(Backend::known).collect()
    }

    fn known(name: &str) -> Result<Backend, String> {
        let names = || Backend::ALL.iter().map(|backend| backend.name()).collect::<Vec<_>>().join(" ");
        Backend::named(name).ok_or_else(|| format!("no backend is called {name:?}: there are {}", names()))
    }

    /// Returns the backend of one server that this has several of; itself where it has no several.
    pub fn one(self) -> Backend {
        match self {
            Backend::EtcdCluster => Backend::Etcd,
            Backend::Ensemble => Backend::ZooKeeper,
            alone => alone,
        }
    }

    /// Returns the program that it needs, as [`available`](crate::available) knows it.
    pub fn program(self) -> Option<&'static str> {
        match self {
            Backend::Memory | Backend::Embedded | Backend::File => None,
            Backend::Ipc => Some(Daemon::PROGRAM),
            Backend::Redis | Backend::Sentinel => Some("redis-server"),
            Backend::Memcached => Some("memcached"),
            Backend::Postgresql => Some("postgres"),
            Backend::Mysql => Some("mariadbd"),
            Backend::Etcd | Backend::EtcdCluster => Some("etcd"),
            Backend::ZooKeeper | Backend::Ensemble => Some("zookeeper"),
        }
    }

    /// Tells whether it lies within one host, and no second one can reach it.
    pub fn is_within_a_host(self) -> bool {
        matches!(self, Backend::Memory | Backend::Embedded)
    }
}

/// A backend that runs.
#[derive(Debug)]
pub enum Server {
    /// Nothing: each who connects has it inside.
    Memory,
    /// A folder, in which each namespace is a file that one connects to at a time.
    Embedded(TempDir),
    /// A directory.
    File(Folder),
    /// One daemon.
    Ipc(Daemon),
    /// One Redis.
    Redis(Box<Redis>),
    /// Sentinels and their servers.
    Sentinel(Box<Sentinel>),
    /// One memcached.
    Memcached(Box<Memcached>),
    /// One PostgreSQL.
    Postgresql(Box<Postgresql>),
    /// One MariaDB.
    Mysql(Box<Mysql>),
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
            Backend::Embedded => Server::Embedded(TempDir::new().expect("a folder can be made")),
            Backend::File => Server::File(Folder::new()),
            Backend::Ipc => Server::Ipc(Daemon::start().await?),
            Backend::Redis => Server::Redis(Box::new(Redis::start(RedisOptions::durable()).await?)),
            Backend::Sentinel => {
                Server::Sentinel(Box::new(Sentinel::start(SentinelOptions::default()).await?))
            }
            Backend::Memcached => {
                Server::Memcached(Box::new(Memcached::start(MemcachedOptions::default()).await?))
            }
            Backend::Postgresql => {
                Server::Postgresql(Box::new(Postgresql::start(PostgresqlOptions::default()).await?))
            }
            Backend::Mysql => Server::Mysql(Box::new(Mysql::start(MysqlOptions::default()).await?)),
            Backend::Etcd => Server::Etcd(Etcd::start(1, EtcdOptions::default()).await?),
            Backend::EtcdCluster => Server::Etcd(Etcd::start(VOTERS, EtcdOptions::default()).await?),
            Backend::ZooKeeper => Server::ZooKeeper(Box::new(ZooKeeper::start(options).await?)),
            Backend::Ensemble => Server::Ensemble(Ensemble::start(VOTERS, options).await?),
        })
    }

    /// Tells whether it lies within one host, and no second one can reach it.
    pub fn is_within_a_host(&self) -> bool {
        matches!(self, Server::Memory | Server::Embedded(_))
    }

    /// Returns the URL of a namespace on it.
    pub fn url(&self, namespace: &str) -> String {
        match self {
            Server::Memory => format!("memory:?namespace={namespace}"),
            Server::Embedded(folder) => {
                format!("embedded://{}/{namespace}.redb?namespace={namespace}", folder.path().display())
            }
            Server::File(folder) => folder.url(namespace),
            Server::Ipc(daemon) => daemon.url(namespace),
            Server::Redis(redis) => redis.url(namespace),
            Server::Sentinel(sentinel) => sentinel.url(namespace),
            Server::Memcached(server) => server.url(namespace),
            Server::Postgresql(server) => server.url(namespace),
            Server::Mysql(server) => server.url(namespace),
            Server::Etcd(cluster) => cluster.url(namespace),
            Server::ZooKeeper(server) => server.url(namespace),
            Server::Ensemble(ensemble) => ensemble.url(namespace),
        }
    }

    /// Returns the URL of a namespace by which it is reached through `ports`, each of which leads to one of its own, and
    /// through no other. The servers that sentinels name are reached as these name them.
    pub fn url_by(&self, ports: &[u16], namespace: &str) -> String {
        match self.ports()[..] {
            [] => self.url(namespace),
            ref own => self.url(namespace).replace(&addresses(own), &addresses(ports)),
        }
    }

    /// Returns the ports that whoever connects to it is told.
    pub fn ports(&self) -> Vec<u16> {
        match self {
            Server::Memory | Server::Embedded(_) | Server::File(_) | Server::Ipc(_) => Vec::new(),
            Server::Redis(redis) => vec![redis.port()],
            Server::Sentinel(sentinel) => sentinel.ports(),
            Server::Memcached(server) => vec![server.port()],
            Server::Postgresql(server) => vec![server.port()],
            Server::Mysql(server) => vec![server.port()],
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
            Server::Sentinel(sentinel) => sentinel.master(),
            _ => None,
        }
    }

    /// Returns the id of its process, of several the one that leads; `None` where it is no process.
    pub fn pid(&self) -> Option<u32> {
        let leader = self.leader().unwrap_or_default();
        match self {
            Server::Memory | Server::Embedded(_) | Server::File(_) => None,
            Server::Ipc(daemon) => Some(daemon.pid()),
            Server::Redis(redis) => Some(redis.pid()),
            Server::Sentinel(sentinel) => Some(sentinel.pid(leader)),
            Server::Memcached(server) => Some(server.pid()),
            Server::Postgresql(server) => Some(server.pid()),
            Server::Mysql(server) => Some(server.pid()),
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

    /// Kills all of it with SIGKILL, starts it again with what it left on disk and waits until it serves. Of what sentinels
    /// watch over, only the master is killed, and becomes a replica of the next one.
    pub async fn restart(&mut self) {
        match self {
            Server::Memory | Server::Embedded(_) | Server::File(_) => {}
            Server::Ipc(daemon) => daemon.restart().await,
            Server::Redis(redis) => redis.restart().await,
            Server::Sentinel(sentinel) => {
                sentinel.settle().await;
                let master = sentinel.master().expect("there is a master");
                sentinel.kill(master).await;
                sentinel.wait_for_fail_over(master).await;
                sentinel.restart(master).await;
                sentinel.wait_for_replica(master).await;
            }
            Server::Memcached(server) => server.restart().await,
            Server::Postgresql(server) => server.restart().await,
            Server::Mysql(server) => server.restart().await,
            Server::Etcd(cluster) => cluster.restart().await,
            Server::ZooKeeper(server) => server.node_mut().restart().await,
            Server::Ensemble(ensemble) => ensemble.restart().await,
        }
    }

    /// Stops all of it with SIGSTOP; of what sentinels watch over, the master.
    pub async fn pause(&mut self) {
        match self {
            Server::Memory | Server::Embedded(_) | Server::File(_) => {}
            Server::Ipc(daemon) => daemon.pause(),
            Server::Redis(redis) => redis.pause(),
            Server::Sentinel(sentinel) => {
                let master = sentinel.master().expect("there is a master");
                sentinel.pause(master).await;
            }
            Server::Memcached(server) => server.pause(),
            Server::Postgresql(server) => server.pause(),
            Server::Mysql(server) => server.pause(),
            Server::Etcd(cluster) => cluster.pause(),
            Server::ZooKeeper(server) => server.node().pause(),
            Server::Ensemble(ensemble) => ensemble.nodes().iter().for_each(|node| node.pause()),
        }
    }

    /// Tells in words which process [`Server::pause_one`] stops.
    pub fn to_pause(&self) -> &'static str {
        match self {
            Server::Etcd(cluster) if cluster.leader().is_some_and(|leader| leader != cluster.to_pause()) => {
                "a server that follows"
            }
            _ => "the server that leads",
        }
    }

    /// Stops one process with SIGSTOP, of several the one that leads, but for an etcd that would then break its own word
    /// ([`Etcd::to_pause`]); all of one server that consists of several.
    pub async fn pause_one(&mut self) {
        let leader = self.leader().unwrap_or_default();
        match self {
            Server::Ensemble(ensemble) => ensemble.nodes()[leader].pause(),
            Server::Etcd(cluster) => cluster.members()[cluster.to_pause()].pause(),
            _ => self.pause().await,
        }
    }

    /// Lets it go on.
    pub fn resume(&self) {
        match self {
            Server::Memory | Server::Embedded(_) | Server::File(_) => {}
            Server::Ipc(daemon) => daemon.resume(),
            Server::Redis(redis) => redis.resume(),
            Server::Sentinel(sentinel) => (0..sentinel.servers()).for_each(|place| sentinel.resume(place)),
            Server::Memcached(server) => server.resume(),
            Server::Postgresql(server) => server.resume(),
            Server::Mysql(server) => server.resume(),
            Server::Etcd(cluster) => cluster.resume(),
            Server::ZooKeeper(server) => server.node().resume(),
            Server::Ensemble(ensemble) => ensemble.nodes().iter().for_each(|node| node.resume()),
        }
    }
}

/// Returns addresses as a URL has them.
fn addresses(ports: &[u16]) -> String {
    ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_no_backend_has_is_told_with_those_that_some_have() {
        assert_eq!(Backend::list("redis,etcd-3"), Ok(vec![Backend::Redis, Backend::EtcdCluster]));
        assert_eq!(Backend::list("all").unwrap(), Backend::ALL);
        let refusal = Backend::list("redis,nope").unwrap_err();
        assert!(refusal.contains("\"nope\"") && refusal.contains("zookeeper ensemble"), "{refusal}");
    }
}
