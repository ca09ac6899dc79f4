//! Servers, schemas, namespaces and users that are not what they should be, and who may speak to whom.

use std::time::Duration;

use althing_core::{Clock, Delta, Driver, Effect, Key, Kind, Level, Revision, SystemClock, Txn, limits};
use althing_driver_mysql::schema;
use althing_test_servers::{Mysql as Server, MysqlOptions, ready_for};

use crate::{KILL_ALL, LEASE, check_error, connect, insist, next, put, start, start_with, value};

async fn check_refused(url: &str, kind: Kind, said: &str) {
    let error = connect(url).await.unwrap_err();
    check_error(&error, kind, Effect::None);
    assert!(error.to_string().contains(said), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
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

pub(crate) async fn tells_the_time_of_the_server() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    let before = Duration::from_millis(SystemClock.wall_ms());
    let told = driver.renew(session).await.unwrap().store_time.unwrap();
    let after = Duration::from_millis(SystemClock.wall_ms() + 1);
    assert!((before..=after).contains(&told), "{told:?} is not in {before:?}..={after:?}");
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
    assert_eq!(server.sql("select count(*) from althing_namespace"), "1");
    assert_eq!(server.sql("select version from althing_format"), "1");
}

pub(crate) async fn finishes_a_schema_that_another_host_began() {
    let server = start().await;
    put(&connect(&server.url("n")).await.unwrap(), "a", "1").await.unwrap();
    // It says first that it is this version's, and last that all is there.
    for begun in ["delete from althing_format", "update althing_format set finished = 0"] {
        server.sql(&format!("{begun}; drop procedure althing_commit; drop procedure althing_renew"));
        check_refused(&format!("{}&schema=given", server.url("n")), Kind::Format, "missing").await;
        let driver = connect(&server.url("n")).await.unwrap();
        assert_eq!(value(&driver, "a").await.as_deref(), Some("1"));
        put(&driver, "a", "2").await.unwrap();
        put(&driver, "a", "1").await.unwrap();
    }
}

pub(crate) async fn takes_a_schema_that_was_given_and_never_makes_one() {
    let server = start().await;
    let url = format!("{}&schema=given", server.url("n"));
    check_refused(&url, Kind::Format, "althing drivers --schema mysql").await;
    assert_eq!(server.sql("show tables"), "");
    server.script(&schema());
    put(&connect(&url).await.unwrap(), "a", "1").await.unwrap();
    // Again, by an operator who is not sure.
    server.script(&schema());
    assert_eq!(value(&connect(&url).await.unwrap(), "a").await.as_deref(), Some("1"));
}

pub(crate) async fn tells_a_user_without_rights_what_it_needs() {
    let server = start().await;
    server.sql("create user plain; create table other (a int); grant select on althing.other to plain");
    let url = format!("mysql://plain@127.0.0.1:{}/althing?namespace=n", server.port());
    check_refused(&url, Kind::Denied, "schema=given").await;
    server.script(&schema());
    check_refused(&format!("{url}&schema=given"), Kind::Format, "are missing").await;
    server.sql("grant select, insert, update, delete, execute on althing.* to plain");
    put(&connect(&format!("{url}&schema=given")).await.unwrap(), "a", "1").await.unwrap();
}

pub(crate) async fn refuses_foreign_tables_a_newer_layout_and_a_newer_namespace() {
    let server = start().await;
    server.sql("create table althing_record (things text)");
    check_refused(&server.url("n"), Kind::Format, "something else").await;
    server.sql("create table althing_format (form text)");
    check_refused(&server.url("n"), Kind::Format, "not as this version makes them").await;
    server.sql("drop table althing_format, althing_record");
    connect(&server.url("n")).await.unwrap();
    server.sql("update althing_namespace set format = 2");
    check_refused(&server.url("n"), Kind::Format, "layout version 2").await;
    server.sql("update althing_format set version = 7");
    check_refused(&server.url("other"), Kind::Format, "layout version 7").await;
}

pub(crate) async fn refuses_a_server_that_only_reads_and_one_that_becomes_so() {
    let server = start_with(&[("read-only", "1")]).await;
    check_refused(&server.url("n"), Kind::Unavailable, "only reads").await;
    server.sql("set global read_only = 0");
    let driver = connect(&server.url("n")).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    server.sql("set global read_only = 1");
    check_error(&put(&driver, "a", "2").await.unwrap_err(), Kind::Unavailable, Effect::None);
    // What it has may be old already.
    check_error(&driver.get(&"a".into()).await.unwrap_err(), Kind::Unavailable, Effect::None);
    server.sql("set global read_only = 0");
    assert_eq!(value(&driver, "a").await.as_deref(), Some("1"));
}

pub(crate) async fn refuses_writes_on_a_server_that_only_reads_though_it_may_write() {
    let server = start().await;
    server.sql("grant super, read_only admin on *.* to althing");
    let driver = connect(&server.url("n")).await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    let begin = async || {
        server.sql("set global read_only = 0");
        // On connections that live, and have heard of nothing.
        driver.renew(session).await.unwrap();
        put(&driver, "a", "1").await.unwrap();
        server.sql("set global read_only = 1");
    };
    begin().await;
    let until = server.sql("select until from althing_session");
    check_error(&driver.renew(session).await.unwrap_err(), Kind::Unavailable, Effect::None);
    assert_eq!(server.sql("select until from althing_session"), until);
    begin().await;
    check_error(&put(&driver, "a", "2").await.unwrap_err(), Kind::Unavailable, Effect::None);
    begin().await;
    check_error(&driver.close(session).await.unwrap_err(), Kind::Unavailable, Effect::None);
    begin().await;
    check_error(&driver.open(LEASE).await.unwrap_err(), Kind::Unavailable, Effect::None);
    server.sql("set global read_only = 0");
    assert_eq!(value(&driver, "a").await.as_deref(), Some("1"));
}

/// Returns the schema of this version as another one would print it.
fn schema_of_another_version() -> String {
    let other = schema().replace("call althing_claim(1)", "call althing_claim(7)");
    assert_ne!(other, schema());
    other
}

pub(crate) async fn never_lays_its_schema_over_another_versions() {
    let server = start().await;
    let other = schema_of_another_version();
    let (begun, rest) = other.split_at(other.find("create table if not exists althing_namespace").unwrap());
    server.script(begun);
    let made = "select (select count(*) from information_schema.tables where table_schema = database()) + \
        (select count(*) from information_schema.routines where routine_schema = database())";
    let before = server.sql(made);
    // Another host of ours may have looked before anything was there; it makes what an operator would.
    assert!(
        server.refusal(&schema()).contains("of layout version 7, not 1"),
        "{}",
        server.refusal(&schema())
    );
    check_refused(&server.url("n"), Kind::Format, "layout version 7").await;
    assert_eq!(server.sql(made), before);
    server.script(&format!("delimiter //\n{rest}"));
    check_refused(&server.url("n"), Kind::Format, "layout version 7").await;
    assert!(server.refusal(&schema()).contains("of layout version 7, not 1"));
    server.script(&other);
}

pub(crate) async fn says_that_a_write_may_have_landed_whose_answer_makes_no_sense() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    put(&driver, "a", "1").await.unwrap();
    let replace = |name: &str, arguments: &str, answer: &str| {
        server.sql(&format!(
            "create or replace procedure althing_{name}({arguments}) sql security invoker select {answer}"
        ));
    };
    let of_all = "_space int, _known binary(16), _seen bigint";
    let commit = format!("{of_all}, _guards longblob, _writes longblob");
    for answer in ["9 as status", "1 as status", "1 as status, 7 as revision, '' as stamps", "0 as status"] {
        replace("commit", &commit, answer);
        check_error(&put(&driver, "a", "2").await.unwrap_err(), Kind::Internal, Effect::Unknown);
    }
    replace("commit", &commit, "0 as status, 0 as place");
    check_error(&put(&driver, "a", "2").await.unwrap_err(), Kind::Conflict, Effect::None);
    replace("renew", &format!("{of_all}, _session binary(16)"), "1 as status, 7 as revision");
    check_error(&driver.renew(session).await.unwrap_err(), Kind::Internal, Effect::Unknown);
    replace("get", &format!("{of_all}, _name varbinary(4096)"), "9 as status");
    let error = driver.get(&"a".into()).await.unwrap_err();
    check_error(&error, Kind::Internal, Effect::None);
    // Once each.
    let place = format!("(server=127.0.0.1:{}, namespace=n)", server.port());
    assert!(error.to_string().contains(&place), "{error}");
}

