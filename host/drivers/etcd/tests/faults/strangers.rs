//! Members and namespaces that are not what they should be, and who may speak to whom.

use std::time::Duration;

use althing_core::{Delta, Driver, Effect, Key, Kind, Level, Revision, Txn, limits};
use althing_test_servers::{Etcd as Server, EtcdOptions, ready_for};
use base64::Engine as _;

use crate::{
    check_error, check_paced, connect, is_outage, next, next_changes, next_error, put, soon, start, value,
    watch_all,
};

pub(crate) async fn check_refused(url: &str, kind: Kind, said: &str) {
    let error = connect(url).await.unwrap_err();
    check_error(&error, kind, Effect::None);
    assert!(error.to_string().contains(said), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

/// Writes text as somebody who knows nothing of us.
fn write(server: &Server, key: &str, value: &str) {
    server.members()[0].post("kv/put", &format!(r#"{{"key": "{}", "value": "{}"}}"#, text(key), text(value)));
}

/// Returns text as etcd's JSON has it.
pub(crate) fn text(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

pub(crate) async fn refuses_a_namespace_of_another_layout() {
    let server = start(1).await;
    let write = |key, value| write(&server, key, value);
    write("althing/newer/meta", "2 abc");
    write("althing/records/r/x", "1");
    check_refused(&server.url("newer"), Kind::Format, "layout version 2").await;
    check_refused(&server.url("records"), Kind::Format, "records without a format record").await;
    let driver = connect(&server.url("n")).await.unwrap();
    write("althing/n/r/a", "1");
    let error = driver.list(&Key::default(), None, 0).await.unwrap_err();
    check_error(&error, Kind::Format, Effect::None);
    assert!(error.to_string().contains("althing/n/r/a"), "{error}");
}

pub(crate) async fn a_foreign_key_stops_a_watch_for_as_long_as_it_is_there() {
    let server = start(1).await;
    let driver = connect(&server.url("n")).await.unwrap();
    let mut watch = watch_all(&driver).await;
    let mut beside = driver.watch(&"b".into(), Revision::ZERO).await.unwrap();
    assert!(matches!(next(&mut *beside).await, Delta::Resync { .. }));
    write(&server, "althing/n/r/a", "1");
    let error = soon(next_error(&mut *watch)).await;
    check_error(&error, Kind::Format, Effect::None);
    assert!(error.to_string().contains("althing/n/r/a"), "{error}");
    check_paced(&mut *watch, Kind::Format).await;
    // Below another prefix nothing is amiss.
    assert!(matches!(soon(next(&mut *beside)).await, Delta::Resync { .. }));
    let made = put(&driver, "b", "1").await.unwrap();
    assert_eq!(soon(next_changes(&mut *beside)).await[0].revision(), made);

    let removed = format!(r#"{{"key": "{}"}}"#, text("althing/n/r/a"));
    server.members()[0].post("kv/deleterange", &removed);
    let resync = soon(async {
        loop {
            match watch.next().await {
                Err(error) => assert_eq!(error.kind(), Kind::Format, "{error}"),
                Ok(delta) => break delta,
            }
        }
    });
    let Delta::Resync { records, .. } = resync.await else { panic!("no snapshot") };
    assert_eq!(records.iter().map(|record| &record.key).collect::<Vec<_>>(), [&Key::from("b")]);
    let made = put(&driver, "b", "2").await.unwrap();
    assert_eq!(soon(next_changes(&mut *watch)).await[0].revision(), made);
}

pub(crate) async fn namespaces_do_not_see_each_other() {
    let server = start(1).await;
    let connect = async |namespace| connect(&server.url(namespace)).await.unwrap();
    let (left, right) = (connect("a").await, connect("a/r").await);
    let mut watch = watch_all(&right).await;
    put(&left, "k", "1").await.unwrap();
    let made = put(&right, "l", "1").await.unwrap();
    assert_eq!(value(&right, "k").await, None);
    assert_eq!(next_changes(&mut *watch).await[0].revision(), made);
    assert_eq!(left.list(&Key::default(), None, 0).await.unwrap().records.len(), 1);
}

pub(crate) async fn refuses_a_transaction_that_etcd_would_not_take() {
    let small = vec![("max-txn-ops".to_owned(), "2".to_owned())];
    let server = Server::start(1, EtcdOptions { settings: small, ..EtcdOptions::default() }).await.unwrap();
    let driver = connect(&server.url("n")).await.unwrap();
    let large = vec![b'v'; limits::VALUE_BYTES_MAX];
    let txn = Txn::new().put("a".into(), large.clone()).put("b".into(), large);
    check_error(&driver.commit(txn).await.unwrap_err(), Kind::TooLarge, Effect::None);
    let txn = Txn::new().put("a".into(), "1").put("b".into(), "1").put("c".into(), "1");
    let error = driver.commit(txn).await.unwrap_err();
    check_error(&error, Kind::TooLarge, Effect::None);
    assert!(error.to_string().contains("--max-txn-ops"), "{error}");
    assert_eq!((value(&driver, "a").await, value(&driver, "b").await), (None, None));
    put(&driver, "a", "1").await.unwrap();
}

pub(crate) async fn promises_what_the_cluster_keeps() {
    for (count, level) in [(1, Level::L1), (3, Level::L2)] {
        let cluster = start(count).await;
        let capability = connect(&cluster.url("n")).await.unwrap().capability();
        assert_eq!((capability.level, capability.lease_min), (level, Duration::from_secs(2)));
    }
    let slow = vec![("election-timeout".to_owned(), "4000".to_owned())];
    let server = Server::start(1, EtcdOptions { settings: slow, ..EtcdOptions::default() }).await.unwrap();
    let capability = connect(&server.url("n")).await.unwrap().capability();
    assert_eq!(capability.lease_min, Duration::from_secs(6));
}

pub(crate) async fn speaks_tls_with_the_server_it_trusts_and_with_no_other() {
    if !ready_for("openssl") {
        return;
    }
    let start = || Server::start(1, EtcdOptions { tls: true, ..EtcdOptions::default() });
    let (server, other) = (start().await.unwrap(), start().await.unwrap());
    let url = |trusted: &Server| {
        let file = trusted.members()[0].certificate();
        format!("{}&tls=true&tls-ca={}", server.url("n"), file.display())
    };
    let driver = connect(&url(&server)).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    let Delta::Resync { records, .. } = next(&mut *watch).await else { panic!("no snapshot") };
    assert_eq!(records.len(), 1);
    check_refused(&url(&other), Kind::Unavailable, "tls-ca").await;
    // In plain text to a port that speaks TLS.
    check_refused(&server.url("n"), Kind::Unavailable, "tls=true").await;
}

pub(crate) async fn shows_its_certificate_to_a_server_that_asks_for_one() {
    if !ready_for("openssl") {
        return;
    }
    let options = EtcdOptions { tls: true, asks_certificate: true, ..EtcdOptions::default() };
    let server = Server::start(1, options).await.unwrap();
    let member = &server.members()[0];
    let url = format!("{}&tls-ca={}", server.url("n"), member.certificate().display());
    let shown =
        format!("{url}&tls-cert={}&tls-key={}", member.certificate().display(), member.key().display());
    put(&connect(&shown).await.unwrap(), "a", "1").await.unwrap();
    let error = connect(&url).await.unwrap_err();
    assert!(is_outage(&error) && error.effect() == Effect::None, "{error}");
}
