//! Reads: one record, a page of them, or all there is below a prefix.
//!
//! A read begins with `Wire::sync`, so that the server we speak to knows what was acknowledged before. What comes after
//! on the same connection is sent along with it, so that this costs no trip of its own.

use std::collections::{BTreeMap, BTreeSet};

use althing_core::{BootTime, Key, Page, Record, Result, Revision, SessionId, Stamp, limits};
use futures::future::{try_join, try_join_all};

use crate::hub::{Look, Ring};
use crate::layout::{self, BUCKETS, Estate, Place, session_key};
use crate::store::Store;
use crate::watch::apply;
use crate::wire::Wire;

/// How many records are asked for at once.
const AT_ONCE: usize = 64;
/// How often a page is read where commits come between its records.
const PAGE_TRIES: u32 = 8;
/// How many entries of the log are looked for that may not have been heard of yet.
const ENTRIES_AHEAD: u32 = 16;
/// Of how many buckets the names are asked for in one request.
const BUCKETS_AT_ONCE: usize = 32;

/// What is known of a session.
pub(crate) struct SessionFact {
    pub(crate) id: SessionId,
    /// Its record, until its end was told.
    pub(crate) record: Option<Record>,
    pub(crate) is_alive: bool,
    /// How many records it owns.
    pub(crate) owns: u32,
}

/// Reads one record that is to be shown.
pub(crate) async fn get(store: &Store, key: &Key) -> Result<Option<Record>> {
    let deadline = store.deadline();
    let wire = store.wire("get", deadline).await?;
    store.read("get", deadline, shown(store, &wire, key)).await
}

async fn shown(store: &Store, wire: &Wire, key: &Key) -> Result<Option<Record>> {
    let synced = wire.sync();
    if layout::is_reserved(key) {
        let Some(id) = session_key(key) else { return Ok(None) };
        let (_, session) = try_join(synced, session(store, wire, id)).await?;
        return Ok(session.record.filter(|_| session.is_alive));
    }
    let (_, record) = try_join(synced, stored(store, wire, key)).await?;
    let Some(Record { session: Some(owner), .. }) = &record else { return Ok(record) };
    // Alive now means alive when the record was read.
    let is_alive = wire.look(&store.layout.session(*owner)).await?.is_some();
    Ok(record.filter(|_| is_alive))
}

/// Which records are asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) prefix: &'a Key,
    pub(crate) after: Option<&'a Key>,
    pub(crate) limit: u32,
}

/// Reads a page of the records that are to be shown, as of one moment: what was committed meanwhile is taken from
/// `ring`, or else the page is read again. Where that goes on and on, the last page read is given, whose records may be
/// of several moments.
pub(crate) async fn list(store: &Store, ring: &Ring, ask: Ask<'_>) -> Result<Page> {
    let deadline = store.deadline();
    let wire = store.wire("list", deadline).await?;
    let page = async {
        for _ in 1..PAGE_TRIES {
            let page = page(store, &wire, ask).await?;
            let (now, is_told) = try_join(revision(store, &wire), is_told(store, &wire, ring)).await?;
            if now == page.revision {
                return Ok(page);
            }
            if is_told && let Some(page) = caught_up(store, &wire, ring, ask, page).await? {
                return Ok(page);
            }
        }
        page(store, &wire, ask).await
    };
    store.read("list", deadline, page).await
}

/// Waits until `ring` holds all that was committed before this was asked. `false` where that is not known.
async fn is_told(store: &Store, wire: &Wire, ring: &Ring) -> Result<bool> {
    let Some(next) = ring.next() else { return Ok(false) };
    let place = |ahead| Place { number: next.number + ahead, ..next };
    // Sent in this order: a volume that was open is followed by no other.
    let looks = (0..ENTRIES_AHEAD).map(|ahead| wire.look(&store.layout.entry(place(ahead))));
    let (found, volume) = try_join(try_join_all(looks), wire.look(&store.layout.volume(next.volume))).await?;
    let ahead = found.iter().take_while(|entry| entry.is_some()).count() as u32;
    if ahead == ENTRIES_AHEAD || volume.is_none_or(|volume| volume.version != 0) {
        return Ok(false);
    }
    ring.reach(place(ahead)).await;
    Ok(true)
}

