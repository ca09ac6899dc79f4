//! One reader of the log per driver. It keeps the last changes in memory for all watches of this driver, and
//! sees the ends of sessions, whoever opened them.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use althing_core::{Cause, Change, Key, Result, Revision, SessionId, limits};
use tokio::sync::watch::{Receiver, Sender};
use tokio::task::{JoinHandle, JoinSet};

use crate::end;
use crate::layout::Place;
use crate::log::{self, End, Entry, Part};
use crate::store::Store;
use crate::wire::{Ear, Heard, Wire};

/// The pause after a failed attempt to listen; doubled for each further one, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Reads the log for as long as it lives.
#[derive(Debug)]
pub(crate) struct Hub {
    ring: Arc<Ring>,
    task: JoinHandle<()>,
}

impl Hub {
    /// Begins to read on the runtime of the caller.
    pub(crate) fn start(store: Arc<Store>) -> Hub {
        let ring = Arc::new(Ring::default());
        Hub { task: tokio::spawn(listen(store, ring.clone())), ring }
    }

    pub(crate) fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The last changes.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    // A std Mutex: held for a look, never over an await.
    kept: Mutex<Kept>,
    /// Rises whenever something was added or lost; 0 before the log was found.
    news: Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    entries: VecDeque<Entry>,
    changes: usize,
    bytes: usize,
    /// Everything after this is kept.
    floor: Revision,
    /// Where the next entry will stand; `None` before the log was found.
    next: Option<Place>,
}

/// What the ring holds for a watch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// What came next was not kept.
    Gap,
    /// Changes below the prefix, possibly none, and how far was looked.
    Seen { changes: Vec<Change>, revision: Revision },
}

impl Ring {
    /// Tells of additions and losses from now on.
    pub(crate) fn subscribe(&self) -> Receiver<u64> {
        self.news.subscribe()
    }

    /// Looks for changes below `prefix` after `from`, about as many as one delta holds.
    pub(crate) fn look(&self, prefix: &Key, from: Revision) -> Look {
        let kept = self.lock();
        if from < kept.floor {
            return Look::Gap;
        }
        let begin = kept.entries.partition_point(|entry| entry.revision <= from);
        gather(kept.entries.range(begin..), prefix, from)
    }

    /// Returns where the next entry will stand. `None` before the log was found.
    pub(crate) fn next(&self) -> Option<Place> {
        self.lock().next
    }

    /// Waits until the entry before `next` is kept, or the log was found anew.
    pub(crate) async fn reach(&self, next: Place) {
        // The sender lives as long as we do.
        let _ = self.subscribe().wait_for(|_| self.next().is_some_and(|there| there >= next)).await;
    }

    fn add(&self, entries: Vec<Entry>, next: Place) {
        if entries.is_empty() {
            return;
        }
        let mut kept = self.lock();
        kept.next = Some(next);
        for entry in entries {
            kept.changes += entry.changes.len();
            kept.bytes += bytes(&entry);
            kept.entries.push_back(entry);
        }
        while kept.changes > limits::HISTORY_CHANGES_MAX || kept.bytes > limits::HISTORY_BYTES_MAX {
            let Some(oldest) = kept.entries.pop_front() else { break };
            kept.changes -= oldest.changes.len();
            kept.bytes -= bytes(&oldest);
            kept.floor = oldest.revision;
        }
        drop(kept);
        self.tell();
    }

    /// Forgets everything: what came after the end will be kept.
    fn begin(&self, end: End) {
        *self.lock() = Kept { floor: end.revision, next: Some(end.next), ..Kept::default() };
        self.tell();
    }

