//! Set-up, guests, test servers, demo, bench and docs.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these commands speak to the person who typed them"
)]

mod backends;
mod behaviours;
mod bench;
mod chaos;
mod demo;
mod docs;
mod guests;
mod setup;
mod steps;
mod test;
mod tooz;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

/// Builds and tests Althing.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Verb {
    /// Install what is missing to build and to test.
    Setup,
    /// Build the guests: the shipped policies and those that misbehave.
    Guests(guests::Args),
    /// Install what is missing, then check and test everything.
    Test(test::Args),
    /// Install what is missing, then show the main job with real processes.
    Demo(demo::Args),
    /// Measure, each figure beside its raw floor, or each backend beside Tooz.
    Bench(bench::Args),
    /// Let a crowd call the shipped semaphore and barrier while callers and a host are killed.
    Behaviours(behaviours::Args),
    /// Print what each backend passes of the conformance suite and of the runtime's own tests.
    Backends(backends::Args),
    /// Play faults on real processes and links, and check what everybody saw.
    Chaos(chaos::Args),
    /// Run Tooz's own suite through our driver, or play each failure of Tooz beside Althing.
    Tooz(tooz::Args),
    /// Write the completions and the manual pages of `althing`.
    Docs(docs::Args),
}

impl Verb {
    fn run(self, root: &Path) -> anyhow::Result<()> {
        match self {
            Verb::Setup => setup::install_missing(root),
            Verb::Guests(args) => guests::build_and_show(root, &args),
            Verb::Test(args) => test::check_all(root, &args),
            Verb::Demo(args) => demo::show(root, &args),
            Verb::Bench(args) => bench::measure(root, &args),
            Verb::Behaviours(args) => behaviours::crowd(root, &args),
            Verb::Backends(args) => backends::table(root, &args),
            Verb::Chaos(args) => chaos::play(root, &args),
            Verb::Tooz(args) => tooz::compare(root, &args),
            Verb::Docs(args) => docs::write(root, &args),
        }
    }
}

fn main() -> ExitCode {
    match Verb::parse().run(&steps::root()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
