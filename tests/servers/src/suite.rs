//! Tests that need a server: skipped, not passed, where it is missing; failing where it is required.

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use crate::ready_for;

/// One test of a [`suite!`].
pub type Test = (&'static str, fn() -> Pin<Box<dyn Future<Output = ()>>>);

/// Makes the `main` of a test binary without the usual harness, whose tests all need `$program`. A test that is
/// left out of the list is dead code, and refused as such.
#[macro_export]
macro_rules! suite {
    ($program:literal: $($test:ident),+ $(,)?) => {
        fn main() -> std::process::ExitCode {
            $crate::run($program, &[$((stringify!($test), || Box::pin($test()))),+])
        }
    };
}

/// Runs tests each of which needs a program of its own: rows of `Some(program) => test`, or `None => test`. Gives the exit
/// code, for a `main` that has something else to do too.
#[macro_export]
macro_rules! run_each {
    ($($program:expr => $test:ident),+ $(,)?) => {
        $crate::run_each(&[$(($program, (stringify!($test), || Box::pin($test())))),+])
    };
}

/// Runs tests that need `program`, as the arguments of the process ask.
pub fn run(program: &str, tests: &[Test]) -> ExitCode {
    run_unless(!ready_for(program), tests)
}

/// Runs tests that need no program, as the arguments of the process ask.
pub fn run_always(tests: &[Test]) -> ExitCode {
    run_unless(false, tests)
}

/// Runs tests each of which needs a program of its own, or none, as the arguments of the process ask.
pub fn run_each(tests: &[(Option<&str>, Test)]) -> ExitCode {
    let trial = |(program, test): &(Option<&str>, Test)| trial(test, !program.is_none_or(ready_for));
    conclude(tests.iter().map(trial).collect())
}

fn run_unless(missing: bool, tests: &[Test]) -> ExitCode {
    conclude(tests.iter().map(|test| trial(test, missing)).collect())
}

fn trial((name, test): &Test, missing: bool) -> Trial {
    let test = *test;
    let body = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(test());
        Ok(())
    };
    Trial::test(*name, body).with_ignored_flag(missing)
}

fn conclude(trials: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
