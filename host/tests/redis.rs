//! What a host leaves in a backend that outlives it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use althing::clock::{OsChance, SystemClock};
use althing::info::{JoinAsk, SessionAsk, SessionEvent};
use althing::{Althing, Kind, Principal, Requirement, Revision, Secret, SessionKey};
use althing_core::{Driver, Key};
use althing_driver_redis::Redis;
use althing_test_servers::{Redis as Server, RedisOptions, suite};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Much longer than anything here takes: what only goes when a lease runs out is still there.
const LEASE: Duration = Duration::from_secs(120);
const AT_ONCE: Duration = Duration::from_secs(10);

async fn server() -> Server {
    Server::start(RedisOptions::default()).await.unwrap()
}

async fn start(url: &str) -> Althing {
    Althing::builder().backend(url).lease(LEASE).start().await.unwrap()
}

fn open(host: &Althing) -> SessionKey {
    let grant = host.runtime().open_session(&Principal::Embedder, SessionAsk::default(), false).unwrap();
    SessionKey { id: grant.id, secret: Secret::new(grant.secret) }
}

async fn lead(host: &Althing) -> Revision {
    let key = open(host);
    let mut events = host.runtime().session_events(&key).unwrap();
    let ask = JoinAsk { id: "a".into(), create: true, ..JoinAsk::default() };
    host.runtime().join(&key, "web", ask).await.unwrap();
    loop {
        if let SessionEvent::Elected { hold } = events.next().await.unwrap() {
            return hold.term;
        }
    }
}

/// Returns the names of all records there are.
async fn records(url: &str) -> Vec<String> {
    let location = url.parse().unwrap();
    let driver = Redis::connect(&location, Arc::new(SystemClock), Arc::new(OsChance)).await.unwrap();
    let page = driver.list(&Key::from(""), None, 0).await.unwrap();
    page.records.iter().map(|record| record.key.to_string()).collect()
}

async fn a_host_that_stopped_left_nothing_but_its_groups() {
    let server = server().await;
    let url = server.url("left");
    let host = start(&url).await;
    lead(&host).await;
    assert!(records(&url).await.len() > 1);
    host.stop().await;
    assert_eq!(records(&url).await, ["fleet/group/web"]);
}

async fn the_next_host_leads_at_once_with_a_later_term() {
    let server = server().await;
    let url = server.url("next");
    let mut former = Revision::ZERO;
    for _ in 0..3 {
        let host = start(&url).await;
        let term = timeout(AT_ONCE, lead(&host)).await.expect("it waited for a lease to run out");
        assert!(term > former);
        former = term;
        host.stop().await;
    }
}

async fn two_namespaces_of_one_server_are_two_fleets() {
    let server = server().await;
    let (north, south) = (start(&server.url("north")).await, start(&server.url("south")).await);
    let (one, other) = (lead(&north).await, lead(&south).await);
    assert!(north.runtime().holds("web", one) && south.runtime().holds("web", other));
    assert_eq!(north.runtime().group("web").unwrap().hosts.len(), 1);
    north.stop().await;
    assert!(south.runtime().holds("web", other));
    south.stop().await;
}

async fn a_host_that_stops_in_the_middle_of_calls_leaves_no_member() {
    let server = server().await;
    let url = server.url("middle");
    for round in 0..10 {
        let host = start(&url).await;
        let mut calls = JoinSet::new();
        for call in 0..16 {
            let (runtime, key) = (host.runtime().clone(), open(&host));
            let ask = JoinAsk { id: format!("{round}-{call}"), create: true, ..JoinAsk::default() };
            calls.spawn(async move { runtime.join(&key, "web", ask).await.map(|_| ()) });
        }
        if round % 2 == 0 {
            calls.join_next().await.unwrap().unwrap().unwrap();
        }
        timeout(AT_ONCE, host.stop()).await.expect("a call held up the end");
        timeout(AT_ONCE, calls.join_all()).await.expect("a call outlived its host by long");
        let left = records(&url).await;
        assert!(left.iter().all(|key| key == "fleet/group/web"), "{left:?}");
    }
}

