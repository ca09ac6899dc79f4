//! What behaviours do for a client session: the calls under way, and the records that go with it.

use althing_core::{BootTime, Error, Key, Kind, Principal, Result, SessionId, Stamp, limits};
use tokio_util::sync::CancellationToken;

use super::{SessionKey, Sessions, Table};

/// A record in the store that goes with a client session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OwnedRecord {
    pub stamp: Stamp,
    /// The host's session in the backend to which it belongs: with that it goes as well.
    pub anchor: SessionId,
}

/// Who calls a behaviour.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub by: Principal,
    /// Done when the session ends.
    pub ended: CancellationToken,
}

impl Sessions {
    /// Lets a session call a behaviour. `Busy` when it, or this host, has as many calls under way as it can.
    pub(crate) fn begin_call(&self, key: &SessionKey) -> Result<Caller> {
        let mut table = self.table();
        if table.calls >= limits::BEHAVIOUR_CALLS_MAX {
            return Err(busy("this host", limits::BEHAVIOUR_CALLS_MAX));
        }
        let client = table.client(key)?;
        if client.calls >= limits::BEHAVIOUR_SESSION_CALLS_MAX {
            return Err(busy("this session", limits::BEHAVIOUR_SESSION_CALLS_MAX));
        }
        client.calls += 1;
        let caller = Caller { by: client.by.clone(), ended: client.ended.clone() };
        table.calls += 1;
        Ok(caller)
    }

    /// Gives back what [`begin_call`](Self::begin_call) took.
    pub(crate) fn end_call(&self, id: &str) {
        let mut table = self.table();
        let Some(client) = table.clients.get_mut(id) else { return };
        client.calls -= 1;
        table.calls -= 1;
    }

    /// Tells whether a session has not ended.
    pub(crate) fn is_open(&self, id: &str) -> bool {
        self.table().clients.contains_key(id)
    }

    /// Remembers a record that goes with a session. Returns whether the session is still open: where it is not,
    /// whoever wrote the record must remove it.
    pub(crate) fn own(&self, id: &str, key: &Key, record: OwnedRecord) -> bool {
        let mut table = self.table();
        table.disown(key);
        let Some(client) = table.clients.get_mut(id) else { return false };
        client.records.insert(key.clone(), record);
        table.record_owners.insert(key.clone(), id.to_owned());
        true
    }

    /// Forgets a record: it was deleted, or belongs to nobody any more.
    pub(crate) fn disown(&self, key: &Key) {
        self.table().disown(key);
    }

    /// Forgets a record that is gone, unless it was written again meanwhile.
    pub(crate) fn forget_record(&self, key: &Key, record: OwnedRecord) {
        let mut table = self.table();
        let owner = table.record_owners.get(key).and_then(|id| table.clients.get(id));
        if owner.and_then(|client| client.records.get(key)) == Some(&record) {
            table.disown(key);
        }
    }

    /// Forgets what belonged to other sessions of this host in the backend than `anchor`: it is gone.
    pub(crate) fn keep_records(&self, anchor: Option<SessionId>) {
        let mut table = self.table();
        let Table { clients, record_owners, .. } = &mut *table;
        for client in clients.values_mut() {
            for (key, _) in client.records.extract_if(.., |_, record| Some(record.anchor) != anchor) {
                record_owners.remove(&key);
            }
        }
    }

    /// Tells whether a session may own so many more records.
    pub(crate) fn has_room(&self, id: &str, more: usize) -> bool {
        let table = self.table();
        table
            .clients
            .get(id)
            .is_some_and(|client| client.records.len() + more <= limits::BEHAVIOUR_SESSION_RECORDS_MAX)
    }

    /// Returns what a session owns as far as this host knows, to be compared with the store; nothing when that was
    /// done just now, since each comparison costs as many reads.
    pub(crate) fn records_to_compare(&self, id: &str, now: BootTime) -> Vec<(Key, OwnedRecord)> {
        let mut table = self.table();
        let Some(client) = table.clients.get_mut(id) else { return Vec::new() };
        if client.compared.is_some_and(|compared| now < compared + limits::CALL_DEADLINE) {
            return Vec::new();
        }
        client.compared = Some(now);
        client.records.iter().map(|(key, record)| (key.clone(), *record)).collect()
    }
}

impl Table {
    fn disown(&mut self, key: &Key) {
        let Some(id) = self.record_owners.remove(key) else { return };
        if let Some(client) = self.clients.get_mut(&id) {
            client.records.remove(key);
        }
    }
}

fn busy(what: &str, most: usize) -> Error {
    let message = format!("{what} has as many calls of behaviours under way as it can");
    Error::new(Kind::Busy, "call behaviour", message)
        .with("calls_max", most)
        .advise("Wait until some are answered, or spread them over sessions and hosts")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use althing_core::info::SessionAsk;
    use althing_core::{ManualClock, Revision, Secret, SeededChance};

    use super::*;

    fn sessions() -> (Sessions, SessionKey, SessionKey) {
        let sessions = Sessions::new(Arc::new(ManualClock::new()), Arc::new(SeededChance::new(1)));
        let open = || {
            let ask = SessionAsk::default();
            let grant = sessions.open(&Principal::Embedder, &ask, false, Duration::from_secs(10)).unwrap();
            SessionKey { id: grant.id, secret: Secret::new(grant.secret) }
        };
        let keys = (open(), open());
        (sessions, keys.0, keys.1)
    }

    fn record(revision: u64) -> OwnedRecord {
        let revision = Revision(revision);
        OwnedRecord { stamp: Stamp { created: revision, modified: revision }, anchor: SessionId(1) }
    }

    #[test]
    fn a_session_takes_along_what_it_owns_and_nothing_that_is_anothers_by_now() {
        let (sessions, first, second) = sessions();
        for (key, revision) in [("a", 1), ("b", 2), ("c", 3)] {
            assert!(sessions.own(&first.id, &key.into(), record(revision)));
        }
        sessions.own(&second.id, &"b".into(), record(4));
        sessions.disown(&"c".into());
        assert_eq!(sessions.remove(&first.id, "").records, [("a".into(), record(1))]);
        assert_eq!(sessions.remove(&second.id, "").records, [("b".into(), record(4))]);
        assert!(!sessions.own(&first.id, &"d".into(), record(5)), "it ended");
    }

    #[test]
    fn what_went_with_the_hosts_session_is_forgotten() {
        let (sessions, first, _) = sessions();
        let kept = OwnedRecord { anchor: SessionId(2), ..record(2) };
        sessions.own(&first.id, &"a".into(), record(1));
        sessions.own(&first.id, &"b".into(), kept);
        sessions.keep_records(Some(SessionId(2)));
        assert_eq!(sessions.remove(&first.id, "").records, [("b".into(), kept)]);
    }

    #[test]
    fn a_session_calls_so_often_at_once_and_a_call_that_ended_makes_room() {
        let (sessions, first, second) = sessions();
        for _ in 0..limits::BEHAVIOUR_SESSION_CALLS_MAX {
            sessions.begin_call(&first).unwrap();
        }
        assert_eq!(sessions.begin_call(&first).unwrap_err().kind(), Kind::Busy);
        sessions.begin_call(&second).unwrap();
        sessions.end_call(&first.id);
        sessions.begin_call(&first).unwrap();
        drop(sessions.remove(&first.id, ""));
        sessions.end_call(&first.id);
        assert_eq!(sessions.table().calls, 1, "a session that ended gave its calls back");
    }
}
