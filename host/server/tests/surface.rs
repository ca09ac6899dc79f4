//! A whole surface over a host in memory, spoken to as strangers do and as the client does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod stage;

use std::time::Duration;

use althing_client::wire::SessionKey;
use althing_client::{Address, Client, EventStream, Membership};
use althing_core::info::{
    Event, Evicted, JoinAsk, LockAsk, SessionAsk, SessionEvent, StoodDown, UpdateAsk, bytes_as_json,
    bytes_of_json,
};
use althing_core::{Kind, Requirement, Secret, limits};
use althing_server::{Server, ServerConfig};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::stage::{Host, get, post};

/// Long enough for anything that happens at once on a loaded machine, and shorter than every lease and beat by
/// which it would happen later anyway.
const AT_ONCE: Duration = Duration::from_secs(3);
const _: () = assert!(AT_ONCE.as_millis() < limits::STREAM_BEAT.as_millis());
const _: () = assert!(AT_ONCE.as_millis() < limits::CLIENT_TTL_DEFAULT.as_millis());

fn member(id: &str) -> JoinAsk {
    JoinAsk { id: id.into(), create: true, ..JoinAsk::default() }
}

async fn until<T>(events: &mut EventStream<Event>, pick: impl Fn(Event) -> Option<T>) -> T {
    let waiting = async {
        loop {
            if let Some(found) = pick(events.next().await.unwrap().unwrap()) {
                return found;
            }
        }
    };
    timeout(AT_ONCE, waiting).await.expect("it did not happen at once")
}

