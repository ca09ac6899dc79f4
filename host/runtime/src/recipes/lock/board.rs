//! What this host has seen of the locks: an image of each, and which sessions of hosts live. Two watches, which begin with
//! the first lock that is used here.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use althing_core::{Change, Delta, Key, Record, Revision, SessionId};
use tokio::sync::watch;
use tracing::warn;

use super::desk::{Ask, Desk};
use super::record::{Image, LockRecord, lock_name, locks};
use crate::Host;

/// The images, and the desks at which this host's own parties stand.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    board: Mutex<Board>,
    started: AtomicBool,
    /// Up to where the locks were seen; `None` before the first snapshot.
    seen: watch::Sender<Option<Revision>>,
}

#[derive(Debug, Default)]
struct Board {
    known: HashMap<String, Known>,
    desks: HashMap<String, Arc<Desk>>,
    /// Up to where the watch has come.
    seen: Revision,
    /// The sessions of hosts that live; `None` before they were seen for the first time.
    live: Option<HashSet<SessionId>>,
    /// Up to where the watch of sessions has come.
    live_at: Revision,
}

/// What is known of one lock, and since which revision. That nobody holds a lock is remembered until the watch has come
/// so far, lest what it still brings of former times be taken for new.
#[derive(Debug)]
struct Known {
    image: Option<Image>,
    at: Revision,
}

impl Locks {
    /// Returns a lock as it was seen last.
    pub(super) fn image(&self, name: &str) -> Option<Image> {
        self.board().known.get(name)?.image.clone()
    }

    /// Takes in what was written here at a revision. What is older than what was seen changes nothing.
    pub(super) fn learn(&self, name: &str, image: Option<Image>, at: Revision) {
        self.board().learn(name, image, at);
        self.seen.send_modify(|_| {});
    }

    /// Takes in what was read here. Of what is not there, the watch tells: it may have come since.
    pub(super) fn learn_read(&self, name: &str, image: Option<Image>) {
        if let Some(image) = image {
            let at = image.stamp.modified;
            self.learn(name, Some(image), at);
        }
    }

    /// Tells whether a session has surely ended, as far as was seen; one that has just begun may be taken for ended too.
    pub(super) fn is_ended(&self, session: SessionId) -> bool {
        self.board().live.as_ref().is_some_and(|live| !live.contains(&session))
    }

    /// Takes note that a session lives which began at a revision, though it was not seen yet. Where the watch has passed
    /// that, it has ended since.
    pub(super) fn lives(&self, session: SessionId, began: Revision) {
        let mut board = self.board();
        if board.live_at < began
            && let Some(live) = &mut board.live
        {
            live.insert(session);
        }
    }

    /// Returns all locks that somebody holds or waits for, by name. Parties of ended sessions are left out.
    pub(super) fn all(&self) -> Vec<(String, LockRecord)> {
        let board = self.board();
        let mut all: Vec<_> = board.known.keys().filter_map(|name| board.shown(name)).collect();
        all.sort_by(|left, right| left.0.cmp(&right.0));
        all
    }

    /// Returns a lock without the parties of ended sessions; `None` when nobody else is there.
    pub(super) fn shown(&self, name: &str) -> Option<LockRecord> {
        self.board().shown(name).map(|(_, record)| record)
    }

    /// Follows what is seen of all locks.
    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Revision>> {
        self.seen.subscribe()
    }

    /// Ends the desk of a lock, unless somebody came to it meanwhile.
    pub(super) fn retire(&self, name: &str, is_idle: impl FnOnce() -> bool) -> bool {
        let mut board = self.board();
        let idle = is_idle();
        if idle {
            board.desks.remove(name);
        }
        idle
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // What is changed under the lock is whole after every statement.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    /// Takes in what was read or written here. What the watch has passed, and does not know, is gone again.
    fn learn(&mut self, name: &str, image: Option<Image>, at: Revision) {
        if image.is_none() || at > self.seen || self.known.contains_key(name) {
            self.follow(name, image, at);
        }
    }

    fn follow(&mut self, name: &str, image: Option<Image>, at: Revision) {
        let newer = self.known.get(name).is_none_or(|known| match image {
            Some(_) => known.at < at,
            None => known.at <= at,
        });
        if newer {
            self.known.insert(name.to_owned(), Known { image, at });
        }
    }

    fn shown(&self, name: &str) -> Option<(String, LockRecord)> {
        let mut record = self.known.get(name)?.image.as_ref()?.record.clone();
        if let Some(live) = &self.live {
            record.keep(|party| live.contains(&party.session));
        }
        (!record.is_empty()).then(|| (name.to_owned(), record))
    }

    /// Begins anew from a snapshot; what was written here after it stays.
    fn replace(&mut self, records: &[Record], revision: Revision) {
        self.known.retain(|_, known| known.at > revision);
        for record in records {
            self.take(record);
        }
        self.seen = revision;
    }

    /// Forgets that nobody holds a lock, where the watch has come to that itself.
    fn forget(&mut self, names: &[String], revision: Revision) {
        for name in names {
            if self.known.get(name).is_some_and(|known| known.image.is_none() && known.at <= revision) {
                self.known.remove(name);
            }
        }
        self.seen = revision;
    }

    fn take(&mut self, record: &Record) {
        let Some(name) = lock_name(&record.key) else { return };
        match Image::of(record) {
            Ok(image) => self.follow(&name, Some(image), record.stamp.modified),
            Err(error) => warn!(%error, "the record of a lock cannot be read"),
        }
    }

    /// Returns the locks at which a party of an ended session stands.
    fn of_ended(&self) -> Vec<String> {
        let Some(live) = &self.live else { return Vec::new() };
        let ended = |known: &Known| {
            known.image.iter().any(|image| image.record.each().any(|party| !live.contains(&party.session)))
        };
        self.known.iter().filter(|(_, known)| ended(known)).map(|(name, _)| name.clone()).collect()
    }

    fn wake(&self, name: &str) {
        if let Some(desk) = self.desks.get(name) {
            desk.wake.notify_one();
        }
    }
}

impl Host {
    /// Lays something down at the desk of a lock, which works from then on. The watches begin with the first one.
    pub(super) fn ask_lock(self: &Arc<Self>, name: &str, ask: Option<Ask>) {
        self.watch_locks();
        let mut board = self.locks.board();
        // Under the board's lock: a desk retires under it, and only when nothing lies there.
        let desk = board.desks.entry(name.to_owned()).or_insert_with(|| {
            let desk = Arc::new(Desk::default());
            self.spawn(desk.clone().run(self.clone(), name.to_owned()));
            desk
        });
        desk.put(ask);
    }

