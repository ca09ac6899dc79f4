//! The locks that client sessions hold.

use althing_core::info::{LockHold, ReleaseAsk, Released, SessionEvent};
use althing_core::{BootTime, Error, Kind, Result, Revision, limits};

use super::{Caller, Client, SessionKey, Sessions, Table};

/// A lock that is held for a client session of this host.
#[derive(Clone, Debug)]
pub(super) struct LocalLock {
    hold: LockHold,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It was taken for a request, whose client knows nothing of it yet.
    Taken,
    Granted,
    /// Its client was told to stop, and has not said yet that it did.
    Stopping,
}

/// A lock that a session no longer has, to be struck out in the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeftLock {
    pub lock: String,
    /// The party that stands there for it.
    pub party: String,
}

impl Sessions {
    /// Lets a session ask for so many more locks. `TooLarge` when it holds as many as it can, `Busy` when it, or this
    /// host, has as many requests under way as it can: however many wait, sessions are renewed.
    pub(crate) fn begin_locking(&self, key: &SessionKey, more: usize) -> Result<Caller> {
        let mut table = self.table();
        if table.locking >= limits::LOCK_REQUESTS_MAX {
            return Err(busy("this host", limits::LOCK_REQUESTS_MAX));
        }
        let client = table.client(key)?;
        if client.locking >= limits::SESSION_LOCK_REQUESTS_MAX {
            return Err(busy("this session", limits::SESSION_LOCK_REQUESTS_MAX));
        }
        if client.locks.len() + more > limits::SESSION_LOCKS_MAX {
            return Err(Error::new(Kind::TooLarge, "lock", "this session holds as many locks as it can")
                .with("locks_max", limits::SESSION_LOCKS_MAX)
                .advise("Release some, or open another session"));
        }
        client.locking += 1;
        let caller = Caller { by: client.by.clone(), ended: client.ended.clone() };
        table.locking += 1;
        Ok(caller)
    }

    /// Gives back what [`begin_locking`](Self::begin_locking) took.
    pub(crate) fn end_locking(&self, id: &str) {
        let mut table = self.table();
        let Some(client) = table.clients.get_mut(id) else { return };
        client.locking -= 1;
        table.locking -= 1;
    }

    /// Takes a lock for a request of a session. Returns whether the session is still open: where it is not, the party has to
    /// leave.
    pub(crate) fn begin_lock(&self, id: &str, party: &str, hold: LockHold) -> bool {
        let mut table = self.table();
        let Some(client) = table.clients.get_mut(id) else { return false };
        client.locks.insert(party.to_owned(), LocalLock { hold, stage: Stage::Taken });
        true
    }

    /// Grants a session all that was taken for a request, the locks and the parties that stand for it; or nothing, if any
    /// of it was taken away meanwhile. Returns whether it is granted.
    pub(crate) fn grant_locks(&self, id: &str, taken: &[(String, String)]) -> bool {
        let mut table = self.table();
        let Some(client) = table.clients.get_mut(id) else { return false };
        let whole = taken.iter().all(|(_, party)| client.locks.contains_key(party));
        if whole {
            let parties = taken.iter().map(|(_, party)| party);
            parties.for_each(|party| {
                client.locks.get_mut(party).into_iter().for_each(|local| local.stage = Stage::Granted);
            });
        }
        whole
    }

    /// Returns what a request of that id was granted, if that is still held, whole.
    pub(crate) fn granted(&self, key: &SessionKey, id: &str, names: &[String]) -> Option<Vec<LockHold>> {
        let table = self.table();
        let client = table.clients.get(&key.id)?;
        let of = |name: &String| client.locks().find(|hold| hold.id == id && hold.lock == *name);
        names.iter().map(of).collect()
    }

