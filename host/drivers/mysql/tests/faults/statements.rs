//! Statements that wait, are killed, run into each other, or run under settings of the server's own, and how many there are.

use std::sync::Arc;
use std::time::Duration;

use althing_core::{
    BootTime, Change, Clock, Driver, Effect, Key, Kind, Revision, SystemClock, Txn, WatchMode,
};
use althing_driver_mysql::schema;
use althing_test_servers::Mysql as Server;

use crate::{LEASE, check_error, connect, insist, next, next_changes, put, start, start_with, value};

/// Holds all namespaces.
pub(crate) const HOLD: &str = "begin; select id from althing_namespace for update;";

/// Waits until somebody waits for a lock.
pub(crate) async fn until_blocked(server: &Server) {
    while server.sql("select count(*) from information_schema.innodb_trx where trx_state = 'LOCK WAIT'")
        != "1"
    {
        // Who asks again within a tenth of a second is told the same again.
        SystemClock.sleep(Duration::from_millis(150)).await;
    }
}

fn since(start: BootTime) -> Duration {
    SystemClock.now().since(start)
}

pub(crate) async fn a_namespace_held_by_a_stranger_stops_commits_in_time_and_nothing_else() {
    let server = start().await;
    let timeout = Duration::from_secs(6);
    let driver = connect(&format!("{}&timeout=6s", server.url("n"))).await.unwrap();
    let session = driver.open(LEASE).await.unwrap().id;
    let before = put(&driver, "a", "1").await.unwrap();
    let mut watch = driver.watch(&"a".into(), before).await.unwrap();
    let held = server.talk(HOLD);
    let start = SystemClock.now();
    // A renewal is on a connection of its own, made only now, and does not wait behind the commit.
    let (written, renewed_after) = tokio::join!(put(&driver, "a", "2"), async {
        driver.renew(session).await.unwrap();
        since(start)
    });
    let error = written.unwrap_err();
    check_error(&error, Kind::Timeout, Effect::None);
    assert!(error.to_string().contains("holds the namespace"), "{error}");
    assert!(since(start) < timeout, "{:?}", since(start));
    check_error(&driver.close(session).await.unwrap_err(), Kind::Timeout, Effect::None);
    assert!(renewed_after < timeout / 2, "{renewed_after:?}");
    assert_eq!(value(&driver, "a").await.as_deref(), Some("1"));
    drop(held);
    let written = insist(async || put(&driver, "a", "3").await).await.unwrap();
    driver.renew(session).await.unwrap();
    let changes = next_changes(&mut *watch).await;
    assert_eq!(changes.iter().map(Change::revision).collect::<Vec<_>>(), [written]);
}

pub(crate) async fn a_commit_that_lost_a_deadlock_is_written_all_the_same() {
    let server = start().await;
    let driver = Arc::new(connect(&format!("{}&timeout=30s", server.url("n"))).await.unwrap());
    put(&driver, "a", "1").await.unwrap();
    // Who has written more is spared.
    server.sql("create table weight (number int) engine = InnoDB");
    let mut stranger = server.talk(
        "begin; insert into weight select seq from seq_1_to_10000; \
        select created from althing_record for update;",
    );
    let writer = tokio::spawn({
        let driver = driver.clone();
        async move { put(&driver, "a", "2").await }
    });
    until_blocked(&server).await;
    stranger.say("select id from althing_namespace for update;");
    while server.sql("show global status like 'Innodb_deadlocks'") != "Innodb_deadlocks\t1" {
        SystemClock.sleep(Duration::from_millis(5)).await;
    }
    until_blocked(&server).await;
    drop(stranger);
    writer.await.unwrap().unwrap();
    assert_eq!(value(&driver, "a").await.as_deref(), Some("2"));
}

/// Returns how many transactions of ours the server knows.
fn transactions(server: &Server) -> String {
    server.sql(
        "select count(*) from information_schema.innodb_trx t \
        join information_schema.processlist p on p.id = t.trx_mysql_thread_id where p.user = 'althing'",
    )
}

