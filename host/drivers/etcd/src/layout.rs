//! Where things lie in etcd, and in which bytes.
//!
//! Below `althing/<namespace>/` lie `meta` (layout version and incarnation), `tick` (written by a commit that writes
//! nothing else, so that it has a revision), `end/<session>` (the session is being closed; bound to its lease, so that it
//! goes with the session's records and tells their watchers why), and `r/<place>`, the records.
//!
//! A record has one of two places. A put under its owner overwrites it; a put under another owner deletes it from
//! one place and makes it at the other, in one transaction. So etcd's own revisions of creation and modification *are*
//! the record's stamp, and its lease is its owner: all that a guard asks can be compared without reading a value.

use std::ops::Range;

use althing_core::{Error, Key, Kind, Record, Result, Revision, SessionId, Stamp};
use bytes::Bytes;

use crate::proto::KeyValue;

/// The layout of the records. Another number is another layout.
pub(crate) const FORMAT: &str = "1";
/// What ends the name of a record, before the number of its place. Lower than any byte that goes on in a longer name.
const END: [u8; 2] = [0, 1];
/// What stands for a byte 0 in a name.
const ZERO: [u8; 2] = [0, 0xFF];

/// Which of the two places of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

impl Side {
    pub(crate) fn other(self) -> Side {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }
}

/// What a key of etcd is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Record(Key, Side),
    /// The session is being closed.
    End(SessionId),
    /// No matter of watchers.
    Other,
}

/// The names below one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: Vec<u8>,
}

impl Layout {
    pub(crate) fn new(namespace: &str) -> Layout {
        Layout { root: Key::path(["althing", namespace]).below().as_bytes().to_vec() }
    }

    /// Returns everything of the namespace.
    pub(crate) fn all(&self) -> Range<Bytes> {
        self.root.clone().into()..after_prefix(&self.root)
    }

    pub(crate) fn meta(&self) -> Bytes {
        self.at(b"meta")
    }

    pub(crate) fn tick(&self) -> Bytes {
        self.at(b"tick")
    }

    pub(crate) fn end(&self, id: SessionId) -> Bytes {
        self.at(format!("end/{id}").as_bytes())
    }

    /// Returns the place of a record.
    pub(crate) fn place(&self, key: &Key, side: Side) -> Bytes {
        let mut name = self.record(key);
        name.extend(END);
        name.push(side as u8);
        name.into()
    }

    /// Returns both places of a record.
    pub(crate) fn places(&self, key: &Key) -> Range<Bytes> {
        let mut name = self.record(key);
        name.extend(END);
        after(name)
    }

    /// Returns the places of all records whose keys begin with `prefix` and come after `last`.
    pub(crate) fn below(&self, prefix: &Key, last: Option<&Key>) -> Range<Bytes> {
        let prefix_name = self.record(prefix);
        let start = match last.filter(|last| *last >= prefix) {
            Some(last) => self.places(last).end,
            None => prefix_name.clone().into(),
        };
        start..after_prefix(&prefix_name)
    }

    /// Tells what a key of etcd in this namespace is for.
    pub(crate) fn read(&self, name: &[u8]) -> Result<Use> {
        let Some(rest) = name.strip_prefix(self.root.as_slice()) else { return Ok(Use::Other) };
        if let Some(id) = rest.strip_prefix(b"end/") {
            let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
            return id.map(Use::End).ok_or_else(|| foreign(name));
        }
        match rest.strip_prefix(b"r/") {
            None => Ok(Use::Other),
            Some(place) => {
                read_place(place).map(|(key, side)| Use::Record(key, side)).ok_or_else(|| foreign(name))
            }
        }
    }

    /// Reads a record that was found at a place.
    pub(crate) fn record_of(&self, kv: KeyValue) -> Result<Record> {
        let Use::Record(key, _) = self.read(&kv.key)? else { return Err(foreign(&kv.key)) };
        let session = owner(&kv)?;
        let skip = if session.is_some() { OWNED.len() + ID_BYTES } else { FREE.len() };
        Ok(Record { key, value: kv.value.slice(skip..), session, stamp: stamp(&kv) })
    }

    fn record(&self, key: &Key) -> Vec<u8> {
        let mut name = self.root.clone();
        name.extend(b"r/");
        for byte in key.as_bytes() {
            match byte {
                0 => name.extend(ZERO),
                byte => name.push(*byte),
            }
        }
        name
    }

    fn at(&self, name: &[u8]) -> Bytes {
        [&self.root, name].concat().into()
    }
}

/// Returns the lease that stands for a session: 63 bits of its name. Whoever looks for the session looks for its
/// record too, which names all of it.
pub(crate) fn lease(id: SessionId) -> i64 {
    ((id.0 as u64 & i64::MAX as u64) as i64).max(1)
}

/// Returns the lease that a record of this owner is bound to; 0 is none.
pub(crate) fn lease_of(owner: Option<SessionId>) -> i64 {
    owner.map_or(0, lease)
}

pub(crate) fn stamp(kv: &KeyValue) -> Stamp {
    Stamp { created: revision(kv.create_revision), modified: revision(kv.mod_revision) }
}

/// Reads a revision; etcd counts them from 1.
pub(crate) fn revision(number: i64) -> Revision {
    Revision(number.unsigned_abs())
}

