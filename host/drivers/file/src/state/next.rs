//! How one log goes on in the next: the next is written beside it, and then it is sealed.
//!
//! Whoever begins a log anew writes the whole state first, while the others go on, and seals when little is left to be added;
//! the others then wait for that little. Where he stands still right then, or was killed, each makes the next log of what he
//! has read, and the first who has it serves all.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use althing_core::{Result, Revision};

use super::State;
use crate::disk::{self, failed};
use crate::draft::Draft;
use crate::entry::Entry;
use crate::log::{Header, Log, RESERVE_BYTES};

/// A compaction keeps so much room for what is written between its last look at the log and the seal.
const MEANWHILE_BYTES: u64 = 1 << 20;
/// How long who meets a seal stands still until he looks again for the next log, if another writes it.
const WAIT: Duration = Duration::from_millis(5);
/// How often he does so for each who begins to write it, and for all.
const WAITS_EACH_MAX: u32 = 40;
const WAITS_MAX: u32 = 300;
/// How much too long a log is before it is begun anew although somebody is at that: perhaps he stands still.
const PATIENT_EXCESS: u64 = 4;

impl State {
    /// Begins the next log beside the present one, if that is long and nobody else is at it, and returns it with the parts
    /// that belong to its beginning. It follows what is written to the present one, which nobody is kept from.
    pub(crate) fn draft(&mut self) -> Result<Option<(Draft, Vec<Entry>)>> {
        self.catch_up("compact", None)?;
        let Some(log) = self.log.as_ref().filter(|log| log.excess() > 0) else { return Ok(None) };
        let (header, is_patient) = (self.next_header(log), log.excess() < PATIENT_EXCESS);
        if is_patient && !self.drafts("compact", header.generation)?.is_empty() {
            return Ok(None);
        }
        let draft = Draft::begin("compact", &self.place, &*self.chance, header)?;
        // Of two who begin at once both see each other here, or the second the first, or what the first has made.
        let is_rival = |other: &PathBuf| !draft.lies_at(other);
        let has_rival = self.drafts("compact", header.generation)?.iter().any(is_rival);
        if is_patient && has_rival || self.is_made("compact", header.generation)? {
            return Ok(None);
        }
        draft.make_room("compact", self.image.weight() + MEANWHILE_BYTES + RESERVE_BYTES)?;
        let mut parts = Vec::new();
        self.image.parts(false, |part| parts.push(part));
        Ok(Some((draft.follow(log.second_reader("compact")?), parts)))
    }

    /// Seals the log, and goes on in the one that was drafted. Does nothing where the state has gone on in another.
    pub(crate) fn seal(&mut self, draft: Draft) -> Result<()> {
        self.catch_up("compact", None)?;
        let Some(log) = self.log.as_mut().filter(|log| draft.goes_on_from(log)) else { return Ok(()) };
        // On a full disk the log rather stays as it is.
        draft.make_room("compact", MEANWHILE_BYTES + RESERVE_BYTES)?;
        log.append("compact", &Entry::Seal.encode())?;
        self.draft = Some(draft);
        let done = self.catch_up("compact", None);
        self.draft = None;
        done.map(drop)
    }