async fn until_elected(membership: &mut Membership) -> SessionEvent {
    let waiting = async {
        loop {
            let event = membership.next_event().await.unwrap();
            if matches!(event, SessionEvent::Elected { .. }) {
                return event;
            }
        }
    };
    timeout(AT_ONCE, waiting).await.expect("it was not elected at once")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_route_is_told_with_those_there_are() {
    let host = Host::start().await;
    let answer = host.ask(&get("/v1/gruops")).await;
    Host::check(&answer, "404", &["\"kind\":\"not-found\"", "/v1/gruops", "/v1/groups/{group}/stand-down"]);
    let answer = host.ask(&post("/v1/host", "")).await;
    Host::check(&answer, "400", &["POST is not for /v1/host"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bodies_are_refused_with_what_is_wrong() {
    let host = Host::start().await;
    let answer = host.ask(&post("/v1/groups", r#"{"name":"web","colour":"red"}"#)).await;
    Host::check(&answer, "400", &["\"kind\":\"invalid\"", "unknown field `colour`"]);
    Host::check(&host.ask(&post("/v1/groups", "{")).await, "400", &["\"kind\":\"invalid\""]);
    Host::check(&host.ask(&get("/v1/groups/web/decisions?limti=1")).await, "400", &["unknown field `limti`"]);
    let head = format!(
        "POST /v1/groups HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        limits::BODY_BYTES_MAX + 1
    );
    Host::check(&host.ask(&head).await, "413", &["\"kind\":\"too-large\""]);
    Host::check(&host.ask(&get("/v1/groups/%ff")).await, "400", &["\"kind\":\"invalid\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_name_goes_through_a_path_unharmed() {
    let host = Host::start().await;
    let client = host.client();
    for name in ["web", "a/b", "..", "ü ☃", "?x=1#y", "%2F", "a\nb"] {
        client.create_group(name, &Requirement::NONE).await.unwrap();
        assert_eq!(client.group(name).await.unwrap().name, name);
        client.delete_group(name).await.unwrap();
        assert_eq!(client.group(name).await.unwrap_err().kind(), Kind::NotFound);
    }
    assert_eq!(client.group("").await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(client.create_group("", &Requirement::NONE).await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_nobody_elses() {
    let host = Host::start().await;
    let client = host.client();
    let grant = client.open_session(&SessionAsk::default()).await.unwrap();
    let forged = SessionKey { id: grant.id.clone(), secret: Secret::new("0") };
    assert_eq!(client.renew_session(&forged).await.unwrap_err().kind(), Kind::Denied);
    let answer = host.ask(&post(&format!("/v1/sessions/{}/renew", grant.id), "")).await;
    Host::check(&answer, "403", &["\"kind\":\"denied\"", "Althing-Session"]);
    let other = client.open_session(&SessionAsk::default()).await.unwrap();
    let mixed = format!(
        "POST /v1/sessions/{}/renew HTTP/1.1\r\nhost: x\r\nconnection: close\r\nalthing-session: {}.{}\r\n\r\n",
        grant.id, other.id, other.secret
    );
    Host::check(&host.ask(&mixed).await, "403", &["another session"]);
    let ours = SessionKey { id: grant.id, secret: Secret::new(grant.secret) };
    client.renew_session(&ours).await.unwrap();
    client.end_session(&ours).await.unwrap();
    assert_eq!(client.renew_session(&ours).await.unwrap_err().kind(), Kind::SessionLost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_opens_to_the_token_alone_and_never_to_a_web_page() {
    let host = Host::start().await;
    let ask = |more: &str| format!("GET /v1/host HTTP/1.1\r\nconnection: close\r\n{more}\r\n");
    let shown = format!("host: {}\r\nauthorization: Bearer {}\r\n", host.port, host.token());
    Host::check(&host.ask_port(&ask(&shown)).await, "200", &["\"standing\":\"held\""]);
    let bare = format!("host: {}\r\n", host.port);
    Host::check(&host.ask_port(&ask(&bare)).await, "403", &["no bearer token", "--token-file"]);
    let page = format!("{shown}origin: http://evil.example\r\n");
    Host::check(&host.ask_port(&ask(&page)).await, "403", &["Origin"]);
    let rebound = format!("host: evil.example\r\nauthorization: Bearer {}\r\n", host.token());
    Host::check(&host.ask_port(&ask(&rebound)).await, "403", &["Host header"]);

    let address = Address::Tcp(host.port.clone());
    let client = Client::with_token(address.clone(), Secret::new(host.token()));
    assert_eq!(client.host().await.unwrap().id, host.runtime.host().id);
    assert_eq!(Client::new(address).host().await.unwrap_err().kind(), Kind::Denied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_gone_is_seen_at_once() {
    let host = Host::start().await;
    let client = host.client();
    client.create_group("web", &Requirement::NONE).await.unwrap();
    let mut events = client.group_events("web").await.unwrap();
    let mut first = Membership::open(host.client(), None).await.unwrap();
    first.join("web", &member("a")).await.unwrap();
    until_elected(&mut first).await;
    let mut second = Membership::open(host.client(), None).await.unwrap();
    second.join("web", &member("b")).await.unwrap();
    // What the kernel does to the sockets of a process that was killed.
    drop(first);
    until(&mut events, |event| matches!(event, Event::Left { id, .. } if id == "a").then_some(())).await;
    until_elected(&mut second).await;
    assert!(second.is_held("web"));
    assert!(!second.is_held("other"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_asked_to_stop_confirms_once_it_no_longer_is_held() {
    let host = Host::start().await;
    let mut leader = Membership::open(host.client(), None).await.unwrap();
    leader.join("web", &member("a")).await.unwrap();
    until_elected(&mut leader).await;
    let term = leader.term("web").unwrap();
    let outcome = timeout(AT_ONCE, host.client().stand_down("web")).await.unwrap().unwrap();
    assert_eq!(outcome, StoodDown::Stopped);
    assert_ne!(leader.term("web"), Some(term));
    leader.leave("web", "a").await.unwrap();
    assert!(!leader.is_held("web"));
    assert_eq!(host.client().stand_down("web").await.unwrap(), StoodDown::Vacant);
    leader.close().await.unwrap();
    assert_eq!(host.runtime.host().sessions, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_changes_what_it_says_of_itself_and_everybody_hears_of_it() {
    let host = Host::start().await;
    let mut membership = Membership::open(host.client(), None).await.unwrap();
    let ask = JoinAsk { capabilities: bytes_as_json(b"\x00\xff"), ephemeral: true, ..member("a") };
    let joined = membership.join("web", &ask).await.unwrap().member;
    assert_eq!(bytes_of_json(&joined.capabilities).unwrap(), b"\x00\xff");
    until_elected(&mut membership).await;
    let client = host.client();
    let mut events = client.group_events("web").await.unwrap();
    let ask = UpdateAsk { capabilities: Some(Value::Null), candidate: Some(false), ..UpdateAsk::default() };
    let changed = membership.update("web", "a", &ask).await.unwrap();
    assert!(changed.capabilities.is_null() && !changed.candidate && changed.since == joined.since);
    let told = until(&mut events, |event| match event {
        Event::Updated { member, .. } => Some(member),
        _ => None,
    });
    assert_eq!(told.await, changed);
    until(&mut events, |event| matches!(event, Event::Vacated { .. }).then_some(())).await;
    assert!(!membership.is_held("web"));
    assert_eq!(client.members("web").await.unwrap(), [client.member("web", "a").await.unwrap()]);
    let other = client.open_session(&SessionAsk::default()).await.unwrap();
    let stranger = SessionKey { id: other.id, secret: Secret::new(other.secret) };
    let denied = client.update_member(&stranger, "web", "a", &ask).await.unwrap_err();
    assert_eq!(denied.kind(), Kind::Denied);
    membership.leave("web", "a").await.unwrap();
    until(&mut events, |event| matches!(event, Event::Deleted { .. }).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_hands_over_on_request_and_an_evicted_member_is_told() {
    let host = Host::start().await;
    let client = host.client();
    let mut first = Membership::open(host.client(), None).await.unwrap();
    first.join("web", &member("a")).await.unwrap();
    until_elected(&mut first).await;
    let mut second = Membership::open(host.client(), None).await.unwrap();
    second.join("web", &member("b c/d")).await.unwrap();
    assert_eq!(client.stand_down_to("web", "b c/d").await.unwrap(), StoodDown::Stopped);
    until_elected(&mut second).await;
    assert!(!first.is_held("web") && second.is_held("web"));
    assert_eq!(client.stand_down_to("web", "z").await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(client.stand_down_to("web", "b c/d").await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(client.evict("web", "b c/d").await.unwrap(), Evicted::Evicted);
    assert!(!second.is_held("web"));
    let removed = async {
        loop {
            if let SessionEvent::Removed { member, reason, .. } = second.next_event().await.unwrap() {
                return (member, reason);
            }
        }
    };
    let (id, reason) = timeout(AT_ONCE, removed).await.expect("it was not told at once");
    assert!(id == "b c/d" && reason.starts_with("evicted by uid:"), "{reason}");
    until_elected(&mut first).await;
    assert_eq!(client.evict("web", "b c/d").await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_ends_ends_its_streams_and_takes_its_socket_away() {
    let host = Host::start().await;
    let (client, socket) = (host.client(), host.socket());
    client.create_group("web", &Requirement::NONE).await.unwrap();
    let mut events = client.group_events("web").await.unwrap();
    let mut membership = Membership::open(host.client(), None).await.unwrap();
    membership.join("web", &member("a")).await.unwrap();
    until_elected(&mut membership).await;
    host.end.send(()).unwrap();
    timeout(AT_ONCE, host.running).await.expect("it hung").unwrap();
    let last = async { while let Some(_seen) = events.next().await.unwrap() {} };
    timeout(AT_ONCE, last).await.expect("the stream went on");
    timeout(AT_ONCE, async { while membership.next_event().await.is_some() {} }).await.expect("it went on");
    assert!(!membership.is_held("web"));
    assert!(!socket.exists());
    let error = client.groups().await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("no host answers at unix:"), "{error}");
}

/// Returns the sessions that a host has once it has ended others.
async fn sessions_left(host: &Host, least: usize) -> usize {
    let left = async {
        while host.runtime.host().sessions > least {
            tokio::task::yield_now().await;
        }
    };
    drop(timeout(AT_ONCE, left).await);
    host.runtime.host().sessions
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_locked_any_more_once_its_membership_was_dropped() {
    let host = Host::start().await;
    let by_port = || Client::with_token(Address::Tcp(host.port.clone()), Secret::new(host.token()));
    for client in [host.client(), by_port()] {
        let membership = Membership::open(client, None).await.unwrap();
        let ask = LockAsk { names: vec!["db".into()], wait_ms: Some(0), ..LockAsk::default() };
        let lock = membership.lock(&ask).await.unwrap().unwrap().remove(0);
        assert!(lock.is_held());
        drop(membership);
        assert!(!lock.is_held(), "the host lets the next one in at once");
        assert_eq!(sessions_left(&host, 0).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_over_a_network_outlasts_its_connection_and_one_over_a_socket_does_not() {
    let host = Host::start().await;
    let by_port = Client::with_token(Address::Tcp(host.port.clone()), Secret::new(host.token()));
    for (number, client) in [by_port, host.client()].into_iter().enumerate() {
        // Dying is the end of all its tasks at once, and of its connections with them.
        let dying =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let membership = dying.spawn(async move { Membership::open(client, None).await.unwrap() });
        let membership = membership.await.unwrap();
        assert_eq!(host.runtime.host().sessions, number + 1);
        dying.shutdown_background();
        std::mem::forget(membership);
        assert_eq!(sessions_left(&host, 1).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_never_share_a_socket() {
    let host = Host::start().await;
    let config = ServerConfig {
        socket: host.socket(),
        listen: None,
        token_file: host.folder.path().join("token"),
        metrics: None,
    };
    let error = Server::bind(config, host.runtime.clone()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Exists);
    host.client().host().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_answer_outside_of_the_api() {
    let host = Host::start().await;
    Host::check(&host.ask(&get("/healthz")).await, "200", &["held"]);
    Host::check(&host.ask(&get("/metrics")).await, "404", &["keeps no metrics"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_says_that_the_host_lives() {
    let host = Host::start().await;
    host.client().create_group("web", &Requirement::NONE).await.unwrap();
    let mut stream = UnixStream::connect(host.socket()).await.unwrap();
    stream.write_all(get("/v1/groups/web/events").as_bytes()).await.unwrap();
    let mut seen = String::new();
    let beating = async {
        while !seen.contains(": beat\n\n") {
            let mut chunk = [0; 4096];
            let length = stream.read(&mut chunk).await.unwrap();
            assert_ne!(length, 0, "{seen}");
            seen.push_str(std::str::from_utf8(&chunk[..length]).unwrap());
        }
    };
    timeout(limits::STREAM_BEAT * 3, beating).await.expect("no beat");
    assert!(seen.contains("content-type: text/event-stream"), "{seen}");
    assert!(seen.contains("data: {\"event\":\"snapshot\""), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_to_the_backend_that_it_names() {
    let host = Host::with(&["north", "south"]).await;
    let (north, south) = (host.client().on("north"), host.client().on("south"));
    let mut leader = Membership::open(south.clone(), None).await.unwrap();
    leader.join("web", &member("a")).await.unwrap();
    until_elected(&mut leader).await;
    assert_eq!(south.group("web").await.unwrap().members.len(), 1);
    assert_eq!(north.group("web").await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(north.host().await.unwrap().backend, "north");
    let named: Vec<_> = north.drivers().await.unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(named, ["north", "south"]);
    Host::check(&host.ask(&get("/v1/groups")).await, "400", &["none is named", "north south"]);
    let error = host.client().on("suoth").groups().await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("Did you mean south?"), "{error}");
    Host::check(&host.ask(&get("/healthz")).await, "200", &["held"]);
}
