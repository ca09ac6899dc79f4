//! A fleet of real processes with a proxy on every link, watched by everybody who can watch.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use althing_client::{Client, Membership};
use althing_core::info::{GroupInfo, JoinAsk, LeaderInfo};
use althing_core::{Clock, Requirement, Revision, SeededChance, SystemClock};
use althing_test_servers::{Backend, EnsemblePlan, Server, VOTERS, ZooKeeperOptions, free_port};
use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::history::{Recorder, What};
use crate::member::MemberAsk;
use crate::process::{Host, Member, PATIENCE, Programs};
use crate::proxy::Proxy;
use crate::route::{Route, route};
use crate::scenarios::Plan;
use crate::watcher;

/// The group whose leadership is fought for.
pub(crate) const GROUP: &str = "web";
/// How soon after a healing somebody must lead: calls that hang end within two call deadlines, then a host waits for a
/// second at most before it opens a session again, and then come the lease and the claim windows.
pub(crate) const LED_WITHIN: Duration = Duration::from_secs(8);
/// For how many leases one who is gone may be shown: that of its session, then its host's, and room for a slow machine.
const GONE_WITHIN_LEASES: u32 = 3;
/// Members on each host that stay.
const MEMBERS_PER_HOST: usize = 2;
/// How long a member stays that comes and goes, so that there is something to be told of.
const COME_AND_GO: Duration = Duration::from_millis(150);
/// How often the end is looked at, until nothing goes on meanwhile.
const QUIET_TRIES: usize = 5;
/// The pause between two looks at the fleet.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

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

/// The fleet. Dropping it ends all that runs.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) setting: Setting,
    /// The most steps of a scenario that has many.
    pub(crate) steps_max: usize,
    pub(crate) recorder: Recorder,
    pub(crate) chance: SeededChance,
    pub(crate) members: Vec<Member>,
    pub(crate) hosts: Vec<Host>,
    /// Between each host and each process of the backend.
    pub(crate) links: Vec<Link>,
    /// Between each host and its first member.
    pub(crate) doors: Vec<Link>,
    pub(crate) server: Server,
    /// Between its servers, where the setting asks for it.
    pub(crate) routes: Vec<Route>,
    /// What has been done so far.
    pub(crate) done: Vec<String>,
    watched: Vec<watch::Receiver<BTreeSet<String>>>,
    watchers: JoinSet<()>,
    load: JoinSet<()>,
    folder: TempDir,
}

impl Stage {
    /// Starts a backend, hosts and members, and waits until all see all of them.
    pub(crate) async fn start(plan: &Plan, setting: Setting) -> Result<Stage> {
        let (programs, backend, seed) = (&plan.programs, plan.backend, plan.seed);
        let (server, routes) = serve(backend, setting, seed).await?;
        let folder = tempfile::Builder::new().prefix("althing-chaos-").tempdir()?;
        std::fs::create_dir(folder.path().join("history"))?;
        let mut stage = Stage {
            setting,
            steps_max: plan.steps_max,
            recorder: Recorder::new(&folder.path().join("history"), "stage"),
            chance: SeededChance::new(seed),
            members: Vec::new(),
            hosts: Vec::new(),
            links: Vec::new(),
            doors: Vec::new(),
            server,
            routes,
            done: Vec::new(),
            watched: Vec::new(),
            watchers: JoinSet::new(),
            load: JoinSet::new(),
            folder,
        };
        let hosts = if backend.is_within_a_host() { 1 } else { 3 };
        for place in 0..hosts {
            stage.add_host(programs, place, seed).await?;
        }
        stage.hosts[0].client.create_group(GROUP, &Requirement::NONE).await?;
        for place in 0..hosts {
            stage.add_members(programs, place, hosts).await?;
            stage.watch(place);
        }
        stage.settle().await?;
        Ok(stage)
    }