    /// Takes a lock from a session that gives it back. Returns the party that stands for it, or what became of it before.
    pub(crate) fn release(
        &self,
        key: &SessionKey,
        lock: &str,
        ask: &ReleaseAsk,
    ) -> Result<std::result::Result<String, Released>> {
        let released = self.with(key, |client| {
            let is_it = |local: &LocalLock| {
                let hold = &local.hold;
                hold.lock == lock
                    && hold.token == ask.token
                    && ask.id.as_ref().is_none_or(|id| *id == hold.id)
            };
            let party = client.locks.iter().find(|(_, local)| is_it(local)).map(|(party, _)| party.clone());
            match party {
                Some(party) => {
                    client.locks.remove(&party);
                    Ok(party)
                }
                None if client.lost_locks.contains(&(lock.to_owned(), ask.token)) => Err(Released::Lost),
                None => Err(Released::Gone),
            }
        })?;
        self.released.notify_waiters();
        Ok(released)
    }

    /// Ends the hold of a lock that was taken away, and tells its client why.
    pub(crate) fn lose_lock(&self, id: &str, party: &str, reason: &str) {
        let mut table = self.table();
        if let Some(client) = table.clients.get_mut(id)
            && let Some(local) = client.locks.remove(party)
        {
            client.lose(local, reason);
        }
        drop(table);
        self.released.notify_waiters();
    }

    /// Ends the hold of a lock whose request gives it back before it was granted.
    pub(crate) fn drop_lock(&self, id: &str, party: &str) {
        if let Some(client) = self.table().clients.get_mut(id) {
            client.locks.remove(party);
        }
    }

    /// Asks the holder of a lock to stop, and returns once it has: it released the lock, its belief ran out, or it is gone.
    pub(crate) async fn stop_lock(&self, id: &str, party: &str) {
        let Some(until) = self.table().begin_stop_lock(id, party) else { return };
        loop {
            let released = self.released.notified();
            if !self.table().clients.get(id).is_some_and(|client| client.locks.contains_key(party)) {
                return;
            }
            tokio::select! {
                () = released => {}
                () = self.clock.sleep_until(until) => {
                    return self.lose_lock(id, party, "it was asked to stop and did not say that it did");
                }
            }
        }
    }

    /// Tells whether a session holds a lock by this token and was not asked to stop.
    pub(crate) fn holds_lock(&self, key: &SessionKey, lock: &str, token: Revision) -> bool {
        let table = self.table();
        let Some(client) = table.clients.get(&key.id) else { return false };
        client.locks().any(|hold| hold.lock == lock && hold.token == token)
    }
}

impl Table {
    /// Marks a lock as stopping and returns until when its client may believe in it. A client inside this process asks
    /// before it acts, and one that was not granted it yet knows nothing of it: its hold ends at once.
    fn begin_stop_lock(&mut self, id: &str, party: &str) -> Option<BootTime> {
        let client = self.clients.get_mut(id)?;
        let local = client.locks.get_mut(party)?;
        if !client.remote || local.stage == Stage::Taken {
            let local = client.locks.remove(party)?;
            client.lose(local, "it was broken");
            return None;
        }
        local.stage = Stage::Stopping;
        let lock = local.hold.clone();
        client.tell(SessionEvent::LockStop { lock });
        Some(client.believes_until)
    }
}

impl Client {
    /// Returns what is locked and may be used.
    pub(super) fn locks(&self) -> impl Iterator<Item = LockHold> {
        self.locks.values().filter(|local| local.stage == Stage::Granted).map(|local| local.hold.clone())
    }

    /// Returns what has to be struck out when the session ends.
    pub(super) fn left_locks(&self) -> Vec<LeftLock> {
        let left = |(party, local): (&String, &LocalLock)| LeftLock {
            lock: local.hold.lock.clone(),
            party: party.clone(),
        };
        self.locks.iter().map(left).collect()
    }

    /// Ends the hold of everything that is locked. Returns what has to be struck out: some of it may have been granted
    /// in the session that came after the one that was lost.
    pub(super) fn lose_locks(&mut self, reason: &str) -> Vec<LeftLock> {
        let left = self.left_locks();
        for local in std::mem::take(&mut self.locks).into_values() {
            self.lose(local, reason);
        }
        left
    }

