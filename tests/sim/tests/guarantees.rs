//! README tells of each backend what its driver declares once it is connected to a real server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use althing::backends;
use althing_core::{Capability, Ground, OsChance, SystemClock, WatchMode};
use althing_sim::root;
use althing_test_servers::{Backend, Daemon, Folder, Redis, RedisOptions, Server, ready_for, ready_to};
use libtest_mimic::{Arguments, Trial};
use tempfile::TempDir;

const BEGIN: &str = "<!-- made from what the drivers declare; a test holds it to that -->\n";
const END: &str = "\n<!-- end -->";
const DISK: &str = env!("CARGO_TARGET_TMPDIR");
/// ZooKeeper's unit of time where nobody set another.
const TICK: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let missing = Backend::ALL.iter().filter_map(|backend| backend.program()).any(|name| !ready_for(name))
        || !ready_to("write to a disk that lasts", lasts(DISK).unwrap());
    let trial = Trial::test("readme_says_what_the_drivers_declare", || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(readme_says_what_the_drivers_declare());
        Ok(())
    });
    libtest_mimic::run(&Arguments::from_args(), vec![trial.with_ignored_flag(missing)]).exit_code()
}

async fn readme_says_what_the_drivers_declare() {
    let mut table = String::from(
        "| backend | level | across machines | watch | tokens rise over a restart | over a fail-over | shortest lease | largest value | requests per heartbeat |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for backend in Backend::ALL {
        table += &row(name(*backend), &start(*backend).await).await;
        if *backend == Backend::Redis {
            let forgetful = Redis::start(RedisOptions::default()).await.unwrap();
            table += &row("`redis://`, nothing on disk", &Server::Redis(Box::new(forgetful))).await;
        }
    }
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let said = readme.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    let (said, _) = said.expect("README has the marks");
    assert!(said == table.trim_end(), "README must say between its marks:\n\n{table}");
}

fn lasts(folder: &str) -> io::Result<bool> {
    Ok(Ground::of(File::open(folder)?)? == Ground::Durable)
}

/// Starts a backend. Files must lie on a disk: where temporary files are, there may be none.
async fn start(backend: Backend) -> Server {
    let disk = Path::new(DISK);
    match backend {
        Backend::Embedded => Server::Embedded(TempDir::new_in(disk).unwrap()),
        Backend::File => Server::File(Folder::new_in(disk)),
        Backend::Ipc => Server::Ipc(Daemon::start_in(disk).await.unwrap()),
        _ => Server::start(backend, TICK).await.unwrap(),
    }
}

fn name(backend: Backend) -> &'static str {
    match backend {
        Backend::Memory => "`memory:`",
        Backend::Embedded => "`embedded:///file`",
        Backend::File => "`file:///directory`",
        Backend::Ipc => "`ipc:`, of a daemon on `embedded:`",
        Backend::Redis => "`redis://`, `appendfsync always`",
        Backend::Sentinel => "`redis+sentinel://`",
        Backend::Memcached => "`memcached://`",
        Backend::Postgresql => "`postgresql://`",
        Backend::Mysql => "`mysql://`",
        Backend::Etcd => "`etcd://`, one member",
        Backend::EtcdCluster => "`etcd://`, three members",
        Backend::ZooKeeper => "`zookeeper://`, one server",
        Backend::Ensemble => "`zookeeper://`, three servers",
    }
}

async fn row(name: &str, server: &Server) -> String {
    let location = server.url("guarantees").parse().unwrap();
    let driver = backends::connect(location, Arc::new(SystemClock), Arc::new(OsChance)).await.unwrap();
    let Capability { level, across_hosts, watch, beat_requests, value_bytes_max, lease_min, .. } =
        driver.capability();
    let promised = driver.capability().promises();
    let yes = |promise: bool| if promise { "yes" } else { "no" };
    let watch = match watch {
        WatchMode::Pushed => "pushed",
        WatchMode::Polled => "polled",
    };
    format!(
        "| {name} | {level:?} | {} | {watch} | {} | {} | {lease_min:?} | {} KiB | {beat_requests} |\n",
        yes(across_hosts),
        yes(promised.token_survives_restart),
        yes(promised.token_survives_failover),
        value_bytes_max / 1024,
    )
}
