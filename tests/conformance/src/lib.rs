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

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{Driver, Kind, Result};
use async_trait::async_trait;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

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
                    Err(error) if error.kind() == Kind::NotFound && !on_ci() => {
                        return Ok(Completion::ignored_with(error));
                    }
                    Err(error) => return Err(Failed::from(error)),
                };
                run(case, Stage::new(Arc::new(subject), namespace)).await
            })
        })
    };
    cases().iter().map(trial).collect()
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
    match tokio::time::timeout(CASE_DEADLINE, (case.run)(stage)).await {
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
