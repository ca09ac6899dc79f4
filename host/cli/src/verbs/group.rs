//! `althing group`.

use althing::info::{
    Algorithm, BindingInfo, GroupInfo, HostView, LeaderInfo, MemberInfo, OwnersAsk, PartitionAsk,
    PartitionInfo,
};
use althing::{Requirement, Result};
use clap::Subcommand;

use crate::ask::Host;
use crate::table::{Table, moment, plain, word};

/// Create, delete, list and show groups
#[derive(Subcommand)]
pub(crate) enum Group {
    /// Create a group
    Create {
        /// Its name
        group: String,

        /// Refuse a backend that promises less, now and to whoever joins: a level and features such as
        /// L1,across-hosts; see `althing drivers --in-use`
        #[arg(long, value_name = "PROMISES", default_value_t, hide_default_value = true)]
        require: Requirement,
    },
    /// Delete a group that has no members
    Delete {
        /// Its name
        group: String,
    },
    /// List the groups
    List,
    /// Let the members of a group share objects among them, each by its weight; show their parts
    Partition {
        /// Its name
        group: String,

        /// Assign by rendezvous, which follows the weights more closely, instead of by Tooz's hash ring
        #[arg(long)]
        rendezvous: bool,

        /// How many points a member has on the ring for each unit of its weight
        #[arg(long, value_name = "N", default_value_t = PartitionAsk::default().points)]
        points: u32,
    },
    /// Tell whom objects belong to
    Owners {
        /// The group
        group: String,

        /// The objects
        #[arg(required = true)]
        objects: Vec<String>,

        /// How many members to name for each, in order
        #[arg(long, value_name = "N", default_value_t = 1)]
        replicas: usize,
    },
    /// Show a group: its members, who leads, by which rule, and which hosts follow
    Show {
        /// Its name
        group: String,
    },
}

impl Group {
    pub(super) async fn run(self, host: &Host) -> Result<()> {
        let client = host.client()?;
        match self {
            Group::Create { group, require } => {
                client.create_group(&group, &require).await?;
                host.done(&format!("created {}", plain(&group)))
            }
            Group::Delete { group } => {
                client.delete_group(&group).await?;
                host.done(&format!("deleted {}", plain(&group)))
            }
            Group::List => {
                let table = Table::new(["GROUP", "MEMBERS", "LEADER", "POLICY"]);
                host.show_list(&client.groups().await?, "no groups", table, |table, group| {
                    let (leader, policy) = (group.leader.clone(), group.policy.clone());
                    let cells =
                        [leader.unwrap_or_default(), policy.unwrap_or_else(|| "oldest (built in)".into())];
                    let [leader, policy] = cells;
                    table.row([group.name.clone(), group.members.to_string(), leader, policy]);
                })
            }
            Group::Partition { group, rendezvous, points } => {
                let algorithm = if rendezvous { Algorithm::Rendezvous } else { Algorithm::Ring };
                let ask = PartitionAsk { algorithm, points };
                host.show(&client.partition_group(&group, &ask).await?, shares)
            }
            Group::Owners { group, objects, replicas } => {
                let ask = OwnersAsk { objects, replicas: Some(replicas) };
                let owners = client.owners(&group, &ask).await?.objects;
                let table = Table::new(["OBJECT", "OWNER", "OWNERS"]);
                host.show_list(&owners, "no objects", table, |table, object| {
                    let owner = object.owner.clone().unwrap_or_else(|| "nobody: it moves".into());
                    table.row([object.object.clone(), owner, object.owners.join(" ")]);
                })
            }
            Group::Show { group } => host.show(&client.group(&group).await?, lines),
        }
    }
}

/// Describes the shares of a group to people.
fn shares(partition: &PartitionInfo) -> Vec<String> {
    let mut lines = vec![
        format!("shares   by {}, version {}", word(&partition.algorithm), partition.version),
        match partition.pending.as_slice() {
            [] => "settled".into(),
            pending => format!("waits    for {} to give up what moves", plain(&pending.join(" "))),
        },
    ];
    let mut table = Table::new(["MEMBER", "WEIGHT"]);
    for share in &partition.members {
        table.row([share.id.clone(), share.weight.to_string()]);
    }
    lines.extend(spaced(&table));
    lines
}

/// Describes a group to people.
pub(crate) fn lines(group: &GroupInfo) -> Vec<String> {
    let mut lines = vec![
        format!("group   {}", plain(&group.name)),
        format!("leader  {}", group.leader.as_ref().map_or("nobody".into(), leader)),
        format!("policy  {}", rule(group.binding.as_ref(), group.epoch)),
    ];
    if group.ephemeral {
        lines.push("goes    with its last member".into());
    }
    if !group.require.is_none() {
        lines.push(format!("backend {} or better", group.require));
    }
    let mut table = member_table();
    group.members.iter().for_each(|member| add_member(&mut table, group, member));
    lines.extend(spaced(&table));
    lines.extend(hosts(&group.hosts));
    lines
}

/// Describes a leader to people.
pub(super) fn leader(leader: &LeaderInfo) -> String {
    let mut text =
        format!("{}, term {}, since {}", plain(&leader.member), leader.term.0, moment(leader.since_ms));
    if let Some(successor) = &leader.successor {
        text.push_str(&format!(", handing over to {}", plain(successor)));
    }
    if leader.revoked {
        text.push_str(", asked to stop");
    }
    text
}

/// Describes the rule that decides to people.
pub(super) fn rule(binding: Option<&BindingInfo>, epoch: u64) -> String {
    match binding {
        None => format!("oldest (built in), epoch {epoch}"),
        Some(bound) => {
            let (name, digest) = (plain(&bound.policy), bound.digest.short());
            format!(
                "{name} {} ({digest}), epoch {epoch}, bound by {}",
                plain(&bound.version),
                plain(&bound.bound_by)
            )
        }
    }
}

/// Begins a table of members.
pub(super) fn member_table() -> Table {
    Table::new(["MEMBER", "HOST", "JOINED", "STANDS", "METADATA"])
}

/// Adds a member of a group to a table of members.
pub(super) fn add_member(table: &mut Table, group: &GroupInfo, member: &MemberInfo) {
    let metadata: Vec<_> = member.metadata.iter().map(|(name, value)| format!("{name}={value}")).collect();
    table.row([
        member.id.clone(),
        host_name(group, &member.host),
        moment(member.joined_ms),
        if member.candidate { "yes".into() } else { "no".into() },
        metadata.join(" "),
    ]);
}

/// Returns the name of a host by its id, as far as a group knows it.
fn host_name(group: &GroupInfo, id: &str) -> String {
    let known = group.hosts.iter().find(|host| host.id == id);
    known.map_or(id, |host| &host.name).to_owned()
}

pub(super) fn hosts(hosts: &[HostView]) -> Vec<String> {
    let mut table = Table::new(["HOST", "EPOCH", "FOLLOWS", "ID"]);
    for host in hosts {
        let follows = match (&host.reason, host.behind) {
            (_, false) => "yes".into(),
            (None, true) => "behind".into(),
            (Some(reason), true) => format!("behind: {reason}"),
        };
        table.row([host.name.clone(), host.epoch.to_string(), follows, host.id.clone()]);
    }
    spaced(&table)
}

pub(super) fn spaced(table: &Table) -> Vec<String> {
    let lines = table.lines();
    if lines.is_empty() { lines } else { [vec![String::new()], lines].concat() }
}
