//! Members, namespaces and clients that are not what they should be, and who may speak to whom.

use std::time::Duration;

use althing_core::{Clock, Delta, Driver, Effect, Key, Kind, Level, Revision, SystemClock, Txn, limits};
use althing_test_servers::{Etcd as Server, EtcdOptions, ready_for};
use base64::Engine as _;

use crate::{
    LEASE, check_error, connect, insist, is_outage, next, next_changes, put, session_with_a_record, start,
    value, watch_all,
};

async fn check_refused(url: &str, kind: Kind, said: &str) {
    let error = connect(url).await.unwrap_err();
    check_error(&error, kind, Effect::None);
    assert!(error.to_string().contains(said), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

pub(crate) async fn refuses_a_wrong_password_and_none_and_outlives_the_end_of_its_login() {
    // Logins are forgotten after a second.
    let settings = vec![("auth-token-ttl".to_owned(), "1".to_owned())];
    let mut server = Server::start(1, EtcdOptions { settings, ..EtcdOptions::default() }).await.unwrap();
    let url = |login: &str| format!("etcd://{login}127.0.0.1:{}/?namespace=n", server.members()[0].port());
    let (right, wrong, none) = (url("root:right@"), url("root:hunter2@"), url(""));
    check_refused(&right, Kind::Denied, "authentication is not enabled").await;
    enable_logins(&server);
    check_refused(&wrong, Kind::Denied, "invalid user ID or password").await;
    check_refused(&none, Kind::Denied, "user name is empty").await;
    let driver = connect(&right).await.unwrap();
    let session = session_with_a_record(&driver, LEASE).await;
    let mut watch = watch_all(&driver).await;
    SystemClock.sleep(Duration::from_secs(3)).await;
    driver.renew(session).await.unwrap();
    let made = put(&driver, "a", "1").await.unwrap();
    assert_eq!(next_changes(&mut *watch).await[0].revision(), made);
    server.restart().await;
    let made = insist(async || put(&driver, "b", "1").await).await.unwrap();
    assert_eq!(next_changes(&mut *watch).await[0].revision(), made);
}

/// Makes the users `root` and `app`, of whom one may everything and the other use the namespace `n`.
fn enable_logins(server: &Server) {
    let text = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let rights = format!(
        r#"{{"name": "app", "perm": {{"permType": "READWRITE", "key": "{}", "range_end": "{}"}}}}"#,
        text("althing/n/"),
        text("althing/n0")
    );
    for (path, body) in [
        ("auth/user/add", r#"{"name": "root", "password": "right"}"#),
        ("auth/role/add", r#"{"name": "root"}"#),
        ("auth/user/grant", r#"{"user": "root", "role": "root"}"#),
        ("auth/user/add", r#"{"name": "app", "password": "hunter2"}"#),
        ("auth/role/add", r#"{"name": "app"}"#),
        ("auth/role/grant", rights.as_str()),
        ("auth/user/grant", r#"{"user": "app", "role": "app"}"#),
        ("auth/enable", "{}"),
    ] {
        let answer = server.members()[0].post(path, body);
        assert!(!answer.contains("error"), "{answer}");
    }
}

pub(crate) async fn needs_no_right_but_on_the_prefix_of_its_namespace() {
    let server = start(1).await;
    enable_logins(&server);
    let url = |namespace: &str| server.url(namespace).replace("//", "//app:hunter2@");
    let driver = connect(&url("n")).await.unwrap();
    let session = session_with_a_record(&driver, LEASE).await;
    let mut watch = watch_all(&driver).await;
    driver.renew(session).await.unwrap();
    driver.commit(Txn::new().delete("mine".into())).await.unwrap();
    assert_eq!(next_changes(&mut *watch).await.len(), 1);
    driver.close(session).await.unwrap();
    check_refused(&url("other"), Kind::Denied, "althing/<namespace>/").await;
}

pub(crate) async fn refuses_a_namespace_of_another_layout() {
    let server = start(1).await;
    let text = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let write = |key: &str, value: &str| {
        let body = format!(r#"{{"key": "{}", "value": "{}"}}"#, text(key), text(value));
        server.members()[0].post("kv/put", &body);
    };
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
