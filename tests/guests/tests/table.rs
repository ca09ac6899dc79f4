//! Every row of the table of guests is a test: what an operator sees of the guest, on a real host.
#![allow(clippy::unwrap_used, reason = "a test may fail in no better way")]

use std::process::ExitCode;

use althing_guests_test::row::Row;
use althing_guests_test::rows;
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let trials = rows::all().into_iter().map(|row| Trial::test(row.name, move || check(&row)));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn check(row: &Row) -> Result<(), libtest_mimic::Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let sight = runtime.block_on(row.show());
    row.wrong(&sight).map_or(Ok(()), |wrong| Err(wrong.into()))
}
