//! One row of the table: a guest, what it is given, and what must be seen of it on a real host.

use std::time::Duration;

use althing_client::wire::SessionKey;
use althing_core::info::Decision;
use althing_core::{Kind, Requirement, limits};
use althing_engine::FaultCause;
use futures::future::join_all;

use crate::made::Made;
use crate::stage::{INTERVAL, Stage, eventually};
use crate::{component, named_bundle};

/// In so many groups at once the guest decides.
pub const GROUPS: usize = 8;
/// For so many renewals of the host's session it goes on.
const BEATS: u32 = 2;

/// A guest, and what must be seen of it.
pub struct Row {
    /// What it does; its policy has this name.
    pub name: &'static str,
    /// Where it comes from.
    pub guest: Guest,
    /// What follows the head of its policy.toml. Without limits it has room.
    pub manifest: &'static str,
    /// What must be seen.
    pub expected: Expected,
}

/// Where a guest comes from.
pub enum Guest {
    /// Built from the folder of this name below `guests/fixtures` or `guests`.
    Built(&'static str),
    /// Made from the text form.
    Made(Made),
    /// Put together by a function.
    Bytes(fn() -> Vec<u8>),
}

/// What must be seen: how it ends, and parts of what is told.
pub type Expected = Seen<&'static [&'static str]>;

/// What becomes of a guest, with what is told of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen<T> {
    /// It is refused when it is pushed, with an error of this kind.
    Refused(Kind, T),
    /// Its calls are faults of this cause.
    Fault(FaultCause, T),
    /// It decides, for this reason.
    Decides(T),
}

/// What an operator sees of a guest.
#[derive(Debug)]
pub struct Sight {
    /// How it ends, and what is told.
    pub seen: Seen<String>,
    /// The log of its first decision.
    pub log: Vec<String>,
    /// Who leads in each group that has a leader.
    pub leaders: Vec<String>,
    /// Its decisions, as `/metrics` counts them.
    pub decisions: u64,
    /// Its faults, as `/metrics` counts them.
    pub faults: u64,
    /// By how much the latest renewal of the host's session was late.
    pub late: Duration,
    /// By how much the machine woke a thread too late that did nothing but sleep meanwhile.
    pub floor: Duration,
}

impl Guest {
    /// Returns its component.
    pub fn component(&self) -> Vec<u8> {
        match self {
            Guest::Built(name) => component(name),
            Guest::Made(made) => made.component(),
            Guest::Bytes(make) => make(),
        }
    }
}

impl Row {
    /// Shows the guest to a host: pushes it, lets it decide in eight groups while members come and go, and
    /// looks where an operator looks.
    pub async fn show(&self) -> Sight {
        let room = if self.manifest.contains("limits") { "" } else { ROOM };
        let manifest = format!("{}\n{room}", self.manifest);
        let bundle = named_bundle(self.name, &self.guest.component(), &manifest).unwrap();
        let stage = Stage::start().await;
        let refusal = stage.push(bundle.pack()).await;
        let groups: Vec<String> = (0..GROUPS).map(|place| format!("group-{place}")).collect();
        for group in &groups {
            stage.client.create_group(group, &Requirement::NONE).await.unwrap();
            if refusal.is_none() {
                stage.client.activate(group, self.name, None).await.unwrap();
            }
        }
        let session = stage.session().await;
        let until = stage.beats() + BEATS;
        join_all(groups.iter().map(|group| come_and_go(&stage, &session, group, until))).await;
        let (seen, log) = match refusal {
            Some(error) => (Seen::Refused(error.kind, error.message), Vec::new()),
            None => self.first_decision(&stage, &groups).await,
        };
        let leaders = join_all(groups.iter().map(|group| leader(&stage, group))).await;
        let decisions = stage.counted("althing_decisions_total", self.name).await;
        let faults = stage.counted("althing_faults_total", self.name).await;
        let (late, floor) = (stage.latest(), stage.floor());
        stage.end().await;
        Sight { seen, log, leaders, decisions, faults, late, floor }
    }