pub(crate) async fn refuses_a_wrong_password_and_none_and_a_missing_database() {
    let options = MysqlOptions { password: Some("right".into()), ..MysqlOptions::default() };
    let server = Server::start(options).await.unwrap();
    put(&connect(&server.url("n")).await.unwrap(), "a", "1").await.unwrap();
    let url = |login: &str, database: &str| format!("mysql://{login}@127.0.0.1:{}/{database}", server.port());
    check_refused(&url("althing:hunter2", "althing"), Kind::Denied, "refused user and password").await;
    check_refused(&url("nobody:hunter2", "althing"), Kind::Denied, "refused user and password").await;
    check_refused(&url("althing", "althing"), Kind::Denied, "refused user and password").await;
    check_refused(&url("althing:right", "mysql"), Kind::Denied, "does not let this user").await;
    server.sql("grant all on *.* to althing");
    check_refused(&url("althing:right", "nowhere"), Kind::Invalid, "no such database").await;
}

pub(crate) async fn refuses_settings_it_cannot_work_with_and_an_option_it_does_not_know() {
    let server = start_with(&[("log-bin", "bin"), ("binlog-format", "STATEMENT")]).await;
    check_refused(&server.url("n"), Kind::Unsupported, "binlog_format").await;
    check_refused(&format!("{}&timeuot=1s", server.url("n")), Kind::Invalid, "Did you mean timeout?").await;
    let server = start_with(&[("max-allowed-packet", "2M")]).await;
    check_refused(&server.url("n"), Kind::Unsupported, "max_allowed_packet").await;
}

