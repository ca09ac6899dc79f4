//! Who may work on what while shares move: never two.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Assignment, Move, Plan, Points, Rendezvous, Ring};

/// How objects are assigned to nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a hash ring.
    Ring(Points),
    /// By rendezvous.
    Rendezvous,
}

/// The shares of nodes, on their way from one assignment to the next.
///
/// A node that is to get an object waits until the one that had it has said that it gave it up. So an object has one owner
/// or, while it moves, none.
#[derive(Clone, Debug)]
pub struct Shares<N> {
    former: Assigned<N>,
    next: Assigned<N>,
    pending: BTreeSet<N>,
}

/// One assignment of either sort.
#[derive(Clone, Debug)]
enum Assigned<N> {
    Ring(Ring<N>),
    Rendezvous(Rendezvous<N>),
}

impl<N: AsRef<[u8]> + Ord + Clone> Shares<N> {
    /// Makes the shares from what every node had and is to have, by its weight, and from those that have not said yet that
    /// they gave up what they lose.
    pub fn new(
        way: Way,
        former: impl IntoIterator<Item = (N, u32)>,
        next: impl IntoIterator<Item = (N, u32)>,
        pending: impl IntoIterator<Item = N>,
    ) -> Self {
        let (former, next) = (Assigned::new(way, former), Assigned::new(way, next));
        Shares { former, next, pending: pending.into_iter().collect() }
    }

    /// Returns who may work on an object now; `None` while it moves, and when there is nobody.
    pub fn owner(&self, object: &[u8]) -> Option<&N> {
        let next = self.next.owner(object)?;
        let waits = |former: &N| former != next && self.pending.contains(former);
        if self.former.owner(object).is_some_and(waits) { None } else { Some(next) }
    }

    /// Returns up to `n` nodes that an object is to belong to once nothing moves any more, the first owner first.
    pub fn owners(&self, object: &[u8], n: usize) -> Vec<&N> {
        match &self.next {
            Assigned::Ring(ring) => ring.owners(object, n).collect(),
            Assigned::Rendezvous(rendezvous) => rendezvous.owners(object, n).collect(),
        }
    }

    /// Returns which of these objects change hands: each with who had it and who is to get it.
    pub fn moves<O: AsRef<[u8]>>(&self, objects: impl IntoIterator<Item = O>) -> Vec<Move<'_, O, N>> {
        Plan::between(&self.former, &self.next).moves(objects)
    }
}

/// Returns the nodes that lose a share when weights change so. On rendezvous a node may be named that loses nothing.
pub fn losers<N: AsRef<[u8]> + Ord + Clone>(
    way: Way,
    former: &BTreeMap<N, u32>,
    next: &BTreeMap<N, u32>,
) -> BTreeSet<N> {
    let assigned = |weights: &BTreeMap<N, u32>| {
        Assigned::new(way, weights.iter().map(|(node, weight)| (node.clone(), *weight)))
    };
    match (assigned(former), assigned(next)) {
        (Assigned::Ring(former), Assigned::Ring(next)) => {
            let plan = Plan::between(&former, &next);
            plan.stretches().into_iter().flatten().filter_map(|stretch| stretch.from).cloned().collect()
        }
        _ => {
            // Whoever grows may take from anybody, and whoever shrinks loses by that.
            let grows = next.iter().any(|(node, weight)| former.get(node).is_none_or(|had| had < weight));
            let shrinks = |node: &N, had: &u32| next.get(node).is_none_or(|has| has < had);
            former
                .iter()
                .filter(|(node, had)| grows || shrinks(node, had))
                .map(|(node, _)| node.clone())
                .collect()
        }
    }
}

impl<N: AsRef<[u8]> + Ord> Assigned<N> {
    fn new(way: Way, nodes: impl IntoIterator<Item = (N, u32)>) -> Self {
        let mut assigned = match way {
            Way::Ring(points) => Assigned::Ring(Ring::new(points)),
            Way::Rendezvous => Assigned::Rendezvous(Rendezvous::new()),
        };
        for (node, weight) in nodes {
            match &mut assigned {
                Assigned::Ring(ring) => ring.set(node, weight),
                Assigned::Rendezvous(rendezvous) => rendezvous.set(node, weight),
            }
        }
        assigned
    }
}

impl<N: AsRef<[u8]> + Ord> Assignment for Assigned<N> {
    type Node = N;

    fn owner(&self, key: &[u8]) -> Option<&N> {
        match self {
            Assigned::Ring(ring) => ring.owner(key),
            Assigned::Rendezvous(rendezvous) => rendezvous.owner(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways() -> [Way; 2] {
        [Way::Ring(Points::default()), Way::Rendezvous]
    }

    fn objects() -> Vec<String> {
        (0..500).map(|index| format!("object-{index}")).collect()
    }

    fn weights(nodes: &[(&'static str, u32)]) -> BTreeMap<&'static str, u32> {
        nodes.iter().copied().collect()
    }

    #[test]
    fn an_object_that_moves_has_no_owner_until_the_former_one_gave_it_up() {
        let (former, next) = ([("a", 1), ("b", 1)], [("a", 1), ("b", 1), ("c", 1)]);
        for way in ways() {
            let before = Shares::new(way, former, former, []);
            let moving = Shares::new(way, former, next, ["a", "b"]);
            let half = Shares::new(way, former, next, ["b"]);
            let after = Shares::new(way, former, next, []);
            let mut moved = 0;
            for object in objects() {
                let object = object.as_bytes();
                let (had, has) = (before.owner(object).unwrap(), after.owner(object).unwrap());
                let is_moving = had != has;
                moved += u32::from(is_moving);
                assert_eq!(moving.owner(object), (!is_moving).then_some(has));
                let waits = is_moving && *had == "b";
                assert_eq!(half.owner(object), (!waits).then_some(has));
                assert_eq!(moving.owners(object, 3).len(), 3);
            }
            assert!((100..300).contains(&moved), "{moved} of 500 moved to a third node");
            assert_eq!(moving.moves(objects()).len(), moved as usize);
        }
    }

    #[test]
    fn those_who_lose_are_named_and_on_a_ring_no_others() {
        let check = |former: &[_], next: &[_], expected: &[&str]| {
            for way in ways() {
                let losers = losers(way, &weights(former), &weights(next));
                let named: Vec<_> = losers.into_iter().collect();
                assert_eq!(named, expected, "{way:?}");
            }
        };
        check(&[("a", 1), ("b", 1)], &[("a", 1), ("b", 1), ("c", 1)], &["a", "b"]);
        check(&[("a", 1), ("b", 1), ("c", 1)], &[("a", 1), ("b", 1)], &["c"]);
        check(&[("a", 2), ("b", 1)], &[("a", 1), ("b", 1)], &["a"]);
        check(&[("a", 1)], &[("a", 1)], &[]);
        check(&[], &[("a", 1)], &[]);
        let alone = losers(
            Way::Ring(Points::default()),
            &weights(&[("a", 1), ("b", 1)]),
            &weights(&[("a", 2), ("b", 1)]),
        );
        assert_eq!(alone.into_iter().collect::<Vec<_>>(), ["b"]);
    }
}
