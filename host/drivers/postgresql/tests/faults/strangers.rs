//! Servers, schemas, namespaces and users that are not what they should be, and who may speak to whom.

use std::time::Duration;

use althing_core::{
    Change, Clock, Delta, Driver, Effect, Key, Kind, Level, Revision, SystemClock, WatchMode,
};
use althing_driver_postgresql::schema;
use althing_test_servers::{Postgresql as Server, PostgresqlOptions, ready_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    END_ALL, LEASE, check_error, connect, insist, next, next_changes, put, start, start_with, value,
};

async fn check_refused(url: &str, kind: Kind, said: &str) {
    let error = connect(url).await.unwrap_err();
    check_error(&error, kind, Effect::None);
    assert!(error.to_string().contains(said), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

pub(crate) async fn tells_the_time_of_the_server() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    let before = Duration::from_millis(SystemClock.wall_ms());
    let told = driver.renew(session).await.unwrap().store_time.unwrap();
    let after = Duration::from_millis(SystemClock.wall_ms() + 1);
    assert!((before..=after).contains(&told), "{told:?} is not in {before:?}..={after:?}");
}

pub(crate) async fn namespaces_do_not_see_each_other() {
    let server = start().await;
    let (left, right) =
        (connect(&server.url("a")).await.unwrap(), connect(&server.url("a%00'b")).await.unwrap());
    put(&left, "k", "1").await.unwrap();
    assert_eq!(value(&right, "k").await, None);
    put(&right, "k", "2").await.unwrap();
    assert_eq!(value(&left, "k").await.as_deref(), Some("1"));
}

pub(crate) async fn many_hosts_make_the_schema_at_once() {
    let server = start().await;
    let url = server.url("n");
    let hosts = (0..8).map(|_| {
        let url = url.clone();
        tokio::spawn(async move { connect(&url).await })
    });
    let mut last = Revision::ZERO;
    for host in hosts.collect::<Vec<_>>() {
        let driver = host.await.unwrap().unwrap();
        let revision = put(&driver, "a", "1").await.unwrap();
        assert!(revision > last, "the hosts do not count together");
        last = revision;
    }
    assert_eq!(server.sql("select count(*) from althing.namespace"), "1");
    assert_eq!(server.sql("select version from althing.format"), "1");
}

pub(crate) async fn takes_a_schema_that_was_given_and_never_makes_one() {
    let server = start().await;
    let url = format!("{}&schema=given", server.url("n"));
    check_refused(&url, Kind::Format, "althing drivers --schema postgresql").await;
    assert_eq!(server.sql("select count(*) from pg_namespace where nspname = 'althing'"), "0");
    server.sql(&schema());
    put(&connect(&url).await.unwrap(), "a", "1").await.unwrap();
    // Again, by an operator who is not sure.
    server.sql(&schema());
    assert_eq!(value(&connect(&url).await.unwrap(), "a").await.as_deref(), Some("1"));
}

pub(crate) async fn tells_a_user_without_rights_what_it_needs() {
    let server = start().await;
    server.sql("create role plain login");
    let url = format!("postgresql://plain@127.0.0.1:{}/postgres?namespace=n", server.port());
    check_refused(&url, Kind::Denied, "schema=given").await;
    server.sql(&schema());
    check_refused(&format!("{url}&schema=given"), Kind::Denied, "does not let this user").await;
    server.sql("grant usage on schema althing to plain");
    server.sql("grant select, insert, update, delete on all tables in schema althing to plain");
    put(&connect(&format!("{url}&schema=given")).await.unwrap(), "a", "1").await.unwrap();
}

pub(crate) async fn refuses_a_foreign_and_a_newer_schema_and_a_newer_namespace() {
    let server = start().await;
    server.sql("create schema althing; create table althing.record (things text)");
    check_refused(&server.url("n"), Kind::Format, "something else").await;
    server.sql("create table althing.format (form text)");
    check_refused(&server.url("n"), Kind::Format, "not as this version makes it").await;
    server.sql("drop schema althing cascade");
    connect(&server.url("n")).await.unwrap();
    server.sql("update althing.namespace set format = 2");
    check_refused(&server.url("n"), Kind::Format, "layout version 2").await;
    server.sql("update althing.format set version = 7");
    check_refused(&server.url("other"), Kind::Format, "layout version 7").await;
    server.sql("delete from althing.format");
    check_refused(&server.url("other"), Kind::Format, "does not say which layout").await;
}

pub(crate) async fn refuses_a_standby_and_a_server_that_only_reads() {
    let server = start().await;
    connect(&server.url("n")).await.unwrap();
    let standby = server.standby().await;
    check_refused(&standby.url("n"), Kind::Unavailable, "a standby").await;
    let server = start_with("default_transaction_read_only", "on").await;
    check_refused(&server.url("n"), Kind::Unavailable, "only reads").await;
}

pub(crate) async fn refuses_a_wrong_password_and_none_and_a_missing_database() {
    let options = PostgresqlOptions { password: Some("right".into()), ..PostgresqlOptions::default() };
    let server = Server::start(options).await.unwrap();
    put(&connect(&server.url("n")).await.unwrap(), "a", "1").await.unwrap();
    let url =
        |login: &str, database: &str| format!("postgresql://{login}@127.0.0.1:{}/{database}", server.port());
    check_refused(&url("althing:hunter2", "postgres"), Kind::Denied, "refused user and password").await;
    check_refused(&url("nobody:hunter2", "postgres"), Kind::Denied, "refused user and password").await;
    check_refused(&url("althing", "postgres"), Kind::Denied, "asks for a password").await;
    check_refused(&url("althing:right", "nowhere"), Kind::Invalid, "no such database").await;
}

pub(crate) async fn refuses_an_isolation_that_shows_old_states_and_an_option_it_does_not_know() {
    let server = start_with("default_transaction_isolation", "repeatable read").await;
    check_refused(&server.url("n"), Kind::Unsupported, "read committed").await;
    check_refused(&format!("{}&timeuot=1s", server.url("n")), Kind::Invalid, "Did you mean timeout?").await;
}

pub(crate) async fn promises_what_the_server_keeps() {
    for (name, value, level) in [("fsync", "on", Level::L1), ("fsync", "off", Level::L0)] {
        let server = start_with(name, value).await;
        let capability = connect(&server.url("n")).await.unwrap().capability();
        assert_eq!((capability.level, capability.token_survives_restart), (level, level == Level::L1));
    }
}

/// Changes a setting, and waits until connections are made with it.
async fn set(server: &Server, name: &str, value: &str) {
    server.sql(&format!("alter system set {name} = {value}"));
    server.sql("select pg_reload_conf()");
    while server.sql(&format!("show {name}")) != value {
        SystemClock.sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn refuses_a_server_that_keeps_less_than_the_first_one_promised() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    set(&server, "fsync", "off").await;
    server.sql(END_ALL);
    let error = insist(async || put(&driver, "a", "2").await).await.unwrap_err();
    check_error(&error, Kind::Unsupported, Effect::None);
    let error = insist(async || driver.get(&"a".into()).await).await.unwrap_err();
    check_error(&error, Kind::Unsupported, Effect::None);
    assert!(error.to_string().contains("no longer has on disk"), "{error}");
    set(&server, "fsync", "on").await;
    assert_eq!(value(&driver, "a").await.as_deref(), Some("1"));
}

pub(crate) async fn never_lays_its_schema_over_another_versions() {
    let server = start().await;
    let ours = schema();
    let lock = ours.lines().find(|line| line.contains("pg_advisory_xact_lock")).unwrap();
    let mut other = server.talk(&format!("begin; {lock}"));
    // Our host looks while there is nothing, and then waits for whoever makes it.
    let url = server.url("n");
    let host = tokio::spawn(async move { connect(&url).await });
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'advisory'";
    while server.sql(waiting) != "1" {
        SystemClock.sleep(Duration::from_millis(5)).await;
    }
    other.say(
        "create schema althing; create table althing.format (version int primary key); \
        insert into althing.format values (7); \
        create function althing.timeline() returns text language sql as $$ select 'seventh' $$; commit;",
    );
    let error = host.await.unwrap().unwrap_err();
    check_error(&error, Kind::Format, Effect::None);
    assert!(error.to_string().contains("layout version 7, not 1"), "{error}");
    assert!(server.refusal(&ours).contains("layout version 7, not 1"));
    let left = "select count(*), althing.timeline() from pg_class c join pg_namespace n on n.oid = c.relnamespace \
        where n.nspname = 'althing' and c.relkind = 'r'";
    assert_eq!(server.sql(left), "1|seventh");
}

pub(crate) async fn says_that_a_write_may_have_landed_whose_answer_makes_no_sense() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    put(&driver, "a", "1").await.unwrap();
    let answer = |name: &str, answer: &str| {
        let function = format!("'althing.{name}'::regproc");
        let head =
            server.sql(&format!("select 'althing.{name}(' || pg_get_function_arguments({function}) || ')'"));
        server
            .sql(&format!("create or replace function {head} language plpgsql as $$ begin {answer}; end $$"));
    };
    for said in ["status := 9", "status := 1", "status := 1; revision := -7", "status := 0"] {
        answer("commit", said);
        check_error(&put(&driver, "a", "2").await.unwrap_err(), Kind::Internal, Effect::Unknown);
    }
    answer("commit", "status := 0; place := 0");
    check_error(&put(&driver, "a", "2").await.unwrap_err(), Kind::Conflict, Effect::None);
    answer("renew", "status := 1");
    check_error(&driver.renew(session).await.unwrap_err(), Kind::Internal, Effect::Unknown);
    answer("get", "status := 9");
    let error = driver.get(&"a".into()).await.unwrap_err();
    check_error(&error, Kind::Internal, Effect::None);
    // Once each.
    let place = format!("(server=127.0.0.1:{}, namespace=n)", server.port());
    assert!(error.to_string().contains(&place), "{error}");
}

/// Passes on all that the server says but, `lost` times, what it says unasked; always, as a pooler that lends connections
/// for one transaction each. Returns its port.
async fn pooler(port: u16, lost: u32) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let ((mut asked, mut told), (mut said, mut sent)) = (client.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut asked, &mut sent).await });
            tokio::spawn(async move {
                let mut lost = lost;
                loop {
                    let (kind, length) = (said.read_u8().await?, said.read_u32().await?);
                    let mut body = vec![0; length as usize - 4];
                    said.read_exact(&mut body).await?;
                    if kind == b'A' && lost > 0 {
                        lost -= 1;
                    } else {
                        told.write_u8(kind).await?;
                        told.write_u32(length).await?;
                        told.write_all(&body).await?;
                    }
                }
                #[expect(unreachable_code, reason = "says of which type the errors are")]
                std::io::Result::Ok(())
            });
        }
    });
    own
}

