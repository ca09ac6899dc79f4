//! Every backend through all layers, beside the raw client and beside Tooz, on the same private server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use althing_test_servers::{Backend, Server};
use althing_tooz::Host;
use anyhow::{Context, Result};
use tokio::runtime::Handle;

use crate::change::Floor;
use crate::dead;
use crate::figure::{Figure, Goal, Report, Series};
use crate::locks::{HandOff, Lock};
use crate::raw::FreeLock;
use crate::rounds::{Group, Guest, Heard, Known, Listed, Round, Told};
use crate::tooz::Tooz;

/// What is measured on each.
pub(crate) const NAMES: [&str; 9] =
    ["lock", "join", "members", "change", "watch", "handoff", "join-create", "stop", "dead"];

/// The unit of time of servers that have one.
pub(crate) const TICK: Duration = Duration::from_millis(200);
/// How many members the group has that is asked for its members, here and in `tooz_peer.py`.
const MEMBERS: usize = 20;
/// Ours and Tooz take turns by so many rounds' share: what else the machine does meets both.
const BLOCKS: usize = 10;
const WARM_UP: usize = 20;
/// Until a lock that was released has its next holder, where nobody has to look for it.
const HAND_OFF: Goal = Goal::P50(Duration::from_millis(2));
const STOP: Goal = Goal::P99(Duration::from_millis(50));

/// A figure as `tooz_peer.py` takes it.
#[derive(Clone, Copy)]
struct Task {
    /// What it is called there.
    figure: &'static str,
    /// What Tooz does by its own driver; `None` where it is not asked.
    tooz: Option<&'static str>,
    /// What the same code does by our driver; `None` where that is not asked.
    driver: Option<&'static str>,
    /// It takes its time: it is taken once where others are taken so often.
    every: usize,
    goal: Option<Goal>,
}

impl Task {
    const fn of(figure: &'static str) -> Task {
        Task { figure, tooz: None, driver: None, every: 1, goal: None }
    }
}

const LOCK: Task = Task {
    tooz: Some("Tooz acquire, release"),
    driver: Some("lock and release, free, from Python"),
    ..Task::of("lock")
};
const JOIN: Task = Task { tooz: Some("Tooz join_group, leave_group"), ..Task::of("join") };
const LIST: Task = Task { tooz: Some("Tooz get_members"), ..Task::of("members") };
const CHANGE: Task = Task { tooz: Some("Tooz join_group → run_watchers"), ..Task::of("change") };
const WATCH: Task = Task::of("watch");
const PASS: Task = Task {
    tooz: Some("Tooz release → acquire"),
    driver: Some("release → another client has the lock, from Python"),
    every: 10,
    ..Task::of("handoff")
};
const CREATE: Task = Task {
    tooz: Some("Tooz join_group_create"),
    driver: Some("join a new group, from Python"),
    every: 50,
    ..Task::of("join-create")
};
const END: Task = Task {
    tooz: Some("Tooz stop"),
    driver: Some("stop, from Python"),
    every: 50,
    goal: Some(STOP),
    ..Task::of("stop")
};

/// What is asked for.
pub(crate) struct Plan {
    pub(crate) backends: Vec<Backend>,
    pub(crate) rounds: usize,
    /// One of [`NAMES`] alone.
    pub(crate) only: Option<String>,
    /// A Python that has Tooz.
    pub(crate) python: Option<PathBuf>,
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
    if let Err(error) = all(&plan, backend, &server, &io, &mut report).await {
        report.check(false, || format!("{name}: {error:#}"));
    }
    report
}

async fn all(plan: &Plan, backend: Backend, server: &Server, io: &Handle, report: &mut Report) -> Result<()> {
    let tooz = Tooz::start(plan.python.as_deref(), &server.url("tooz"))?;
    if let Some(url) = tooz.url() {
        eprintln!("bench: {}, and Tooz by {url} …", backend.name());
    }
    let mut sides = Sides { plan, backend, server, io, tooz, ours: None, report };
    for figure in NAMES.into_iter().filter(|name| plan.only.as_deref().is_none_or(|only| only == *name)) {
        sides.measure(figure).await.with_context(|| format!("measuring {figure}"))?;
    }
    sides.tooz.stop().await;
    if let Some(ours) = sides.ours {
        ours.driver.stop().await;
        ours.host.stop().await?;
    }
    Ok(())
}

/// Who is measured on one backend, and where the figures go.
pub(crate) struct Sides<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) backend: Backend,
    pub(crate) server: &'a Server,
    pub(crate) io: &'a Handle,
    pub(crate) tooz: Tooz,
    /// Started for the first figure that needs it.
    ours: Option<Ours>,
    pub(crate) report: &'a mut Report,
}

/// Tooz with our driver, and the host that it asks.
pub(crate) struct Ours {
    pub(crate) host: Host,
    driver: Tooz,
}