    /// Returns what is wrong with what was seen.
    pub fn wrong(&self, sight: &Sight) -> Option<String> {
        let (told, parts) = match (&sight.seen, &self.expected) {
            (Seen::Refused(kind, told), Seen::Refused(expected, parts)) if kind == expected => (told, parts),
            (Seen::Fault(cause, told), Seen::Fault(expected, parts)) if cause == expected => (told, parts),
            (Seen::Decides(told), Seen::Decides(parts)) => (told, parts),
            // On a busy machine it gets less processor time than it may use, and the wall ends it.
            (Seen::Fault(FaultCause::Deadline, told), Seen::Fault(FaultCause::Cpu, _)) => (told, &WALL),
            (seen, expected) => return Some(format!("expected {expected:?}, saw {seen:?}")),
        };
        if let Some(part) = parts.iter().find(|part| !told.contains(**part)) {
            return Some(format!("{part:?} is not in {told:?}"));
        }
        let is_refused = matches!(self.expected, Seen::Refused(..));
        let is_faulty = matches!(self.expected, Seen::Fault(..));
        let lines = || sight.log.iter().chain([told]);
        let rules = [
            (is_refused == (sight.decisions == 0), "its decisions are not counted"),
            (is_faulty == (sight.faults > 0), "its faults are not counted"),
            (lines().all(|line| line.len() <= TOLD_BYTES_MAX), "what is told of it has no end"),
            (!lines().any(|line| line.contains(char::is_control)), "what is told of it steers a terminal"),
            // A machine on which a mere sleeper oversleeps says nothing of the host.
            (sight.late < INTERVAL + 2 * sight.floor, "a renewal came so late that another was due"),
        ];
        let Sight { leaders, decisions, faults, late, floor, .. } = sight;
        let broken = rules.iter().find(|(holds, _)| !holds).map(|(_, rule)| rule);
        broken.map(|rule| {
            format!("{rule}: {decisions} decisions, {faults} faults, {late:?} late where a sleeper is {floor:?}, led by {leaders:?}")
        })
    }

    /// Returns how the first decision ended that the guest was asked for, and its log.
    async fn first_decision(&self, stage: &Stage, groups: &[String]) -> (Seen<String>, Vec<String>) {
        let policy = stage.client.policy(self.name).await.unwrap();
        assert_eq!(policy.groups, groups);
        let decision = eventually("a decision by the guest", || async {
            let decisions = stage.client.decisions(&groups[0], limits::DECISIONS_KEPT_MAX).await.unwrap();
            decisions.into_iter().rev().find(|decision| decision.policy.as_deref() == Some(self.name))
        });
        let Decision { fault, verdict, log, .. } = decision.await;
        let Some(fault) = fault else { return (Seen::Decides(verdict.reason), log) };
        let parts = fault.strip_prefix("fault (").and_then(|rest| rest.split_once("): "));
        let (cause, detail) = parts.unwrap_or_else(|| panic!("no cause in {fault:?}"));
        (Seen::Fault(serde_json::from_value(cause.into()).unwrap(), detail.to_owned()), log)
    }
}

/// What is told of a guest that was ended by the wall.
const WALL: &[&str] = &["it gave no answer within"];

/// What a guest may use where it is not about that: so much that a busy machine does not end it.
const ROOM: &str = "limits.cpu_ms = 500";

/// The longest line an operator is told of a guest, in bytes.
const TOLD_BYTES_MAX: usize = 2048;

/// Joins a member, and others that leave again, until the host has renewed its session so often.
async fn come_and_go(stage: &Stage, session: &SessionKey, group: &str, until: u32) {
    stage.join(session, group, "oldest").await;
    for visit in 0.. {
        if stage.beats() >= until {
            return;
        }
        let visitor = format!("visitor-{visit}");
        stage.join(session, group, &visitor).await;
        stage.client.leave(session, group, &visitor).await.unwrap();
    }
}

/// Waits for a leader.
async fn leader(stage: &Stage, group: &str) -> String {
    let leads = eventually("a leader", || async { stage.client.leader(group).await.unwrap() });
    leads.await.member
}
