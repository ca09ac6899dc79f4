//! `althing member`.

use std::collections::BTreeMap;
use std::time::Duration;

use althing::info::{Evicted, Hold, JoinAsk, MemberInfo, SessionEvent};
use althing::{Error, Kind, Requirement, Result, limits};
use althing_client::Membership;
use clap::Subcommand;
use serde_json::{Value, json};

use super::group;
use crate::ask::{Host, duration};
use crate::exit::signals;
use crate::print;
use crate::table::{moment, now_ms, plain, time};

/// Be a member of a group, or see to those that are
#[derive(Subcommand)]
pub(crate) enum Member {
    Join(Join),
    /// List the members of a group, oldest first
    List {
        /// The group
        group: String,
    },
    /// Show a member and what it says of itself
    Show {
        /// The group
        group: String,
        /// The member's id
        id: String,
    },
    /// Ask a member to go: a leader stops first, and it comes back only if its process joins again
    Evict {
        /// The group
        group: String,
        /// The member's id
        id: String,
    },
}

/// Join a group, stay, print what happens, and leave on SIGTERM or SIGINT
#[derive(clap::Args)]
pub(crate) struct Join {
    /// The group
    group: String,

    /// The member's id, unique within the group
    id: String,

    /// What the member says of itself; rules can read it
    #[arg(long = "meta", value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,

    /// What the member says it can do, as JSON
    #[arg(long, value_name = "JSON", value_parser = value, default_value = "null", hide_default_value = true)]
    capabilities: Value,

    /// Do not stand for election: never lead
    #[arg(long)]
    observer: bool,

    /// Create the group if there is none
    #[arg(long)]
    create: bool,

    /// Create the group if there is none, and let it be deleted when its last member has gone
    #[arg(long)]
    ephemeral: bool,

    /// Refuse a backend that promises less: a level and features such as L1,across-hosts; a group created by this keeps it
    #[arg(long, value_name = "PROMISES", default_value_t, hide_default_value = true)]
    require: Requirement,

    /// End the membership when this process was not heard of for so long. The host sees the death of a
    /// process at once; this is for a process that is stopped or cut off
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = ttl_default())]
    ttl: Duration,
}

impl Member {
    pub(super) async fn run(self, host: &Host) -> Result<()> {
        match self {
            Member::Join(join) => join.run(host).await,
            Member::List { group: name } => {
                let shown = host.client()?.group(&name).await?;
                host.show_list(&shown.members, "no members", group::member_table(), |table, member| {
                    group::add_member(table, &shown, member);
                })
            }
            Member::Show { group, id } => host.show(&host.client()?.member(&group, &id).await?, lines),
            Member::Evict { group, id } => host.show(&host.client()?.evict(&group, &id).await?, |outcome| {
                let words = match outcome {
                    Evicted::Evicted => "evicted",
                    Evicted::Asked => "asked to go; it is gone at the latest when its lease ends",
                };
                vec![words.into()]
            }),
        }
    }
}

/// Describes a member to people.
fn lines(member: &MemberInfo) -> Vec<String> {
    let mut lines = vec![
        format!("member        {}", plain(&member.id)),
        format!("host          {}", plain(&member.host)),
        format!("incarnation   {}", plain(&member.incarnation)),
        format!("joined        {}", moment(member.joined_ms)),
        format!("stands        {}", if member.candidate { "for election" } else { "not for election" }),
    ];
    if member.updated_ms > member.joined_ms {
        lines.push(format!("updated       {}", moment(member.updated_ms)));
    }
    let pairs = member.metadata.iter().map(|(name, value)| format!("{}={}", plain(name), plain(value)));
    lines.extend(pairs.map(|pair| format!("metadata      {pair}")));
    if !member.capabilities.is_null() {
        lines.push(format!("capabilities  {}", plain(&member.capabilities.to_string())));
    }
    lines
}

impl Join {
    async fn run(self, host: &Host) -> Result<()> {
        let (mut terminated, mut interrupted) = signals()?;
        let mut membership = Membership::open(host.client()?, Some(self.ttl)).await?;
        let ask = JoinAsk {
            id: self.id.clone(),
            metadata: BTreeMap::from_iter(self.metadata),
            capabilities: self.capabilities,
            candidate: !self.observer,
            resume: None,
            create: self.create || self.ephemeral,
            ephemeral: self.ephemeral,
            require: self.require,
        };
        let joined = membership.join(&self.group, &ask).await?;
        let words = format!("joined    {} as {}", plain(&self.group), plain(&self.id));
        tell(host, &words, json!({ "event": "joined", "group": self.group, "member": joined.member }))?;
        loop {
            let event = tokio::select! {
                event = membership.next_event() => event,
                _ = terminated.recv() => break,
                _ = interrupted.recv() => break,
            };
            let Some(event) = event else {
                return Err(Error::new(Kind::SessionLost, "stay", "the membership ended"));
            };
            let value = serde_json::to_value(&event).unwrap_or_default();
            tell(host, &words_of(&event), value)?;
        }
        membership.close().await?;
        tell(
            host,
            &format!("left      {}", plain(&self.group)),
            json!({ "event": "left", "group": self.group }),
        )
    }
}

fn tell(host: &Host, words: &str, mut value: Value) -> Result<()> {
    let now = now_ms();
    if !host.json {
        return print::line(&format!("{} {words}", time(now)));
    }
    if let Value::Object(fields) = &mut value {
        fields.insert("at_ms".into(), now.into());
    }
    print::json(&value)
}

fn words_of(event: &SessionEvent) -> String {
    let held = |hold: &Hold| format!("{}, term {}", plain(&hold.group), hold.term.0);
    match event {
        SessionEvent::Standing { standing, holds, .. } => {
            let holds: Vec<_> = holds.iter().map(held).collect();
            let holds =
                if holds.is_empty() { String::new() } else { format!("; leads {}", holds.join("; ")) };
            format!("standing  {}{holds}", format!("{standing:?}").to_lowercase())
        }
        SessionEvent::Elected { hold } => format!("leads     {}", held(hold)),
        SessionEvent::Stop { hold } => format!("stopped   {}", held(hold)),
        SessionEvent::Lost { hold } => format!("lost      {}", held(hold)),
        SessionEvent::Rejoined { group, member, .. } => {
            format!("rejoined  {} as {}", plain(group), plain(member))
        }
        SessionEvent::Removed { group, reason, .. } => {
            format!("removed   {}: {}", plain(group), plain(reason))
        }
        SessionEvent::LockStop { lock } | SessionEvent::LockLost { lock, .. } => {
            format!("unlocked  {}", plain(&lock.lock))
        }
        SessionEvent::Ended { reason } => format!("ended     {}", plain(reason)),
    }
}

fn ttl_default() -> String {
    format!("{:?}", limits::CLIENT_TTL_DEFAULT)
}

fn value(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text)
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write NAME=VALUE".into()),
    }
}
