//! Three hosts in this process on one store in memory, each with faults of its own on its calls to the store.

use std::path::Path;
use std::time::Duration;

use althing_core::info::{JoinAsk, SessionEvent};
use althing_core::layers::{Fault, Operation};
use althing_core::{Chance, Clock, Revision, SeededChance, SystemClock};
use althing_sim::{Client, Fleet, Stage, eventually};
use althing_test_servers::Server;
use anyhow::Result;
use tokio::task::JoinSet;

use super::{HISTORY, Plan, Played};
use crate::ground::Setting;
use crate::history::{Ask, Recorder, What, now};
use crate::member::{PAUSE, SAMPLE, Stay};
use crate::stage::{GROUP, LED_WITHIN};
use crate::watcher;

const HOSTS: usize = 3;

/// How much longer than a lease a fault stands.
const BEYOND: Duration = Duration::from_millis(300);

const ALL: &[Operation] = &[
    Operation::Open,
    Operation::Renew,
    Operation::Close,
    Operation::Get,
    Operation::List,
    Operation::Commit,
    Operation::Next,
];
const WRITES: &[Operation] = &[Operation::Open, Operation::Renew, Operation::Close, Operation::Commit];

/// What can befall a host's calls: by name, which calls, what, and what share of them.
const FAULTS: &[(&str, &[Operation], Fault, f64)] = &[
    ("every call is refused", ALL, Fault::Refuse, 1.0),
    ("a third of the calls are refused", ALL, Fault::Refuse, 0.3),
    ("half of the writes are lost", WRITES, Fault::LoseRequest, 0.5),
    ("half of the writes are done and not answered", WRITES, Fault::LoseReply, 0.5),
    ("all writes are done and not answered", WRITES, Fault::LoseReply, 1.0),
    ("every call is late", ALL, Fault::Delay(Duration::from_millis(250)), 1.0),
    (
        "half of the writes are late by more than a lease",
        WRITES,
        Fault::Delay(Duration::from_millis(1200)),
        0.5,
    ),
    ("events are late", &[Operation::Next], Fault::Delay(Duration::from_millis(600)), 1.0),
    ("every call is held until the fault is over", ALL, Fault::BlackHole, 1.0),
    ("writes are held until the fault is over", WRITES, Fault::BlackHole, 1.0),
];

pub(super) async fn play(plan: &Plan, setting: Setting) -> Result<Played> {
    let folder = tempfile::Builder::new().prefix("althing-chaos-").tempdir()?;
    let history = folder.path().join(HISTORY);
    std::fs::create_dir(&history)?;
    let fleet = Stage::alone_on(Server::Memory).await.fleet(HOSTS).await;
    fleet.create(GROUP).await;
    let (mut steady, mut load) = (JoinSet::new(), JoinSet::new());
    for (place, host) in fleet.hosts.iter().enumerate() {
        let (name, runtime) = (format!("host-{place}"), host.runtime.clone());
        let recorder = Recorder::new(&history, &format!("member-{place}"));
        steady.spawn(be_member(host.session(), recorder, format!("member-{place}")));
        steady.spawn(watch(runtime.clone(), Recorder::new(&history, &format!("watch-{name}"))));
        load.spawn(watcher::ask(runtime, history.clone(), name));
    }
    let recorder = Recorder::new(&history, "stage");
    let chance = SeededChance::new(plan.seed);
    let mut done = Vec::new();
    settle(&fleet).await;
    let end = SystemClock.now() + plan.time;
    loop {
        round(&fleet, &recorder, &chance, (setting.lease, plan.steps_max), &mut done).await;
        if SystemClock.now() >= end {
            break;
        }
    }
    load.shutdown().await;
    SystemClock.sleep(3 * setting.lease).await;
    settle(&fleet).await;
    note_end(&fleet, &history, 3 * setting.lease);
    Ok(Played { folder, done, outcome: Ok(()) })
}

