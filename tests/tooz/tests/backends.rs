//! Through our driver Tooz's own suite passes, and nothing of what Tooz gets wrong goes wrong.

use std::process::ExitCode;

use althing_test_servers::{Backend, ready_for};
use althing_tooz::{Kind, Side, backends, environment, is_ready, play, run_suite, server};
use libtest_mimic::{Arguments, Failed, Trial};

/// Where the whole suite is run: in memory, and on the two backends that most services have.
const SUITES: &[Backend] = &[Backend::Memory, Backend::Redis, Backend::ZooKeeper];

fn main() -> ExitCode {
    let missing = !is_ready();
    let lacks = |backend: Backend| missing || backend.program().is_some_and(|program| !ready_for(program));
    let suite = |backend: Backend| {
        let name = format!("{}::passes_the_suite_of_tooz", backend.name());
        Trial::test(name, move || suite(backend)).with_ignored_flag(lacks(backend))
    };
    let failures = |backend: Backend| {
        let name = format!("{}::has_none_of_the_failures_of_tooz", backend.name());
        Trial::test(name, move || failures(backend)).with_ignored_flag(lacks(backend))
    };
    // What Tooz gets wrong is played wherever it has a driver.
    let played = backends().into_iter().filter(|backend| !backend.is_within_a_host());
    let trials = SUITES.iter().copied().map(suite).chain(played.map(failures)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn suite(backend: Backend) -> Result<(), Failed> {
    block_on(async {
        let server = server(backend).await.ok_or("the server is there")?;
        let tally = run_suite(&environment().ok_or("Python is there")?, &server).await?;
        if tally.is_good() { Ok(()) } else { Err(tally.told.into()) }
    })
}

fn failures(backend: Backend) -> Result<(), Failed> {
    block_on(async {
        let mut server = server(backend).await.ok_or("the server is there")?;
        let python = environment().ok_or("Python is there")?;
        let rows = play(&python, Side::Althing, backend.name(), "", &mut server).await?;
        let wrong = rows.iter().filter(|row| row.kind == Kind::Wrong);
        let wrong: Vec<_> =
            wrong.map(|row| format!("{} {}: {}", row.section, row.failure, row.what)).collect();
        if rows.is_empty() || !wrong.is_empty() {
            return Err(format!("of {} scenarios wrong:\n{}", rows.len(), wrong.join("\n")).into());
        }
        Ok(())
    })
}

fn block_on(test: impl Future<Output = Result<(), Failed>>) -> Result<(), Failed> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(test)
}
