//! `cargo xtask chaos`: plays the fault scenarios of `tests/chaos` and checks what everybody saw.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::steps::{built, run};

/// What to play.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// On this backend alone: memory, embedded, file, ipc, redis, redis-sentinel, memcached, postgresql, mysql, etcd or
    /// zookeeper (one, then three), etcd-3 or ensemble (three alone)
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,

    /// Begin each scenario again until so many seconds have passed; once to its end if left out
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,

    /// The same in minutes
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    minutes: Option<u64>,

    /// Where everything comes from that is random
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,

    /// This scenario alone: processes, links, locks, layers, follower or rolling
    #[arg(long, value_name = "NAME")]
    only: Option<String>,

    /// Show every fault
    #[arg(long)]
    told: bool,
}

/// Builds the `althing` binary and the scenarios, and plays them. Fails when a promise was broken.
pub(crate) fn play(root: &Path, args: &Args) -> Result<()> {
    // The scenarios start the `althing` that lies beside them.
    let programs = ["--bin", "althing", "--bin", "althing-chaos"];
    let mut chaos = Command::new(built(root, &programs, "althing-chaos")?);
    chaos.args(["--seed", &args.seed.to_string()]).args(args.told.then_some("--told"));
    for (option, value) in [("--backend", &args.backend), ("--only", &args.only)] {
        chaos.args(value.iter().flat_map(|value| [option, value]));
    }
    let seconds = args.seconds.or(args.minutes.map(|minutes| minutes * 60));
    chaos.args(seconds.iter().flat_map(|seconds| ["--seconds".to_owned(), seconds.to_string()]));
    run(&mut chaos)
}
