//! The next state of a namespace, made from the present one. Pure: what it needs is handed in, what must be stored
//! is handed out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use althing_core::{
    Cause, Chance, Committed, Error, Guard, Key, Kind, Result, Revision, SessionId, Stamp, Txn, Write, limits,
};
use bytes::Bytes;

use crate::layout::{
    ChunkId, Entry, Leaf, LeafRef, Root, SegmentRef, Stored, Value, What, entry_bytes, record_bytes,
    segment_item, value_item,
};

/// A larger value is a chunk of its own, so that leaves and the log stay small.
const INSIDE_BYTES_MAX: usize = 1 << 10;
/// A larger leaf is split.
const LEAF_BYTES_MAX: usize = 16 << 10;
/// A larger end of the log leaves the root for a segment.
const TAIL_BYTES_MAX: usize = 8 << 10;
/// The largest segment of the log, unless a single change is larger.
const SEGMENT_BYTES_MAX: usize = 256 << 10;
/// The most segments, and the most bytes in them: memory of the server that no record needs.
const SEGMENTS_MAX: usize = 512;
const LOG_BYTES_MAX: usize = 4 << 20;
/// The largest root. It bounds the namespace, because each leaf and each session has its place there.
pub(crate) const ROOT_BYTES_MAX: usize = 768 << 10;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work<'a> {
    Commit(&'a Txn),
    /// A session with a lease of so many seconds.
    Open(SessionId, u32),
    End(&'a [SessionId], Cause),
}

/// The state that is being made.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    root: Root,
    /// The leaves that were handed in, by their place in the root.
    leaves: BTreeMap<usize, Arc<Leaf>>,
    written: BTreeSet<usize>,
    chunks: Vec<(ChunkId, Bytes)>,
    stale: Vec<ChunkId>,
    before: u64,
    is_end: bool,
    chance: &'a dyn Chance,
}

/// What must be stored, in this order: chunks, then the root. Then the stale chunks may go.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) root: Bytes,
    pub(crate) chunks: Vec<(ChunkId, Bytes)>,
    /// Which of the chunks are leaves.
    pub(crate) leaves: Vec<ChunkId>,
    pub(crate) stale: Vec<ChunkId>,
}

impl Made {
    /// Returns the chunks that nobody needs where this does not become the present state.
    pub(crate) fn ids(&self) -> impl Iterator<Item = ChunkId> {
        self.chunks.iter().map(|(id, _)| *id)
    }
}

impl Work<'_> {
    /// Returns the places of the leaves that the draft must be given.
    pub(crate) fn leaves(&self, root: &Root) -> BTreeSet<usize> {
        let places: BTreeSet<usize> = match self {
            Work::Commit(txn) => txn_keys(txn).map(|key| root.locate(key)).collect(),
            Work::Open(id, _) => [root.locate(&id.key())].into(),
            Work::End(ids, _) if ids.iter().any(|id| root.sessions.contains_key(id)) => {
                (0..root.leaves.len()).collect()
            }
            Work::End(..) => BTreeSet::new(),
        };
        places.into_iter().filter(|place| *place < root.leaves.len()).collect()
    }
}

/// Returns the keys that a transaction is about.
pub(crate) fn txn_keys(txn: &Txn) -> impl Iterator<Item = &Key> {
    txn.guards.iter().map(Guard::key).chain(txn.writes.iter().map(Write::key))
}

impl<'a> Draft<'a> {
    pub(crate) fn new(root: &Root, leaves: BTreeMap<usize, Arc<Leaf>>, chance: &'a dyn Chance) -> Self {
        let mut draft = Draft {
            root: root.clone(),
            leaves,
            written: BTreeSet::new(),
            chunks: Vec::new(),
            stale: Vec::new(),
            before: root.revision,
            is_end: false,
            chance,
        };
        if draft.root.leaves.is_empty() {
            // Not stored anywhere: it is replaced as soon as something is written, and dropped if nothing is.
            draft.root.leaves.push(LeafRef { first: Key::default(), id: 0 });
            draft.leaves.insert(0, Arc::default());
        }
        draft
    }

