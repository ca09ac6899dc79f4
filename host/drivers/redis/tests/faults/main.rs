//! What a real server does to us: it dies, forgets, stops, refuses, or is not what it should be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: what it does not expect ends it"
)]

mod clock;
mod full;
mod passage;
mod sentinel;
mod shared;
mod stale;

use std::sync::Arc;
use std::time::Duration;

use althing_core::{Cause, Change, Delta, Driver, Effect, Guard, Key, Kind, Level, Record, Revision, Txn};
use althing_driver_redis::Redis;
use althing_test_servers::{Redis as Server, RedisOptions, ready_for};
use clock::{
    a_step_back_of_the_clock_keeps_no_session_alive, a_step_forward_of_the_clock_ends_sessions_and_tells,
};
use full::{a_fail_over_to_a_full_server_is_told, a_full_server_refuses_what_takes_room_and_nothing_else};
use sentinel::{
    a_fail_over_that_lost_writes_is_told_and_gives_no_token_twice,
    a_master_that_is_told_to_have_a_replica_acknowledges_nothing_without,
    believes_no_sentinel_that_missed_a_fail_over, goes_on_after_the_master_was_killed,
    leaves_a_master_that_was_cut_off_from_all_but_us, never_writes_to_the_old_master_when_it_comes_back,
    nobody_takes_what_a_host_holds_that_knows_of_no_fail_over, says_which_sentinels_it_cannot_use_and_why,
    speaks_tls_with_sentinels_and_servers, takes_passwords_for_sentinels_and_servers,
    tells_that_a_master_came_back_empty, tokens_rise_over_planned_fail_overs_under_load,
};
use shared::{LEASE, check_error, check_refused, connect, insist, is_outage, next, next_changes, put, value};
use stale::{
    all_hosts_go_on_after_a_flush_whoever_is_first, believes_no_sentinel_that_alone_answers_for_all_of_them,
    goes_back_to_no_master_that_others_left_whoever_leads_there, goes_on_where_sentinel_was_set_up_anew,
    leaves_a_master_that_was_cut_off_together_with_a_sentinel,
    says_which_right_a_user_of_the_sentinels_lacks, waits_for_the_other_sentinels_from_the_first_answer_on,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

althing_test_servers::suite! {
    "redis-server":
    tells_that_a_restart_without_a_file_lost_everything,
    tells_that_a_restart_from_an_old_snapshot_set_the_store_back,
    tells_that_a_running_server_was_flushed,
    tells_that_the_counter_was_set_back_under_a_running_server,
    tokens_rise_over_a_loss_even_for_a_host_that_saw_none,
    a_host_that_comes_back_late_ends_no_session_of_those_before_and_is_told_of_the_loss,
    a_kill_with_a_file_loses_no_acknowledged_commit_no_session_and_no_change,
    a_kill_without_a_file_gives_no_token_twice,
    calls_on_a_stopped_server_end_in_time_and_say_what_they_may_have_done,
    a_write_without_a_server_has_no_effect,
    announces_an_expiry_without_traffic,
    goes_on_when_the_server_forgot_the_scripts,
    namespaces_do_not_see_each_other,
    promises_what_the_server_keeps,
    promises_nothing_where_it_may_not_ask_and_connects_only_where_it_may_publish,
    refuses_a_wrong_password_and_none,
    refuses_a_namespace_of_another_layout,
    refuses_a_cluster_an_evicting_server_and_an_option_it_does_not_know,
    speaks_tls_with_the_server_it_trusts_and_with_no_other,
    a_server_that_was_made_a_replica_is_neither_written_nor_read,
    speaks_by_a_unix_socket_and_says_where_there_is_none,
    a_step_forward_of_the_clock_ends_sessions_and_tells,
    a_step_back_of_the_clock_keeps_no_session_alive,
    a_full_server_refuses_what_takes_room_and_nothing_else,
    goes_on_after_the_master_was_killed,
    a_fail_over_that_lost_writes_is_told_and_gives_no_token_twice,
    nobody_takes_what_a_host_holds_that_knows_of_no_fail_over,
    never_writes_to_the_old_master_when_it_comes_back,
    leaves_a_master_that_was_cut_off_from_all_but_us,
    believes_no_sentinel_that_missed_a_fail_over,
    tokens_rise_over_planned_fail_overs_under_load,
    a_master_that_is_told_to_have_a_replica_acknowledges_nothing_without,
    tells_that_a_master_came_back_empty,
    takes_passwords_for_sentinels_and_servers,
    says_which_sentinels_it_cannot_use_and_why,
    speaks_tls_with_sentinels_and_servers,
    leaves_a_master_that_was_cut_off_together_with_a_sentinel,
    believes_no_sentinel_that_alone_answers_for_all_of_them,
    goes_back_to_no_master_that_others_left_whoever_leads_there,
    waits_for_the_other_sentinels_from_the_first_answer_on,
    goes_on_where_sentinel_was_set_up_anew,
    all_hosts_go_on_after_a_flush_whoever_is_first,
    says_which_right_a_user_of_the_sentinels_lacks,
    a_fail_over_to_a_full_server_is_told,
}

/// Binds a record to a session, watches, loses the store by `lose`, and checks that all of it is told.
async fn check_loss_is_told(lose: impl AsyncFnOnce(&mut Server)) {
    let mut server = Server::start(RedisOptions::default()).await.unwrap();
    let driver = connect(&server.url("loss")).await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    driver.commit(Txn::new().put_owned("mine".into(), "1", session)).await.unwrap();
    let before = put(&driver, "kept", "1").await.unwrap();
    let mut watch = driver.watch(&Key::default(), before).await.unwrap();
    lose(&mut server).await;

    let error = insist(async || driver.renew(session).await).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    let error = driver.commit(Txn::new().put_owned("mine".into(), "2", session)).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
    driver.close(session).await.unwrap();
    assert_eq!(value(&driver, "mine").await, None);

    let Delta::Resync { records, revision } = next(&mut *watch).await else { panic!("loss was hidden") };
    assert!(records.iter().all(|record: &Record| record.session.is_none()), "{records:?}");
    assert!(revision > before, "{revision:?} after {before:?}");
    let after = put(&driver, "kept", "2").await.unwrap();
    assert!(after > revision, "{after:?} after {revision:?}");
    let changes = next_changes(&mut *watch).await;
    assert_eq!(changes.iter().map(Change::revision).collect::<Vec<_>>(), [after]);
}

async fn tells_that_a_restart_without_a_file_lost_everything() {
    check_loss_is_told(async |server| server.restart().await).await;
}

async fn tells_that_a_restart_from_an_old_snapshot_set_the_store_back() {
    check_loss_is_told(async |server| {
        assert_eq!(server.command(&["SAVE"]), "+OK");
        server.restart().await;
    })
    .await;
}

async fn tells_that_a_running_server_was_flushed() {
    check_loss_is_told(async |server| assert_eq!(server.command(&["FLUSHALL"]), "+OK")).await;
}

async fn tells_that_the_counter_was_set_back_under_a_running_server() {
    check_loss_is_told(async |server| {
        assert_eq!(server.command(&["HSET", "{loss}:meta", "revision", "5"]), ":0");
    })
    .await;
}

async fn tokens_rise_over_a_loss_even_for_a_host_that_saw_none() {
    let mut server = Server::start(RedisOptions::default()).await.unwrap();
    let first = connect(&server.url("n")).await.unwrap();
    let before = put(&first, "a", "1").await.unwrap();
    drop(first);
    server.restart().await;
    let second = connect(&server.url("n")).await.unwrap();
    let after = put(&second, "a", "1").await.unwrap();
    assert!(after > before, "{after:?} after {before:?}");
}

async fn a_host_that_comes_back_late_ends_no_session_of_those_before_and_is_told_of_the_loss() {
    let mut server = Server::start(RedisOptions::default()).await.unwrap();
    let (early, late) = (connect(&server.url("n")).await.unwrap(), connect(&server.url("n")).await.unwrap());
    let mut watch = late.watch(&Key::default(), Revision::ZERO).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Delta::Resync { .. }));
    // As if the clock had been ahead: what `late` has seen is above where the next store begins.
    assert_eq!(server.command(&["HSET", "{n}:meta", "revision", "9000000000000000"]), ":0");
    let before = put(&late, "a", "1").await.unwrap();
    assert_eq!(next_changes(&mut *watch).await.len(), 1);
    server.restart().await;
    let session = insist(async || early.open(LEASE).await).await.unwrap().id;
    assert!(insist(async || put(&late, "a", "2").await).await.unwrap() > before);
    early.renew(session).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Delta::Resync { .. }));
}

