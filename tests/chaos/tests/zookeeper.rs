//! Faults on three hosts with members, on one ZooKeeper and on three: nothing that was promised breaks.

use std::path::PathBuf;

use althing_chaos::{Backend, holds};

althing_test_servers::suite! {
    "zookeeper":
    processes_that_die_or_stand_still_break_no_promise,
    links_of_one_server_that_fail_break_no_promise,
    links_of_three_servers_that_fail_break_no_promise,
    a_server_that_does_not_know_that_it_is_cut_off_makes_no_second_holder,
    a_rolling_restart_changes_no_leader_and_loses_no_event,
}

fn chaos() -> PathBuf {
    env!("CARGO_BIN_EXE_althing-chaos").into()
}

async fn processes_that_die_or_stand_still_break_no_promise() {
    holds(chaos(), Backend::Ensemble, "processes", usize::MAX).await;
}

async fn links_of_one_server_that_fail_break_no_promise() {
    holds(chaos(), Backend::ZooKeeper, "links", 6).await;
}

async fn links_of_three_servers_that_fail_break_no_promise() {
    holds(chaos(), Backend::Ensemble, "links", 6).await;
}

async fn a_server_that_does_not_know_that_it_is_cut_off_makes_no_second_holder() {
    holds(chaos(), Backend::Ensemble, "follower", usize::MAX).await;
}

async fn a_rolling_restart_changes_no_leader_and_loses_no_event() {
    holds(chaos(), Backend::Ensemble, "rolling", usize::MAX).await;
}
