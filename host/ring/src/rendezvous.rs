//! Rendezvous hashing (highest random weight), with weights, in whole numbers only, so that every language agrees.
//!
//! Every node draws a number for a key; the greatest draw, seen by weight, owns it. To change one node moves keys from or
//! to that node only, and a node's share is its weight's share of the sum, as closely as chance has it.
//!
//! In Python, exactly (`tests/vectors.py` made the vectors in `tests/rendezvous.json` and `tests/costs.json` by this):
//!
//! ```python
//! def draw(node: bytes, key: bytes) -> int:
//!     data = len(node).to_bytes(8, "big") + node + key
//!     return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
//!
//! def cost(draw: int) -> int:                             # -log2(draw / 2**64), in 2**-48ths
//!     draw |= 1
//!     log = draw.bit_length() - 1                         # the whole part of log2(draw)
//!     rest = draw << (63 - log)                           # what is left of it: rest / 2**63, from 1 to 2
//!     for _ in range(48):                                 # squaring it doubles its logarithm, bit by bit
//!         square = rest * rest
//!         bit = square >> 127
//!         rest = square >> (63 + bit)
//!         log = log << 1 | bit
//!     return (64 << 48) - log
//!
//! def owners(weights: dict[bytes, int], key: bytes) -> list[bytes]:
//!     def rank(node):
//!         drawn = draw(node, key)
//!         return Fraction(cost(drawn), weights[node]), -drawn
//!     return sorted(sorted(weights, reverse=True), key=rank)
//! ```
//!
//! That is: the least cost by weight comes first; of equal ones the greater draw, of equal draws the greater name.
//! A cost never falls as a draw grows less, so where all weights are equal, ordering by draw gives the same.
//! Fractions are compared by cross-multiplication. A floating-point logarithm would be shorter, but its last bit is
//! another one on another machine.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::iter;

use sha2::{Digest, Sha256};

/// How many bits of a logarithm stand behind the point.
const FRACTION_BITS: u32 = 48;

/// Maps keys to nodes, each by its weight. A look-up asks every node: it suits some hundreds of them.
#[derive(Clone, Debug)]
pub struct Rendezvous<N> {
    nodes: BTreeMap<N, u32>,
}

impl<N> Default for Rendezvous<N> {
    fn default() -> Self {
        Rendezvous { nodes: BTreeMap::new() }
    }
}

impl<N: AsRef<[u8]> + Ord> Rendezvous<N> {
    /// Makes one without nodes.
    pub fn new() -> Self {
        Rendezvous::default()
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
        self.nodes.iter().map(|(node, weight)| (node, *weight))
    }

    /// Adds `node`, or changes its weight. A weight of zero removes it.
    pub fn set(&mut self, node: N, weight: u32) {
        match weight {
            0 => drop(self.nodes.remove(&node)),
            _ => drop(self.nodes.insert(node, weight)),
        }
    }

    /// Removes `node` and tells whether it was there.
    pub fn remove(&mut self, node: &N) -> bool {
        self.nodes.remove(node).is_some()
    }

    /// Returns the owner of `key`; `None` where there is no node.
    pub fn owner(&self, key: &[u8]) -> Option<&N> {
        self.bids(key).max().map(|bid| bid.node)
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
        let mut bids: BinaryHeap<_> = self.bids(key).filter(|bid| !excepted(bid.node)).collect();
        iter::from_fn(move || bids.pop().map(|bid| bid.node)).take(n)
    }

    fn bids(&self, key: &[u8]) -> impl Iterator<Item = Bid<'_, N>> {
        self.nodes.iter().map(|(node, weight)| {
            let draw = draw(node.as_ref(), key);
            Bid { cost: cost(draw), weight: *weight, draw, node }
        })
    }
}

/// What a node offers for a key. The greatest bid comes first.
struct Bid<'a, N> {
    cost: u64,
    weight: u32,
    draw: u64,
    node: &'a N,
}

impl<N: Ord> Ord for Bid<'_, N> {
    fn cmp(&self, other: &Self) -> Ordering {
        let scaled = |cost: u64, weight: u32| u128::from(cost) * u128::from(weight);
        let by_cost = scaled(other.cost, self.weight).cmp(&scaled(self.cost, other.weight));
        by_cost.then(self.draw.cmp(&other.draw)).then_with(|| self.node.cmp(other.node))
    }
}

