//! What would lead us back to a master that others have left, or keep us there: sentinels that know of no fail-over.

use std::time::Duration;

use althing_core::{Clock, Driver, Effect, Error, Kind, Revision, SystemClock};
use althing_driver_redis::Redis;
use althing_test_servers::{Sentinel, SentinelOptions};

use crate::passage::Passage;
use crate::sentinel::{NAMESPACE, enter, start};
use crate::shared::{LEASE, PAUSE, check_error, check_refused, connect, insist, is_outage, put, soon};

/// Starts servers that can be cut off.
async fn start_apart() -> Sentinel {
    let options = SentinelOptions { password: Some("right".into()), ..SentinelOptions::default() };
    Sentinel::start(options).await.unwrap()
}

/// Cuts the first server and the last sentinel off from the others, which have a master of their own then.
async fn part(servers: &mut Sentinel) {
    servers.isolate_with(0, 2).await;
    assert_eq!(servers.role(1).as_deref(), Some("master"));
}

/// Returns the URL of the namespace, by `passages` in place of the sentinels.
fn url_by(servers: &Sentinel, passages: &[Passage]) -> String {
    let addresses =
        |ports: Vec<u16>| ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let own = addresses(passages.iter().map(Passage::port).collect());
    servers.url(NAMESPACE).replace(&addresses(servers.ports()), &own)
}

fn has(servers: &Sentinel, server: usize, key: &str) -> bool {
    servers.command(server, &["HEXISTS", "{n}:record", key]) == ":1"
}

/// Returns what a server has of the namespace beside its records.
fn meta(servers: &Sentinel, server: usize) -> Vec<String> {
    servers.texts(server, &["HGETALL", "{n}:meta"]).unwrap()
}

/// Waits until what `driver` writes goes to `server`.
async fn moved(servers: &Sentinel, driver: &Redis, server: usize, key: &str) -> Revision {
    soon("a host that moves", async {
        loop {
            let token = insist(async || put(driver, key, "1").await).await.unwrap();
            if has(servers, server, key) {
                return token;
            }
            SystemClock.sleep(PAUSE).await;
        }
    })
    .await
}

/// Cuts the connection of `driver` to the second server, and returns why it then finds none. It may write there until
/// it notices.
async fn refusal(servers: &Sentinel, driver: &Redis, said: &str) -> Error {
    servers.command(1, &["CLIENT", "KILL", "TYPE", "normal"]);
    soon("a refusal", async {
        loop {
            match put(driver, "refused", "1").await {
                Err(error) if error.to_string().contains(said) => return error,
                Err(error) => assert!(is_outage(&error), "{error}"),
                Ok(_) => assert!(has(servers, 1, "refused"), "written where others have left"),
            }
        }
    })
    .await
}

pub(super) async fn leaves_a_master_that_was_cut_off_together_with_a_sentinel() {
    let mut servers = start_apart().await;
    let mut hosts = Vec::new();
    // Each begins with any of the sentinels, so that some begin with the one that is cut off.
    for _ in 0..8 {
        hosts.push(enter(&servers).await);
    }
    part(&mut servers).await;
    for (place, host) in hosts.iter().enumerate() {
        moved(&servers, host, 1, &format!("host/{place}")).await;
    }
    assert_eq!(servers.role(0).as_deref(), Some("master"), "it still serves whoever asks");
    assert_eq!(servers.fail_overs(2), Some(0), "the sentinel was not cut off");
}

pub(super) async fn believes_no_sentinel_that_alone_answers_for_all_of_them() {
    let mut servers = start_apart().await;
    let passages = [Passage::start(servers.ports()[0], Duration::ZERO).await];
    let driver = connect(&url_by(&servers, &passages)).await.unwrap();
    part(&mut servers).await;
    let before = moved(&servers, &driver, 1, "a").await;
    let left = meta(&servers, 0);
    passages[0].lead(servers.ports()[2]);
    let error = refusal(&servers, &driver, "know of fail-over 0").await;
    check_error(&error, Kind::Unavailable, Effect::None);
    assert!(error.to_string().contains("more than half of its 3"), "{error}");
    assert_eq!(meta(&servers, 0), left);
    passages[0].lead(servers.ports()[1]);
    assert!(moved(&servers, &driver, 1, "b").await > before);
}

