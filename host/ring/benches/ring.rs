//! Look-ups on 100 nodes of 32 points, and one node that comes and goes among 100 and among 10 000.
#![allow(missing_docs, reason = "criterion's macros")]

use althing_ring::{Rendezvous, Ring};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

fn names(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|place| format!("node-{place}"))
}

fn ring(count: u32) -> Ring<String> {
    let mut ring = Ring::default();
    names(count).for_each(|node| ring.set(node, 1));
    ring
}

fn rendezvous(count: u32) -> Rendezvous<String> {
    let mut nodes = Rendezvous::new();
    names(count).for_each(|node| nodes.set(node, 1));
    nodes
}

fn look_up(criterion: &mut Criterion) {
    let (ring, nodes) = (ring(100), rendezvous(100));
    let mut keys = (0..u64::MAX).map(|key| key.to_be_bytes());
    let mut key = || keys.next().unwrap_or_default();
    let mut group = criterion.benchmark_group("look-up");
    group.bench_function("ring, one owner", |bench| bench.iter(|| ring.owner(&key()).map(String::len)));
    group.bench_function("ring, three owners", |bench| bench.iter(|| ring.owners(&key(), 3).count()));
    group
        .bench_function("rendezvous, one owner", |bench| bench.iter(|| nodes.owner(&key()).map(String::len)));
    group.bench_function("rendezvous, three owners", |bench| bench.iter(|| nodes.owners(&key(), 3).count()));
    group.finish();
}

/// One iteration sets one node: it comes with 32 points, or it goes with them.
fn set(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("set");
    for count in [100, 10_000] {
        let mut ring = ring(count);
        let mut weight = 0;
        group.bench_function(BenchmarkId::new("ring", count), |bench| {
            bench.iter(|| {
                weight = 1 - weight;
                ring.set("another".to_owned(), weight);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, look_up, set);
criterion_main!(benches);
