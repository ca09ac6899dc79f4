//! The log: an entry for each commit, in the order of commits, and no more of them than needed.
//!
//! The server numbers the entries of a volume without a gap. It counts with 31 bits and stands still at the end,
//! so a volume that is nearly full is closed by a change of its data, in the transaction that begins the next
//! one; whoever writes checks that the volume he writes to is still as it was made.

use std::sync::Arc;

use althing_core::{Change, Result, Revision, limits};
use futures::future::{join_all, try_join_all};

use crate::entry::{self, Line};
use crate::layout::{self, Place};
use crate::read;
use crate::store::Store;
use crate::wire::{Done, Mode, Refusal, Step, Wire};

/// How many entries are kept for whoever comes back.
const KEPT: u32 = 4096;
/// How often older ones are removed, in entries.
const PRUNE_EVERY: u32 = 64;
/// How many entries are read at once.
const AT_ONCE: u32 = 128;
/// The number at which a volume is closed.
const VOLUME_ENTRIES_MAX: u32 = 2_000_000_000;

const _: () = assert!(VOLUME_ENTRIES_MAX < i32::MAX as u32);

/// What one commit changed.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) revision: Revision,
    pub(crate) changes: Vec<Change>,
}

/// The end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Where the next entry will stand.
    pub(crate) next: Place,
    /// The revision of the last entry, or of the volume where it is empty.
    pub(crate) revision: Revision,
}

/// What a read of some entries gave.
#[derive(Debug)]
pub(crate) enum Part {
    /// All of them.
    Whole(Vec<Entry>),
    /// Some are gone, or a value they tell of is.
    Torn,
}

/// Does in the background what a commit owes the log: removes old entries, closes a full volume.
pub(crate) fn tend(store: &Arc<Store>, wire: &Arc<Wire>, done: &[Done]) {
    let place = done.iter().find_map(|done| match done {
        Done::Created(path) => store.layout.place_of(path),
        _ => None,
    });
    let Some(place) = place.filter(|place| place.number.is_multiple_of(PRUNE_EVERY)) else { return };
    let (store, wire) = (store.clone(), wire.clone());
    tokio::spawn(async move {
        let oldest = place.number.saturating_sub(KEPT);
        let numbers = oldest.saturating_sub(PRUNE_EVERY)..oldest;
        remove(&store, &wire, numbers.map(|number| Place { number, ..place })).await;
        if place.number >= VOLUME_ENTRIES_MAX {
            begin_volume(&store, &wire, place.volume).await;
        }
    });
}

/// Removes what others left: entries that are too old, and volumes before the last but one.
pub(crate) async fn prune(store: &Store, wire: &Wire) -> Result<()> {
    let volume = store.find_volume(wire).await?;
    let numbers = numbers(store, wire, volume).await?;
    let old = numbers.len().saturating_sub((KEPT + PRUNE_EVERY) as usize);
    remove(store, wire, numbers[..old].iter().map(|number| Place { volume, number: *number })).await;
    let Some((names, _)) = wire.children(&store.layout.logs()).await? else { return Ok(()) };
    let volumes = names.iter().filter_map(|name| layout::volume_of(name));
    for old in volumes.filter(|other| other + 1 < volume) {
        let numbers = self::numbers(store, wire, old).await?;
        remove(store, wire, numbers.into_iter().map(|number| Place { volume: old, number })).await;
        // Somebody else may do the same; whoever is last removes it.
        let _ = wire.delete(&store.layout.volume(old)).await;
    }
    Ok(())
}

async fn remove(store: &Store, wire: &Wire, places: impl Iterator<Item = Place>) {
    let paths: Vec<String> = places.map(|place| store.layout.entry(place)).collect();
    // What is not removed now is removed by whoever connects next.
    join_all(paths.iter().map(|path| wire.delete(path))).await;
}

/// Closes a volume and begins the next one. Others may be quicker.
async fn begin_volume(store: &Store, wire: &Wire, volume: u32) {
    let path = store.layout.volume(volume + 1);
    let close = Step::Set { path: store.layout.volume(volume), data: b"closed".to_vec(), version: Some(0) };
    let steps = [close, Step::Create { path, data: Vec::new(), mode: Mode::Lasting }];
    if let Err(Refusal::Failed(error)) = wire.transact("commit", &steps).await {
        tracing::warn!(%error, volume, "the next volume of the log could not be begun");
    }
}

/// Finds the end of the log.
pub(crate) async fn end(store: &Store, wire: &Wire) -> Result<End> {
    let volume = store.find_volume(wire).await?;
    let path = store.layout.volume(volume);
    let (names, node) = wire.children(&path).await?.ok_or_else(|| layout::foreign("the log"))?;
    let last = names.iter().filter_map(|name| layout::number_of(name)).max();
    let Some(number) = last else {
        return Ok(End { next: Place { volume, number: 0 }, revision: node.children_changed });
    };
    let next = Place { volume, number: number + 1 };
    let last = wire.look(&store.layout.entry(Place { volume, number })).await?;
    Ok(End { next, revision: last.map_or(node.children_changed, |last| last.created) })
}

