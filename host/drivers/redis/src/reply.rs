//! Answers of the server, and how they are read: nothing is taken on trust.

use std::sync::Arc;

use althing_core::{Cause, Change, Error, Key, Kind, Record, Result, Revision, SessionId, Stamp};
use bytes::Bytes;

/// The digits, twice, and the letters of a session that stand before the value of a record.
const HEADER: usize = 64;
const DIGITS: usize = 16;
/// What stands in place of a session that a record has not.
const NOBODY: &[u8] = &[b'-'; 32];

/// One value of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Nil,
    Integer(i64),
    Bytes(Bytes),
    List(Vec<Reply>),
}

/// What a script said about how it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Done,
    /// A guard did not hold, or a log does not reach back far enough.
    Refused,
    SessionLost,
    /// The store is not the one we knew.
    Changed,
    Foreign,
    /// The server is a former master, which others have left.
    Stale,
}

/// The answer of a script, read from front to back.
#[derive(Debug)]
pub(crate) struct Answer {
    operation: &'static str,
    /// The incarnation of the store that gave it.
    pub(crate) incarnation: Arc<str>,
    pub(crate) status: Status,
    pub(crate) revision: Revision,
    rest: std::vec::IntoIter<Reply>,
}

impl Answer {
    /// Reads status and revision. Fails with `Internal` on anything no script of ours answers.
    pub(crate) fn read(operation: &'static str, incarnation: Arc<str>, reply: Reply) -> Result<Answer> {
        let Reply::List(list) = reply else { return Err(nonsense(operation, &reply)) };
        let mut answer = Answer {
            operation,
            incarnation,
            status: Status::Done,
            revision: Revision::ZERO,
            rest: list.into_iter(),
        };
        answer.status = match answer.integer()? {
            1 => Status::Done,
            0 => Status::Refused,
            -1 => Status::SessionLost,
            -2 => Status::Changed,
            -3 => Status::Foreign,
            -4 => Status::Stale,
            other => return Err(nonsense(operation, &Reply::Integer(other))),
        };
        answer.revision = answer.revision()?;
        Ok(answer)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.as_slice().is_empty()
    }

    pub(crate) fn integer(&mut self) -> Result<i64> {
        match self.next()? {
            Reply::Integer(integer) => Ok(integer),
            other => Err(nonsense(self.operation, &other)),
        }
    }

    pub(crate) fn unsigned(&mut self) -> Result<u64> {
        let integer = self.integer()?;
        u64::try_from(integer).map_err(|_| nonsense(self.operation, &Reply::Integer(integer)))
    }

    pub(crate) fn revision(&mut self) -> Result<Revision> {
        self.unsigned().map(Revision)
    }

    pub(crate) fn stamp(&mut self) -> Result<Stamp> {
        Ok(Stamp { created: self.revision()?, modified: self.revision()? })
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes> {
        match self.next()? {
            Reply::Bytes(bytes) => Ok(bytes),
            other => Err(nonsense(self.operation, &other)),
        }
    }

    pub(crate) fn text(&mut self) -> Result<String> {
        let bytes = self.bytes()?;
        String::from_utf8(bytes.to_vec()).map_err(|_| nonsense(self.operation, &Reply::Bytes(bytes)))
    }

    /// Reads the record of `key`, where there is one.
    pub(crate) fn record(&mut self, key: Key) -> Result<Option<Record>> {
        match self.next()? {
            Reply::Nil => Ok(None),
            Reply::Bytes(raw) => record(key, &raw).ok_or_else(|| foreign(self.operation, &raw)).map(Some),
            other => Err(nonsense(self.operation, &other)),
        }
    }

    /// Reads one change of the log.
    pub(crate) fn change(&mut self) -> Result<Change> {
        let revision = self.revision()?;
        let key = Key::new(self.bytes()?);
        let cause = match self.bytes()?.as_ref() {
            b"p" => None,
            b"d" => Some(Cause::Deleted),
            b"c" => Some(Cause::Closed),
            b"e" => Some(Cause::Expired),
            other => return Err(foreign(self.operation, other)),
        };
        let raw = self.bytes()?;
        let change = match cause {
            None => record(key, &raw).map(Change::Put),
            Some(cause) => stamp(&raw).map(|last| Change::Deleted { key, last, revision, cause }),
        };
        change.ok_or_else(|| foreign(self.operation, &raw))
    }

    fn next(&mut self) -> Result<Reply> {
        self.rest.next().ok_or_else(|| nonsense(self.operation, &Reply::List(vec![])))
    }
}

/// Writes a stamp as it stands before a record.
pub(crate) fn stamp_text(stamp: Stamp) -> String {
    format!("{:0DIGITS$}{:0DIGITS$}", stamp.created.0, stamp.modified.0)
}

fn record(key: Key, raw: &Bytes) -> Option<Record> {
    let session = match raw.get(2 * DIGITS..HEADER)? {
        NOBODY => None,
        letters => Some(std::str::from_utf8(letters).ok()?.parse::<SessionId>().ok()?),
    };
    Some(Record { key, value: raw.slice(HEADER..), session, stamp: stamp(raw)? })
}

fn stamp(raw: &[u8]) -> Option<Stamp> {
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok().map(Revision);
    Some(Stamp { created: number(raw.get(..DIGITS)?)?, modified: number(raw.get(DIGITS..2 * DIGITS)?)? })
}

/// Makes the error that the server answered something no script of ours answers. The script has run.
fn nonsense(operation: &'static str, reply: &Reply) -> Error {
    let what = match reply {
        Reply::Nil => "nothing".to_owned(),
        Reply::Integer(integer) => format!("the number {integer}"),
        Reply::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Reply::List(list) => format!("a list of {}", list.len()),
    };
    Error::new(Kind::Internal, operation, format!("Redis answered {what} where that makes no sense"))
        .with_unknown_effect()
}

fn foreign(operation: &'static str, raw: &[u8]) -> Error {
    let start = raw[..raw.len().min(HEADER)].escape_ascii();
    Error::new(Kind::Format, operation, "a record that Althing did not write").with("starts", start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(list: Vec<Reply>) -> Result<Answer> {
        Answer::read("get", "i".into(), Reply::List(list))
    }

    #[test]
    fn reads_a_record_as_the_scripts_write_it() {
        let stamp = Stamp { created: Revision(3), modified: Revision(7) };
        let raw = format!("{}{}value", stamp_text(stamp), SessionId(9));
        let reply = Reply::Bytes(raw.into());
        let mut answer = answer(vec![Reply::Integer(1), Reply::Integer(8), reply]).unwrap();
        let record = answer.record("k".into()).unwrap().unwrap();
        assert_eq!((record.value.as_ref(), record.session), (&b"value"[..], Some(SessionId(9))));
        assert_eq!((record.stamp, answer.revision), (stamp, Revision(8)));
    }

    #[test]
    fn refuses_what_no_script_answers() {
        for list in
            [vec![], vec![Reply::Nil], vec![Reply::Integer(5), Reply::Integer(1)], vec![Reply::Integer(1)]]
        {
            assert_eq!(answer(list).unwrap_err().kind(), Kind::Internal);
        }
        let short = Reply::Bytes("short".into());
        let mut answer = answer(vec![Reply::Integer(1), Reply::Integer(8), short]).unwrap();
        assert_eq!(answer.record("k".into()).unwrap_err().kind(), Kind::Format);
    }
}