/// Writes new keys, tells of each acknowledged one, and ends when fifty more went through after a failure.
async fn load(driver: Arc<Redis>, writer: u32, counted: UnboundedSender<()>) -> Vec<(Key, Revision)> {
    let (mut acknowledged, mut left) = (Vec::<(Key, Revision)>::new(), None);
    for number in 0u32.. {
        let key = Key::from(format!("load/{writer}/{number}").as_str());
        let txn = Txn::new().guard(Guard::Absent(key.clone())).put(key.clone(), "x");
        match driver.commit(txn).await {
            Ok(committed) => {
                assert!(acknowledged.last().is_none_or(|(_, last)| *last < committed.revision));
                acknowledged.push((key, committed.revision));
                // Nobody counts any more once the server was killed.
                let _ = counted.send(());
                left = left.map(|left: u32| left - 1);
            }
            Err(error) => {
                assert!(is_outage(&error), "{error}");
                left = left.or(Some(50));
            }
        }
        if left == Some(0) {
            break;
        }
    }
    acknowledged
}

/// Kills and restarts the server while four writers write, and returns what they were told.
async fn check_load_over_a_kill(server: &mut Server, driver: &Arc<Redis>) -> Vec<(Key, Revision)> {
    let (counted, mut count) = unbounded_channel();
    let start = |writer| tokio::spawn(load(driver.clone(), writer, counted.clone()));
    let writers: Vec<_> = (0..4).map(start).collect();
    for _ in 0..200 {
        count.recv().await.unwrap();
    }
    server.kill();
    server.restart().await;
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    acknowledged
}

