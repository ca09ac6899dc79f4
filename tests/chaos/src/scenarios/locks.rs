//! Locks that are fought for by many, while whatever can fail does.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use althing::backends;
use althing_core::info::{BreakAsk, LockSummary};
use althing_core::{Chance, Clock, Driver, Key, OsChance, SeededChance, SystemClock};
use althing_test_servers::{Backend, Server};
use anyhow::{Context, Result};
use tokio::time::timeout;

use super::links::{BEYOND, FAULTS};
use super::{Plan, Played};
use crate::ground::{Ground, NAMESPACE, Setting};
use crate::history::{Entry, LockStep, Nanos, Recorder, What, now};
use crate::locker::{LOCKS, LockerAsk};
use crate::process::{Locker, PATIENCE};
use crate::signal::Stopped;
use crate::stage::LOOK;

/// How many processes there are, and clients in each of them.
const PROCESSES: usize = 8;
const CLIENTS_EACH: usize = 4;
/// How many of the processes speak to their hosts through proxies; the others use the Unix sockets.
const BY_DOORS: usize = 3;
/// How soon after a healing every client must have been let in: what it takes until somebody leads, and its turn.
const LET_IN_WITHIN: Duration = Duration::from_secs(10);
/// How many leases something may stay there for of sessions that are gone: that of the client, and that of its host.
const GONE_WITHIN_LEASES: u32 = 2;
/// How much longer a lease may last where it is rounded to whole seconds.
const ROUNDING: Duration = Duration::from_secs(2);
/// How long a look at what is left may take.
const LAST_LOOK: Duration = Duration::from_millis(500);
/// How many records are shown of what is left.
const RECORDS_SHOWN_MAX: u32 = 10;
/// How often links are cut in one round: several ways at a time.
const CUTS: usize = 6;
/// How often holders are asked to stop in a row, and the pause in between.
const BREAKS: usize = 20;
const BREAK_PAUSE: Duration = Duration::from_millis(30);

/// The fleet with all who lock. Dropping it ends all that runs.
struct Crowd {
    backend: Backend,
    lockers: Vec<Locker>,
    ground: Ground,
    seen: Seen,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    KillClients,
    StopClients,
    KillHost,
    StopHost,
    KillServer,
    StopServer,
    Cut,
    Break,
}

/// Lets the crowd suffer until the time is over.
pub(super) async fn play(plan: &Plan, setting: Setting) -> Result<Played> {
    let mut crowd = Crowd::start(plan, setting).await?;
    let end = SystemClock.now() + plan.time;
    let mut outcome = crowd.round().await;
    while outcome.is_ok() && SystemClock.now() < end {
        outcome = crowd.round().await;
    }
    if outcome.is_ok() {
        outcome = crowd.finish().await;
    }
    drop(crowd.lockers);
    let (folder, done) = crowd.ground.end();
    Ok(Played { folder, done, outcome })
}

impl Crowd {
    async fn start(plan: &Plan, setting: Setting) -> Result<Crowd> {
        let ground = Ground::start(plan, setting).await?;
        let mut crowd = Crowd { backend: plan.backend, lockers: Vec::new(), ground, seen: Seen::default() };
        for place in 0..PROCESSES {
            crowd.add_locker(plan, place)?;
        }
        Ok(crowd)
    }

    fn add_locker(&mut self, plan: &Plan, place: usize) -> Result<()> {
        let at = place % self.ground.hosts.len();
        let host = &self.ground.hosts[at];
        let (server, token_file) = match place < BY_DOORS {
            true => {
                let port = self.ground.doors[at].proxy.port();
                (format!("http://127.0.0.1:{port}"), Some(host.token_file.clone()))
            }
            false => (host.client.address().to_string(), None),
        };
        let ask = LockerAsk {
            server,
            token_file,
            clients: (0..CLIENTS_EACH).map(|number| format!("locker-{place}-{number}")).collect(),
            ttl_ms: self.ground.setting.lease.as_millis() as u64,
            seed: plan.seed ^ (place as u64) << 16,
            folder: self.ground.history(),
        };
        let mut locker = Locker::new(&plan.programs.chaos, at, ask);
        locker.start()?;
        self.lockers.push(locker);
        Ok(())
    }

    /// Lets everything happen that can, in an order that the seed gives.
    async fn round(&mut self) -> Result<()> {
        self.settle(0).await?;
        for fate in self.fates().into_iter().take(self.ground.steps_max) {
            self.befall(fate).await?;
            let healed = now();
            self.ground.heal(LET_IN_WITHIN);
            self.settle(healed).await?;
        }
        Ok(())
    }

