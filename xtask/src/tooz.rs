//! Tooz, for `cargo xtask bench --backend` to stand beside: in an environment of its own below `target/`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::steps::run;

/// What is installed, by its releases.
const REQUIREMENTS: &str = "tests/bench/requirements.txt";

/// Returns a Python that has Tooz, installed where it was not. `None`, and a line that says why, where it cannot be.
pub(crate) fn python(root: &Path) -> Option<PathBuf> {
    installed(root)
        .inspect_err(|error| eprintln!("bench: there is no Tooz to measure beside: {error:#}"))
        .ok()
}

fn installed(root: &Path) -> Result<PathBuf> {
    let (requirements, folder) = (root.join(REQUIREMENTS), root.join("target/tooz"));
    let asked = std::fs::read_to_string(&requirements).context(REQUIREMENTS)?;
    let (python, done) = (folder.join("bin/python"), folder.join("installed.txt"));
    if std::fs::read_to_string(&done).is_ok_and(|had| had == asked) {
        return Ok(python);
    }
    eprintln!("bench: installing Tooz below target/tooz");
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    run(Command::new(&python).args(pip).arg(&requirements))?;
    std::fs::write(&done, asked).context("target/tooz/installed.txt")?;
    Ok(python)
}