async fn a_kill_with_a_file_loses_no_acknowledged_commit_no_session_and_no_change() {
    let mut server = Server::start(RedisOptions::durable()).await.unwrap();
    let driver = Arc::new(connect(&server.url("n")).await.unwrap());
    let session = driver.open(LEASE).await.unwrap().id;
    let mut watch = driver.watch(&"load/".into(), Revision::ZERO).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Delta::Resync { .. }));

    let acknowledged = check_load_over_a_kill(&mut server, &driver).await;
    driver.renew(session).await.unwrap();
    for (key, revision) in &acknowledged {
        assert_eq!(driver.get(key).await.unwrap().unwrap().stamp.modified, *revision, "{key} was lost");
    }
    let last = put(&driver, "load/end", "").await.unwrap();
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(_, revision)| *revision < last) {
        let changes = next_changes(&mut *watch).await;
        seen.extend(changes.iter().map(|change| (change.key().clone(), change.revision())));
    }
    assert!(seen.is_sorted_by(|left, right| left.1 < right.1), "out of order or twice");
    let missed: Vec<_> = acknowledged.iter().filter(|commit| !seen.contains(commit)).collect();
    assert!(missed.is_empty(), "the watch missed {missed:?}");
}

async fn a_kill_without_a_file_gives_no_token_twice() {
    let mut server = Server::start(RedisOptions::default()).await.unwrap();
    let driver = Arc::new(connect(&server.url("n")).await.unwrap());
    // Each writer has checked that its own tokens rise.
    let acknowledged = check_load_over_a_kill(&mut server, &driver).await;
    let mut tokens: Vec<_> = acknowledged.iter().map(|(_, token)| token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), acknowledged.len());
}

async fn calls_on_a_stopped_server_end_in_time_and_say_what_they_may_have_done() {
    let server = Server::start(RedisOptions::default()).await.unwrap();
    let url = format!("{}&timeout=200ms", server.url("n"));
    let (writer, reader) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    server.pause();
    // Sent on a live connection: it stands in the server's socket and may yet run.
    check_error(&put(&writer, "a", "1").await.unwrap_err(), Kind::Timeout, Effect::Unknown);
    check_error(&reader.get(&"a".into()).await.unwrap_err(), Kind::Timeout, Effect::None);
    // A connection under suspicion is not used again, and no other can be made: nothing was sent.
    check_error(&put(&writer, "b", "1").await.unwrap_err(), Kind::Timeout, Effect::None);
    server.resume();
    put(&writer, "b", "2").await.unwrap();
    assert_eq!(value(&reader, "b").await.as_deref(), Some("2"));
}

