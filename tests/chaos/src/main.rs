//! Plays the scenarios, or is a member or a locker in one of them. `cargo xtask chaos` builds what this needs and runs it.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this command speaks to the person who typed it"
)]

use std::process::ExitCode;
use std::time::Duration;

use althing_chaos::{Backend, Plan, Programs, SCENARIOS, be_locker, be_member, play, scenarios};
use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;

const USAGE: &str = "althing-chaos [--backend NAME] [--seconds N] [--seed S] [--only SCENARIO] [--told]";

struct Args {
    backends: Vec<Backend>,
    time: Duration,
    seed: u64,
    only: Option<String>,
    /// Show every fault.
    told: bool,
}

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Args> {
        let mut args =
            Args { backends: Backend::ALL.to_vec(), time: Duration::ZERO, seed: 1, only: None, told: false };
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value; usage: {USAGE}"));
            match word.as_str() {
                "--backend" => args.backends = backends(&value()?)?,
                "--seconds" => args.time = Duration::from_secs(value()?.parse().context("--seconds")?),
                "--seed" => args.seed = value()?.parse().context("--seed")?,
                "--only" => args.only = Some(value()?),
                "--told" => args.told = true,
                _ => bail!("unknown argument {word:?}; usage: {USAGE}"),
            }
        }
        if let Some(only) =
            args.only.as_deref().filter(|only| SCENARIOS.iter().all(|scenario| scenario.name != *only))
        {
            bail!("no scenario is called {only:?}");
        }
        Ok(args)
    }
}

/// Returns the backends that are meant by a name; what is meant by one ZooKeeper or etcd is three of them too.
fn backends(name: &str) -> Result<Vec<Backend>> {
    let is_meant = |backend: &&Backend| [backend.name(), backend.one().name()].contains(&name);
    let meant: Vec<_> = Backend::ALL.iter().filter(is_meant).copied().collect();
    if meant.is_empty() {
        bail!("no backend is called {name:?}; usage: {USAGE}");
    }
    Ok(meant)
}

async fn run(args: &Args) -> Result<bool> {
    let programs = Programs::beside(std::env::current_exe()?)?;
    let mut good = true;
    for backend in &args.backends {
        let plan = Plan {
            backend: *backend,
            time: args.time,
            steps_max: usize::MAX,
            seed: args.seed,
            programs: programs.clone(),
        };
        for scenario in scenarios(*backend) {
            if args.only.as_deref().is_some_and(|only| only != scenario.name) {
                continue;
            }
            println!("{}: {}", scenario.name, scenario.about);
            let report = play(&plan, scenario).await?;
            if args.told {
                report.done.iter().for_each(|fault| println!("    {fault}"));
            }
            println!("{report}");
            good &= report.is_good();
        }
    }
    Ok(good)
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    let outcome = if words.next_if_eq("member").is_some() {
        be(words.next(), be_member).await
    } else if words.next_if_eq("locker").is_some() {
        be(words.next(), be_locker).await
    } else {
        match Args::parse(words) {
            Ok(args) => tokio::select! {
                outcome = run(&args) => outcome,
                _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted; nothing is left running")),
            },
            Err(error) => Err(error),
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Is what it is told to be, by `role`, until that is over.
async fn be<A, F>(ask: Option<String>, role: impl FnOnce(A) -> F) -> Result<bool>
where
    A: DeserializeOwned,
    F: Future<Output = althing_core::Result<()>>,
{
    role(serde_json::from_str(&ask.context("it has to be told what to be")?)?).await?;
    Ok(true)
}