    fn fates(&self) -> Vec<Fate> {
        let mut fates =
            vec![Fate::KillClients, Fate::StopClients, Fate::StopHost, Fate::StopHost, Fate::Break];
        fates.extend([Fate::Cut; CUTS]);
        // Nothing outlives the only host, where that has it in memory.
        if self.backend != Backend::Memory {
            fates.push(Fate::KillHost);
        }
        // Of servers that may forget when they end, none is: what was locked there is promised by nobody.
        if Backend::LASTING.contains(&self.backend) {
            fates.extend([Fate::KillServer, Fate::StopServer]);
        }
        let mut order: Vec<_> = fates.into_iter().map(|fate| (self.ground.chance.bits(), fate)).collect();
        order.sort_by_key(|(place, _)| *place);
        order.into_iter().map(|(_, fate)| fate).collect()
    }

    async fn befall(&mut self, fate: Fate) -> Result<()> {
        let chance = &self.ground.chance;
        let (locker, host) = (pick(chance, self.lockers.len()), pick(chance, self.ground.hosts.len()));
        // From less than anybody believes to more than anybody waits for.
        let time = self.ground.setting.lease.mul_f64(0.5 + 2.5 * chance.unit());
        match fate {
            Fate::KillClients => self.kill_clients(locker, time).await?,
            Fate::StopClients => {
                self.ground.fault(format!("process {locker} of clients stands still for {time:.1?}"));
                let stopped = Stopped::new(self.lockers[locker].pid());
                self.ground.stand(time).await;
                stopped.resume();
            }
            Fate::KillHost => self.kill_host(host, time).await?,
            Fate::StopHost => {
                self.ground.fault(format!("host-{host} stands still for {time:.1?}"));
                let stopped = Stopped::new(self.ground.hosts[host].pid());
                self.ground.stand(time).await;
                stopped.resume();
            }
            Fate::KillServer => {
                self.ground.fault("kill -9 of the server that leads, and its restart");
                self.ground.server.restart_one().await;
            }
            Fate::StopServer => {
                self.ground.fault(format!("{} stands still for {time:.1?}", self.ground.server.to_pause()));
                self.ground.server.pause_one().await;
                self.ground.stand(time).await;
                self.ground.server.resume();
            }
            Fate::Cut => self.cut().await,
            Fate::Break => self.ask_to_stop(host).await,
        }
        Ok(())
    }

    async fn kill_clients(&mut self, place: usize, time: Duration) -> Result<()> {
        self.ground
            .fault(format!("kill -9 of process {place} of clients, which comes back after {time:.1?}"));
        self.lose(place).await;
        self.ground.stand(time).await;
        self.lockers[place].start()
    }

    /// Kills a process of clients and says that they are gone.
    async fn lose(&mut self, place: usize) {
        self.lockers[place].kill().await;
        let clients = self.lockers[place].ask.clients.clone();
        self.ground.recorder.note(What::Away { clients });
    }

    async fn kill_host(&mut self, place: usize, time: Duration) -> Result<()> {
        self.ground.fault(format!("kill -9 of host-{place}, which comes back after {time:.1?}"));
        self.ground.hosts[place].kill().await;
        self.ground.stand(time).await;
        self.ground.hosts[place].start().await
    }

    /// Lets links between hosts and servers, and between clients and hosts, suffer something each; one host is spared.
    async fn cut(&mut self) {
        let (chance, hosts) = (&self.ground.chance, self.ground.hosts.len());
        let spared = pick(chance, hosts);
        let links = self.ground.links.iter().filter(|link| link.host != spared);
        let mut struck = Vec::new();
        for link in links.chain(&self.ground.doors) {
            let (name, faults) = FAULTS[pick(chance, FAULTS.len())];
            struck.push((format!("{name} on {}", link.name), &link.proxy, faults));
        }
        let names: Vec<_> = struck.iter().map(|(name, ..)| name.as_str()).collect();
        self.ground.recorder.note(What::Fault { fault: names.join("; ") });
        struck.iter().for_each(|(_, proxy, faults)| faults.iter().for_each(|fault| proxy.inject(*fault)));
        let names: Vec<_> = struck.into_iter().map(|(name, ..)| name).collect();
        self.ground.done.extend(names);
        self.ground.stand(self.ground.setting.lease + BEYOND).await;
    }

    /// Asks holders to stop, whoever they are.
    async fn ask_to_stop(&mut self, place: usize) {
        self.ground.fault(format!("whoever holds something is asked to stop by host-{place}"));
        let client = &self.ground.hosts[place].client;
        for _ in 0..BREAKS {
            let lock = LOCKS[pick(&self.ground.chance, LOCKS.len())];
            // Whether it was in time is shown by what its holder was told.
            let _ = client.break_lock(lock, &BreakAsk::default()).await;
            self.ground.stand(BREAK_PAUSE).await;
        }
    }

    /// Waits until every client that runs was let in since a moment.
    async fn settle(&mut self, since: Nanos) -> Result<()> {
        let folder = self.ground.history();
        let running = self.lockers.iter().filter(|locker| locker.runs());
        let clients: Vec<String> = running.flat_map(|locker| locker.ask.clients.clone()).collect();
        let mut missing = String::new();
        let settled = async {
            while let Some(client) = self.seen.idle(&folder, &clients, since) {
                missing = client;
                SystemClock.sleep(LOOK).await;
            }
        };
        let outcome = timeout(PATIENCE, settled).await;
        outcome.with_context(|| format!("{missing} is let in nowhere"))
    }