async fn a_write_without_a_server_has_no_effect() {
    let mut server = Server::start(RedisOptions::default()).await.unwrap();
    let url = server.url("n");
    let driver = connect(&url).await.unwrap();
    server.kill();
    // The first calls may still find the old connection open, and cannot know; once it is known to be broken,
    // nothing is sent.
    loop {
        let error = put(&driver, "a", "1").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
        if error.effect() == Effect::None {
            break;
        }
    }
    check_error(&connect(&url).await.unwrap_err(), Kind::Unavailable, Effect::None);
}

async fn announces_an_expiry_without_traffic() {
    let server = Server::start(RedisOptions::default()).await.unwrap();
    let (holder, watcher) =
        (connect(&server.url("n")).await.unwrap(), connect(&server.url("n")).await.unwrap());
    let session = holder.open(Duration::from_millis(500)).await.unwrap().id;
    let txn = Txn::new().put_owned("a".into(), "1", session).put_owned("b".into(), "1", session);
    let made = holder.commit(txn).await.unwrap().revision;
    let mut watch = watcher.watch(&Key::default(), made).await.unwrap();
    let changes = next_changes(&mut *watch).await;
    let gone: Vec<_> = changes.iter().map(|change| (change.key().clone(), change.revision())).collect();
    assert_eq!(gone, ["a".into(), "b".into(), session.key()].map(|key| (key, Revision(made.0 + 1))));
    let expired = |change: &Change| matches!(change, Change::Deleted { cause: Cause::Expired, .. });
    assert!(changes.iter().all(expired), "{changes:?}");
}

async fn goes_on_when_the_server_forgot_the_scripts() {
    let server = Server::start(RedisOptions::default()).await.unwrap();
    let driver = connect(&server.url("n")).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    assert_eq!(server.command(&["SCRIPT", "FLUSH"]), "+OK");
    put(&driver, "a", "2").await.unwrap();
    assert_eq!(value(&driver, "a").await.as_deref(), Some("2"));
}

async fn namespaces_do_not_see_each_other() {
    let server = Server::start(RedisOptions::default()).await.unwrap();
    let (left, right) =
        (connect(&server.url("a")).await.unwrap(), connect(&server.url("a}:meta")).await.unwrap());
    put(&left, "k", "1").await.unwrap();
    assert_eq!(value(&right, "k").await, None);
}

async fn promises_what_the_server_keeps() {
    for (options, level) in [(RedisOptions::durable(), Level::L1), (RedisOptions::default(), Level::L0)] {
        let server = Server::start(options).await.unwrap();
        let capability = connect(&server.url("n")).await.unwrap().capability();
        assert_eq!((capability.level, capability.token_survives_restart), (level, level == Level::L1));
    }
}

async fn promises_nothing_where_it_may_not_ask_and_connects_only_where_it_may_publish() {
    let server = Server::start(RedisOptions::durable()).await.unwrap();
    for (user, channels) in [("closed", "resetchannels"), ("open", "allchannels")] {
        let rights = ["ACL", "SETUSER", user, "on", ">hunter2", "~*", "+@all", "-config", "-info", channels];
        assert_eq!(server.command(&rights), "+OK");
    }
    let url = |user: &str| format!("redis://{user}:hunter2@127.0.0.1:{}/?namespace=n", server.port());
    check_refused(&url("closed"), Kind::Denied, "does not let this user").await;
    assert_eq!(server.command(&["EXISTS", "{n}:meta"]), ":0");
    let driver = connect(&url("open")).await.unwrap();
    assert_eq!(driver.capability().level, Level::L0);
    put(&driver, "a", "1").await.unwrap();
}

async fn refuses_a_wrong_password_and_none() {
    let options = RedisOptions { password: Some("right".into()), ..RedisOptions::default() };
    let server = Server::start(options).await.unwrap();
    put(&connect(&server.url("n")).await.unwrap(), "a", "1").await.unwrap();
    check_refused(&format!("redis://:hunter2@127.0.0.1:{}", server.port()), Kind::Denied, "refused").await;
    check_refused(&format!("redis://127.0.0.1:{}", server.port()), Kind::Denied, "refused").await;
}

