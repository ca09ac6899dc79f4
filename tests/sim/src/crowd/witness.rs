//! What the store says of permits and barriers, in its own order.

use std::collections::{BTreeMap, BTreeSet};

use althing_core::{Cause, Change, Delta, Driver, Key, Revision};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{PARTIES, Told};

const PERMITS: &[u8] = b"data/semaphore/db/permit/";
const PLACES: &[u8] = b"data/barrier/start/here/";

/// Watches the store until it is asked.
pub(super) struct Witness {
    seen: watch::Receiver<Revision>,
    task: JoinHandle<Told>,
    end: watch::Sender<bool>,
}

impl Witness {
    /// Begins to watch.
    pub(super) async fn begin(store: &dyn Driver) -> Witness {
        let mut watch = store.watch(&"data/".into(), Revision::ZERO).await.unwrap();
        let (seen_to, mut seen) = watch::channel(Revision::ZERO);
        let (end, mut ended) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut image = Image::default();
            loop {
                tokio::select! {
                    delta = watch.next() => seen_to.send_replace(image.apply(delta.unwrap())),
                    _ = ended.wait_for(|ended| *ended) => return image.told,
                };
            }
        });
        seen.changed().await.unwrap();
        Witness { seen, task, end }
    }

    /// Ends the watch, once it has seen all that was written so far.
    pub(super) async fn end(mut self, store: &dyn Driver) -> Told {
        let mark: Key = "data/witness".into();
        let txn = althing_core::Txn::new().put(mark.clone(), "");
        let revision = store.commit(txn).await.unwrap().revision;
        let seen = self.seen.wait_for(|seen| *seen >= revision);
        tokio::time::timeout(crate::PATIENCE, seen).await.expect("the watch sees the mark").unwrap();
        store.commit(althing_core::Txn::new().delete(mark)).await.unwrap();
        self.end.send_replace(true);
        self.task.await.unwrap()
    }
}

#[derive(Default)]
struct Image {
    permits: BTreeSet<Key>,
    told: Told,
}

impl Image {
    fn apply(&mut self, delta: Delta) -> Revision {
        match delta {
            Delta::Resync { records, revision } => {
                let keys = records.into_iter().map(|record| record.key);
                self.permits = keys.filter(is_permit).collect();
                if self.told.stored_max > 0 {
                    self.told.wrong.push("the watch had a gap: not all was witnessed".into());
                }
                revision
            }
            Delta::Changes { changes, revision } => {
                let mut commits: BTreeMap<Revision, Vec<Change>> = BTreeMap::new();
                for change in changes {
                    commits.entry(change.revision()).or_default().push(change);
                }
                commits.into_values().for_each(|commit| self.commit(&commit));
                revision
            }
        }
    }

    fn commit(&mut self, commit: &[Change]) {
        let mut went_on = 0;
        for change in commit {
            match change {
                Change::Put(record) if is_permit(&record.key) => {
                    self.permits.insert(record.key.clone());
                }
                Change::Put(_) => {}
                Change::Deleted { key, cause, .. } => {
                    self.permits.remove(key);
                    went_on += usize::from(*cause == Cause::Deleted && key.as_bytes().starts_with(PLACES));
                }
            }
        }
        self.told.stored_max = self.told.stored_max.max(self.permits.len());
        match went_on {
            0 | 1 => {}
            PARTIES => self.told.trips += 1,
            other => self.told.wrong.push(format!("{other} parties went on at once, and not {PARTIES}")),
        }
    }
}

fn is_permit(key: &Key) -> bool {
    key.as_bytes().starts_with(PERMITS)
}