    /// Does the work. On an error the draft is of no further use.
    pub(crate) fn apply(&mut self, work: &Work<'_>) -> Result<Committed> {
        match work {
            Work::Commit(txn) => self.commit(txn),
            Work::Open(id, seconds) => Ok(self.open(*id, *seconds)),
            Work::End(ids, cause) => {
                self.is_end = true;
                ids.iter().for_each(|id| self.end(*id, *cause));
                Ok(self.committed(Vec::new()))
            }
        }
    }

    /// Tells whether there is anything to store.
    pub(crate) fn is_changed(&self) -> bool {
        self.root.revision != self.before
    }

    /// Packs what must be stored. Fails with `TooLarge` where the namespace is full.
    pub(crate) fn finish(mut self) -> Result<Made> {
        let mut leaves = Vec::new();
        // From the end, so that the places of those before stay right.
        for place in std::mem::take(&mut self.written).into_iter().rev() {
            self.pack(place, &mut leaves);
        }
        self.root.leaves.retain(|leaf| leaf.id != 0);
        self.seal();
        self.trim();
        let root = self.root.encode();
        // What ends always finds room: only its own changes are added, and those leave the root when they are many.
        if root.len() > ROOT_BYTES_MAX && !self.is_end {
            let message = format!("the namespace is full: its index takes {} bytes", root.len());
            let advice =
                format!("{ROOT_BYTES_MAX} are allowed on memcached: delete records, or use another backend");
            return Err(Error::new(Kind::TooLarge, "commit", message).advise(advice));
        }
        Ok(Made { root, chunks: self.chunks, leaves, stale: self.stale })
    }

    fn commit(&mut self, txn: &Txn) -> Result<Committed> {
        if let Some(guard) = txn.guards.iter().find(|guard| !self.holds(guard)) {
            let error = Error::new(Kind::Conflict, "commit", "somebody else wrote first");
            return Err(error.with("key", guard.key()));
        }
        let owners = txn.writes.iter().filter_map(|write| match write {
            Write::Put { session, .. } => *session,
            Write::Delete(_) => None,
        });
        for id in owners {
            if !self.root.sessions.contains_key(&id) {
                return Err(lost("commit", id));
            }
        }
        if txn.writes.is_empty() {
            return Ok(self.committed(Vec::new()));
        }
        let revision = self.advance();
        let stamps = txn.writes.iter().map(|write| match write {
            Write::Put { key, value, session } => self.put(key, value, *session, revision),
            Write::Delete(key) => self.remove(key, revision, Cause::Deleted),
        });
        let stamps = stamps.collect();
        Ok(self.committed(stamps))
    }

    fn open(&mut self, id: SessionId, seconds: u32) -> Committed {
        let revision = self.advance();
        self.root.sessions.insert(id, seconds);
        let value = format!("{{\"lease_ms\":{}}}", u64::from(seconds) * 1000);
        let stamp = self.put(&id.key(), &value.into(), Some(id), revision);
        self.committed(vec![stamp])
    }

    /// Ends a session and removes what it owned, all at one revision. Does nothing if it has ended.
    fn end(&mut self, id: SessionId, cause: Cause) {
        if self.root.sessions.remove(&id).is_none() {
            return;
        }
        let revision = self.advance();
        let owned = self.leaves.values().flat_map(|leaf| &leaf.0);
        let owned = owned.filter(|(_, stored)| stored.session == Some(id)).map(|(key, _)| key.clone());
        for key in owned.collect::<Vec<Key>>() {
            self.remove(&key, revision, cause);
        }
    }

    fn committed(&self, stamps: Vec<Stamp>) -> Committed {
        Committed { revision: Revision(self.root.revision), stamps }
    }

    fn advance(&mut self) -> Revision {
        self.root.revision += 1;
        Revision(self.root.revision)
    }

