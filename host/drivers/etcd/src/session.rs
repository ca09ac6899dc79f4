//! Sessions: a lease, and a record bound to it.
//!
//! **Why the lease can be believed.** etcd's leader counts a lease's time and renews it without asking its followers. A
//! leader that was stopped and does not know yet that another was elected renews leases that the other is about to end.
//! So a renewal is followed by a read through the quorum, on the same member: where both name the same term, whoever renewed
//! was still leader after it did, and each leader after him begins to count anew, from his election, a whole lease
//! and an election's time. The read also shows that the session's record is there.

use std::sync::Arc;
use std::time::Duration;

use althing_core::{Error, Kind, Lease, Result, Session, SessionId};

use crate::layout;
use crate::proto::{Compare, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use crate::store::{self, Store};
use crate::wire::{Call, Refusal, Wire};

/// How often another name is tried because a lease has that number.
const NAMES_MAX: u32 = 4;
/// How often a renewal is made anew because the leader changed meanwhile.
const TERMS_MAX: u32 = 3;

/// Returns the shortest lease that the cluster grants. Fails where it cannot be asked.
pub(crate) async fn lease_min(store: &Store, wire: &Wire) -> Result<Duration, Refusal> {
    let call = Call { operation: "connect", writes: false };
    let id = layout::lease(SessionId(store.chance.bits()));
    let seconds = wire.grant(call, LeaseGrantRequest { ttl: 1, id }).await?;
    wire.revoke(call, id).await?;
    Ok(whole(seconds))
}

/// Opens a session of `lease`, rounded up to whole seconds.
pub(crate) async fn open(store: &Store, lease: Duration) -> Result<Session> {
    let call = Call { operation: "open", writes: true };
    let deadline = store.deadline();
    let ttl = lease.as_millis().div_ceil(1000) as i64;
    for _ in 0..NAMES_MAX {
        let id = SessionId(store.chance.bits());
        let lease = layout::lease(id);
        let grant =
            |wire: Arc<Wire>| async move { wire.grant(call, LeaseGrantRequest { ttl, id: lease }).await };
        let seconds = match store.call(call, deadline, grant).await {
            Err(Refusal::LeaseExists) => continue,
            granted => granted.map_err(|refusal| refusal.into_error("open"))?,
        };
        let value = format!("{{\"lease_ms\":{}}}", seconds * 1000);
        let key = store.layout.place(&id.key(), layout::Side::Left);
        let put = PutRequest { key, value: layout::value(Some(id), value.as_bytes()), lease };
        let txn = TxnRequest { success: vec![RequestOp::put(put)], ..TxnRequest::default() };
        return match store.txn(call, deadline, &txn).await {
            Ok(_) => Ok(Session { id, lease_min: whole(seconds) }),
            Err(Refusal::NoLease) => {
                Err(Error::new(Kind::Unavailable, "open", "the session ran out before it was open"))
            }
            Err(refusal) => Err(refusal.into_error("open")),
        };
    }
    Err(Error::new(Kind::Unavailable, "open", "no free name for a lease was found"))
}

/// Renews a session.
pub(crate) async fn renew(store: &Store, id: SessionId) -> Result<Lease> {
    let call = Call { operation: "renew", writes: true };
    let range = RangeRequest {
        key: store.layout.place(&id.key(), layout::Side::Left),
        keys_only: true,
        ..RangeRequest::default()
    };
    let renewed = store.call(call, store.deadline(), |wire| {
        let range = range.clone();
        async move { renew_on(&wire, call, id, range).await }
    });
    match renewed.await {
        Ok(min) => Ok(Lease { min, store_time: None }),
        Err(Refusal::NoLease) => Err(lost("renew", id)),
        Err(refusal) => Err(refusal.into_error("renew")),
    }
}

async fn renew_on(wire: &Wire, call: Call, id: SessionId, range: RangeRequest) -> Result<Duration, Refusal> {
    for _ in 0..TERMS_MAX {
        let renewed = wire.keep_alive(call, layout::lease(id)).await?;
        let seen = wire.range(call, range.clone()).await?;
        if seen.kvs.is_empty() {
            return Err(Refusal::NoLease);
        }
        let header = |header| store::header("renew", header).map_err(Refusal::Failed);
        if header(renewed.header)?.raft_term == header(seen.header)?.raft_term {
            return Ok(whole(renewed.ttl));
        }
    }
    let error = Error::new(Kind::Unavailable, "renew", "the leader changes again and again");
    Err(Refusal::Failed(error.with_unknown_effect()))
}

/// Ends a session: says so where its watchers see it, then ends the lease, with everything bound to it.
pub(crate) async fn close(store: &Store, id: SessionId) -> Result<()> {
    let call = Call { operation: "close", writes: true };
    let deadline = store.deadline();
    let lease = layout::lease(id);
    let put = PutRequest { key: store.layout.end(id), lease, ..PutRequest::default() };
    let txn = TxnRequest {
        // Another session's lease may have the same number: the record names all of it.
        compare: vec![Compare::exists(store.layout.place(&id.key(), layout::Side::Left))],
        success: vec![RequestOp::put(put)],
        failure: Vec::new(),
    };
    match store.txn(call, deadline, &txn).await {
        Ok(told) if !told.succeeded => return Ok(()),
        Ok(_) => {}
        Err(Refusal::NoLease) => return Ok(()),
        Err(refusal) => return Err(refusal.into_error("close")),
    }
    match store.call(call, deadline, |wire| async move { wire.revoke(call, lease).await }).await {
        Ok(()) | Err(Refusal::NoLease) => Ok(()),
        // The session lives on, so far as we know, until it is closed again or its lease runs out.
        Err(refusal) => Err(refusal.into_error("close")),
    }
}

/// Makes the error that a session has ended.
pub(crate) fn lost(operation: &'static str, id: SessionId) -> Error {
    Error::new(Kind::SessionLost, operation, "the session has ended").with("session", id)
}

fn whole(seconds: i64) -> Duration {
    Duration::from_secs(seconds.unsigned_abs())
}
