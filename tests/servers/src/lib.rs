//! Private real servers for tests: each on a free port of the loopback, in a directory of its own.
//!
//! A server ends when its value is dropped, by its own process id; the directory goes with it. Keep the value in
//! the test, not in a `static`: nothing drops a static. One file per server; what all of them need of a process
//! (start, kill, pause, wait until it answers) is in `process.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "only tests use this; a server that does not start must end the test with its log"
)]

mod backend;
mod certificate;
mod daemon;
mod etcd;
mod file;
mod memcached;
mod mysql;
mod postgresql;
mod process;
mod redis;
mod resp;
mod sentinel;
mod suite;
mod wall;
mod zookeeper;

pub use backend::{Backend, Server, VOTERS};
pub use daemon::Daemon;
pub use etcd::{Etcd, EtcdMember, EtcdOptions};
pub use file::Folder;
pub use memcached::{Memcached, MemcachedOptions};
pub use mysql::{Mysql, MysqlBackup, MysqlOptions, MysqlTalk};
pub use postgresql::{Postgresql, PostgresqlOptions, PostgresqlTalk};
pub use redis::{Redis, RedisOptions};
pub use sentinel::{Sentinel, SentinelOptions};
pub use suite::{Test, run, run_always, run_each};
pub use zookeeper::{Ensemble, EnsemblePlan, Node, ZooKeeper, ZooKeeperOptions};

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

/// Returns a port of the loopback that nobody listens on now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Tells whether `program` can be started from `PATH`, of Redis version 7 or newer; for `zookeeper`, whether Java and its archive are there; for
/// `postgres` and `mariadbd`, also from where Debian puts them; for `althing`, whether it was built beside this.
pub fn available(program: &str) -> bool {
    match program {
        "redis-server" => redis::is_installed(),
        "zookeeper" => zookeeper::is_installed(),
        "postgres" => postgresql::is_installed(),
        "mariadbd" => mysql::is_installed(),
        Daemon::PROGRAM => Daemon::program().is_some(),
        _ => find(program).is_some(),
    }
}

/// Tells whether a missing server is a failure (in CI) and not a reason to pass over a test.
pub fn required() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Tells whether tests that need `program` can run, and says so where they cannot. Ends the test when the server
/// is [`required`] and missing.
pub fn ready_for(program: &str) -> bool {
    let found = available(program);
    let advice = if program == Daemon::PROGRAM { "cargo build -p althing-cli" } else { "cargo xtask setup" };
    assert!(found || !required(), "{program} is not there, and CI=true requires it: run `{advice}`");
    found
}

/// Tells whether a test that has to do `what` can run: it can where that `works`. Says so where it cannot, and ends the
/// test where everything is [`required`].
pub fn ready_to(what: &str, works: bool) -> bool {
    assert!(works || !required(), "cannot {what}, and CI=true requires it");
    if !works {
        // Nobody may be there to read it.
        let _ = writeln!(std::io::stderr(), "skipped: this user cannot {what} here");
    }
    works
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