/// Waits until no transaction of ours is left: the server looks after a connection that was closed when it finds time.
async fn until_none_is_left(server: &Server) {
    // Who asks again within a tenth of a second is told the same again.
    for _ in 0..100 {
        SystemClock.sleep(Duration::from_millis(150)).await;
        if transactions(server) == "0" {
            return;
        }
    }
    panic!("a transaction of ours is left");
}

/// Makes a procedure again as it was, but for `slow`: what stands there takes its time.
fn make(server: &Server, procedure: &str, slow: Option<&str>) {
    let schema = schema();
    let head = format!("create procedure if not exists {procedure}(");
    let mut text = schema.split("\n//\n").find(|part| part.contains(&head)).unwrap().to_owned();
    if let Some(slow) = slow {
        assert!(text.contains(slow), "{text}");
        text = text.replace(slow, &format!("{slow} + sleep(60)"));
    }
    server.script(&format!("drop procedure {procedure};\ndelimiter //\n{text}\n//\n"));
}

/// Kills the one statement of ours that is in a state.
async fn kill_in(server: &Server, state: &str) {
    let ours = format!(
        "select id from information_schema.processlist where user = 'althing' and state like '{state}%'"
    );
    while server.sql(&ours).is_empty() {
        SystemClock.sleep(Duration::from_millis(5)).await;
    }
    server.sql(&format!("kill query {}", server.sql(&ours)));
}

/// Commits while `fault` is there, kills that, and checks that nothing of it is left when `mend` was done.
async fn check_killed_commit<T>(
    server: &Server,
    fault: impl FnOnce() -> T,
    kill: impl AsyncFnOnce(),
    mend: impl FnOnce(T),
) {
    let driver = Arc::new(connect(&server.url("n")).await.unwrap());
    let other = connect(&server.url("n")).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    put(&other, "b", "1").await.unwrap();
    let held = fault();
    let writer = tokio::spawn({
        let driver = driver.clone();
        async move { put(&driver, "a", "2").await }
    });
    kill().await;
    check_error(&writer.await.unwrap().unwrap_err(), Kind::Timeout, Effect::Unknown);
    mend(held);
    until_none_is_left(server).await;
    put(&other, "b", "2").await.unwrap();
    assert_eq!(value(&driver, "a").await.as_deref(), Some("1"));
    put(&driver, "a", "3").await.unwrap();
    assert_eq!(value(&other, "a").await.as_deref(), Some("3"));
}

pub(crate) async fn a_killed_commit_holds_the_namespace_no_longer() {
    let server = start().await;
    // While it waits for the namespace, and while it has it and waits for a record.
    for lock in [HOLD, "begin; select created from althing_record for update;"] {
        let kill = async || {
            until_blocked(&server).await;
            let waits =
                "select trx_mysql_thread_id from information_schema.innodb_trx where trx_state = 'LOCK WAIT'";
            server.sql(&format!("kill query {}", server.sql(waits)));
        };
        check_killed_commit(&server, || server.talk(lock), kill, drop).await;
    }
    // While it has the namespace and waits for nobody: then the server runs nothing more of the procedure.
    let slow = || make(&server, "althing_commit", Some("set _at = 1"));
    let kill = async || kill_in(&server, "User sleep").await;
    check_killed_commit(&server, slow, kill, |()| make(&server, "althing_commit", None)).await;
}