    /// Lets half of the clients end well; the others are killed, with a host where there are several. Then looks what is
    /// left of all of them.
    async fn finish(&mut self) -> Result<()> {
        for place in (0..PROCESSES).step_by(2) {
            self.lockers[place].end().await?;
        }
        self.ground.fault("kill -9 of all clients that are left");
        for place in (1..PROCESSES).step_by(2) {
            self.lose(place).await;
        }
        if self.ground.hosts.len() > 1 {
            self.ground.fault("kill -9 of host-1");
            self.ground.hosts[1].kill().await;
        }
        self.look_at_the_end(now()).await
    }

    async fn look_at_the_end(&mut self, since: Nanos) -> Result<()> {
        let rounding = match self.ground.server {
            Server::Memcached(_) => ROUNDING,
            _ => Duration::ZERO,
        };
        let within = GONE_WITHIN_LEASES * self.ground.setting.lease + rounding + LAST_LOOK;
        let due = since + within.as_nanos() as u64;
        let store = self.store().await?;
        for place in 0..self.ground.hosts.len() {
            while self.ground.hosts[place].runs() {
                let shown = self.ground.hosts[place].client.locks().await?;
                let records = left_in(store.as_ref()).await?;
                if (shown.is_empty() && records.is_empty()) || now() > due {
                    self.note_left(place, since, within, shown, records);
                    break;
                }
                SystemClock.sleep(LOOK).await;
            }
        }
        if matches!(self.ground.server, Server::Embedded(_)) {
            // Nobody else can open its file while the host has it.
            self.ground.hosts[0].kill().await;
            let records = left_in(self.store().await?.as_ref()).await?;
            self.note_left(0, since, within, Vec::new(), records);
        }
        Ok(())
    }

    fn note_left(
        &self,
        place: usize,
        since: Nanos,
        within: Duration,
        shown: Vec<LockSummary>,
        records: Vec<String>,
    ) {
        let recorder = Recorder::new(&self.ground.history(), &format!("end-host-{place}"));
        let within = within.as_nanos() as u64;
        recorder.note(What::LocksLeft { since, within, shown, records });
    }

    /// Connects to what the hosts have their records in, past all proxies, where somebody else can.
    async fn store(&self) -> Result<Option<Arc<dyn Driver>>> {
        let is_taken = self.ground.hosts[0].runs();
        match self.ground.server {
            Server::Memory => return Ok(None),
            Server::Embedded(_) if is_taken => return Ok(None),
            _ => {}
        }
        let location = self.ground.server.url(NAMESPACE).parse()?;
        Ok(Some(backends::connect(location, Arc::new(SystemClock), Arc::new(OsChance)).await?))
    }
}

/// Returns the keys of all locks that lie in a store.
async fn left_in(store: Option<&Arc<dyn Driver>>) -> Result<Vec<String>> {
    let Some(store) = store else { return Ok(Vec::new()) };
    let page = store.list(&Key::path(["lock"]).below(), None, RECORDS_SHOWN_MAX).await?;
    Ok(page.records.iter().map(|record| format!("{}: {}", record.key, shown(&record.value))).collect())
}

fn shown(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

fn pick(chance: &SeededChance, count: usize) -> usize {
    (chance.unit() * count as f64) as usize
}

/// Who was let in last, and when, as far as the history was read.
#[derive(Debug, Default)]
struct Seen {
    read: BTreeMap<String, u64>,
    latest: BTreeMap<String, Nanos>,
}

impl Seen {
    /// Returns one of these clients who was not let in since a moment.
    fn idle(&mut self, folder: &Path, clients: &[String], since: Nanos) -> Option<String> {
        for client in clients {
            if self.latest.get(client).is_none_or(|latest| *latest <= since) {
                self.read(folder, client);
            }
        }
        let is_idle = |client: &&String| self.latest.get(*client).is_none_or(|latest| *latest <= since);
        clients.iter().find(is_idle).cloned()
    }

    /// Reads on in what a client writes down.
    fn read(&mut self, folder: &Path, client: &str) {
        let Ok(mut file) = File::open(folder.join(format!("{client}.jsonl"))) else { return };
        let from = self.read.entry(client.to_owned()).or_default();
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(*from)).expect("a history can be read");
        file.read_to_end(&mut bytes).expect("a history can be read");
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        *from += whole as u64;
        for line in bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let entry: Entry = serde_json::from_slice(line).expect("a history is made of entries");
            if matches!(entry.what, What::Lock { step: LockStep::Granted { .. }, .. }) {
                self.latest.insert(client.to_owned(), entry.at);
            }
        }
    }
}