pub(crate) async fn polls_where_it_is_not_told() {
    let server = start().await;
    let port = pooler(server.port(), u32::MAX).await;
    let pooled = server.url("n").replace(&format!(":{}", server.port()), &format!(":{port}"));
    let (deaf, other) = (connect(&pooled).await.unwrap(), connect(&server.url("n")).await.unwrap());
    assert_eq!(deaf.capability().watch, WatchMode::Polled);
    assert_eq!(other.capability().watch, WatchMode::Pushed);
    let before = put(&deaf, "a", "1").await.unwrap();
    let mut watch = deaf.watch(&Key::default(), before).await.unwrap();
    let written = put(&other, "a", "2").await.unwrap();
    let changes = next_changes(&mut *watch).await;
    assert_eq!(changes.iter().map(Change::revision).collect::<Vec<_>>(), [written]);
    let silent = connect(&format!("{}&listen=false", server.url("n"))).await.unwrap();
    assert_eq!(silent.capability().watch, WatchMode::Polled);
}

pub(crate) async fn listens_though_its_first_word_is_lost() {
    let server = start().await;
    let port = pooler(server.port(), 1).await;
    let url = server.url("n").replace(&format!(":{}", server.port()), &format!(":{port}"));
    assert_eq!(connect(&url).await.unwrap().capability().watch, WatchMode::Pushed);
}

pub(crate) async fn speaks_tls_with_the_server_it_trusts_and_with_no_other() {
    if !ready_for("openssl") {
        return;
    }
    let start = || Server::start(PostgresqlOptions { tls: true, ..PostgresqlOptions::default() });
    let (server, other) = (start().await.unwrap(), start().await.unwrap());
    let url = server.url("n");
    let driver = connect(&format!("{url}&tls-ca={}", server.certificate().display())).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    let Delta::Resync { records, .. } = next(&mut *watch).await else { panic!("no snapshot") };
    assert_eq!(records.len(), 1);
    let ours = "select bool_and(s.ssl) from pg_stat_ssl s join pg_stat_activity a using (pid) \
        where a.application_name = 'althing'";
    assert_eq!(server.sql(ours), "t");
    let distrusting = format!("{url}&tls-ca={}", other.certificate().display());
    check_refused(&distrusting, Kind::Unavailable, "tls-ca").await;
    let plain = self::start().await;
    let untalented = format!("{}&tls-ca={}", plain.url("n"), server.certificate().display());
    check_refused(&untalented, Kind::Unavailable, "refused TLS").await;
}
