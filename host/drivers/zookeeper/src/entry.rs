//! An entry of the log: what one commit changed, as bytes.
//!
//! An entry does not know its own revision, which is that of its node. A small value stands in it; of a large
//! one only that it was written: who wants it reads the record, and sees by its stamp whether it is that value.

use althing_core::{Cause, Change, Key, Record, Result, Revision, SessionId, Stamp};
use bytes::{Buf, BufMut, Bytes};

use crate::layout::foreign;

/// The values of one entry that stand in it, in bytes.
const INLINE_BYTES_MAX: usize = 4096;

/// A change as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Put {
        key: Key,
        session: Option<SessionId>,
        /// `None`: this entry began the incarnation.
        created: Option<Revision>,
        /// `None`: too large for the log.
        value: Option<Bytes>,
    },
    Deleted {
        key: Key,
        last: Stamp,
        cause: Cause,
    },
}

impl Line {
    pub(crate) fn key(&self) -> &Key {
        match self {
            Line::Put { key, .. } | Line::Deleted { key, .. } => key,
        }
    }

    /// Returns the change that this line of the entry at `revision` tells. `None` where the value is missing.
    pub(crate) fn change(self, revision: Revision) -> Option<Change> {
        match self {
            Line::Put { key, session, created, value } => {
                let stamp = Stamp { created: created.unwrap_or(revision), modified: revision };
                Some(Change::Put(Record { key, value: value?, session, stamp }))
            }
            Line::Deleted { key, last, cause } => Some(Change::Deleted { key, last, revision, cause }),
        }
    }
}

/// Makes the data of an entry. Values go into it as far as there is room.
pub(crate) fn write(lines: &[Line]) -> Vec<u8> {
    let (mut data, mut room) = (vec![1], INLINE_BYTES_MAX);
    for line in lines {
        match line {
            Line::Put { key, session, created, value } => {
                let value = value.as_ref().filter(|value| value.len() <= room);
                room -= value.map_or(0, Bytes::len);
                data.put_u8(1);
                put_bytes(&mut data, key.as_bytes());
                data.put_u8(session.is_some().into());
                data.put_u128(session.map_or(0, |session| session.0));
                data.put_u64(created.map_or(0, |created| created.0));
                data.put_u8(value.is_some().into());
                put_bytes(&mut data, value.map_or(&[], |value| value));
            }
            Line::Deleted { key, last, cause } => {
                data.put_u8(2);
                put_bytes(&mut data, key.as_bytes());
                data.put_u64(last.created.0);
                data.put_u64(last.modified.0);
                data.put_u8(cause_byte(*cause));
            }
        }
    }
    data
}

/// Reads what [`write`] made.
pub(crate) fn read(mut data: Bytes) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    if take_u8(&mut data)? != 1 {
        return Err(broken());
    }
    while data.has_remaining() {
        lines.push(match take_u8(&mut data)? {
            1 => read_put(&mut data)?,
            2 => {
                let key = Key::new(take_bytes(&mut data)?);
                let (created, modified) = (Revision(take_u64(&mut data)?), Revision(take_u64(&mut data)?));
                let cause = cause_of(take_u8(&mut data)?)?;
                Line::Deleted { key, last: Stamp { created, modified }, cause }
            }
            _ => return Err(broken()),
        });
    }
    Ok(lines)
}

fn read_put(data: &mut Bytes) -> Result<Line> {
    let key = Key::new(take_bytes(data)?);
    let owned = take_u8(data)? == 1;
    let session = SessionId(data.try_get_u128().map_err(|_| broken())?);
    let created = take_u64(data)?;
    let inline = take_u8(data)? == 1;
    let value = take_bytes(data)?;
    Ok(Line::Put {
        key,
        session: owned.then_some(session),
        created: (created != 0).then_some(Revision(created)),
        value: inline.then_some(value),
    })
}

/// Returns the byte by which a cause is written; never 0.
pub(crate) fn cause_byte(cause: Cause) -> u8 {
    match cause {
        Cause::Deleted => 1,
        Cause::Closed => 2,
        Cause::Expired => 3,
    }
}

/// Reads what [`cause_byte`] wrote.
pub(crate) fn cause_of(byte: u8) -> Result<Cause> {
    match byte {
        1 => Ok(Cause::Deleted),
        2 => Ok(Cause::Closed),
        3 => Ok(Cause::Expired),
        _ => Err(broken()),
    }
}

fn put_bytes(data: &mut Vec<u8>, bytes: &[u8]) {
    // Nothing that is written here comes near four gigabytes: the store refuses one megabyte.
    data.put_u32(bytes.len() as u32);
    data.put_slice(bytes);
}

fn take_bytes(data: &mut Bytes) -> Result<Bytes> {
    let length = data.try_get_u32().map_err(|_| broken())? as usize;
    if length > data.remaining() {
        return Err(broken());
    }
    Ok(data.split_to(length))
}

fn take_u8(data: &mut Bytes) -> Result<u8> {
    data.try_get_u8().map_err(|_| broken())
}

fn take_u64(data: &mut Bytes) -> Result<u64> {
    data.try_get_u64().map_err(|_| broken())
}

fn broken() -> althing_core::Error {
    foreign("an entry of the log")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: Bytes) -> Line {
        Line::Put { key: key.into(), session: Some(SessionId(7)), created: None, value: Some(value) }
    }

    #[test]
    fn comes_back_as_it_was_written() {
        let last = Stamp { created: Revision(3), modified: Revision(u64::MAX) };
        let lines = vec![
            put("a", Bytes::from_static(b"\0value")),
            Line::Put { key: Key::default(), session: None, created: Some(Revision(9)), value: None },
            Line::Deleted { key: "b".into(), last, cause: Cause::Closed },
        ];
        assert_eq!(read(write(&lines).into()).unwrap(), lines);
    }

    #[test]
    fn keeps_small_values_and_leaves_out_what_has_no_room() {
        let lines = [put("large", vec![0; 4097].into()), put("small", vec![0; 4000].into())];
        let read = read(write(&lines).into()).unwrap();
        assert!(matches!(&read[0], Line::Put { value: None, .. }));
        assert_eq!(read[1], lines[1]);
    }

    #[test]
    fn any_cut_is_noticed_and_none_panics() {
        let lines = [put("a", Bytes::from_static(b"value"))];
        let whole = write(&lines);
        let read_cut = |length: usize| read(Bytes::copy_from_slice(&whole[..length]));
        // Nothing but the version is an entry of no changes.
        let cuts = (0..whole.len()).filter(|length| *length != 1);
        assert!(
            cuts.map(read_cut)
                .all(|result| result.is_err_and(|error| error.kind() == althing_core::Kind::Format))
        );
    }
}
