//! A row of PostgreSQL, MySQL or MariaDB that only the holder of a lock may change.
//!
//! `cargo run --package althing-fence --example sql -- postgresql://shop@127.0.0.1/shop orders paid 42` (or `mysql://…`) writes
//! `paid` by token 42; after that, a lower token is refused. Below `althing lock orders -- …` the token is in
//! `$ALTHING_LOCK_TOKEN`.
#![allow(clippy::print_stdout, reason = "an example speaks to whoever runs it")]

use althing_core::Revision;
use althing_fence::sql::{Dialect, Table, Verdict, parameter};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};
use tokio_postgres::{Client, NoTls};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A table as it may have been before anybody thought of fencing.
pub(crate) const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS jobs (name VARCHAR(64) PRIMARY KEY, state VARCHAR(64) NOT NULL)";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [url, name, state, token] = arguments.as_slice() else {
        return Err("usage: sql URL NAME STATE TOKEN".into());
    };
    let mut database = Database::open(url).await?;
    database.run(CREATE).await?;
    // Fails where the column is there already.
    let _ = database.run(&database.table().add_column()).await;
    match database.write(name, state, token.parse()?).await? {
        Verdict::Written => println!("{name} is {}", database.state(name).await?.unwrap_or_default()),
        Verdict::NoRow => return Err("the row was deleted meanwhile".into()),
        Verdict::Stale(stale) => return Err(stale.to_string().into()),
    }
    Ok(())
}

/// A connection to one or the other.
pub(crate) enum Database {
    /// To PostgreSQL.
    Postgresql(Client),
    /// To MySQL or MariaDB.
    Mysql(Conn),
}

impl Database {
    /// Connects and logs in.
    pub(crate) async fn open(url: &str) -> Outcome<Database> {
        if url.starts_with("mysql:") {
            return Ok(Database::Mysql(Conn::new(Opts::from_url(url)?).await?));
        }
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        // It ends with the client.
        tokio::spawn(connection);
        Ok(Database::Postgresql(client))
    }

    /// Describes the table to the library, which makes the statements.
    pub(crate) fn table(&self) -> Table<'static> {
        let dialect = match self {
            Database::Postgresql(_) => Dialect::Postgresql,
            Database::Mysql(_) => Dialect::Mysql,
        };
        Table { dialect, name: "jobs", key: &["name"], columns: &["state"] }
    }

    /// Writes a state, or is refused. Of an error nobody knows whether it was written; sending it again does no harm.
    pub(crate) async fn write(&mut self, name: &str, state: &str, token: Revision) -> Outcome<Verdict> {
        let table = self.table();
        let fence = parameter(token)?;
        let (written, seen): (u64, Option<i64>) = match self {
            Database::Postgresql(client) => {
                let written = client.execute(&table.upsert(), &[&name, &state, &fence]).await?;
                let row = client.query_opt(&table.seen(), &[&name]).await?;
                (written, row.map(|row| row.get(0)))
            }
            Database::Mysql(conn) => {
                conn.exec_drop(table.upsert(), (name, state, fence)).await?;
                let written = conn.affected_rows();
                (written, conn.exec_first(table.seen(), (name,)).await?)
            }
        };
        let seen = seen.map(u64::try_from).transpose()?.map(Revision);
        Ok(table.verdict(token, written, seen))
    }

    /// Runs statements that answer nothing.
    pub(crate) async fn run(&mut self, sql: &str) -> Outcome<()> {
        match self {
            Database::Postgresql(client) => client.batch_execute(sql).await?,
            Database::Mysql(conn) => conn.query_drop(sql).await?,
        }
        Ok(())
    }

    /// Reads a state.
    pub(crate) async fn state(&mut self, name: &str) -> Outcome<Option<String>> {
        match self {
            Database::Postgresql(client) => {
                let row = client.query_opt("SELECT state FROM jobs WHERE name = $1", &[&name]).await?;
                Ok(row.map(|row| row.get(0)))
            }
            Database::Mysql(conn) => {
                Ok(conn.exec_first("SELECT state FROM jobs WHERE name = ?", (name,)).await?)
            }
        }
    }
}
