//! What the server says about itself: what it keeps, and whether we can use it at all.

use althing_core::{Error, Kind, Result};

use crate::schema::{self, FORMAT};
use crate::settings::Settings;
use crate::wire::{READ_ONLY, Row, Wire};

/// The oldest server we know to do.
const VERSION_MIN: i32 = 130_000;

/// Asks all at once. It also has the server look after a host that vanished: what such a host had begun would hold up
/// everybody.
const QUESTION: &str = "select current_setting('server_version_num')::int as version, \
    pg_is_in_recovery() or current_setting('transaction_read_only') = 'on' as read_only, \
    current_setting('fsync') = 'on' and current_setting('full_page_writes') = 'on' as durable, \
    current_setting('transaction_isolation') as isolation, \
    exists (select from pg_namespace n join pg_class c on c.relnamespace = n.oid \
        where n.nspname = 'althing') as occupied, \
    exists (select from pg_namespace n join pg_class c on c.relnamespace = n.oid \
        where n.nspname = 'althing' and c.relname = 'format') as made, \
    set_config('tcp_keepalives_idle', '5', false), set_config('tcp_keepalives_interval', '5', false), \
    set_config('tcp_keepalives_count', '3', false), set_config('tcp_user_timeout', '20000', false)";

/// A server, as far as promises hang on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    /// It has on disk what it acknowledged.
    pub(crate) durable: bool,
}

impl Server {
    /// Asks the server and sees to the schema. Fails where it is a standby, too old, or would not show each statement
    /// the newest state, and where the schema is missing and may not be made, or is another one.
    pub(crate) async fn examine(wire: &Wire, settings: &Settings) -> Result<Server> {
        let said = wire.ask(QUESTION).await?;
        refuse_unusable(&said)?;
        if !yes(&said, "made")? {
            create(wire, settings, yes(&said, "occupied")?).await?;
        }
        refuse_another_schema(wire, settings).await?;
        Ok(Server { durable: yes(&said, "durable")? })
    }
}

fn yes(said: &Row, column: &'static str) -> Result<bool> {
    Ok(said.flag(column)?.unwrap_or_default())
}

fn refuse_unusable(said: &Row) -> Result<()> {
    let refuse = |kind, message: &str, advice: &str| Err(Error::new(kind, "connect", message).advise(advice));
    let version = said.int("version")?.unwrap_or_default();
    if version < VERSION_MIN {
        let message = format!("this PostgreSQL is version {}", version / 10_000);
        return refuse(Kind::Unsupported, &message, "Use 13 or newer");
    }
    if yes(said, "read_only")? {
        return refuse(Kind::Unavailable, READ_ONLY, "Name the primary in the backend URL");
    }
    match said.text("isolation")?.as_deref() {
        Some("read committed") => Ok(()),
        other => refuse(
            Kind::Unsupported,
            &format!("transactions of this user are {}", other.unwrap_or("of no known isolation")),
            "Run: alter role USER set default_transaction_isolation to 'read committed'",
        ),
    }
}

async fn create(wire: &Wire, settings: &Settings, occupied: bool) -> Result<()> {
    if occupied {
        return Err(foreign(settings, "the schema althing holds something else")
            .advise("Choose another database, or rename that schema"));
    }
    if !settings.creates {
        return Err(foreign(settings, "there is no schema althing, and schema=given forbids making it")
            .advise("Run what `althing drivers --schema postgresql` prints, as the owner of the database"));
    }
    wire.batch(&schema::schema()).await.map_err(|error| error.with("database", &settings.database))
}

async fn refuse_another_schema(wire: &Wire, settings: &Settings) -> Result<()> {
    let newest = "select (select max(version) from althing.format) as version";
    let version = wire.ask(newest).await?.int("version")?;
    match version {
        Some(FORMAT) => Ok(()),
        Some(version) => Err(foreign(
            settings,
            &format!("the schema althing is of layout version {version}, not {FORMAT}"),
        )
        .advise("Run a host of the version that made it, or choose another database")),
        None => Err(foreign(settings, "the schema althing does not say which layout it is")
            .advise("Run what `althing drivers --schema postgresql` prints, or choose another database")),
    }
}

fn foreign(settings: &Settings, message: &str) -> Error {
    Error::new(Kind::Format, "connect", message).with("database", &settings.database)
}
