//! From a commit's send until a watch yields the change, beside the backend's own notice of a write.

use std::time::Duration;

use althing_core::{BootTime, Clock, Delta, Driver, Key, Revision, SystemClock, Txn, Watch};
use anyhow::{Context, Result, ensure};
use tokio::sync::watch;

use crate::figure::{Figure, Report, Series};
use crate::{Bench, REDIS, host, raw};

const VALUE: [u8; 100] = [b'x'; 100];
const WARM_UP: usize = 50;

pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    for (backend, url) in bench.backends("change") {
        let driver = host::stacked(host::connect(&url, bench.io.handle()).await?, bench.io.handle());
        let prefix = Key::path(["bench"]).below();
        let mut seen = driver.watch(&prefix, Revision::ZERO).await?;
        seen.next().await?;
        let mut floor = Floor::of(backend, &url).await?;
        let (mut taken, mut below) = (Series::default(), Series::default());
        for turn in 0..WARM_UP + bench.count(2000, 200) {
            if turn == WARM_UP {
                (taken, below) = Default::default();
            }
            taken.add(change(&*driver, &mut *seen).await?);
            below.add(floor.turn().await?);
        }
        let (name, floor_name) = (format!("change → watch, {backend}"), floor.name());
        report.figure(Figure { name, taken, floor_name, floor: below, goal: None });
    }
    Ok(())
}

async fn change(driver: &dyn Driver, seen: &mut dyn Watch) -> Result<Duration> {
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
enum Floor {
    Channel(watch::Sender<()>, watch::Receiver<()>),
    Redis(Box<raw::RedisNotice>),
    ZooKeeper(Box<raw::ZooKeeperNotice>),
}

impl Floor {
    async fn of(backend: &str, url: &str) -> Result<Floor> {
        Ok(match backend {
            "memory" => {
                let (sender, receiver) = watch::channel(());
                Floor::Channel(sender, receiver)
            }
            REDIS => Floor::Redis(Box::new(raw::RedisNotice::new(&raw::servers(url)?).await?)),
            _ => Floor::ZooKeeper(Box::new(raw::ZooKeeperNotice::new(&raw::servers(url)?).await?)),
        })
    }

    fn name(&self) -> &'static str {
        match self {
            Floor::Channel(..) => "a channel of tokio",
            Floor::Redis(_) => "raw PUBLISH → message",
            Floor::ZooKeeper(_) => "raw setData → watch",
        }
    }

    async fn turn(&mut self) -> Result<Duration> {
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
