//! `cargo xtask demo`: the main job in front of the user, with real processes.
//!
//! Services join a group, an operator uploads a rule, leadership moves by it, a leader dies. Where hosts can share the
//! backend there are three, and one of them dies too. Every line of the time line is an event that a watching client was told of.

mod stage;
mod timeline;

use std::path::Path;
use std::time::{Duration, Instant};

use althing_test_servers::{Backend, Server};
use anyhow::{Context, Result, bail};

use crate::steps::{built, now};
use crate::{guests, setup};
use stage::Stage;
use timeline::Timeline;

/// What to show.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the hosts keep their state: `memory` and `embedded` are one host, another name is three on a private server
    /// of it; `etcd-3` and `ensemble` are three etcds and three ZooKeepers.
    #[arg(long, default_value = "memory", value_parser = setup::backend)]
    backend: Backend,
}

const GROUP: &str = "web";
/// The members, oldest first, each with the weight it says of itself.
const MEMBERS: [(&str, u32); 3] = [("web-1", 1), ("web-2", 5), ("web-3", 9)];
const RULE: &str = "elect-weighted";
const HOSTS: [&str; 3] = ["north", "east", "south"];
/// Short, so that nobody waits long for a host that died.
const LEASE: &str = "2s";
/// The tick of ZooKeeper: by the second, as is usual, nobody could ask for so short a lease.
const TICK: Duration = Duration::from_millis(200);

/// Installs and builds what is missing, then shows the main job.
pub(crate) fn show(root: &Path, args: &Args) -> Result<()> {
    args.backend.program().map_or(Ok(()), setup::require_server)?;
    guests::build(root)?;
    println!("althing: building (the first time takes some minutes)");
    let binary = built(root, &["--bin", "althing"], "althing")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let store =
            Server::start(args.backend, TICK).await.context("the backend's server is not installed")?;
        let mut stage = Stage::new(binary, store)?;
        let bundle = root.join("policies").join(RULE);
        let outcome = tokio::select! {
            outcome = story(&mut stage, &bundle) => outcome,
            _ = tokio::signal::ctrl_c() => bail!("interrupted; nothing is left running"),
        };
        outcome.with_context(|| format!("the demo failed; the hosts' last lines:\n{}", stage.log_tails()))
    })
}

async fn story(stage: &mut Stage, bundle: &Path) -> Result<()> {
    stage.say("an operator makes a key; hosts run only what it signed");
    stage.althing(0, &["policy", "keygen", "--out", "ops.key"]).await?;
    let hosts = stage.start_hosts(&HOSTS, LEASE).await?;
    stage.althing(0, &["group", "create", GROUP]).await?;
    let mut line = Timeline::watch(stage, GROUP).await?;

    stage.say("three services join; no rule is bound, so the oldest leads");
    for (index, (member, weight)) in MEMBERS.into_iter().enumerate() {
        stage.start_member(index % hosts, GROUP, member, weight)?;
        line.joined(stage, member).await?;
        line.leads(stage, MEMBERS[0].0).await?;
    }

    stage.say("the operator uploads a rule written in Rust, while everything runs");
    stage.copy_bundle(bundle, RULE)?;
    stage.althing(0, &["policy", "sign", RULE, "--key", "ops.key"]).await?;
    let pushed = stage.althing(0, &["policy", "push", RULE]).await?;
    stage.tell(now(), &format!("{RULE} is compiled, and has passed its {} cases", pushed["cases"]));
    stage.althing(0, &["policy", "activate", RULE, "--group", GROUP]).await?;
    line.bound(stage).await?;
    stage.say("leadership moves by it, once the leader has led for a second, so that no rule makes it flap");
    line.leads(stage, MEMBERS[2].0).await?;

    stage.say("the leader's process dies");
    let killed = stage.kill_member(MEMBERS[2].0)?;
    after(stage, killed, line.leads(stage, MEMBERS[1].0).await?);

    stage.say("the operator takes the rule back");
    stage.althing(0, &["policy", "rollback", "--group", GROUP]).await?;
    line.bound(stage).await?;
    if hosts > 1 {
        stage.say(&format!("the host of the leader dies; its lease was {LEASE}"));
        let killed = stage.kill_host(1)?;
        after(stage, killed, line.leads(stage, MEMBERS[0].0).await?);
    }
    drop(line);
    stage.end().await
}

/// Says how long after the kill the next leader was told.
fn after(stage: &Stage, killed: Instant, told: Instant) {
    let millis = told.saturating_duration_since(killed).as_secs_f64() * 1000.0;
    stage.tell(told, &format!("that was told {millis:.1} ms after the kill"));
}

/// The longest one step is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
