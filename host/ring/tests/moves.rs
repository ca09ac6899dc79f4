//! What a change of one node may move, over rings and fleets that chance makes.

use std::collections::BTreeMap;

use althing_ring::{Hash, Plan, Points, Rendezvous, Ring};
use proptest::prelude::*;

/// Nodes by name: short ones of few letters, so that some share points.
fn fleets() -> impl Strategy<Value = BTreeMap<String, u32>> {
    proptest::collection::btree_map(names(), 1..5u32, 0..8)
}

fn names() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop::sample::select(vec!["a", "b", "ab"]), 0..4)
        .prop_map(|parts| parts.concat())
}

fn hashes() -> impl Strategy<Value = Hash> {
    prop::sample::select(vec![Hash::Md5, Hash::Sha1, Hash::Sha256])
}

fn objects() -> impl Iterator<Item = String> {
    (0..60).map(|object| format!("object-{object}"))
}

fn ring(hash: Hash, fleet: &BTreeMap<String, u32>) -> Ring<String> {
    let mut ring = Ring::new(Points { partitions: 8, hash });
    fleet.iter().for_each(|(node, weight)| ring.set(node.clone(), *weight));
    ring
}

fn rendezvous(fleet: &BTreeMap<String, u32>) -> Rendezvous<String> {
    let mut nodes = Rendezvous::new();
    fleet.iter().for_each(|(node, weight)| nodes.set(node.clone(), *weight));
    nodes
}

fn seen(ring: &Ring<String>) -> (Vec<(String, u32)>, Vec<String>) {
    let nodes = ring.nodes().map(|(node, weight)| (node.clone(), weight));
    (nodes.collect(), ring.points().map(|(place, node)| format!("{place} {node}")).collect())
}

/// What `node` has more of moves to it, what it has less of moves away from it, nothing else moves.
fn moves_rightly(from: Option<&String>, to: Option<&String>, node: &String, before: u32, after: u32) -> bool {
    let (winner, loser) = if after > before { (to, from) } else { (from, to) };
    winner == Some(node) && loser != Some(node)
}

proptest! {
    #[test]
    fn a_ring_that_was_changed_is_one_that_was_made_so(
        hash in hashes(),
        changes in proptest::collection::vec((names(), 0..5u32), 0..24),
    ) {
        let mut changed = ring(hash, &BTreeMap::new());
        let mut fleet = BTreeMap::new();
        for (node, weight) in changes {
            changed.set(node.clone(), weight);
            fleet.insert(node, weight);
            prop_assert_eq!(seen(&changed), seen(&ring(hash, &fleet)));
        }
    }

    #[test]
    fn a_change_of_one_node_moves_only_from_or_to_it(
        hash in hashes(),
        mut fleet in fleets(),
        node in names(),
        after in 0..7u32,
    ) {
        let (old_ring, old_nodes) = (ring(hash, &fleet), rendezvous(&fleet));
        let before = fleet.insert(node.clone(), after).unwrap_or(0);
        let (new_ring, new_nodes) = (ring(hash, &fleet), rendezvous(&fleet));
        let moves = Plan::between(&old_ring, &new_ring).moves(objects());
        let others = Plan::between(&old_nodes, &new_nodes).moves(objects());
        for moved in moves.iter().chain(&others) {
            prop_assert!(moves_rightly(moved.from, moved.to, &node, before, after), "{moved:?}");
        }
        for moved in Plan::between(&old_ring, &new_ring).stretches().unwrap() {
            prop_assert!(moves_rightly(moved.from, moved.to, &node, before, after), "{moved:?}");
        }
    }

    #[test]
    fn an_object_moves_where_its_stretch_does(hash in hashes(), old in fleets(), new in fleets()) {
        let (old, new) = (ring(hash, &old), ring(hash, &new));
        let plan = Plan::between(&old, &new);
        let stretches = plan.stretches().unwrap();
        for object in objects() {
            let place = hash.place(object.as_bytes());
            let told = stretches.iter().find(|stretch| stretch.contains(place));
            let told = told.map(|stretch| (stretch.from, stretch.to));
            let moved = plan.moves([object]).first().map(|moved| (moved.from, moved.to));
            prop_assert_eq!(told, moved);
        }
        let share = plan.share().unwrap();
        prop_assert!((0.0..=1.0).contains(&share));
        prop_assert_eq!(share == 0.0, stretches.is_empty());
        prop_assert_eq!(Plan::between(&new, &old).share(), Some(share));
    }

    #[test]
    fn who_is_excepted_is_passed_over(hash in hashes(), mut fleet in fleets(), node in names(), n in 0..9usize) {
        let (ring, nodes) = (ring(hash, &fleet), rendezvous(&fleet));
        fleet.remove(&node);
        let rest = rendezvous(&fleet);
        let excepted = |other: &String| *other == node;
        for object in objects() {
            let key = object.as_bytes();
            let left = ring.owners(key, usize::MAX).filter(|other| !excepted(other));
            prop_assert!(ring.owners_except(key, n, excepted).eq(left.take(n)));
            prop_assert!(nodes.owners_except(key, n, excepted).eq(rest.owners(key, n)));
        }
    }
}
