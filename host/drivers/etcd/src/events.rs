//! What etcd tells of one revision, as changes of records.

use std::collections::{BTreeMap, BTreeSet};

use althing_core::{Cause, Change, Key, Result, Revision, SessionId, Stamp};

use crate::layout::{self, Layout, Use};
use crate::proto::Event;

/// A record that went from its place.
struct Gone {
    last: Stamp,
    owner: Option<SessionId>,
}

/// Reads the events of one revision that concern records below `prefix`, in etcd's order. `None` where etcd no longer
/// knows what a deleted record was.
pub(crate) fn changes(
    layout: &Layout,
    prefix: &Key,
    revision: Revision,
    events: Vec<Event>,
) -> Result<Option<Vec<Change>>> {
    let (mut changes, mut gone) = (Vec::new(), BTreeMap::new());
    let (mut put, mut closed) = (BTreeSet::new(), BTreeSet::new());
    for event in events {
        let is_deletion = event.is_deletion();
        let Some(kv) = event.kv else { continue };
        match layout.read(&kv.key)? {
            Use::Other => {}
            Use::End(id) if is_deletion => drop(closed.insert(id)),
            Use::End(_) => {}
            Use::Record(key, _) if is_deletion => {
                let Some(former) = event.prev_kv else { return Ok(None) };
                gone.insert(key, Gone { last: layout::stamp(&former), owner: layout::owner(&former)? });
            }
            Use::Record(key, _) => {
                changes.push(Change::Put(layout.record_of(kv)?));
                put.insert(key);
            }
        }
    }
    let ended = |id: &SessionId| gone.contains_key(&id.key());
    for (key, Gone { last, owner }) in &gone {
        // Taken over: it went from one place and is at the other.
        if put.contains(key) {
            continue;
        }
        let cause = match owner.filter(ended) {
            None => Cause::Deleted,
            Some(id) if closed.contains(&id) => Cause::Closed,
            Some(_) => Cause::Expired,
        };
        changes.push(Change::Deleted { key: key.clone(), last: *last, revision, cause });
    }
    changes.retain(|change| change.key().starts_with(prefix));
    Ok(Some(changes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Side;
    use crate::proto::KeyValue;

    const OWNER: SessionId = SessionId(9);

    fn put(key: bytes::Bytes, owner: Option<SessionId>) -> Event {
        let value = layout::value(owner, b"v");
        let kv = KeyValue { key, value, create_revision: 3, mod_revision: 5, lease: 0 };
        Event { kind: 0, kv: Some(kv), prev_kv: None }
    }

    fn delete(key: bytes::Bytes, owner: Option<SessionId>) -> Event {
        let Event { kv, .. } = put(key.clone(), owner);
        let gone = KeyValue { key, mod_revision: 8, ..KeyValue::default() };
        Event { kind: 1, kv: Some(gone), prev_kv: kv }
    }

    fn told(events: Vec<Event>) -> Vec<(Key, Option<Cause>)> {
        let changes = changes(&Layout::new("n"), &Key::default(), Revision(8), events).unwrap().unwrap();
        let told = changes.iter().map(|change| match change {
            Change::Put(record) => (record.key.clone(), None),
            Change::Deleted { key, cause, .. } => (key.clone(), Some(*cause)),
        });
        told.collect()
    }

    #[test]
    fn tells_why_a_record_went() {
        let layout = Layout::new("n");
        let mine = || delete(layout.place(&"a".into(), Side::Left), Some(OWNER));
        let session = || delete(layout.place(&OWNER.key(), Side::Left), Some(OWNER));
        let end = Event { prev_kv: None, ..delete(layout.end(OWNER), None) };
        let both = |cause| vec![("a".into(), Some(cause)), (OWNER.key(), Some(cause))];
        assert_eq!(told(vec![mine()]), [("a".into(), Some(Cause::Deleted))]);
        assert_eq!(told(vec![mine(), session()]), both(Cause::Expired));
        assert_eq!(told(vec![end, mine(), session()]), both(Cause::Closed));
    }

    #[test]
    fn a_record_that_changed_its_place_was_put() {
        let layout = Layout::new("n");
        let places = [Side::Left, Side::Right].map(|side| layout.place(&"a".into(), side));
        let [left, right] = places;
        assert_eq!(told(vec![delete(left, Some(OWNER)), put(right, None)]), [("a".into(), None)]);
    }

    #[test]
    fn does_not_invent_what_a_deleted_record_was() {
        let layout = Layout::new("n");
        let event = Event { prev_kv: None, ..delete(layout.place(&"a".into(), Side::Left), None) };
        assert_eq!(changes(&layout, &Key::default(), Revision(8), vec![event]).unwrap(), None);
    }
}
