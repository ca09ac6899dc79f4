//! What stands in the log, and how it is written in bytes. Nothing read is taken on trust.

use std::time::Duration;

use althing_core::{BootTime, Cause, Guard, Key, Record, Revision, SessionId, Stamp, Txn, Write};
use bytes::Bytes;

/// One step of the namespace. Whoever reads the log does the same step, and comes to the same state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A transaction, written if its guards hold when it is read. Its revision is above `above` too.
    Commit { above: Revision, txn: Txn },
    /// A session begins.
    Open { above: Revision, id: SessionId, lease: Duration, deadline: BootTime },
    /// A session is renewed, if it has not ended.
    Beat { id: SessionId, deadline: BootTime },
    /// A session ends; where `due` is said, only if that is its deadline still.
    End { id: SessionId, due: Option<BootTime>, cause: Cause },
    /// What stands behind this does not count: the next file goes on.
    Seal,
    /// A part of the state with which a file begins.
    Part { sessions: Vec<Alive>, records: Vec<Record> },
}

/// A session in a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alive {
    pub(crate) id: SessionId,
    pub(crate) lease: Duration,
    pub(crate) deadline: BootTime,
}

const COMMIT: u8 = b'C';
const OPEN: u8 = b'O';
const BEAT: u8 = b'B';
const END: u8 = b'E';
const SEAL: u8 = b'S';
const PART: u8 = b'P';

impl Entry {
    /// Writes it in bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Entry::Commit { above, txn } => {
                out.push(COMMIT);
                put_long(&mut out, above.0);
                put_all(&mut out, &txn.guards, put_guard);
                put_all(&mut out, &txn.writes, put_write);
            }
            Entry::Open { above, id, lease, deadline } => {
                out.push(OPEN);
                put_long(&mut out, above.0);
                put_alive(&mut out, &Alive { id: *id, lease: *lease, deadline: *deadline });
            }
            Entry::Beat { id, deadline } => {
                out.push(BEAT);
                out.extend_from_slice(&id.0.to_le_bytes());
                put_time(&mut out, deadline.as_duration());
            }
            Entry::End { id, due, cause } => {
                out.push(END);
                out.extend_from_slice(&id.0.to_le_bytes());
                out.push(u8::from(due.is_some()));
                put_time(&mut out, due.unwrap_or_default().as_duration());
                out.push(cause_byte(*cause));
            }
            Entry::Seal => out.push(SEAL),
            Entry::Part { sessions, records } => {
                out.push(PART);
                put_all(&mut out, sessions, put_alive);
                put_all(&mut out, records, put_record);
            }
        }
        out
    }

    /// Reads what [`Entry::encode`] wrote. `None` for anything else, such as what a newer version writes.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Entry> {
        let mut input = Input(bytes);
        let entry = match input.byte()? {
            COMMIT => Entry::Commit {
                above: Revision(input.long()?),
                txn: Txn { guards: input.all(Input::guard)?, writes: input.all(Input::write)? },
            },
            OPEN => {
                let above = Revision(input.long()?);
                let Alive { id, lease, deadline } = input.alive()?;
                Entry::Open { above, id, lease, deadline }
            }
            BEAT => Entry::Beat { id: input.id()?, deadline: input.moment()? },
            END => {
                let (id, is_due, moment) = (input.id()?, input.flag()?, input.moment()?);
                Entry::End { id, due: is_due.then_some(moment), cause: input.cause()? }
            }
            SEAL => Entry::Seal,
            PART => Entry::Part { sessions: input.all(Input::alive)?, records: input.all(Input::record)? },
            _ => return None,
        };
        input.0.is_empty().then_some(entry)
    }
}

