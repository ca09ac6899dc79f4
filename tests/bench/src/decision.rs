//! A decision by a rule in WebAssembly, in a fresh instance, beside the native rule on the same view.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{ElectionView, LeaderView, Liveness, MemberView, Principal, limits};
use althing_engine::{Engine, EngineConfig, Policy};
use althing_runtime::{Runtime, native};
use anyhow::Result;

use crate::Bench;
use crate::figure::{Figure, Goal, Report, Series};
use crate::host;

const SIZES: [usize; 2] = [10, 1000];
const RULES: [&str; 2] = ["elect-oldest", "elect-weighted"];
const WARM_UP: usize = 50;
const GOAL: Goal = Goal::Over(Duration::from_micros(15), 0.0);

pub(crate) async fn measure(bench: &Bench, report: &mut Report) -> Result<()> {
    for size in SIZES {
        alone(bench, report, size).await?;
        road(bench, report, size).await?;
    }
    Ok(())
}

/// Measures the decisions of a host: its view of a real group, its digest, and the rule, asked from the host's runtime.
async fn road(bench: &Bench, report: &mut Report, size: usize) -> Result<()> {
    let io = bench.io.handle();
    let driver = host::stacked(host::connect("memory:", io).await?, io);
    let host = host::start(driver, limits::LEASE_DEFAULT, io).await?;
    let groups = groups(&host, size).await?;
    let mut taken = vec![Series::default(); groups.len()];
    for turn in 0..WARM_UP + bench.count(5000, 300) {
        for (group, series) in groups.iter().zip(&mut taken) {
            let decision = series.time(host.rehearse(group)).await?;
            report.check(decision.fault.is_none(), || format!("{group} faulted: {decision:?}"));
        }
        if turn + 1 == WARM_UP {
            taken.fill(Series::default());
        }
    }
    host.stop().await;
    let mut taken = taken.into_iter();
    let native = taken.next().unwrap_or_default();
    for (rule, taken) in RULES.into_iter().zip(taken) {
        report.figure(figure(format!("decision, {rule}"), size, taken, "decision, native", native.clone()));
    }
    Ok(())
}

/// Measures the call of a rule alone, made where the guests run, beside the native rule on the same view.
async fn alone(bench: &Bench, report: &mut Report, size: usize) -> Result<()> {
    let engine = Engine::new(EngineConfig::default())?;
    for rule in RULES {
        let policy = engine.load(&Arc::new(host::shipped(rule)?)).await?;
        let (view, turns) = (view(size), bench.count(5000, 300));
        let (taken, native) = engine.handle().spawn(calls(policy, view, turns)).await??;
        report.figure(figure(format!("{rule} alone"), size, taken, "native rule alone", native));
    }
    Ok(())
}

fn figure(name: String, size: usize, taken: Series, floor_name: &'static str, floor: Series) -> Figure {
    let goal = (size == SIZES[0]).then_some(GOAL);
    Figure { name: format!("{name}, {size} members"), taken, floor_name, floor, goal }
}

async fn calls(policy: Arc<Policy>, view: ElectionView, turns: usize) -> Result<(Series, Series)> {
    let (mut taken, mut floor) = (Series::default(), Series::default());
    for turn in 0..WARM_UP + turns {
        if turn == WARM_UP {
            (taken, floor) = Default::default();
        }
        taken.time(policy.elect(&view)).await?;
        floor.time(async { black_box(native(black_box(&view))) }).await;
    }
    Ok((taken, floor))
}

/// Makes a group without a rule and one for each rule, all with the same members, and waits for their leaders.
async fn groups(host: &Runtime, size: usize) -> Result<Vec<String>> {
    let session = host::session(host)?;
    let mut groups = vec!["native".to_owned()];
    for rule in RULES {
        host::push(host, rule).await?;
        groups.push(rule.to_owned());
    }
    for group in &groups {
        for index in 0..size {
            host::join(host, &session, group, index).await?;
        }
    }
    for rule in RULES {
        host.activate(&Principal::Embedder, rule, rule, None).await?;
    }
    let settled = |group: &String| {
        host.group(group).is_ok_and(|info| info.members.len() == size && info.leader.is_some())
    };
    host::eventually("every group has its members and a leader", || groups.iter().all(settled)).await?;
    Ok(groups)
}

fn view(size: usize) -> ElectionView {
    let member = |index: usize| MemberView {
        id: format!("member-{index}"),
        incarnation: format!("{index:032x}"),
        seniority: index as u32,
        metadata: [
            ("weight".to_owned(), (index % 7).to_string()),
            ("zone".to_owned(), (index % 3).to_string()),
        ]
        .into(),
        liveness: Liveness::default(),
        attributes: [("host".to_owned(), "host-1".to_owned())].into(),
    };
    let members: Vec<_> = (0..size).map(member).collect();
    let leader = members.first().map(|first| LeaderView {
        member: first.id.clone(),
        incarnation: first.incarnation.clone(),
        term: althing_core::Revision(7),
        tenure_ms: 60_000.0,
        attributes: Default::default(),
    });
    ElectionView { group: "web".into(), now_ms: 0.0, members, leader, attributes: Default::default() }
}
