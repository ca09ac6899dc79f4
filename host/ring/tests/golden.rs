//! The vectors that Tooz and Python made, every one of them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use althing_ring::{Hash, Points, Rendezvous, Ring};
use serde::Deserialize;

/// Text, or bytes that are no text.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(untagged)]
enum Name {
    Text(String),
    Bytes { hex: String },
}

impl Name {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Name::Text(text) => text.clone().into_bytes(),
            Name::Bytes { hex } => (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect(),
        }
    }
}

fn bytes(names: &[Name]) -> Vec<Vec<u8>> {
    names.iter().map(Name::bytes).collect()
}

#[derive(Deserialize)]
struct Tooz {
    nodes: Vec<Name>,
    partitions: u32,
    hash: String,
    weights: BTreeMap<String, u32>,
    points: usize,
    first_points: Vec<String>,
    last_point: String,
    lookups: Vec<ToozLookup>,
}

#[derive(Deserialize)]
struct ToozLookup {
    key: Name,
    replicas: usize,
    ignore: Vec<Name>,
    result: Vec<Name>,
}

impl Tooz {
    /// Adds the nodes in either order.
    fn ring(&self, backwards: bool) -> Ring<Vec<u8>> {
        let hash = Hash::named(&self.hash).unwrap();
        let mut ring = Ring::new(Points { partitions: self.partitions, hash });
        let weight = |node: &Name| match node {
            Name::Text(text) => self.weights.get(text).copied().unwrap_or(1),
            Name::Bytes { .. } => 1,
        };
        let mut nodes: Vec<_> = self.nodes.iter().map(|node| (node.bytes(), weight(node))).collect();
        if backwards {
            nodes.reverse();
        }
        nodes.into_iter().for_each(|(node, weight)| ring.set(node, weight));
        ring
    }

    fn check(&self, ring: &Ring<Vec<u8>>) {
        let places: Vec<_> = ring.points().map(|(place, _)| place.to_string()).collect();
        assert_eq!(places.len(), self.points);
        assert!(places.starts_with(&self.first_points));
        assert_eq!(places.last(), Some(&self.last_point));
        self.lookups.iter().for_each(|lookup| lookup.check(ring));
    }
}

impl ToozLookup {
    fn check(&self, ring: &Ring<Vec<u8>>) {
        let (key, ignored) = (self.key.bytes(), bytes(&self.ignore));
        let owners: Vec<_> = ring.owners_except(&key, self.replicas, |node| ignored.contains(node)).collect();
        assert_eq!(owners.iter().collect::<BTreeSet<_>>().len(), owners.len());
        let expected = bytes(&self.result);
        assert_eq!(owners.iter().copied().collect::<BTreeSet<_>>(), expected.iter().collect());
        if ignored.is_empty() {
            assert_eq!(ring.owner(&key), owners.first().copied());
        }
    }
}

#[derive(Deserialize)]
struct Case {
    #[serde(default)]
    partitions: u32,
    #[serde(default)]
    hash: String,
    nodes: Vec<(Name, u32)>,
    #[serde(default)]
    points: usize,
    #[serde(default)]
    first_points: Vec<(String, Name)>,
    lookups: Vec<Lookup>,
}

#[derive(Deserialize)]
struct Lookup {
    key: Name,
    owners: Vec<Name>,
}

#[test]
fn a_ring_answers_as_tooz_does() {
    let all: Vec<Tooz> = serde_json::from_str(include_str!("tooz.json")).unwrap();
    for tooz in &all {
        tooz.check(&tooz.ring(false));
        tooz.check(&tooz.ring(true));
    }
    assert_eq!((all.len(), all.iter().map(|tooz| tooz.lookups.len()).sum::<usize>()), (7, 140));
}

#[test]
fn a_ring_names_its_owners_in_the_order_of_the_vectors() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("ring.json")).unwrap();
    for case in &cases {
        let hash = Hash::named(&case.hash).unwrap();
        let mut ring = Ring::new(Points { partitions: case.partitions, hash });
        case.nodes.iter().rev().for_each(|(node, weight)| ring.set(node.bytes(), *weight));
        let points = ring.points().map(|(place, node)| (place.to_string(), node.clone()));
        let first: Vec<_> =
            case.first_points.iter().map(|(place, node)| (place.clone(), node.bytes())).collect();
        assert_eq!(points.take(3).collect::<Vec<_>>(), first);
        assert_eq!(ring.points().count(), case.points);
        for Lookup { key, owners } in &case.lookups {
            let found: Vec<_> = ring.owners(&key.bytes(), 5).cloned().collect();
            assert_eq!(found, bytes(owners), "{key:?} among {:?}", case.nodes);
        }
    }
    assert_eq!(cases.len(), 18);
}

#[test]
fn rendezvous_names_its_owners_in_the_order_of_the_vectors() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("rendezvous.json")).unwrap();
    for case in &cases {
        let mut nodes = Rendezvous::new();
        case.nodes.iter().for_each(|(node, weight)| nodes.set(node.bytes(), *weight));
        for Lookup { key, owners } in &case.lookups {
            let found: Vec<_> = nodes.owners(&key.bytes(), 5).cloned().collect();
            assert_eq!(found, bytes(owners), "{key:?} among {:?}", case.nodes);
            assert_eq!(nodes.owner(&key.bytes()), found.first());
        }
    }
    assert_eq!(cases.len(), 8);
}