    fn lose(&mut self, local: LocalLock, reason: &str) {
        if local.stage == Stage::Taken {
            return;
        }
        if self.lost_locks.len() == limits::LOCKS_LOST_KEPT_MAX {
            self.lost_locks.pop_front();
        }
        self.lost_locks.push_back((local.hold.lock.clone(), local.hold.token));
        self.tell(SessionEvent::LockLost { lock: local.hold, reason: reason.to_owned() });
    }
}

fn busy(what: &str, most: usize) -> Error {
    Error::new(Kind::Busy, "lock", format!("{what} has as many requests for locks under way as it can"))
        .with("requests_max", most)
        .advise("Wait until some are answered, or spread them over sessions and hosts")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use althing_core::info::{LockMode, SessionAsk, Standing};
    use althing_core::{ManualClock, Principal, Secret, SeededChance};

    use super::*;

    fn open(sessions: &Sessions, remote: bool) -> SessionKey {
        let ask = SessionAsk::default();
        let grant = sessions.open(&Principal::Embedder, &ask, remote, Duration::from_secs(10)).unwrap();
        SessionKey { id: grant.id, secret: Secret::new(grant.secret) }
    }

    /// A lock that was taken by the token 7 for a party of a client that is elsewhere.
    fn taken() -> (Sessions, SessionKey, [(String, String); 1]) {
        let sessions = Sessions::new(Arc::new(ManualClock::new()), Arc::new(SeededChance::new(1)));
        let key = open(&sessions, true);
        let hold = LockHold {
            lock: "db".into(),
            mode: LockMode::Exclusive,
            limit: None,
            token: Revision(7),
            since_ms: 0,
            id: "id".into(),
        };
        assert!(sessions.begin_lock(&key.id, "party", hold));
        (sessions, key, [("db".into(), "party".into())])
    }

    /// It may have been granted in the host's next session already: it must not stand there for ever.
    #[test]
    fn what_is_lost_with_the_hosts_session_is_struck_out() {
        let (sessions, key, parties) = taken();
        assert!(sessions.grant_locks(&key.id, &parties));
        assert_eq!(sessions.stand(Standing::Suspect), []);
        assert!(sessions.holds_lock(&key, "db", Revision(7)));
        let left = LeftLock { lock: "db".into(), party: "party".into() };
        assert_eq!(sessions.stand(Standing::Lost), [left]);
        assert!(!sessions.holds_lock(&key, "db", Revision(7)));
        let released = sessions.release(&key, "db", &ReleaseAsk { token: Revision(7), id: None }).unwrap();
        assert_eq!(released, Err(Released::Lost));
    }

    #[tokio::test]
    async fn a_lock_that_is_broken_before_its_client_knows_of_it_is_not_granted() {
        let (sessions, key, parties) = taken();
        assert!(!sessions.holds_lock(&key, "db", Revision(7)));
        sessions.stop_lock(&key.id, "party").await;
        assert!(!sessions.grant_locks(&key.id, &parties));
        assert_eq!(sessions.renew(&key, Duration::from_secs(10)).unwrap().locks, []);
    }

    #[test]
    fn a_session_asks_for_so_many_locks_at_once_and_a_request_that_ended_makes_room() {
        let sessions = Sessions::new(Arc::new(ManualClock::new()), Arc::new(SeededChance::new(1)));
        let (first, second) = (open(&sessions, false), open(&sessions, false));
        for _ in 0..limits::SESSION_LOCK_REQUESTS_MAX {
            sessions.begin_locking(&first, 1).unwrap();
        }
        assert_eq!(sessions.begin_locking(&first, 1).unwrap_err().kind(), Kind::Busy);
        sessions.begin_locking(&second, 1).unwrap();
        sessions.end_locking(&first.id);
        sessions.begin_locking(&first, 1).unwrap();
        assert_eq!(
            sessions.begin_locking(&second, limits::SESSION_LOCKS_MAX + 1).unwrap_err().kind(),
            Kind::TooLarge
        );
        drop(sessions.remove(&first.id, ""));
        sessions.end_locking(&first.id);
        assert_eq!(sessions.table().locking, 1, "a session that ended gave its requests back");
    }
}