pub(super) async fn goes_back_to_no_master_that_others_left_whoever_leads_there() {
    let mut servers = start_apart().await;
    let mut passages = Vec::new();
    for port in servers.ports() {
        passages.push(Passage::start(port, Duration::ZERO).await);
    }
    let driver = connect(&url_by(&servers, &passages)).await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    part(&mut servers).await;
    let before = moved(&servers, &driver, 1, "a").await;
    let left = meta(&servers, 0);
    for passage in &passages {
        passage.lead(servers.ports()[2]);
    }
    let error = refusal(&servers, &driver, "a master that others have left").await;
    check_error(&error, Kind::Unavailable, Effect::None);
    assert_eq!(meta(&servers, 0), left, "the old master was written to");

    // As the error says, where somebody wants it back.
    assert!(error.to_string().contains("HDEL {n}:meta run"), "{error}");
    assert_eq!(servers.command(0, &["HDEL", "{n}:meta", "run"]), ":1");
    assert!(moved(&servers, &driver, 0, "b").await > before);
    check_error(&driver.renew(session).await.unwrap_err(), Kind::SessionLost, Effect::None);
}

pub(super) async fn waits_for_the_other_sentinels_from_the_first_answer_on() {
    let mut servers = start_apart().await;
    part(&mut servers).await;
    // Three questions each: the one that was cut off answers when an eighth of the call is over, the others next.
    let mut passages = Vec::new();
    for (port, delay_ms) in servers.ports().into_iter().zip([250, 250, 200]) {
        passages.push(Passage::start(port, Duration::from_millis(delay_ms)).await);
    }
    let driver = connect(&format!("{}&timeout=4s", url_by(&servers, &passages))).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    assert!(has(&servers, 1, "a") && !has(&servers, 0, "a"));
}

pub(super) async fn goes_on_where_sentinel_was_set_up_anew() {
    let mut servers = start().await;
    let driver = enter(&servers).await;
    let master = servers.fail_over().await;
    let before = moved(&servers, &driver, master, "a").await;
    let session = driver.open(LEASE).await.unwrap().id;
    assert_ne!(servers.fail_overs(0), Some(0));
    servers.set_up_anew(master);
    assert_eq!(servers.fail_overs(0), Some(0));
    servers.command(master, &["CLIENT", "KILL", "TYPE", "normal"]);
    // The same master: nothing was lost.
    soon("a renewal", insist(async || driver.renew(session).await)).await.unwrap();
    assert!(put(&driver, "a", "2").await.unwrap() > before);
}

/// The one that makes the new store has seen less of the former one than the other, and no clock helps.
pub(super) async fn all_hosts_go_on_after_a_flush_whoever_is_first() {
    let servers = start().await;
    let (early, late) = (enter(&servers).await, enter(&servers).await);
    assert_eq!(servers.command(0, &["HSET", "{n}:meta", "revision", "9000000000000000"]), ":0");
    put(&early, "a", "1").await.unwrap();
    let session = late.open(LEASE).await.unwrap().id;
    for _ in 0..10 {
        put(&late, "a", "2").await.unwrap();
    }
    let before = put(&late, "a", "2").await.unwrap();
    assert_eq!(servers.command(0, &["FLUSHALL"]), "+OK");
    insist(async || put(&early, "a", "3").await).await.unwrap();
    let after = soon("a commit", insist(async || put(&late, "a", "4").await)).await.unwrap();
    assert!(after > before, "{after:?} after {before:?}");
    check_error(&late.renew(session).await.unwrap_err(), Kind::SessionLost, Effect::None);
}

pub(super) async fn says_which_right_a_user_of_the_sentinels_lacks() {
    let servers = start().await;
    for sentinel in 0..servers.ports().len() {
        let rights = ["ACL", "SETUSER", "half", "on", ">hunter2", "+@all", "-sentinel|master"];
        assert_eq!(servers.ask(sentinel, &rights), ["+OK"]);
    }
    let url = format!("{}&sentinel_username=half&sentinel_password=hunter2", servers.url(NAMESPACE));
    check_refused(&url, Kind::Denied, "does not let this user ask SENTINEL MASTER").await;
    check_refused(&url, Kind::Denied, "+sentinel|master").await;
    // Done as it says.
    for sentinel in 0..servers.ports().len() {
        assert_eq!(servers.ask(sentinel, &["ACL", "SETUSER", "half", "+sentinel|master"]), ["+OK"]);
    }
    put(&connect(&url).await.unwrap(), "a", "1").await.unwrap();
}
