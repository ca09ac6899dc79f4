//! Every backend through all layers, beside the raw client and beside Tooz, on the same private server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use althing_test_servers::{Backend, Server};
use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::runtime::Handle;

use crate::change::Floor;
use crate::figure::{Count, Figure, Report, Series};
use crate::raw::FreeLock;
use crate::rounds::{Group, Guest, Heard, Known, Listed, Lock, Round, Told};
use crate::tooz::Tooz;
use crate::trips::Trips;

/// What is measured on each.
pub(crate) const NAMES: [&str; 5] = ["lock", "join", "members", "change", "watch"];

const TICK: Duration = Duration::from_millis(200);
/// How many members the group has that is asked for its members, here and in `tooz_peer.py`.
const MEMBERS: usize = 20;
/// Ours and Tooz take turns by so many rounds' share: what else the machine does meets both.
const BLOCKS: usize = 10;
const WARM_UP: usize = 20;

/// What is asked for.
pub(crate) struct Plan {
    pub(crate) backends: Vec<Backend>,
    pub(crate) rounds: usize,
    /// One of [`NAMES`] alone.
    pub(crate) only: Option<String>,
    /// A Python that has Tooz.
    pub(crate) python: Option<PathBuf>,
}

/// Reads names of backends, `redis,etcd` or `all`.
pub(crate) fn named(names: &str) -> Result<Vec<Backend>> {
    if names == "all" {
        return Ok(Backend::ALL.to_vec());
    }
    let named = |name| Backend::named(name).with_context(|| format!("no backend is called {name:?}"));
    names.split(',').map(named).collect()
}

/// Measures each backend, in a task of its own: one whose server does not start is told as a wrong outcome like one that
/// fails, and the others go on.
pub(crate) async fn measure(plan: Plan, io: &Handle) -> Report {
    let (plan, mut report) = (Arc::new(plan), Report::default());
    for backend in plan.backends.iter().copied() {
        match tokio::spawn(on(plan.clone(), backend, io.clone())).await {
            Ok(more) => report.extend(more),
            Err(error) => report.check(false, || format!("{}: {error}", backend.name())),
        }
    }
    report
}

async fn on(plan: Arc<Plan>, backend: Backend, io: Handle) -> Report {
    let (name, mut report) = (backend.name(), Report::default());
    let Some(server) = Server::start(backend, TICK).await else {
        let program = backend.program().unwrap_or_default();
        eprintln!("bench: {program} is not installed, so the figures of {name} are missing");
        return report;
    };
    eprintln!("bench: {name} …");
    if let Err(error) = all(&plan, name, &server, &io, &mut report).await {
        report.check(false, || format!("{name}: {error:#}"));
    }
    report
}

async fn all(plan: &Plan, name: &str, server: &Server, io: &Handle, report: &mut Report) -> Result<()> {
    let folder = TempDir::new()?;
    let tooz = Tooz::start(plan.python.as_deref(), &server.url("tooz"), folder.path())?;
    if let Some(url) = tooz.url() {
        eprintln!("bench: {name}, and Tooz by {url} …");
    }
    let mut sides = Sides { plan, name, server, io, tooz, folder: folder.path(), report };
    for figure in NAMES.into_iter().filter(|name| plan.only.as_deref().is_none_or(|only| only == *name)) {
        sides.measure(figure).await.with_context(|| format!("measuring {figure}"))?;
    }
    sides.tooz.stop().await;
    Ok(())
}

/// Who is measured on one backend, and where the figures go.
struct Sides<'a> {
    plan: &'a Plan,
    name: &'a str,
    server: &'a Server,
    io: &'a Handle,
    tooz: Tooz,
    /// Where Tooz keeps files.
    folder: &'a Path,
    report: &'a mut Report,
}

