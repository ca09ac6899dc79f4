//! MySQL does what every driver must do.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use althing_conformance::{Subject, main as run, trials_by_file};
use althing_core::{Clock, Driver, Error, Kind, OsChance, Result, SystemClock};
use althing_driver_mysql::Mysql;
use althing_test_servers::{Mysql as Server, MysqlOptions, ready_for};
use tokio::sync::Mutex;

/// A private server for the cases of a file.
struct OnMysql {
    url: String,
    server: Mutex<Server>,
}

impl OnMysql {
    async fn start() -> Result<OnMysql> {
        let missing = || Error::new(Kind::NotFound, "start", "MariaDB is not installed");
        let server = Server::start(MysqlOptions::default()).await.ok_or_else(missing)?;
        Ok(OnMysql { url: server.url(""), server: Mutex::new(server) })
    }
}

#[async_trait::async_trait]
impl Subject for OnMysql {
    async fn connect(&self, namespace: &str) -> Result<Arc<dyn Driver>> {
        // The suite is not about deadlines, and a commit waits for a disk that others use too.
        let location = format!("{}{namespace}&timeout=10s", self.url).parse()?;
        Ok(Arc::new(Mysql::connect(&location, Arc::new(SystemClock), Arc::new(OsChance)).await?))
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
    let missing = !ready_for("mariadbd");
    let all = trials_by_file("mysql", OnMysql::start);
    run(all.into_iter().map(|trial| trial.with_ignored_flag(missing)).collect())
}
