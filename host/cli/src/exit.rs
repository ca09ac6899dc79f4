//! How a verb ends: exit codes, and errors as people read them.

use std::process::ExitCode;

use althing::{Error, Kind, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::print;

/// The exit codes, for `--help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage or input
  3  not found
  4  exists already, or somebody else was first
  5  no host, no backend, busy, or no answer in time
  6  denied";

/// Returns the code of an outcome, after telling of a failure.
pub(crate) fn code(outcome: Result<ExitCode>, json: bool) -> ExitCode {
    match outcome {
        Ok(code) => code,
        // Whoever read the output has seen enough.
        Err(error) if error.operation() == print::OPERATION && error.kind() == Kind::Closed => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            print::error(&error, json);
            ExitCode::from(number(error.kind()))
        }
    }
}

fn number(kind: Kind) -> u8 {
    match kind {
        Kind::Invalid | Kind::TooLarge => 2,
        Kind::NotFound => 3,
        Kind::Exists | Kind::Conflict => 4,
        Kind::Unavailable | Kind::Timeout | Kind::SessionLost | Kind::Busy | Kind::Closed => 5,
        Kind::Denied => 6,
        // Unsupported, Format, Fault, Internal, and kinds of later versions.
        _ => 1,
    }
}

/// Starts the runtime on which a verb runs.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime
        .enable_all()
        .build()
        .map_err(|error| Error::new(Kind::Internal, "start", "no threads can be started").because(error))
}

/// Catches SIGTERM and SIGINT from now on.
pub(crate) fn signals() -> Result<(Signal, Signal)> {
    let catch = |kind| {
        signal(kind)
            .map_err(|error| Error::new(Kind::Internal, "start", "signals cannot be caught").because(error))
    };
    Ok((catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?))
}
