//! What a host with ten thousand members asks of its backend while nothing happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use althing_core::layers::{Around, Call, Operation, Try};
use althing_core::{Clock, Driver, Result, SystemClock, limits};
use althing_runtime::Runtime;
use althing_test_servers::Redis;
use anyhow::Context;
use tokio::task::JoinSet;

use crate::Bench;
use crate::figure::{Count, Report};
use crate::host;

const MEMBERS: usize = 10_000;
const GROUPS: usize = 100;
const JOINING: usize = 64;
const LEASE: Duration = Duration::from_millis(1500);
/// Renewals are spread by a tenth to either side, so that a fleet does not beat in step.
const JITTER: f64 = 0.1;

/// A driver that counts what it is asked.
#[derive(Debug)]
struct Counted {
    inner: Arc<dyn Driver>,
    renewals: AtomicU64,
    others: AtomicU64,
}

impl Around for Counted {
    fn inner(&self) -> &Arc<dyn Driver> {
        &self.inner
    }

    async fn around<'a, T: Send + 'a>(
        &'a self,
        call: Call<'a>,
        send: impl Fn() -> Try<'a, T> + Send + Sync + 'a,
    ) -> Result<T> {
        let count = if call.operation == Operation::Renew { &self.renewals } else { &self.others };
        count.fetch_add(1, Ordering::Relaxed);
        send().await
    }
}

/// What was asked up to some moment.
#[derive(Clone, Copy)]
struct Asked {
    renewals: u64,
    others: u64,
    /// Scripts that the server ran; as many as the driver sent, where there is no server.
    scripts: u64,
}

pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> anyhow::Result<()> {
    for (backend, url) in bench.backends("heartbeat") {
        let redis = bench.redis.as_ref().filter(|_| backend == "redis");
        on(bench, report, backend, &url, redis).await?;
    }
    Ok(())
}

async fn on(
    bench: &Bench,
    report: &mut Report,
    backend: &str,
    url: &str,
    redis: Option<&Redis>,
) -> anyhow::Result<()> {
    let io = bench.io.handle();
    let inner = host::connect(url, io).await?;
    let lease = promised(&*inner).await?;
    let counted = Arc::new(Counted { inner, renewals: 0.into(), others: 0.into() });
    let host = host::start(host::stacked(counted.clone(), io), LEASE, io).await?;
    let window = Duration::from_secs(bench.count(10, 3) as u64);
    let empty = during(window, &counted, redis).await?;
    populate(&host).await?;
    let full = during(window, &counted, redis).await?;
    host.stop().await;
    let intervals = window.as_secs_f64() / (lease.as_secs_f64() / f64::from(limits::RENEWALS_PER_LEASE));
    let most = (intervals / (1.0 - JITTER)).ceil() as u64 + 1;
    let asked = full.renewals + full.others;
    // The watch of the fleet looks by itself when a session may have ended: once per lease, whoever is a member.
    let looks = (window.as_secs_f64() / lease.as_secs_f64() / (1.0 - JITTER)).ceil() as u64 + 1;
    report.check(full.others == 0 && asked <= most && full.scripts <= most + looks, || {
        format!(
            "{backend}: {asked} requests and {} scripts in {intervals:.0} intervals, of which {} are no renewals",
            full.scripts, full.others
        )
    });
    report.check(full.renewals > 0, || format!("{backend}: the host did not renew"));
    let mut count = |what: &str, full: u64, empty: u64| {
        let name = format!("{what} per interval, {backend}, {MEMBERS} members");
        let (value, floor) = (full as f64 / intervals, empty as f64 / intervals);
        report.count(Count { name, value, unit: "", floor_name: "no member", floor });
    };
    count("requests", asked, empty.renewals + empty.others);
    if redis.is_some() {
        count("scripts on the server", full.scripts, empty.scripts);
    }
    Ok(())
}

/// Returns how long the backend surely keeps a session: hosts renew as often as that asks for.
async fn promised(driver: &dyn Driver) -> Result<Duration> {
    let session = driver.open(LEASE).await?;
    driver.close(session.id).await?;
    Ok(session.lease_min.min(LEASE))
}

/// Counts what is asked while nothing happens.
async fn during(window: Duration, counted: &Counted, redis: Option<&Redis>) -> anyhow::Result<Asked> {
    let now = || -> anyhow::Result<Asked> {
        let (renewals, others) =
            (counted.renewals.load(Ordering::Relaxed), counted.others.load(Ordering::Relaxed));
        let scripts = redis.map(scripts).transpose()?.unwrap_or(renewals + others);
        Ok(Asked { renewals, others, scripts })
    };
    let before = now()?;
    SystemClock.sleep(window).await;
    let after = now()?;
    Ok(Asked {
        renewals: after.renewals - before.renewals,
        others: after.others - before.others,
        scripts: after.scripts - before.scripts,
    })
}

/// Asks the server how many scripts it ran since it started.
fn scripts(redis: &Redis) -> anyhow::Result<u64> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}/0", redis.port()))?;
    let statistics: String = redis::cmd("INFO").arg("commandstats").query(&mut client.get_connection()?)?;
    let calls = |verb: &str| -> Option<u64> {
        let line =
            statistics.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{verb}:calls=")))?;
        line.split(',').next()?.parse().ok()
    };
    calls("evalsha")
        .map(|calls_by_digest| calls_by_digest + calls("eval").unwrap_or(0))
        .context("no EVALSHA yet")
}

/// Joins all members, each with a session of its own, and waits until every group has its leader.
async fn populate(host: &Runtime) -> anyhow::Result<()> {
    let mut joining = JoinSet::new();
    for index in 0..MEMBERS {
        if joining.len() == JOINING {
            joining.join_next().await.transpose()?.transpose()?;
        }
        let host = host.clone();
        joining.spawn(async move {
            let session = host::session(&host)?;
            host::join(&host, &session, &format!("group-{}", index % GROUPS), index).await
        });
    }
    while let Some(joined) = joining.join_next().await {
        joined??;
    }
    let settled = || {
        let groups = host.groups().unwrap_or_default();
        let members: usize = groups.iter().map(|group| group.members).sum();
        members == MEMBERS && groups.iter().all(|group| group.leader.is_some())
    };
    host::eventually("ten thousand members have joined", settled).await
}
