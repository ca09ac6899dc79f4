//! What one process knows of a namespace, and how it catches up with the log, writes to it, and goes on to the next.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{BootTime, Cause, Chance, Clock, Error, Kind, Result, Revision, SessionId};

use crate::disk::{self, failed};
use crate::draft::Draft;
use crate::entry::Entry;
use crate::image::{Image, Outcome};
use crate::log::{Header, Log, RESERVE_BYTES, Tape};
use crate::place::Place;
use crate::session::{self, Held};

/// How often the locks of the others' sessions are tried at most, and how much longer that takes for each of them.
const LOCKS_EVERY: Duration = Duration::from_millis(100);
const LOCK_SHARE: Duration = Duration::from_millis(1);
/// How often a directory that others change at the same time is looked at anew.
const TRIES_MAX: u32 = 32;
/// A compaction keeps so much room for what is written meanwhile.
const MEANWHILE_BYTES: u64 = 1 << 20;

/// A namespace, as far as this process has read it.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) place: Place,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    /// `None` where the directory was lost and not found again.
    log: Option<Log>,
    pub(crate) image: Image,
    /// The sessions that were opened here.
    pub(crate) held: HashMap<SessionId, Held>,
    /// Rises when the state did not go on from the one before.
    pub(crate) epoch: u64,
    /// Everything up to this revision is on the disk, and may be shown.
    pub(crate) shown: Revision,
    /// The highest revision ever seen here.
    seen: Revision,
    /// Where the last entry ends that changed something.
    changed_to: u64,
    /// Room for the next log, taken before this one is sealed.
    draft: Option<Draft>,
    locks_tried: BootTime,
}

/// A moment of the log: what must be on the disk before the state of that moment is shown.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) tape: Arc<Tape>,
    pub(crate) end: u64,
    pub(crate) revision: Revision,
    pub(crate) epoch: u64,
    pub(crate) incarnation: u128,
}

