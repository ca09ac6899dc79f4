//! What the server says about itself: what it keeps, and whether we can use it at all.

use althing_core::{Error, Kind, Result};

use crate::operation::Operation;
use crate::schema::{self, FORMAT};
use crate::settings::Settings;
use crate::wire::{READ_ONLY, Row, Wire};

/// The oldest servers we know to do. MySQL learned `create procedure if not exists` then.
const MARIADB_MIN: [u32; 3] = [10, 6, 0];
const MYSQL_MIN: [u32; 3] = [8, 0, 29];
/// The least that must fit in one packet: the largest value, twice, with all that goes with it.
const PACKET_BYTES_MIN: u64 = 4 << 20;

/// Asks all at once. The end of a new UUID is another one each time the server was started.
const QUESTION: &str = "select version() as version, \
    cast(@@global.read_only as char) not in ('0', 'OFF') as read_only, \
    @@global.innodb_flush_log_at_trx_commit = 1 \
        and cast(@@global.innodb_doublewrite as char) in ('1', 'ON', 'fast', 'DETECT_AND_RECOVER') \
        and (@@global.log_bin = 0 or @@global.sync_binlog = 1) as durable, \
    @@global.log_bin = 1 and @@global.binlog_format = 'STATEMENT' as statements, \
    @@global.max_allowed_packet as packet, \
    concat(@@global.hostname, ':', @@global.port, ' ', substr(uuid(), 20)) as server, \
    (select count(*) from information_schema.tables \
        where table_schema = database() and table_name like 'althing\\_%') as occupied, \
    (select count(*) from information_schema.tables \
        where table_schema = database() and table_name = 'althing_format') as made";

/// A server, as far as promises hang on it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Which one it is, and which of its starts.
    pub(crate) name: String,
    /// It has on disk what it acknowledged.
    pub(crate) durable: bool,
    /// How many bytes it takes at once.
    pub(crate) packet: usize,
}

impl Server {
    /// Asks the server and sees to the schema. Fails where it only reads, is too old or takes too little at once, and where
    /// the schema is missing and may not be made, or is another one.
    pub(crate) async fn examine(wire: Wire, settings: &Settings) -> Result<(Wire, Server)> {
        let (wire, said) = wire.ask(QUESTION.to_owned()).await?;
        let mut said = said.ok_or_else(|| crate::answer::nonsense(Operation::Adopt, "no answer"))?;
        refuse_unusable(&mut said)?;
        let packet = number(&mut said, "packet")?;
        if packet < PACKET_BYTES_MIN {
            let message = format!("this MySQL takes {packet} bytes at once");
            return Err(
                Error::new(Kind::Unsupported, "connect", message).advise("Set max_allowed_packet to 16M")
            );
        }
        let server = Server {
            name: said.text("server")?.unwrap_or_default(),
            durable: yes(&mut said, "durable")?,
            packet: usize::try_from(packet).unwrap_or(usize::MAX),
        };
        let (made, occupied) = (yes(&mut said, "made")?, yes(&mut said, "occupied")?);
        Ok((see_to_schema(wire, settings, made, occupied).await?, server))
    }
}

fn yes(said: &mut Row, column: &'static str) -> Result<bool> {
    Ok(said.long(column)?.unwrap_or_default() != 0)
}

fn number(said: &mut Row, column: &'static str) -> Result<u64> {
    Ok(said.long(column)?.and_then(|number| u64::try_from(number).ok()).unwrap_or_default())
}

fn refuse_unusable(said: &mut Row) -> Result<()> {
    let refuse = |kind, message: &str, advice: &str| Err(Error::new(kind, "connect", message).advise(advice));
    let version = said.text("version")?.unwrap_or_default();
    if is_too_old(&version) {
        let advice = "Use MariaDB 10.6, MySQL 8.0.29, or newer";
        return refuse(Kind::Unsupported, &format!("this server is {version:?}"), advice);
    }
    if yes(said, "read_only")? {
        return refuse(Kind::Unavailable, READ_ONLY, "Name the primary in the backend URL");
    }
    if yes(said, "statements")? {
        let advice = "Set binlog_format to MIXED or ROW";
        return refuse(Kind::Unsupported, "its binary log takes statements only", advice);
    }
    Ok(())
}

fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    let found = [0; 3].map(|none: u32| numbers.next().unwrap_or(none));
    found < if version.contains("MariaDB") { MARIADB_MIN } else { MYSQL_MIN }
}

/// Makes the schema where it is missing or was not finished, and refuses another one.
async fn see_to_schema(wire: Wire, settings: &Settings, made: bool, occupied: bool) -> Result<Wire> {
    let (wire, layout) = if made { layout(wire).await? } else { (wire, None) };
    match layout {
        Some(Layout { version: FORMAT, finished: true }) => return Ok(wire),
        Some(Layout { version, .. }) if version != FORMAT => {
            let message = format!("the tables of Althing are of layout version {version}, not {FORMAT}");
            return Err(foreign(settings, &message)
                .advise("Run a host of the version that made them, or choose another database"));
        }
        None if occupied && !made => {
            return Err(foreign(settings, "there are tables named althing_ that hold something else")
                .advise("Choose another database, or rename them"));
        }
        _ if !settings.creates => {
            return Err(foreign(
                settings,
                "the tables of Althing are missing, and schema=given forbids making them",
            )
            .advise("Run what `althing drivers --schema mysql` prints, as somebody who may"));
        }
        _ => {}
    }
    create(wire).await.map_err(|error| error.with("database", &settings.database))
}

/// What the tables say of themselves.
struct Layout {
    version: i64,
    /// All of them are there, and all procedures.
    finished: bool,
}

async fn layout(wire: Wire) -> Result<(Wire, Option<Layout>)> {
    let question =
        "select cast(version as signed) as version, cast(finished as signed) as finished from althing_format";
    let (wire, row) = wire.ask(question.to_owned()).await?;
    let Some(mut row) = row else { return Ok((wire, None)) };
    let (version, finished) = (row.long("version")?.unwrap_or_default(), yes(&mut row, "finished")?);
    Ok((wire, Some(Layout { version, finished })))
}

/// Each statement is done or not by itself. The first ones say whose layout this is, and fail where another version was
/// faster; the last one says that all were done, and until then another host of this version goes on.
async fn create(mut wire: Wire) -> Result<Wire> {
    // A procedure remembers in which letters it was written.
    let letters = |names: &str| format!("set names {names}");
    let statements = schema::statements();
    for statement in [letters("utf8mb4")].into_iter().chain(statements).chain([letters("binary")]) {
        (wire, _) = wire.ask(statement).await?;
    }
    Ok(wire)
}

fn foreign(settings: &Settings, message: &str) -> Error {
    Error::new(Kind::Format, "connect", message).with("database", &settings.database)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_which_servers_are_too_old() {
        for new in ["10.11.19-MariaDB-0+deb12u1", "10.6.0-MariaDB", "11.4.2-MariaDB", "8.0.29", "8.4.0-log"] {
            assert!(!is_too_old(new), "{new}");
        }
        for old in ["10.5.9-MariaDB", "5.7.44-log", "8.0.28", "", "what"] {
            assert!(is_too_old(old), "{old}");
        }
    }
}
