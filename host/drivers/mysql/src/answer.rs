//! Answers of the server, and how they are read: nothing is taken on trust.

use althing_core::{Cause, Change, Error, Key, Kind, Record, Result, Revision, SessionId, Stamp};
use bytes::Bytes;

use crate::operation::Operation;
use crate::wire::{Reply, Row};

/// How many bytes a stamp is made of: two revisions.
const STAMP_BYTES: usize = 16;

/// What a procedure said about how it went.
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

/// What a procedure answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) operation: Operation,
    pub(crate) status: Status,
    /// The newest revision, where it told.
    pub(crate) revision: Option<u64>,
    head: Option<Row>,
    rows: Vec<Row>,
}

impl Answer {
    /// Reads the status. Fails with `Internal` on anything no procedure of ours answers.
    pub(crate) fn read(operation: Operation, reply: Reply) -> Result<Answer> {
        let Reply { head, rows } = reply;
        let mut answer = Answer { operation, status: Status::Changed, revision: None, head, rows };
        if answer.head.is_none() {
            // Found no namespace of ours.
            return Ok(answer);
        }
        answer.status = match answer.maybe_number("status")? {
            Some(1) => Status::Done,
            Some(0) => Status::Refused,
            Some(-1) => Status::SessionLost,
            Some(-2) => Status::Changed,
            Some(-3) => Status::Foreign,
            Some(2) => Status::Due,
            other => return Err(nonsense(operation, &format!("status {other:?}"))),
        };
        if answer.status == Status::Done {
            answer.revision = Some(answer.number("revision")?);
        }
        Ok(answer)
    }

    /// Reads a number that is not negative.
    pub(crate) fn number(&mut self, column: &'static str) -> Result<u64> {
        let number = self.maybe_number(column)?.ok_or_else(|| nonsense(self.operation, column))?;
        unsigned(self.operation, number)
    }

    /// Reads a number that may be missing.
    pub(crate) fn maybe_number(&mut self, column: &'static str) -> Result<Option<i64>> {
        self.head()?.long(column)
    }

    /// Returns the newest revision, of an operation that tells it.
    pub(crate) fn revision(&self) -> Result<Revision> {
        self.revision.map(Revision).ok_or_else(|| nonsense(self.operation, "no revision"))
    }

    pub(crate) fn flag(&mut self, column: &'static str) -> Result<bool> {
        Ok(self.number(column)? != 0)
    }

    /// Reads a number of sixteen bytes.
    pub(crate) fn bits(&mut self, column: &'static str) -> Result<u128> {
        let bytes = self.head()?.bytes(column)?;
        sixteen(self.operation, bytes)?.ok_or_else(|| nonsense(self.operation, column))
    }

    /// Reads the record at `key`, if the answer has one.
    pub(crate) fn record(mut self, key: Key) -> Result<Option<Record>> {
        let operation = self.operation;
        let head = self.head()?;
        let Some(created) = head.long("created")? else { return Ok(None) };
        let stamp = stamp(operation, Some(created), head.long("modified")?)?;
        let session = sixteen(operation, head.bytes("session")?)?.map(SessionId);
        let Some(value) = head.bytes("value")? else { return Err(nonsense(operation, "value")) };
        Ok(Some(Record { key, value, session, stamp }))
    }

    /// Reads the stamps of `count` writes.
    pub(crate) fn stamps(&mut self, count: usize) -> Result<Vec<Stamp>> {
        let bytes = self.head()?.bytes("stamps")?.unwrap_or_default();
        if bytes.len() != count * STAMP_BYTES {
            return Err(nonsense(self.operation, "a stamp for each write"));
        }
        let revision = |bytes: &[u8]| Revision(bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
        let stamp = |bytes: &[u8]| {
            let (created, modified) = bytes.split_at(STAMP_BYTES / 2);
            Stamp { created: revision(created), modified: revision(modified) }
        };
        Ok(bytes.chunks_exact(STAMP_BYTES).map(stamp).collect())
    }

    /// Reads the records of a page.
    pub(crate) fn records(&mut self) -> Result<Vec<Record>> {
        let rows = std::mem::take(&mut self.rows);
        let record = |mut row: Row| match part(self.operation, &mut row)? {
            (key, Some(value), session, stamp) => Ok(Record { key, value, session, stamp }),
            _ => Err(nonsense(self.operation, "a record without a value")),
        };
        rows.into_iter().map(record).collect()
    }

    /// Reads what changed.
    pub(crate) fn changes(&mut self) -> Result<Vec<Change>> {
        let rows = std::mem::take(&mut self.rows);
        rows.into_iter().map(|row| change(self.operation, row)).collect()
    }

    fn head(&mut self) -> Result<&mut Row> {
        self.head.as_mut().ok_or_else(|| nonsense(self.operation, "no row"))
    }
}

type Part = (Key, Option<Bytes>, Option<SessionId>, Stamp);

fn part(operation: Operation, row: &mut Row) -> Result<Part> {
    let key = row.bytes("name")?.ok_or_else(|| nonsense(operation, "name"))?;
    let stamp = stamp(operation, row.long("created")?, row.long("modified")?)?;
    let session = sixteen(operation, row.bytes("session")?)?.map(SessionId);
    Ok((Key::new(key), row.bytes("value")?, session, stamp))
}

fn change(operation: Operation, mut row: Row) -> Result<Change> {
    let (cause, revision) = (row.text("cause")?, row.long("revision")?);
    let (key, value, session, last) = part(operation, &mut row)?;
    let cause = match (cause.as_deref(), value) {
        (Some("p"), Some(value)) => return Ok(Change::Put(Record { key, value, session, stamp: last })),
        (Some("d"), None) => Cause::Deleted,
        (Some("c"), None) => Cause::Closed,
        (Some("e"), None) => Cause::Expired,
        (other, _) => return Err(nonsense(operation, &format!("cause {other:?}"))),
    };
    let revision = revision.ok_or_else(|| nonsense(operation, "a change without a revision"))?;
    Ok(Change::Deleted { key, last, revision: Revision(unsigned(operation, revision)?), cause })
}

fn stamp(operation: Operation, created: Option<i64>, modified: Option<i64>) -> Result<Stamp> {
    let revision = |number: Option<i64>| match number {
        Some(number) => unsigned(operation, number).map(Revision),
        None => Err(nonsense(operation, "a stamp")),
    };
    Ok(Stamp { created: revision(created)?, modified: revision(modified)? })
}

fn sixteen(operation: Operation, bytes: Option<Bytes>) -> Result<Option<u128>> {
    let Some(bytes) = bytes else { return Ok(None) };
    let bytes = bytes.as_ref().try_into().map_err(|_| nonsense(operation, "not sixteen bytes"))?;
    Ok(Some(u128::from_be_bytes(bytes)))
}

fn unsigned(operation: Operation, number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| nonsense(operation, &number.to_string()))
}

/// Makes the error that an answer is not what a procedure of ours gives. Whatever gave it may have written.
pub(crate) fn nonsense(operation: Operation, what: &str) -> Error {
    let message = format!("the server's answer makes no sense: {what}");
    let error = Error::new(Kind::Internal, operation.name(), message).advise(
        "Has somebody changed the tables or procedures althing_? They must be as this version makes them",
    );
    if operation.writes() { error.with_unknown_effect() } else { error }
}
