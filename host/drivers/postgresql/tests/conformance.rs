//! PostgreSQL does what every driver must do, told of changes and left to look by itself.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use althing_conformance::{Subject, main as run, trials_by_file};
use althing_core::{Clock, Driver, Error, Kind, OsChance, Result, SystemClock};
use althing_driver_postgresql::Postgresql;
use althing_test_servers::{Postgresql as Server, PostgresqlOptions, ready_for};
use tokio::sync::Mutex;

/// A private server for the cases of a file.
struct OnPostgresql {
    url: String,
    options: &'static str,
    server: Mutex<Server>,
}

impl OnPostgresql {
    async fn start(options: &'static str) -> Result<OnPostgresql> {
        let missing = || Error::new(Kind::NotFound, "start", "PostgreSQL is not installed");
        let server = Server::start(PostgresqlOptions::default()).await.ok_or_else(missing)?;
        Ok(OnPostgresql { url: server.url(""), options, server: Mutex::new(server) })
    }
}

#[async_trait::async_trait]
impl Subject for OnPostgresql {
    async fn connect(&self, namespace: &str) -> Result<Arc<dyn Driver>> {
        // The suite is not about deadlines, and a commit waits for a disk that others use too.
        let location = format!("{}{namespace}&timeout=10s{}", self.url, self.options).parse()?;
        Ok(Arc::new(Postgresql::connect(&location, Arc::new(SystemClock), Arc::new(OsChance)).await?))
    }

    async fn pass(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    async fn restart(&self) -> bool {
        self.server.lock().await.restart().await;
        true
    }
}

fn main() -> ExitCode {
    let mut all = trials_by_file("postgresql", || OnPostgresql::start(""));
    all.extend(trials_by_file("postgresql-polled", || OnPostgresql::start("&listen=false")));
    let missing = !ready_for("postgres");
    run(all.into_iter().map(|trial| trial.with_ignored_flag(missing)).collect())
}
