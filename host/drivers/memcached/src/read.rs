//! What is read of one state: a record, a page, a snapshot, or what changed.

use std::ops::Bound;
use std::sync::Arc;

use althing_core::{Change, Key, Page, Record, Result, Revision, Stamp, limits};
use bytes::Bytes;

use crate::layout::{ChunkId, Entry, Stored, Value, What, chunk_key, read_segment, read_value};
use crate::store::{LEAVES_AT_ONCE, Step, Store, View};
use crate::wire::Ask;

/// Segments of the log read at once.
const SEGMENTS_AT_ONCE: usize = 8;

/// What changed, up to which revision.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) changes: Vec<Change>,
    pub(crate) reached: u64,
}

impl Store {
    /// Reads one record.
    pub(crate) async fn record(&self, view: Arc<View>, key: &Key) -> Result<Option<Record>, Step> {
        let place = view.root.locate(key);
        let leaves = self.leaves("get", &view, [place]).await?;
        let Some(stored) = leaves.get(&place).and_then(|leaf| leaf.0.get(key)) else { return Ok(None) };
        self.check_alive("get", &view, stored.session).await?;
        let mut records = self.records("get", &view, vec![(key.clone(), stored.clone())]).await?;
        Ok(records.pop())
    }

    /// Reads one page.
    pub(crate) async fn page(
        &self,
        view: Arc<View>,
        prefix: &Key,
        after: Option<&Key>,
        most: usize,
    ) -> Result<Page, Step> {
        let bounds = Bounds { records: most, bytes: limits::PAGE_BYTES_MAX };
        let (found, more) = self.scan("list", &view, prefix, after, bounds).await?;
        self.check_alive("list", &view, found.iter().filter_map(|(_, stored)| stored.session)).await?;
        let records = self.records("list", &view, found).await?;
        let next = records.last().filter(|_| more).map(|record| record.key.clone());
        Ok(Page { records, next, revision: Revision(view.root.revision) })
    }

    /// Reads everything below a prefix. The sessions are looked at by whoever asks.
    pub(crate) async fn snapshot(&self, view: &View, prefix: &Key) -> Result<Vec<Record>, Step> {
        let bounds = Bounds { records: usize::MAX, bytes: usize::MAX };
        let (found, _) = self.scan("watch", view, prefix, None, bounds).await?;
        self.records("watch", view, found).await
    }

