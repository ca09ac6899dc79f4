//! A watcher that believes nothing: it checks each delta against the rules and keeps a copy of the records.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use althing_core::{Change, Delta, Driver, Key, Order, Record, Revision, Watch, limits};

/// How long a delta that must come may take on the wall.
const DELTA_DEADLINE: Duration = Duration::from_secs(30);

/// The pause before a watch that failed is asked again, so that an outage is not a busy loop.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// A watch, what it has told, and the records as they must be by that.
pub struct Follower {
    watch: Box<dyn Watch>,
    prefix: Key,
    ordered: bool,
    /// The records below the prefix, as the deltas tell.
    pub records: BTreeMap<Key, Record>,
    /// All changes told, in order.
    pub changes: Vec<Change>,
    /// How many resyncs were told.
    pub resyncs: usize,
    /// The revision up to which all was told.
    pub seen: Revision,
}

impl Follower {
    /// Watches everything below `prefix`, beginning with a snapshot, which is taken in at once.
    pub async fn begin(driver: &dyn Driver, prefix: &Key) -> Follower {
        let mut follower = Follower::from(driver, prefix, Revision::ZERO, &[]).await;
        let first = follower.next().await;
        assert!(matches!(first, Delta::Resync { .. }), "a watch from the beginning begins with {first:?}");
        follower
    }

    /// Watches everything below `prefix` after `from`, when the records were `known`.
    pub async fn from(driver: &dyn Driver, prefix: &Key, from: Revision, known: &[Record]) -> Follower {
        let watch = driver.watch(prefix, from).await.expect("a watch can be made");
        let records = known.iter().map(|record| (record.key.clone(), record.clone())).collect();
        let ordered = driver.capability().order == Order::Namespace;
        let (prefix, changes) = (prefix.clone(), Vec::new());
        Follower { watch, prefix, ordered, records, changes, resyncs: 0, seen: from }
    }

    /// Waits for the next delta, checks it and takes it in.
    pub async fn next(&mut self) -> Delta {
        let next = tokio::time::timeout(DELTA_DEADLINE, self.watch.next()).await;
        let delta = next.expect("a delta comes").expect("a watch does not fail");
        self.take_in(&delta);
        delta
    }

    /// Takes in deltas until `done` holds. Errors of the watch are passed over: it must go on after them.
    pub async fn until(&mut self, done: impl Fn(&Follower) -> bool) {
        let wait = async {
            while !done(self) {
                match self.watch.next().await {
                    Ok(delta) => self.take_in(&delta),
                    Err(_) => tokio::time::sleep(AFTER_ERROR).await,
                }
            }
        };
        let in_time = tokio::time::timeout(DELTA_DEADLINE, wait).await.is_ok();
        assert!(in_time, "what must be told was not told; so far {:?}", self.changes);
    }

    /// Takes in deltas until the record at `key` is there.
    pub async fn until_put(&mut self, key: &Key) {
        self.until(|follower| follower.records.contains_key(key)).await;
    }

    /// Begins to wait for a delta and gives up after `polls` looks.
    pub async fn give_up(&mut self, polls: usize) {
        let mut next = self.watch.next();
        for _ in 0..polls {
            if let std::task::Poll::Ready(delta) = futures::poll!(&mut next) {
                drop(next);
                return self.take_in(&delta.expect("a watch does not fail"));
            }
            tokio::task::yield_now().await;
        }
    }

    /// Returns the changes of one key.
    pub fn of(&self, key: &Key) -> Vec<&Change> {
        self.changes.iter().filter(|change| change.key() == key).collect()
    }

    fn take_in(&mut self, delta: &Delta) {
        match delta {
            Delta::Changes { changes, revision } => self.take_in_changes(changes, *revision),
            Delta::Resync { records, revision } => {
                let rising = records.windows(2).all(|pair| pair[0].key < pair[1].key);
                assert!(rising, "a resync is in the order of its keys");
                assert!(records.iter().all(|record| record.key.starts_with(&self.prefix)));
                self.records = records.iter().map(|record| (record.key.clone(), record.clone())).collect();
                (self.seen, self.resyncs) = (*revision, self.resyncs + 1);
            }
        }
    }

    fn take_in_changes(&mut self, changes: &[Change], revision: Revision) {
        assert!(!changes.is_empty(), "a delta of no changes");
        let commits: HashSet<_> = changes.iter().map(Change::revision).collect();
        assert!(changes.len() <= limits::DELTA_CHANGES_MAX || commits.len() == 1, "an unbounded delta");
        let mut met = HashSet::new();
        for change in changes {
            assert!(change.key().starts_with(&self.prefix), "{change:?} is not below {:?}", self.prefix);
            assert!(met.insert((change.key().clone(), change.revision())), "{change:?} was told twice");
            if self.ordered {
                assert!(change.revision() > self.seen, "{change:?} was told already, at {:?}", self.seen);
                assert!(change.revision() <= revision, "{change:?} is after the delta's {revision:?}");
            }
            self.take_in_change(change);
        }
        let rising = changes.windows(2).all(|pair| pair[0].revision() <= pair[1].revision());
        assert!(rising || !self.ordered, "changes are ordered by revision: {changes:?}");
        self.seen = revision;
        self.changes.extend_from_slice(changes);
    }

    fn take_in_change(&mut self, change: &Change) {
        match change {
            Change::Put(record) => {
                self.records.insert(record.key.clone(), record.clone());
            }
            Change::Deleted { key, last, .. } => {
                let former = self.records.remove(key);
                let former = former.unwrap_or_else(|| panic!("{change:?} deletes what was never told"));
                assert_eq!(former.stamp, *last, "a deletion tells another last stamp than was told");
            }
        }
    }
}