impl State {
    /// Opens the namespace, and begins its first log where there is none.
    pub(crate) fn open(place: Place, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Result<State> {
        let mut state = State {
            locks_tried: clock.now(),
            place,
            clock,
            chance,
            log: None,
            image: Image::default(),
            held: HashMap::new(),
            epoch: 0,
            shown: Revision::ZERO,
            seen: Revision::ZERO,
            changed_to: 0,
            draft: None,
        };
        if state.latest("connect")?.is_none() {
            state.begin()?;
        }
        state.catch_up("connect", None)?;
        Ok(state)
    }

    /// Returns the present moment.
    pub(crate) fn moment(&self, operation: &'static str) -> Result<Moment> {
        let log = self.log.as_ref().ok_or_else(|| self.gone(operation))?;
        Ok(Moment {
            tape: log.tape.clone(),
            end: self.changed_to,
            revision: self.image.revision(),
            epoch: self.epoch,
            incarnation: log.header.incarnation,
        })
    }

    /// Brings the state to now: reads what was written, and ends the sessions that are over. With `try_locks` the locks of the
    /// others' sessions are tried, else only if that was long ago.
    pub(crate) fn refresh(&mut self, operation: &'static str, try_locks: bool) -> Result<()> {
        self.catch_up(operation, None)?;
        let now = self.clock.now();
        for (due, id) in self.image.due(now) {
            self.write(operation, &Entry::End { id, due: Some(due), cause: Cause::Expired }, || Ok(()))?;
        }
        let pause = LOCKS_EVERY.max(LOCK_SHARE * self.image.sessions().count() as u32);
        if try_locks || now.since(self.locks_tried) >= pause {
            self.locks_tried = now;
            self.end_orphans(operation)?;
        }
        Ok(())
    }

    fn end_orphans(&mut self, operation: &'static str) -> Result<()> {
        let others = self.image.sessions().filter(|id| !self.held.contains_key(id));
        let orphans: Vec<_> = others.filter(|id| session::is_orphaned(&self.place, *id)).collect();
        for id in orphans {
            self.write(operation, &Entry::End { id, due: None, cause: Cause::Expired }, || Ok(()))?;
        }
        Ok(())
    }

    /// Writes an entry, calling `sends` right before, and returns what it came to. The error of an entry that may have been
    /// written says so.
    pub(crate) fn write(
        &mut self,
        operation: &'static str,
        entry: &Entry,
        sends: impl Fn() -> Result<()>,
    ) -> Result<Outcome> {
        let body = entry.encode();
        let takes_room = matches!(entry, Entry::Commit { .. } | Entry::Open { .. });
        for _ in 0..TRIES_MAX {
            let Some(log) = &mut self.log else { return Err(self.gone(operation)) };
            if takes_room {
                log.make_room(operation, body.len() as u64)?;
            }
            sends()?;
            let end = log.append(operation, &body)?;
            let outcome = self.catch_up(operation, Some(end)).map_err(Error::with_unknown_effect)?;
            // None: it came behind a seal, and does not count.
            if let Some(outcome) = outcome {
                return Ok(outcome);
            }
        }
        Err(Error::new(Kind::Busy, operation, "the log is begun anew faster than it can be written to"))
    }

    /// Makes an entry's revision rise above everything seen here, whatever became of the directory.
    pub(crate) fn above(&self) -> Revision {
        self.seen
    }

    /// Tells whether the log should be begun anew.
    pub(crate) fn is_long(&self) -> bool {
        self.log.as_ref().is_some_and(Log::is_long)
    }

    /// Begins the log anew with the present state. Does nothing where another process has done so.
    pub(crate) fn compact(&mut self) -> Result<()> {
        self.catch_up("compact", None)?;
        if !self.is_long() {
            return Ok(());
        }
        // Taken first: on a full disk the log rather stays as it is.
        let room = self.image.weight() + MEANWHILE_BYTES + RESERVE_BYTES;
        let draft = Draft::begin("compact", &self.place, &*self.chance, room)?;
        let Some(log) = &mut self.log else { return Ok(()) };
        log.append("compact", &Entry::Seal.encode())?;
        self.draft = Some(draft);
        let done = self.catch_up("compact", None);
        self.draft = None;
        done.map(drop)
    }

    /// Reads what was written, over seals and from one log to the next. Returns what the entry came to that ends at `awaited`
    /// in the log that was read first.
    pub(crate) fn catch_up(
        &mut self,
        operation: &'static str,
        mut awaited: Option<u64>,
    ) -> Result<Option<Outcome>> {
        let mut outcome = None;
        for _ in 0..TRIES_MAX {
            let Some(log) = &self.log else {
                self.find_again(operation)?;
                awaited = None;
                continue;
            };
            let in_place = log.is_in_place(operation)?;
            outcome = outcome.or(self.replay(operation, awaited)?);
            match &self.log {
                Some(log) if log.sealed => self.go_on(operation)?,
                _ if in_place => return Ok(outcome),
                // Neither sealed nor where the others would find it: somebody removed or replaced the directory.
                _ => self.log = None,
            }
            awaited = None;
        }
        Err(Error::new(Kind::Busy, operation, "the directory changes faster than it can be read"))
    }

    fn replay(&mut self, operation: &'static str, awaited: Option<u64>) -> Result<Option<Outcome>> {
        let Some(log) = &mut self.log else { return Ok(None) };
        let (mut outcome, size) = (None, log.size(operation)?);
        let (image, held, place) = (&mut self.image, &mut self.held, &self.place);
        let changed_to = &mut self.changed_to;
        log.replay(operation, size, |end, entry| {
            let before = image.revision();
            let applied = image.apply(entry);
            if image.revision() > before {
                *changed_to = end;
            }
            if let Outcome::Ended(id) = applied
                && held.remove(&id).is_some()
            {
                session::forget(place, id);
            }
            if awaited == Some(end) {
                outcome = Some(applied);
            }
        })?;
        self.seen = self.seen.max(self.image.revision());
        Ok(outcome)
    }

    /// Goes on from a log that was sealed.
    fn go_on(&mut self, operation: &'static str) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let (header, was_in_place) = (log.header, log.is_in_place(operation)?);
        let generation = header.generation + 1;
        let next = match Log::open(operation, &self.place, generation)? {
            // What makes a log of that name again long after may have stood still since before it was removed.
            Some(next) if was_in_place || self.latest(operation)? == Some(generation) => Some(next),
            Some(_) => None,
            None if was_in_place => return self.make_next(operation),
            None => None,
        };
        match next {
            Some(mut next) if next.header.parent == header.id && !next.is_former => {
                next.skip_parts();
                self.changed_to = next.header.parts_end;
                self.log = Some(next);
                self.settle_in(operation)
            }
            _ => {
                self.log = None;
                Ok(())
            }
        }
    }

    /// Makes the log that goes on from the one that is sealed, or is of a former boot. That one stays where another process is
    /// quicker; then the next look finds the other's.
    fn make_next(&mut self, operation: &'static str) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let header = Header {
            generation: log.header.generation + 1,
            parent: log.header.id,
            id: self.chance.bits(),
            boot: self.place.boot,
            // The end of all sessions of a former boot is one more step.
            base: Revision(self.image.revision().0.saturating_add(u64::from(log.is_former))),
            ..log.header
        };
        let room = self.image.weight() + RESERVE_BYTES;
        let draft = match self.draft.take() {
            Some(draft) => draft,
            None => Draft::begin(operation, &self.place, &*self.chance, room)?,
        };
        let placed = draft.become_log(operation, &self.place, header, &self.image, log.is_former)?;
        // Logs are removed in order. If this one is, then somebody went on from it long ago, and what was made now is nobody's.
        if placed && !log.is_in_place(operation)? {
            let path = self.place.log(header.generation);
            disk::remove(&path).map_err(|error| failed(operation, "remove", &path, error))?;
        }
        Ok(())
    }

