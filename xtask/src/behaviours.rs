//! `cargo xtask behaviours`: a crowd calls the shipped behaviours, and is killed; `tests/sim` says how.

use std::path::Path;
use std::process::Command;

use althing_test_servers::Backend;
use anyhow::Result;

use crate::steps::{built, run};
use crate::{guests, setup};

/// For how long, and where.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Let them call for so many seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,

    /// Where the three hosts keep what the behaviours write.
    #[arg(long, default_value = "memory", value_parser = setup::backend)]
    backend: Backend,
}

/// Builds what is needed and lets the crowd call. Fails where a promise was broken or something was left behind.
pub(crate) fn crowd(root: &Path, args: &Args) -> Result<()> {
    args.backend.program().map_or(Ok(()), setup::require_server)?;
    guests::build(root)?;
    // The daemon of `ipc` is the `althing` that lies beside the crowd.
    let programs = ["--bin", "crowd", "--bin", "althing"];
    let mut crowd = Command::new(built(root, &programs, "crowd")?);
    run(crowd.args(["--backend", args.backend.name(), "--seconds", &args.seconds.to_string()]))
}
