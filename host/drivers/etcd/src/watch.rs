//! A watch: a queue that a task of its own fills.
//!
//! The queue is bounded. Who lets it run over is given a snapshot, which is made when he asks again.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use althing_core::{Change, Delta, Error, Key, Record, Result, Revision, Watch, limits};
use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::follow::{self, Place};
use crate::store::Store;

/// A watcher of one prefix.
pub(crate) struct EtcdWatch {
    prefix: Key,
    queue: Arc<Queue>,
    task: JoinHandle<()>,
}

impl EtcdWatch {
    /// Begins to follow, on the runtime of the caller.
    pub(crate) fn start(store: Arc<Store>, prefix: Key, place: Option<Place>) -> EtcdWatch {
        let queue = Arc::new(Queue::default());
        let task = tokio::spawn(follow::follow(store, prefix.clone(), place, queue.clone()));
        EtcdWatch { prefix, queue, task }
    }
}

impl Drop for EtcdWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[async_trait]
impl Watch for EtcdWatch {
    async fn next(&mut self) -> Result<Delta> {
        loop {
            if let Some(told) = self.queue.take() {
                return told;
            }
            self.queue.filled.notified().await;
        }
    }
}

impl fmt::Debug for EtcdWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdWatch").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// What was told and not yet taken.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    // A std Mutex: held for a look, never over an await.
    held: Mutex<Held>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Held {
    snapshot: Option<(Vec<Record>, Revision)>,
    /// What came after the snapshot: the changes of each revision.
    commits: VecDeque<(Revision, Vec<Change>)>,
    changes: usize,
    bytes: usize,
    /// It ran over, and nobody has asked since.
    ran_over: bool,
    error: Option<Error>,
}

impl Queue {
    /// Puts a snapshot in the place of all that was told.
    pub(crate) fn begin(&self, records: Vec<Record>, revision: Revision) {
        *self.lock() = Held { snapshot: Some((records, revision)), ..Held::default() };
        self.filled.notify_one();
    }

    /// Adds what happened at one revision. False where that is too much: then everything is forgotten.
    pub(crate) fn add(&self, revision: Revision, changes: Vec<Change>) -> bool {
        let mut held = self.lock();
        held.error = None;
        if changes.is_empty() {
            return true;
        }
        held.changes += changes.len();
        held.bytes += changes.iter().map(bytes_of).sum::<usize>();
        // One commit alone is never too much, or no watch could tell it.
        let is_full = held.changes > limits::HISTORY_CHANGES_MAX || held.bytes > limits::HISTORY_BYTES_MAX;
        if is_full && !held.commits.is_empty() {
            *held = Held { ran_over: true, ..Held::default() };
        } else {
            held.commits.push_back((revision, changes));
        }
        self.filled.notify_one();
        !held.ran_over
    }

    /// Says that nothing can be told now. The last word counts.
    pub(crate) fn fail(&self, error: Error) {
        self.lock().error = Some(error);
        self.filled.notify_one();
    }

    /// Waits until somebody asks, where the queue ran over: a snapshot that nobody wants is not made again and again.
    pub(crate) async fn wanted(&self) {
        while self.lock().ran_over {
            self.emptied.notified().await;
        }
    }

    fn take(&self) -> Option<Result<Delta>> {
        let mut held = self.lock();
        if held.ran_over {
            held.ran_over = false;
            self.emptied.notify_one();
        }
        if let Some((records, revision)) = held.snapshot.take() {
            return Some(Ok(Delta::Resync { records, revision }));
        }
        let (revision, mut changes) = match held.pop() {
            Some(first) => first,
            None => return held.error.take().map(Err),
        };
        let mut revision = revision;
        while held
            .commits
            .front()
            .is_some_and(|(_, more)| changes.len() + more.len() <= limits::DELTA_CHANGES_MAX)
        {
            let Some((later, more)) = held.pop() else { break };
            revision = later;
            changes.extend(more);
        }
        Some(Ok(Delta::Changes { changes, revision }))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Nothing under the lock can panic; a poisoned one would still guard a whole state.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn pop(&mut self) -> Option<(Revision, Vec<Change>)> {
        let (revision, changes) = self.commits.pop_front()?;
        self.changes -= changes.len();
        self.bytes -= changes.iter().map(bytes_of).sum::<usize>();
        Some((revision, changes))
    }
}

fn bytes_of(change: &Change) -> usize {
    match change {
        Change::Put(record) => record.value.len(),
        Change::Deleted { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use althing_core::{Cause, Kind, Stamp};

    fn deletions(count: usize) -> Vec<Change> {
        let last = Stamp { created: Revision(1), modified: Revision(1) };
        let gone = |index: usize| Change::Deleted {
            key: index.to_string().as_str().into(),
            last,
            revision: Revision(2),
            cause: Cause::Deleted,
        };
        (0..count).map(gone).collect()
    }

    #[test]
    fn hands_out_whole_commits_in_bounded_deltas() {
        let queue = Queue::default();
        for revision in 1..=3 {
            assert!(queue.add(Revision(revision), deletions(limits::DELTA_CHANGES_MAX / 2)));
        }
        let sizes = std::iter::from_fn(|| queue.take()).map(|told| match told {
            Ok(Delta::Changes { changes, revision }) => (changes.len(), revision.0),
            other => panic!("{other:?}"),
        });
        let half = limits::DELTA_CHANGES_MAX / 2;
        assert_eq!(sizes.collect::<Vec<_>>(), [(2 * half, 2), (half, 3)]);
    }

    #[test]
    fn forgets_everything_when_it_runs_over_and_says_so_once() {
        let queue = Queue::default();
        assert!(queue.add(Revision(1), deletions(limits::HISTORY_CHANGES_MAX)));
        assert!(!queue.add(Revision(2), deletions(1)));
        assert!(queue.take().is_none());
        queue.begin(Vec::new(), Revision(3));
        assert!(matches!(queue.take(), Some(Ok(Delta::Resync { .. }))));
    }

    #[test]
    fn tells_an_error_once_and_after_what_was_told() {
        let queue = Queue::default();
        queue.add(Revision(1), deletions(1));
        queue.fail(Error::new(Kind::Unavailable, "watch", "gone"));
        assert!(matches!(queue.take(), Some(Ok(_))));
        assert!(matches!(queue.take(), Some(Err(_))));
        assert!(queue.take().is_none());
    }
}
