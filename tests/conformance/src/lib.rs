//! What every driver must do, as cases that any driver's test runs against a backend of its own.
//!
//! A driver's test is a binary without the standard harness: it says how to reach the backend
//! ([`Subject`]), and [`trials`] makes one test of each case. Each case has a namespace of its own, and
//! each trial a subject of its own, so that a case may restart its server.
//!
//! ```no_run
//! # use std::{sync::Arc, time::Duration};
//! # use althing_conformance::{Subject, main, trials};
//! # use althing_core::{Driver, OsChance, Result, SystemClock};
//! # use althing_driver_memory::Memory;
//! struct OnMine;
//!
//! #[async_trait::async_trait]
//! impl Subject for OnMine {
//!     async fn connect(&self, namespace: &str) -> Result<Arc<dyn Driver>> {
//!         let location = format!("memory:?namespace={namespace}").parse()?;
//!         Ok(Arc::new(Memory::connect(&location, Arc::new(SystemClock), Arc::new(OsChance))?))
//!     }
//!     async fn pass(&self, time: Duration) {
//!         tokio::time::sleep(time).await
//!     }
//! }
//!
//! fn main_of_the_test() -> std::process::ExitCode {
//!     main(trials("mine", || async { Ok(OnMine) }))
//! }
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test library: a case fails by panicking"
)]

mod cases;
mod follow;
mod stage;

use std::collections::BTreeSet;
use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{Driver, Error, Kind, Result};
use async_trait::async_trait;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::time::timeout;

pub use cases::{Case, cases};
pub use follow::Follower;
pub use stage::Stage;

/// How long one case may take on the wall before it is taken to hang.
const CASE_DEADLINE: Duration = Duration::from_secs(120);

/// A backend to be judged, and the means to disturb it.
#[async_trait]
pub trait Subject: Send + Sync + 'static {
    /// Makes a new connection, independent of all others, to `namespace`, which is empty at first.
    async fn connect(&self, namespace: &str) -> Result<Arc<dyn Driver>>;

    /// Lets time pass on the backend's clock: moves a manual clock, or waits.
    async fn pass(&self, time: Duration);

    /// Kills the server and starts it again with what it had on disk. Returns false where there is no server.
    async fn restart(&self) -> bool {
        false
    }
}

/// Makes one test of each case, each with a subject that `start` makes. An error of kind
/// [`Kind::NotFound`] from `start` says that the server is not installed: the test is then ignored, but
/// fails where the environment has `CI=true`. Any other error fails the test.
pub fn trials<S, F>(backend: &str, start: impl Fn() -> F + Clone + Send + 'static) -> Vec<Trial>
where
    S: Subject,
    F: Future<Output = Result<S>>,
{
    let trial = |case: &'static Case| {
        let (start, namespace) = (start.clone(), case.name.replace("::", "-"));
        Trial::ignorable_test(format!("{backend}::{}", case.name), move || {
            runtime()?.block_on(async {
                let subject = match start().await {
                    Ok(subject) => subject,
                    Err(error) => return missing_or_failed(error),
                };
                run(case, Stage::new(Arc::new(subject), namespace)).await
            })
        })
    };
    cases().iter().map(trial).collect()
}

/// Makes one test of all cases of a file, one after the other with one subject: for servers that take longer to start
/// than most cases. The same holds for an error of `start`.
pub fn trials_by_file<S, F>(backend: &str, start: impl Fn() -> F + Clone + Send + 'static) -> Vec<Trial>
where
    S: Subject,
    F: Future<Output = Result<S>>,
{
    let file_of = |case: &Case| case.name.split("::").next().unwrap_or_default();
    let files: BTreeSet<&'static str> = cases().iter().map(file_of).collect();
    let trial = |file: &'static str| {
        let start = start.clone();
        let ours: Vec<&'static Case> = cases().iter().filter(|case| file_of(case) == file).collect();
        Trial::ignorable_test(format!("{backend}::{file}::all-of-{}", ours.len()), move || {
            runtime()?.block_on(async {
                let subject: Arc<dyn Subject> = match start().await {
                    Ok(subject) => Arc::new(subject),
                    Err(error) => return missing_or_failed(error),
                };
                for case in ours {
                    let stage = Stage::new(subject.clone(), case.name.replace("::", "-"));
                    let ended = tokio::spawn(timeout(CASE_DEADLINE, (case.run)(stage))).await;
                    let ended = ended.map_err(|error| format!("{}: {error}", case.name))?;
                    ended.map_err(|_| format!("{} hangs", case.name))?;
                }
                Ok(Completion::Completed)
            })
        })
    };
    files.into_iter().map(trial).collect()
}

/// A server that is not installed is a reason to pass over a test, but not where `CI=true`.
fn missing_or_failed(error: Error) -> Result<Completion, Failed> {
    match error.kind() == Kind::NotFound && !on_ci() {
        true => Ok(Completion::ignored_with(error)),
        false => Err(Failed::from(error)),
    }
}

/// Runs trials as the arguments of the process ask. The `main` of a test binary.
pub fn main(trials: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

async fn run(case: &'static Case, stage: Stage) -> Result<Completion, Failed> {
    let allowed = stage.connect().await.capability().txn_keys_max;
    if allowed < case.keys {
        let reason = format!("needs transactions on {} keys; {allowed} are promised", case.keys);
        return Ok(Completion::ignored_with(reason));
    }
    match timeout(CASE_DEADLINE, (case.run)(stage)).await {
        Ok(()) => Ok(Completion::Completed),
        Err(_) => Err(format!("hangs: no end within {CASE_DEADLINE:?}").into()),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failed> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

fn on_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}