    fn tell(&self) {
        self.news.send_modify(|news| *news += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Nothing under the lock can panic; a poisoned one would still guard a whole state.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gathers the changes below `prefix` until a delta is full.
pub(crate) fn gather<'a>(entries: impl IntoIterator<Item = &'a Entry>, prefix: &Key, from: Revision) -> Look {
    let (mut changes, mut revision) = (Vec::<Change>::new(), from);
    for entry in entries {
        let ours = || entry.changes.iter().filter(|change| change.key().starts_with(prefix));
        if !changes.is_empty() && changes.len() + ours().count() > limits::DELTA_CHANGES_MAX {
            break;
        }
        changes.extend(ours().cloned());
        revision = entry.revision;
    }
    Look::Seen { changes, revision }
}

fn bytes(entry: &Entry) -> usize {
    let of = |change: &Change| match change {
        Change::Put(record) => record.key.as_bytes().len() + record.value.len(),
        Change::Deleted { key, .. } => key.as_bytes().len(),
    };
    entry.changes.iter().map(of).sum()
}

async fn listen(store: Arc<Store>, ring: Arc<Ring>) {
    let (mut place, mut pause) = (None, PAUSE_MIN);
    loop {
        if let Err(error) = attend(&store, &ring, &mut place, &mut pause).await {
            tracing::debug!(%error, "the log cannot be read now");
        }
        store.clock.sleep(store.chance.jitter(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Reads on one connection until its session ends.
async fn attend(
    store: &Arc<Store>,
    ring: &Ring,
    place: &mut Option<Place>,
    pause: &mut Duration,
) -> Result<()> {
    let wire = store.wire("watch", store.deadline()).await?;
    let mut burials = JoinSet::new();
    let (logs, sessions) = (store.layout.logs(), store.layout.sessions());
    loop {
        // Before the log is read, so that nothing happens in between. And again after every loss of the
        // connection: the crate sends no persistent watch again, and what happened meanwhile is not told.
        let mut ears = tokio::try_join!(wire.listen(&logs), wire.listen(&sessions))?;
        catch_up(store, &wire, ring, place).await?;
        bury_orphans(store, &wire, &mut burials).await?;
        *pause = PAUSE_MIN;
        if listen_on(store, &wire, ring, place, &mut ears, &mut burials).await? == News::Over {
            return Ok(());
        }
    }
}

/// Takes in what is heard until the connection was lost and is back, or its session has ended.
async fn listen_on(
    store: &Arc<Store>,
    wire: &Wire,
    ring: &Ring,
    place: &mut Option<Place>,
    (log, sessions): &mut (Ear, Ear),
    burials: &mut JoinSet<()>,
) -> Result<News> {
    loop {
        tokio::select! {
            heard = log.next() => match hear(store, heard, log) {
                News::Entry(last) => read_on(store, wire, ring, place, last).await?,
                News::Nothing => {}
                end => return Ok(end),
            },
            heard = sessions.next() => match heard {
                Heard::Deleted(path) => {
                    if let Some(id) = store.layout.session_of(&path) {
                        burials.spawn(bury(store.clone(), id));
                    }
                }
                Heard::Connected => return Ok(News::Connected),
                Heard::Over => return Ok(News::Over),
                Heard::Created(_) | Heard::Else => {}
            },
            Some(_) = burials.join_next(), if !burials.is_empty() => {}
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// The log goes up to here at least.
    Entry(Place),
    Connected,
    Nothing,
    Over,
}

/// Takes in an event and those that were told with it: a hundred entries are read at once.
fn hear(store: &Store, first: Heard, ear: &mut Ear) -> News {
    let (mut news, mut next) = (News::Nothing, Some(first));
    while let Some(heard) = next {
        match heard {
            Heard::Over => return News::Over,
            Heard::Connected => news = News::Connected,
            Heard::Created(path) => {
                news = match (news, store.layout.place_of(&path)) {
                    (News::Nothing, Some(place)) => News::Entry(place),
                    (News::Entry(known), Some(place)) => News::Entry(known.max(place)),
                    (news, _) => news,
                };
            }
            Heard::Deleted(_) | Heard::Else => {}
        }
        next = ear.told();
    }
    news
}

/// Reads the entries up to `last`.
async fn read_on(
    store: &Store,
    wire: &Wire,
    ring: &Ring,
    place: &mut Option<Place>,
    last: Place,
) -> Result<()> {
    let Some(next) = *place else { return catch_up(store, wire, ring, place).await };
    if last < next {
        return Ok(());
    }
    if last.volume != next.volume {
        return catch_up(store, wire, ring, place).await;
    }
    let to = last.number + 1;
    match log::range(store, wire, next, to).await? {
        Part::Whole(entries) => {
            let next = Place { number: to, ..next };
            *place = Some(next);
            ring.add(entries, next);
            Ok(())
        }
        Part::Torn => begin(store, wire, ring, place).await,
    }
}

/// Reads whatever there is after `place`, or finds the end of the log where nothing was read yet.
async fn catch_up(store: &Store, wire: &Wire, ring: &Ring, place: &mut Option<Place>) -> Result<()> {
    let Some(next) = *place else { return begin(store, wire, ring, place).await };
    match log::after(store, wire, next).await? {
        (Part::Whole(entries), next) => {
            *place = Some(next);
            ring.add(entries, next);
            Ok(())
        }
        (Part::Torn, _) => begin(store, wire, ring, place).await,
    }
}

/// Goes on from the end of the log; every watch sees the gap.
async fn begin(store: &Store, wire: &Wire, ring: &Ring, place: &mut Option<Place>) -> Result<()> {
    let end = log::end(store, wire).await?;
    *place = Some(end.next);
    ring.begin(end);
    Ok(())
}

/// Finds what belonged to sessions that ended while nobody looked.
async fn bury_orphans(store: &Arc<Store>, wire: &Wire, burials: &mut JoinSet<()>) -> Result<()> {
    // In this order: a session is made with its estate, so one that is missing later has been there.
    let (estates, sessions) = (store.layout.estates(), store.layout.sessions());
    let (estates, sessions) = tokio::try_join!(wire.children(&estates), wire.children(&sessions))?;
    let ids = |found: Option<(Vec<String>, _)>| -> BTreeSet<SessionId> {
        let (names, _): (Vec<String>, crate::wire::Node) = match found {
            Some(found) => found,
            None => return BTreeSet::new(),
        };
        names.iter().filter_map(|name| name.parse().ok()).collect()
    };
    for id in ids(estates).difference(&ids(sessions)) {
        burials.spawn(bury(store.clone(), *id));
    }
    Ok(())
}

/// Removes what an ended session left, however often that takes: nobody is told of its end before.
async fn bury(store: Arc<Store>, id: SessionId) {
    let mut pause = PAUSE_MIN;
    while let Err(error) = end::end(&store, id, Cause::Expired, "watch", store.deadline()).await {
        tracing::debug!(%error, session = %id, "what a session left cannot be removed now");
        store.clock.sleep(store.chance.jitter(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use althing_core::{Record, Stamp};

    const PLACE: Place = Place { volume: 0, number: 0 };

    fn end(revision: u64) -> End {
        End { next: PLACE, revision: Revision(revision) }
    }

    fn entry(revision: u64, keys: &[&str]) -> Entry {
        let revision = Revision(revision);
        let put = |key: &&str| {
            let stamp = Stamp { created: revision, modified: revision };
            Change::Put(Record { key: Key::from(*key), value: "v".into(), session: None, stamp })
        };
        Entry { revision, changes: keys.iter().map(put).collect() }
    }

    #[track_caller]
    fn check(ring: &Ring, from: u64, expected: Option<(&[&str], u64)>) {
        let found = match ring.look(&"w/".into(), Revision(from)) {
            Look::Gap => None,
            Look::Seen { changes, revision } => Some((changes, revision)),
        };
        let keys =
            |changes: Vec<Change>| changes.iter().map(|change| change.key().clone()).collect::<Vec<_>>();
        let found = found.map(|(changes, revision)| (keys(changes), revision.0));
        let expected = expected.map(|(names, at)| (names.iter().map(|name| Key::from(*name)).collect(), at));
        assert_eq!(found, expected, "from {from}");
    }

    #[test]
    fn shows_what_came_after_and_a_gap_where_that_is_not_kept() {
        let ring = Ring::default();
        ring.begin(end(5));
        ring.add(vec![entry(7, &["w/a", "x"]), entry(9, &["x"]), entry(12, &["w/b"])], PLACE);
        check(&ring, 4, None);
        check(&ring, 5, Some((&["w/a", "w/b"], 12)));
        check(&ring, 7, Some((&["w/b"], 12)));
        check(&ring, 12, Some((&[], 12)));
        check(&ring, 20, Some((&[], 20)));
    }

    #[test]
    fn forgets_the_oldest_and_keeps_a_delta_within_bounds() {
        let ring = Ring::default();
        ring.begin(end(1));
        let names: Vec<String> = (0..64).map(|index| format!("w/{index}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let many = limits::HISTORY_CHANGES_MAX / 64 + 1;
        ring.add((0..many as u64).map(|index| entry(2 + index, &names)).collect(), PLACE);
        check(&ring, 1, None);
        let Look::Seen { changes, revision } = ring.look(&Key::default(), Revision(2)) else {
            panic!("a gap")
        };
        assert_eq!((changes.len(), revision), (limits::DELTA_CHANGES_MAX, Revision(18)));
    }
}
