//! The client in Python passes its own tests, its types check, and what is made of it can be installed.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs, io};

use althing_test_servers::{Daemon, ready_for, required};
use althing_tooz::{Host, environment, is_ready, program};
use libtest_mimic::{Arguments, Failed, Trial};
use tempfile::TempDir;

/// Settings of whoever runs the tests that would be taken for those of a test.
const SETTINGS: &[&str] =
    &["ALTHING_SERVER", "ALTHING_TOKEN_FILE", "ALTHING_ON", "XDG_RUNTIME_DIR", "PYTHONPATH"];
/// What lies beside the sources and is no part of the package.
const MADE: &[&str] = &["__pycache__", "build", "dist"];

fn main() -> ExitCode {
    let missing = !is_ready() || !ready_for(Daemon::PROGRAM);
    let mut trials = vec![
        Trial::test("the_python_clients_types_check", types),
        Trial::test("the_python_clients_wheel_installs", wheel),
        Trial::test("the_python_clients_sdist_installs", sdist),
    ];
    // One for each file, so that they run side by side.
    trials.extend(files().into_iter().map(|file| {
        let name = format!("the_python_clients_own_tests_pass::{}", file.trim_end_matches(".py"));
        Trial::test(name, move || own_tests(&file))
    }));
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(missing)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Lists the files that hold the client's own tests.
fn files() -> Vec<String> {
    let entries = fs::read_dir(client().join("tests")).into_iter().flatten().filter_map(Result::ok);
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut files: Vec<_> = names.filter(|name| name.starts_with("test_") && name.ends_with(".py")).collect();
    files.sort();
    files
}

/// Runs the tests of one file on the sources as they are now. What they cannot test here is skipped, where it may be.
fn own_tests(file: &str) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut pytest = python()?;
    pytest.args(["-W", "ignore", "-m", "pytest", "-q", "-rfEs", "--color=no", "-p", "no:cacheprovider"]);
    pytest.arg("--basetemp").arg(folder.path().join("pytest")).arg(Path::new("tests").join(file));
    pytest.current_dir(client()).env("PYTHONPATH", client().join("src")).env("ALTHING_BIN", program()?);
    let told = run(&mut pytest)?;
    if required() && told.contains("\nSKIPPED ") {
        return Err(format!("CI=true, and some were skipped:\n{told}").into());
    }
    Ok(())
}

fn types() -> Result<(), Failed> {
    let mut mypy = python()?;
    mypy.args(["-m", "mypy", "--cache-dir", "/dev/null"]).current_dir(client());
    run(&mut mypy).map(drop)
}

fn wheel() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let wheel = built(&folder, "--wheel")?;
    works_installed(&folder, &wheel)
}

fn sdist() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let sdist = built(&folder, "--sdist")?;
    let wheels = folder.path().join("wheels");
    // What pip does when it is given an sdist, but for fetching setuptools.
    let mut pip = python()?;
    pip.args(["-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir"]);
    run(pip.arg(&wheels).arg(sdist))?;
    works_installed(&folder, &only_file(&wheels)?)
}

/// Builds the package from a copy: setuptools writes beside what it builds.
fn built(folder: &TempDir, what: &str) -> Result<PathBuf, Failed> {
    let (copy, made) = (folder.path().join("copy"), folder.path().join("made"));
    copy_sources(&client(), &copy)?;
    let mut build = python()?;
    build.args(["-m", "build", "--no-isolation", what, "--outdir"]).arg(&made).arg(&copy);
    run(&mut build)?;
    only_file(&made)
}

fn copy_sources(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(name))?;
        } else if !MADE.contains(&name.as_str()) && !name.starts_with('.') && !name.ends_with(".egg-info") {
            copy_sources(&entry.path(), &to.join(name))?;
        }
    }
    Ok(())
}

fn only_file(folder: &Path) -> Result<PathBuf, Failed> {
    let mut files = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
    let first = files.next().ok_or("nothing was made")??;
    if files.next().is_some() {
        return Err("more than one file was made".into());
    }
    Ok(first)
}

/// Installs a wheel where there is nothing else, and has it speak to a host: alone, and found by Tooz.
fn works_installed(folder: &TempDir, wheel: &Path) -> Result<(), Failed> {
    let place = folder.path().join("empty");
    run(python()?.args(["-m", "venv", "--without-pip"]).arg(&place))?;
    let installed = place.join("bin/python");
    let mut pip = python()?;
    pip.args(["-m", "pip", "--python"]).arg(&installed).args(["install", "--no-index", "--no-deps"]);
    run(pip.arg(wheel))?;
    let tooz = run(python()?.args(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _within = runtime.enter();
    let host = runtime.block_on(Host::start("memory:?namespace=installed", &[]))?;
    // Isolated: it reads neither the settings nor the packages of whoever runs the tests.
    let mut script = Command::new(&installed);
    script.args(["-I", "-W", "ignore"]).arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/installed.py"));
    run(script.arg(host.url()).arg(tooz.trim())).map(drop)
}

/// Returns the folder of the client.
fn client() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/python")
}

/// Returns the Python of the environment, to be called. It leaves nothing behind where it looks.
fn python() -> Result<Command, Failed> {
    let mut command = Command::new(environment().ok_or("Python is there")?);
    for setting in SETTINGS {
        command.env_remove(setting);
    }
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
    Ok(command)
}

/// Runs a command to its end. Returns what it printed, or fails with that.
fn run(command: &mut Command) -> Result<String, Failed> {
    let output = command.output()?;
    let mut told = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(told);
    }
    told.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(format!("{command:?} ended with {}:\n{told}", output.status).into())
}