/// Lets a page be of the moment up to which `ring` tells. `None` where it does not tell all, or more follows the page.
async fn caught_up(
    store: &Store,
    wire: &Wire,
    ring: &Ring,
    ask: Ask<'_>,
    page: Page,
) -> Result<Option<Page>> {
    let Look::Seen { changes, revision } = ring.look(ask.prefix, page.revision) else { return Ok(None) };
    if page.next.is_some() || changes.len() >= limits::DELTA_CHANGES_MAX {
        return Ok(None);
    }
    let mut records = page.records.into_iter().map(|record| (record.key.clone(), record)).collect();
    changes.into_iter().for_each(|change| apply(&mut records, ask.prefix, change));
    let mut records: Vec<Record> = records.into_values().collect();
    records.retain(|record| ask.after.is_none_or(|after| record.key > *after));
    hide_dead(store, wire, &mut records).await?;
    let fits =
        records.len() <= Page::records_max(ask.limit) && fitting(&records, &mut 0, true) == records.len();
    Ok(fits.then_some(Page { records, next: None, revision }))
}

/// Reads a page, and the revision before its first name was read.
async fn page(store: &Store, wire: &Wire, ask: Ask<'_>) -> Result<Page> {
    let (names, revision) = names(store, wire, ask.prefix).await?;
    let mut names = names.into_iter().filter(|name| ask.after.is_none_or(|after| name > after)).peekable();
    let (most, mut records, mut bytes) = (Page::records_max(ask.limit), Vec::new(), 0);
    let (mut last, mut is_full) = (None, false);
    while names.peek().is_some() && records.len() < most && !is_full {
        let some: Vec<Key> = names.by_ref().take(AT_ONCE.min(most - records.len())).collect();
        let mut found = read_all(store, wire, &some).await?;
        let fitting = fitting(&found, &mut bytes, records.is_empty());
        is_full = fitting < found.len();
        found.truncate(fitting);
        last = if is_full { found.last().map(|record| record.key.clone()) } else { some.last().cloned() };
        hide_dead(store, wire, &mut found).await?;
        records.append(&mut found);
    }
    let more = is_full || names.peek().is_some();
    Ok(Page { records, next: last.filter(|_| more), revision })
}

/// Returns how many of `found` fit a page that holds `bytes` so far, and adds theirs. One record always fits an
/// empty page.
fn fitting(found: &[Record], bytes: &mut usize, is_empty: bool) -> usize {
    let fits = |(index, record): &(usize, &Record)| {
        *bytes += record.value.len();
        *bytes <= limits::PAGE_BYTES_MAX || (is_empty && *index == 0)
    };
    found.iter().enumerate().take_while(fits).count()
}

/// Reads all that the log has told of below `prefix`, also what belonged to sessions whose end it has not told
/// yet, and the revision before which nothing is missing. Some may be newer.
pub(crate) async fn snapshot(store: &Store, prefix: &Key) -> Result<(BTreeMap<Key, Record>, Revision)> {
    let deadline = store.deadline();
    let wire = store.wire("watch", deadline).await?;
    let (names, revision) = store.read("watch", deadline, names(store, &wire, prefix)).await?;
    let mut records = BTreeMap::new();
    for some in names.chunks(AT_ONCE) {
        // As large as the prefix is, it may take long; each part has its own deadline.
        let found = store.read("watch", store.deadline(), read_all(store, &wire, some)).await?;
        records.extend(found.into_iter().map(|record| (record.key.clone(), record)));
    }
    Ok((records, revision))
}

/// Returns the revision up to which the log was written when this is answered.
pub(crate) async fn revision(store: &Store, wire: &Wire) -> Result<Revision> {
    loop {
        let volume = store.volume();
        let node = wire.look(&store.layout.volume(volume)).await?;
        match node.filter(|node| node.version == 0) {
            Some(node) => return Ok(node.children_changed),
            // A volume that is full; a newer one was begun in the same transaction.
            None => {
                if store.find_volume(wire).await? == volume {
                    return Err(layout::foreign("the log"));
                }
            }
        }
    }
}

/// Reads a record as it lies there.
pub(crate) fn stored(
    store: &Store,
    wire: &Wire,
    key: &Key,
) -> impl Future<Output = Result<Option<Record>>> + Send + use<> {
    let (read, key) = (wire.get(&store.layout.record(key)), key.clone());
    async move {
        let Some((data, node)) = read.await? else { return Ok(None) };
        let (session, value) = layout::read_record(&key, data)?;
        let stamp = Stamp { created: node.created, modified: node.modified };
        Ok(Some(Record { key, value, session, stamp }))
    }
}

