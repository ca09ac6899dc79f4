//! `cargo xtask setup`: installs what is missing to build and to test.
//!
//! What is there already is neither touched nor updated. What cannot be installed is named, with the command
//! that installs it. The toolchain of the guests is seen to where they are built, in `guests.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;

use althing_test_servers::{Backend, Daemon};
use anyhow::{Context, Result, bail};

use crate::steps::{capture, cargo, in_path, run};
use crate::tooz;

/// A server that tests start privately. Its name is that of its Debian package and, but for those below, of its
/// program. Packages that start a server for the whole machine, which nobody here needs, have it stopped.
const SERVERS: &[&str] = &[REDIS, MEMCACHED, ZOOKEEPER, POSTGRESQL, MARIADB, ETCD];
const REDIS: &str = "redis-server";
const MEMCACHED: &str = "memcached";
/// Runs in Java: it is there when both files are.
const ZOOKEEPER: &str = "zookeeper";
const ZOOKEEPER_ARCHIVE: &str = "/usr/share/java/zookeeper.jar";
/// Its programs lie in a folder for each version, outside of `PATH`.
const POSTGRESQL: &str = "postgresql";
const POSTGRESQL_PROGRAM: &str = "postgres";
const POSTGRESQL_FOLDER: &str = "/usr/lib/postgresql";
/// Its program has another name than its package and is not in everybody's `PATH`.
const MARIADB: &str = "mariadb-server";
const MARIADB_PROGRAM: &str = "mariadbd";
const MARIADB_FILE: &str = "/usr/sbin/mariadbd";
/// Its program has a shorter name than its package.
const ETCD: &str = "etcd-server";
const ETCD_PROGRAM: &str = "etcd";

/// Finds or installs the C compiler, cargo-nextest, the servers that tests start, and Tooz with what the client in
/// Python is tested by.
///
/// Fails if a tool is missing without which nothing can be built or tested. A missing server only loses its
/// tests, except where `CI` is set: there a skipped test would pass for a test.
pub(crate) fn install_missing(root: &Path) -> Result<()> {
    compiler()?;
    nextest(root)?;
    SERVERS.iter().try_for_each(|name| server(name))?;
    tooz::set_up(root)
}

/// Finds or installs a server. Fails if it is still missing.
pub(crate) fn require_server(name: &str) -> Result<()> {
    let name = match name {
        // Built by whoever asks.
        Daemon::PROGRAM => return Ok(()),
        ETCD_PROGRAM => ETCD,
        MARIADB_PROGRAM => MARIADB,
        POSTGRESQL_PROGRAM => POSTGRESQL,
        _ => name,
    };
    if server_file(name).is_none() && is_debian_root() {
        install_package(name)?;
    }
    if server_file(name).is_none() {
        bail!("{name} is not installed. To install it: on Debian `apt-get install {name}`");
    }
    Ok(())
}

/// Reads the name of a backend.
pub(crate) fn backend(name: &str) -> Result<Backend> {
    let names = || Backend::ALL.iter().map(|backend| backend.name()).collect::<Vec<_>>().join(" ");
    Backend::named(name).with_context(|| format!("the backends are {}", names()))
}

fn compiler() -> Result<()> {
    if found("cc") {
        return Ok(());
    }
    if !is_debian_root() {
        bail!("no C compiler: `cc` is not in PATH. On Debian: `apt-get install gcc libc6-dev`");
    }
    install_package("gcc")?;
    install_package("libc6-dev")
}

fn nextest(root: &Path) -> Result<()> {
    if cargo(root).args(["nextest", "--version"]).output()?.status.success() {
        println!("  cargo-nextest: found");
        return Ok(());
    }
    println!("  cargo-nextest: missing; building it from crates.io, which takes some minutes");
    run(cargo(root).args(["install", "cargo-nextest", "--locked"]))
}

fn server(name: &str) -> Result<()> {
    if shown(name, server_file(name)) {
        return Ok(());
    }
    if is_debian_root() {
        return install_package(name);
    }
    let advice = format!("To install it: on Debian `apt-get install {name}`");
    if std::env::var_os("CI").is_some() {
        bail!("{name} is not installed, and CI skips no test. {advice}");
    }
    println!("  {name}: not installed, so the tests that need it are skipped. {advice}");
    Ok(())
}

fn found(program: &str) -> bool {
    shown(program, in_path(program))
}

fn shown(name: &str, file: Option<PathBuf>) -> bool {
    if let Some(file) = &file {
        println!("  {name}: {}", file.display());
    }
    file.is_some()
}

fn server_file(name: &str) -> Option<PathBuf> {
    match name {
        ZOOKEEPER => zookeeper_file(),
        POSTGRESQL => postgresql_file(),
        MARIADB => mariadb_file(),
        ETCD => in_path(ETCD_PROGRAM),
        _ => in_path(name),
    }
}

fn postgresql_file() -> Option<PathBuf> {
    let versions = std::fs::read_dir(POSTGRESQL_FOLDER).ok().into_iter().flatten().filter_map(Result::ok);
    let mut files: Vec<_> = versions.map(|entry| entry.path().join("bin/postgres")).collect();
    files.retain(|file| file.is_file());
    files.sort();
    files.pop().or_else(|| in_path(POSTGRESQL_PROGRAM))
}

fn mariadb_file() -> Option<PathBuf> {
    in_path(MARIADB_PROGRAM).or_else(|| Some(PathBuf::from(MARIADB_FILE)).filter(|file| file.is_file()))
}

fn zookeeper_file() -> Option<PathBuf> {
    let archive = PathBuf::from(ZOOKEEPER_ARCHIVE);
    in_path("java").filter(|_| archive.is_file()).map(|_| archive)
}

fn is_debian_root() -> bool {
    let is_root = || capture(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    Path::new("/etc/debian_version").exists() && in_path("apt-get").is_some() && is_root()
}

fn install_package(name: &str) -> Result<()> {
    println!("  {name}: missing; installing Debian's package");
    run(apt_get().arg("update"))?;
    // Where another server would have to go for it, apt refuses, and who asked reads why.
    run(apt_get().args(["install", "--yes", "--no-remove", "--no-install-recommends", name]))?;
    let service = match name {
        REDIS | MEMCACHED | POSTGRESQL => name,
        MARIADB => "mariadb",
        ETCD => "etcd",
        _ => return Ok(()),
    };
    run(Command::new("service").args([service, "stop"]))?;
    run(Command::new("update-rc.d").args([service, "disable"]))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