impl Sides<'_> {
    async fn measure(&mut self, figure: &str) -> Result<()> {
        let (url, io) = (self.server.url(figure), self.io);
        match figure {
            "lock" => {
                let mut lock = Lock::of(&url, io).await?;
                self.take(LOCK, Some(&mut lock), FreeLock::of(&url).await?).await?;
                lock.stop().await;
                self.count_acquires().await
            }
            "join" => {
                let group = Group::of(&url, 1, io).await?;
                self.take(JOIN, Some(Guest(&group)), None::<FreeLock>).await?;
                group.stop().await;
                Ok(())
            }
            "members" => {
                let group = Group::of(&url, MEMBERS, io).await?;
                self.take(LIST, Some(Known(&group)), None::<FreeLock>).await?;
                self.take(LIST, Some(Listed(&group)), None::<FreeLock>).await?;
                group.stop().await;
                Ok(())
            }
            "change" => {
                let mut heard = Heard::of(&url, self.server.is_within_a_host(), io).await?;
                self.take(CHANGE, Some(&mut heard), None::<FreeLock>).await?;
                heard.stop().await;
                Ok(())
            }
            "watch" => {
                let told = Told::of(&url, self.server.is_within_a_host(), io).await?;
                self.take(WATCH, Some(told), Floor::of(&url).await?).await
            }
            "handoff" => {
                let mut locks = HandOff::of(&url, self.server.is_within_a_host(), io).await?;
                let goal = locks.is_pushed().then_some(HAND_OFF);
                self.take(Task { goal, ..PASS }, Some(&mut locks), None::<FreeLock>).await?;
                locks.stop().await;
                Ok(())
            }
            "join-create" => {
                self.take(CREATE, None::<FreeLock>, None::<FreeLock>).await?;
                self.count_joins().await
            }
            "stop" => self.take(END, None::<FreeLock>, None::<FreeLock>).await,
            _ => dead::measure(self.plan, self.backend, self.report).await,
        }
    }

    /// Takes ours, the raw client's where it has some, and those of Python, in turn.
    async fn take(
        &mut self,
        task: Task,
        mut ours: Option<impl Round>,
        mut raw: Option<impl Round>,
    ) -> Result<()> {
        let mut turns = Turns::begin();
        for block in 0..=BLOCKS {
            if block == 1 {
                turns.forget();
            }
            let often = if block == 0 { WARM_UP } else { self.plan.rounds.div_ceil(BLOCKS) };
            let rounds = often.div_ceil(task.every);
            for _ in 0..rounds {
                if let Some(ours) = &mut ours {
                    turns.ours.add(ours.round().await?);
                }
                if let Some(raw) = &mut raw {
                    turns.raw.add(raw.round().await?);
                }
            }
            if task.driver.is_some()
                && let Some(ours) = self.ours().await?
            {
                extend(&mut turns.driver, &mut ours.driver, task.figure, rounds).await;
            }
            if task.tooz.is_some() {
                extend(&mut turns.tooz, &mut self.tooz, task.figure, rounds).await;
            }
        }
        self.tell(task, ours.map(|ours| ours.name()), raw.map(|raw| raw.name()), turns);
        Ok(())
    }

    /// Returns our driver, started when it is first asked for; `None` where there is no Python for it.
    pub(crate) async fn ours(&mut self) -> Result<Option<&mut Ours>> {
        if self.ours.is_none() && self.plan.python.is_some() {
            let host = Host::start(&self.server.url("driver"), &[]).await?;
            let driver = Tooz::with_ours(self.plan.python.as_deref(), host.url())?;
            self.ours = Some(Ours { host, driver });
        }
        Ok(self.ours.as_mut())
    }

    /// Shows what was taken: ours beside Tooz and beside the raw client, and our driver beside Tooz.
    fn tell(&mut self, task: Task, ours: Option<&'static str>, raw: Option<&'static str>, turns: Turns) {
        let Turns { ours: taken, raw: below, driver, tooz } = turns;
        let beside_tooz = task.tooz.map(|name| match tooz {
            Ok(series) => (name, series),
            Err(why) => (why, Series::default()),
        });
        let beside_raw = match raw {
            Some(name) => Some((name, below)),
            None if task.tooz.is_none() => Some(("the raw client: not taught", Series::default())),
            None => None,
        };
        for (floor_name, floor) in beside_tooz.clone().into_iter().chain(beside_raw) {
            let Some(ours) = ours else { continue };
            self.row(task, ours, taken.clone(), floor_name, floor);
        }
        let Some((name, (floor_name, floor))) = task.driver.zip(beside_tooz) else { return };
        match driver {
            _ if self.ours.is_none() => {}
            Ok(taken) => self.row(task, name, taken, floor_name, floor),
            Err(_) => self.report.check(false, || format!("{name}, {}: it failed", self.backend.name())),
        }
    }

    fn row(&mut self, task: Task, what: &str, taken: Series, floor_name: &'static str, floor: Series) {
        let name = format!("{what}, {}", self.backend.name());
        self.report.figure(Figure { name, taken, floor_name, floor, goal: task.goal });
    }
}

/// What was taken of a figure so far. Of Python instead: why there is nothing.
struct Turns {
    ours: Series,
    raw: Series,
    driver: Result<Series, &'static str>,
    tooz: Result<Series, &'static str>,
}

impl Turns {
    fn begin() -> Turns {
        let (ours, raw, driver, tooz) = Default::default();
        Turns { ours, raw, driver: Ok(driver), tooz: Ok(tooz) }
    }

    /// Forgets what was taken to warm up.
    fn forget(&mut self) {
        let Turns { ours, raw, driver, tooz } = self;
        for series in [ours, raw].into_iter().chain(driver.as_mut().ok()).chain(tooz.as_mut().ok()) {
            *series = Series::default();
        }
    }
}

/// Takes more of a figure, unless there was none before.
async fn extend(taken: &mut Result<Series, &'static str>, peer: &mut Tooz, figure: &str, rounds: usize) {
    let Ok(series) = taken else { return };
    let more = async {
        peer.take("beat", 1).await?;
        peer.take(figure, rounds).await
    };
    match more.await {
        Ok(more) => series.extend(more),
        Err(why) => *taken = Err(why),
    }
}