pub(crate) async fn refuses_what_the_server_does_not_take_at_once() {
    let server = start_with(&[("max-allowed-packet", "4M")]).await;
    let driver = connect(&server.url("n")).await.unwrap();
    let large = "x".repeat(limits::VALUE_BYTES_MAX);
    let txn = |count| {
        let keys = (0..count).map(|number| Key::from(format!("a/{number}").as_str()));
        keys.fold(Txn::new(), |txn, key| txn.put(key, large.clone()))
    };
    let error = driver.commit(txn(4)).await.unwrap_err();
    check_error(&error, Kind::TooLarge, Effect::None);
    assert!(error.to_string().contains("max_allowed_packet"), "{error}");
    driver.commit(txn(3)).await.unwrap();
    let page = driver.list(&"a/".into(), None, 0).await.unwrap();
    assert_eq!((page.records.len(), page.next), (3, None));
}

pub(crate) async fn promises_what_the_server_keeps() {
    let flush = "innodb-flush-log-at-trx-commit";
    let logged = [("log-bin", "bin"), ("sync-binlog", "1")];
    for (settings, level) in [
        (&[(flush, "1")][..], Level::L1),
        (&[(flush, "2")], Level::L0),
        (&[("innodb-doublewrite", "0")], Level::L0),
        (&logged, Level::L1),
        (&logged[..1], Level::L0),
    ] {
        let server = start_with(settings).await;
        let driver = connect(&server.url("n")).await.unwrap();
        put(&driver, "a", "1").await.unwrap();
        let capability = driver.capability();
        let promised = (capability.level, capability.token_survives_restart);
        assert_eq!(promised, (level, level == Level::L1), "{settings:?}");
    }
}

pub(crate) async fn refuses_a_server_that_keeps_less_than_the_first_one_promised() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    server.sql("set global innodb_flush_log_at_trx_commit = 2");
    server.sql(KILL_ALL);
    let error = insist(async || put(&driver, "a", "2").await).await.unwrap_err();
    check_error(&error, Kind::Unsupported, Effect::None);
    let error = insist(async || driver.get(&"a".into()).await).await.unwrap_err();
    check_error(&error, Kind::Unsupported, Effect::None);
    assert!(error.to_string().contains("no longer has on disk"), "{error}");
    server.sql("set global innodb_flush_log_at_trx_commit = 1");
    assert_eq!(value(&driver, "a").await.as_deref(), Some("1"));
}

pub(crate) async fn speaks_tls_with_the_server_it_trusts_and_with_no_other() {
    if !ready_for("openssl") {
        return;
    }
    let speaking = || Server::start(MysqlOptions { tls: true, ..MysqlOptions::default() });
    let (server, other) = (speaking().await.unwrap(), speaking().await.unwrap());
    let url = server.url("n");
    let trusting = format!("{url}&tls-ca={}", server.certificate().display());
    let driver = connect(&trusting).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    let Delta::Resync { records, .. } = next(&mut *watch).await else { panic!("no snapshot") };
    assert_eq!(records.len(), 1);
    check_refused(&url, Kind::Denied, "must use TLS").await;
    check_refused(&format!("{url}&tls-ca={}", other.certificate().display()), Kind::Unavailable, "tls-ca")
        .await;
    server.sql("alter user althing require x509");
    check_refused(&trusting, Kind::Denied, "refused user").await;
    let shown =
        format!("{trusting}&tls-cert={}&tls-key={}", server.certificate().display(), server.key().display());
    put(&connect(&shown).await.unwrap(), "a", "2").await.unwrap();
    let plain = start().await;
    let untalented = format!("{}&tls-ca={}", plain.url("n"), server.certificate().display());
    check_refused(&untalented, Kind::Unavailable, "refused TLS").await;
}
