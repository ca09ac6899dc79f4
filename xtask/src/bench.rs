//! `cargo xtask bench`: builds for release and measures; `tests/bench` says what.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::guests;
use crate::steps::{built, run};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure fewer times: a glance, not figures to quote.
    #[arg(long)]
    quick: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    /// Measure this alone: decision, commit, swap, heartbeat or death.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// Builds the guests, the `althing` binary and the bench, and runs it. Fails when an outcome was wrong; no time fails it.
pub(crate) fn measure(root: &Path, args: &Args) -> Result<()> {
    guests::build(root)?;
    eprintln!("bench: building for release (the first time takes some minutes)");
    // In one go: the bench starts the `althing` that lies beside it, and each alone would have other features.
    let packages = ["--release", "--package", "althing-cli", "--package", "althing-bench"];
    let mut bench = Command::new(built(root, &packages, "althing-bench")?);
    bench.args(args.quick.then_some("--quick")).args(args.json.then_some("--json"));
    if let Some(name) = &args.only {
        bench.args(["--only", name]);
    }
    run(&mut bench)
}
