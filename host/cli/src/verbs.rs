//! The table of verbs; each lives in a file of its name.

mod behaviour;
mod decisions;
mod drivers;
mod group;
mod leader;
mod lock;
mod member;
mod policy;
mod serve;
mod watch;

use std::process::ExitCode;

use althing::Result;
use clap::Subcommand;

use crate::ask::Host;

/// What `althing` can be told to do.
#[derive(Subcommand)]
pub(crate) enum Verb {
    Serve(serve::Serve),
    Drivers(drivers::Drivers),
    #[command(subcommand)]
    Group(group::Group),
    #[command(subcommand)]
    Member(member::Member),
    #[command(subcommand)]
    Leader(leader::Leader),
    Lock(lock::Lock),
    Watch(watch::Watch),
    #[command(subcommand)]
    Policy(policy::Policy),
    Decisions(decisions::Decisions),
    #[command(subcommand)]
    Behaviour(behaviour::Behaviour),
}

impl Verb {
    /// Does it, and returns the exit code.
    pub(crate) async fn run(self, host: &Host) -> Result<ExitCode> {
        let done = match self {
            Verb::Lock(verb) => return verb.run(host).await,
            Verb::Serve(verb) => verb.run(host).await,
            Verb::Drivers(verb) => verb.run(host).await,
            Verb::Group(verb) => verb.run(host).await,
            Verb::Member(verb) => verb.run(host).await,
            Verb::Leader(verb) => verb.run(host).await,
            Verb::Watch(verb) => verb.run(host).await,
            Verb::Policy(verb) => verb.run(host).await,
            Verb::Decisions(verb) => verb.run(host).await,
            Verb::Behaviour(verb) => verb.run(host).await,
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}
