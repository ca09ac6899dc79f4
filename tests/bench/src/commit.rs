//! A commit through all layers, beside the bare driver and the raw client.

use std::sync::Arc;
use std::time::Duration;

use althing_core::{Driver, Key, Txn};
use anyhow::{Context, Result};
use redis::aio::MultiplexedConnection;
use tokio::runtime::Handle;

use crate::figure::{Figure, Goal, Report, Series};
use crate::raw::ZooKeeperMulti;
use crate::replay::Overheard;
use crate::{Bench, ZOOKEEPER, host, raw};

const VALUE: [u8; 100] = [b'x'; 100];
const WARM_UP: usize = 200;
const GOAL: Goal = Goal::Over(Duration::from_micros(15), 0.1);

pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    on_memory(bench, report).await?;
    if let Some(redis) = &bench.redis {
        on_redis(bench, report, redis.port()).await?;
    }
    for (backend, url) in bench.backends("commit") {
        if backend.starts_with(ZOOKEEPER) {
            on_zookeeper(bench, report, backend, &url).await?;
        }
    }
    Ok(())
}

async fn on_zookeeper(bench: &Bench, report: &mut Report, backend: &str, url: &str) -> Result<()> {
    let bare = host::connect(url, bench.io.handle()).await?;
    let stack = host::stacked(bare.clone(), bench.io.handle());
    let raw = ZooKeeperMulti::new(&raw::servers(url)?).await?;
    let mut taken: [Series; 4] = Default::default();
    for turn in 0..WARM_UP + bench.count(3000, 300) {
        if turn == WARM_UP {
            taken = Default::default();
        }
        taken[0].time(write(&stack)).await?;
        taken[1].time(write(&bare)).await?;
        taken[2].time(raw.commit()).await?;
        taken[3].time(raw.set()).await?;
    }
    let [through, below, multi, set] = taken;
    let floors = [("raw multi, same writes", multi), ("bare driver", below), ("raw setData", set)];
    for (floor_name, floor) in floors {
        let name = format!("commit, {backend}, all layers");
        report.figure(Figure { name, taken: through.clone(), floor_name, floor, goal: None });
    }
    Ok(())
}

async fn on_memory(bench: &Bench, report: &mut Report) -> Result<()> {
    let io = bench.io.handle();
    let bare = host::connect("memory:", io).await?;
    let stack = host::stacked(bare.clone(), io);
    let (mut through, mut below) = (Series::default(), Series::default());
    for turn in 0..WARM_UP + bench.count(20_000, 1000) {
        if turn == WARM_UP {
            (through, below) = Default::default();
        }
        through.time(write(&stack)).await?;
        below.time(write(&bare)).await?;
    }
    let name = "commit, memory, all layers".into();
    let floor_name = "bare driver";
    report.figure(Figure { name, taken: through, floor_name, floor: below, goal: Some(GOAL) });
    Ok(())
}

async fn on_redis(bench: &Bench, report: &mut Report, port: u16) -> Result<()> {
    let io = bench.io.handle();
    let url = format!("redis://127.0.0.1:{port}/0?namespace=commit");
    let bare = host::connect(&url, io).await?;
    let stack = host::stacked(bare.clone(), io);
    let script = overheard(bench, port).await?;
    let (mut raw, mut apart) = (connection(port, &Handle::current()).await?, connection(port, io).await?);
    let mut taken: [Series; 5] = Default::default();
    for turn in 0..WARM_UP + bench.count(10_000, 500) {
        if turn == WARM_UP {
            taken = Default::default();
        }
        taken[0].time(write(&stack)).await?;
        taken[1].time(write(&bare)).await?;
        taken[2].time(script.query_async::<redis::Value>(&mut raw)).await?;
        taken[3].time(script.query_async::<redis::Value>(&mut apart)).await?;
        taken[4].time(set(&mut raw)).await?;
    }
    let [through, below, script, apart, set] = taken;
    let mut row = |name: &str, taken: &Series, floor_name, floor: &Series, goal| {
        let (taken, floor) = (taken.clone(), floor.clone());
        report.figure(Figure { name: format!("commit, redis, {name}"), taken, floor_name, floor, goal });
    };
    row("all layers", &through, "raw EVALSHA, same request", &script, Some(GOAL));
    row("all layers", &through, "the same, its socket on the I/O runtime", &apart, None);
    row("all layers", &through, "bare driver", &below, None);
    row("all layers", &through, "raw SET", &set, None);
    Ok(())
}

async fn write(driver: &Arc<dyn Driver>) -> althing_core::Result<()> {
    driver.commit(Txn::new().put(Key::path(["bench"]), VALUE.to_vec())).await.map(drop)
}

async fn set(raw: &mut MultiplexedConnection) -> redis::RedisResult<()> {
    redis::cmd("SET").arg("{commit}:raw").arg(&VALUE[..]).query_async(raw).await
}

/// Connects, with the socket served by `runtime`.
async fn connection(port: u16, runtime: &Handle) -> Result<MultiplexedConnection> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/0"))?;
    Ok(runtime.spawn(async move { client.get_multiplexed_async_connection().await }).await??)
}

/// Returns the request that the driver sends for [`write`]: the same script, keys and arguments.
async fn overheard(bench: &Bench, port: u16) -> Result<redis::Cmd> {
    let relay = Overheard::before(port).await?;
    let url = format!("redis://127.0.0.1:{}/0?namespace=commit", relay.port());
    let driver = host::connect(&url, bench.io.handle()).await?;
    write(&driver).await.context("a commit through the relay")?;
    let mut command = redis::Cmd::new();
    for word in relay.last("EVALSHA")? {
        command.arg(word);
    }
    Ok(command)
}
