//! The highest token of each of many resources.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use althing_core::{Digest, Revision, limits};
use serde::{Deserialize, Serialize};

use crate::{Mark, Stale};

/// Remembers the highest token that each resource has seen, for the threads of one process.
///
/// Its memory is bounded: of more resources than it may remember it forgets the one with the lowest token, whose holder came
/// first, and from then on lets no token below that in for *any* resource that it does not remember. So it never
/// lets a lower token in than a resource has seen; what it may do is refuse a holder of long standing who has not
/// written yet, and who has to lock again. That compares tokens of different locks: all tokens given to one
/// fence must come from one namespace of one backend. A name longer than [`limits::NAME_BYTES_MAX`] is remembered by its digest.
///
/// It lives as long as the process. Where the data live longer, keep [`seen`](Self::seen) with them, or
/// [`all_seen`](Self::all_seen), and begin with [`resume`](Self::resume).
#[derive(Debug)]
pub struct Fence {
    memory: Mutex<Memory>,
}

/// What a fence has seen, to be stored and resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The highest token that was forgotten: the least for every resource that is not remembered.
    pub floor: Revision,
    /// The highest token of each resource.
    pub resources: BTreeMap<String, Revision>,
}

impl Default for Fence {
    fn default() -> Self {
        Fence::bounded(limits::FENCE_RESOURCES_MAX)
    }
}

impl Fence {
    /// Makes a fence that remembers so many resources, at least one.
    pub fn bounded(resources_max: usize) -> Self {
        let none = Seen { floor: Revision::ZERO, resources: BTreeMap::new() };
        Fence::resume(&none, resources_max)
    }

    /// Makes a fence that goes on from what another one has seen.
    pub fn resume(seen: &Seen, resources_max: usize) -> Self {
        let mut memory = Memory::new(seen.floor, resources_max);
        seen.resources.iter().for_each(|(resource, token)| memory.set(key_of(resource), *token));
        Fence { memory: Mutex::new(memory) }
    }

    /// Lets a token in that is as high as all that the resource has seen, and remembers it. Refuses a lower one.
    ///
    /// This alone does not fence a write: between this and the write, a higher token may be let in on another thread. Use
    /// [`admit_then`](Self::admit_then), or hold a lock of your own over both.
    pub fn admit(&self, resource: &str, token: Revision) -> Result<(), Stale> {
        self.admit_then(resource, token, || ())
    }

    /// Lets a token in as [`admit`](Self::admit) does, and writes before anybody else is let in. Where the token is refused,
    /// `write` is not called.
    ///
    /// Writes through one fence follow one another: give resources that are written to slowly fences of their own. `write` must
    /// not ask this fence. A write that fails, or panics, leaves its token remembered.
    pub fn admit_then<T>(
        &self,
        resource: &str,
        token: Revision,
        write: impl FnOnce() -> T,
    ) -> Result<T, Stale> {
        let mut memory = self.memory();
        memory.admit(key_of(resource), token)?;
        Ok(write())
    }

    /// Returns the least token that the resource lets in: the highest it has seen, where it is remembered.
    pub fn seen(&self, resource: &str) -> Revision {
        self.memory().seen(&key_of(resource))
    }

    /// Returns all that it has seen.
    pub fn all_seen(&self) -> Seen {
        let memory = self.memory();
        let resources = memory.marks.iter().map(|(resource, mark)| (resource.to_string(), mark.seen()));
        Seen { floor: memory.floor.seen(), resources: resources.collect() }
    }

