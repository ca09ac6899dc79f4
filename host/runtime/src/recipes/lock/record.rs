//! What lies in the backend of a lock: one record with who holds it and who waits, changed only under the guard it was read
//! with. The record belongs to no session; each party names its own, and whoever sees that one has ended may strike it out.

use althing_core::info::{LockHolder, LockInfo, LockMode, LockParty, LockSummary, LockWaiter};
use althing_core::{Error, Key, Kind, Record, Result, Revision, SessionId, Stamp};
use serde::{Deserialize, Serialize};

use crate::layout::{LAYOUT, decode, refuse_newer};

/// A lock. Where nobody holds it or waits, there is no record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LockRecord {
    pub layout: u32,
    /// How many permits there are, where it is a semaphore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    pub holders: Vec<Party>,
    /// In the order of their turns.
    pub waiters: Vec<Party>,
}

/// Who holds a lock or waits for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Party {
    /// Names this party; made at random by its host.
    pub id: String,
    /// The session of its host in the backend: with that it goes.
    pub session: SessionId,
    pub host: String,
    /// The session of its client on that host.
    pub client: String,
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    pub mode: LockMode,
    /// Since when it holds or waits, by its host's wall clock.
    pub since_ms: u64,
    /// The revision of the commit that let it in. `None` while it waits, and in that very commit, which cannot
    /// know it; whoever reads that takes the revision of the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Revision>,
    /// Who asked it to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaking: Option<String>,
}

/// A lock as it was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Image {
    pub record: LockRecord,
    pub stamp: Stamp,
}

/// The prefix of all locks.
pub(crate) fn locks() -> Key {
    Key::path(["lock"]).below()
}

pub(crate) fn lock_key(name: &str) -> Key {
    Key::path(["lock", name])
}

/// Reads the name of a lock from its key.
pub(crate) fn lock_name(key: &Key) -> Option<String> {
    match key.names()?.as_slice() {
        [_, name] => String::from_utf8(name.clone()).ok(),
        _ => None,
    }
}

impl Image {
    /// Reads a record and fills in the token of those who were let in by this very write.
    pub(crate) fn of(record: &Record) -> Result<Image> {
        let lock: LockRecord = decode(record)?;
        refuse_newer(lock.layout, record)?;
        Ok(Image::written(lock, record.stamp))
    }

    /// Makes the image of what was written with this stamp.
    pub(super) fn written(mut record: LockRecord, stamp: Stamp) -> Image {
        for holder in &mut record.holders {
            holder.token.get_or_insert(stamp.modified);
        }
        Image { record, stamp }
    }
}

impl Party {
    /// The fencing token by which it holds.
    pub(crate) fn token(&self) -> Revision {
        self.token.unwrap_or_default()
    }

    pub(crate) fn holder(&self) -> LockHolder {
        LockHolder { token: self.token(), party: self.shown(), breaking: self.breaking.is_some() }
    }

    fn shown(&self) -> LockParty {
        LockParty {
            mode: self.mode,
            principal: self.by.clone(),
            label: self.label.clone(),
            host: self.host.clone(),
            session: self.client.clone(),
            since_ms: self.since_ms,
        }
    }
}

impl LockRecord {
    pub(crate) fn is_empty(&self) -> bool {
        self.holders.is_empty() && self.waiters.is_empty()
    }