    fn holds(&self, guard: &Guard) -> bool {
        match guard {
            Guard::Absent(key) => self.stored(key).is_none(),
            Guard::Unchanged(key, stamp) => self.stored(key).is_some_and(|stored| stored.stamp == *stamp),
        }
    }

    fn stored(&self, key: &Key) -> Option<&Stored> {
        self.leaves.get(&self.root.locate(key))?.0.get(key)
    }

    /// Returns the leaf of `key`, to be written.
    fn leaf(&mut self, key: &Key) -> &mut Leaf {
        let place = self.root.locate(key);
        self.written.insert(place);
        Arc::make_mut(self.leaves.entry(place).or_default())
    }

    fn put(&mut self, key: &Key, value: &Bytes, session: Option<SessionId>, revision: Revision) -> Stamp {
        let created = match self.stored(key) {
            Some(former) if former.session == session => former.stamp.created,
            _ => revision,
        };
        let stamp = Stamp { created, modified: revision };
        let stored = Stored { value: self.keep(value), session, stamp };
        let former = self.leaf(key).0.insert(key.clone(), stored.clone());
        self.discard(former.as_ref());
        self.root.tail.push(Entry { revision: revision.0, key: key.clone(), what: What::Put(stored) });
        stamp
    }

    fn remove(&mut self, key: &Key, revision: Revision, cause: Cause) -> Stamp {
        let Some(former) = self.stored(key).cloned() else {
            return Stamp { created: revision, modified: revision };
        };
        self.leaf(key).0.remove(key);
        self.discard(Some(&former));
        let last = former.stamp;
        self.root.tail.push(Entry {
            revision: revision.0,
            key: key.clone(),
            what: What::Gone { last, cause },
        });
        last
    }

    fn keep(&mut self, value: &Bytes) -> Value {
        if value.len() <= INSIDE_BYTES_MAX {
            return Value::Here(value.clone());
        }
        let id = self.chance.bits();
        self.chunks.push((id, value_item(value)));
        Value::Chunk { id, length: value.len() as u32 }
    }

    /// A large value goes with its record: a watch that comes too late for it begins anew.
    fn discard(&mut self, former: Option<&Stored>) {
        if let Some(Stored { value: Value::Chunk { id, .. }, .. }) = former {
            self.stale.push(*id);
        }
    }

    /// Puts a written leaf into chunks: none where it is empty, several where it is too large.
    fn pack(&mut self, place: usize, made: &mut Vec<ChunkId>) {
        let Some(leaf) = self.leaves.remove(&place) else { return };
        let LeafRef { first, id } = self.root.leaves[place].clone();
        if id != 0 {
            self.stale.push(id);
        }
        let mut parts: Vec<(Key, Leaf)> = Vec::new();
        let mut room = 0;
        for (key, stored) in &leaf.0 {
            let size = record_bytes(key, stored);
            if parts.is_empty() || size > room {
                // The first leaf of all may hold keys before its own first.
                let first = if parts.is_empty() { first.clone().min(key.clone()) } else { key.clone() };
                parts.push((first, Leaf::default()));
                // Half full, so that the next records find room.
                room = if total(&leaf) > LEAF_BYTES_MAX { LEAF_BYTES_MAX / 2 } else { LEAF_BYTES_MAX };
            }
            room = room.saturating_sub(size);
            if let Some((_, part)) = parts.last_mut() {
                part.0.insert(key.clone(), stored.clone());
            }
        }
        let refs = parts.into_iter().map(|(first, part)| {
            // Zero is the mark of a leaf that is stored nowhere.
            let id = self.chance.bits().max(1);
            self.chunks.push((id, part.encode()));
            made.push(id);
            LeafRef { first, id }
        });
        let refs: Vec<LeafRef> = refs.collect();
        self.root.leaves.splice(place..=place, refs);
    }