    /// Begins to follow locks, unless that was done before.
    pub(super) fn watch_locks(self: &Arc<Self>) {
        if self.locks.started.swap(true, Ordering::SeqCst) {
            return;
        }
        let host = self.clone();
        self.spawn(async move { host.follow(locks(), |delta| host.see_locks(delta)).await });
        let host = self.clone();
        let sessions = Key::path(["session"]).below();
        self.spawn(async move { host.follow(sessions, |delta| host.see_sessions(delta)).await });
    }

    fn see_locks(self: &Arc<Self>, delta: Delta) {
        let mut board = self.locks.board();
        let revision = match delta {
            Delta::Resync { records, revision } => {
                board.replace(&records, revision);
                board.desks.values().for_each(|desk| desk.wake.notify_one());
                revision
            }
            Delta::Changes { changes, revision } => {
                let names: Vec<_> = changes.iter().filter_map(|change| lock_name(change.key())).collect();
                for change in &changes {
                    match (change, lock_name(change.key())) {
                        (Change::Put(record), _) => board.take(record),
                        (Change::Deleted { revision, .. }, Some(name)) => board.learn(&name, None, *revision),
                        (Change::Deleted { .. }, None) => {}
                    }
                }
                names.iter().for_each(|name| board.wake(name));
                board.forget(&names, revision);
                revision
            }
        };
        drop(board);
        self.locks.seen.send_replace(Some(revision));
    }

    /// Takes in which sessions live. Where one ended, whoever waits for what it held looks again.
    fn see_sessions(self: &Arc<Self>, delta: Delta) {
        let mut board = self.locks.board();
        match delta {
            Delta::Resync { records, revision } => {
                board.live_at = revision;
                board.live = Some(records.iter().filter_map(|record| session_of(&record.key)).collect());
            }
            Delta::Changes { changes, revision } => {
                board.live_at = revision;
                let Some(live) = &mut board.live else { return };
                for change in changes {
                    match (session_of(change.key()), change) {
                        (Some(session), Change::Put(_)) => drop(live.insert(session)),
                        (Some(session), Change::Deleted { .. }) => drop(live.remove(&session)),
                        (None, _) => {}
                    }
                }
            }
        }
        board.of_ended().iter().for_each(|name| board.wake(name));
        drop(board);
        self.locks.seen.send_modify(|_| {});
        self.clear_locks();
    }

    /// Clears away what ended sessions held and nobody waits for, if this is the first host of the fleet.
    pub(crate) fn clear_locks(self: &Arc<Self>) {
        if self.mirror.is_first(&self.identity.id) {
            let left = self.locks.board().of_ended();
            left.iter().for_each(|name| self.ask_lock(name, None));
        }
    }
}

fn session_of(key: &Key) -> Option<SessionId> {
    match key.names()?.as_slice() {
        [_, id] => std::str::from_utf8(id).ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use althing_core::Stamp;

    use super::*;

    #[test]
    fn what_was_read_before_the_watch_saw_it_go_is_not_taken_for_new() {
        let image = |at| {
            let stamp = Stamp { created: Revision(1), modified: Revision(at) };
            Some(Image::written(LockRecord::new(), stamp))
        };
        let mut board = Board::default();
        board.learn("l", image(5), Revision(5));
        board.follow("l", None, Revision(7));
        board.forget(&["l".to_owned()], Revision(7));
        assert!(board.known.is_empty());
        board.learn("l", image(5), Revision(5));
        assert!(board.known.is_empty(), "it went at 7");
        board.learn("l", image(8), Revision(8));
        assert_eq!(board.known["l"].at, Revision(8));
    }
}
