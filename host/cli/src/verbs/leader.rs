//! `althing leader`.

use althing::Result;
use althing::info::StoodDown;
use clap::Subcommand;

use super::group;
use crate::ask::Host;
use crate::table::plain;

/// Show who leads a group, or ask whoever does to stop
#[derive(Subcommand)]
pub(crate) enum Leader {
    /// Show who leads
    Show {
        /// The group
        group: String,
    },
    /// Ask the leader to stop, so that another one can lead; it is passed over for 30 seconds
    StandDown {
        /// The group
        group: String,

        /// The member that is to lead next, whatever the rule says; for 30 seconds, the rule does not move on from it
        #[arg(long, value_name = "MEMBER")]
        to: Option<String>,
    },
}

impl Leader {
    pub(super) async fn run(self, host: &Host) -> Result<()> {
        let client = host.client()?;
        match self {
            Leader::Show { group } => host.show(&client.leader(&group).await?, |leader| {
                vec![leader.as_ref().map_or("nobody leads".into(), group::leader)]
            }),
            Leader::StandDown { group, to } => {
                let outcome = match &to {
                    None => client.stand_down(&group).await?,
                    Some(successor) => client.stand_down_to(&group, successor).await?,
                };
                host.show(&outcome, |outcome| vec![words(outcome, to.as_deref())])
            }
        }
    }
}

fn words(outcome: &StoodDown, successor: Option<&str>) -> String {
    match (outcome, successor) {
        (StoodDown::Stopped, None) => "the leader stopped".into(),
        (StoodDown::Stopped, Some(successor)) => format!("the leader stopped for {}", plain(successor)),
        (StoodDown::Asked, _) => "the leader was asked, and stops at the latest when its lease ends".into(),
        (StoodDown::Vacant, _) => "nobody leads".into(),
    }
}