/// Reads what is known of a session.
pub(crate) fn session(
    store: &Store,
    wire: &Wire,
    id: SessionId,
) -> impl Future<Output = Result<SessionFact>> + Send + use<> {
    // In this order: what it owns is made and told of with it, so a node that is missing later has been there.
    let estate = wire.get(&store.layout.estate(id));
    let alive = wire.look(&store.layout.session(id));
    async move {
        let (estate, alive) = try_join(estate, alive).await?;
        let is_alive = alive.is_some();
        let Some((data, node)) = estate else {
            return Ok(SessionFact { id, record: None, is_alive, owns: 0 });
        };
        let stamp = Stamp { created: node.created, modified: node.created };
        let estate = Estate::read(data)?;
        let record = Record { key: id.key(), value: estate.value, session: Some(id), stamp };
        let record = estate.ended.is_none().then_some(record);
        Ok(SessionFact { id, record, is_alive, owns: node.children })
    }
}

/// Returns which of `sessions` have ended.
pub(crate) async fn dead(
    store: &Store,
    wire: &Wire,
    sessions: BTreeSet<SessionId>,
) -> Result<BTreeSet<SessionId>> {
    let looks = sessions.into_iter().map(|id| {
        let look = wire.look(&store.layout.session(id));
        async move { look.await.map(|found| (id, found.is_some())) }
    });
    let found = try_join_all(looks).await?;
    Ok(found.into_iter().filter(|(_, is_alive)| !is_alive).map(|(id, _)| id).collect())
}

/// Reads the names below `prefix`, in order, and the revision they were surely read after.
async fn names(store: &Store, wire: &Wire, prefix: &Key) -> Result<(Vec<Key>, Revision)> {
    let synced = wire.sync();
    let revision = revision(store, wire);
    // Sent before the first name is asked for, because a future does nothing until it is polled.
    let (_, revision) = try_join(synced, revision).await?;
    let ours = Key::from(althing_core::check::RESERVED_PREFIX);
    let only_sessions = prefix.starts_with(&ours);
    let buckets = if only_sessions { 0 } else { BUCKETS };
    let buckets: Vec<_> = (0..buckets).map(|bucket| store.layout.bucket(bucket)).collect();
    // Many in one request, since a request costs more than a list; not all, since an answer has its bounds.
    let buckets = try_join_all(buckets.chunks(BUCKETS_AT_ONCE).map(|some| wire.children_of_all(some)));
    let with_sessions = only_sessions || ours.starts_with(prefix);
    let sessions = with_sessions.then(|| wire.children(&store.layout.estates()));
    let mut keys: Vec<Key> = Vec::new();
    for names in buckets.await? {
        keys.extend(names.iter().filter_map(|name| layout::unescape(name)).map(Key::new));
    }
    if let Some(sessions) = sessions
        && let Some((names, _)) = sessions.await?
    {
        keys.extend(names.iter().filter_map(|name| name.parse::<SessionId>().ok()).map(|id| id.key()));
    }
    keys.retain(|key| key.starts_with(prefix));
    keys.sort_unstable();
    Ok((keys, revision))
}

/// Reads those of `keys` that are there, as they lie there.
async fn read_all(store: &Store, wire: &Wire, keys: &[Key]) -> Result<Vec<Record>> {
    let reads = keys.iter().map(|key| {
        let session = session_key(key).map(|id| session(store, wire, id));
        let record = session.is_none().then(|| stored(store, wire, key));
        async move {
            match (session, record) {
                (Some(session), _) => session.await.map(|session| session.record),
                (None, Some(record)) => record.await,
                (None, None) => Ok(None),
            }
        }
    });
    Ok(try_join_all(reads).await?.into_iter().flatten().collect())
}

/// Takes out what belonged to sessions that have ended.
async fn hide_dead(store: &Store, wire: &Wire, records: &mut Vec<Record>) -> Result<()> {
    let owners = records.iter().filter_map(|record| record.session).collect();
    let dead = dead(store, wire, owners).await?;
    records.retain(|record| record.session.is_none_or(|owner| !dead.contains(&owner)));
    Ok(())
}

/// Waits for a wire and reads the revision that the ensemble has acknowledged.
pub(crate) async fn current_revision(store: &Store, deadline: BootTime) -> Result<Revision> {
    let wire = store.wire("watch", deadline).await?;
    let read = async { try_join(wire.sync(), revision(store, &wire)).await };
    store.read("watch", deadline, read).await.map(|(_, revision)| revision)
}