/// Reads all entries from `next` on, to the end, and returns where that is.
pub(crate) async fn after(store: &Store, wire: &Wire, mut next: Place) -> Result<(Part, Place)> {
    let current = store.find_volume(wire).await?;
    let mut entries = Vec::new();
    loop {
        let numbers = numbers(store, wire, next.volume).await?;
        let to = numbers.last().map_or(0, |last| last + 1);
        if to < next.number || (next.volume < current && to == 0) {
            return Ok((Part::Torn, next));
        }
        match range(store, wire, next, to).await? {
            Part::Whole(more) => entries.extend(more),
            Part::Torn => return Ok((Part::Torn, next)),
        }
        if next.volume >= current {
            return Ok((Part::Whole(entries), Place { number: to, ..next }));
        }
        next = Place { volume: next.volume + 1, number: 0 };
    }
}

/// Reads the entries of one volume from `from` to before `to`.
pub(crate) async fn range(store: &Store, wire: &Wire, from: Place, to: u32) -> Result<Part> {
    let mut entries = Vec::new();
    let mut number = from.number;
    while number < to {
        let some = number..to.min(number + AT_ONCE);
        number = some.end;
        let places = some.map(|number| Place { number, ..from });
        match read_some(store, wire, places).await? {
            Part::Whole(more) => entries.extend(more),
            Part::Torn => return Ok(Part::Torn),
        }
    }
    Ok(Part::Whole(entries))
}

/// Reads what was committed after `from`, as far back as that is kept. `Torn` where it does not reach so far, or
/// is more than watchers are told one by one.
pub(crate) async fn since(store: &Store, wire: &Wire, from: Revision) -> Result<Part> {
    let mut volume = store.find_volume(wire).await?;
    let (mut entries, mut changes) = (Vec::<Entry>::new(), 0);
    loop {
        let path = store.layout.volume(volume);
        let Some((names, node)) = wire.children(&path).await? else { return Ok(Part::Torn) };
        let mut to = names.iter().filter_map(|name| layout::number_of(name)).max().map_or(0, |last| last + 1);
        let oldest = names.iter().filter_map(|name| layout::number_of(name)).min().unwrap_or(0);
        while to > oldest {
            let begin = to.saturating_sub(AT_ONCE).max(oldest);
            let places = (begin..to).map(|number| Place { volume, number });
            let Part::Whole(mut older) = read_some_since(store, wire, places, from).await? else {
                return Ok(Part::Torn);
            };
            let reached = older.len() < (to - begin) as usize;
            changes += older.iter().map(|entry| entry.changes.len()).sum::<usize>();
            if changes > limits::HISTORY_CHANGES_MAX {
                return Ok(Part::Torn);
            }
            older.append(&mut entries);
            entries = older;
            if reached {
                return Ok(Part::Whole(entries));
            }
            to = begin;
        }
        // The whole volume is younger than `from`: it goes on in the one before, unless that was all.
        if oldest > 0 {
            return Ok(Part::Torn);
        }
        if node.created <= from {
            return Ok(Part::Whole(entries));
        }
        let Some(before) = volume.checked_sub(1) else { return Ok(Part::Torn) };
        volume = before;
    }
}

async fn numbers(store: &Store, wire: &Wire, volume: u32) -> Result<Vec<u32>> {
    let names =
        wire.children(&store.layout.volume(volume)).await?.map(|(names, _)| names).unwrap_or_default();
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| layout::number_of(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

async fn read_some(store: &Store, wire: &Wire, places: impl Iterator<Item = Place>) -> Result<Part> {
    read_some_since(store, wire, places, Revision::ZERO).await
}

/// Reads those of `places` that are younger than `from`.
async fn read_some_since(
    store: &Store,
    wire: &Wire,
    places: impl Iterator<Item = Place>,
    from: Revision,
) -> Result<Part> {
    let read = try_join_all(places.map(|place| wire.get(&store.layout.entry(place)))).await?;
    let mut entries = Vec::with_capacity(read.len());
    for found in read.into_iter().rev() {
        let Some((data, node)) = found else { return Ok(Part::Torn) };
        if node.created <= from {
            break;
        }
        let Some(changes) = changes(store, wire, entry::read(data)?, node.created).await? else {
            return Ok(Part::Torn);
        };
        entries.push(Entry { revision: node.created, changes });
    }
    entries.reverse();
    Ok(Part::Whole(entries))
}

/// Makes changes of the lines of one entry. Large values are read from their records. `None` where one was
/// written again since.
async fn changes(
    store: &Store,
    wire: &Wire,
    lines: Vec<Line>,
    revision: Revision,
) -> Result<Option<Vec<Change>>> {
    let reads = lines.into_iter().map(|line| {
        let large = matches!(line, Line::Put { value: None, .. });
        let read = large.then(|| read::stored(store, wire, line.key()));
        async move {
            let Some(read) = read else { return Ok(line.change(revision)) };
            let record = read.await?.filter(|record| record.stamp.modified == revision);
            Ok::<_, althing_core::Error>(record.map(Change::Put))
        }
    });
    Ok(try_join_all(reads).await?.into_iter().collect())
}
