//! A commit: read what it is about, make its steps, send them; and again where somebody else was quicker.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{BootTime, Cause, Committed, Error, Guard, Key, Kind, Result, SessionId, Txn, Write};
use futures::future::{try_join_all, try_join3};

use crate::end::end;
use crate::layout::{self, bucket_of, session_key};
use crate::plan::{self, Bucket, Facts};
use crate::read;
use crate::store::Store;
use crate::wire::{Refusal, Wire};

/// The pause before a commit that lost a race is tried again; doubled for each further one, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_DOUBLINGS_MAX: u32 = 5;

/// Writes a transaction that was checked. The first try trusts what the server we speak to knows; what it
/// refuses is decided by a read of what the ensemble has acknowledged.
pub(crate) async fn commit(store: &Arc<Store>, txn: &Txn) -> Result<Committed> {
    let deadline = store.deadline();
    let buckets: BTreeSet<u8> = txn.writes.iter().map(|write| bucket_of(write.key())).collect();
    // In the order of their numbers, so that two commits never wait for each other.
    let mut turns = Vec::with_capacity(buckets.len());
    for bucket in buckets {
        let turn = store.turns[usize::from(bucket)].lock();
        turns.push(store.read("commit", deadline, async { Ok(turn.await) }).await?);
    }
    let (mut fresh, mut lost_races) = (false, 0u32);
    loop {
        let wire = store.wire("commit", deadline).await?;
        let facts = store.read("commit", deadline, facts(store, &wire, txn, fresh)).await?;
        let refused = refusal(txn, &facts);
        if (refused.is_some() || !facts.dead.is_empty()) && !fresh {
            fresh = true;
            continue;
        }
        if !facts.dead.is_empty() {
            bury(store, &facts.dead, deadline).await?;
            continue;
        }
        if let Some(error) = refused {
            return Err(error);
        }
        if let Some(committed) = send(store, &wire, txn, &facts, deadline).await? {
            return Ok(committed);
        }
        fresh = true;
        lost_races += 1;
        pause(store, lost_races, deadline).await?;
    }
}

fn refusal(txn: &Txn, facts: &Facts) -> Option<Error> {
    if let Some(guard) = plan::broken(txn, facts) {
        let error = Error::new(Kind::Conflict, "commit", "somebody else wrote first");
        return Some(error.with("key", guard.key()));
    }
    plan::lost(txn, facts).map(|id| crate::lost("commit", id))
}

/// Sends the steps. `None` where something had changed, and nothing was written.
async fn send(
    store: &Arc<Store>,
    wire: &Arc<Wire>,
    txn: &Txn,
    facts: &Facts,
    deadline: BootTime,
) -> Result<Option<Committed>> {
    let volume = store.volume();
    let plan = plan::plan(&store.layout, volume, txn, facts)?;
    let sent = store.within(deadline, wire.transact("commit", &plan.steps)).await;
    let done = match sent {
        None => return Err(store.silent("commit").with_unknown_effect()),
        Some(Ok(done)) => done,
        Some(Err(Refusal::Failed(error))) => return Err(error),
        Some(Err(Refusal::Step(index))) => {
            if index == 0 && !txn.writes.is_empty() {
                store.read("commit", deadline, store.find_volume(wire)).await?;
            }
            return Ok(None);
        }
    };
    if txn.writes.is_empty() {
        let revision = store.read("commit", deadline, read::revision(store, wire)).await?;
        return Ok(Some(Committed { revision, stamps: Vec::new() }));
    }
    crate::log::tend(store, wire, &done);
    let told = || Error::new(Kind::Internal, "commit", "ZooKeeper did not say what it wrote");
    plan.committed(&done).map(Some).ok_or_else(|| told().with_unknown_effect())
}

async fn pause(store: &Store, lost_races: u32, deadline: BootTime) -> Result<()> {
    if lost_races == 1 {
        return Ok(());
    }
    let pause = PAUSE_MIN * 2u32.pow((lost_races - 2).min(PAUSE_DOUBLINGS_MAX));
    store.clock.sleep(store.chance.jitter(pause).mul_f64(2.0 * store.chance.unit())).await;
    if store.clock.now() < deadline {
        return Ok(());
    }
    Err(Error::new(Kind::Busy, "commit", "others wrote first again and again")
        .with("races", lost_races)
        .advise("Try again; if it stays so, too many hosts write the same records"))
}

/// Removes what ended sessions left, so that this commit finds what everybody is told.
async fn bury(store: &Arc<Store>, dead: &BTreeSet<SessionId>, deadline: BootTime) -> Result<()> {
    for id in dead {
        end(store, *id, Cause::Expired, "commit", deadline).await.map_err(|error| {
            // Whatever became of that, nothing of the commit itself was written.
            Error::new(error.kind(), "commit", "what an ended session left cannot be removed").because(error)
        })?;
    }
    Ok(())
}

/// Reads what a transaction is about. `fresh` sees all that was acknowledged to anybody before, and looks whether
/// the owners of the records live.
async fn facts(store: &Store, wire: &Wire, txn: &Txn, fresh: bool) -> Result<Facts> {
    let keys: BTreeSet<&Key> =
        txn.writes.iter().map(Write::key).chain(txn.guards.iter().map(Guard::key)).collect();
    let (reserved, plain): (Vec<&Key>, Vec<&Key>) =
        keys.into_iter().partition(|key| layout::is_reserved(key));
    let named = txn.writes.iter().filter_map(|write| match write {
        Write::Put { session, .. } => *session,
        Write::Delete(_) => None,
    });
    let sessions: BTreeSet<SessionId> = named.chain(reserved.into_iter().filter_map(session_key)).collect();
    // Requests are sent in this order, whenever they are waited for.
    let synced = fresh.then(|| wire.sync());
    // The versions first: a record that changes after they were read breaks them.
    let numbers: BTreeSet<u8> = plain.iter().map(|key| bucket_of(key)).collect();
    let buckets = try_join_all(numbers.into_iter().map(|number| bucket(store, wire, number)));
    let records = try_join_all(plain.into_iter().map(|key| read::stored(store, wire, key)));
    let sessions = try_join_all(sessions.into_iter().map(|id| read::session(store, wire, id)));
    if let Some(synced) = synced {
        synced.await?;
    }
    let (buckets, records, sessions) = try_join3(buckets, records, sessions).await?;
    let mut facts = Facts {
        buckets: buckets.into_iter().collect(),
        records: records.into_iter().flatten().map(|record| (record.key.clone(), record)).collect(),
        ..Facts::default()
    };
    for session in sessions {
        match (session.record, session.is_alive) {
            (Some(record), true) => {
                facts.estates.insert(session.id, session.owns);
                facts.records.insert(record.key.clone(), record);
            }
            (Some(_), false) => drop(facts.dead.insert(session.id)),
            (None, _) => {}
        }
    }
    if fresh {
        let owners: BTreeSet<SessionId> =
            facts.records.values().filter_map(|record| record.session).collect();
        facts.dead.extend(read::dead(store, wire, owners).await?);
    }
    Ok(facts)
}

fn bucket(
    store: &Store,
    wire: &Wire,
    number: u8,
) -> impl Future<Output = Result<(u8, Bucket)>> + Send + use<> {
    let read = wire.get(&store.layout.bucket(number));
    async move {
        let (data, node) = read.await?.ok_or_else(|| layout::foreign("a bucket"))?;
        Ok((number, Bucket { version: node.version, bytes: layout::read_bucket(&data)? }))
    }
}