/// Lists while `fault` is there, kills that, and checks that what is read then is new.
async fn check_killed_listing<T>(
    server: &Server,
    fault: impl FnOnce() -> T,
    state: &str,
    mend: impl FnOnce(T),
) {
    let driver = Arc::new(connect(&server.url("n")).await.unwrap());
    let other = connect(&server.url("n")).await.unwrap();
    put(&other, "a", "1").await.unwrap();
    let held = fault();
    let reader = tokio::spawn({
        let driver = driver.clone();
        async move { driver.list(&Key::default(), None, 0).await }
    });
    kill_in(server, state).await;
    check_error(&reader.await.unwrap().unwrap_err(), Kind::Timeout, Effect::None);
    mend(held);
    put(&other, "a", "2").await.unwrap();
    assert_eq!(value(&driver, "a").await.as_deref(), Some("2"));
    until_none_is_left(server).await;
}

pub(crate) async fn a_killed_listing_leaves_no_old_state_behind() {
    let server = start().await;
    let lock = || server.talk("lock tables althing_record write;");
    check_killed_listing(&server, lock, "Waiting for table metadata lock", drop).await;
    let slow = || make(&server, "althing_list", Some("set _fit = ifnull(_fit, 0)"));
    check_killed_listing(&server, slow, "User sleep", |()| make(&server, "althing_list", None)).await;
}

pub(crate) async fn lives_with_what_the_server_makes_of_transactions() {
    let server =
        start_with(&[("transaction-isolation", "READ-UNCOMMITTED"), ("completion-type", "CHAIN")]).await;
    let (driver, other) =
        (connect(&server.url("n")).await.unwrap(), connect(&server.url("n")).await.unwrap());
    put(&other, "a", "1").await.unwrap();
    let stranger = server.talk("begin; update althing_record set value = 'not said yet';");
    assert_eq!(value(&driver, "a").await.as_deref(), Some("1"));
    drop(stranger);
    // Where a commit begins the next transaction, that one goes on seeing what the first read of it saw.
    for number in 2..5 {
        driver.list(&Key::default(), None, 0).await.unwrap();
        value(&driver, "a").await;
        put(&other, "a", &number.to_string()).await.unwrap();
        assert_eq!(value(&driver, "a").await, Some(number.to_string()));
    }
    until_none_is_left(&server).await;
}

/// Returns how many requests the server was sent, those to prepare one among them.
fn requests(server: &Server) -> u64 {
    let told = server.sql(
        "select sum(variable_value) from information_schema.global_status \
        where variable_name in ('COM_STMT_EXECUTE', 'COM_STMT_PREPARE')",
    );
    told.parse::<f64>().unwrap() as u64
}

pub(crate) async fn asks_once_for_a_commit_and_for_a_renewal_and_seldom_when_nothing_happens() {
    let server = start().await;
    let driver = connect(&server.url("n")).await.unwrap();
    assert_eq!(driver.capability().watch, WatchMode::Polled);
    let session = driver.open(LEASE).await.unwrap().id;
    put(&driver, "a", "1").await.unwrap();
    driver.renew(session).await.unwrap();
    let before = requests(&server);
    for _ in 0..10 {
        let keys = (0..8).map(|number| Key::from(format!("b/{number}").as_str()));
        driver.commit(keys.fold(Txn::new(), |txn, key| txn.put(key, "1"))).await.unwrap();
        driver.renew(session).await.unwrap();
    }
    assert_eq!(requests(&server) - before, 20);
    SystemClock.sleep(Duration::from_millis(500)).await;
    assert_eq!(requests(&server) - before, 20, "it looks though nobody watches");

    let mut watches = Vec::new();
    for _ in 0..5 {
        let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
        next(&mut *watch).await;
        watches.push(tokio::spawn(async move { watch.next().await }));
    }
    // Until it is as slow as it becomes.
    SystemClock.sleep(Duration::from_secs(2)).await;
    let before = requests(&server);
    SystemClock.sleep(Duration::from_secs(2)).await;
    let asked = requests(&server) - before;
    // One for all five: eight in two seconds, a tenth more or less, and the watches themselves once in five seconds.
    assert!((4..=16).contains(&asked), "{asked} requests in two silent seconds");
    watches.iter().for_each(|watch| watch.abort());
}
