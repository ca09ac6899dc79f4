//! What a fleet stands on: a backend, its hosts as processes, and a proxy on every link.

use std::path::PathBuf;
use std::time::Duration;

use althing_core::{Clock, SeededChance, SystemClock};
use althing_test_servers::{Backend, Ensemble, Server, VOTERS, ZooKeeperOptions, free_port};
use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::history::{Recorder, What};
use crate::process::{Host, Programs};
use crate::proxy::Proxy;
use crate::route::{Route, route};
use crate::scenarios::{HISTORY, Plan};

/// Where in the backend the hosts keep all they have.
pub(crate) const NAMESPACE: &str = "chaos";

/// How a fleet is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// The lease of hosts and of members' sessions.
    pub(crate) lease: Duration,
    /// ZooKeeper's unit of time.
    pub(crate) tick: Duration,
    /// Each host knows one server only, that of its own place.
    pub(crate) pinned: bool,
    /// The links between the servers have proxies on them. Where a server ends, they must not: one that is not there
    /// refuses connections, a proxy before it takes and resets them. A follower that is not taken by its leader yet tries
    /// again in the first case and votes again in the second, which the leader learns after `initLimit`.
    pub(crate) routed: bool,
}

/// A link with a proxy on it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) name: String,
    /// The place of its host.
    pub(crate) host: usize,
    pub(crate) proxy: Proxy,
}

/// A backend and hosts. Dropping it ends all that runs.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) setting: Setting,
    /// The most steps of a scenario that has many.
    pub(crate) steps_max: usize,
    pub(crate) recorder: Recorder,
    pub(crate) chance: SeededChance,
    pub(crate) hosts: Vec<Host>,
    /// Between each host and each process of the backend.
    pub(crate) links: Vec<Link>,
    /// Between each host and those of its clients that speak to it over TCP.
    pub(crate) doors: Vec<Link>,
    pub(crate) server: Server,
    /// Between its servers, where the setting asks for it.
    pub(crate) routes: Vec<Route>,
    /// What has been done so far.
    pub(crate) done: Vec<String>,
    folder: TempDir,
}

impl Ground {
    /// Starts a backend and hosts.
    pub(crate) async fn start(plan: &Plan, setting: Setting) -> Result<Ground> {
        let (server, routes) = serve(plan.backend, setting, plan.seed).await?;
        let folder = tempfile::Builder::new().prefix("althing-chaos-").tempdir()?;
        let history = folder.path().join(HISTORY);
        std::fs::create_dir(&history)?;
        let mut ground = Ground {
            setting,
            steps_max: plan.steps_max,
            recorder: Recorder::new(&history, "stage"),
            chance: SeededChance::new(plan.seed),
            hosts: Vec::new(),
            links: Vec::new(),
            doors: Vec::new(),
            server,
            routes,
            done: Vec::new(),
            folder,
        };
        let hosts = if plan.backend.is_within_a_host() { 1 } else { 3 };
        for place in 0..hosts {
            ground.add_host(&plan.programs, place, plan.seed).await?;
        }
        Ok(ground)
    }

    /// Returns where what is seen is written down.
    pub(crate) fn history(&self) -> PathBuf {
        self.folder.path().join(HISTORY)
    }

    /// Says that a fault begins now.
    pub(crate) fn fault(&mut self, fault: impl Into<String>) {
        let fault = fault.into();
        self.done.push(fault.clone());
        self.recorder.note(What::Fault { fault });
    }

    /// Ends the faults of all links, and says that all is well from now on: everything goes on within that time.
    pub(crate) fn heal(&self, within: Duration) {
        self.links.iter().chain(&self.doors).for_each(|link| link.proxy.heal());
        self.routes.iter().for_each(|route| route.proxy.heal());
        self.recorder.note(What::Healed { within: within.as_nanos() as u64 });
    }

    /// Lets time pass in which a fault stands.
    pub(crate) async fn stand(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    /// Ends all that runs. Returns the folder of its files, and what has been done.
    pub(crate) fn end(self) -> (TempDir, Vec<String>) {
        (self.folder, self.done)
    }

    async fn add_host(&mut self, programs: &Programs, place: usize, seed: u64) -> Result<()> {
        let name = format!("host-{place}");
        let mut ports = Vec::new();
        for (server, port) in self.server.ports().into_iter().enumerate() {
            let seed = seed ^ ((place as u64) << 32 | (server as u64) << 16);
            if self.setting.pinned && server != place {
                continue;
            }
            let proxy = Proxy::start(port, seed);
            ports.push(proxy.port());
            self.links.push(Link { name: format!("{name} to server {server}"), host: place, proxy });
        }
        let url = self.server.url_by(&ports, NAMESPACE);
        let mut host =
            Host::new(&programs.althing, self.folder.path(), &name, &url, self.setting.lease, free_port());
        host.start().await?;
        let door = Proxy::start(host.port, seed ^ (place as u64 + 1) << 40);
        self.doors.push(Link { name: format!("clients to {name}"), host: place, proxy: door });
        self.hosts.push(host);
        Ok(())
    }
}

/// Starts a backend, with proxies between its servers where the setting asks for them. Fails where it is not installed.
async fn serve(backend: Backend, setting: Setting, seed: u64) -> Result<(Server, Vec<Route>)> {
    let missing = || format!("{} is not installed", backend.name());
    if backend != Backend::Ensemble || !setting.routed {
        return Ok((Server::start(backend, setting.tick).await.with_context(missing)?, Vec::new()));
    }
    let options = ZooKeeperOptions { tick: setting.tick, ..ZooKeeperOptions::default() };
    let routed = Ensemble::start_routed(VOTERS, options, |plan| route(plan, seed));
    let (ensemble, routes) = routed.await.with_context(missing)?;
    Ok((Server::Ensemble(ensemble), routes))
}
