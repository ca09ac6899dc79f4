//! The examples, against real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../examples/http.rs"]
#[allow(dead_code, reason = "its main is not called here")]
mod http;
#[path = "../examples/redis.rs"]
#[allow(dead_code, reason = "its main is not called here")]
mod redis_example;
#[path = "../examples/sql.rs"]
#[allow(dead_code, reason = "its main is not called here")]
mod sql;

use std::process::ExitCode;

use althing_core::Revision;
use althing_fence::sql::{Table, Verdict};
use althing_fence::{Stale, redis::SCRIPT};
use althing_test_servers::{
    Mysql, MysqlOptions, Postgresql, PostgresqlOptions, Redis, RedisOptions, run_each,
};
use mysql_async::prelude::Queryable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::sql::{CREATE, Database};

fn main() -> ExitCode {
    run_each![
        Some("redis-server") => redis_runs_the_command_unless_a_higher_token_was_seen,
        Some("redis-server") => redis_refuses_what_is_no_token_or_no_command,
        Some("postgres") => postgresql_writes_unless_a_higher_token_was_seen,
        Some("postgres") => a_higher_token_waits_for_the_end_of_a_transaction_that_postgresql_let_in,
        Some("mariadbd") => mariadb_writes_unless_a_higher_token_was_seen,
        Some("mariadbd") => a_higher_token_waits_for_the_end_of_a_transaction_that_mariadb_let_in,
        None => a_service_lets_in_who_has_a_token_that_is_not_lower,
    ]
}

/// Tokens that numbers of Lua and JavaScript cannot tell apart.
const CLOSE: [u64; 2] = [(1 << 53) + 1, 1 << 53];

fn stale(token: u64, seen: u64) -> Stale {
    Stale { token: Revision(token), seen: Revision(seen) }
}

async fn redis_runs_the_command_unless_a_higher_token_was_seen() {
    let server = Redis::start(RedisOptions::default()).await.unwrap();
    let mut connection = redis_example::open(server.url("").split('?').next().unwrap()).await.unwrap();
    let mut write = async |state: &str, token: u64| {
        redis_example::write(&mut connection, "a", state, Revision(token)).await.unwrap()
    };
    assert_eq!(write("first", 7).await, Ok(()));
    assert_eq!(write("again", 7).await, Ok(()));
    assert_eq!(write("late", 6).await, Err(stale(6, 7)));
    assert_eq!(write("higher", CLOSE[0]).await, Ok(()));
    assert_eq!(write("late", CLOSE[1]).await, Err(stale(CLOSE[1], CLOSE[0])));
    assert_eq!(server.command(&["STRLEN", "{a}:state"]), format!(":{}", "higher".len()));
    assert_eq!(server.command(&["TTL", "{a}:token"]), ":-1");
}

async fn redis_refuses_what_is_no_token_or_no_command() {
    let server = Redis::start(RedisOptions::default()).await.unwrap();
    let eval = |rest: &[&str]| server.command(&[&["EVAL", SCRIPT, "2", "a:token", "a"], rest].concat());
    assert_eq!(eval(&["7", "INCRBY", "a", "5"]), ":5");
    assert_eq!(eval(&["6", "INCRBY", "a", "5"]), "-STALE 00000000000000000007");
    for token in ["", "-8", "8.0", "1e9", "000000000000000000008"] {
        let said = eval(&[token, "INCRBY", "a", "5"]);
        assert_eq!(said, "-ERR a token is one to twenty digits", "{token:?}");
    }
    assert_eq!(eval(&["8"]), "-ERR after the token comes the command that writes");
    let failed = eval(&["8", "LPUSH", "a", "5"]);
    assert!(failed.starts_with("-WRONGTYPE"), "{failed}");
    assert_eq!(eval(&["7", "GET", "a"]), "-STALE 00000000000000000008", "its token was let in all the same");
    assert_eq!(server.command(&["SET", "a:token", "hello"]), "+OK");
    let foreign = eval(&["9", "INCRBY", "a", "5"]);
    assert_eq!(foreign, "-ERR the first key holds something else than a token");
    assert_eq!(server.command(&["SET", "a:token", "9"]), "+OK");
    assert_eq!(eval(&["8", "INCRBY", "a", "5"]), "-STALE 00000000000000000009", "as an operator wrote it");
    assert_eq!(eval(&["10", "INCRBY", "a", "5"]), ":10");
}

async fn postgresql() -> (Postgresql, String) {
    let server = Postgresql::start(PostgresqlOptions::default()).await.unwrap();
    let url = server.url("").split('?').next().unwrap().to_owned();
    (server, url)
}

async fn mariadb() -> (Mysql, String) {
    let server = Mysql::start(MysqlOptions::default()).await.unwrap();
    let url = server.url("").split('?').next().unwrap().to_owned();
    (server, url)
}

async fn database(url: &str) -> Database {
    let mut database = Database::open(url).await.unwrap();
    database.run(CREATE).await.unwrap();
    database
}

