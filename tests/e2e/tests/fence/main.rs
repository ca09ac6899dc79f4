//! A holder that is stopped between its last look and its write, and overtaken: the resource refuses it.
//!
//! Each test runs on a host of its own with three processes: the host, the holder that is stopped, and the one that overtakes
//! it. The same write to a resource without a fence shows what would have happened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod holder;
mod resource;

use std::io::{PipeWriter, Write, pipe};
use std::process::{Command, ExitCode};

use althing_e2e::{Host, Running};
use althing_test_servers::{
    Mysql, MysqlOptions, Postgresql, PostgresqlOptions, Redis, RedisOptions, run_each,
};
use rustix::process::Signal;

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(holder::NAME) {
        tokio::runtime::Runtime::new().unwrap().block_on(holder::hold(&name));
        return ExitCode::SUCCESS;
    }
    run_each![
        Some("redis-server") => a_stopped_holder_cannot_write_to_redis,
        Some("postgres") => a_stopped_holder_cannot_write_to_postgresql,
        Some("mariadbd") => a_stopped_holder_cannot_write_to_mariadb,
        None => a_stopped_holder_cannot_write_over_http,
    ]
}

/// A process that holds the lock, or waits for it.
struct Holder {
    process: Running,
    orders: PipeWriter,
}

impl Holder {
    fn start(host: &Host, url: &str, name: &str) -> Holder {
        let (input, orders) = pipe().unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(holder::NAME, name).env(holder::RESOURCE, url).env("ALTHING_SERVER", &host.addresses[0]);
        Holder { process: Running::start(command.stdin(input)), orders }
    }

    /// Waits until it holds, and returns its token.
    fn token(&mut self) -> String {
        self.process.event("holds")["token"].as_str().unwrap().to_owned()
    }

    fn order(&mut self) {
        writeln!(self.orders, "write").unwrap();
    }

    /// Waits until it has written, and returns for which token it was refused, and whether it holds.
    fn wrote(&mut self) -> (Option<String>, bool) {
        let event = self.process.event("wrote");
        (event["refused_for"].as_str().map(str::to_owned), event["is_held"].as_bool().unwrap())
    }
}

async fn check_stopped(url: &str) {
    let host = Host::start(&[]);
    let mut first = Holder::start(&host, url, "first");
    let lower = first.token();
    first.order();
    assert_eq!(first.wrote(), (None, true));
    first.process.signal(Signal::STOP);
    let mut second = Holder::start(&host, url, "second");
    // Nobody breaks the lock and no connection closes: it moves on when the lease of the first has run out.
    let higher = second.token();
    assert!(higher > lower, "{higher} after {lower}");
    second.order();
    assert_eq!(second.wrote(), (None, true));
    first.order();
    first.process.signal(Signal::CONT);
    let (refused_for, is_held) = first.wrote();
    assert_eq!(refused_for, Some(higher));
    assert!(!is_held, "it would have known, had it looked again");
    let mut resource = resource::connect(url).await;
    assert_eq!(
        resource.read().await,
        ["second", "first"],
        "without a fence, the write of the second is lost"
    );
    second.order();
    assert_eq!(second.wrote(), (None, true));
    assert_eq!(resource.read().await, ["second", "second"]);
}

async fn a_stopped_holder_cannot_write_to_redis() {
    let server = Redis::start(RedisOptions::default()).await.unwrap();
    check_stopped(bare(&server.url(""))).await;
}

async fn a_stopped_holder_cannot_write_to_postgresql() {
    let server = Postgresql::start(PostgresqlOptions::default()).await.unwrap();
    resource::furnish(bare(&server.url(""))).await;
    check_stopped(bare(&server.url(""))).await;
}

async fn a_stopped_holder_cannot_write_to_mariadb() {
    let server = Mysql::start(MysqlOptions::default()).await.unwrap();
    resource::furnish(bare(&server.url(""))).await;
    check_stopped(bare(&server.url(""))).await;
}

async fn a_stopped_holder_cannot_write_over_http() {
    check_stopped(&resource::serve().await).await;
}

/// Cuts off the namespace, which is of no interest to a client of the server itself.
fn bare(url: &str) -> &str {
    url.split('?').next().unwrap()
}
