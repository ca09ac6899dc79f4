//! What moves when one assignment becomes another: told before it is done.

use std::iter;

use crate::hash::Place;
use crate::{Rendezvous, Ring};

/// Tells who owns what.
pub trait Assignment {
    /// What owns.
    type Node: Eq;

    /// Returns the owner of `key`; `None` where there is no node.
    fn owner(&self, key: &[u8]) -> Option<&Self::Node>;
}

impl<N: Eq> Assignment for Ring<N> {
    type Node = N;

    fn owner(&self, key: &[u8]) -> Option<&N> {
        self.owner(key)
    }
}

impl<N: AsRef<[u8]> + Ord> Assignment for Rendezvous<N> {
    type Node = N;

    fn owner(&self, key: &[u8]) -> Option<&N> {
        self.owner(key)
    }
}

/// The way from one assignment to another, which may be of another sort.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a, A, B = A> {
    from: &'a A,
    to: &'a B,
}

/// An object that changes its owner. An assignment without nodes owns nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move<'a, O, N> {
    /// What moves.
    pub object: O,
    /// Who owned it.
    pub from: Option<&'a N>,
    /// Who owns it from now on.
    pub to: Option<&'a N>,
}

/// An arc of the ring that changes its owner, and with it every key that lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch<'a, N> {
    /// The first place that belongs to it.
    pub start: Place,
    /// The first place behind it; `None` where it reaches to the end of the space.
    pub end: Option<Place>,
    /// Who owned it.
    pub from: Option<&'a N>,
    /// Who owns it from now on.
    pub to: Option<&'a N>,
}

impl<N> Stretch<'_, N> {
    /// Tells whether a key that lies at `place` moves with it.
    pub fn contains(&self, place: Place) -> bool {
        self.start <= place && self.end.is_none_or(|end| place < end)
    }
}

impl<'a, A: Assignment, B: Assignment<Node = A::Node>> Plan<'a, A, B> {
    /// Plans the way from one to the other.
    pub fn between(from: &'a A, to: &'a B) -> Self {
        Plan { from, to }
    }

    /// Returns those of `objects` that change their owner, in the order in which they came.
    pub fn moves<O: AsRef<[u8]>>(&self, objects: impl IntoIterator<Item = O>) -> Vec<Move<'a, O, A::Node>> {
        let all = objects.into_iter().map(|object| {
            let (from, to) = (self.from.owner(object.as_ref()), self.to.owner(object.as_ref()));
            Move { object, from, to }
        });
        all.filter(|moved| moved.from != moved.to).collect()
    }
}

impl<'a, N: Eq> Plan<'a, Ring<N>> {
    /// Returns the arcs that change their owner, from zero upwards. `None` where the rings use different hash functions:
    /// then no place of one is a place of the other.
    pub fn stretches(&self) -> Option<Vec<Stretch<'a, N>>> {
        if self.from.hash() != self.to.hash() {
            return None;
        }
        let points = self.from.points().chain(self.to.points()).map(|(place, _)| place);
        let mut starts: Vec<_> = iter::once(Place::ZERO).chain(points).collect();
        starts.sort_unstable();
        starts.dedup();
        let ends = starts.iter().skip(1).map(|place| Some(*place)).chain([None]);
        let all = starts.iter().zip(ends).map(|(&start, end)| {
            let (from, to) = (self.from.owner_at(start), self.to.owner_at(start));
            Stretch { start, end, from, to }
        });
        Some(joined(all.filter(|stretch| stretch.from != stretch.to)))
    }

    /// Returns the share of the hash space, from 0 to 1, that changes its owner: added up exactly, then rounded. `None`
    /// where the rings use different hash functions.
    pub fn share(&self) -> Option<f64> {
        let (stretches, size) = (self.stretches()?, self.from.hash().size());
        let lengths = stretches.iter().map(|stretch| stretch.end.unwrap_or(size).minus(stretch.start));
        let moved = lengths.fold(Place::ZERO, Place::plus);
        if moved == size {
            // Of 2^256 nothing remains in 256 bits: nothing moves, or all does.
            return Some(if stretches.is_empty() { 0.0 } else { 1.0 });
        }
        Some(moved.to_f64() / 2f64.powi(self.from.hash().bits() as i32))
    }
}

/// Makes one of those that adjoin and go the same way.
fn joined<'a, N: Eq>(stretches: impl Iterator<Item = Stretch<'a, N>>) -> Vec<Stretch<'a, N>> {
    let mut joined: Vec<Stretch<'a, N>> = Vec::new();
    for next in stretches {
        match joined.last_mut() {
            Some(last) if last.end == Some(next.start) && (last.from, last.to) == (next.from, next.to) => {
                last.end = next.end;
            }
            _ => joined.push(next),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Hash, Points};

    const HASHES: [Hash; 3] = [Hash::Md5, Hash::Sha1, Hash::Sha256];

    fn ring(hash: Hash, nodes: &[&'static str]) -> Ring<&'static str> {
        let mut ring = Ring::new(Points { hash, ..Points::default() });
        nodes.iter().for_each(|node| ring.set(*node, 1));
        ring
    }

    #[test]
    fn nothing_moves_between_equals() {
        for hash in HASHES {
            let (one, other) = (ring(hash, &["a", "b"]), ring(hash, &["b", "a"]));
            let plan = Plan::between(&one, &other);
            assert_eq!((plan.stretches(), plan.share()), (Some(Vec::new()), Some(0.0)));
            assert!(plan.moves(["x", "y"]).is_empty());
        }
    }

    #[test]
    fn all_moves_from_and_to_a_ring_without_nodes() {
        for hash in HASHES {
            let (none, one) = (ring(hash, &[]), ring(hash, &["a"]));
            let whole = Stretch { start: Place::ZERO, end: None, from: None, to: Some(&"a") };
            assert_eq!(Plan::between(&none, &one).stretches(), Some(vec![whole]));
            assert_eq!(Plan::between(&none, &one).share(), Some(1.0));
            assert_eq!(Plan::between(&one, &none).share(), Some(1.0));
            assert_eq!(
                Plan::between(&one, &none).moves(["x"]),
                [Move { object: "x", from: Some(&"a"), to: None }]
            );
        }
    }

    #[test]
    fn the_shares_of_all_ways_on_add_up() {
        for hash in HASHES {
            let three = ring(hash, &["a", "b", "c"]);
            let losses = ["a", "b", "c"].map(|gone| {
                let mut two = three.clone();
                two.remove(&gone);
                Plan::between(&three, &two).share().unwrap()
            });
            assert!((losses.iter().sum::<f64>() - 1.0).abs() < 1e-15, "{losses:?}");
        }
    }

    #[test]
    fn rings_of_different_hash_functions_have_no_arcs_in_common() {
        let (one, other) = (ring(Hash::Md5, &["a", "b"]), ring(Hash::Sha1, &["a", "b"]));
        let plan = Plan::between(&one, &other);
        assert_eq!((plan.stretches(), plan.share()), (None, None));
        assert!(!plan.moves((0..99).map(|object| object.to_string())).is_empty());
    }

    #[test]
    fn a_plan_leads_from_a_ring_to_rendezvous_too() {
        let ring = ring(Hash::Md5, &["a", "b"]);
        let mut nodes = Rendezvous::new();
        nodes.set("b", 1);
        let moves = Plan::between(&ring, &nodes).moves(["foo", "bar", "baz"]);
        assert!(moves.iter().all(|moved| (moved.from, moved.to) == (Some(&"a"), Some(&"b"))));
    }
}
