//! Reads: one record, a page, everything of one moment.

use althing_core::{Key, Page, Record, Result, Revision, limits};

use crate::layout;
use crate::proto::RangeRequest;
use crate::store::{self, Store};
use crate::wire::{Call, Refusal, Wire};

/// How many records are asked for before it is known how large they are.
const FIRST_RECORDS: usize = 128;

/// Reads one record.
pub(crate) async fn get(store: &Store, key: &Key) -> Result<Option<Record>> {
    let call = Call { operation: "get", writes: false };
    let places = store.layout.places(key);
    let range = RangeRequest { key: places.start, range_end: places.end, ..RangeRequest::default() };
    let found = store.call(call, store.deadline(), |wire| {
        let range = range.clone();
        async move { wire.range(call, range).await }
    });
    let found = found.await.map_err(|refusal| refusal.into_error("get"))?;
    found.kvs.into_iter().next().map(|kv| store.layout.record_of(kv)).transpose()
}

/// Reads one page.
pub(crate) async fn list(store: &Store, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<Page> {
    let call = Call { operation: "list", writes: false };
    let read = store.call(call, store.deadline(), |wire| async move {
        page(store, &wire, call, prefix, after, Page::records_max(limit), Revision::ZERO).await
    });
    read.await.map_err(|refusal| refusal.into_error("list"))
}

/// Reads everything below `prefix` as of one moment, page by page.
pub(crate) async fn all(
    store: &Store,
    wire: &Wire,
    call: Call,
    prefix: &Key,
) -> Result<(Vec<Record>, Revision), Refusal> {
    let (mut records, mut at, mut after) = (Vec::new(), Revision::ZERO, None::<Key>);
    loop {
        let deadline = store.deadline();
        let most = limits::PAGE_RECORDS_MAX as usize;
        let read = page(store, wire, call, prefix, after.as_ref(), most, at);
        let Some(page) = store.within(deadline, read).await else {
            return Err(Refusal::Outage(store.late(call.operation)));
        };
        let page = page?;
        at = page.revision;
        records.extend(page.records);
        after = page.next;
        if after.is_none() {
            return Ok((records, at));
        }
    }
}

/// Reads a page of one moment: `at`, or now. In more than one request where the records may be large: etcd bounds
/// the number of what it answers, and not its bytes.
async fn page(
    store: &Store,
    wire: &Wire,
    call: Call,
    prefix: &Key,
    after: Option<&Key>,
    most: usize,
    at: Revision,
) -> Result<Page, Refusal> {
    let mut page = Page { records: Vec::new(), next: after.cloned(), revision: at };
    let (mut bytes, mut ask) = (0, most.min(FIRST_RECORDS));
    loop {
        let range = store.layout.below(prefix, page.next.as_ref());
        let request = RangeRequest {
            key: range.start,
            range_end: range.end,
            limit: ask as i64,
            revision: layout::number(page.revision),
            ..RangeRequest::default()
        };
        let found = match wire.range(call, request).await {
            Err(Refusal::TooLarge) if ask > 1 => {
                ask = (ask / 8).max(1);
                continue;
            }
            found => found?,
        };
        let header = store::header(call.operation, found.header).map_err(Refusal::Failed)?;
        // At a revision that is asked for, the header still tells the newest.
        if page.revision == Revision::ZERO {
            page.revision = layout::revision(header.revision);
        }
        for kv in found.kvs {
            let record = store.layout.record_of(kv).map_err(Refusal::Failed)?;
            if bytes + record.value.len() > limits::PAGE_BYTES_MAX && !page.records.is_empty() {
                return Ok(page);
            }
            bytes += record.value.len();
            page.next = Some(record.key.clone());
            page.records.push(record);
        }
        if !found.more {
            page.next = None;
        }
        if page.next.is_none() || page.records.len() >= most {
            return Ok(page);
        }
        ask = next_ask(bytes, page.records.len(), most);
    }
}

/// Returns how many records to ask for next when `count` of them have `bytes`.
fn next_ask(bytes: usize, count: usize, most: usize) -> usize {
    let room = limits::PAGE_BYTES_MAX.saturating_sub(bytes) / (bytes / count.max(1)).max(1);
    room.clamp(1, most - count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_for_as_many_as_fit() {
        assert_eq!(next_ask(0, 128, 1000), 872);
        assert_eq!(next_ask(128 * 10_000, 128, 1000), 291);
        assert_eq!(next_ask(limits::PAGE_BYTES_MAX, 4, 1000), 1);
    }
}