    async fn scan(
        &self,
        operation: &'static str,
        view: &View,
        prefix: &Key,
        after: Option<&Key>,
        bounds: Bounds,
    ) -> Result<(Vec<(Key, Stored)>, bool), Step> {
        let start = match after.filter(|after| *after >= prefix) {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let (Bound::Included(lowest) | Bound::Excluded(lowest)) = start else { return Ok((vec![], false)) };
        let (mut found, mut bytes): (Vec<(Key, Stored)>, usize) = (Vec::new(), 0);
        let mut place = view.root.locate(lowest);
        while place < view.root.leaves.len() {
            let next = place + LEAVES_AT_ONCE;
            let leaves = self.leaves(operation, view, place..next).await?;
            for (key, stored) in
                leaves.values().flat_map(|leaf| leaf.0.range::<Key, _>((start, Bound::Unbounded)))
            {
                if !key.starts_with(prefix) {
                    return Ok((found, false));
                }
                bytes = bytes.saturating_add(stored.value.length());
                if found.len() == bounds.records || (bytes > bounds.bytes && !found.is_empty()) {
                    return Ok((found, true));
                }
                found.push((key.clone(), stored.clone()));
            }
            place = next;
        }
        Ok((found, false))
    }

    /// Reads what changed below `prefix` after a revision, in whole commits. `None` where something is no longer known.
    pub(crate) async fn changes(&self, view: &View, after: u64, prefix: &Key) -> Result<Option<News>> {
        let root = &view.root;
        if !(root.base..=root.revision).contains(&after) {
            return Ok(None);
        }
        let mut pick = Pick { after, prefix, found: Vec::new(), whole: 0, bytes: 0, full: false };
        let ids: Vec<ChunkId> =
            root.segments.iter().filter(|segment| segment.last > after).map(|segment| segment.id).collect();
        for ids in ids.chunks(SEGMENTS_AT_ONCE) {
            let Some(items) = self.log_chunks(ids).await? else { return Ok(None) };
            for item in items {
                pick.take(read_segment(&item)?);
            }
            if pick.full {
                break;
            }
        }
        pick.take(root.tail.clone());
        let reached = match pick.found.last() {
            Some(last) if pick.full => last.revision,
            _ => root.revision,
        };
        let changes = self.told(pick.found).await?;
        Ok(changes.map(|changes| News { changes, reached }))
    }

    /// Makes changes of entries. `None` where a large value went with its record.
    async fn told(&self, entries: Vec<Entry>) -> Result<Option<Vec<Change>>> {
        let chunk = |entry: &Entry| match &entry.what {
            What::Put(Stored { value: Value::Chunk { id, .. }, .. }) => Some(*id),
            _ => None,
        };
        let ids: Vec<ChunkId> = entries.iter().filter_map(chunk).collect();
        let Some(large) = self.log_chunks(&ids).await? else { return Ok(None) };
        let mut large = large.iter();
        let change = |entry: Entry| {
            let key = Key::new(Bytes::copy_from_slice(entry.key.as_bytes()));
            Ok(match entry.what {
                What::Gone { last, cause } => {
                    Change::Deleted { key, last, revision: Revision(entry.revision), cause }
                }
                What::Put(Stored { value, session, stamp }) => {
                    let value = match value {
                        Value::Here(bytes) => Bytes::copy_from_slice(&bytes),
                        Value::Chunk { .. } => read_value(large.next().unwrap_or(&Bytes::new()))?,
                    };
                    let stamp = Stamp { created: stamp.created, modified: Revision(entry.revision) };
                    Change::Put(Record { key, value, session, stamp })
                }
            })
        };
        entries.into_iter().map(change).collect::<Result<_>>().map(Some)
    }

    /// Reads what only the log needs. `None` where a part is gone: who watches is given a resync, nothing is lost.
    async fn log_chunks(&self, ids: &[ChunkId]) -> Result<Option<Vec<Bytes>>> {
        let asks: Vec<Ask> = ids.iter().map(|id| Ask::value(chunk_key(*id))).collect();
        let found = self.wire.read("watch", &asks).await?;
        Ok(found.into_iter().map(|item| Some(item?.value)).collect())
    }
}

/// How much is read at most.
#[derive(Clone, Copy)]
struct Bounds {
    records: usize,
    /// Of values; the first one may be larger.
    bytes: usize,
}

/// The entries of the log that a watch is told next.
struct Pick<'a> {
    after: u64,
    prefix: &'a Key,
    found: Vec<Entry>,
    /// How many of them are of whole commits.
    whole: usize,
    bytes: usize,
    /// There is more.
    full: bool,
}

impl Pick<'_> {
    fn take(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if self.full || entry.revision <= self.after || !entry.key.starts_with(self.prefix) {
                continue;
            }
            if self.found.last().is_some_and(|last| last.revision < entry.revision) {
                self.whole = self.found.len();
            }
            let many = self.found.len() >= limits::DELTA_CHANGES_MAX || self.bytes > limits::PAGE_BYTES_MAX;
            if many && self.whole > 0 {
                self.found.truncate(self.whole);
                self.full = true;
                continue;
            }
            if let What::Put(stored) = &entry.what {
                self.bytes += stored.value.length();
            }
            self.found.push(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use althing_core::Cause;

    use super::*;

    #[track_caller]
    fn check(commits: &[usize], after: u64, expected: (usize, bool)) {
        let prefix = Key::default();
        let mut pick = Pick { after, prefix: &prefix, found: vec![], whole: 0, bytes: 0, full: false };
        let stamp = Stamp { created: Revision(1), modified: Revision(1) };
        let what = What::Gone { last: stamp, cause: Cause::Deleted };
        for (revision, changes) in (1..).zip(commits) {
            pick.take(vec![Entry { revision, key: "k".into(), what: what.clone() }; *changes]);
        }
        assert_eq!((pick.found.len(), pick.full), expected, "{commits:?} after {after}");
    }

    #[test]
    fn a_delta_holds_whole_commits() {
        const MOST: usize = limits::DELTA_CHANGES_MAX;
        check(&[1, 2, 3], 1, (5, false));
        check(&[1, 2, 3], 3, (0, false));
        check(&[MOST - 1, 1, 1], 0, (MOST, true));
        check(&[MOST - 1, 2], 0, (MOST - 1, true));
        check(&[MOST + 5, 1], 0, (MOST + 5, true));
        check(&[MOST + 5, 1], 1, (1, false));
    }
}
