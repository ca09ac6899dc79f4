//! Prints the table of guests that misbehave: each is shown to a host of its own, and what was seen stands in its line.
//!
//! `cargo xtask guests --table` builds what this needs and runs it. It fails when a guest was seen to do, or the host to
//! say, anything else than the table in `rows.rs` expects.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this command speaks to the person who typed it"
)]

use std::process::ExitCode;
use std::time::Duration;

use althing_guests_test::row::{GROUPS, Seen, Sight};
use althing_guests_test::rows;
use althing_guests_test::stage::INTERVAL;
use tokio::runtime::Runtime;

/// What is told of a guest is cut to so many characters here; tests look at all of it.
const TOLD_CHARS_MAX: usize = 150;

fn main() -> ExitCode {
    let only = std::env::args().nth(1).unwrap_or_default();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no threads can be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!(
        "{}",
        line(
            ["FIXTURE", "SEEN AS", "LEADS", "DECIDED", "FAULTS", "LATE", "(FLOOR)", "TOLD"].map(String::from)
        )
    );
    let (mut wrong, mut latest, mut count) = (Vec::new(), Duration::ZERO, 0);
    for row in rows::all().iter().filter(|row| row.name.contains(&only)) {
        let sight = runtime.block_on(row.show());
        println!("{}", line(cells(row.name, &sight)));
        wrong.extend(row.wrong(&sight).map(|wrong| format!("{}: {wrong}", row.name)));
        latest = latest.max(sight.late);
        count += 1;
    }
    println!(
        "\n{count} guests. A renewal of the host's session was due every {} ms; the latest came {:.1} ms late.\n\
         In brackets: by how much a thread that only sleeps was woken too late on this machine meanwhile.",
        INTERVAL.as_millis(),
        millis(latest)
    );
    wrong.iter().for_each(|wrong| eprintln!("wrong: {wrong}"));
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cells(name: &str, sight: &Sight) -> [String; 8] {
    let (seen, told) = match &sight.seen {
        Seen::Refused(kind, told) => (format!("refused: {kind}"), told),
        Seen::Fault(cause, told) => (format!("fault: {cause}"), told),
        Seen::Decides(told) => ("decides".into(), told),
    };
    let told = match told.char_indices().nth(TOLD_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &told[..end]),
        None => told.clone(),
    };
    [
        name.into(),
        seen,
        leads(&sight.leaders),
        sight.decisions.to_string(),
        sight.faults.to_string(),
        format!("{:.1} ms", millis(sight.late)),
        format!("({:.1})", millis(sight.floor)),
        told,
    ]
}

/// Says who leads in how many of the groups.
fn leads(leaders: &[String]) -> String {
    let first = leaders.first().map_or("nobody", String::as_str);
    let count = leaders.iter().filter(|leader| *leader == first).count();
    format!("{first} {count}/{GROUPS}")
}

fn line([name, seen, leads, decided, faults, late, floor, told]: [String; 8]) -> String {
    format!("{name:<28} {seen:<18} {leads:<12} {decided:>7} {faults:>6} {late:>9} {floor:>8}  {told}")
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
