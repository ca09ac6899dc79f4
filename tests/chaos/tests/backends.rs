//! Faults on hosts with members, on every backend with its real servers: nothing that was promised breaks.

use std::process::ExitCode;

use althing_chaos::{Backend, holds};
use althing_test_servers::ready_for;
use libtest_mimic::{Arguments, Failed, Trial};

/// What is played on which backend, with the most steps of it. Servers that may forget when they end are not killed here:
/// their drivers' own tests do that.
const PLAYED: &[(Backend, &str, usize)] = &[
    (Backend::Memory, "processes", usize::MAX),
    (Backend::Memory, "links", 8),
    (Backend::Memory, "layers", 8),
    (Backend::Memory, "locks", 2),
    (Backend::Embedded, "processes", usize::MAX),
    (Backend::File, "processes", usize::MAX),
    (Backend::Ipc, "processes", usize::MAX),
    (Backend::Redis, "processes", usize::MAX),
    (Backend::Redis, "links", 10),
    (Backend::Redis, "locks", 3),
    (Backend::Sentinel, "links", 6),
    (Backend::Memcached, "links", 6),
    (Backend::Postgresql, "processes", usize::MAX),
    (Backend::Postgresql, "links", 6),
    (Backend::Mysql, "processes", usize::MAX),
    (Backend::Mysql, "links", 6),
    (Backend::EtcdCluster, "processes", usize::MAX),
    (Backend::Etcd, "links", 6),
    (Backend::EtcdCluster, "rolling", usize::MAX),
    (Backend::ZooKeeper, "links", 6),
    (Backend::ZooKeeper, "locks", 3),
    (Backend::Ensemble, "processes", usize::MAX),
    (Backend::Ensemble, "links", 6),
    (Backend::Ensemble, "follower", usize::MAX),
    (Backend::Ensemble, "rolling", usize::MAX),
];

fn main() -> ExitCode {
    let trials = PLAYED.iter().map(|(backend, scenario, steps_max)| {
        let missing = backend.program().is_some_and(|program| !ready_for(program));
        let name = format!("{}::{scenario}", backend.name());
        Trial::test(name, || play(*backend, scenario, *steps_max)).with_ignored_flag(missing)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn play(backend: Backend, scenario: &str, steps_max: usize) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(holds(env!("CARGO_BIN_EXE_althing-chaos").into(), backend, scenario, steps_max));
    Ok(())
}