fn put_long(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_time(out: &mut Vec<u8>, time: Duration) {
    put_long(out, time.as_nanos().min(u128::from(u64::MAX)) as u64);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_all<T>(out: &mut Vec<u8>, all: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    out.extend_from_slice(&(all.len() as u32).to_le_bytes());
    all.iter().for_each(|one| put(out, one));
}

fn put_stamp(out: &mut Vec<u8>, stamp: Stamp) {
    put_long(out, stamp.created.0);
    put_long(out, stamp.modified.0);
}

fn put_owner(out: &mut Vec<u8>, session: Option<SessionId>) {
    out.push(u8::from(session.is_some()));
    out.extend_from_slice(&session.map_or(0, |id| id.0).to_le_bytes());
}

fn put_alive(out: &mut Vec<u8>, alive: &Alive) {
    out.extend_from_slice(&alive.id.0.to_le_bytes());
    put_time(out, alive.lease);
    put_time(out, alive.deadline.as_duration());
}

fn put_guard(out: &mut Vec<u8>, guard: &Guard) {
    put_bytes(out, guard.key().as_bytes());
    match guard {
        Guard::Absent(_) => out.push(0),
        Guard::Unchanged(_, stamp) => {
            out.push(1);
            put_stamp(out, *stamp);
        }
    }
}

fn put_write(out: &mut Vec<u8>, write: &Write) {
    put_bytes(out, write.key().as_bytes());
    match write {
        Write::Delete(_) => out.push(0),
        Write::Put { value, session, .. } => {
            out.push(1);
            put_bytes(out, value);
            put_owner(out, *session);
        }
    }
}

fn put_record(out: &mut Vec<u8>, record: &Record) {
    put_bytes(out, record.key.as_bytes());
    put_bytes(out, &record.value);
    put_owner(out, record.session);
    put_stamp(out, record.stamp);
}

fn cause_byte(cause: Cause) -> u8 {
    match cause {
        Cause::Deleted => 0,
        Cause::Closed => 1,
        Cause::Expired => 2,
    }
}

/// Bytes being read from their beginning.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn short(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    fn id(&mut self) -> Option<SessionId> {
        self.take(16)?.try_into().ok().map(u128::from_le_bytes).map(SessionId)
    }

    fn moment(&mut self) -> Option<BootTime> {
        self.long().map(Duration::from_nanos).map(BootTime::new)
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let length = self.short()?;
        self.take(length as usize).map(Bytes::copy_from_slice)
    }

    fn all<T>(&mut self, read: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        // Collected one by one: a count that lies allocates nothing.
        (0..self.short()?).map(|_| read(self)).collect()
    }

    fn stamp(&mut self) -> Option<Stamp> {
        Some(Stamp { created: Revision(self.long()?), modified: Revision(self.long()?) })
    }

    fn owner(&mut self) -> Option<Option<SessionId>> {
        let (owned, id) = (self.flag()?, self.id()?);
        Some(owned.then_some(id))
    }

    fn alive(&mut self) -> Option<Alive> {
        let id = self.id()?;
        Some(Alive { id, lease: Duration::from_nanos(self.long()?), deadline: self.moment()? })
    }

    fn guard(&mut self) -> Option<Guard> {
        let key = Key::new(self.bytes()?);
        Some(if self.flag()? { Guard::Unchanged(key, self.stamp()?) } else { Guard::Absent(key) })
    }

    fn write(&mut self) -> Option<Write> {
        let key = Key::new(self.bytes()?);
        Some(match self.flag()? {
            true => Write::Put { key, value: self.bytes()?, session: self.owner()? },
            false => Write::Delete(key),
        })
    }

    fn record(&mut self) -> Option<Record> {
        let (key, value) = (Key::new(self.bytes()?), self.bytes()?);
        Some(Record { key, value, session: self.owner()?, stamp: self.stamp()? })
    }

    fn cause(&mut self) -> Option<Cause> {
        [Cause::Deleted, Cause::Closed, Cause::Expired].get(usize::from(self.byte()?)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Entry> {
        let (id, lease) = (SessionId(u128::MAX - 1), Duration::from_millis(1500));
        let deadline = BootTime::new(Duration::from_nanos(u64::MAX));
        let stamp = Stamp { created: Revision(3), modified: Revision(u64::MAX) };
        let key = || Key::new(vec![0, 255, b'/']);
        let txn = Txn::new()
            .guard(Guard::Absent(Key::default()))
            .guard(Guard::Unchanged(key(), stamp))
            .put(key(), "")
            .put_owned("k".into(), vec![7; 300], id)
            .delete("gone".into());
        let record = |session| Record { key: key(), value: "v".into(), session, stamp };
        vec![
            Entry::Commit { above: Revision(9), txn },
            Entry::Open { above: Revision::ZERO, id, lease, deadline },
            Entry::Beat { id, deadline },
            Entry::End { id, due: Some(deadline), cause: Cause::Expired },
            Entry::End { id, due: None, cause: Cause::Closed },
            Entry::Seal,
            Entry::Part {
                sessions: vec![Alive { id, lease, deadline }],
                records: vec![record(None), record(Some(id))],
            },
        ]
    }

    #[test]
    fn reads_what_it_wrote_and_nothing_else() {
        for entry in samples() {
            let bytes = entry.encode();
            assert_eq!(Entry::decode(&bytes), Some(entry));
            for length in 0..bytes.len() {
                assert_eq!(Entry::decode(&bytes[..length]), None);
            }
            assert_eq!(Entry::decode(&[&bytes[..], b"x"].concat()), None);
        }
        assert_eq!(Entry::decode(b"Z"), None);
    }
}
