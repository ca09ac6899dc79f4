//! `althing leader`.

use althing::Result;
use althing::info::StoodDown;
use clap::Subcommand;

use super::group;
use crate::ask::Host;

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
    },
}

impl Leader {
    pub(super) async fn run(self, host: &Host) -> Result<()> {
        let client = host.client()?;
        match self {
            Leader::Show { group } => host.show(&client.leader(&group).await?, |leader| {
                vec![leader.as_ref().map_or("nobody leads".into(), group::leader)]
            }),
            Leader::StandDown { group } => host.show(&client.stand_down(&group).await?, |outcome| {
                let words = match outcome {
                    StoodDown::Stopped => "the leader stopped",
                    StoodDown::Asked => "the leader was asked, and stops at the latest when its lease ends",
                    StoodDown::Vacant => "nobody leads",
                };
                vec![words.into()]
            }),
        }
    }
}
