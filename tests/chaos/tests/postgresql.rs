//! Faults on three hosts with members, on one real PostgreSQL: nothing that was promised breaks.

use std::path::PathBuf;

use althing_chaos::{Backend, holds};

althing_test_servers::suite! {
    "postgresql":
    processes_that_die_or_stand_still_break_no_promise,
    links_that_fail_break_no_promise,
}

fn chaos() -> PathBuf {
    env!("CARGO_BIN_EXE_althing-chaos").into()
}

async fn processes_that_die_or_stand_still_break_no_promise() {
    holds(chaos(), Backend::Postgresql, "processes", usize::MAX).await;
}

async fn links_that_fail_break_no_promise() {
    holds(chaos(), Backend::Postgresql, "links", 6).await;
}
