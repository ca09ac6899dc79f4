//! The backend under test: a real server, or several that stand for one.

use althing_test_servers::{Ensemble, EnsemblePlan, Redis, RedisOptions, ZooKeeper, ZooKeeperOptions};
use anyhow::{Context, Result};

use crate::proxy::Proxy;
use crate::signal::Stopped;
use crate::stage::Setting;

/// How many servers an ensemble has.
const VOTERS: usize = 3;

/// A kind of backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// In memory, in one host's process.
    Memory,
    /// One Redis that writes every commit to disk before it answers.
    Redis,
    /// One ZooKeeper.
    ZooKeeper,
    /// Three ZooKeepers that agree.
    Ensemble,
}

impl Backend {
    /// All of them.
    pub const ALL: &'static [Backend] =
        &[Backend::Memory, Backend::Redis, Backend::ZooKeeper, Backend::Ensemble];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Backend::Memory => "memory",
            Backend::Redis => "redis",
            Backend::ZooKeeper => "zookeeper",
            Backend::Ensemble => "ensemble",
        }
    }
}

/// A link between two servers of an ensemble: `from` follows `to` over it when `to` leads.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) proxy: Proxy,
}

/// A running backend.
#[derive(Debug)]
pub(crate) enum Server {
    /// None: the host has it inside.
    Memory,
    Redis(Box<Redis>),
    ZooKeeper(Box<ZooKeeper>),
    Ensemble(Ensemble, Vec<Route>),
}

impl Server {
    /// Starts one. Fails where it is not installed.
    pub(crate) async fn start(backend: Backend, setting: Setting, seed: u64) -> Result<Server> {
        let missing = || format!("{} is not installed", backend.name());
        let options = ZooKeeperOptions { tick: setting.tick, ..ZooKeeperOptions::default() };
        Ok(match backend {
            Backend::Memory => Server::Memory,
            Backend::Redis => {
                let redis = Redis::start(RedisOptions::durable()).await;
                Server::Redis(Box::new(redis.with_context(missing)?))
            }
            Backend::ZooKeeper => {
                Server::ZooKeeper(Box::new(ZooKeeper::start(options).await.with_context(missing)?))
            }
            Backend::Ensemble => {
                let mut plan = EnsemblePlan::new(VOTERS, options).with_context(missing)?;
                let routes = if setting.routed { route(&mut plan, seed).await } else { Vec::new() };
                Server::Ensemble(plan.start().await, routes)
            }
        })
    }

    /// Returns the ports that its processes listen on.
    pub(crate) fn ports(&mut self) -> Vec<u16> {
        match self {
            Server::Memory => Vec::new(),
            Server::Redis(redis) => vec![redis.port()],
            Server::ZooKeeper(server) => vec![server.node().port()],
            Server::Ensemble(ensemble, _) => ensemble.nodes().iter().map(|node| node.port()).collect(),
        }
    }

    /// Returns the URL by which a host reaches it through `ports`, each of which leads to one of its own.
    pub(crate) fn url(&self, ports: &[u16]) -> String {
        let addresses: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        match self {
            Server::Memory => "memory:".into(),
            Server::Redis(_) => format!("redis://{}/0?namespace=chaos", addresses[0]),
            Server::ZooKeeper(_) | Server::Ensemble(..) => {
                format!("zookeeper://{}/?namespace=chaos", addresses.join(","))
            }
        }
    }

    /// Returns the links between its servers.
    pub(crate) fn routes(&self) -> &[Route] {
        match self {
            Server::Ensemble(_, routes) => routes,
            _ => &[],
        }
    }

    /// Returns the place of the server that leads, where there are several.
    pub(crate) fn leader(&self) -> Option<usize> {
        match self {
            Server::Ensemble(ensemble, _) => ensemble.leader(),
            _ => None,
        }
    }

    /// Stops it with SIGSTOP; of several, the one that leads.
    pub(crate) fn stop(&mut self) -> Option<Stopped> {
        let leader = self.leader().unwrap_or_default();
        let pid = match self {
            Server::Memory => return None,
            Server::Redis(redis) => redis.pid(),
            Server::ZooKeeper(server) => server.node().pid(),
            Server::Ensemble(ensemble, _) => ensemble.nodes()[leader].pid(),
        };
        Some(Stopped::new(pid))
    }

    /// Kills it with SIGKILL, of several the one that leads, and starts it again with what it left on disk.
    pub(crate) async fn kill_and_restart(&mut self) {
        let leader = self.leader().unwrap_or_default();
        match self {
            Server::Memory => {}
            Server::Redis(redis) => redis.restart().await,
            Server::ZooKeeper(server) => server.node().restart().await,
            Server::Ensemble(ensemble, _) => ensemble.nodes()[leader].restart().await,
        }
    }
}

/// Puts a proxy between each two servers, for what the one tells the other when it follows it.
async fn route(plan: &mut EnsemblePlan, seed: u64) -> Vec<Route> {
    let mut routes = Vec::new();
    for from in 0..VOTERS {
        for to in (0..VOTERS).filter(|to| *to != from) {
            let [quorum, vote] = plan.peer_ports(to);
            let proxy = Proxy::start(quorum, seed ^ ((from * VOTERS + to) as u64) << 48).await;
            plan.route(from, to, [proxy.port(), vote]);
            routes.push(Route { from, to, proxy });
        }
    }
    routes
}
