//! Calls that fail, or that nobody waits for any more, and what they must not leave behind. Promises 6 and 7.
//!
//! Each of these was found by the histories of `tests/chaos`, or beside such a find, and failed before it was mended.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use althing_core::info::JoinAsk;
use althing_core::layers::{Fault, Operation};
use althing_core::{Effect, Principal, Requirement};
use althing_runtime::Runtime;
use althing_sim::{Client, Fleet, Stage, eventually, writes_member};
use althing_test_servers::Backend;

althing_sim::suite! {
    Backend::ALL => [
        a_member_whose_join_nobody_waited_for_goes_with_its_session,
        a_leave_that_nobody_waited_for_is_done_to_its_end,
        a_leave_that_failed_is_done_when_the_backend_is_back,
        a_join_of_unknown_fate_is_taken_back_and_can_be_asked_for_again,
        a_write_that_cannot_be_read_back_is_not_called_refused,
        a_group_that_may_be_on_its_way_is_not_said_to_be_there,
    ],
}

/// Long enough for a call to have begun, and shorter than the delay it suffers.
const GIVE_UP: Duration = Duration::from_millis(50);
const SLOW: Fault = Fault::Delay(Duration::from_millis(250));

fn members(runtime: &Runtime) -> Vec<String> {
    runtime.group("web").unwrap().members.into_iter().map(|member| member.id).collect()
}

async fn join(client: &Client, id: &str) -> althing_core::Result<()> {
    let ask = JoinAsk { id: id.into(), ..JoinAsk::default() };
    client.runtime.join(&client.key, "web", ask).await.map(drop)
}

async fn one_host(stage: &Stage) -> (Fleet, Client) {
    let fleet = stage.fleet(1).await;
    fleet.create("web").await;
    let client = fleet.hosts[0].session();
    (fleet, client)
}

async fn a_member_whose_join_nobody_waited_for_goes_with_its_session(stage: Stage) {
    let (fleet, client) = one_host(&stage).await;
    fleet.hosts[0].faults.inject_on_commits(SLOW, writes_member);
    assert!(tokio::time::timeout(GIVE_UP, join(&client, "a")).await.is_err(), "it was given up");
    let runtime = &fleet.hosts[0].runtime;
    eventually("it joins all the same", || members(runtime) == ["a"]).await;
    client.end().await;
    eventually("it is gone", || members(runtime).is_empty()).await;
}

async fn a_leave_that_nobody_waited_for_is_done_to_its_end(stage: Stage) {
    let (fleet, client) = one_host(&stage).await;
    join(&client, "a").await.unwrap();
    fleet.hosts[0].faults.inject(Operation::Get, SLOW);
    fleet.hosts[0].faults.inject_on_commits(Fault::LoseRequest, writes_member);
    let leave = client.runtime.leave(&client.key, "web", "a");
    assert!(tokio::time::timeout(GIVE_UP, leave).await.is_err(), "it was given up");
    fleet.hosts[0].faults.heal();
    let runtime = &fleet.hosts[0].runtime;
    eventually("it is gone", || members(runtime).is_empty()).await;
}

async fn a_leave_that_failed_is_done_when_the_backend_is_back(stage: Stage) {
    let (fleet, client) = one_host(&stage).await;
    join(&client, "a").await.unwrap();
    fleet.hosts[0].faults.inject(Operation::Commit, Fault::Refuse);
    client.runtime.leave(&client.key, "web", "a").await.unwrap_err();
    fleet.hosts[0].faults.heal();
    // Leaving what was left succeeds, and must not be a lie.
    client.leave("web", "a").await;
    let runtime = &fleet.hosts[0].runtime;
    eventually("it is gone", || members(runtime).is_empty()).await;
}

async fn a_join_of_unknown_fate_is_taken_back_and_can_be_asked_for_again(stage: Stage) {
    let (fleet, client) = one_host(&stage).await;
    let (runtime, faults) = (&fleet.hosts[0].runtime, &fleet.hosts[0].faults);
    faults.inject_on_commits(Fault::LoseReply, writes_member);
    faults.inject(Operation::Get, Fault::Refuse);
    let error = join(&client, "a").await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown, "{error}");
    faults.heal();
    eventually("it is gone", || members(runtime).is_empty()).await;
    join(&client, "a").await.unwrap();
    assert_eq!(members(runtime), ["a"]);
}

async fn a_write_that_cannot_be_read_back_is_not_called_refused(stage: Stage) {
    let (fleet, client) = one_host(&stage).await;
    let create = || client.runtime.create_group(&Principal::Embedder, "new", &Requirement::NONE);
    fleet.hosts[0].faults.inject(Operation::Commit, Fault::LoseReply);
    fleet.hosts[0].faults.inject(Operation::Get, Fault::Refuse);
    let error = create().await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown, "{error}");
    fleet.hosts[0].faults.heal();
    eventually("it was done", || client.runtime.group("new").is_ok()).await;
}

async fn a_group_that_may_be_on_its_way_is_not_said_to_be_there(stage: Stage) {
    let (fleet, client) = one_host(&stage).await;
    fleet.hosts[0].faults.inject(Operation::Commit, Fault::LoseRequest);
    let error =
        client.runtime.create_group(&Principal::Embedder, "new", &Requirement::NONE).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown, "{error}");
}
