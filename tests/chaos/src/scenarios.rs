//! The scenarios: what is done to a fleet while everybody writes down what he sees.

mod follower;
mod layers;
mod links;
mod locks;
mod processes;
mod rolling;

use std::path::PathBuf;
use std::time::Duration;

use althing_core::{Clock, SystemClock};
use althing_test_servers::Backend::{
    self, Embedded, Ensemble, Etcd, EtcdCluster, File, Ipc, Memory, Mysql, Postgresql, Redis, ZooKeeper,
};
use anyhow::Result;
use futures::future::BoxFuture;
use tempfile::TempDir;

use crate::check::check;
use crate::ground::Setting;
use crate::history::History;
use crate::process::Programs;
use crate::report::Report;
use crate::stage::Stage;

/// Something that is done to a fleet.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    backends: &'static [Backend],
    pub(crate) setting: Setting,
    act: for<'a> fn(&'a Plan, Setting) -> BoxFuture<'a, Result<Played>>,
}

/// What is left of a scenario that was played.
#[derive(Debug)]
struct Played {
    /// Where the history is, in a folder of this name.
    folder: TempDir,
    done: Vec<String>,
    outcome: Result<()>,
}

/// Where in its folder a fleet keeps the history.
pub(crate) const HISTORY: &str = "history";

/// Short leases, so that much happens in little time.
const SHORT: Setting =
    Setting { lease: Duration::from_secs(1), tick: Duration::from_millis(100), pinned: false, routed: false };

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "processes",
        about: "the server, hosts and members are killed and started again, or stand still for three leases",
        backends: &[
            Memory,
            Embedded,
            File,
            Ipc,
            Redis,
            Postgresql,
            Mysql,
            Etcd,
            EtcdCluster,
            ZooKeeper,
            Ensemble,
        ],
        setting: SHORT,
        act: |plan, setting| Box::pin(on_stage(plan, setting, |stage| Box::pin(processes::round(stage)))),
    },
    Scenario {
        name: "links",
        about: "every link between members, hosts and servers suffers every fault",
        backends: Backend::ALL,
        setting: Setting { routed: true, ..SHORT },
        act: |plan, setting| Box::pin(on_stage(plan, setting, |stage| Box::pin(links::round(stage)))),
    },
    Scenario {
        name: "locks",
        about: "32 clients lock and release, and they, their hosts, the server and all links between them suffer every fault",
        backends: Backend::ALL,
        setting: SHORT,
        act: |plan, setting| Box::pin(locks::play(plan, setting)),
    },
    Scenario {
        name: "layers",
        about: "three hosts in one process, whose calls to the store are refused, late, lost, or done and not answered",
        backends: &[Memory],
        setting: SHORT,
        act: |plan, setting| Box::pin(layers::play(plan, setting)),
    },
    Scenario {
        name: "follower",
        about: "a server is cut off from the one it follows and goes on answering the pings of the leader's host",
        backends: &[Ensemble],
        setting: Setting {
            lease: Duration::from_secs(3),
            tick: Duration::from_millis(500),
            pinned: true,
            routed: true,
        },
        act: |plan, setting| Box::pin(on_stage(plan, setting, |stage| Box::pin(follower::round(stage)))),
    },
    Scenario {
        name: "rolling",
        about: "the servers of the ensemble are restarted one after the other, and nobody notices",
        backends: &[EtcdCluster, Ensemble],
        // To outlast a vote on who leads the servers.
        setting: Setting { lease: Duration::from_secs(8), ..SHORT },
        act: |plan, setting| Box::pin(on_stage(plan, setting, |stage| Box::pin(rolling::round(stage)))),
    },
];

/// Returns the scenarios that a backend can be put through.
pub fn scenarios(backend: Backend) -> impl Iterator<Item = &'static Scenario> {
    SCENARIOS.iter().filter(move |scenario| scenario.backends.contains(&backend))
}

/// How to play a scenario.
#[derive(Clone, Debug)]
pub struct Plan {
    /// On which backend.
    pub backend: Backend,
    /// For how long it is begun again; it is played once to its end however short this is.
    pub time: Duration,
    /// The most steps of a scenario that has many; which ones, the seed says.
    pub steps_max: usize,
    /// Where everything comes from that is random.
    pub seed: u64,
    /// What to start.
    pub programs: Programs,
}

/// Plays a scenario and checks what everybody saw. Fails where it cannot even begin.
pub async fn play(plan: &Plan, scenario: &Scenario) -> Result<Report> {
    let mut played = (scenario.act)(plan, scenario.setting).await?;
    let history = History::read(&played.folder.path().join(HISTORY));
    let mut report = Report::new(plan, scenario, &history, check(&history));
    report.done = played.done;
    report.failure = played.outcome.err().map(|error| format!("{error:#}"));
    if !report.is_good() {
        played.folder.disable_cleanup(true);
        report.kept = Some(played.folder.path().to_owned());
    }
    Ok(report)
}

/// Plays rounds on a fleet of processes until the time is over.
async fn on_stage(
    plan: &Plan,
    setting: Setting,
    round: for<'a> fn(&'a mut Stage) -> BoxFuture<'a, Result<()>>,
) -> Result<Played> {
    let mut stage = Stage::start(plan, setting).await?;
    let end = SystemClock.now() + plan.time;
    let mut outcome = round(&mut stage).await;
    while outcome.is_ok() && SystemClock.now() < end {
        outcome = round(&mut stage).await;
    }
    if outcome.is_ok() {
        outcome = stage.finish().await;
    }
    let (folder, done) = stage.end();
    Ok(Played { folder, done, outcome })
}

/// Plays a scenario by its name once, with one seed, and fails with all that was wrong. `chaos` is the program of this package.
pub async fn holds(chaos: PathBuf, backend: Backend, name: &str, steps_max: usize) {
    let scenario =
        scenarios(backend).find(|scenario| scenario.name == name).expect("there is such a scenario");
    let programs = Programs::beside(chaos).expect("the programs are built");
    let plan = Plan { backend, time: Duration::ZERO, steps_max, seed: 1, programs };
    let report = play(&plan, scenario).await.expect("the scenario begins");
    assert!(report.is_good(), "{report}");
    let is_led = report.terms > 0 && report.events > 0;
    assert!(report.holds > 0 && (is_led || report.grants > 0), "nothing was seen: {report}");
}
