//! A commit: one transaction of etcd, nearly always at the first try.
//!
//! What a put needs to know of the record it overwrites (is it there, at which place, whose is it) is taken from the
//! commit's own guards, and guessed where they do not say. All of it is compared in the transaction, together with the guards
//! and with the sessions' records, so a wrong guess writes nothing and its answer tells what is there. Then the
//! guards are looked at here, in their order; if they hold, the transaction is sent again with what was read.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;

use althing_core::{
    Committed, Error, Guard, Key, Kind, Result, Revision, SessionId, Stamp, Txn, Write, limits,
};
use prost::Message;

use crate::layout::{self, Layout, Side, Use};
use crate::proto::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RequestOp, Target, TxnRequest,
    TxnResponse,
};
use crate::session;
use crate::store::{self, Store};
use crate::wire::{Call, Refusal};

/// etcd's `--max-txn-ops`, unless the operator set another: comparisons, and requests either way.
const OPS_MAX: usize = 128;
/// etcd's `--max-request-bytes`, unless the operator set another, less what etcd puts around a request.
const REQUEST_BYTES_MAX: usize = (3 << 19) - 512;

/// A record as etcd tells of it without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    stamp: Stamp,
    side: Side,
    lease: i64,
}

/// What was read of the keys of a transaction; those that are not there have `None`.
#[derive(Debug, Default)]
struct Known {
    records: BTreeMap<Key, Option<Seen>>,
    sessions: BTreeSet<SessionId>,
}

/// A transaction, and what is needed to send it and to read what came of it.
struct Plan<'a> {
    layout: &'a Layout,
    txn: &'a Txn,
    /// Every key, once.
    keys: Vec<&'a Key>,
    /// Every session that a put names, once.
    sessions: Vec<SessionId>,
}

/// Writes `txn`, which was checked.
pub(crate) async fn commit(store: &Store, txn: &Txn) -> Result<Committed> {
    let plan = Plan::new(&store.layout, txn);
    let deadline = store.deadline();
    let mut known = None;
    for _ in 0..limits::CONFLICT_TRIES {
        let mut request = plan.request(known.as_ref());
        // Too much to guess: read first.
        let reads = known.is_none() && request.compare.len().max(request.success.len()) > OPS_MAX;
        if reads {
            request = TxnRequest { success: request.failure, ..TxnRequest::default() };
        }
        check_size(&request)?;
        let call = Call { operation: "commit", writes: !reads && !txn.writes.is_empty() };
        let answer = match store.txn(call, deadline, &request).await {
            // The record of the session was there, and its lease was not: somebody meddles with leases.
            Err(Refusal::NoLease) => return Err(plan.first_lost(&BTreeSet::new())),
            answer => answer.map_err(|refusal| refusal.into_error("commit"))?,
        };
        if answer.succeeded && !reads {
            return plan.committed(known.as_ref(), answer);
        }
        let found = plan.read(answer)?;
        plan.judge(&found)?;
        known = Some(found);
    }
    Err(Error::new(Kind::Busy, "commit", "the records change faster than they can be read"))
}

