//! What a watching client is told, line by line.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout_at};

use super::PATIENCE;
use super::stage::Stage;
use crate::steps::now;

/// `althing watch`, read as it speaks.
pub(super) struct Timeline {
    group: String,
    told: mpsc::Receiver<Told>,
    leader: Option<String>,
    _watch: Child,
}

/// An event, and when it was read.
struct Told {
    at: Instant,
    event: Value,
}

impl Timeline {
    /// Watches a group through the first host.
    pub(super) async fn watch(stage: &Stage, group: &str) -> Result<Timeline> {
        let mut command = stage.asking(0)?;
        command.args(["--json", "watch", group]).stdout(Stdio::piped());
        let mut watch = command.spawn().context("`althing watch` cannot be started")?;
        let output = watch.stdout.take().context("`althing watch` has no output")?;
        let (tell, told) = mpsc::channel(64);
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let told = Told { at: now(), event: serde_json::from_str(&line).unwrap_or_default() };
                if tell.send(told).await.is_err() {
                    return;
                }
            }
        });
        let mut timeline = Timeline { group: group.to_owned(), told, leader: None, _watch: watch };
        timeline.until(stage, "the group was not seen", |event| event["event"] == "snapshot").await?;
        Ok(timeline)
    }

    /// Shows what happens until `member` has joined.
    pub(super) async fn joined(&mut self, stage: &Stage, member: &str) -> Result<()> {
        let wanted = |event: &Value| event["event"] == "joined" && event["member"]["id"] == member;
        self.until(stage, &format!("{member} did not join"), wanted).await.map(drop)
    }

    /// Shows what happens until `member` leads, and returns when that was told.
    pub(super) async fn leads(&mut self, stage: &Stage, member: &str) -> Result<Instant> {
        if self.leader.as_deref() == Some(member) {
            return Ok(now());
        }
        let wanted = |event: &Value| event["event"] == "elected" && event["leader"]["member"] == member;
        self.until(stage, &format!("{member} did not come to lead"), wanted).await
    }

    /// Shows what happens until another rule is bound, and waits until every host decides by it.
    pub(super) async fn bound(&mut self, stage: &Stage) -> Result<()> {
        self.until(stage, "no rule was bound", |event| event["event"] == "bound").await?;
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let group = stage.ask(0, &["group", "show", &self.group]).await?;
            let hosts = group["hosts"].as_array().context("a group names its hosts")?;
            let follows = |host: &Value| host["behind"] == false && host["epoch"] == group["epoch"];
            if hosts.iter().all(follows) && hosts.len() == stage.living_hosts().len() {
                let names =
                    hosts.iter().filter_map(|host| host["name"].as_str()).collect::<Vec<_>>().join(", ");
                stage.tell(now(), &format!("decides by it: {names}"));
                return Ok(());
            }
            if tokio::time::Instant::now() > end {
                bail!("not every host decides by the new rule: {hosts:?}");
            }
            sleep(POLL).await;
        }
    }

    /// Shows each event until one is `wanted`, and returns when it was read.
    async fn until(
        &mut self,
        stage: &Stage,
        failure: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Instant> {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let told = timeout_at(end, self.told.recv()).await;
            let told = told.with_context(|| format!("{failure} within {PATIENCE:?}"))?;
            let Told { at, event } = told.with_context(|| format!("{failure}: `althing watch` ended"))?;
            self.show(stage, at, &event).await;
            if wanted(&event) {
                return Ok(at);
            }
        }
    }

    async fn show(&mut self, stage: &Stage, at: Instant, event: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
        let words = match event["event"].as_str().unwrap_or_default() {
            "joined" => {
                let member = &event["member"];
                format!("{} has joined, weight {}", text(&member["id"]), text(&member["metadata"]["weight"]))
            }
            "left" => format!("{} is gone: {}", text(&event["id"]), cause(&event["cause"])),
            "elected" => {
                let leader = &event["leader"];
                self.leader = leader["member"].as_str().map(str::to_owned);
                let reason = reason(stage, &self.group, leader).await;
                format!("{} leads (term {}){reason}", text(&leader["member"]), short(&leader["term"]))
            }
            "vacated" => {
                self.leader = None;
                format!("{} leads no more", text(&event["member"]))
            }
            "bound" => match event["binding"]["policy"].as_str() {
                Some(policy) => format!("the rule is {policy} now"),
                None => "the rule is the native one again: whoever leads goes on, then the oldest".into(),
            },
            _ => return,
        };
        stage.tell(at, &words);
    }
}

/// The pause between two looks at who follows.
const POLL: Duration = Duration::from_millis(50);

/// Returns a term without the zeros that make it order as text.
fn short(term: &Value) -> &str {
    term.as_str().unwrap_or("?").trim_start_matches('0')
}

/// Says why a member is gone.
fn cause(cause: &Value) -> &str {
    match cause.as_str().unwrap_or("?") {
        "deleted" => "it left, or its process died",
        "expired" => "the lease of its host ran out",
        "closed" => "its host ended",
        other => other,
    }
}

/// Asks the hosts for the decision that made a leader, and returns why it was so.
async fn reason(stage: &Stage, group: &str, leader: &Value) -> String {
    // No decision began a term that was handed over: the one that nominated its leader has the reason.
    let nominated = |decision: &Value| {
        decision["outcome"] == "nominated" && decision["verdict"]["choice"]["elect"][0] == leader["member"]
    };
    let made = |decision: &Value| decision["term"] == leader["term"] || nominated(decision);
    for host in stage.living_hosts() {
        // Only the deciding host knows; one that cannot answer now is not worth failing for.
        let Ok(decisions) = stage.ask(host, &["decisions", group, "--limit", "50"]).await else { continue };
        let decision = decisions.as_array().and_then(|all| all.iter().find(|decision| made(decision)));
        if let Some(reason) = decision.and_then(|decision| decision["verdict"]["reason"].as_str()) {
            return format!(" — {reason}");
        }
    }
    String::new()
}