    /// Goes on from a log that was sealed.
    pub(super) fn go_on(&mut self, operation: &'static str) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let (header, generation) = (log.header, log.header.generation + 1);
        let next = Log::open(operation, &self.place, generation)?;
        let is_in_place = log.is_in_place(operation)?;
        // Logs are removed in order: where this one is left, or none is later, the next has not been removed before. Else who
        // stood still since long before that may have made it again.
        let is_first = is_in_place || self.latest(operation)? == Some(generation);
        match next {
            None if is_in_place => self.make_next(operation),
            // It was put in place since: the next look finds it.
            None if is_first => Ok(()),
            Some(mut next) if is_first && next.header.parent == header.id && !next.is_former => {
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
    pub(super) fn make_next(&mut self, operation: &'static str) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        let generation = log.header.generation + 1;
        let draft = match self.draft.take().filter(|draft| draft.goes_on_from(log)) {
            Some(draft) => draft,
            None if self.comes_from_another(operation, generation)? => return Ok(()),
            None => self.draft_all(operation, log)?,
        };
        let placed = draft.become_log(operation, &self.place)?;
        if placed { self.withdraw(operation, log, generation) } else { Ok(()) }
    }

    /// Removes the log of a generation, which was made here of `log`, if nobody will go on in it: where `log` was removed and
    /// there is a later one, somebody went on from it long ago. Where there is none, somebody went on in what was made here.
    fn withdraw(&self, operation: &'static str, log: &Log, generation: u64) -> Result<()> {
        if log.is_in_place(operation)? || self.latest(operation)? <= Some(generation) {
            return Ok(());
        }
        let path = self.place.log(generation);
        disk::remove(&path).map_err(|error| failed(operation, "remove", &path, error))
    }

    /// Waits a moment for the log of a generation if another process writes it: who sealed had it nearly done before. He may
    /// stand still, so nobody waits for long, and whoever waits no longer gives the rest another moment to wait for him. Tells
    /// whether it is there.
    fn comes_from_another(&self, operation: &'static str, generation: u64) -> Result<bool> {
        let (mut known, mut waits) = (BTreeSet::new(), 0);
        for _ in 0..WAITS_MAX {
            // First this, then that: a draft goes when it has become the log.
            let drafts = self.drafts(operation, generation)?;
            if self.is_made(operation, generation)? {
                return Ok(true);
            }
            if drafts.iter().any(|draft| !known.contains(draft)) {
                known.extend(drafts);
                // Not all at once: the first to give up is seen by the others.
                waits = WAITS_EACH_MAX - (self.chance.unit() * f64::from(WAITS_EACH_MAX / 2)) as u32;
            } else if drafts.is_empty() || waits == 0 {
                break;
            }
            waits = waits.saturating_sub(1);
            disk::pause(WAIT);
        }
        Ok(false)
    }

    fn drafts(&self, operation: &'static str, generation: u64) -> Result<Vec<PathBuf>> {
        let found = self.place.drafts(generation);
        found.map_err(|error| failed(operation, "list", &self.place.folder, error))
    }

    fn is_made(&self, operation: &'static str, generation: u64) -> Result<bool> {
        let path = self.place.log(generation);
        fs::exists(&path).map_err(|error| failed(operation, "look at", &path, error))
    }

    /// Writes all that is known of a log that nobody writes to any more into the next.
    fn draft_all(&self, operation: &'static str, log: &Log) -> Result<Draft> {
        let mut draft = Draft::begin(operation, &self.place, &*self.chance, self.next_header(log))?;
        draft.make_room(operation, self.image.weight() + RESERVE_BYTES)?;
        let mut written = Ok(());
        self.image.parts(log.is_former, |part| {
            if written.is_ok() {
                written = draft.write(operation, &part);
            }
        });
        written.map(|()| draft)
    }

    fn next_header(&self, log: &Log) -> Header {
        Header {
            generation: log.header.generation + 1,
            parent: log.header.id,
            boot: self.place.boot,
            // The end of all sessions of a former boot is one more step.
            base: Revision(self.image.revision().0.saturating_add(u64::from(log.is_former))),
            ..log.header
        }
    }

    /// Makes the first log.
    pub(super) fn begin(&mut self) -> Result<()> {
        let header = Header {
            generation: 1,
            incarnation: self.chance.bits(),
            id: 0,
            parent: 0,
            boot: self.place.boot,
            // Microseconds of wall time: above all that a directory gave out that somebody removed.
            base: Revision(self.clock.wall_ms().saturating_mul(1000)),
            parts_end: 0,
        };
        let draft = Draft::begin("connect", &self.place, &*self.chance, header)?;
        draft.make_room("connect", RESERVE_BYTES)?;
        draft.become_log("connect", &self.place).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use althing_core::{Clock, SessionId, SystemClock};
    use althing_test_servers::Folder;

    use super::*;
    use crate::state::tests::{LARGE, commit, open, put, seal};

    fn generation(state: &State) -> u64 {
        state.log.as_ref().unwrap().header.generation
    }

    /// Writes until the log is so many times too long.
    fn lengthen(state: &mut State, excess: u64) {
        while state.log.as_ref().unwrap().excess() < excess {
            state.write("test", &commit(state, "large", vec![0; LARGE]), || Ok(())).unwrap();
        }
    }

    /// Writes the next log as far as it can be before the present one is sealed.
    fn drafted(state: &mut State) -> Draft {
        let (mut draft, parts) = state.draft().unwrap().unwrap();
        parts.iter().for_each(|part| draft.write("test", part).unwrap());
        draft
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
    fn who_makes_the_next_log_leaves_it_to_those_who_went_on_in_it_at_once() {
        let folder = Folder::new();
        let (mut one, mut two) = (open(&folder), open(&folder));
        seal(&mut one);
        one.replay("test", None).unwrap();
        let draft = one.draft_all("test", one.log.as_ref().unwrap()).unwrap();
        assert!(draft.become_log("test", &one.place).unwrap());
        let last = put(&mut two, "a");
        assert!(!one.place.log(1).exists());
        one.withdraw("test", one.log.as_ref().unwrap(), 2).unwrap();
        one.catch_up("test", None).unwrap();
        assert_eq!((generation(&one), one.image.revision(), one.epoch), (2, last, two.epoch));
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
        let made = fs::read(other.place.log(2)).unwrap();
        seal(&mut other);
        let last = put(&mut other, "a");
        // As if the one who stood still had put it in place this very moment.
        fs::write(other.place.log(2), made).unwrap();
        second.catch_up("test", None).unwrap();
        assert_eq!((generation(&second), second.image.revision()), (3, last));
    }

    #[test]
    fn the_next_log_is_written_while_the_others_go_on_and_holds_what_they_wrote() {
        let folder = Folder::new();
        let (mut one, mut two) = (open(&folder), open(&folder));
        lengthen(&mut one, 1);
        let (id, lease) = (SessionId(7), Duration::from_secs(60));
        let deadline = SystemClock.now() + lease;
        let begin = Entry::Open { above: two.above(), id, lease, deadline };
        two.write("test", &begin, || Ok(())).unwrap();

        let (mut draft, parts) = one.draft().unwrap().unwrap();
        assert!(two.draft().unwrap().is_none(), "one who writes it is enough");
        two.write("test", &Entry::Beat { id, deadline: deadline + lease }, || Ok(())).unwrap();
        put(&mut two, "meanwhile");
        parts.iter().for_each(|part| draft.write("test", part).unwrap());
        put(&mut one, "later");
        assert!(draft.catch_up("test").unwrap() > 0);
        let last = put(&mut two, "last");
        assert_eq!((generation(&one), generation(&two)), (1, 1));
        one.seal(draft).unwrap();
        two.catch_up("test", None).unwrap();

        let late = open(&folder);
        let before = two.image.snapshot(&"".into());
        for state in [&one, &two, &late] {
            assert_eq!((generation(state), state.image.revision()), (2, last));
            assert_eq!(state.image.snapshot(&"".into()), before);
            assert_eq!(state.image.next_deadline(), Some(deadline + lease));
        }
        assert_eq!(put(&mut two, "after"), Revision(last.0 + 1));
        assert_eq!(one.epoch, two.epoch, "both missed nothing");
    }

    #[test]
    fn who_meets_a_seal_waits_a_moment_for_the_one_who_has_the_next_log() {
        // Where a sync takes no time, however busy the disk is.
        let Some(folder) = Folder::on_tmpfs("64m") else { return };
        let (mut one, mut two) = (open(&folder), open(&folder));
        lengthen(&mut one, 1);
        two.catch_up("test", None).unwrap();
        let (draft, place) = (drafted(&mut one), one.place.clone());
        seal(&mut one);
        let maker = std::thread::spawn(move || {
            disk::pause(WAIT * (WAITS_EACH_MAX / 4));
            draft.become_log("test", &place)
        });
        two.catch_up("test", None).unwrap();
        assert!(maker.join().unwrap().unwrap(), "it made one of its own");
        assert_eq!((generation(&two), two.image.revision()), (2, one.image.revision()));
    }

    #[test]
    fn who_stands_still_with_the_next_log_is_not_waited_for() {
        let folder = Folder::new();
        let (mut stopped, mut other) = (open(&folder), open(&folder));
        lengthen(&mut stopped, 1);
        let draft = drafted(&mut stopped);
        lengthen(&mut other, PATIENT_EXCESS);
        let second = drafted(&mut other);
        other.seal(second).unwrap();
        assert_eq!(generation(&other), 2, "the log grows for ever");

        lengthen(&mut other, 1);
        let held = drafted(&mut other);
        seal(&mut other);
        let late = open(&folder);
        assert_eq!((generation(&late), late.image.revision()), (3, other.image.revision()));
        assert!(!held.become_log("test", &other.place).unwrap(), "it comes too late");
        stopped.seal(draft).unwrap();
        assert_eq!((generation(&stopped), stopped.image.revision()), (3, late.image.revision()));
    }
}