impl<'a> Plan<'a> {
    fn new(layout: &'a Layout, txn: &'a Txn) -> Plan<'a> {
        let puts = || txn.writes.iter().filter(|write| matches!(write, Write::Put { .. }));
        let written = txn.writes.iter().map(Write::key);
        let keys: BTreeSet<&Key> = txn.guards.iter().map(Guard::key).chain(written).collect();
        let sessions: BTreeSet<SessionId> = puts().filter_map(owner).collect();
        Plan { layout, txn, keys: keys.into_iter().collect(), sessions: sessions.into_iter().collect() }
    }

    fn request(&self, known: Option<&Known>) -> TxnRequest {
        let mut compare: Vec<Compare> = match known {
            Some(known) => self.keys.iter().map(|key| self.unwritten(key, known)).collect(),
            None => self.guesses(),
        };
        compare.extend(self.sessions.iter().map(|id| Compare::exists(self.session(*id))));
        let mut success: Vec<RequestOp> =
            self.txn.writes.iter().flat_map(|write| self.write(write, known)).collect();
        let puts = |op: &RequestOp| op.put.is_some();
        if !self.txn.writes.is_empty() && !success.iter().any(puts) {
            // It may delete what is not there, and has its revision all the same.
            success.push(RequestOp::put(PutRequest { key: self.layout.tick(), ..PutRequest::default() }));
        }
        let sessions = self.sessions.iter().map(|id| self.session(*id));
        let sessions = sessions.map(|key| RangeRequest { key, keys_only: true, ..RangeRequest::default() });
        let failure = self.keys.iter().map(|key| self.look(key)).chain(sessions).map(RequestOp::range);
        TxnRequest { compare, success, failure: failure.collect() }
    }

    /// Compares the guards, and that what is put is as it is guessed to be.
    fn guesses(&self) -> Vec<Compare> {
        let guards = self.txn.guards.iter().flat_map(|guard| {
            let (modified, created) = match guard {
                Guard::Absent(_) => (0, None),
                Guard::Unchanged(_, stamp) => (of_a_record(stamp.modified), Some(of_a_record(stamp.created))),
            };
            let created = created.map(|created| self.compare(guard.key(), Target::Create, created));
            iter::once(self.compare(guard.key(), Target::Mod, modified)).chain(created)
        });
        let puts = self.txn.writes.iter().filter(|write| matches!(write, Write::Put { .. }));
        let puts = puts.flat_map(|write| match self.guess(write) {
            // Where nothing may be is compared already, if a guard said so.
            None if self.guard_of(write.key()).is_some() => Vec::new(),
            None => vec![self.compare(write.key(), Target::Mod, 0)],
            Some(seen) => {
                let place = self.layout.place(write.key(), seen.side);
                let of = |target, number| Compare::equal(place.clone(), Default::default(), target, number);
                vec![
                    of(Target::Create, layout::number(seen.stamp.created)),
                    of(Target::Lease, layout::lease_of(owner(write))),
                ]
            }
        });
        guards.chain(puts).collect()
    }

    /// Guesses what a put overwrites: nothing, or what its guard names, at the first place and of the same owner.
    fn guess(&self, put: &Write) -> Option<Seen> {
        match self.guard_of(put.key()) {
            Some(Guard::Unchanged(_, stamp)) => {
                Some(Seen { stamp: *stamp, side: Side::Left, lease: layout::lease_of(owner(put)) })
            }
            _ => None,
        }
    }

    fn guard_of(&self, key: &Key) -> Option<&Guard> {
        self.txn.guards.iter().find(|guard| guard.key() == key)
    }

    /// Compares that a record is still as it was read. Its stamp was looked at then.
    fn unwritten(&self, key: &Key, known: &Known) -> Compare {
        let modified = known.record(key).map_or(0, |seen| layout::number(seen.stamp.modified));
        self.compare(key, Target::Mod, modified)
    }

    fn compare(&self, key: &Key, target: Target, number: i64) -> Compare {
        let places = self.layout.places(key);
        Compare::equal(places.start, places.end, target, number)
    }

    fn write(&self, write: &Write, known: Option<&Known>) -> Vec<RequestOp> {
        let Write::Put { key, value, session } = write else {
            let places = self.layout.places(write.key());
            let delete = DeleteRangeRequest { key: places.start, range_end: places.end };
            // What it had is told by the answer, where it was not read before.
            let look = known.is_none().then(|| RequestOp::range(self.look(write.key())));
            return look.into_iter().chain([RequestOp::delete(delete)]).collect();
        };
        let lease = layout::lease_of(*session);
        let former = self.former(write, known);
        let put = |side| {
            let value = layout::value(*session, value);
            RequestOp::put(PutRequest { key: self.layout.place(key, side), value, lease })
        };
        match former {
            None => vec![put(Side::Left)],
            Some(seen) if seen.lease == lease => vec![put(seen.side)],
            Some(seen) => {
                let delete =
                    DeleteRangeRequest { key: self.layout.place(key, seen.side), ..Default::default() };
                vec![RequestOp::delete(delete), put(seen.side.other())]
            }
        }
    }

    /// Returns what a put overwrites, as it was read or is guessed.
    fn former(&self, put: &Write, known: Option<&Known>) -> Option<Seen> {
        match known {
            Some(known) => known.record(put.key()),
            None => self.guess(put),
        }
    }

    fn look(&self, key: &Key) -> RangeRequest {
        let places = self.layout.places(key);
        RangeRequest { key: places.start, range_end: places.end, keys_only: true, ..RangeRequest::default() }
    }

    fn session(&self, id: SessionId) -> bytes::Bytes {
        self.layout.place(&id.key(), Side::Left)
    }

    /// Reads what is there, in the order in which [`Plan::request`] asks for it.
    fn read(&self, answer: TxnResponse) -> Result<Known> {
        let mut found = store::ranges(answer);
        let mut known = Known::default();
        for key in &self.keys {
            let seen = found.next().and_then(|kvs| kvs.into_iter().next());
            let seen = seen.map(|kv| seen_of(self.layout, &kv)).transpose()?;
            known.records.insert((*key).clone(), seen);
        }
        let there = self.sessions.iter().filter(|_| found.next().is_some_and(|kvs| !kvs.is_empty()));
        known.sessions = there.copied().collect();
        Ok(known)
    }

    /// Fails where a guard does not hold, or a session has ended: in this order.
    fn judge(&self, known: &Known) -> Result<()> {
        let holds = |guard: &Guard| match guard {
            Guard::Absent(key) => known.record(key).is_none(),
            Guard::Unchanged(key, stamp) => known.record(key).is_some_and(|seen| seen.stamp == *stamp),
        };
        if let Some(guard) = self.txn.guards.iter().find(|guard| !holds(guard)) {
            let error = Error::new(Kind::Conflict, "commit", "somebody else wrote first");
            return Err(error.with("key", guard.key()));
        }
        if known.sessions.len() < self.sessions.len() {
            return Err(self.first_lost(&known.sessions));
        }
        Ok(())
    }

    fn first_lost(&self, live: &BTreeSet<SessionId>) -> Error {
        let lost = self.txn.writes.iter().filter_map(owner).find(|id| !live.contains(id));
        match lost {
            Some(id) => session::lost("commit", id),
            None => Error::new(Kind::Internal, "commit", "etcd misses a lease that was not named"),
        }
    }

    fn committed(&self, known: Option<&Known>, answer: TxnResponse) -> Result<Committed> {
        let revision = layout::revision(store::header("commit", answer.header.clone())?.revision);
        let new = Stamp { created: revision, modified: revision };
        let mut deleted = store::ranges(answer);
        let stamps = self.txn.writes.iter().map(|write| match write {
            Write::Put { session, .. } => match self.former(write, known) {
                Some(seen) if seen.lease == layout::lease_of(*session) => {
                    Stamp { created: seen.stamp.created, ..new }
                }
                _ => new,
            },
            Write::Delete(key) => {
                let former = match known {
                    Some(known) => known.record(key).map(|seen| seen.stamp),
                    None => deleted.next().and_then(|kvs| kvs.first().map(layout::stamp)),
                };
                former.unwrap_or(new)
            }
        });
        Ok(Committed { revision, stamps: stamps.collect() })
    }
}

