//! Lets a crowd call the shipped behaviours on three hosts. `cargo xtask behaviours` builds what this needs and runs it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this speaks to the person who typed it")]

use std::process::ExitCode;
use std::time::Duration;

use althing_sim::crowd::{self, LIMIT, Told};
use althing_sim::{Stage, TICK};
use althing_test_servers::{Backend, Server};

const CALLERS: usize = 32;
const USAGE: &str = "crowd [--seconds N] [--backend NAME]";

struct Args {
    seconds: u64,
    backend: Backend,
}

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Args> {
        let mut args = Args { seconds: 60, backend: Backend::Memory };
        while let Some(word) = words.next() {
            let value = words.next()?;
            match word.as_str() {
                "--seconds" => args.seconds = value.parse().ok()?,
                "--backend" => args.backend = Backend::named(&value)?,
                _ => return None,
            }
        }
        Some(args)
    }
}

async fn run(args: &Args) -> Option<Told> {
    let server = Server::start(args.backend, TICK).await?;
    let stage = Stage::alone_on(server).await;
    let fleet = crowd::fleet(&stage).await;
    println!("{CALLERS} callers on 3 hosts on {}, for {} s …", args.backend.name(), args.seconds);
    Some(crowd::gather(&fleet, CALLERS, Duration::from_secs(args.seconds)).await)
}

fn tell(told: &Told) {
    println!("calls                        {}", told.calls);
    println!("permits given                {}", told.acquired);
    println!("barrier tripped              {} times, {} heard so", told.trips, told.tripped);
    println!("callers killed               {}, and one host", told.killed);
    println!("held at once, as believed    {} of {LIMIT}", told.believed_max);
    println!("held at once, in the store   {} of {LIMIT}", told.stored_max);
    println!("left behind after one lease  {}", told.left_behind);
    told.wrong.iter().for_each(|wrong| eprintln!("wrong: {wrong}"));
}

#[tokio::main]
async fn main() -> ExitCode {
    let Some(args) = Args::parse(std::env::args().skip(1)) else {
        eprintln!("error: usage: {USAGE}");
        return ExitCode::FAILURE;
    };
    let told = tokio::select! {
        told = run(&args) => told,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("error: interrupted");
            return ExitCode::FAILURE;
        }
    };
    let Some(told) = told else {
        eprintln!("error: {} is not installed", args.backend.name());
        return ExitCode::FAILURE;
    };
    tell(&told);
    if told.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