    /// Moves the end of the log out of the root once it is long.
    fn seal(&mut self) {
        if self.root.tail.iter().map(entry_bytes).sum::<usize>() <= TAIL_BYTES_MAX {
            return;
        }
        let tail = std::mem::take(&mut self.root.tail);
        let mut part: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for entry in tail {
            let size = entry_bytes(&entry);
            if bytes + size > SEGMENT_BYTES_MAX {
                self.segment(&std::mem::take(&mut part), bytes);
                bytes = 0;
            }
            bytes += size;
            part.push(entry);
        }
        self.segment(&part, bytes);
    }

    fn segment(&mut self, changes: &[Entry], bytes: usize) {
        let Some(last) = changes.last() else { return };
        let id = self.chance.bits();
        self.chunks.push((id, segment_item(changes)));
        let (changes, bytes) = (changes.len() as u32, bytes as u32);
        self.root.segments.push_back(SegmentRef { id, last: last.revision, changes, bytes });
    }

    /// Forgets the oldest changes until the bounds hold.
    fn trim(&mut self) {
        let segments = self.root.segments.iter();
        let (mut changes, mut bytes) = segments
            .fold((self.root.tail.len(), 0), |(changes, bytes), segment| {
                (changes + segment.changes as usize, bytes + segment.bytes as usize)
            });
        while changes > limits::HISTORY_CHANGES_MAX
            || bytes > LOG_BYTES_MAX
            || self.root.segments.len() > SEGMENTS_MAX
        {
            let Some(oldest) = self.root.segments.pop_front() else { return };
            changes -= oldest.changes as usize;
            bytes -= oldest.bytes as usize;
            self.root.base = oldest.last;
            // A segment too large for the log was never stored.
            let stored = self.chunks.len();
            self.chunks.retain(|(id, _)| *id != oldest.id);
            if self.chunks.len() == stored {
                self.stale.push(oldest.id);
            }
        }
    }
}

fn total(leaf: &Leaf) -> usize {
    leaf.0.iter().map(|(key, stored)| record_bytes(key, stored)).sum()
}

