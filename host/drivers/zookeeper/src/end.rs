//! The end of a session: what it owned goes, and the log tells why.
//!
//! A session has ended when its ephemeral node is gone, whoever removed it. Its estate, which lists what it owned,
//! stays until all of that is removed; whoever meets it removes what is left. The first part is removed in the
//! same transaction that tells of the session's end, and in it all that fits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{BootTime, Cause, Error, Key, Kind, Record, Result, SessionId, Stamp};
use bytes::Bytes;
use futures::future::{try_join_all, try_join4};

use crate::entry::{self, Line};
use crate::layout::{self, Estate, bucket_of};
use crate::read;
use crate::store::Store;
use crate::wire::{Mode, Node, Refusal, Step, Wire};

/// The most records that are removed at once. Their keys, twice escaped at the longest, must fit a request.
const REMOVED_AT_ONCE: usize = 32;
/// The same where keys are as short as they use to be.
const SHORT_REMOVED_AT_ONCE: usize = 512;
/// The sum of the lengths of the keys of the larger number.
const SHORT_BYTES: usize = 64 << 10;
/// The pause after a race was lost.
const PAUSE: Duration = Duration::from_millis(3);

/// Removes what is left of a session. With [`Cause::Closed`] it is ended if it lives; with [`Cause::Expired`]
/// nothing happens then. What was told before keeps its cause. Ends well when nothing is left.
pub(crate) async fn end(
    store: &Arc<Store>,
    id: SessionId,
    cause: Cause,
    operation: &'static str,
    deadline: BootTime,
) -> Result<()> {
    loop {
        let wire = store.wire(operation, deadline).await?;
        let found = store.read(operation, deadline, Remains::find(store, &wire, id)).await?;
        let Some(remains) = found else { return Ok(()) };
        if remains.is_alive && cause == Cause::Expired {
            return Ok(());
        }
        let volume = store.volume();
        let steps = remains.steps(store, volume, cause)?;
        match store.within(deadline, wire.transact(operation, &steps)).await {
            None => return Err(store.silent(operation).with_unknown_effect()),
            Some(Err(Refusal::Failed(error))) => return Err(error),
            Some(Ok(done)) => {
                crate::log::tend(store, &wire, &done);
                if remains.is_last {
                    return Ok(());
                }
            }
            Some(Err(Refusal::Step(_))) => {
                // Somebody else removes it too, or writes beside it.
                store.read(operation, deadline, store.find_volume(&wire)).await?;
                store.clock.sleep(store.chance.jitter(PAUSE).mul_f64(store.chance.unit())).await;
                if store.clock.now() >= deadline {
                    return Err(Error::new(Kind::Busy, operation, "others write what the session owned"));
                }
            }
        }
    }
}

/// What is left of a session, as far as one transaction removes it.
struct Remains {
    id: SessionId,
    is_alive: bool,
    estate: Estate,
    node: Node,
    /// The keys it owns, with what lies there.
    owned: Vec<(Key, Option<Record>)>,
    buckets: BTreeMap<u8, (u64, i32)>,
    /// Nothing is left after this.
    is_last: bool,
}

impl Remains {
    async fn find(store: &Store, wire: &Wire, id: SessionId) -> Result<Option<Remains>> {
        let path = store.layout.estate(id);
        let (synced, estate) = (wire.sync(), wire.get(&path));
        let (titles, alive) = (wire.children(&path), wire.look(&store.layout.session(id)));
        let (_, estate, titles, alive) = try_join4(synced, estate, titles, alive).await?;
        let (Some((data, node)), Some((titles, _))) = (estate, titles) else { return Ok(None) };
        let keys = keys(wire, &path, &titles).await?;
        let is_last = keys.len() == titles.len();
        let numbers: std::collections::BTreeSet<u8> = keys.iter().map(bucket_of).collect();
        // The versions first: a record that changes after they were read breaks them.
        let buckets = numbers.into_iter().map(|number| {
            let read = wire.get(&store.layout.bucket(number));
            async move {
                let (data, node) = read.await?.ok_or_else(|| layout::foreign("a bucket"))?;
                Ok::<_, Error>((number, (layout::read_bucket(&data)?, node.version)))
            }
        });
        let buckets = try_join_all(buckets);
        let records = try_join_all(keys.iter().map(|key| read::stored(store, wire, key)));
        let buckets = buckets.await?.into_iter().collect();
        let owned = keys.clone().into_iter().zip(records.await?).collect();
        let estate = Estate::read(data)?;
        Ok(Some(Remains { id, is_alive: alive.is_some(), estate, node, owned, buckets, is_last }))
    }

    fn steps(&self, store: &Store, volume: u32, cause: Cause) -> Result<Vec<Step>> {
        let layout = &store.layout;
        let cause = self.estate.ended.unwrap_or(cause);
        let mut steps = vec![Step::Check { path: layout.volume(volume), version: Some(0) }];
        let (mut lines, mut buckets) = (Vec::new(), self.buckets.clone());
        for (key, record) in &self.owned {
            if let Some(record) = record.as_ref().filter(|record| record.session == Some(self.id)) {
                steps.push(Step::Delete { path: layout.record(key) });
                if let Some((bytes, _)) = buckets.get_mut(&bucket_of(key)) {
                    *bytes = bytes.saturating_sub(layout::listed_bytes(key));
                }
                lines.push(Line::Deleted { key: key.clone(), last: record.stamp, cause });
            }
            steps.push(Step::Delete { path: layout.title(self.id, key) });
        }
        steps.extend(buckets.iter().map(|(number, (bytes, version))| Step::Set {
            path: layout.bucket(*number),
            data: layout::bucket_data(*bytes),
            version: Some(*version),
        }));
        if self.is_alive {
            steps.push(Step::Delete { path: layout.session(self.id) });
        }
        if self.estate.ended.is_none() {
            let last = Stamp { created: self.node.created, modified: self.node.created };
            lines.push(Line::Deleted { key: self.id.key(), last, cause });
        }
        let path = layout.estate(self.id);
        steps.push(if self.is_last {
            Step::Delete { path }
        } else {
            let estate = Estate { ended: Some(cause), value: Bytes::clone(&self.estate.value) };
            Step::Set { path, data: estate.data(), version: Some(self.node.version) }
        });
        let data = entry::write(&lines);
        steps.push(Step::Create { path: layout.next_entry(volume), data, mode: Mode::Numbered });
        crate::plan::refuse_too_large(&steps)?;
        Ok(steps)
    }
}

/// Reads the keys that stand in as many of `titles` as one transaction removes.
async fn keys(wire: &Wire, path: &str, titles: &[String]) -> Result<Vec<Key>> {
    let some = titles.iter().take(SHORT_REMOVED_AT_ONCE);
    let read = try_join_all(some.map(|title| wire.get(&format!("{path}/{title}")))).await?;
    // A title that is gone meanwhile fails the transaction, and it is made anew.
    let mut keys: Vec<Key> = read.into_iter().flatten().map(|(data, _)| Key::new(data)).collect();
    let bytes: usize = keys.iter().map(|key| key.as_bytes().len()).sum();
    if bytes > SHORT_BYTES {
        keys.truncate(REMOVED_AT_ONCE);
    }
    Ok(keys)
}