    /// Makes the first log.
    fn begin(&mut self) -> Result<()> {
        let header = Header {
            generation: 1,
            incarnation: self.chance.bits(),
            id: self.chance.bits(),
            parent: 0,
            boot: self.place.boot,
            // Microseconds of wall time: above all that a directory gave out that somebody removed.
            base: Revision(self.clock.wall_ms().saturating_mul(1000)),
            parts_end: 0,
        };
        let draft = Draft::begin("connect", &self.place, &*self.chance, RESERVE_BYTES)?;
        draft.become_log("connect", &self.place, header, &Image::default(), false).map(drop)
    }

    /// Finds the directory's present log, and reads the state it begins with.
    fn find_again(&mut self, operation: &'static str) -> Result<()> {
        let Some(generation) = self.latest(operation)? else { return Err(self.gone(operation)) };
        let Some(log) = Log::open(operation, &self.place, generation)? else { return Ok(()) };
        self.image = Image::at(log.header.base);
        self.changed_to = log.header.parts_end;
        let is_former = log.is_former;
        self.log = Some(log);
        // Never a step of the state before: watches begin anew.
        self.epoch += 1;
        self.shown = Revision::ZERO;
        self.replay(operation, None).inspect_err(|_| self.log = None)?;
        if is_former {
            let made = self.make_next(operation);
            self.log = None;
            return made;
        }
        let image = &self.image;
        self.held.retain(|id, _| image.is_alive(*id));
        self.settle_in(operation)
    }

    /// Makes sure that the log is found again whatever happens, and clears up behind it.
    fn settle_in(&mut self, operation: &'static str) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let (folder, generation) = (&self.place.folder, log.header.generation);
        disk::sync_folder(folder).map_err(|error| failed(operation, "sync", folder, error))?;
        let (image, held) = (&self.image, &self.held);
        let swept = self.place.sweep(generation, |id| image.is_alive(id) || held.contains_key(&id));
        swept.map_err(|error| failed(operation, "clear up", folder, error))
    }

    fn latest(&self, operation: &'static str) -> Result<Option<u64>> {
        let folder = &self.place.folder;
        let found = self.place.generations().map_err(|error| failed(operation, "list", folder, error))?;
        Ok(found.last().copied())
    }

