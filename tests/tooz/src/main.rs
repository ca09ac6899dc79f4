//! Prints how Tooz's suite ends through our driver, or each failure of Tooz beside Althing. `cargo xtask tooz` builds what
//! this needs and runs it.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this command speaks to the person who typed it"
)]

use std::path::Path;
use std::process::ExitCode;

use althing_test_servers::Backend;
use althing_tooz::{Kind, Row, Side, backends, environment, play, run_suite, server};
use anyhow::{Context, Error, Result, anyhow, bail};

const USAGE: &str = "althing-tooz [--failures] [--backend NAME|all] [--only NAME] [--side tooz|althing]";

struct Args {
    backends: Vec<Backend>,
    failures: bool,
    /// Those scenarios alone that have this in their name.
    only: String,
    sides: Vec<Side>,
}

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Args> {
        let mut args = Args {
            backends: backends(),
            failures: false,
            only: String::new(),
            sides: vec![Side::Tooz, Side::Althing],
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value; usage: {USAGE}"));
            match word.as_str() {
                "--failures" => args.failures = true,
                "--only" => args.only = value()?,
                "--backend" => args.backends = named(&value()?)?,
                "--side" => {
                    let name = value()?;
                    args.sides.retain(|side| side.to_string() == name);
                }
                _ => bail!("unknown argument {word:?}; usage: {USAGE}"),
            }
        }
        Ok(args)
    }
}

fn named(names: &str) -> Result<Vec<Backend>> {
    if names == "all" { Ok(backends()) } else { Backend::list(names).map_err(Error::msg) }
}

/// Prints a row per backend. Tells whether all ended as they must.
async fn suite(python: &Path, args: &Args) -> Result<bool> {
    let mut good = true;
    println!("{:16} {:>7} {:>8} {:>7} {:>9}", "backend", "passed", "skipped", "failed", "time");
    for backend in &args.backends {
        let server = server(*backend).await.with_context(|| format!("no {}", backend.name()))?;
        let tally = run_suite(python, &server).await.with_context(|| backend.name())?;
        let (passed, skipped, failed) = (tally.passed, tally.skipped, tally.failed);
        let seconds = tally.took.as_secs_f64();
        println!("{:16} {passed:>7} {skipped:>8} {failed:>7} {seconds:>7.1} s", backend.name());
        if !tally.is_good() {
            eprintln!("{}", tally.told);
        }
        good &= tally.is_good();
    }
    Ok(good)
}

/// Prints a row per failure. Tells whether Althing is right wherever Tooz is wrong, and Tooz is wrong wherever it was.
async fn failures(python: &Path, args: &Args) -> Result<bool> {
    let (mut good, mut count) = (true, 0);
    println!("{:5} {:14} {:56} | {:54} | {:56} |", "study", "backend", "failure", "Tooz 9.1.0", "Althing");
    for backend in &args.backends {
        let mut sides = Vec::new();
        for side in &args.sides {
            let mut server = server(*backend).await.with_context(|| format!("no {}", backend.name()))?;
            sides.push(play(python, *side, backend.name(), &args.only, &mut server).await?);
        }
        let [tooz, althing] = match args.sides[..] {
            [Side::Tooz] => [sides.remove(0), Vec::new()],
            [Side::Althing] => [Vec::new(), sides.remove(0)],
            _ => sides.try_into().map_err(|_| anyhow!("two sides"))?,
        };
        let rows = pairs(&tooz, &althing);
        count += rows.len();
        good &= rows.iter().filter(|pair| !print(backend.name(), pair)).count() == 0;
    }
    println!(
        "{count} failures of Tooz {}",
        if good { "and none of them with Althing" } else { "were played" }
    );
    Ok(good)
}

/// What was seen of one scenario: on Tooz, on Althing.
type Pair<'a> = (&'a Row, Option<&'a Row>, Option<&'a Row>);

fn pairs<'a>(tooz: &'a [Row], althing: &'a [Row]) -> Vec<Pair<'a>> {
    let of = |rows: &'a [Row], name: &str| rows.iter().find(|row| row.name == name);
    let mut all: Vec<_> = if tooz.is_empty() { althing } else { tooz }.iter().collect();
    all.sort_by_key(|row| place(&row.section));
    all.into_iter().map(|row| (row, of(tooz, &row.name), of(althing, &row.name))).collect()
}

/// Returns the numbers of a section: 1.15 comes after 1.9.
fn place(section: &str) -> Vec<u32> {
    section.split('.').filter_map(|number| number.parse().ok()).collect()
}

/// Prints a row. Tells whether both sides are as they should be.
fn print(backend: &str, (row, tooz, althing): &Pair) -> bool {
    let what = |row: &Option<&Row>| row.map_or("-", |row| row.what.as_str()).to_owned();
    let is = |row: &Option<&Row>, kind: Kind| row.is_none_or(|row| row.kind == kind);
    let verdict = match (is(tooz, Kind::Wrong), is(althing, Kind::Right)) {
        (true, true) => "right",
        (true, false) => "WRONG",
        (false, _) => "TOOZ NO LONGER FAILS",
    };
    let Row { section, failure, .. } = row;
    println!("{section:5} {backend:14} {failure:56} | {:54} | {:56} | {verdict}", what(tooz), what(althing));
    verdict == "right"
}

async fn run(args: &Args) -> Result<bool> {
    let python = environment().context("there is no Python with Tooz: run `cargo xtask setup`")?;
    if args.failures { failures(&python, args).await } else { suite(&python, args).await }
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = match Args::parse(std::env::args().skip(1)) {
        Ok(args) => tokio::select! {
            outcome = run(&args) => outcome,
            _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted; nothing is left running")),
        },
        Err(error) => Err(error),
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
