//! Answers of the server, and how they are read: nothing is taken on trust.

use althing_core::{Cause, Change, Error, Key, Kind, Record, Result, Revision, SessionId, Stamp};
use bytes::Bytes;

use crate::operation::Operation;
use crate::wire::Row;

/// What a function said about how it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Done,
    /// A guard did not hold, or the changes do not reach back far enough.
    Refused,
    SessionLost,
    /// The namespace is not the one we knew.
    Changed,
    Foreign,
    /// A session must be ended first.
    Due,
}

/// The one row that a function answers.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) operation: Operation,
    pub(crate) status: Status,
    row: Row,
}

/// The columns that are lists of one length each, of what records are made of.
struct Columns {
    keys: std::vec::IntoIter<Option<Bytes>>,
    created: std::vec::IntoIter<Option<i64>>,
    modified: std::vec::IntoIter<Option<i64>>,
    sessions: std::vec::IntoIter<Option<Bytes>>,
    values: std::vec::IntoIter<Option<Bytes>>,
}

impl Answer {
    /// Reads the status. Fails with `Internal` on anything no function of ours answers.
    pub(crate) fn read(operation: Operation, row: Row) -> Result<Answer> {
        let status = match row.int("status")? {
            Some(1) => Status::Done,
            Some(0) => Status::Refused,
            Some(-1) => Status::SessionLost,
            Some(-2) => Status::Changed,
            Some(-3) => Status::Foreign,
            Some(2) => Status::Due,
            other => return Err(nonsense(operation, &format!("status {other:?}"))),
        };
        Ok(Answer { operation, status, row })
    }

    /// Reads a number that is not negative.
    pub(crate) fn number(&self, column: &'static str) -> Result<u64> {
        self.maybe_number(column)?.ok_or_else(|| nonsense(self.operation, column))
    }

    /// Reads a number that may be missing.
    pub(crate) fn maybe_number(&self, column: &'static str) -> Result<Option<u64>> {
        self.row.long(column)?.map(|number| unsigned(self.operation, number)).transpose()
    }

    pub(crate) fn int(&self, column: &'static str) -> Result<i32> {
        self.row.int(column)?.ok_or_else(|| nonsense(self.operation, column))
    }

    pub(crate) fn revision(&self, column: &'static str) -> Result<Revision> {
        self.number(column).map(Revision)
    }

    pub(crate) fn flag(&self, column: &'static str) -> Result<bool> {
        self.row.flag(column)?.ok_or_else(|| nonsense(self.operation, column))
    }

    pub(crate) fn text(&self, column: &'static str) -> Result<String> {
        self.row.text(column)?.ok_or_else(|| nonsense(self.operation, column))
    }

    /// Reads the record at `key`, if the row has one.
    pub(crate) fn record(&self, key: Key) -> Result<Option<Record>> {
        let Some(created) = self.row.long("created")? else { return Ok(None) };
        let (modified, session) = (self.row.long("modified")?, self.row.bytes("session")?);
        let stamp = stamp(self.operation, Some(created), modified)?;
        let Some(value) = self.row.bytes("value")? else { return Err(nonsense(self.operation, "value")) };
        Ok(Some(Record { key, value, session: owner(self.operation, session)?, stamp }))
    }

    /// Reads the stamps of `count` writes.
    pub(crate) fn stamps(&self, count: usize) -> Result<Vec<Stamp>> {
        let (created, modified) = (self.row.longs("created")?, self.row.longs("modified")?);
        if created.len() != count || modified.len() != count {
            return Err(nonsense(self.operation, "a stamp for each write"));
        }
        created.into_iter().zip(modified).map(|(one, two)| stamp(self.operation, one, two)).collect()
    }

    /// Reads the records of a page.
    pub(crate) fn records(&self) -> Result<Vec<Record>> {
        let mut columns = self.columns()?;
        std::iter::from_fn(|| columns.next(self.operation).transpose())
            .map(|record| match record? {
                (key, Some(value), session, stamp) => Ok(Record { key, value, session, stamp }),
                _ => Err(nonsense(self.operation, "a record without a value")),
            })
            .collect()
    }

    /// Reads what changed.
    pub(crate) fn changes(&self) -> Result<Vec<Change>> {
        let mut columns = self.columns()?;
        let (revisions, causes) = (self.row.longs("revisions")?, self.row.texts("causes")?);
        let mut changes = Vec::with_capacity(revisions.len());
        for (revision, cause) in revisions.into_iter().zip(causes) {
            let (Some(revision), Some(part)) = (revision, columns.next(self.operation)?) else {
                return Err(nonsense(self.operation, "lists of one length"));
            };
            changes.push(change(self.operation, cause.as_deref(), revision, part)?);
        }
        Ok(changes)
    }

    fn columns(&self) -> Result<Columns> {
        Ok(Columns {
            keys: self.row.bytes_list("keys")?.into_iter(),
            created: self.row.longs("created")?.into_iter(),
            modified: self.row.longs("modified")?.into_iter(),
            sessions: self.row.bytes_list("sessions")?.into_iter(),
            values: self.row.bytes_list("vals")?.into_iter(),
        })
    }
}

type Part = (Key, Option<Bytes>, Option<SessionId>, Stamp);

impl Columns {
    fn next(&mut self, operation: Operation) -> Result<Option<Part>> {
        let Some(key) = self.keys.next() else { return Ok(None) };
        let lists = (self.created.next(), self.modified.next(), self.sessions.next(), self.values.next());
        let (Some(key), (Some(created), Some(modified), Some(session), Some(value))) = (key, lists) else {
            return Err(nonsense(operation, "lists of one length"));
        };
        let stamp = stamp(operation, created, modified)?;
        Ok(Some((Key::new(key), value, owner(operation, session)?, stamp)))
    }
}

fn change(operation: Operation, cause: Option<&str>, revision: i64, part: Part) -> Result<Change> {
    let (key, value, session, last) = part;
    let cause = match (cause, value) {
        (Some("p"), Some(value)) => return Ok(Change::Put(Record { key, value, session, stamp: last })),
        (Some("d"), None) => Cause::Deleted,
        (Some("c"), None) => Cause::Closed,
        (Some("e"), None) => Cause::Expired,
        (other, _) => return Err(nonsense(operation, &format!("cause {other:?}"))),
    };
    Ok(Change::Deleted { key, last, revision: Revision(unsigned(operation, revision)?), cause })
}

fn stamp(operation: Operation, created: Option<i64>, modified: Option<i64>) -> Result<Stamp> {
    let revision = |number: Option<i64>| match number {
        Some(number) => unsigned(operation, number).map(Revision),
        None => Err(nonsense(operation, "a stamp")),
    };
    Ok(Stamp { created: revision(created)?, modified: revision(modified)? })
}

fn owner(operation: Operation, session: Option<Bytes>) -> Result<Option<SessionId>> {
    let Some(session) = session else { return Ok(None) };
    let bytes = session.as_ref().try_into().map_err(|_| nonsense(operation, "a session of 16 bytes"))?;
    Ok(Some(SessionId(u128::from_be_bytes(bytes))))
}

fn unsigned(operation: Operation, number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| nonsense(operation, &number.to_string()))
}

/// Makes the error that an answer is not what a function of ours gives. Whatever gave it may have written.
pub(crate) fn nonsense(operation: Operation, what: &str) -> Error {
    let message = format!("the server's answer makes no sense: {what}");
    let error = Error::new(Kind::Internal, operation.name(), message)
        .advise("Has somebody changed the schema althing? It must be as this version makes it");
    if operation.writes() { error.with_unknown_effect() } else { error }
}