/// Makes the error that a session has ended.
pub(crate) fn lost(operation: &'static str, id: SessionId) -> Error {
    Error::new(Kind::SessionLost, operation, "the session has ended").with("session", id)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use althing_core::SeededChance;

    use super::*;
    use crate::layout::read_segment;

    /// A server that holds whatever it is given.
    struct Shelf {
        root: Root,
        chunks: HashMap<ChunkId, Bytes>,
        chance: SeededChance,
    }

    impl Shelf {
        fn new() -> Shelf {
            Shelf { root: Root::empty(5), chunks: HashMap::new(), chance: SeededChance::new(1) }
        }

        fn write(&mut self, work: Work<'_>) -> Committed {
            let leaf = |place: usize| {
                let item = &self.chunks[&self.root.leaves[place].id];
                (place, Arc::new(Leaf::decode(item).unwrap()))
            };
            let leaves = work.leaves(&self.root).into_iter().map(leaf).collect();
            let mut draft = Draft::new(&self.root, leaves, &self.chance);
            let done = draft.apply(&work).unwrap();
            let made = draft.finish().unwrap();
            self.root = Root::decode(&made.root).unwrap();
            self.chunks.extend(made.chunks);
            for id in made.stale {
                assert!(self.chunks.remove(&id).is_some(), "what was never there is thrown away");
            }
            done
        }

        fn put(&mut self, key: &str, value: Vec<u8>) {
            self.write(Work::Commit(&Txn::new().put(key.into(), value)));
        }

        fn records(&self) -> Vec<(Key, Stored)> {
            let leaves = self.root.leaves.iter().map(|leaf| Leaf::decode(&self.chunks[&leaf.id]).unwrap());
            leaves.flat_map(|leaf| leaf.0).collect()
        }

        fn log(&self) -> Vec<u64> {
            let segments = self.root.segments.iter();
            let old = segments.flat_map(|segment| read_segment(&self.chunks[&segment.id]).unwrap());
            old.chain(self.root.tail.clone()).map(|entry| entry.revision).collect()
        }

        /// Each chunk is named once, by the root, a leaf or a segment, and nothing is left over.
        fn check_whole(&self) {
            let inside = self.records().into_iter().filter_map(|(_, stored)| match stored.value {
                Value::Chunk { id, .. } => Some(id),
                Value::Here(_) => None,
            });
            let leaves = self.root.leaves.iter().map(|leaf| leaf.id);
            let segments = self.root.segments.iter().map(|segment| segment.id);
            let mut named: Vec<ChunkId> = inside.chain(leaves).chain(segments).collect();
            let mut kept: Vec<ChunkId> = self.chunks.keys().copied().collect();
            named.sort_unstable();
            kept.sort_unstable();
            assert_eq!(named, kept);
        }
    }

    #[test]
    fn leaves_are_split_and_dropped_and_nothing_is_left_behind() {
        let mut shelf = Shelf::new();
        let names: Vec<String> = (0..600).map(|index| format!("k/{:03}", index * 7 % 600)).collect();
        for (index, name) in names.iter().enumerate() {
            shelf.put(name, vec![b'v'; index % 5 * 400]);
            shelf.check_whole();
        }
        assert!(shelf.root.leaves.len() > 10, "{} leaves", shelf.root.leaves.len());
        let records = shelf.records();
        assert!(records.len() == 600 && records.is_sorted_by(|left, right| left.0 < right.0));
        for name in &names {
            shelf.write(Work::Commit(&Txn::new().delete(name.as_str().into())));
        }
        shelf.check_whole();
        assert!(shelf.root.leaves.is_empty() && shelf.records().is_empty());
    }

    #[test]
    fn an_ended_session_takes_all_it_owned_at_one_revision() {
        let mut shelf = Shelf::new();
        let (one, two) = (SessionId(1), SessionId(2));
        for id in [one, two] {
            shelf.write(Work::Open(id, 10));
        }
        for index in 0..300 {
            let owner = if index % 3 == 0 { one } else { two };
            let txn = Txn::new().put_owned(format!("k/{index:03}").as_str().into(), vec![b'v'; 200], owner);
            shelf.write(Work::Commit(&txn));
        }
        let before = shelf.root.revision;
        shelf.write(Work::End(&[one, one], Cause::Expired));
        shelf.check_whole();
        assert_eq!(shelf.root.revision, before + 1);
        assert_eq!(shelf.log().iter().filter(|revision| **revision > before).count(), 101);
        assert!(shelf.records().iter().all(|(_, stored)| stored.session == Some(two)));
    }

    #[test]
    fn the_log_is_bounded_and_says_from_where_it_is_whole() {
        let mut shelf = Shelf::new();
        for round in 0..2 * limits::HISTORY_CHANGES_MAX / 64 {
            let key = |index| Key::from(format!("k/{index}").as_str());
            let txn = (0..64).fold(Txn::new(), |txn, index| txn.put(key(index), round.to_string()));
            shelf.write(Work::Commit(&txn));
        }
        shelf.check_whole();
        let log = shelf.log();
        assert!(log.len() <= limits::HISTORY_CHANGES_MAX && log.len() > limits::HISTORY_CHANGES_MAX / 2);
        assert!(log.iter().filter(|revision| **revision > shelf.root.base).count() % 64 == 0);
        assert!(shelf.root.encode().len() < 64 << 10);
    }

    #[test]
    fn a_namespace_without_room_refuses_and_says_so() {
        let mut root = Root::empty(1);
        root.sessions = (0..ROOT_BYTES_MAX as u128 / 20).map(|id| (SessionId(id), 1)).collect();
        let chance = SeededChance::new(1);
        let mut draft = Draft::new(&root, BTreeMap::new(), &chance);
        draft.apply(&Work::Commit(&Txn::new().put("k".into(), "v"))).unwrap();
        let error = draft.finish().unwrap_err();
        assert!(error.kind() == Kind::TooLarge && error.to_string().contains("is full"), "{error}");
        let mut draft = Draft::new(&root, BTreeMap::new(), &chance);
        draft.apply(&Work::End(&[SessionId(1)], Cause::Closed)).unwrap();
        assert!(draft.finish().is_ok(), "what ends makes room");
    }
}