    /// Returns where what is seen is written down.
    pub(crate) fn history(&self) -> PathBuf {
        self.folder.path().join("history")
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
            let proxy = Proxy::start(port, seed).await;
            ports.push(proxy.port());
            self.links.push(Link { name: format!("{name} to server {server}"), host: place, proxy });
        }
        let url = self.server.url_by(&ports, "chaos");
        let mut host =
            Host::new(&programs.althing, self.folder.path(), &name, &url, self.setting.lease, free_port());
        host.start().await?;
        let door = Proxy::start(host.port, seed ^ (place as u64 + 1) << 40).await;
        self.doors.push(Link { name: format!("member-{place}-0 to {name}"), host: place, proxy: door });
        self.hosts.push(host);
        Ok(())
    }

    /// Starts the members of a host. The first speaks to it through a proxy, the others over its Unix socket.
    async fn add_members(&mut self, programs: &Programs, place: usize, hosts: usize) -> Result<()> {
        let count = if hosts == 1 { 2 * MEMBERS_PER_HOST } else { MEMBERS_PER_HOST };
        for number in 0..=count {
            let host = &self.hosts[place];
            let (server, token_file) = match number {
                0 => {
                    let port = self.doors[place].proxy.port();
                    (format!("http://127.0.0.1:{port}"), Some(host.token_file.clone()))
                }
                _ => (host.client.address().to_string(), None),
            };
            let ask = MemberAsk {
                server,
                token_file,
                group: GROUP.into(),
                id: format!("member-{place}-{number}"),
                ttl_ms: self.setting.lease.as_millis() as u64,
                // The last one comes and goes.
                stays_ms: (number == count).then_some(COME_AND_GO.as_millis() as u64),
                folder: self.history(),
            };
            let mut member = Member::new(&programs.chaos, place, ask);
            member.start()?;
            self.members.push(member);
        }
        Ok(())
    }

    fn watch(&mut self, place: usize) {
        let host = &self.hosts[place];
        let (members, watched) = watch::channel(BTreeSet::new());
        let (client, folder, name) = (host.client.clone(), self.history(), host.name.clone());
        self.watchers.spawn(watcher::watch(
            client.clone(),
            GROUP.into(),
            folder.clone(),
            name.clone(),
            members,
        ));
        self.load.spawn(watcher::ask(client, folder, name));
        self.watched.push(watched);
    }

    /// Says that a fault begins now.
    pub(crate) fn fault(&mut self, fault: impl Into<String>) {
        let fault = fault.into();
        self.done.push(fault.clone());
        self.recorder.note(What::Fault { fault });
    }

    /// Ends the faults of all links, says that all is well from now on, and waits until it shows.
    pub(crate) async fn heal(&self) -> Result<()> {
        self.links.iter().chain(&self.doors).for_each(|link| link.proxy.heal());
        self.routes.iter().for_each(|route| route.proxy.heal());
        self.recorder.note(What::Healed { within: LED_WITHIN.as_nanos() as u64 });
        self.settle().await
    }

    /// Lets time pass in which a fault stands.
    pub(crate) async fn stand(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    /// Waits until every host that runs shows all members that can be there, and the same leader.
    pub(crate) async fn settle(&self) -> Result<()> {
        let mut shown = String::new();
        let settled = async {
            while !self.is_settled(&mut shown).await {
                SystemClock.sleep(LOOK).await;
            }
        };
        let outcome = timeout(PATIENCE, settled).await;
        outcome.with_context(|| format!("the fleet does not come to rest: {shown}"))
    }

    async fn is_settled(&self, shown: &mut String) -> bool {
        let expected: BTreeSet<&str> = self.expected().collect();
        let mut leaders = BTreeSet::new();
        for host in self.hosts.iter().filter(|host| host.runs()) {
            let group = match host.client.group(GROUP).await {
                Ok(group) => group,
                Err(error) => {
                    *shown = format!("{}: {error}", host.name);
                    return false;
                }
            };
            let ids = group.members.iter().map(|member| member.id.as_str());
            let ids: BTreeSet<&str> = ids.filter(|id| !self.comes_and_goes(id)).collect();
            leaders.insert(group.leader.as_ref().map(|leader| leader.term));
            if ids != expected || leaders.len() > 1 || leaders.contains(&None) {
                *shown = format!("{} shows {ids:?} led by {:?}", host.name, group.leader);
                return false;
            }
        }
        true
    }

    /// Returns the ids of the members that run and stay, on hosts that run.
    fn expected(&self) -> impl Iterator<Item = &str> {
        let here = self.members.iter().filter(|member| member.runs() && self.hosts[member.host].runs());
        here.map(|member| member.ask.id.as_str()).filter(|id| !self.comes_and_goes(id))
    }

    fn comes_and_goes(&self, id: &str) -> bool {
        self.members.iter().any(|member| member.ask.id == id && member.ask.stays_ms.is_some())
    }

    /// Returns who leads, as the first host that runs shows it, and that member's place. Waits while it is one that comes
    /// and goes.
    pub(crate) async fn leader(&self) -> Result<(usize, LeaderInfo)> {
        self.leader_after(Revision::ZERO).await
    }

    /// Waits until a member that stays leads in a later term than `former`.
    pub(crate) async fn leader_after(&self, former: Revision) -> Result<(usize, LeaderInfo)> {
        let search = async {
            loop {
                if let Some(found) = self.shown_leader().await.filter(|(_, leader)| leader.term > former) {
                    return found;
                }
                SystemClock.sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, search).await.context("nobody leads next")
    }

    async fn shown_leader(&self) -> Option<(usize, LeaderInfo)> {
        let host = self.hosts.iter().find(|host| host.runs())?;
        let leader = host.client.leader(GROUP).await.ok()??;
        let place = self.members.iter().position(|member| member.ask.id == leader.member)?;
        self.members[place].ask.stays_ms.is_none().then_some((place, leader))
    }

    /// Kills a member and says that it is gone.
    pub(crate) async fn kill_member(&mut self, place: usize) {
        self.members[place].kill().await;
        let member = self.members[place].ask.id.clone();
        self.recorder.note(What::Gone { group: GROUP.into(), member });
    }

    /// Waits until every subscriber has been told of all there is, and notes how each host shows the end.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        self.load.shutdown().await;
        for place in 0..self.members.len() {
            if self.members[place].ask.stays_ms.is_some() {
                self.kill_member(place).await;
            }
        }
        // Whoever went away in the last moment must be out of sight by then.
        let gone_within = GONE_WITHIN_LEASES * self.setting.lease;
        self.stand(gone_within).await;
        let mut ends = self.look_at_the_end().await?;
        for _ in 1..QUIET_TRIES {
            if self.is_quiet(&ends) {
                break;
            }
            ends = self.look_at_the_end().await?;
        }
        for (name, groups, group) in ends {
            let recorder = Recorder::new(&self.history(), &format!("end-{name}"));
            recorder.note(What::Final { groups, group, lease: gone_within.as_nanos() as u64 });
        }
        Ok(())
    }

    /// Returns what each host shows once every subscriber was told of all there is: its name, all groups, and the group.
    async fn look_at_the_end(&mut self) -> Result<Vec<(String, Vec<String>, GroupInfo)>> {
        self.settle().await?;
        self.sound().await?;
        let mut ends = Vec::new();
        for host in &self.hosts {
            let groups = host.client.groups().await?.into_iter().map(|group| group.name).collect();
            ends.push((host.name.clone(), groups, host.client.group(GROUP).await?));
        }
        Ok(ends)
    }

    /// Tells whether nothing went on while the hosts were looked at. On a slow machine a session may be lost at any time.
    fn is_quiet(&self, ends: &[(String, Vec<String>, GroupInfo)]) -> bool {
        let first = &ends[0].2;
        let same = |end: &(_, _, GroupInfo)| end.2.members == first.members && end.2.leader == first.leader;
        first.members.len() == self.expected().count() && ends.iter().all(same)
    }

    /// Lets one more member come and go, and waits until every subscriber was told of both: so each was told of all before.
    async fn sound(&mut self) -> Result<()> {
        let joining = async {
            loop {
                match sounding(&self.hosts[0].client).await {
                    Ok(membership) => return membership,
                    // On a slow machine a host may be without a session at any time.
                    Err(_) => SystemClock.sleep(LOOK).await,
                }
            }
        };
        let membership = timeout(PATIENCE, joining).await.context("nobody can join any more")?;
        self.told(|members| members.contains(SOUNDING)).await?;
        membership.close().await?;
        self.told(|members| !members.contains(SOUNDING)).await
    }

    async fn told(&mut self, condition: impl Fn(&BTreeSet<String>) -> bool + Copy) -> Result<()> {
        for watched in &mut self.watched {
            timeout(PATIENCE, watched.wait_for(condition)).await.context("a subscriber is not told")??;
        }
        Ok(())
    }
}

/// The member that comes and goes in the end.
const SOUNDING: &str = "sounding";

async fn sounding(client: &Client) -> althing_core::Result<Membership> {
    let membership = Membership::open(client.clone(), None).await?;
    membership.join(GROUP, &JoinAsk { id: SOUNDING.into(), ..JoinAsk::default() }).await?;
    Ok(membership)
}

/// Starts a backend, with proxies between its servers where the setting asks for them. Fails where it is not installed.
async fn serve(backend: Backend, setting: Setting, seed: u64) -> Result<(Server, Vec<Route>)> {
    let missing = || format!("{} is not installed", backend.name());
    if backend != Backend::Ensemble || !setting.routed {
        return Ok((Server::start(backend, setting.tick).await.with_context(missing)?, Vec::new()));
    }
    let options = ZooKeeperOptions { tick: setting.tick, ..ZooKeeperOptions::default() };
    let mut plan = EnsemblePlan::new(VOTERS, options).with_context(missing)?;
    let routes = route(&mut plan, seed).await;
    Ok((Server::Ensemble(plan.start().await), routes))
}
