//! `althing behaviour`.

use std::path::PathBuf;
use std::time::Duration;

use althing::info::{BehaviourAsk, BehaviourCall, BehaviourInfo, SessionEvent, Standing};
use althing::{Error, Kind, Result, limits};
use althing_client::Membership;
use clap::Subcommand;
use serde_json::{Value, json};

use super::group::{self, hosts, spaced};
use crate::ask::{Host, duration, read_bytes};
use crate::exit::signals;
use crate::print;
use crate::table::{Table, moment, plain, word};

/// Call behaviours; list, show, roll back and remove them
#[derive(Subcommand)]
pub(crate) enum Behaviour {
    /// List the behaviours
    List,
    /// Show a behaviour: its policy, which hosts follow, and the last calls of this host
    Show {
        /// Its name
        name: String,
    },
    Call(Call),
    /// Let the former policy of a behaviour answer again
    Rollback {
        /// Its name
        name: String,
    },
    /// Remove a behaviour. Calls that wait fail; what it has written stays
    Remove {
        /// Its name
        name: String,
    },
}

/// Ask a behaviour for an operation and print its answer; what it gives goes when this command ends
#[derive(clap::Args)]
pub(crate) struct Call {
    /// The behaviour's name
    name: String,

    /// The operation
    #[arg(default_value = "")]
    operation: String,

    /// What goes to the behaviour; - is standard input, and nothing goes if left out
    #[arg(long = "in", value_name = "FILE")]
    input: Option<PathBuf>,

    /// How long to wait for the answer
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = timeout_default())]
    timeout: Duration,

    /// Keep what was given until SIGTERM or SIGINT, or until it is lost
    #[arg(long)]
    hold: bool,
}

impl Behaviour {
    pub(super) async fn run(self, host: &Host) -> Result<()> {
        match self {
            Behaviour::List => {
                let table = Table::new(["BEHAVIOUR", "POLICY", "VERSION", "EPOCH"]);
                let behaviours = host.client()?.behaviours().await?;
                host.show_list(&behaviours, "no behaviours", table, |table, behaviour| {
                    let [name, policy, version] = [&behaviour.name, &behaviour.policy, &behaviour.version];
                    let epoch = behaviour.epoch.to_string();
                    table.row([name.clone(), policy.clone(), version.clone(), epoch]);
                })
            }
            Behaviour::Show { name } => host.show(&host.client()?.behaviour(&name).await?, lines),
            Behaviour::Call(call) => call.run(host).await,
            Behaviour::Rollback { name } => {
                host.show(&host.client()?.rollback_behaviour(&name).await?, lines)
            }
            Behaviour::Remove { name } => {
                host.client()?.remove_behaviour(&name).await?;
                host.done(&format!("removed {}", plain(&name)))
            }
        }
    }
}

impl Call {
    async fn run(self, host: &Host) -> Result<()> {
        let (mut terminated, mut interrupted) = signals()?;
        let body = match &self.input {
            Some(file) => read_bytes(file, limits::BEHAVIOUR_BODY_BYTES_MAX)?,
            None => Vec::new(),
        };
        let ask = BehaviourAsk { operation: self.operation, body: body.into(), timeout: Some(self.timeout) };
        let mut session = Membership::open(host.client()?, None).await?;
        let answer = tokio::select! {
            answer = session.call_behaviour(&self.name, &ask) => answer,
            _ = terminated.recv() => Err(interruption()),
            _ = interrupted.recv() => Err(interruption()),
        };
        let shown = answer.and_then(|answer| show(host, &answer));
        let kept = match (self.hold, shown) {
            (true, Ok(())) => tokio::select! {
                lost = loss(&mut session) => Err(lost),
                _ = terminated.recv() => Ok(()),
                _ = interrupted.recv() => Ok(()),
            },
            (_, shown) => shown,
        };
        // Whatever came of it, nothing stays behind.
        let closed = session.close().await;
        kept.and(closed)
    }
}

/// Waits until what a behaviour gave is lost.
async fn loss(session: &mut Membership) -> Error {
    let lost = |why: String| {
        Error::new(Kind::SessionLost, "hold", why).advise("Call again: what the behaviour gave is gone")
    };
    while let Some(event) = session.next_event().await {
        match event {
            SessionEvent::Standing { standing: Standing::Lost, .. } => {
                return lost("the host lost its session in the backend".into());
            }
            SessionEvent::Ended { reason } => return lost(format!("the session ended: {reason}")),
            _ => {}
        }
    }
    lost("the session ended".into())
}

fn interruption() -> Error {
    Error::new(Kind::Closed, "call behaviour", "it was interrupted")
}

/// Shows an answer: as it is to people; in JSON as the value it is, else as text, else in hexadecimal digits.
fn show(host: &Host, answer: &[u8]) -> Result<()> {
    if !host.json {
        return print::bytes(answer);
    }
    let value = serde_json::from_slice(answer).unwrap_or_else(|_| match std::str::from_utf8(answer) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "hex": answer.iter().map(|byte| format!("{byte:02x}")).collect::<String>() }),
    });
    print::json(&value)
}

/// Describes a behaviour to people.
pub(super) fn lines(behaviour: &BehaviourInfo) -> Vec<String> {
    let mut lines = vec![
        format!("behaviour  {}", plain(&behaviour.name)),
        format!("policy     {}", group::rule(Some(&behaviour.binding), behaviour.epoch)),
    ];
    lines.extend(hosts(&behaviour.hosts));
    lines.extend(calls(&behaviour.calls));
    lines
}

fn calls(calls: &[BehaviourCall]) -> Vec<String> {
    let mut table = Table::new(["TIME", "EPOCH", "OPERATION", "BY", "ASKED", "STORE", "TOOK MS", "OUTCOME"]);
    for call in calls {
        let outcome = word(&call.outcome);
        table.row([
            moment(call.at_ms),
            call.epoch.to_string(),
            call.operation.clone(),
            call.principal.clone(),
            call.attempts.to_string(),
            call.store_calls.to_string(),
            format!("{:.1}", call.took_ms),
            call.error.as_ref().map_or(outcome.clone(), |error| format!("{outcome}: {error}")),
        ]);
    }
    spaced(&table)
}

fn timeout_default() -> String {
    format!("{:?}", limits::BEHAVIOUR_TIMEOUT_DEFAULT)
}