impl Known {
    fn record(&self, key: &Key) -> Option<Seen> {
        self.records.get(key).copied().flatten()
    }
}

fn seen_of(layout: &Layout, kv: &KeyValue) -> Result<Seen> {
    let side = match layout.read(&kv.key)? {
        Use::Record(_, side) => side,
        _ => return Err(Error::new(Kind::Internal, "commit", "etcd answered with what was not asked for")),
    };
    Ok(Seen { stamp: layout::stamp(kv), side, lease: kv.lease })
}

/// Returns a revision of a record as etcd compares it. Where there is no record, etcd's is 0; a record never has that one.
fn of_a_record(revision: Revision) -> i64 {
    match layout::number(revision) {
        0 => i64::MAX,
        number => number,
    }
}

fn owner(write: &Write) -> Option<SessionId> {
    match write {
        Write::Put { session, .. } => *session,
        Write::Delete(_) => None,
    }
}

fn check_size(request: &TxnRequest) -> Result<()> {
    let length = request.encoded_len();
    if length <= REQUEST_BYTES_MAX {
        return Ok(());
    }
    let message = format!("a transaction of {length} bytes; etcd takes {REQUEST_BYTES_MAX}");
    Err(Error::new(Kind::TooLarge, "commit", message).advise("Write less at once"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(created: u64, modified: u64) -> Stamp {
        Stamp { created: Revision(created), modified: Revision(modified) }
    }

    #[test]
    fn the_largest_transaction_of_known_records_fits_what_etcd_takes() {
        let layout = Layout::new("n");
        let key = |index: u32| Key::from(index.to_string().as_str());
        let mut txn = Txn::new();
        for index in 0..limits::TXN_KEYS_MAX {
            let guard = Guard::Unchanged(key(index), stamp(1, 2));
            txn = txn.guard(guard).put_owned(key(index), "v", SessionId(u128::from(index)));
        }
        let plan = Plan::new(&layout, &txn);
        assert!(plan.request(None).compare.len() > OPS_MAX, "it is read first");
        let mut known = Known::default();
        for index in 0..limits::TXN_KEYS_MAX {
            known.records.insert(key(index), Some(Seen { stamp: stamp(1, 2), side: Side::Right, lease: 0 }));
        }
        let request = plan.request(Some(&known));
        let deletes = (0..limits::TXN_KEYS_MAX).fold(Txn::new(), |txn, index| txn.delete(key(index)));
        let deletes = Plan::new(&layout, &deletes);
        assert!(deletes.request(None).success.len() > OPS_MAX, "so are as many deletions");
        assert!(deletes.request(Some(&known)).success.len() <= OPS_MAX);
        for count in [request.compare.len(), request.success.len(), request.failure.len()] {
            assert!(count <= OPS_MAX, "{count}");
        }
    }

    #[test]
    fn takes_over_at_the_other_place() {
        let layout = Layout::new("n");
        let txn = Txn::new().put("a".into(), "v");
        let plan = Plan::new(&layout, &txn);
        let mut known = Known::default();
        known.records.insert("a".into(), Some(Seen { stamp: stamp(1, 2), side: Side::Right, lease: 7 }));
        let request = plan.request(Some(&known));
        assert_eq!(request.success[0].delete.as_ref().unwrap().key, layout.place(&"a".into(), Side::Right));
        assert_eq!(request.success[1].put.as_ref().unwrap().key, layout.place(&"a".into(), Side::Left));
    }
}
