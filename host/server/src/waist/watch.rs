//! A connection that is a watch. Nothing is queued here: while the peer does not read, the driver's watch is not asked,
//! and falls back to a resync by its own bound.

use althing_client::waist::{Answer, Failure, Reply, Told};
use althing_core::{Change, Delta, Kind, Record, Revision, limits};
use tokio::time::sleep;

use super::{Connection, Frames, Next};

/// What a record takes besides its key and its value, at most.
const RECORD_BYTES: usize = 512;

impl Connection {
    /// Tells what happens until the peer is gone or the host ends.
    pub(super) async fn watch(&self, id: u64, prefix: althing_core::Key, from: Revision, mut frames: Frames) {
        let watch = self.party.driver.watch(&prefix, from).await;
        let result = watch.as_ref().map(|_| Reply::Done).map_err(Failure::from);
        self.send(&Answer { id, result }).await;
        let Ok(mut watch) = watch else { return };
        loop {
            let told = tokio::select! {
                next = self.next(&mut frames) => return self.end(&next),
                told = watch.next() => told,
            };
            let is_over = told.as_ref().is_err_and(|error| error.kind() == Kind::Closed);
            let failed = told.is_err();
            tokio::select! {
                () = self.tell(told.map_err(|error| Failure::from(&error))) => {}
                () = self.party.ending.cancelled() => return,
            }
            if is_over {
                return;
            }
            if failed {
                // A watch waits by itself after an error; one that does not shall not keep us busy.
                sleep(limits::RETRY_PAUSE).await;
            }
        }
    }

    fn end(&self, next: &Next) {
        if let Next::Request(..) = next {
            tracing::warn!(peer = ?self.party, "a watch is ended: a request came on its connection");
        }
    }

    async fn tell(&self, told: Result<Delta, Failure>) {
        match told {
            Err(failure) => self.send(&Told::Failed(failure)).await,
            Ok(Delta::Changes { changes, revision }) => {
                for (changes, more) in parts(changes, change_bytes) {
                    self.send(&Told::Changes { changes, revision, more }).await;
                }
            }
            Ok(Delta::Resync { records, revision }) => {
                for (records, more) in parts(records, record_bytes) {
                    self.send(&Told::Records { records, revision, more }).await;
                }
            }
        }
    }
}

fn change_bytes(change: &Change) -> usize {
    match change {
        Change::Put(record) => record_bytes(record),
        Change::Deleted { key, .. } => key.as_bytes().len() + RECORD_BYTES,
    }
}

fn record_bytes(record: &Record) -> usize {
    record.key.as_bytes().len() + record.value.len() + RECORD_BYTES
}

/// Cuts what is told into parts of at most the bytes of a page each, or one item, and says which is not the last. At
/// least one, which may be empty: an empty snapshot is told too.
fn parts<T>(items: Vec<T>, bytes: impl Fn(&T) -> usize) -> impl Iterator<Item = (Vec<T>, bool)> {
    let mut items = items.into_iter().peekable();
    let mut is_done = false;
    std::iter::from_fn(move || {
        if is_done {
            return None;
        }
        let (mut part, mut size) = (Vec::new(), 0);
        while let Some(item) =
            items.next_if(|item| part.is_empty() || size + bytes(item) <= limits::PAGE_BYTES_MAX)
        {
            size += bytes(&item);
            part.push(item);
        }
        is_done = items.peek().is_none();
        Some((part, !is_done))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sizes: &[usize], expected: &[(usize, bool)]) {
        let cut: Vec<_> =
            parts(sizes.to_vec(), |size| *size).map(|(part, more)| (part.len(), more)).collect();
        assert_eq!(cut, expected);
    }

    #[test]
    fn a_delta_is_cut_where_it_is_too_large_and_nowhere_else() {
        const MOST: usize = limits::PAGE_BYTES_MAX;
        check(&[], &[(0, false)]);
        check(&[1, MOST - 1], &[(2, false)]);
        check(&[1, MOST, MOST * 2, 1, 1], &[(1, true), (1, true), (1, true), (2, false)]);
    }
}
