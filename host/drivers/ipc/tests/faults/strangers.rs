//! Peers that are no hosts, and daemons that are none.

use std::path::Path;
use std::time::Duration;

use althing_client::waist::{Call, Dialled, Greeting, Place, Request, dial, encode};
use althing_core::info::ErrorInfo;
use althing_core::{Driver, Effect, Error, Kind, limits};
use althing_driver_ipc::Ipc;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::daemon::{Daemon, connect};
use crate::{LONG, SOON, check_error, gone, hold, is_held, put, watch};

async fn dialled(daemon: &Daemon) -> Dialled {
    let place = Place { socket: daemon.socket(), namespace: Some("n".into()), backend: None };
    dial("connect", &place).await.unwrap()
}

/// Fails unless the daemon ends a connection on which these bytes come after a session was opened.
async fn check_ended(daemon: &Daemon, bytes: &[u8]) {
    let Dialled { mut frames, mut sink, .. } = dialled(daemon).await;
    let request = Request { id: 1, call: Call::Open { ask: LONG } };
    sink.send(encode(&request).unwrap()).await.unwrap();
    frames.next().await.unwrap().unwrap();
    sink.get_mut().write_all(bytes).await.unwrap();
    let end = timeout(SOON, frames.next()).await.expect("the connection is ended");
    assert!(end.is_none_or(|frame| frame.is_err()), "{bytes:?} was answered");
}

pub(crate) async fn garbage_ends_its_connection_and_nothing_else() {
    let daemon = Daemon::on_memory().await;
    let here = daemon.connect("n").await;
    hold(&here, LONG).await;
    let most = limits::WAIST_FRAME_BYTES_MAX as u32;
    check_ended(&daemon, &(most + 1).to_be_bytes()).await;
    check_ended(&daemon, &u32::MAX.to_be_bytes()).await;
    check_ended(&daemon, b"\x00\x00\x00\x05hello").await;
    check_ended(&daemon, &[&[0, 0, 0, 1][..], &[0xC1]].concat()).await;
    // Deep within itself, and longer than it is.
    check_ended(&daemon, &[&4096u32.to_be_bytes()[..], &[0x91; 4096]].concat()).await;
    check_ended(&daemon, &[&[0, 0, 0, 5][..], &[0xDD, 0xFF, 0xFF, 0xFF, 0xFF]].concat()).await;
    // Theirs are gone, ours is there.
    let sessions = async || here.list(&"session/".into(), None, 0).await.unwrap().records.len();
    while sessions().await > 1 {
        tokio::task::yield_now().await;
    }
    assert!(is_held(&here).await);
    a_watch_takes_no_requests(&daemon, &here).await;
}

async fn a_watch_takes_no_requests(daemon: &Daemon, here: &Ipc) {
    let Dialled { mut frames, mut sink, .. } = dialled(daemon).await;
    let call = Call::Watch { prefix: "a".into(), from: althing_core::Revision::ZERO };
    for call in [call, Call::Get("a".into())] {
        sink.send(encode(&Request { id: 1, call }).unwrap()).await.unwrap();
    }
    let ended = async { while let Some(Ok(_)) = frames.next().await {} };
    timeout(SOON, ended).await.expect("the watch is ended");
    let mut others = watch(here).await;
    here.commit(althing_core::Txn::new().delete("held".into())).await.unwrap();
    assert_eq!(gone(&mut *others).await, althing_core::Cause::Deleted);
}

/// Takes connections, says to each what a host would say first, and then nothing at all.
pub(crate) async fn black_hole(listener: UnixListener, greeting: Greeting) {
    let mut held = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 4096];
        let length = stream.read(&mut head).await.unwrap();
        assert!(head[..length].ends_with(b"\r\n\r\n") || length == 0);
        let switched =
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: althing-waist/1\r\n\r\n";
        let frame: Bytes = encode(&greeting).unwrap();
        let length = (frame.len() as u32).to_be_bytes();
        // Who was too late for an answer is gone by now.
        if stream.write_all(&[switched.as_bytes(), &length, &frame].concat()).await.is_ok() {
            held.push(stream);
        }
    }
}

