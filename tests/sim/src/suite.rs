//! The runtime's tests, on every backend.

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use althing_test_servers::{Backend, Server, ready_for};
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::sync::Mutex;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::{Stage, TICK};

/// A test on a stage of its own.
pub type Test = (&'static str, fn(Stage) -> Pin<Box<dyn Future<Output = ()>>>);

/// How long one test may take on the wall.
const DEADLINE: Duration = Duration::from_secs(60);

/// Makes the `main` of a test binary without the usual harness, whose tests run on several backends. A test that is left
/// out of the lists is dead code, and refused as such.
#[macro_export]
macro_rules! suite {
    ($($backends:expr => [$($test:ident),+ $(,)?]),+ $(,)?) => {
        fn main() -> std::process::ExitCode {
            $crate::run(&[$(($backends, &[$((stringify!($test), |stage| Box::pin($test(stage)))),+])),+])
        }
    };
}

/// Runs tests on those backends that are there, as the arguments of the process ask.
pub fn run(suites: &'static [(&[Backend], &[Test])]) -> ExitCode {
    let of = |(backends, tests): &'static (&[Backend], &[Test])| {
        backends.iter().flat_map(|backend| trials(*backend, tests))
    };
    libtest_mimic::run(&Arguments::from_args(), suites.iter().flat_map(of).collect()).exit_code()
}

/// Makes one trial of each test where servers start quickly, else one of all of them, on one server.
fn trials(backend: Backend, tests: &'static [Test]) -> Vec<Trial> {
    let missing = backend.program().is_some_and(|program| !ready_for(program));
    let trial = |name: &str, tests: &'static [Test]| {
        let name = format!("{}::{name}", backend.name());
        Trial::test(name, move || play(backend, tests)).with_ignored_flag(missing)
    };
    match backend {
        Backend::Memory | Backend::Redis | Backend::Memcached => {
            tests.iter().map(|test| trial(test.0, std::slice::from_ref(test))).collect()
        }
        _ => vec![trial(&format!("all-of-{}", tests.len()), tests)],
    }
}

/// Runs tests one after the other, each in a namespace of its own, and tells of all that failed.
fn play(backend: Backend, tests: &[Test]) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let server = Server::start(backend, TICK).await.ok_or("the server is not installed")?;
        let server = Arc::new(Mutex::new(server));
        let mut failed = Vec::new();
        for (name, test) in tests {
            let run = tokio::task::spawn_local(test(Stage::on(server.clone(), name).await));
            match timeout(DEADLINE, run).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed.push(format!("{name}: {error}")),
                Err(_) => failed.push(format!("{name} hangs")),
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(failed.join("\n").into()) }
    })
}