    fn gone(&self, operation: &'static str) -> Error {
        Error::new(Kind::Unavailable, operation, "the directory is gone, and what it held")
            .with("path", self.place.folder.display())
            .advise("Put it back, or start the hosts anew to begin with an empty one")
    }
}

#[cfg(test)]
mod tests {
    use althing_core::{OsChance, SystemClock, Txn};
    use althing_test_servers::Folder;

    use super::*;
    use crate::settings::Settings;

    fn open(folder: &Folder) -> State {
        let settings = Settings::read(&folder.url("n").parse().unwrap()).unwrap();
        State::open(Place::take(&settings).unwrap(), Arc::new(SystemClock), Arc::new(OsChance)).unwrap()
    }

    /// Seals the log, and then stands still.
    fn seal(state: &mut State) {
        state.log.as_mut().unwrap().append("test", &Entry::Seal.encode()).unwrap();
    }

    fn put(state: &mut State, key: &str) -> Revision {
        let entry = Entry::Commit { above: state.above(), txn: Txn::new().put(key.into(), "1") };
        match state.write("test", &entry, || Ok(())).unwrap() {
            Outcome::Committed(committed) => committed.revision,
            other => panic!("{other:?}"),
        }
    }

    fn generation(state: &State) -> u64 {
        state.log.as_ref().unwrap().header.generation
    }

    #[test]
    fn who_finds_a_seal_goes_on_without_the_one_who_sealed() {
        let folder = Folder::new();
        let (mut stopped, mut other) = (open(&folder), open(&folder));
        let first = put(&mut other, "a");
        seal(&mut stopped);
        let second = put(&mut other, "b");
        let late = open(&folder);
        assert_eq!((generation(&other), generation(&late)), (2, 2));
        assert_eq!((second, late.image.revision()), (Revision(first.0 + 1), second));
        stopped.catch_up("test", None).unwrap();
        assert_eq!((stopped.image.revision(), stopped.epoch), (second, other.epoch), "it missed nothing");
    }

    #[test]
    fn what_comes_behind_a_seal_is_written_once_in_the_next_log() {
        let folder = Folder::new();
        let (mut one, mut two) = (open(&folder), open(&folder));
        let first = put(&mut one, "a");
        two.catch_up("test", None).unwrap();
        seal(&mut one);
        // It does not know of the seal yet, and writes behind it.
        let second = put(&mut two, "b");
        one.catch_up("test", None).unwrap();
        assert_eq!((second, one.image.revision()), (Revision(first.0 + 1), second));
    }

    #[test]
    fn who_makes_the_next_log_long_after_the_others_makes_none() {
        let folder = Folder::new();
        let (mut stopped, mut other) = (open(&folder), open(&folder));
        seal(&mut stopped);
        stopped.replay("test", None).unwrap();
        for _ in 0..2 {
            other.catch_up("test", None).unwrap();
            seal(&mut other);
        }
        let last = put(&mut other, "a");
        assert_eq!(generation(&other), 4);
        stopped.make_next("test").unwrap();
        assert!(!stopped.place.log(2).exists(), "a state that is long over was put in place again");
        stopped.catch_up("test", None).unwrap();
        assert_eq!((generation(&stopped), stopped.image.revision()), (4, last));
        assert!(stopped.epoch > other.epoch, "its watches begin anew");
    }

    #[test]
    fn a_log_that_was_made_of_a_state_long_over_is_believed_by_nobody() {
        let folder = Folder::new();
        let (mut stopped, mut second, mut other) = (open(&folder), open(&folder), open(&folder));
        seal(&mut stopped);
        for state in [&mut stopped, &mut second] {
            state.replay("test", None).unwrap();
        }
        other.catch_up("test", None).unwrap();
        let made = std::fs::read(other.place.log(2)).unwrap();
        seal(&mut other);
        let last = put(&mut other, "a");
        // As if the one who stood still had put it in place this very moment.
        std::fs::write(other.place.log(2), made).unwrap();
        second.catch_up("test", None).unwrap();
        assert_eq!((generation(&second), second.image.revision()), (3, last));
    }
}