pub(crate) async fn a_black_hole_is_told_with_what_it_may_have_done() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("hole.sock");
    let url = format!("ipc://{}?timeout=300ms", socket.display());
    // Nobody accepts: the kernel takes the connection, and nothing else happens.
    let listener = UnixListener::bind(&socket).unwrap();
    check_error(&connect(&url).await.unwrap_err(), Kind::Timeout, Effect::None);
    let daemon = Daemon::on_memory().await;
    let greeting = dialled(&daemon).await.greeting;
    let hole = tokio::spawn(black_hole(listener, greeting));
    let driver = connect(&url).await.unwrap();
    check_error(&put(&driver, "a").await.unwrap_err(), Kind::Timeout, Effect::Unknown);
    check_error(&driver.open(LONG).await.unwrap_err(), Kind::Timeout, Effect::Unknown);
    check_error(&driver.get(&"a".into()).await.unwrap_err(), Kind::Timeout, Effect::None);
    let late = driver.watch(&"a".into(), althing_core::Revision::ZERO).await;
    check_error(&late.unwrap_err(), Kind::Timeout, Effect::None);
    // More than the socket holds: what stands behind it has not left.
    let large = althing_core::Txn::new().put("a".into(), vec![0; limits::VALUE_BYTES_MAX]);
    check_error(&driver.commit(large.clone()).await.unwrap_err(), Kind::Timeout, Effect::Unknown);
    check_error(&driver.commit(large).await.unwrap_err(), Kind::Timeout, Effect::None);
    a_break_is_told(&url.replace("300ms", "60s"), hole).await;
}

async fn a_break_is_told(url: &str, hole: tokio::task::JoinHandle<()>) {
    let driver = connect(url).await.unwrap();
    let mut pending = Box::pin(put(&driver, "a"));
    // Sent: the black hole has taken a second connection for it by then.
    let early = timeout(Duration::from_millis(500), &mut pending).await;
    assert!(early.is_err(), "{early:?}");
    hole.abort();
    let error = timeout(SOON, pending).await.expect("the break is seen at once").unwrap_err();
    check_error(&error, Kind::Unavailable, Effect::Unknown);
    check_error(&put(&driver, "a").await.unwrap_err(), Kind::Unavailable, Effect::None);
}

async fn check_refused(url: &str, kind: Kind, said: &[&str]) {
    let error = connect(url).await.unwrap_err();
    check_error(&error, kind, Effect::None);
    for part in said {
        assert!(error.to_string().contains(part), "{part:?} is not in {error}");
    }
}

/// Answers one connection with these words, and ends it.
fn answer_once(socket: &Path, words: String) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        let (mut stream, _): (UnixStream, _) = listener.accept().await.unwrap();
        let mut head = [0; 4096];
        let _ = stream.read(&mut head).await.unwrap();
        stream.write_all(words.as_bytes()).await.unwrap();
    })
}

pub(crate) async fn says_who_is_not_there_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let socket = |name: &str| folder.path().join(name);
    let url = |name: &str| format!("ipc://{}", socket(name).display());
    check_refused(&url("none"), Kind::Unavailable, &["no host answers at unix:", "althing serve --socket"])
        .await;

    // What a daemon says that knows no such route.
    let unknown = Error::new(Kind::NotFound, "find route", "there is no /v1/waist");
    let body = encode_json(&ErrorInfo::from(&unknown));
    let head = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
    answer_once(&socket("old"), format!("{}{body}", head("404 Not Found")));
    check_refused(&url("old"), Kind::Unsupported, &["does not let others use its backend", "update it"])
        .await;
    answer_once(&socket("other"), "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into());
    check_refused(&url("other"), Kind::Unsupported, &["answered what no host answers"]).await;
    answer_once(&socket("mail"), "220 mail ESMTP\r\n".into());
    check_refused(&url("mail"), Kind::Unavailable, &["broke"]).await;

    let daemon = Daemon::on_memory().await;
    let url = daemon.url("");
    check_refused(&format!("{url}?backend=disk"), Kind::NotFound, &["no backend is called \"disk\""]).await;
    let long = "n".repeat(limits::SCOPE_BYTES_MAX + 1);
    check_refused(&format!("{url}?namespace={long}"), Kind::TooLarge, &["at most 255"]).await;
}

fn encode_json(info: &ErrorInfo) -> String {
    serde_json::to_string(info).unwrap()
}