/// Returns a revision as etcd takes it; one that no etcd can have is one that none has yet.
pub(crate) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

const FREE: [u8; 1] = [0];
const OWNED: [u8; 1] = [1];
const ID_BYTES: usize = 16;

/// Makes the value of a record's place: who owns it, then its value.
pub(crate) fn value(owner: Option<SessionId>, value: &[u8]) -> Bytes {
    match owner {
        None => [&FREE, value].concat().into(),
        Some(SessionId(id)) => [&OWNED[..], &id.to_be_bytes(), value].concat().into(),
    }
}

/// Reads who owns a record.
pub(crate) fn owner(kv: &KeyValue) -> Result<Option<SessionId>> {
    if kv.value.starts_with(&FREE) {
        return Ok(None);
    }
    let id = kv.value.strip_prefix(&OWNED).and_then(|rest| rest.first_chunk::<ID_BYTES>());
    id.map(|id| Some(SessionId(u128::from_be_bytes(*id)))).ok_or_else(|| foreign(&kv.key))
}

fn read_place(place: &[u8]) -> Option<(Key, Side)> {
    let (last, name) = place.split_last()?;
    let side = [Side::Left, Side::Right].into_iter().find(|side| *side as u8 == *last)?;
    let mut name = name.strip_suffix(&END)?;
    let mut key = Vec::with_capacity(name.len());
    while let Some((first, rest)) = name.split_first() {
        key.push(*first);
        name = if *first == 0 { rest.strip_prefix(&ZERO[1..])? } else { rest };
    }
    Some((Key::new(key), side))
}

fn after(prefix: Vec<u8>) -> Range<Bytes> {
    let end = after_prefix(&prefix);
    prefix.into()..end
}

/// Returns the first name that does not begin with `prefix`: its last byte that can rise, raised. Every prefix of ours
/// begins with a letter, so there is one.
fn after_prefix(prefix: &[u8]) -> Bytes {
    let length = prefix.iter().rposition(|byte| *byte != u8::MAX).map_or(0, |last| last + 1);
    let mut name = prefix[..length].to_vec();
    if let Some(last) = name.last_mut() {
        *last += 1;
    }
    name.into()
}

fn foreign(name: &[u8]) -> Error {
    Error::new(Kind::Format, "read", "the namespace holds what Althing did not write")
        .with("etcd key", name.escape_ascii())
        .advise("Remove that key from etcd; nobody else may write below the namespace")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<Key> {
        let mut names: Vec<Vec<u8>> = vec![vec![], vec![0], vec![0, 0], vec![0, 1], vec![0, 255], vec![255]];
        names.extend([
            b"a".to_vec(),
            b"a\0".to_vec(),
            b"a\0\x01".to_vec(),
            b"a\x01".to_vec(),
            b"a/".to_vec(),
        ]);
        names.sort();
        names.into_iter().map(Key::new).collect()
    }

    #[test]
    fn places_are_in_the_order_of_keys_and_come_back() {
        let layout = Layout::new("n/o");
        let places: Vec<Bytes> = names()
            .iter()
            .flat_map(|key| [Side::Left, Side::Right].map(|side| layout.place(key, side)))
            .collect();
        assert!(places.is_sorted_by(|left, right| left < right));
        for key in names() {
            let side = Side::Right;
            assert_eq!(layout.read(&layout.place(&key, side)).unwrap(), Use::Record(key, side));
        }
    }

    #[test]
    fn a_range_holds_what_begins_with_the_prefix_and_comes_after_a_key() {
        let layout = Layout::new("n");
        for prefix in names() {
            for last in names().iter().map(Some).chain([None]) {
                let range = layout.below(&prefix, last);
                for key in names() {
                    let expected = key.starts_with(&prefix) && last.is_none_or(|last| key > *last);
                    assert_eq!(range.contains(&layout.place(&key, Side::Right)), expected, "{key:?}");
                }
            }
        }
    }

    #[test]
    fn both_places_of_a_record_and_no_other_are_its_range() {
        let layout = Layout::new("n");
        for key in names() {
            let range = layout.places(&key);
            for other in names() {
                for side in [Side::Left, Side::Right] {
                    assert_eq!(range.contains(&layout.place(&other, side)), other == key);
                }
            }
        }
    }

    #[test]
    fn refuses_what_it_did_not_write() {
        let layout = Layout::new("n");
        for name in ["althing/n/r/a", "althing/n/r/", "althing/n/end/x"] {
            assert_eq!(layout.read(name.as_bytes()).unwrap_err().kind(), Kind::Format, "{name}");
        }
        assert_eq!(layout.read(b"althing/n/other").unwrap(), Use::Other);
        let kv = |value: &'static [u8]| KeyValue { value: Bytes::from_static(value), ..KeyValue::default() };
        for value in [&b""[..], b"{}", b"\x01short"] {
            assert_eq!(owner(&kv(value)).unwrap_err().kind(), Kind::Format);
        }
    }

    #[test]
    fn every_session_has_a_lease_that_etcd_can_have() {
        for id in [0, 7, u128::MAX, 1 << 63] {
            assert!(lease(SessionId(id)) > 0);
        }
    }
}