async fn who_joins_later_is_refused_where_the_backend_promises_less_by_then() {
    let server = Server::start(RedisOptions::durable()).await.unwrap();
    let url = server.url("require");
    let host = start(&url).await;
    let require = "L1".parse().unwrap();
    host.runtime().create_group(&Principal::Embedder, "web", &require).await.unwrap();
    let join = |id: &str| JoinAsk { id: id.into(), ..JoinAsk::default() };
    host.runtime().join(&open(&host), "web", join("a")).await.unwrap();

    server.command(&["CONFIG", "SET", "appendonly", "no"]);
    let later = start(&url).await;
    let refused = later.runtime().join(&open(&later), "web", join("b")).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
    assert!(refused.to_string().contains("does not promise L1"), "{refused}");
    later.stop().await;
    host.stop().await;
}

async fn several_backends_of_one_host_have_nothing_in_common() {
    let server = server().await;
    let (north, south, state) = (server.url("north"), server.url("south"), tempfile::tempdir().unwrap());
    let builder = Althing::builder().lease(LEASE).state(state.path());
    let builder = builder.named_backend("north", &north).named_backend("south", &south).backend("memory:");
    let host = builder.start().await.unwrap();
    let on = |name| host.backends().get(name).unwrap();
    on(Some("south")).create_group(&Principal::Embedder, "web", &Requirement::NONE).await.unwrap();
    assert!(on(Some("north")).group("web").is_err() && on(None).group("web").is_err());
    assert_eq!(on(None).capability().backend, "memory");
    assert_eq!(records(&south).await.iter().filter(|key| *key == "fleet/group/web").count(), 1);
    let error = host.backends().get(Some("nroth")).unwrap_err();
    assert!(error.to_string().contains("Did you mean north?"), "{error}");
    let former = on(Some("south")).host().id;
    host.stop().await;
    assert!(records(&north).await.is_empty());

    // Who it is in each backend is kept, and a host with several and no default asks for a name.
    let builder = Althing::builder().lease(LEASE).state(state.path());
    let host = builder.named_backend("north", &north).named_backend("south", &south).start().await.unwrap();
    assert_eq!(host.backends().get(Some("south")).unwrap().host().id, former);
    let error = host.backends().get(None).unwrap_err();
    assert!(error.to_string().contains("Name one of: north south"), "{error}");
    host.stop().await;
}

async fn a_host_that_cannot_reach_one_of_its_backends_starts_none() {
    let server = server().await;
    let url = server.url("alone");
    let gone = format!("redis://127.0.0.1:{}/0", althing_test_servers::free_port());
    let builder = Althing::builder().lease(LEASE).backend(&url).named_backend("gone", &gone);
    let error = builder.start().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("backend=gone"), "{error}");
    assert!(records(&url).await.is_empty(), "the session it had opened stayed");
    let named = Althing::builder().named_backend("No Name", "memory:").start().await.unwrap_err();
    assert!(named.to_string().contains("cannot be called \"No Name\""), "{named}");
    let builder = Althing::builder().named_backend("a", "memory:").named_backend("a", &url);
    let twice = builder.start().await.unwrap_err();
    assert!(twice.to_string().contains("two backends are called \"a\""), "{twice}");
}

async fn a_start_that_is_given_up_leaves_nothing_running() {
    let server = server().await;
    let (url, state) = (server.url("given-up"), tempfile::tempdir().unwrap());
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let never = format!("redis://127.0.0.1:{}/0", deaf.local_addr().unwrap().port());
    let builder = Althing::builder().lease(LEASE).state(state.path()).backend(&url);
    tokio::select! {
        started = builder.clone().named_backend("never", never).start() => panic!("{started:?}"),
        () = async { while records(&url).await.is_empty() {} } => {}
    }
    // Else the one that was begun keeps the state directory, and the next is told that it is in use.
    let again = async {
        loop {
            match builder.clone().start().await {
                Ok(host) => return host,
                Err(error) => assert_eq!(error.kind(), Kind::Busy, "{error}"),
            }
        }
    };
    timeout(AT_ONCE, again).await.expect("nothing of the first start goes on").stop().await;
}

suite! {
    "redis-server":
    who_joins_later_is_refused_where_the_backend_promises_less_by_then,
    several_backends_of_one_host_have_nothing_in_common,
    a_host_that_cannot_reach_one_of_its_backends_starts_none,
    a_start_that_is_given_up_leaves_nothing_running,
    a_host_that_stopped_left_nothing_but_its_groups,
    the_next_host_leads_at_once_with_a_later_term,
    two_namespaces_of_one_server_are_two_fleets,
    a_host_that_stops_in_the_middle_of_calls_leaves_no_member,
}