impl<N: Ord> PartialOrd for Bid<'_, N> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<N: Ord> PartialEq for Bid<'_, N> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<N: Ord> Eq for Bid<'_, N> {}

fn draw(node: &[u8], key: &[u8]) -> u64 {
    let length = (node.len() as u64).to_be_bytes();
    let digest = Sha256::new().chain_update(length).chain_update(node).chain_update(key).finalize();
    digest.iter().take(8).fold(0, |drawn, byte| drawn << 8 | u64::from(*byte))
}

/// Returns −log2(draw / 2^64) in units of 2^-48; at least one of them, at most 64 · 2^48.
fn cost(draw: u64) -> u64 {
    let draw = draw | 1;
    let mut log = u64::from(draw.ilog2());
    let mut rest = draw << draw.leading_zeros();
    for _ in 0..FRACTION_BITS {
        let square = u128::from(rest) * u128::from(rest);
        let bit = (square >> 127) as u64;
        rest = (square >> (63 + bit)) as u64;
        log = log << 1 | bit;
    }
    (64 << FRACTION_BITS) - log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_is_the_logarithm() {
        assert_eq!(cost(0), 64 << 48);
        assert_eq!(cost(u64::MAX), 1);
        for draw in [3, 12_345, 1 << 40 | 1, 0x1234_5678_9abc_def1] {
            let exact = (64.0 - (draw as f64).log2()) * 2f64.powi(48);
            assert!((cost(draw) as f64 / exact - 1.0).abs() < 1e-12, "{draw}");
        }
    }

    #[test]
    fn a_cost_is_that_of_the_vectors() {
        let rows: Vec<BTreeMap<String, String>> =
            serde_json::from_str(include_str!("../tests/costs.json")).unwrap();
        for row in &rows {
            assert_eq!(cost(row["draw"].parse().unwrap()).to_string(), row["cost"], "{row:?}");
        }
        assert!(rows.len() > 20);
    }

    #[test]
    fn a_cost_never_falls_as_a_draw_grows_less() {
        let mut draws: Vec<_> = (0..2000u64).map(|place| draw(b"", &place.to_be_bytes())).collect();
        draws.extend((0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1, (1u64 << bit) + 1]));
        draws.sort_unstable();
        assert!(draws.windows(2).all(|pair| cost(pair[0]) >= cost(pair[1])));
    }

    #[test]
    fn equal_costs_go_by_draw_and_equal_draws_by_name() {
        let bid = |cost, weight, draw, node| Bid { cost, weight, draw, node };
        assert!(bid(3, 2, 0, &"a") > bid(5, 3, 9, &"b"));
        assert!(bid(4, 2, 3, &"a") > bid(6, 3, 2, &"b"));
        assert!(bid(4, 2, 2, &"b") > bid(6, 3, 2, &"a"));
        assert!(bid(64 << 48, u32::MAX, 0, &"a") > bid(64 << 48, u32::MAX - 1, 0, &"b"));
    }

    #[test]
    fn shares_follow_the_weights() {
        let mut nodes = Rendezvous::new();
        [("a", 1), ("b", 2), ("c", 5)].into_iter().for_each(|(node, weight)| nodes.set(node, weight));
        let mut owned: BTreeMap<_, i32> = BTreeMap::new();
        for key in 0..8000u32 {
            *owned.entry(nodes.owner(&key.to_be_bytes())).or_default() += 1;
        }
        for (node, weight) in nodes.nodes() {
            assert!((owned[&Some(node)] - 1000 * weight as i32).abs() < 120, "{owned:?}");
        }
    }

    #[test]
    fn nobody_owns_where_nobody_is() {
        let mut nodes = Rendezvous::new();
        nodes.set("a", 0);
        assert_eq!((nodes.len(), nodes.owner(b"key")), (0, None));
        nodes.set("a", 1);
        assert!(nodes.remove(&"a") && !nodes.remove(&"a") && nodes.is_empty());
        assert_eq!(nodes.owners(b"key", 1).count(), 0);
    }
}
