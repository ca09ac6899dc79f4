//! From a commit's send until a watch yields the change, beside the backend's own notice of a write.

use std::time::Duration;

use althing_core::{BootTime, Clock, Delta, Driver, Key, Location, Revision, SystemClock, Txn, Watch};
use anyhow::{Context, Result, ensure};
use tokio::sync::watch;

use crate::figure::{Figure, Report, Series};
use crate::rounds::Round;
use crate::{Bench, host, raw};

const VALUE: [u8; 100] = [b'x'; 100];
const WARM_UP: usize = 50;

pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    for (backend, url) in bench.backends("change") {
        let driver = host::stacked(host::connect(&url, bench.io.handle()).await?, bench.io.handle());
        let prefix = Key::path(["bench"]).below();
        let mut seen = driver.watch(&prefix, Revision::ZERO).await?;
        seen.next().await?;
        let mut floor = Floor::of(&url).await?.with_context(|| format!("{backend} has no floor"))?;
        let (mut taken, mut below) = (Series::default(), Series::default());
        for turn in 0..WARM_UP + bench.count(2000, 200) {
            if turn == WARM_UP {
                (taken, below) = Default::default();
            }
            taken.add(change(&*driver, &mut *seen).await?);
            below.add(floor.round().await?);
        }
        let (name, floor_name) = (format!("change → watch, {backend}"), floor.name());
        report.figure(Figure { name, taken, floor_name, floor: below, goal: None });
    }
    Ok(())
}

/// Commits by `driver` and returns how long it took until the watch told of it.
pub(crate) async fn change(driver: &dyn Driver, seen: &mut dyn Watch) -> Result<Duration> {
    let begin = SystemClock.now();
    let write = driver.commit(Txn::new().put(Key::path(["bench", "key"]), VALUE.to_vec()));
    // Together: the watch may hear of the commit before its writer does.
    let (committed, told) = tokio::join!(write, async { seen.next().await.map(|delta| (delta, now())) });
    let (delta, at) = told?;
    let Delta::Changes { revision, .. } = delta else { anyhow::bail!("a resync where nothing was missed") };
    ensure!(revision >= committed?.revision, "the watch told of another change");
    Ok(at.since(begin))
}

fn now() -> BootTime {
    SystemClock.now()
}

/// A write through the backend's own client, and the notice of it.
pub(crate) enum Floor {
    Channel(watch::Sender<()>, watch::Receiver<()>),
    Redis(Box<raw::RedisNotice>),
    ZooKeeper(Box<raw::ZooKeeperNotice>),
}

impl Floor {
    /// Connects to the servers of a backend's URL; `None` where the raw client was not taught this.
    pub(crate) async fn of(url: &str) -> Result<Option<Floor>> {
        let location: Location = url.parse()?;
        Ok(Some(match location.scheme.as_str() {
            "memory" => {
                let (sender, receiver) = watch::channel(());
                Floor::Channel(sender, receiver)
            }
            "redis" => Floor::Redis(Box::new(raw::RedisNotice::new(&raw::servers(url)?).await?)),
            "zookeeper" => Floor::ZooKeeper(Box::new(raw::ZooKeeperNotice::new(&raw::servers(url)?).await?)),
            _ => return Ok(None),
        }))
    }
}

impl Round for Floor {
    fn name(&self) -> &'static str {
        match self {
            Floor::Channel(..) => "a channel of tokio",
            Floor::Redis(_) => "raw PUBLISH → message",
            Floor::ZooKeeper(_) => "raw setData → watch",
        }
    }

    async fn round(&mut self) -> Result<Duration> {
        let begin = now();
        match self {
            Floor::Channel(sender, receiver) => {
                sender.send(()).context("the receiver is here")?;
                receiver.changed().await?;
            }
            Floor::Redis(notice) => notice.turn().await?,
            Floor::ZooKeeper(notice) => notice.turn().await?,
        }
        Ok(now().since(begin))
    }
}
