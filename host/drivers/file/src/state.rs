//! What one process knows of a namespace, and how it catches up with the log and writes to it.

mod next;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{BootTime, Cause, Chance, Clock, Error, Kind, Result, Revision, SessionId};

use crate::disk::{self, failed};
use crate::draft::Draft;
use crate::entry::Entry;
use crate::image::{Image, Outcome};
use crate::log::{Log, Tape};
use crate::place::Place;
use crate::session::{self, Held};

/// How often the locks of the others' sessions are tried at most, and how much longer that takes for each of them.
const LOCKS_EVERY: Duration = Duration::from_millis(100);
const LOCK_SHARE: Duration = Duration::from_millis(1);
/// How often a directory that others change at the same time is looked at anew.
const TRIES_MAX: u32 = 32;

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
    /// The next log, which was written before this one was sealed by us.
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
        self.log.as_ref().is_some_and(|log| log.excess() > 0)
    }

    /// Reads what was written, over seals and from one log to the next. Returns what the entry came to that ends at `awaited`
    /// in the log that was read first, if what it came to is part of the state now.
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
            let (in_place, incarnation) = (log.is_in_place(operation)?, log.header.incarnation);
            let applied = self.replay(operation, awaited)?;
            outcome = outcome.or(applied.map(|applied| (incarnation, applied)));
            match &self.log {
                Some(log) if log.sealed => self.go_on(operation)?,
                // What was applied in another directory was not applied in this one.
                _ if in_place => {
                    return Ok(outcome.filter(|(of, _)| *of == incarnation).map(|(_, outcome)| outcome));
                }
                // Neither sealed nor where the others would find it: somebody removed or replaced the directory, and what
                // was applied to it is nowhere.
                _ => (self.log, outcome) = (None, None),
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
    use std::cell::Cell;
    use std::fs;

    use althing_core::{OsChance, SystemClock, Txn};
    use althing_test_servers::Folder;

    use super::*;
    use crate::settings::Settings;

    pub(super) const LARGE: usize = 1 << 20;

    pub(super) fn open(folder: &Folder) -> State {
        open_in_boot(folder, |boot| boot)
    }

    fn open_in_boot(folder: &Folder, of: impl Fn(u128) -> u128) -> State {
        let settings = Settings::read(&folder.url("n").parse().unwrap()).unwrap();
        let place = Place::take(&settings).unwrap();
        let place = Place { boot: of(place.boot), ..place };
        State::open(place, Arc::new(SystemClock), Arc::new(OsChance)).unwrap()
    }

    /// Seals the log, and then stands still.
    pub(super) fn seal(state: &mut State) {
        state.log.as_mut().unwrap().append("test", &Entry::Seal.encode()).unwrap();
    }

    pub(super) fn commit(state: &State, key: &str, value: impl Into<Vec<u8>>) -> Entry {
        Entry::Commit { above: state.above(), txn: Txn::new().put(key.into(), value.into()) }
    }

    pub(super) fn put(state: &mut State, key: &str) -> Revision {
        let entry = commit(state, key, "1");
        match state.write("test", &entry, || Ok(())).unwrap() {
            Outcome::Committed(committed) => committed.revision,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_has_to_be_whole_after_a_loss_of_power_ends_where_an_entry_ends() {
        let folder = Folder::new();
        let mut state = open(&folder);
        let kept = put(&mut state, "a");
        let (moment, log) = (state.moment("test").unwrap(), state.log.as_mut().unwrap());
        // Another thread stands in the middle of this entry, which a loss of power leaves as noughts.
        let half = vec![0; LARGE];
        let size = usize::try_from(log.size("test").unwrap()).unwrap();
        fs::write(&log.path, [fs::read(&log.path).unwrap(), half].concat()).unwrap();
        moment.tape.settle(moment.end).unwrap();
        let cell = fs::read(&log.path).unwrap()[128..136].try_into().unwrap();
        assert_eq!((u64::from_le_bytes(cell), moment.end), (moment.end, size as u64));
        let after = open_in_boot(&folder, |boot| boot ^ 1);
        assert!(after.image.get(&"a".into()).is_some_and(|record| record.stamp.modified == kept));
    }

    #[test]
    fn what_is_written_into_a_log_that_was_just_replaced_is_written_into_the_one_that_counts() {
        let folder = Folder::new();
        let mut state = open(&folder);
        let (path, copy) = (state.place.log(1), state.place.log(1).with_extension("copy"));
        let (old, is_replaced) = (fs::read(&path).unwrap(), Cell::new(false));
        let replace = || {
            if !is_replaced.replace(true) {
                fs::write(&copy, &old).unwrap();
                fs::rename(&copy, &path).unwrap();
            }
            Ok(())
        };
        let outcome = state.write("test", &commit(&state, "a", "1"), replace).unwrap();
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
        assert!(open(&folder).image.get(&"a".into()).is_some(), "what was acknowledged is nowhere");
    }

    #[test]
    fn what_was_written_into_a_directory_that_is_another_now_came_to_nothing() {
        let folder = Folder::new();
        let mut state = open(&folder);
        let body = commit(&state, "a", "1").encode();
        let end = state.log.as_mut().unwrap().append("test", &body).unwrap();
        seal(&mut state);
        fs::remove_dir_all(folder.path()).unwrap();
        open(&folder);
        assert_eq!(state.catch_up("test", Some(end)).unwrap(), None);
    }
}
