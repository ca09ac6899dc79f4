//! `cargo xtask tooz`: Tooz's own suite through our driver, and each failure of Tooz beside Althing; `tests/tooz` says what.
//! Tooz lies in an environment of its own below `target/`, with our driver for it and what that is tested by.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use althing_test_servers::Backend;
use anyhow::{Context, Result};

use crate::setup;
use crate::steps::{built, run};

/// What is installed, by its releases.
const REQUIREMENTS: &str = "tests/tooz/requirements.txt";
/// Our driver for Tooz.
const DRIVER: &str = "clients/python";
/// What it is made of.
const PARTS: &[&str] = &["pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "src"];
/// The folder of the environment.
const FOLDER: &str = "target/tooz";

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// On these backends alone, such as redis,etcd.
    #[arg(long, value_name = "NAMES", default_value = "all", value_parser = backends)]
    backend: String,

    /// Play each known failure of Tooz, on Tooz and on Althing, and print both side by side.
    #[arg(long)]
    failures: bool,

    /// Of the failures those alone that have this in their name.
    #[arg(long, value_name = "NAME", requires = "failures")]
    only: Option<String>,
}

/// Installs what is missing and runs Tooz's suite, or plays its failures. Fails where a test does, where Althing is wrong, or
/// where Tooz is no longer wrong.
pub(crate) fn compare(root: &Path, args: &Args) -> Result<()> {
    let wanted = |backend: &&Backend| {
        args.backend == "all" || args.backend.split(',').any(|name| name == backend.name())
    };
    let wanted = Backend::ALL.iter().filter(wanted);
    wanted.filter_map(|backend| backend.program()).try_for_each(setup::require_server)?;
    install(root)?;
    // It starts the `althing` that lies beside it.
    let programs = ["--bin", "althing", "--bin", "althing-tooz"];
    let mut tooz = Command::new(built(root, &programs, "althing-tooz")?);
    tooz.args(["--backend", &args.backend]).args(args.failures.then_some("--failures"));
    tooz.args(args.only.iter().flat_map(|name| ["--only", name]));
    run(&mut tooz)
}

/// Returns a Python that has Tooz, installed where it was not. `None`, and a line that says why, where it cannot be.
pub(crate) fn python(root: &Path) -> Option<PathBuf> {
    install(root)
        .map(|()| root.join(FOLDER).join("bin/python"))
        .inspect_err(|error| eprintln!("bench: there is no Tooz to measure beside: {error:#}"))
        .ok()
}

/// Finds or installs Tooz and our driver for it. Fails where it cannot and `CI` is set; else that only loses its tests.
pub(crate) fn set_up(root: &Path) -> Result<()> {
    match install(root) {
        Ok(()) => println!("  tooz: {FOLDER}"),
        Err(error) if std::env::var_os("CI").is_some() => return Err(error.context("CI skips no test")),
        Err(error) => println!("  tooz: not installed, so the tests that need it are skipped: {error:#}"),
    }
    Ok(())
}

/// Installs Tooz where it is not as the requirements ask, and our driver where its sources are others than those installed.
fn install(root: &Path) -> Result<()> {
    let (folder, requirements) = (root.join(FOLDER), root.join(REQUIREMENTS));
    let (installed, driver) = (folder.join("installed.txt"), folder.join("driver.txt"));
    let asked = fs::read_to_string(&requirements).context(REQUIREMENTS)?;
    let python = folder.join("bin/python");
    if !is(&installed, &asked) {
        eprintln!("installing Tooz below {FOLDER}");
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        run(pip(&python).args(["install", "--requirement"]).arg(&requirements))?;
        fs::write(&installed, asked).context("target/tooz/installed.txt")?;
    }
    let sources = Sources::read(&root.join(DRIVER))?;
    if !is(&driver, &sources.text()) {
        // Built from a copy: setuptools writes beside what it builds.
        let copy = folder.join("driver");
        sources.copy(&copy)?;
        let install = ["install", "--no-deps", "--no-build-isolation", "--force-reinstall"];
        run(pip(&python).args(install).arg(&copy))?;
        fs::write(&driver, sources.text()).context("target/tooz/driver.txt")?;
    }
    Ok(())
}

fn is(file: &Path, text: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|had| had == text)
}

fn pip(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
    command
}

/// Files that a package is built from: their paths within it, and what they hold.
struct Sources(Vec<(PathBuf, String)>);

impl Sources {
    fn read(folder: &Path) -> Result<Sources> {
        let mut sources = Sources(Vec::new());
        PARTS.iter().try_for_each(|part| sources.add(folder, Path::new(part)))?;
        sources.0.sort();
        Ok(sources)
    }

    fn add(&mut self, folder: &Path, part: &Path) -> Result<()> {
        let path = folder.join(part);
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                let name = entry?.file_name();
                let is_made = name == "__pycache__" || name.to_string_lossy().ends_with(".egg-info");
                if !is_made {
                    self.add(folder, &part.join(name))?;
                }
            }
        } else if path.is_file() {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            self.0.push((part.to_path_buf(), text));
        }
        Ok(())
    }

    /// Returns all of it, to be compared.
    fn text(&self) -> String {
        self.0.iter().fold(String::new(), |mut all, (path, text)| {
            // A text takes all that is written to it.
            let _ = writeln!(all, "== {}\n{text}", path.display());
            all
        })
    }

    /// Writes it to `folder`, in which there is nothing else then.
    fn copy(&self, folder: &Path) -> Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        for (path, text) in &self.0 {
            let file = folder.join(path);
            fs::create_dir_all(file.parent().unwrap_or(folder))?;
            fs::write(&file, text).with_context(|| file.display().to_string())?;
        }
        Ok(())
    }
}

/// Checks names of backends before anything is built.
fn backends(names: &str) -> Result<String> {
    if names != "all" {
        names.split(',').try_for_each(|name| setup::backend(name).map(drop))?;
    }
    Ok(names.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_source_is_seen_and_what_was_built_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (package, copy) = (folder.path().join("package"), folder.path().join("copy"));
        let write = |name: &str, text: &str| {
            let file = package.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("pyproject.toml", "[project]");
        write("src/a/b.py", "one");
        let first = Sources::read(&package).unwrap();
        write("src/a/__pycache__/b.pyc", "built");
        write("src/x.egg-info/PKG-INFO", "built");
        write("tests/t.py", "a test");
        assert_eq!(Sources::read(&package).unwrap().text(), first.text());
        write("src/a/b.py", "two");
        let second = Sources::read(&package).unwrap();
        assert_ne!(second.text(), first.text());
        second.copy(&copy).unwrap();
        assert_eq!(fs::read_to_string(copy.join("src/a/b.py")).unwrap(), "two");
        assert!(!copy.join("tests").exists());
    }
}
