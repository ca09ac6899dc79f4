//! Following: the task behind a watch. It goes on where it was over every loss of a connection.
//!
//! etcd is asked for everything of the namespace, because only the whole of a revision says why a record went: the
//! session's record goes in the same one. What does not lie below the prefix is dropped here.

use std::sync::Arc;
use std::time::Duration;

use althing_core::{Key, Revision, limits};

use crate::events;
use crate::incarnation::Incarnation;
use crate::layout;
use crate::proto::{Event, WatchCreateRequest, WatchResponse};
use crate::read;
use crate::store::{self, Store};
use crate::watch::Queue;
use crate::wire::{Call, Feed, Refusal, Wire};

/// The pause before it is tried anew; doubled for each further time in a row without progress, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

const CALL: Call = Call { operation: "watch", writes: false };

/// Everything up to `revision` of this incarnation was told.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) incarnation: Incarnation,
    pub(crate) revision: Revision,
}

/// Why nothing more can be told from a place.
enum End {
    /// Something was missed, or may have been.
    Gap,
    /// The connection is not to be used any more.
    Moved,
}

/// Fills `queue` for ever, from `place` on or from a snapshot.
pub(crate) async fn follow(store: Arc<Store>, prefix: Key, mut place: Option<Place>, queue: Arc<Queue>) {
    let mut pause = PAUSE_MIN;
    loop {
        let (before, begun) = (place.as_ref().map(|place| place.revision), store.clock.now());
        let ended = step(&store, &prefix, &mut place, &queue).await;
        let has_told = place.as_ref().map(|place| place.revision) != before;
        if has_told || store.clock.now().since(begun) > PAUSE_MAX {
            pause = PAUSE_MIN;
        }
        match ended {
            Ok(End::Gap) | Err(Refusal::Compacted) => place = None,
            Ok(End::Moved) => {}
            Err(refusal) => queue.fail(refusal.into_error(CALL.operation)),
        }
        store.clock.sleep(store.chance.jitter(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Follows on one connection, until that ends or something is missing.
async fn step(store: &Store, prefix: &Key, place: &mut Option<Place>, queue: &Queue) -> Result<End, Refusal> {
    queue.wanted().await;
    let deadline = store.deadline();
    let wire = store.wire(CALL.operation, deadline).await.map_err(Refusal::Outage)?;
    let ended = step_on(store, &wire, prefix, place, queue).await;
    if let Err(Refusal::Outage(_) | Refusal::LoggedOut) = ended {
        store.leave(&wire);
        // What was told to this moment goes on elsewhere; only where there is no other is it an error.
        return Ok(End::Moved);
    }
    ended
}

async fn step_on(
    store: &Store,
    wire: &Wire,
    prefix: &Key,
    place: &mut Option<Place>,
    queue: &Queue,
) -> Result<End, Refusal> {
    let now = store.within(store.deadline(), store.now(CALL, wire)).await;
    let (incarnation, newest) = now.unwrap_or_else(|| Err(Refusal::Outage(store.late(CALL.operation))))?;
    let revision = match place {
        None => {
            let (records, revision) = read::all(store, wire, CALL, prefix).await?;
            queue.begin(records, revision);
            revision
        }
        Some(known) => {
            // A store that was set back hands out its revisions again.
            if known.incarnation != incarnation || known.revision > newest {
                return Ok(End::Gap);
            }
            known.revision
        }
    };
    let place = place.insert(Place { incarnation, revision });
    let all = store.layout.all();
    let create = WatchCreateRequest {
        key: all.start,
        range_end: all.end,
        start_revision: layout::number(revision) + 1,
        progress_notify: true,
        prev_kv: true,
        fragment: true,
    };
    let feed = store.within(store.deadline(), wire.watch(CALL, create)).await;
    let feed = feed.unwrap_or_else(|| Err(Refusal::Outage(store.late(CALL.operation))))?;
    tokio::select! {
        ended = attend(store, feed, prefix, &mut place.revision, queue) => ended,
        () = wire.condemnation() => Ok(End::Moved),
    }
}

/// Passes on what is told after `seen`.
async fn attend(
    store: &Store,
    mut feed: Feed,
    prefix: &Key,
    seen: &mut Revision,
    queue: &Queue,
) -> Result<End, Refusal> {
    // The events of the last revision, until it is sure that all of them are here.
    let mut open: Vec<Event> = Vec::new();
    // Nothing of an answer is passed on before its end: a long way to catch up is a gap, however fast it is read.
    let mut commits: Vec<(Revision, Vec<Event>)> = Vec::new();
    let (mut count, mut bytes) = (0, 0);
    loop {
        let answer = feed.next().await?;
        let is_whole = !answer.fragment;
        let told = progress(&answer)?;
        for mut event in answer.events {
            if !event.is_deletion() {
                // Only of what went is it asked what it was.
                event.prev_kv = None;
            }
            let revision = revision_of(&event);
            if revision <= *seen {
                continue;
            }
            if open.first().is_some_and(|first| revision_of(first) != revision) {
                let done = std::mem::take(&mut open);
                commits.extend(done.first().map(revision_of).map(|revision| (revision, done)));
            }
            count += 1;
            bytes += event.value_bytes();
            open.push(event);
        }
        // More than a watcher is told one by one. Others than ours are among them, so it is not yet sure.
        if count > 2 * limits::HISTORY_CHANGES_MAX || bytes > 2 * limits::HISTORY_BYTES_MAX {
            return Ok(End::Gap);
        }
        if !is_whole {
            continue;
        }
        let done = std::mem::take(&mut open);
        commits.extend(done.first().map(revision_of).map(|revision| (revision, done)));
        (count, bytes) = (0, 0);
        for (revision, events) in commits.drain(..) {
            // What is not ours stays in the history for good. The snapshot tells whether it is still there.
            let Ok(Some(changes)) = events::changes(&store.layout, prefix, revision, events) else {
                return Ok(End::Gap);
            };
            if !queue.add(revision, changes) {
                return Ok(End::Gap);
            }
            *seen = revision;
        }
        *seen = told.map_or(*seen, |told| told.max(*seen));
    }
}

fn revision_of(event: &Event) -> Revision {
    layout::revision(event.kv.as_ref().map_or(0, |kv| kv.mod_revision))
}

/// Returns up to where all was told, where an answer says just that.
fn progress(answer: &WatchResponse) -> Result<Option<Revision>, Refusal> {
    if answer.created || !answer.events.is_empty() {
        return Ok(None);
    }
    let header = store::header(CALL.operation, answer.header.clone()).map_err(Refusal::Failed)?;
    Ok(Some(layout::revision(header.revision)))
}
