//! `althing watch`.

use althing::info::{Event, MemberInfo};
use althing::{Error, Kind, Result};

use super::group;
use crate::ask::Host;
use crate::print;
use crate::table::{now_ms, plain, time};

/// Show what happens in a group, until it is deleted
#[derive(clap::Args)]
pub(crate) struct Watch {
    /// The group
    group: String,
}

impl Watch {
    pub(super) async fn run(self, host: &Host) -> Result<()> {
        let mut events = host.client()?.group_events(&self.group).await?;
        while let Some(event) = events.next().await? {
            if host.json {
                print::json(&event)?;
            } else {
                print::line(&format!("{} {}", time(now_ms()), words(&event)))?;
            }
            if matches!(event, Event::Deleted { .. }) {
                return Ok(());
            }
        }
        Err(Error::new(Kind::Closed, "watch group", "the host ended"))
    }
}

fn words(event: &Event) -> String {
    match event {
        Event::Snapshot { group } => {
            let members: Vec<_> = group.members.iter().map(|member| plain(&member.id)).collect();
            let leader = group.leader.as_ref().map_or("nobody leads".into(), |leader| {
                format!("{} leads, term {}", plain(&leader.member), leader.term.0)
            });
            format!("now       {} members [{}]; {leader}", members.len(), members.join(" "))
        }
        Event::Joined { member, .. } => format!("joined    {}", with_metadata(member)),
        Event::Updated { member, .. } => format!("updated   {}", with_metadata(member)),
        Event::Left { id, cause, .. } => {
            format!("left      {} ({})", plain(id), format!("{cause:?}").to_lowercase())
        }
        Event::Elected { leader, .. } => {
            format!("elected   {}, term {}", plain(&leader.member), leader.term.0)
        }
        Event::Vacated { member, term, .. } => format!("vacated   {}, term {}", plain(member), term.0),
        Event::Bound { binding, epoch, .. } => format!("rule      {}", group::rule(binding.as_ref(), *epoch)),
        Event::Partitioned { partition, .. } => match partition.pending.as_slice() {
            [] => format!("shares    version {}", partition.version),
            pending => {
                format!("shares    version {}, waits for {}", partition.version, plain(&pending.join(" ")))
            }
        },
        Event::Deleted { .. } => "deleted".into(),
    }
}

fn with_metadata(member: &MemberInfo) -> String {
    let pairs = member.metadata.iter().map(|(name, value)| format!(" {}={}", plain(name), plain(value)));
    let mut text = pairs.fold(plain(&member.id), |text, pair| text + &pair);
    if !member.capabilities.is_null() {
        text.push_str(&format!(" {}", plain(&member.capabilities.to_string())));
    }
    if !member.candidate {
        text.push_str(" (does not stand for election)");
    }
    text
}