async fn refuses_a_namespace_of_another_layout() {
    let server = Server::start(RedisOptions::default()).await.unwrap();
    server.command(&["HSET", "{newer}:meta", "format", "2"]);
    server.command(&["SET", "{text}:meta", "x"]);
    server.command(&["HSET", "{hash}:meta", "a", "b"]);
    server.command(&["HSET", "{records}:record", "a", "b"]);
    check_refused(&server.url("newer"), Kind::Format, "layout version 2").await;
    check_refused(&server.url("text"), Kind::Format, "a string where").await;
    check_refused(&server.url("hash"), Kind::Format, "a foreign hash").await;
    check_refused(&server.url("records"), Kind::Format, "records without a format record").await;
}

async fn refuses_a_cluster_an_evicting_server_and_an_option_it_does_not_know() {
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let cluster = RedisOptions { settings: vec![set("cluster-enabled", "yes")], ..RedisOptions::default() };
    let server = Server::start(cluster).await.unwrap();
    check_refused(&server.url("n"), Kind::Unsupported, "cluster").await;
    let settings = vec![set("maxmemory", "64mb"), set("maxmemory-policy", "allkeys-lru")];
    let evicting = RedisOptions { settings, ..RedisOptions::default() };
    let server = Server::start(evicting).await.unwrap();
    check_refused(&server.url("n"), Kind::Unsupported, "noeviction").await;
    check_refused(&format!("{}&timeuot=1s", server.url("n")), Kind::Invalid, "Did you mean timeout?").await;
}

async fn speaks_tls_with_the_server_it_trusts_and_with_no_other() {
    if !ready_for("openssl") {
        return;
    }
    let start = || Server::start(RedisOptions { tls: true, ..RedisOptions::default() });
    let (server, other) = (start().await.unwrap(), start().await.unwrap());
    let url = format!("rediss://127.0.0.1:{}/0?namespace=n", server.tls_port());
    let driver = connect(&format!("{url}&tls-ca={}", server.certificate().display())).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    let Delta::Resync { records, .. } = next(&mut *watch).await else { panic!("no snapshot") };
    assert_eq!(records.len(), 1);
    let distrusting = format!("{url}&tls-ca={}", other.certificate().display());
    check_refused(&distrusting, Kind::Unavailable, "tls-ca").await;
}

async fn a_server_that_was_made_a_replica_is_neither_written_nor_read() {
    let (server, other) = (
        Server::start(RedisOptions::default()).await.unwrap(),
        Server::start(RedisOptions::default()).await.unwrap(),
    );
    let driver = connect(&server.url("n")).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    assert_eq!(server.command(&["REPLICAOF", "127.0.0.1", &other.port().to_string()]), "+OK");
    check_error(&driver.get(&"a".into()).await.unwrap_err(), Kind::Unavailable, Effect::None);
    // The connection is given up: the next call looks for a master, and finds none.
    let error = put(&driver, "a", "2").await.unwrap_err();
    check_error(&error, Kind::Unavailable, Effect::None);
    assert!(error.to_string().contains("Name the master in the backend URL"), "{error}");
    assert_eq!(server.command(&["REPLICAOF", "NO", "ONE"]), "+OK");
    put(&driver, "a", "3").await.unwrap();
}

async fn speaks_by_a_unix_socket_and_says_where_there_is_none() {
    let options = RedisOptions { password: Some("hunter2".into()), ..RedisOptions::default() };
    let mut server = Server::start(options).await.unwrap();
    let url = format!("{}&db=3", server.unix_url("n"));
    let driver = connect(&url).await.unwrap();
    let capability = driver.capability();
    assert_eq!((capability.backend.as_str(), capability.across_hosts), ("redis", false));
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    assert!(matches!(next(&mut *watch).await, Delta::Resync { .. }));
    put(&driver, "a", "1").await.unwrap();
    assert_eq!(next_changes(&mut *watch).await.len(), 1);
    assert_eq!(server.command(&["EXISTS", "{n}:meta"]), ":0", "in the first database");
    check_refused(&url.replace(":hunter2@", ":hunter3@"), Kind::Denied, "refused user and password").await;

    server.kill();
    check_refused(&url, Kind::Unavailable, "redis.sock cannot be reached").await;
    server.restart().await;
    insist(async || put(&driver, "a", "2").await).await.unwrap();
}
