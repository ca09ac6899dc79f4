//! `cargo xtask bench`: builds for release and measures; `tests/bench` says what.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use althing_test_servers::Backend;
use anyhow::Result;

use crate::steps::{built, run};
use crate::{guests, tooz};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure fewer times: a glance, not figures to quote.
    #[arg(long)]
    quick: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    /// Measure this alone: decision, commit, change, swap, heartbeat or death; with --backend lock, join, members,
    /// change, watch, handoff, join-create, stop or dead.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,

    /// Measure these backends, such as redis,etcd, or all, each beside Tooz on the same server.
    #[arg(long, value_name = "NAMES", value_parser = backends)]
    backend: Option<String>,
}

/// Builds the guests, the `althing` binary and the bench, and runs it. Fails when an outcome was wrong; no time fails it.
pub(crate) fn measure(root: &Path, args: &Args) -> Result<()> {
    guests::build(root)?;
    eprintln!("bench: building for release (the first time takes some minutes)");
    // The bench starts the `althing` that lies beside it.
    let programs = ["--release", "--bin", "althing", "--bin", "althing-bench"];
    let mut bench = Command::new(built(root, &programs, "althing-bench")?);
    bench.args(args.quick.then_some("--quick")).args(args.json.then_some("--json"));
    if let Some(name) = &args.only {
        bench.args(["--only", name]);
    }
    if let Some(names) = &args.backend {
        bench.args(["--backend", names]);
        bench.args(tooz::python(root).iter().flat_map(|python| [OsStr::new("--tooz"), python.as_os_str()]));
    }
    run(&mut bench)
}

/// Checks names of backends before anything is built.
fn backends(names: &str) -> Result<String, String> {
    Backend::list(names).map(|_| names.to_owned())
}
