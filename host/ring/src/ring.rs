//! A hash ring, bit for bit that of OpenStack Tooz (`tooz.hashring.HashRing`).
//!
//! 1. A node named `k` with a weight has `partitions × weight` points. The point of number *r* lies at the digest of `k`
//!    written *r* + 2 times, read as a big-endian number.
//! 2. A key lies at its digest. It is owned by the node of the first point that lies *after* it; behind the last point
//!    the ring begins anew.
//! 3. The owners of a key are the distinct nodes met on the way onward from there, in that order.
//!
//! Points of two nodes can be equal: of `a` and `aa`, every second one of `a` is. Then the node whose name is greater
//! by its bytes has the point, and the other one gets it back when that node goes. Tooz leaves it to whichever was
//! added last, so this is a ring of Tooz to which the nodes were added in the order of their names.
//!
//! Where Tooz fails, this does not follow: a weight may shrink and leaves no stale points; a node without points of its
//! own makes no look-up run for ever; the order of owners is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use crate::hash::{Hash, Place};

/// How the points of a ring are made. The default is Tooz's: 32 for each unit of weight, by MD5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Points {
    /// How many points a node has for each unit of its weight. More of them even out the shares.
    pub partitions: u32,
    /// Where they lie.
    pub hash: Hash,
}

impl Default for Points {
    fn default() -> Self {
        Points { partitions: 32, hash: Hash::default() }
    }
}

impl Points {
    /// Counts the points of a node. All those of a node without a name are the same one.
    fn count(self, node: &[u8], weight: u32) -> usize {
        let count = (self.partitions as usize).saturating_mul(weight as usize);
        if node.is_empty() { count.min(1) } else { count }
    }
}

/// Maps keys to nodes, and keeps to that where a change of the nodes lets it.
#[derive(Clone, Debug)]
pub struct Ring<N> {
    points: Points,
    nodes: BTreeMap<Arc<N>, u32>,
    /// Who has the point at each place.
    places: BTreeMap<Place, Arc<N>>,
    /// Who else has a point there. Hardly any place has more than one.
    shadowed: BTreeMap<Place, BTreeSet<Arc<N>>>,
}

impl<N> Default for Ring<N> {
    fn default() -> Self {
        Ring::new(Points::default())
    }
}

impl<N> Ring<N> {
    /// Makes a ring without nodes.
    pub fn new(points: Points) -> Self {
        Ring { points, nodes: BTreeMap::new(), places: BTreeMap::new(), shadowed: BTreeMap::new() }
    }

    /// Counts the nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Tells whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Returns the nodes and their weights, in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = (&N, u32)> {
        self.nodes.iter().map(|(node, weight)| (&**node, *weight))
    }

    /// Returns the points in the order of the ring, and who has them. Equal points are one.
    pub fn points(&self) -> impl Iterator<Item = (Place, &N)> {
        self.places.iter().map(|(place, node)| (*place, &**node))
    }

    /// Returns the hash function by which keys and points find their places.
    pub fn hash(&self) -> Hash {
        self.points.hash
    }

    /// Returns the owner of `key`; `None` where there is no point.
    pub fn owner(&self, key: &[u8]) -> Option<&N> {
        self.owner_at(self.hash().place(key))
    }

    /// Returns the owner of all keys that lie at `place`.
    pub fn owner_at(&self, place: Place) -> Option<&N> {
        self.onward(place).next().map(|node| &**node)
    }

    /// Returns the nodes whose points follow `place`, round the ring once.
    fn onward(&self, place: Place) -> impl Iterator<Item = &Arc<N>> {
        let behind = self.places.range((Excluded(place), Unbounded));
        behind.chain(self.places.range(..=place)).map(|(_, node)| node)
    }

    /// Returns the first `n` owners of `key`, the primary first; fewer where there are fewer nodes.
    pub fn owners<'a>(&'a self, key: &[u8], n: usize) -> impl Iterator<Item = &'a N> + use<'a, N> {
        self.owners_except(key, n, |_| false)
    }

    /// Returns the first `n` owners of `key`, passing over each node that is `excepted`.
    pub fn owners_except<'a, F: Fn(&N) -> bool>(
        &'a self,
        key: &[u8],
        n: usize,
        excepted: F,
    ) -> impl Iterator<Item = &'a N> + use<'a, N, F> {
        let mut met = BTreeSet::new();
        let onward = self.onward(self.hash().place(key));
        let distinct = onward.filter(move |node| met.insert(Arc::as_ptr(node).addr())).map(|node| &**node);
        distinct.take(self.len()).filter(move |node| !excepted(node)).take(n)
    }
}

