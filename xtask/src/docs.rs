//! `cargo xtask docs`: writes the completions and the manual pages of `althing`; `host/cli/examples/docs.rs` says how.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::steps::{built, run};

/// Where to write.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write `completions/` and `man/` below this folder [default: target/docs].
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Builds the command and has it write what it can be asked. Files of the same names are written over.
pub(crate) fn write(root: &Path, args: &Args) -> Result<()> {
    let folder = args.out.clone().unwrap_or_else(|| root.join("target/docs"));
    let writer = built(root, &["--example", "docs"], "docs")?;
    run(Command::new(writer).arg(&folder))?;
    println!("completions: {}", folder.join("completions").display());
    println!("man pages:   {}", folder.join("man").display());
    Ok(())
}
