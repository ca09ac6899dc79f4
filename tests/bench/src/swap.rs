//! A thousand swaps of the rule while callers decide without pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use althing_core::{Clock, Principal, SystemClock, limits};
use althing_runtime::Runtime;
use anyhow::{Context, Result};

use crate::Bench;
use crate::figure::{Count, Figure, Report, Series};
use crate::host;

const GROUP: &str = "swapped";
const RULES: [&str; 2] = ["elect-oldest", "elect-weighted"];
const CALLERS: usize = 4;
/// After so many swaps everything that is kept once has been made.
const WARM_UP: usize = 50;

pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    let io = bench.io.handle();
    let driver = host::stacked(host::connect("memory:", io).await?, io);
    let host = host::start(driver, limits::LEASE_DEFAULT, io).await?;
    let session = host::session(&host)?;
    for index in 0..10 {
        host::join(&host, &session, GROUP, index).await?;
    }
    for rule in RULES {
        host::push(&host, rule).await?;
    }
    let watched = Arc::new(Watched::default());
    swaps(&host, &watched, WARM_UP).await?;
    let alone = swaps(&host, &watched, bench.count(500, 100)).await?;
    let callers: Vec<_> = (0..CALLERS).map(|_| tokio::spawn(decide(host.clone(), watched.clone()))).collect();
    swaps(&host, &watched, WARM_UP).await?;
    let (before, begin) = (resident()?, SystemClock.now());
    let decided_before = watched.decided.load(Ordering::SeqCst);
    let taken = swaps(&host, &watched, bench.count(1000, 100)).await?;
    let (after, seconds) = (resident()?, SystemClock.now().since(begin).as_secs_f64());
    let decided = watched.decided.load(Ordering::SeqCst) - decided_before;
    watched.done.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await?;
    }
    host.stop().await;
    let swaps = bench.count(1000, 100) as f64;
    let name = format!("swap while {CALLERS} callers decide");
    report.figure(Figure { name, taken, floor_name: "swap, nobody decides", floor: alone, goal: None });
    watched.tell(report);
    let mut count = |name: &str, value, unit, floor_name, floor| {
        report.count(Count { name: name.into(), value, unit, floor_name, floor });
    };
    count("swaps while callers decide", (swaps / seconds).round(), "/s", "", 0.0);
    count("decisions during the swaps", decided as f64, "in all", "swaps", swaps);
    count("resident memory after the swaps", after, "MiB", "before them", before);
    Ok(())
}

/// What the callers see.
#[derive(Default)]
struct Watched {
    /// The oldest epoch that may still decide.
    epoch: AtomicU64,
    decided: AtomicU64,
    failed: AtomicU64,
    retired: AtomicU64,
    done: AtomicBool,
}

impl Watched {
    fn tell(&self, report: &mut Report) {
        let failed = self.failed.load(Ordering::SeqCst);
        let retired = self.retired.load(Ordering::SeqCst);
        report.check(failed == 0, || format!("{failed} decisions failed while rules were swapped"));
        report.check(retired == 0, || format!("{retired} decisions were made by a retired rule"));
        let mut count = |name: &str, value: u64| {
            let value = value as f64;
            report.count(Count { name: name.into(), value, unit: "", floor_name: "may be", floor: 0.0 });
        };
        count("decisions that failed", failed);
        count("decisions by a retired rule", retired);
    }
}

async fn swaps(host: &Runtime, watched: &Watched, count: usize) -> Result<Series> {
    let mut taken = Series::default();
    for index in 0..count {
        let rule = RULES[index % RULES.len()];
        let info = taken.time(host.activate(&Principal::Embedder, GROUP, rule, None)).await?;
        watched.epoch.store(info.epoch, Ordering::SeqCst);
    }
    Ok(taken)
}

async fn decide(host: Runtime, watched: Arc<Watched>) {
    while !watched.done.load(Ordering::SeqCst) {
        let oldest = watched.epoch.load(Ordering::SeqCst);
        match host.rehearse(GROUP).await {
            Ok(decision) if decision.epoch < oldest => watched.retired.fetch_add(1, Ordering::SeqCst),
            Ok(decision) if decision.fault.is_none() => watched.decided.fetch_add(1, Ordering::SeqCst),
            Ok(_) | Err(_) => watched.failed.fetch_add(1, Ordering::SeqCst),
        };
    }
}

/// Returns the memory of this process in MiB.
fn resident() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib / 1024.0)
}
