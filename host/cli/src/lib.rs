//! The `althing` command: a host as a daemon, and everything one asks of it. What it says of itself ([`command`]) is
//! also what its completions and manual pages are made of.

mod ask;
mod exit;
mod print;
mod table;
mod verbs;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::ask::Host;
use crate::verbs::Verb;

/// Groups, leaders and the rules that choose them, over the backend you already run.
#[derive(Parser)]
#[command(name = "althing", version, arg_required_else_help = true, after_help = exit::HELP)]
struct Command {
    #[command(flatten)]
    host: Host,

    #[command(subcommand)]
    verb: Verb,
}

/// Returns what can be typed: every verb with its options.
pub fn command() -> clap::Command {
    Command::command()
}

/// Does what the arguments of this process say, and returns the exit code that tells how it went.
pub fn run() -> ExitCode {
    let command = Command::parse();
    let outcome = exit::runtime().and_then(|runtime| {
        let outcome = runtime.block_on(command.verb.run(&command.host));
        // A read of standard input or a lookup that nobody waits for must not hold up the end.
        runtime.shutdown_background();
        outcome
    });
    exit::code(outcome, command.host.json)
}
