//! What lies under which key of the server, and what it holds.
//!
//! | key | item |
//! |---|---|
//! | `althing:epoch:<namespace>` | the number of the epoch: a random one for each life of the namespace |
//! | `althing:root:<epoch>` | the [`Root`]; the only item that is ever changed, and only by compare-and-swap |
//! | `althing:chunk:<number>` | a [`Leaf`], a segment of the log, or a large value; never changed, its number is random |
//! | `althing:session:<id>` | the session lives; the only item with a time to live |

use std::collections::{BTreeMap, VecDeque};

use althing_core::{Cause, Key, Result, SessionId, Stamp, limits};
use bytes::Bytes;

use crate::codec::{Input, Output, Sort, foreign};

/// No namespace comes so far.
const REVISION_MAX: u64 = u64::MAX / 2;

/// The random number by which a chunk is found.
pub(crate) type ChunkId = u128;

pub(crate) fn epoch_key(namespace: &str) -> String {
    format!("althing:epoch:{namespace}")
}

pub(crate) fn root_key(epoch: u128) -> String {
    format!("althing:root:{epoch:032x}")
}

pub(crate) fn chunk_key(id: ChunkId) -> String {
    format!("althing:chunk:{id:032x}")
}

pub(crate) fn session_key(id: SessionId) -> String {
    format!("althing:session:{id}")
}

pub(crate) fn epoch_item(epoch: u128) -> Bytes {
    let mut output = Output::new(Sort::Epoch);
    output.id(epoch);
    output.done()
}

pub(crate) fn read_epoch(item: &Bytes) -> Result<u128> {
    let mut input = Input::open(Sort::Epoch, item)?;
    input.id().filter(|_| input.is_empty()).ok_or_else(|| foreign(item))
}

pub(crate) fn session_item() -> Bytes {
    Output::new(Sort::Session).done()
}

pub(crate) fn value_item(value: &[u8]) -> Bytes {
    let mut output = Output::new(Sort::Value);
    output.raw(value);
    output.done()
}

pub(crate) fn read_value(item: &Bytes) -> Result<Bytes> {
    Input::open(Sort::Value, item).map(Input::rest)
}

/// The state of a namespace: what is not in here is in chunks that it names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) revision: u64,
    /// Every change after this revision is in the log.
    pub(crate) base: u64,
    /// The sessions that have not ended, and their leases in seconds.
    pub(crate) sessions: BTreeMap<SessionId, u32>,
    /// Where the records are, in the order of their keys.
    pub(crate) leaves: Vec<LeafRef>,
    /// The log but for its end, oldest first.
    pub(crate) segments: VecDeque<SegmentRef>,
    /// The end of the log.
    pub(crate) tail: Vec<Entry>,
}

/// A leaf holds the keys from `first` up to the next leaf's. The first leaf also those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeafRef {
    pub(crate) first: Key,
    pub(crate) id: ChunkId,
}

/// Where a part of the log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentRef {
    pub(crate) id: ChunkId,
    /// The revision of its last change.
    pub(crate) last: u64,
    pub(crate) changes: u32,
    pub(crate) bytes: u32,
}

/// Some records, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leaf(pub(crate) BTreeMap<Key, Stored>);

/// A record without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) value: Value,
    pub(crate) session: Option<SessionId>,
    pub(crate) stamp: Stamp,
}

/// A value, or where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Here(Bytes),
    Chunk { id: ChunkId, length: u32 },
}

impl Value {
    pub(crate) fn length(&self) -> usize {
        match self {
            Value::Here(bytes) => bytes.len(),
            Value::Chunk { length, .. } => *length as usize,
        }
    }
}

/// One change of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) revision: u64,
    pub(crate) key: Key,
    pub(crate) what: What,
}

/// What a change did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Put(Stored),
    Gone { last: Stamp, cause: Cause },
}

impl Root {
    /// Makes the root of an empty namespace.
    pub(crate) fn empty(revision: u64) -> Root {
        Root { revision, base: revision, ..Root::default() }
    }

    /// Returns the index of the leaf where `key` is or would be. 0 where there is no leaf yet.
    pub(crate) fn locate(&self, key: &Key) -> usize {
        self.leaves.partition_point(|leaf| leaf.first <= *key).saturating_sub(1)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut output = Output::new(Sort::Root);
        output.long(self.revision);
        output.long(self.base);
        output.count(self.sessions.len());
        for (id, seconds) in &self.sessions {
            output.id(id.0);
            output.short(*seconds);
        }
        output.count(self.leaves.len());
        for leaf in &self.leaves {
            output.bytes(leaf.first.as_bytes());
            output.id(leaf.id);
        }
        output.count(self.segments.len());
        for segment in &self.segments {
            output.id(segment.id);
            output.long(segment.last);
            output.short(segment.changes);
            output.short(segment.bytes);
        }
        put_entries(&mut output, &self.tail);
        output.done()
    }

    pub(crate) fn decode(item: &Bytes) -> Result<Root> {
        let mut input = Input::open(Sort::Root, item)?;
        let root = Root::read(&mut input).filter(|_| input.is_empty());
        root.ok_or_else(|| foreign(item))
    }

    /// `None` also for numbers that no driver writes, and that could not be counted on from.
    fn read(input: &mut Input) -> Option<Root> {
        let mut root = Root { revision: input.long()?, base: input.long()?, ..Root::default() };
        if root.revision > REVISION_MAX {
            return None;
        }
        for _ in 0..input.short()? {
            let (id, seconds) = (SessionId(input.id()?), input.short()?);
            if u64::from(seconds) > limits::LEASE_MAX.as_secs() {
                return None;
            }
            root.sessions.insert(id, seconds);
        }
        for _ in 0..input.short()? {
            root.leaves.push(LeafRef { first: input.key()?, id: input.id()? });
        }
        for _ in 0..input.short()? {
            let (id, last) = (input.id()?, input.long()?);
            root.segments.push_back(SegmentRef { id, last, changes: input.short()?, bytes: input.short()? });
        }
        root.tail = entries(input)?;
        Some(root)
    }
}

