//! A decision through Wasm in a fresh instance, beside the same decision in native code. Needs `cargo xtask guests`.
//!
//! `here` is a caller on the guests' runtime, as the road's decide step is; `hop` is one on another runtime.
#![allow(missing_docs, clippy::unwrap_used, reason = "criterion's macros; a bench may fail in no better way")]

use std::path::Path;
use std::sync::Arc;

use althing_core::{Choice, ElectionView, Liveness, MemberView};
use althing_engine::{Bundle, Engine, EngineConfig};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tokio::runtime::Runtime;

fn view(count: u32) -> ElectionView {
    let member = |place: u32| MemberView {
        id: format!("member-{place}"),
        incarnation: format!("{place:020}"),
        seniority: place,
        metadata: [("weight".to_owned(), place.to_string())].into(),
        liveness: Liveness::default(),
        attributes: [("host".to_owned(), "one".to_owned())].into(),
    };
    let members = (0..count).map(member).collect();
    ElectionView {
        group: "web".into(),
        now_ms: 1.7e12,
        members,
        leader: None,
        attributes: Default::default(),
    }
}

/// The rule of elect-weighted, without its settings.
fn native(view: &ElectionView) -> Choice {
    let weight = |member: &MemberView| {
        member.metadata.get("weight").and_then(|text| text.parse().ok()).unwrap_or(0i64)
    };
    let mut ranked: Vec<_> = view.members.iter().filter(|member| member.liveness.state == "alive").collect();
    ranked.sort_by_key(|member| std::cmp::Reverse(weight(member)));
    Choice::Elect(ranked.iter().take(8).map(|member| member.id.clone()).collect())
}

fn elect(criterion: &mut Criterion) {
    let outside = Runtime::new().unwrap();
    let engine = Engine::new(EngineConfig::default()).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/elect-weighted");
    let bundle = Arc::new(Bundle::open(&folder).unwrap());
    let policy = outside.block_on(engine.load(&bundle)).unwrap();
    let mut group = criterion.benchmark_group("elect");
    for count in [10, 1000] {
        let view = view(count);
        group.bench_with_input(BenchmarkId::new("native", count), &view, |bench, view| {
            bench.iter(|| native(view));
        });
        group.bench_with_input(BenchmarkId::new("here", count), &view, |bench, view| {
            bench.to_async(engine.handle()).iter(|| async { policy.elect(view).await.unwrap() });
        });
        group.bench_with_input(BenchmarkId::new("hop", count), &view, |bench, view| {
            bench.to_async(&outside).iter(|| async { policy.elect(view).await.unwrap() });
        });
    }
    group.finish();
}

criterion_group!(benches, elect);
criterion_main!(benches);