/// Lets each host suffer each fault, in an order that the seed gives; one host at a time is spared.
async fn round(
    fleet: &Fleet,
    recorder: &Recorder,
    chance: &SeededChance,
    (lease, steps_max): (Duration, usize),
    done: &mut Vec<String>,
) {
    let mut left: Vec<Vec<_>> = (0..HOSTS).map(|_| shuffled(chance)).collect();
    for step in 0..steps_max {
        for place in (0..HOSTS).filter(|place| step % HOSTS != *place) {
            if let Some((name, operations, fault, share)) = left[place].pop() {
                for operation in *operations {
                    fleet.hosts[place].faults.inject_sometimes(*operation, *fault, *share);
                }
                let fault = format!("on host-{place}, {name}");
                done.push(fault.clone());
                recorder.note(What::Fault { fault });
            }
        }
        SystemClock.sleep(lease + BEYOND).await;
        fleet.hosts.iter().for_each(|host| host.faults.heal());
        recorder.note(What::Healed { within: LED_WITHIN.as_nanos() as u64 });
        settle(fleet).await;
        if left.iter().all(Vec::is_empty) {
            return;
        }
    }
}

type Row = (&'static str, &'static [Operation], Fault, f64);

fn shuffled(chance: &SeededChance) -> Vec<&'static Row> {
    let mut order: Vec<_> = FAULTS.iter().map(|fault| (chance.bits(), fault)).collect();
    order.sort_by_key(|(place, _)| *place);
    order.into_iter().map(|(_, fault)| fault).collect()
}

/// Waits until every host shows all members and the same leader.
async fn settle(fleet: &Fleet) {
    let views = || fleet.hosts.iter().filter_map(|host| host.runtime.group(GROUP).ok());
    let settled = || {
        let terms: Vec<_> = views().map(|group| group.leader.map(|leader| leader.term)).collect();
        let whole = views().filter(|group| group.members.len() == HOSTS).count() == HOSTS;
        whole && terms.iter().all(|term| term.is_some() && *term == terms[0])
    };
    eventually("the fleet comes to rest", settled).await;
}

fn note_end(fleet: &Fleet, history: &Path, lease: Duration) {
    for (place, host) in fleet.hosts.iter().enumerate() {
        let groups = host.runtime.groups().unwrap().into_iter().map(|group| group.name).collect();
        let group = host.runtime.group(GROUP).unwrap();
        let recorder = Recorder::new(history, &format!("end-host-{place}"));
        recorder.note(What::Final { groups, group, lease: lease.as_nanos() as u64 });
    }
}

async fn watch(runtime: althing_runtime::Runtime, recorder: Recorder) {
    let mut events = runtime.watch_group(GROUP).unwrap();
    while let Some(event) = events.next().await {
        recorder.note(What::Watched { group: GROUP.into(), event });
    }
}

/// Is a member on a session that lasts as long as the host, and writes down what it sees.
async fn be_member(client: Client, recorder: Recorder, id: String) {
    let mut events = client.events();
    let mut stay = Stay::new(&recorder, GROUP, &id);
    loop {
        let ask = Ask::Join { group: GROUP.into(), member: id.clone() };
        let join = JoinAsk { id: id.clone(), ..JoinAsk::default() };
        match recorder.operation(ask, client.runtime.join(&client.key, GROUP, join)).await {
            Ok(joined) => stay.is_in(joined.member.incarnation),
            Err(_) => {
                SystemClock.sleep(PAUSE).await;
                continue;
            }
        }
        let mut term = None;
        loop {
            let before = now();
            stay.sample(before, term.filter(|term| client.runtime.holds(GROUP, *term)));
            tokio::select! {
                event = events.next() => {
                    let Some(event) = event else { return };
                    term = next_term(term, &event);
                    if !stay.hear(&event) {
                        break;
                    }
                }
                () = SystemClock.sleep(SAMPLE) => {}
            }
        }
        stay.note_held();
        stay.is_gone();
    }
}

/// Returns the term that a member should ask about after an event. It asks on after a loss, so as to notice if it were
/// told yes all the same.
fn next_term(term: Option<Revision>, event: &SessionEvent) -> Option<Revision> {
    match event {
        SessionEvent::Elected { hold } => Some(hold.term),
        _ => term,
    }
}
