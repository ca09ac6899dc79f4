//! Faults on a host with its members and no server beside it: nothing that was promised breaks.

use std::path::PathBuf;

use althing_chaos::{Backend, holds};

fn chaos() -> PathBuf {
    env!("CARGO_BIN_EXE_althing-chaos").into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_die_or_stand_still_break_no_promise() {
    holds(chaos(), Backend::Memory, "processes", usize::MAX).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_that_fail_break_no_promise() {
    holds(chaos(), Backend::Memory, "links", 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_fail_on_their_way_to_the_store_break_no_promise() {
    holds(chaos(), Backend::Memory, "layers", 8).await;
}
