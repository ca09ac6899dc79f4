//! A fleet of real processes with a proxy on every link, watched by everybody who can watch.

use std::collections::BTreeSet;
use std::time::Duration;

use althing_client::{Client, Membership};
use althing_core::info::{GroupInfo, JoinAsk, LeaderInfo};
use althing_core::{Clock, Requirement, Revision, SystemClock};
use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::ground::{Ground, Setting};
use crate::history::{Recorder, What};
use crate::member::MemberAsk;
use crate::process::{Member, PATIENCE, Programs};
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

/// The fleet. Dropping it ends all that runs.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) members: Vec<Member>,
    pub(crate) ground: Ground,
    watched: Vec<watch::Receiver<BTreeSet<String>>>,
    watchers: JoinSet<()>,
    load: JoinSet<()>,
}

impl Stage {
    /// Starts a backend, hosts and members, and waits until all see all of them.
    pub(crate) async fn start(plan: &Plan, setting: Setting) -> Result<Stage> {
        let programs = &plan.programs;
        let mut stage = Stage {
            members: Vec::new(),
            ground: Ground::start(plan, setting).await?,
            watched: Vec::new(),
            watchers: JoinSet::new(),
            load: JoinSet::new(),
        };
        let hosts = stage.ground.hosts.len();
        stage.ground.hosts[0].client.create_group(GROUP, &Requirement::NONE).await?;
        for place in 0..hosts {
            stage.add_members(programs, place, hosts).await?;
            stage.watch(place);
        }
        stage.settle().await?;
        Ok(stage)
    }

    /// Ends all that runs. Returns the folder of its files, and what has been done.
    pub(crate) fn end(self) -> (TempDir, Vec<String>) {
        // The members first: what they would see of the end of their hosts belongs to no scenario.
        drop(self.members);
        self.ground.end()
    }

    /// Starts the members of a host. The first speaks to it through a proxy, the others over its Unix socket.
    async fn add_members(&mut self, programs: &Programs, place: usize, hosts: usize) -> Result<()> {
        let count = if hosts == 1 { 2 * MEMBERS_PER_HOST } else { MEMBERS_PER_HOST };
        for number in 0..=count {
            let host = &self.ground.hosts[place];
            let (server, token_file) = match number {
                0 => {
                    let port = self.ground.doors[place].proxy.port();
                    (format!("http://127.0.0.1:{port}"), Some(host.token_file.clone()))
                }
                _ => (host.client.address().to_string(), None),
            };
            let ask = MemberAsk {
                server,
                token_file,
                group: GROUP.into(),
                id: format!("member-{place}-{number}"),
                ttl_ms: self.ground.setting.lease.as_millis() as u64,
                // The last one comes and goes.
                stays_ms: (number == count).then_some(COME_AND_GO.as_millis() as u64),
                folder: self.ground.history(),
            };
            let mut member = Member::new(&programs.chaos, place, ask);
            member.start()?;
            self.members.push(member);
        }
        Ok(())
    }

    fn watch(&mut self, place: usize) {
        let host = &self.ground.hosts[place];
        let (members, watched) = watch::channel(BTreeSet::new());
        let (client, folder, name) = (host.client.clone(), self.ground.history(), host.name.clone());
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

    /// Ends the faults of all links, says that all is well from now on, and waits until it shows.
    pub(crate) async fn heal(&self) -> Result<()> {
        self.ground.heal(LED_WITHIN);
        self.settle().await
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
        for host in self.ground.hosts.iter().filter(|host| host.runs()) {
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
        let here =
            self.members.iter().filter(|member| member.runs() && self.ground.hosts[member.host].runs());
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
        let host = self.ground.hosts.iter().find(|host| host.runs())?;
        let leader = host.client.leader(GROUP).await.ok()??;
        let place = self.members.iter().position(|member| member.ask.id == leader.member)?;
        self.members[place].ask.stays_ms.is_none().then_some((place, leader))
    }

    /// Kills a member and says that it is gone.
    pub(crate) async fn kill_member(&mut self, place: usize) {
        self.members[place].kill().await;
        let member = self.members[place].ask.id.clone();
        self.ground.recorder.note(What::Gone { group: GROUP.into(), member });
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
        let gone_within = GONE_WITHIN_LEASES * self.ground.setting.lease;
        self.ground.stand(gone_within).await;
        let mut ends = self.look_at_the_end().await?;
        for _ in 1..QUIET_TRIES {
            if self.is_quiet(&ends) {
                break;
            }
            ends = self.look_at_the_end().await?;
        }
        for (name, groups, group) in ends {
            let recorder = Recorder::new(&self.ground.history(), &format!("end-{name}"));
            recorder.note(What::Final { groups, group, lease: gone_within.as_nanos() as u64 });
        }
        Ok(())
    }

    /// Returns what each host shows once every subscriber was told of all there is: its name, all groups, and the group.
    async fn look_at_the_end(&mut self) -> Result<Vec<(String, Vec<String>, GroupInfo)>> {
        self.settle().await?;
        self.sound().await?;
        let mut ends = Vec::new();
        for host in &self.ground.hosts {
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
                match sounding(&self.ground.hosts[0].client).await {
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