    /// Returns how many hold it and wait.
    pub(crate) fn parties(&self) -> usize {
        self.holders.len() + self.waiters.len()
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = &Party> {
        self.holders.iter().chain(&self.waiters)
    }

    /// Strikes out all whom `stays` does not keep.
    pub(crate) fn keep(&mut self, stays: impl Fn(&Party) -> bool) {
        self.holders.retain(&stays);
        self.waiters.retain(&stays);
    }

    /// Puts a party at the end of the queue. Fails with `Conflict` where the name is in use in a way that it cannot be
    /// used in as well.
    pub(crate) fn enter(&mut self, name: &str, party: Party, limit: Option<u32>) -> Result<()> {
        if self.is_empty() {
            self.limit = limit;
        }
        if self.limit != limit {
            let used = match self.limit {
                Some(limit) => format!("a semaphore with a limit of {limit}"),
                None => "a lock, not a semaphore".to_owned(),
            };
            return Err(Error::new(Kind::Conflict, "lock", format!("the name is in use as {used}"))
                .with("lock", name)
                .advise("All who use a name at one time say the same; choose another name"));
        }
        self.waiters.push(party);
        Ok(())
    }

    /// Lets in whoever is next, as long as there is room. Nobody overtakes: who shares waits behind one who wants it
    /// alone and came before.
    pub(crate) fn advance(&mut self, now_ms: u64) {
        while let Some(next) = self.waiters.first()
            && self.admits(next)
        {
            let mut next = self.waiters.remove(0);
            next.since_ms = now_ms;
            self.holders.push(next);
        }
    }

    fn admits(&self, next: &Party) -> bool {
        match (next.mode, self.limit) {
            (LockMode::Permit, limit) => self.holders.len() < limit.unwrap_or(1) as usize,
            (LockMode::Exclusive, _) => self.holders.is_empty(),
            (LockMode::Shared, _) => self.holders.iter().all(|holder| holder.mode == LockMode::Shared),
        }
    }

    /// Returns who holds it, by the name of the party.
    pub(crate) fn holder(&self, id: &str) -> Option<&Party> {
        self.holders.iter().find(|holder| holder.id == id)
    }

    pub(crate) fn is_waiting(&self, id: &str) -> bool {
        self.waiters.iter().any(|waiter| waiter.id == id)
    }

    pub(crate) fn info(&self, name: &str) -> LockInfo {
        let waiters = self.waiters.iter().enumerate();
        LockInfo {
            name: name.to_owned(),
            limit: self.limit,
            holders: self.holders.iter().map(Party::holder).collect(),
            waiters: waiters
                .map(|(before, waiter)| LockWaiter { position: before + 1, party: waiter.shown() })
                .collect(),
        }
    }

    /// Returns the lock as a line; `None` where nobody holds it or waits.
    pub(crate) fn summary(&self, name: &str) -> Option<LockSummary> {
        let mode = self.each().next()?.mode;
        let (holders, waiters) = (self.holders.len(), self.waiters.len());
        Some(LockSummary { name: name.to_owned(), mode, limit: self.limit, holders, waiters })
    }

    pub(crate) fn new() -> LockRecord {
        LockRecord { layout: LAYOUT, ..LockRecord::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LockMode::{Exclusive, Permit, Shared};

    fn party(id: &str, mode: LockMode) -> Party {
        Party {
            id: id.into(),
            session: SessionId(1),
            host: "h".into(),
            client: "c".into(),
            by: "me".into(),
            label: None,
            mode,
            since_ms: 0,
            token: None,
            breaking: None,
        }
    }

    /// Lets these in, strikes out those, and tells who holds and who waits.
    #[track_caller]
    fn check(limit: Option<u32>, asks: &[(&str, LockMode)], leave: &[&str], expected: &str) {
        let mut record = LockRecord::new();
        for (id, mode) in asks {
            record.enter("l", party(id, *mode), limit).unwrap();
            record.advance(1);
        }
        for id in leave {
            record.keep(|party| party.id != *id);
            record.advance(2);
        }
        let names = |parties: &[Party]| parties.iter().map(|party| party.id.as_str()).collect::<String>();
        assert_eq!(format!("{}|{}", names(&record.holders), names(&record.waiters)), expected);
    }

    #[test]
    fn one_alone_holds_and_the_others_wait_in_the_order_they_came() {
        let asks = [("a", Exclusive), ("b", Exclusive), ("c", Exclusive)];
        check(None, &asks, &[], "a|bc");
        check(None, &asks, &["a"], "b|c");
        check(None, &asks, &["b"], "a|c");
        check(None, &asks, &["a", "b", "c"], "|");
    }

    #[test]
    fn who_shares_holds_together_and_overtakes_nobody() {
        let asks = [("a", Shared), ("b", Shared), ("x", Exclusive), ("c", Shared), ("d", Shared)];
        check(None, &asks, &[], "ab|xcd");
        check(None, &asks, &["a"], "b|xcd");
        check(None, &asks, &["a", "b"], "x|cd");
        check(None, &asks, &["x"], "abcd|");
        check(None, &asks, &["a", "b", "x"], "cd|");
    }

    #[test]
    fn as_many_as_the_limit_says_hold_a_permit() {
        let asks = [("a", Permit), ("b", Permit), ("c", Permit), ("d", Permit)];
        check(Some(2), &asks, &[], "ab|cd");
        check(Some(2), &asks, &["b"], "ac|d");
        check(Some(5), &asks, &[], "abcd|");
    }

    #[test]
    fn a_name_is_used_in_one_way_at_a_time() {
        let mut record = LockRecord::new();
        record.enter("l", party("a", Permit), Some(2)).unwrap();
        for (mode, limit) in [(Permit, Some(3)), (Exclusive, None), (Shared, None)] {
            let error = record.enter("l", party("b", mode), limit).unwrap_err();
            assert!(error.to_string().contains("a semaphore with a limit of 2"), "{error}");
        }
        record.keep(|_| false);
        record.enter("l", party("b", Exclusive), None).unwrap();
        let error = record.enter("l", party("c", Permit), Some(2)).unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
    }

    #[test]
    fn every_name_is_read_back_from_its_key() {
        for name in ["web", "", "a/b", "%", "\u{1F980}"] {
            assert_eq!(lock_name(&lock_key(name)).as_deref(), Some(name));
            assert!(lock_key(name).starts_with(&locks()));
        }
    }

    #[test]
    fn the_token_is_the_revision_of_the_commit_that_let_it_in() {
        let mut record = LockRecord::new();
        record.enter("l", party("a", Shared), None).unwrap();
        record.enter("l", party("b", Shared), None).unwrap();
        record.advance(1);
        record.holders[1].token = Some(Revision(3));
        let stamp = Stamp { created: Revision(2), modified: Revision(7) };
        let value = crate::layout::encode(&record).into();
        let image = Image::of(&Record { key: lock_key("l"), value, session: None, stamp }).unwrap();
        let tokens: Vec<_> = image.record.holders.iter().map(Party::token).collect();
        assert_eq!(tokens, [Revision(7), Revision(3)]);
    }
}