    /// Forgets everything. For an operator who moved the locks to another backend or namespace, whose tokens begin anew: nobody
    /// may hold a lock of the former one any more.
    pub fn clear(&self) {
        let mut memory = self.memory();
        *memory = Memory::new(Revision::ZERO, memory.resources_max);
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A write that panics does so after the memory has changed, which is whole then.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Memory {
    resources_max: usize,
    /// What resources that are not remembered have seen at most.
    floor: Mark,
    marks: HashMap<Arc<str>, Mark>,
    /// The same in the order of tokens, so that the lowest is found at once.
    by_token: BTreeSet<(Mark, Arc<str>)>,
}

impl Memory {
    fn new(floor: Revision, resources_max: usize) -> Self {
        let resources_max = resources_max.max(1);
        Memory { resources_max, floor: floor.into(), marks: HashMap::new(), by_token: BTreeSet::new() }
    }

    fn seen(&self, resource: &str) -> Revision {
        self.marks.get(resource).unwrap_or(&self.floor).seen()
    }

    fn admit(&mut self, resource: Arc<str>, token: Revision) -> Result<(), Stale> {
        let seen = self.seen(&resource);
        Mark::from(seen).admit(token)?;
        if token > seen || !self.marks.contains_key(&resource) {
            self.set(resource, token);
        }
        Ok(())
    }

    fn set(&mut self, resource: Arc<str>, token: Revision) {
        let mark = Mark::from(token);
        if let Some(before) = self.marks.insert(resource.clone(), mark) {
            self.by_token.remove(&(before, resource.clone()));
        }
        self.by_token.insert((mark, resource));
        while self.marks.len() > self.resources_max {
            let Some((lowest, forgotten)) = self.by_token.pop_first() else { return };
            self.marks.remove(&forgotten);
            self.floor = self.floor.max(lowest);
        }
    }
}

/// Two that share a key have the higher one of their tokens, which refuses too much and never too little.
fn key_of(resource: &str) -> Arc<str> {
    if resource.len() <= limits::NAME_BYTES_MAX {
        return resource.into();
    }
    format!("sha256:{}", Digest::of(resource)).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(fence: &Fence, resource: &str, token: u64, refused_for: Option<u64>) {
        let stale = |seen| Stale { token: Revision(token), seen: Revision(seen) };
        assert_eq!(fence.admit(resource, Revision(token)).err(), refused_for.map(stale));
    }

    #[test]
    fn each_resource_refuses_what_is_lower_than_it_has_seen() {
        let fence = Fence::default();
        check(&fence, "a", 5, None);
        check(&fence, "a", 5, None);
        check(&fence, "b", 3, None);
        check(&fence, "a", 4, Some(5));
        check(&fence, "a", 6, None);
        check(&fence, "a", 5, Some(6));
        assert_eq!((fence.seen("a"), fence.seen("b")), (Revision(6), Revision(3)));
        assert_eq!(fence.seen("c"), Revision::ZERO);
    }

    #[test]
    fn what_was_forgotten_is_refused_and_never_let_in() {
        let fence = Fence::bounded(2);
        check(&fence, "a", 5, None);
        check(&fence, "b", 9, None);
        check(&fence, "c", 7, None);
        check(&fence, "a", 4, Some(5));
        check(&fence, "never seen", 4, Some(5));
        check(&fence, "b", 8, Some(9));
        check(&fence, "a", 5, None);
        assert_eq!(fence.all_seen().resources.len(), 2);
    }

    #[test]
    fn long_names_are_told_apart_and_take_little_room() {
        let fence = Fence::default();
        let name = "n".repeat(limits::NAME_BYTES_MAX + 1);
        check(&fence, &name, 5, None);
        check(&fence, &name, 4, Some(5));
        check(&fence, &format!("{name}n"), 4, None);
        assert!(fence.all_seen().resources.keys().all(|name| name.len() < 100));
    }

    #[test]
    fn a_resumed_fence_refuses_what_the_former_one_would() {
        let former = Fence::bounded(2);
        for (resource, token) in [("a", 5), ("b", 9), ("c", 7)] {
            check(&former, resource, token, None);
        }
        let stored = serde_json::to_string(&former.all_seen()).unwrap();
        let fence = Fence::resume(&serde_json::from_str(&stored).unwrap(), 2);
        check(&fence, "a", 4, Some(5));
        check(&fence, "b", 8, Some(9));
        assert_eq!(fence.all_seen(), former.all_seen());
        let smaller = Fence::resume(&former.all_seen(), 1);
        check(&smaller, "c", 6, Some(7));
        smaller.clear();
        check(&smaller, "c", 1, None);
    }

    #[test]
    fn a_refused_write_is_not_called_and_one_that_panics_leaves_its_token() {
        let fence = Fence::default();
        let panicked =
            std::panic::catch_unwind(|| fence.admit_then("a", Revision(5), || panic!("on purpose")));
        assert!(panicked.is_err());
        let mut called = false;
        assert!(fence.admit_then("a", Revision(4), || called = true).is_err());
        assert!(!called);
        assert_eq!(fence.admit_then("a", Revision(5), || 1), Ok(1));
    }

    #[test]
    fn writes_of_many_threads_land_in_the_order_of_their_tokens() {
        let fence = Fence::default();
        let written = Mutex::new(Vec::new());
        let write = |token| {
            let push = || written.lock().unwrap().push(token);
            // Half of them come too late, which is what this is about.
            let _ = fence.admit_then("a", Revision(token), push);
        };
        std::thread::scope(|scope| {
            for first in 0..8 {
                scope.spawn(move || (first..800).step_by(8).for_each(write));
            }
        });
        let written = written.into_inner().unwrap();
        assert!(written.is_sorted(), "{written:?}");
        assert_eq!(written.last(), Some(&799));
    }

    proptest! {
        #[test]
        fn no_token_is_let_in_below_what_its_resource_has_seen(
            writes in prop::collection::vec((0..9_u8, 0..99_u64), 0..200),
            resources_max in 1..6_usize,
        ) {
            let fence = Fence::bounded(resources_max);
            let mut truth = HashMap::new();
            for (resource, token) in writes {
                let highest = truth.entry(resource).or_insert(0);
                if fence.admit(&resource.to_string(), Revision(token)).is_ok() {
                    prop_assert!(token >= *highest);
                    *highest = token;
                }
                prop_assert!(fence.all_seen().resources.len() <= resources_max);
            }
        }

        #[test]
        fn a_fence_with_room_for_all_refuses_nothing_else(
            writes in prop::collection::vec((0..9_u8, 0..99_u64), 0..200),
        ) {
            let fence = Fence::bounded(9);
            let mut truth = HashMap::<u8, Mark>::new();
            for (resource, token) in writes {
                let told = fence.admit(&resource.to_string(), Revision(token));
                prop_assert_eq!(told, truth.entry(resource).or_default().admit(Revision(token)));
            }
        }
    }
}
