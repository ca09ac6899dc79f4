//! Builds the guests, and puts them where bundles and tests look for them.
//!
//! Three toolchains can do it, and the first that is there is taken: rustup's standard library for WebAssembly; Debian's
//! compiler, which builds the standard library from source (and is installed on a Debian where we are root); and
//! `rustup target add`. On a machine where rustup must not download anything the second is the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::steps::{built, capture, run};

/// What to do beside building.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Show each guest that misbehaves to a host of its own, and print what was seen of it
    #[arg(long)]
    table: bool,

    /// With --table, show those alone whose name contains this
    #[arg(long, value_name = "TEXT", requires = "table")]
    only: Option<String>,
}

/// Builds the guests, and prints the table where asked. Fails when a guest was seen to do anything else than the
/// table in `tests/guests` expects.
pub(crate) fn build_and_show(root: &Path, args: &Args) -> Result<()> {
    build(root)?;
    if !args.table {
        return Ok(());
    }
    run(Command::new(built(root, &["--bin", "althing-guests-table"], "althing-guests-table")?)
        .args(&args.only))
}

const TARGET: &str = "wasm32-unknown-unknown";
/// Debian's compiler, its cargo, and the sources of its standard library.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const DEBIAN_FILES: [&str; 3] = ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/lib/rustlib/src/rust/library/std"];
/// What a caller's toolchain leaves in the environment, which must not reach Debian's cargo.
const FOREIGN_VARIABLES: [&str; 6] = [
    "RUSTUP_TOOLCHAIN",
    "CARGO",
    "RUSTC_WRAPPER",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
];

/// Builds all guests. Puts each policy's component beside its `policy.toml`, and the fixtures into
/// `guests/fixtures/built`.
pub(crate) fn build(root: &Path) -> Result<()> {
    let guests = root.join("guests");
    let mut cargo = cargo(&sysroot()?)?;
    eprintln!("guests: building (the first time takes about a minute)");
    run(cargo.current_dir(&guests).args(["build", "--release", "--locked"]))?;
    let built = guests.join("target").join(TARGET).join("release");
    let count = place_policies(root, &built)? + place_fixtures(&guests, &built)?;
    eprintln!("guests: {count} components are in place");
    Ok(())
}

/// Returns a cargo that can build for [`TARGET`], without its arguments.
fn cargo(sysroot: &Path) -> Result<Command> {
    if sysroot.join("lib/rustlib").join(TARGET).is_dir() {
        eprintln!("guests: with rustup's standard library for {TARGET}");
        return Ok(plain_cargo());
    }
    if has_debian_toolchain() || (can_install() && install_debian_toolchain()?) {
        eprintln!("guests: with Debian's compiler and the standard library from source");
        return debian_cargo(sysroot);
    }
    eprintln!("guests: rustup target add {TARGET}");
    if run(Command::new("rustup").args(["target", "add", TARGET])).is_ok() {
        return Ok(plain_cargo());
    }
    bail!(
        "no Rust standard library for {TARGET}. Run `rustup target add {TARGET}`, or on Debian as root \
         `apt-get install --no-install-recommends {}`",
        DEBIAN_PACKAGES.join(" ")
    )
}

fn plain_cargo() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_TARGET_DIR");
    cargo
}

fn debian_cargo(sysroot: &Path) -> Result<Command> {
    let mut cargo = Command::new(DEBIAN_FILES[1]);
    for name in FOREIGN_VARIABLES {
        cargo.env_remove(name);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // The linker ships with rustup's toolchain, in a folder that only rustup's own compiler looks into.
    let path = std::env::join_paths(std::iter::once(linkers(sysroot)?).chain(std::env::split_paths(&path)))?;
    // `-Zbuild-std` is unstable, and Debian's compiler is a stable one.
    cargo.env("PATH", path).env("RUSTC", DEBIAN_FILES[0]).env("RUSTC_BOOTSTRAP", "1");
    cargo.arg("-Zbuild-std=std,panic_abort");
    Ok(cargo)
}

fn linkers(sysroot: &Path) -> Result<PathBuf> {
    let hosts = fs::read_dir(sysroot.join("lib/rustlib"))?;
    let folders = hosts.filter_map(Result::ok).map(|host| host.path().join("bin"));
    let found = folders.into_iter().find(|folder| folder.join("wasm-component-ld").is_file());
    found.context("wasm-component-ld is missing; it ships with rustup's toolchains from Rust 1.82 on")
}

fn sysroot() -> Result<PathBuf> {
    Ok(PathBuf::from(capture(Command::new("rustc").args(["--print", "sysroot"]))?.trim()))
}

fn has_debian_toolchain() -> bool {
    DEBIAN_FILES.iter().all(|file| Path::new(file).exists())
}

fn can_install() -> bool {
    let is_root = capture(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    is_root && Path::new("/etc/debian_version").exists()
}

fn install_debian_toolchain() -> Result<bool> {
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        run(command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null())).is_ok()
    };
    eprintln!("guests: installing {} (115 MB)", DEBIAN_PACKAGES.join(", "));
    let install = [&["install", "-y", "--no-install-recommends"], &DEBIAN_PACKAGES[..]].concat();
    let installed = apt(&install) || (apt(&["update"]) && apt(&install));
    Ok(installed && has_debian_toolchain())
}

/// Copies each policy's component beside its manifest, which names it.
fn place_policies(root: &Path, built: &Path) -> Result<usize> {
    let mut count = 0;
    for policy in fs::read_dir(root.join("policies"))? {
        let folder = policy?.path();
        let Ok(manifest) = fs::read_to_string(folder.join("policy.toml")) else { continue };
        let component =
            component(&manifest).with_context(|| format!("{} names no component", folder.display()))?;
        place(&built.join(component), &folder.join(component))?;
        count += 1;
    }
    Ok(count)
}

fn component(manifest: &str) -> Option<&str> {
    let line = manifest.lines().find_map(|line| line.strip_prefix("component"))?;
    line.split('"').nth(1)
}

fn place_fixtures(guests: &Path, built: &Path) -> Result<usize> {
    let place_in = guests.join("fixtures/built");
    fs::create_dir_all(&place_in)?;
    let mut count = 0;
    for fixture in fs::read_dir(guests.join("fixtures"))? {
        let folder = fixture?.path();
        let Some(name) = folder.file_name().and_then(|name| name.to_str()) else { continue };
        if !folder.join("Cargo.toml").is_file() {
            continue;
        }
        let file = format!("fixture_{}.wasm", name.replace('-', "_"));
        place(&built.join(file), &place_in.join(format!("{name}.wasm")))?;
        count += 1;
    }
    Ok(count)
}

/// Copies by way of a new file, so that nobody reads half of one. Leaves an equal file alone.
fn place(from: &Path, to: &Path) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("{} was not built", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let part = to.with_extension("part");
    fs::write(&part, bytes)?;
    fs::rename(&part, to).with_context(|| format!("{} cannot be written", to.display()))
}
