//! Who logs in, who may do what, and what becomes of it meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use althing_core::{Clock, Delta, Driver, Effect, Key, Kind, Revision, SystemClock, Txn};
use althing_test_servers::{Etcd as Server, EtcdOptions};
use tokio::sync::mpsc::unbounded_channel;

use crate::strangers::{check_refused, text};
use crate::{
    LEASE, check_error, check_paced, connect, insist, load, next_changes, next_error, put,
    session_with_a_record, soon, start, watch_all,
};

pub(crate) async fn refuses_a_wrong_password_and_none_and_outlives_the_end_of_its_login() {
    // Logins are forgotten after a second.
    let settings = vec![("auth-token-ttl".to_owned(), "1".to_owned())];
    let mut server = Server::start(1, EtcdOptions { settings, ..EtcdOptions::default() }).await.unwrap();
    let url = |login: &str| format!("etcd://{login}127.0.0.1:{}/?namespace=n", server.members()[0].port());
    let (right, wrong, none) = (url("root:right@"), url("root:hunter2@"), url(""));
    check_refused(&right, Kind::Denied, "authentication is not enabled").await;
    enable_logins(&server, WHOLE);
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

/// What a user needs.
const WHOLE: &[(&str, &str)] = &[("althing/n/", "althing/n0")];
/// All that lies in the namespace, and not all that could.
const PIECES: &[(&str, &str)] = &[
    ("althing/n/end/", "althing/n/end0"),
    ("althing/n/meta", "althing/n/meta0"),
    ("althing/n/r/", "althing/n/r0"),
    ("althing/n/tick", "althing/n/tick0"),
];

/// Makes the users `root` and `app`, of whom one may everything and the other use what lies in these ranges.
fn enable_logins(server: &Server, rights: &[(&str, &str)]) {
    let member = &server.members()[0];
    let grants: Vec<_> = rights.iter().map(|right| grant(*right)).collect();
    let made = [
        ("auth/user/add", r#"{"name": "root", "password": "right"}"#),
        ("auth/role/add", r#"{"name": "root"}"#),
        ("auth/user/grant", r#"{"user": "root", "role": "root"}"#),
        ("auth/user/add", r#"{"name": "app", "password": "hunter2"}"#),
        ("auth/role/add", r#"{"name": "app"}"#),
        ("auth/user/grant", r#"{"user": "app", "role": "app"}"#),
    ];
    let granted = grants.iter().map(|grant| ("auth/role/grant", grant.as_str()));
    for (path, body) in made.into_iter().chain(granted).chain([("auth/enable", "{}")]) {
        check_done(&member.post(path, body));
    }
}

/// Makes the request that gives `app` the right to a range.
fn grant((first, end): (&str, &str)) -> String {
    let right = format!(r#""permType": "READWRITE", "key": "{}", "range_end": "{}""#, text(first), text(end));
    format!(r#"{{"name": "app", "perm": {{{right}}}}}"#)
}

fn check_done(answer: &str) {
    assert!(!answer.contains("error"), "{answer}");
}

pub(crate) async fn needs_no_right_but_on_the_prefix_of_its_namespace() {
    let server = start(1).await;
    enable_logins(&server, WHOLE);
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

pub(crate) async fn calls_go_on_while_the_users_change_of_whom_a_login_tells() {
    // Any file will do for a secret.
    let token = format!("jwt,sign-method=HS256,priv-key={}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
    let settings = vec![("auth-token".to_owned(), token)];
    let server = Server::start(1, EtcdOptions { settings, ..EtcdOptions::default() }).await.unwrap();
    enable_logins(&server, WHOLE);
    let driver = Arc::new(connect(&server.url("n").replace("//", "//app:hunter2@")).await.unwrap());
    let session = session_with_a_record(&driver, LEASE).await;
    let mut watch = watch_all(&driver).await;
    let (counted, mut count) = unbounded_channel();
    let over = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(load(driver.clone(), 0, counted, over.clone()));
    for round in 0..5 {
        count.recv().await.unwrap();
        let role = format!(r#"{{"name": "{round}"}}"#);
        check_done(&server.members()[0].post_as("root", "right", "auth/role/add", &role));
        insist(async || driver.renew(session).await).await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let written = writer.await.unwrap();
    let mut told = Vec::new();
    while told.len() < written.len() {
        let changes = next_changes(&mut *watch).await;
        told.extend(changes.iter().map(|change| (change.key().clone(), change.revision())));
    }
    assert_eq!(told, written);
}

pub(crate) async fn a_watch_tells_that_it_may_not_read_all_of_the_namespace() {
    let server = start(1).await;
    // Who takes a namespace into use needs the whole of it.
    connect(&server.url("n")).await.unwrap();
    enable_logins(&server, PIECES);
    let driver = connect(&server.url("n").replace("//", "//app:hunter2@")).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    let error = soon(next_error(&mut *watch)).await;
    check_error(&error, Kind::Denied, Effect::None);
    assert!(error.to_string().contains("althing/<namespace>/"), "{error}");
    check_paced(&mut *watch, Kind::Denied).await;
    check_done(&server.members()[0].post_as("root", "right", "auth/role/grant", &grant(WHOLE[0])));
    let made = insist(async || put(&driver, "b", "1").await).await.unwrap();
    let told = soon(async {
        loop {
            match watch.next().await {
                Ok(Delta::Changes { revision, .. }) => break revision,
                Ok(resync) => panic!("{resync:?}"),
                Err(error) => assert_eq!(error.kind(), Kind::Denied, "{error}"),
            }
        }
    });
    assert_eq!(told.await, made);
}
