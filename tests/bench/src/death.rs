//! From the SIGKILL of a leader's process until a watching client is told who leads next.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use althing_client::{Address, Client, EventStream};
use althing_core::info::Event;
use althing_core::{BootTime, Clock, Requirement, SystemClock};
use althing_tooz::Host;
use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

use crate::figure::{Figure, Goal, Report, Series};
use crate::host::PATIENCE;
use crate::{Bench, ZOOKEEPER};

const GROUP: &str = "web";
/// How many members there are before each kill.
const MEMBERS: usize = 3;
const GOAL: Goal = Goal::P99(Duration::from_millis(10));
/// A write through a quorum takes its time, and there are two of them.
const GOAL_ZOOKEEPER: Goal = Goal::P99(Duration::from_millis(25));

pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    for (backend, url) in bench.backends("death") {
        let (told, dead) = kills(&url, bench.count(120, 10)).await?;
        let name = format!("kill -9 → next leader told, {backend}");
        report.figure(Figure {
            name,
            taken: told,
            floor_name: "kill -9 → its parent told",
            floor: dead,
            goal: Some(if backend.starts_with(ZOOKEEPER) { GOAL_ZOOKEEPER } else { GOAL }),
        });
    }
    Ok(())
}

async fn kills(url: &str, count: usize) -> Result<(Series, Series)> {
    let host = Host::start(url, &[]).await?;
    let client = Client::new(Address::Unix(host.socket().to_owned()));
    client.create_group(GROUP, &Requirement::NONE).await?;
    let mut fleet = Fleet {
        socket: host.socket().to_owned(),
        events: client.group_events(GROUP).await?,
        processes: BTreeMap::new(),
        led_by: None,
        joined: 0,
        here: Vec::new(),
    };
    let (mut told, mut dead) = (Series::default(), Series::default());
    for _ in 0..count {
        let (to_told, to_dead) = tokio::time::timeout(PATIENCE, fleet.kill_leader())
            .await
            .context("no other member was told to lead")??;
        told.add(to_told);
        dead.add(to_dead);
    }
    drop(fleet);
    host.stop().await?;
    Ok((told, dead))
}

/// The members of the group, each a process of its own, and what the group's watcher hears.
struct Fleet {
    socket: PathBuf,
    events: EventStream<Event>,
    processes: BTreeMap<String, Child>,
    /// Who is in the group.
    here: Vec<String>,
    led_by: Option<String>,
    /// Names the next member.
    joined: usize,
}

impl Fleet {
    /// Kills the leader's process. Returns the time until another leader is told, and until its parent knows it dead.
    async fn kill_leader(&mut self) -> Result<(Duration, Duration)> {
        while self.processes.len() < MEMBERS {
            self.begin_member()?;
        }
        while self.led_by.is_none() || self.here.len() < MEMBERS {
            self.hear().await?;
        }
        let leader = self.led_by.take().context("somebody leads")?;
        let mut process = self.processes.remove(&leader).context("the leader is one of ours")?;
        let killed = SystemClock.now();
        process.start_kill()?;
        let (dead, told) = tokio::join!(moment(process.wait()), self.next_leader());
        let (at, next) = told?;
        if next == leader {
            bail!("{next} leads, whose process is dead");
        }
        Ok((at.since(killed), dead.since(killed)))
    }

    async fn next_leader(&mut self) -> Result<(BootTime, String)> {
        loop {
            self.hear().await?;
            let at = SystemClock.now();
            if let Some(next) = &self.led_by {
                return Ok((at, next.clone()));
            }
        }
    }

    async fn hear(&mut self) -> Result<()> {
        match self.events.next().await?.context("the host ended the stream")? {
            Event::Snapshot { group } => {
                self.here = group.members.into_iter().map(|member| member.id).collect();
                self.led_by = group.leader.map(|leader| leader.member);
            }
            Event::Joined { member, .. } => self.here.push(member.id),
            Event::Left { id, .. } => self.here.retain(|here| *here != id),
            Event::Elected { leader, .. } => self.led_by = Some(leader.member),
            Event::Vacated { .. } => self.led_by = None,
            Event::Updated { .. }
            | Event::Bound { .. }
            | Event::Partitioned { .. }
            | Event::Deleted { .. } => {}
        }
        Ok(())
    }

    fn begin_member(&mut self) -> Result<()> {
        self.joined += 1;
        let id = format!("member-{}", self.joined);
        let mut command = Command::new(althing_tooz::program()?);
        command.arg("--server").arg(format!("unix:{}", self.socket.display()));
        command.args(["member", "join", GROUP, &id]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        self.processes.insert(id, command.spawn().context("a member starts")?);
        Ok(())
    }
}

async fn moment<T>(work: impl Future<Output = T>) -> BootTime {
    work.await;
    SystemClock.now()
}