impl<N: AsRef<[u8]> + Ord> Ring<N> {
    /// Adds `node`, or changes its weight. A weight of zero removes it. Costs what the
    /// points of the node cost, whatever the size of the ring; where the weight stays the same, nothing.
    pub fn set(&mut self, node: N, weight: u32) {
        let (node, before) = match self.nodes.remove_entry(&node) {
            Some(present) => present,
            None => (Arc::new(node), 0),
        };
        self.resize(&node, before, weight);
        if weight > 0 {
            self.nodes.insert(node, weight);
        }
    }

    /// Removes `node` and tells whether it was there.
    pub fn remove(&mut self, node: &N) -> bool {
        let Some((node, weight)) = self.nodes.remove_entry(node) else { return false };
        self.resize(&node, weight, 0);
        true
    }

    fn resize(&mut self, node: &Arc<N>, before: u32, after: u32) {
        if before == after {
            return;
        }
        let name = (**node).as_ref();
        let (before, after) = (self.points.count(name, before), self.points.count(name, after));
        let changed = self.hash().repeats(name).take(before.max(after)).skip(before.min(after));
        for place in changed {
            if after > before { self.claim(place, node) } else { self.release(place, node) }
        }
    }

    fn claim(&mut self, place: Place, node: &Arc<N>) {
        let Some(present) = self.places.insert(place, node.clone()) else { return };
        let (owner, shadowed) =
            if present > *node { (present, node.clone()) } else { (node.clone(), present) };
        self.places.insert(place, owner);
        self.shadowed.entry(place).or_default().insert(shadowed);
    }

    fn release(&mut self, place: Place, node: &Arc<N>) {
        let mut others = self.shadowed.remove(&place).unwrap_or_default();
        if !others.remove(node) {
            match others.pop_last() {
                Some(next) => self.places.insert(place, next),
                None => self.places.remove(&place),
            };
        }
        if !others.is_empty() {
            self.shadowed.insert(place, others);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(nodes: &[(&'static str, u32)]) -> Ring<&'static str> {
        let mut ring = Ring::default();
        nodes.iter().for_each(|(node, weight)| ring.set(*node, *weight));
        ring
    }

    #[track_caller]
    fn expect_same(one: &Ring<&str>, other: &Ring<&str>) {
        assert!(one.nodes().eq(other.nodes()));
        assert!(one.points().eq(other.points()));
        assert_eq!(one.shadowed, other.shadowed);
    }

    #[test]
    fn an_empty_ring_has_no_owner() {
        assert_eq!(ring(&[]).owner(b"key"), None);
        assert_eq!(ring(&[("a", 0)]).owners(b"key", 3).count(), 0);
    }

    #[test]
    fn a_smaller_weight_leaves_no_stale_points() {
        let mut shrunk = ring(&[("a", 5), ("b", 1)]);
        shrunk.set("a", 2);
        expect_same(&shrunk, &ring(&[("a", 2), ("b", 1)]));
        shrunk.set("a", 0);
        expect_same(&shrunk, &ring(&[("b", 1)]));
        assert!(shrunk.remove(&"b") && !shrunk.remove(&"b"));
        expect_same(&shrunk, &ring(&[]));
    }

    #[test]
    fn equal_points_go_to_the_greater_name_in_whatever_order_nodes_come() {
        let rows = [("a", 1), ("aa", 2), ("aaaa", 3)];
        let whole = ring(&rows);
        let shared = Hash::Md5.place(b"aaaaaaaa");
        assert_eq!(whole.points().find(|(place, _)| *place == shared), Some((shared, &"aaaa")));
        assert!(whole.points().count() < 6 * 32);
        for order in [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            expect_same(&whole, &ring(&order.map(|at| rows[at])));
        }
    }

    #[test]
    fn a_shadowed_point_comes_back_when_the_greater_name_goes() {
        let mut names = ring(&[("a", 1), ("aa", 2), ("aaaa", 3)]);
        names.remove(&"aa");
        expect_same(&names, &ring(&[("a", 1), ("aaaa", 3)]));
        names.remove(&"aaaa");
        expect_same(&names, &ring(&[("a", 1)]));
    }

    #[test]
    fn a_node_without_a_name_has_one_point_whatever_its_weight() {
        let mut names = ring(&[("", 3), ("a", 1)]);
        assert_eq!(names.points().count(), 33);
        names.set("", 1);
        assert_eq!(names.points().count(), 33);
        assert_eq!(names.owners(b"key", 9).count(), 2);
    }

    #[test]
    fn who_owns_nothing_is_met_by_no_look_up() {
        let mut names = Ring::new(Points { partitions: 0, ..Points::default() });
        names.set("a", 1);
        assert_eq!((names.len(), names.owner(b"key"), names.owners(b"key", 2).count()), (1, None, 0));
    }
}