/// Writes to a row that was there before it had a column for tokens, and to one that was not.
async fn check_writes(url: &str) {
    let mut database = database(url).await;
    database.run("INSERT INTO jobs (name, state) VALUES ('old', 'before')").await.unwrap();
    database.run(&database.table().add_column()).await.unwrap();
    for name in ["old", "new"] {
        let mut write =
            async |state: &str, token: u64| database.write(name, state, Revision(token)).await.unwrap();
        assert_eq!(write("first", 7).await, Verdict::Written);
        assert_eq!(write("first", 7).await, Verdict::Written, "a row that does not change was let in");
        assert_eq!(write("again", 7).await, Verdict::Written);
        assert_eq!(write("late", 6).await, Verdict::Stale(stale(6, 7)));
        assert_eq!(write("again", 6).await, Verdict::Stale(stale(6, 7)), "what it would write is there");
        assert_eq!(write("higher", CLOSE[0]).await, Verdict::Written);
        assert_eq!(write("late", CLOSE[1]).await, Verdict::Stale(stale(CLOSE[1], CLOSE[0])));
        assert!(database.write(name, "late", Revision(u64::MAX)).await.is_err());
        assert_eq!(state(&mut database, name).await, "higher");
    }
    check_update(&mut database).await;
}

/// Runs the statement that inserts nothing, with its parameters written out.
async fn check_update(database: &mut Database) {
    let update = |table: Table<'_>, state: &str, token: u64, name: &str| {
        let statement = table.update();
        if statement.contains('$') {
            let statement =
                statement.replace("$1", &format!("'{name}'")).replace("$2", &format!("'{state}'"));
            return statement.replace("$3", &token.to_string());
        }
        let values = [format!("'{state}'"), token.to_string(), format!("'{name}'"), token.to_string()];
        values.iter().fold(statement, |statement, value| statement.replacen('?', value, 1))
    };
    for (state, token, name) in [("late", CLOSE[1], "old"), ("last", CLOSE[0], "new"), ("none", 9, "missing")]
    {
        database.run(&update(database.table(), state, token, name)).await.unwrap();
    }
    assert_eq!(state(database, "old").await, "higher");
    assert_eq!(state(database, "new").await, "last");
    assert_eq!(database.state("missing").await.unwrap(), None);
}

async fn state(database: &mut Database, name: &str) -> String {
    database.state(name).await.unwrap().unwrap()
}

async fn postgresql_writes_unless_a_higher_token_was_seen() {
    let (_server, url) = postgresql().await;
    check_writes(&url).await;
}

async fn mariadb_writes_unless_a_higher_token_was_seen() {
    let (server, url) = mariadb().await;
    check_writes(&url).await;
    server.sql("DROP TABLE jobs");
    // Such a client is told of a row that was found, not of one that was written.
    check_writes(&format!("{url}?client_found_rows=true")).await;
}

/// Reads one text.
async fn read(database: &mut Database, sql: &str) -> String {
    match database {
        Database::Postgresql(client) => client.query_one(sql, &[]).await.unwrap().get(0),
        Database::Mysql(conn) => conn.query_first(sql).await.unwrap().unwrap(),
    }
}

/// What follows the guarded statement in one transaction is in the database before a higher token is let in.
async fn check_transaction(url: &str, waiting: &str) {
    let (mut first, mut second, mut third) = (database(url).await, database(url).await, database(url).await);
    first.run(&first.table().add_column()).await.unwrap();
    first.run("CREATE TABLE log (line VARCHAR(64))").await.unwrap();
    first.run("BEGIN").await.unwrap();
    assert_eq!(first.write("a", "first", Revision(7)).await.unwrap(), Verdict::Written);
    let overtaking = tokio::spawn(async move {
        assert_eq!(second.write("a", "second", Revision(8)).await.unwrap(), Verdict::Written);
        read(&mut second, "SELECT line FROM log").await
    });
    while read(&mut third, waiting).await == "0" {}
    first.run("INSERT INTO log (line) VALUES ('by the first')").await.unwrap();
    first.run("COMMIT").await.unwrap();
    assert_eq!(overtaking.await.unwrap(), "by the first");
    first.run("BEGIN").await.unwrap();
    assert_eq!(first.write("a", "first", Revision(7)).await.unwrap(), Verdict::Stale(stale(7, 8)));
    first.run("ROLLBACK").await.unwrap();
}

async fn a_higher_token_waits_for_the_end_of_a_transaction_that_postgresql_let_in() {
    let (_server, url) = postgresql().await;
    check_transaction(&url, "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        .await;
}

async fn a_higher_token_waits_for_the_end_of_a_transaction_that_mariadb_let_in() {
    let (_server, url) = mariadb().await;
    // Not innodb_trx: the server shows what it kept of that, for as long as it is asked more often than every 100 ms.
    let waiting = "SELECT variable_value FROM information_schema.global_status \
                   WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS'";
    check_transaction(&url, waiting).await;
}

async fn a_service_lets_in_who_has_a_token_that_is_not_lower() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, http::service()).into_future());
    let ask = async |request: &str, header: &str, body: &str| {
        let length = body.len();
        let request = format!(
            "{request} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n{header}\r\n{body}"
        );
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let check = async |header: &str, status: &str| {
        let answer = ask("PUT /a", header, header).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{header}: {answer}");
        answer
    };
    check("", "428").await;
    check("althing-token: seven\r\n", "400").await;
    check("althing-token: 7\r\nalthing-token: 9\r\n", "400").await;
    check("Althing-Token: 7\r\n", "204").await;
    check("althing-token: 00000000000000000007\r\n", "204").await;
    let refused = check("althing-token: 6\r\n", "412").await;
    assert!(refused.contains("althing-token-seen: 00000000000000000007\r\n"), "{refused}");
    assert!(refused.ends_with("token 6 is stale: somebody has written by token 7 since"), "{refused}");
    assert!(ask("GET /a", "", "").await.ends_with("\r\n\r\nalthing-token: 00000000000000000007\r\n"));
}