impl Leaf {
    pub(crate) fn encode(&self) -> Bytes {
        let mut output = Output::new(Sort::Leaf);
        output.count(self.0.len());
        for (key, stored) in &self.0 {
            output.bytes(key.as_bytes());
            put_stored(&mut output, stored);
        }
        output.done()
    }

    pub(crate) fn decode(item: &Bytes) -> Result<Leaf> {
        let mut input = Input::open(Sort::Leaf, item)?;
        let leaf = Leaf::read(&mut input).filter(|_| input.is_empty());
        leaf.ok_or_else(|| foreign(item))
    }

    fn read(input: &mut Input) -> Option<Leaf> {
        (0..input.short()?).map(|_| Some((input.key()?, stored(input)?))).collect::<Option<_>>().map(Leaf)
    }
}

pub(crate) fn segment_item(changes: &[Entry]) -> Bytes {
    let mut output = Output::new(Sort::Segment);
    put_entries(&mut output, changes);
    output.done()
}

pub(crate) fn read_segment(item: &Bytes) -> Result<Vec<Entry>> {
    let mut input = Input::open(Sort::Segment, item)?;
    let changes = entries(&mut input).filter(|_| input.is_empty());
    changes.ok_or_else(|| foreign(item))
}

fn put_stored(output: &mut Output, stored: &Stored) {
    output.session(stored.session);
    output.stamp(stored.stamp);
    match &stored.value {
        Value::Here(bytes) => {
            output.byte(0);
            output.bytes(bytes);
        }
        Value::Chunk { id, length } => {
            output.byte(1);
            output.id(*id);
            output.short(*length);
        }
    }
}

fn stored(input: &mut Input) -> Option<Stored> {
    let (session, stamp) = (input.session()?, input.stamp()?);
    let value = match input.byte()? {
        0 => Value::Here(input.bytes()?),
        1 => Value::Chunk { id: input.id()?, length: input.short()? },
        _ => return None,
    };
    Some(Stored { value, session, stamp })
}

fn put_entries(output: &mut Output, entries: &[Entry]) {
    output.count(entries.len());
    for entry in entries {
        output.long(entry.revision);
        output.bytes(entry.key.as_bytes());
        match &entry.what {
            What::Put(stored) => {
                output.byte(1);
                put_stored(output, stored);
            }
            What::Gone { last, cause } => {
                output.byte(0);
                output.stamp(*last);
                output.cause(*cause);
            }
        }
    }
}

fn entries(input: &mut Input) -> Option<Vec<Entry>> {
    (0..input.short()?).map(|_| entry(input)).collect()
}

fn entry(input: &mut Input) -> Option<Entry> {
    let (revision, key) = (input.long()?, input.key()?);
    let what = match input.byte()? {
        0 => What::Gone { last: input.stamp()?, cause: input.cause()? },
        1 => What::Put(stored(input)?),
        _ => return None,
    };
    Some(Entry { revision, key, what })
}

/// Returns about how many bytes a record takes in a leaf.
pub(crate) fn record_bytes(key: &Key, stored: &Stored) -> usize {
    let inside = match &stored.value {
        Value::Here(bytes) => bytes.len(),
        Value::Chunk { .. } => 16,
    };
    key.as_bytes().len() + inside + 48
}

/// Returns about how many bytes a change takes in the log.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    match &entry.what {
        What::Put(stored) => record_bytes(&entry.key, stored) + 8,
        What::Gone { .. } => entry.key.as_bytes().len() + 32,
    }
}

#[cfg(test)]
mod tests {
    use althing_core::Revision;

    use super::*;

    fn root() -> Root {
        let stamp = Stamp { created: Revision(2), modified: Revision(3) };
        let stored = Stored { value: Value::Chunk { id: 5, length: 6 }, session: Some(SessionId(4)), stamp };
        Root {
            revision: 9,
            base: 1,
            sessions: [(SessionId(4), 10)].into(),
            leaves: ["", "b", "d"].map(|first| LeafRef { first: first.into(), id: 7 }).into(),
            segments: [SegmentRef { id: 8, last: 7, changes: 3, bytes: 100 }].into(),
            tail: vec![
                Entry { revision: 8, key: "k".into(), what: What::Put(stored) },
                Entry {
                    revision: 9,
                    key: "k".into(),
                    what: What::Gone { last: stamp, cause: Cause::Expired },
                },
            ],
        }
    }

    #[test]
    fn a_root_comes_back_as_it_was_and_not_from_a_part_of_it() {
        let item = root().encode();
        assert_eq!(Root::decode(&item).unwrap(), root());
        assert!((0..item.len()).all(|length| Root::decode(&item.slice(..length)).is_err()));
        let longer = [&item[..], b"x"].concat();
        assert!(Root::decode(&longer.into()).is_err());
    }

    #[test]
    fn a_key_is_in_the_last_leaf_that_begins_before_it() {
        for (key, leaf) in [("", 0), ("a", 0), ("b", 1), ("c", 1), ("d", 2), ("z", 2)] {
            assert_eq!(root().locate(&key.into()), leaf, "{key}");
        }
        assert_eq!(Root::default().locate(&"x".into()), 0);
    }
}
