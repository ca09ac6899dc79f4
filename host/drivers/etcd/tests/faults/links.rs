//! Links that are cut, or carry nothing and say nothing, and what is missed meanwhile.

use std::sync::Arc;
use std::time::Duration;

use althing_core::{Clock, Delta, Driver, Key, OsChance, Revision, SystemClock, Txn, layers};
use althing_test_servers::{Etcd as Server, free_port};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch::{Receiver, Sender};

use crate::{LEASE, connect, insist, next, next_changes, put, start, watch_all};

/// What becomes of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Road {
    /// They pass.
    Open,
    /// They vanish, and nobody is told: the machine at the other end has lost its power.
    Silent,
    /// Connections end, and so does each new one.
    Cut,
}

/// Passes connections on to a port.
pub(crate) struct Passage {
    port: u16,
    road: Sender<Road>,
}

impl Passage {
    pub(crate) async fn to(server: u16) -> Passage {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let road = Sender::new(Road::Open);
        let seen = road.subscribe();
        tokio::spawn(async move {
            while let Ok((inner, _)) = listener.accept().await {
                tokio::spawn(pass(inner, server, seen.clone()));
            }
        });
        Passage { port, road }
    }

    pub(crate) fn turn(&self, road: Road) {
        self.road.send_replace(road);
    }

    pub(crate) fn url(&self) -> String {
        format!("etcd://127.0.0.1:{}/?namespace=n", self.port)
    }
}

async fn pass(mut inner: TcpStream, server: u16, mut road: Receiver<Road>) {
    let begun = *road.borrow();
    if begun == Road::Open {
        let mut outer = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut inner, &mut outer) => return,
            _ = road.wait_for(|road| *road != Road::Open) => {}
        }
    }
    // A connection that has lost bytes does not go on.
    let _ = road.wait_for(|road| *road != Road::Silent).await;
}

pub(crate) async fn a_watch_goes_on_after_its_connection_was_cut() {
    let server = start(1).await;
    let passage = Passage::to(server.members()[0].port()).await;
    let (near, far) = (connect(&server.url("n")).await.unwrap(), connect(&passage.url()).await.unwrap());
    let mut watch = watch_all(&far).await;
    for round in 0..5 {
        passage.turn(Road::Cut);
        let (missed, key) = (format!("{round}/missed"), format!("{round}/live"));
        put(&near, &missed, "").await.unwrap();
        near.commit(Txn::new().delete(missed.as_str().into())).await.unwrap();
        passage.turn(Road::Open);
        put(&near, &key, "").await.unwrap();
        let mut told = Vec::new();
        while told.len() < 3 {
            told.extend(next_changes(&mut *watch).await.iter().map(|change| change.key().clone()));
        }
        let expected = [missed.as_str(), missed.as_str(), key.as_str()].map(Key::from);
        assert_eq!(told, expected);
    }
}

fn compact(server: &Server, revision: Revision) {
    let answer = server.members()[0].post("kv/compaction", &format!(r#"{{"revision": "{}"}}"#, revision.0));
    assert!(!answer.contains("error"), "{answer}");
}

pub(crate) async fn a_watch_that_compaction_overtook_resyncs() {
    let server = start(1).await;
    let passage = Passage::to(server.members()[0].port()).await;
    let (near, far) = (connect(&server.url("n")).await.unwrap(), connect(&passage.url()).await.unwrap());
    let early = put(&near, "gone", "1").await.unwrap();
    let mut watch = watch_all(&far).await;
    passage.turn(Road::Cut);
    near.commit(Txn::new().delete("gone".into())).await.unwrap();
    put(&near, "new", "1").await.unwrap();
    let last = put(&near, "new", "2").await.unwrap();
    compact(&server, last);
    passage.turn(Road::Open);
    let mut late = near.watch(&Key::default(), early).await.unwrap();
    for watch in [&mut watch, &mut late] {
        let Delta::Resync { records, revision } = next(&mut **watch).await else { panic!("a hidden gap") };
        let names: Vec<_> =
            records.iter().map(|record| (record.key.clone(), record.stamp.modified)).collect();
        assert_eq!(names, [("new".into(), last)]);
        assert!(revision >= last);
    }
    let more = put(&near, "more", "").await.unwrap();
    assert_eq!(next_changes(&mut *watch).await[0].revision(), more);
}

pub(crate) async fn a_watch_is_told_on_after_a_compaction_of_what_it_has_seen() {
    let server = start(1).await;
    let driver = connect(&server.url("n")).await.unwrap();
    let mut watch = watch_all(&driver).await;
    for _ in 0..5 {
        let made = put(&driver, "a", "1").await.unwrap();
        assert_eq!(next_changes(&mut *watch).await[0].revision(), made);
        compact(&server, made);
        let gone = driver.commit(Txn::new().delete("a".into())).await.unwrap().revision;
        assert_eq!(next_changes(&mut *watch).await[0].revision(), gone);
    }
}

pub(crate) async fn finds_the_member_that_lives() {
    let server = start(1).await;
    let live = server.members()[0].port();
    let (dead, other) = (free_port(), free_port());
    for _ in 0..4 {
        // Which one is tried first is chance.
        let url = format!("etcd://127.0.0.1:{dead},127.0.0.1:{live},127.0.0.1:{other}/?namespace=n");
        put(&connect(&url).await.unwrap(), "a", "1").await.unwrap();
    }
}

pub(crate) async fn a_member_that_went_without_a_word_is_left_by_hosts_less_patient_than_the_url() {
    let cluster = start(3).await;
    let mut passages = Vec::new();
    for member in cluster.members() {
        passages.push(Passage::to(member.port()).await);
    }
    let hosts: Vec<_> = passages.iter().map(|passage| format!("127.0.0.1:{}", passage.port)).collect();
    let url = format!("etcd://{}/?namespace=n&timeout=10s", hosts.join(","));
    let driver = Arc::new(connect(&url).await.unwrap());
    let driver = layers::stack(driver, Arc::new(SystemClock), Arc::new(OsChance), Handle::current());
    let session = insist(async || driver.open(LEASE).await).await.unwrap();
    // It is connected to one of them.
    for passage in &passages {
        passage.turn(Road::Silent);
        let begun = SystemClock.now();
        insist(async || driver.commit(Txn::new().put("a".into(), "1")).await).await.unwrap();
        insist(async || driver.renew(session.id).await).await.unwrap();
        let took = SystemClock.now().since(begun);
        assert!(took < Duration::from_secs(8), "{took:?}");
        passage.turn(Road::Open);
    }
}
