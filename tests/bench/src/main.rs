//! Measures what Althing adds: every figure stands beside its raw floor, taken in turn with it in the same run.
//!
//! `cargo xtask bench` builds what this needs and runs it. No time fails it; a wrong outcome does: a decision that
//! failed or was made by a retired rule, a heartbeat of more than one request, a death that nobody was told of.
//!
//! With `--backend` it measures each backend of the list instead, beside Tooz on the same server: `backends.rs`. Where Python
//! asks, the same code runs by Tooz's own driver and by ours.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this command speaks to the person who typed it"
)]

mod backends;
mod change;
mod commit;
mod counts;
mod dead;
mod death;
mod decision;
mod figure;
mod heartbeat;
mod host;
mod locks;
mod raw;
mod replay;
mod rounds;
mod swap;
mod tooz;
mod trips;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use althing_test_servers::{Backend, Ensemble, Redis, RedisOptions, ZooKeeper, ZooKeeperOptions};
use anyhow::{Context, Error, Result, bail};
use tokio::runtime::{Builder, Runtime};

use crate::figure::Report;

const USAGE: &str = "althing-bench [--quick] [--json] [--only death|decision|commit|change|heartbeat|swap]
       althing-bench [--quick] [--json] [--only FIGURE] --backend all|NAME,NAME [--tooz PYTHON]
       FIGURE: lock|join|members|change|watch|handoff|join-create|stop|dead";

/// What a measurement works with.
struct Bench {
    quick: bool,
    /// Backend sockets and renewals live here, as they do in a host.
    io: Runtime,
    /// A private server; `None` where redis-server is not installed.
    redis: Option<Redis>,
    /// One private server, and three that agree; `None` where ZooKeeper is not installed.
    zookeeper: Option<(ZooKeeper, Ensemble)>,
}

/// The names of the backends, as figures show them.
const REDIS: &str = "redis";
const ZOOKEEPER: &str = "zookeeper";
const ENSEMBLE: &str = "zookeeper ×3";

impl Bench {
    /// Returns how often to measure: `full`, or `quick` where only a glance is asked for.
    fn count(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// Returns the backends to measure on, each with the URL of a namespace that nobody else uses.
    fn backends(&self, namespace: &str) -> Vec<(&'static str, String)> {
        let mut backends = vec![("memory", "memory:".to_owned())];
        backends.extend(self.redis.as_ref().map(|redis| (REDIS, redis.url(namespace))));
        if let Some((one, three)) = &self.zookeeper {
            backends.extend([(ZOOKEEPER, one.url(namespace)), (ENSEMBLE, three.url(namespace))]);
        }
        backends
    }
}

#[derive(Default)]
struct Args {
    quick: bool,
    json: bool,
    only: Option<String>,
    /// Measures these, and not ours alone.
    backends: Option<Vec<Backend>>,
    /// A Python that has Tooz.
    tooz: Option<PathBuf>,
}

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Args> {
        let mut args = Args::default();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => args.quick = true,
                "--json" => args.json = true,
                "--only" => args.only = Some(words.next().context("--only needs a name")?),
                "--backend" => {
                    let names = words.next().context("--backend needs a name")?;
                    args.backends = Some(Backend::list(&names).map_err(Error::msg)?);
                }
                "--tooz" => args.tooz = Some(words.next().context("--tooz needs a Python")?.into()),
                _ => bail!("unknown argument {word:?}; usage: {USAGE}"),
            }
        }
        let names = if args.backends.is_some() { &backends::NAMES[..] } else { &NAMES[..] };
        if let Some(only) = args.only.as_deref().filter(|only| !names.contains(only)) {
            bail!("nothing is called {only:?}; usage: {USAGE}");
        }
        Ok(args)
    }
}

const NAMES: [&str; 6] = ["decision", "commit", "change", "swap", "heartbeat", "death"];

async fn measure(args: Args) -> Result<Report> {
    let io = Builder::new_multi_thread().worker_threads(2).thread_name("bench-io").enable_all().build()?;
    if let Some(backends) = args.backends {
        let rounds = if args.quick { 100 } else { 1000 };
        let plan = backends::Plan { backends, rounds, only: args.only, python: args.tooz };
        let report = backends::measure(plan, io.handle()).await;
        io.shutdown_background();
        return Ok(report);
    }
    measure_ours(args, io).await
}

async fn measure_ours(args: Args, io: Runtime) -> Result<Report> {
    let redis = Redis::start(RedisOptions::default()).await;
    if redis.is_none() {
        eprintln!("bench: redis-server is not installed, so its figures are missing");
    }
    let tick = Duration::from_millis(200);
    let options = || ZooKeeperOptions { tick, ..ZooKeeperOptions::default() };
    let zookeeper = ZooKeeper::start(options()).await.zip(Ensemble::start(3, options()).await);
    if zookeeper.is_none() {
        eprintln!("bench: zookeeper is not installed, so its figures are missing");
    }
    let bench = Bench { quick: args.quick, io, redis, zookeeper };
    let mut report = Report::default();
    for name in NAMES.into_iter().filter(|name| args.only.as_deref().is_none_or(|only| only == *name)) {
        eprintln!("bench: {name} …");
        match name {
            "decision" => decision::measure(&bench, &mut report).await,
            "commit" => commit::measure(&bench, &mut report).await,
            "change" => change::measure(&bench, &mut report).await,
            "swap" => swap::measure(&bench, &mut report).await,
            "heartbeat" => heartbeat::measure(&bench, &mut report).await,
            _ => death::measure(&bench, &mut report).await,
        }
        .with_context(|| format!("measuring {name}"))?;
    }
    bench.io.shutdown_background();
    Ok(report)
}

fn run() -> Result<bool> {
    let args = Args::parse(std::env::args().skip(1))?;
    let json = args.json;
    // As a task: the thread that blocks on a runtime is none of its workers, and waking it costs more.
    let runtime = Runtime::new()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = tokio::spawn(measure(args)) => report?,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })?;
    if json {
        println!("{}", report.json())
    } else {
        print!("{}", report.table())
    }
    for wrong in report.wrong() {
        eprintln!("wrong: {wrong}");
    }
    Ok(report.wrong().is_empty())
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