impl Sides<'_> {
    async fn measure(&mut self, figure: &str) -> Result<()> {
        let (url, io) = (self.server.url(figure), self.io);
        match figure {
            "lock" => {
                let mut lock = Lock::of(&url, io).await?;
                self.take(figure, &mut lock, FreeLock::of(&url).await?, Some("Tooz acquire, release"))
                    .await?;
                lock.close().await?;
                self.count_acquires().await
            }
            "join" => {
                let group = Group::of(&url, 1, io).await?;
                self.take(figure, &mut Guest(&group), None::<FreeLock>, Some("Tooz join_group, leave_group"))
                    .await?;
                group.stop().await;
                Ok(())
            }
            "members" => {
                let group = Group::of(&url, MEMBERS, io).await?;
                self.take(figure, &mut Known(&group), None::<FreeLock>, Some("Tooz get_members")).await?;
                self.take(figure, &mut Listed(&group), None::<FreeLock>, Some("Tooz get_members")).await?;
                group.stop().await;
                Ok(())
            }
            "change" => {
                let mut heard = Heard::of(&url, self.server.is_within_a_host(), io).await?;
                let tooz_name = Some("Tooz join_group → run_watchers");
                self.take(figure, &mut heard, None::<FreeLock>, tooz_name).await?;
                heard.stop().await;
                Ok(())
            }
            _ => {
                let mut told = Told::of(&url, self.server.is_within_a_host(), io).await?;
                self.take(figure, &mut told, Floor::of(&url).await?, None).await
            }
        }
    }

    /// Takes ours, the raw client's where it has some, and Tooz's, in turn.
    async fn take<F: Round>(
        &mut self,
        figure: &str,
        ours: &mut impl Round,
        mut raw: Option<F>,
        tooz_name: Option<&'static str>,
    ) -> Result<()> {
        let (mut taken, mut below, mut tooz) = (Series::default(), Series::default(), Ok(Series::default()));
        for block in 0..=BLOCKS {
            if block == 1 {
                (taken, below, tooz) =
                    (Series::default(), Series::default(), tooz.map(|_| Series::default()));
            }
            let rounds = if block == 0 { WARM_UP } else { self.plan.rounds.div_ceil(BLOCKS) };
            for _ in 0..rounds {
                taken.add(ours.round().await?);
                if let Some(raw) = &mut raw {
                    below.add(raw.round().await?);
                }
            }
            if tooz_name.is_some()
                && let Ok(series) = &mut tooz
            {
                match self.tooz_rounds(figure, rounds).await {
                    Ok(more) => series.extend(more),
                    Err(why) => tooz = Err(why),
                }
            }
        }
        let name = format!("{}, {}", ours.name(), self.name);
        let mut row = |floor_name, floor| {
            let (name, taken) = (name.clone(), taken.clone());
            self.report.figure(Figure { name, taken, floor_name, floor, goal: None });
        };
        match (tooz_name, tooz) {
            (None, _) => {}
            (Some(name), Ok(series)) => row(name, series),
            (_, Err(why)) => row(why, Series::default()),
        }
        match raw {
            Some(raw) => row(raw.name(), below),
            None if tooz_name.is_none() => row("the raw client: not taught", Series::default()),
            None => {}
        }
        Ok(())
    }

    async fn tooz_rounds(&mut self, figure: &str, rounds: usize) -> Result<Series, &'static str> {
        self.tooz.take("beat", 1).await?;
        self.tooz.take(figure, rounds).await
    }

    /// Counts the round trips of an acquire, where they go by ports that can be listened at.
    async fn count_acquires(&mut self) -> Result<()> {
        // Sentinels say where the server is, past whoever listens. Over HTTP/2 an etcd is also answered when it asks how
        // the connection does.
        let is_hidden = matches!(self.server, Server::Sentinel(_) | Server::Etcd(_));
        if is_hidden || self.server.ports().is_empty() {
            return Ok(());
        }
        let trips = Trips::before(&self.server.ports()).await?;
        let url = self.server.url_by(trips.ports(), "trips");
        let lock = Lock::of(&url, self.io).await?;
        let mut ours = Vec::new();
        for _ in 0..WARM_UP {
            let before = trips.made();
            let taken = lock.acquire().await?;
            ours.push(trips.made() - before);
            lock.release(taken).await?;
        }
        lock.close().await?;
        let mut tooz = Tooz::start(self.plan.python.as_deref(), &url, self.folder)?;
        let (theirs, floor_name) = match tooz_acquires(&mut tooz, &trips).await {
            Ok(counts) => (counts, "Tooz acquire"),
            Err(why) => (Vec::new(), why),
        };
        tooz.stop().await;
        let (value, floor) = (median(ours), median(theirs));
        let name = format!("round trips of an acquire, {}", self.name);
        self.report.count(Count { name, value, unit: "", floor_name, floor });
        Ok(())
    }
}

async fn tooz_acquires(tooz: &mut Tooz, trips: &Trips) -> Result<Vec<u64>, &'static str> {
    let mut counts = Vec::new();
    for _ in 0..WARM_UP {
        let before = trips.made();
        tooz.take("acquire", 1).await?;
        counts.push(trips.made() - before);
        tooz.take("release", 1).await?;
    }
    Ok(counts)
}

/// Returns the one in the middle; of none, no number.
fn median(mut counts: Vec<u64>) -> f64 {
    counts.sort_unstable();
    counts.get(counts.len() / 2).map_or(f64::NAN, |count| *count as f64)
}
