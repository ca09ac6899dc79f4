//! The one door to standard output and standard error.

use std::io::{self, Write};

use althing::info::ErrorInfo;
use althing::{Error, Kind, Result};
use serde::Serialize;

/// The operation of errors from here.
pub(crate) const OPERATION: &str = "print";

/// Writes a line to standard output. Fails with `Closed` when nobody reads it any more.
pub(crate) fn line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(unwritten)
}

fn unwritten(error: io::Error) -> Error {
    let closed = error.kind() == io::ErrorKind::BrokenPipe;
    let kind = if closed { Kind::Closed } else { Kind::Internal };
    Error::new(kind, OPERATION, "standard output cannot be written").because(error)
}

/// Writes bytes to standard output as they are; text ends with a line.
pub(crate) fn bytes(bytes: &[u8]) -> Result<()> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return line(text.strip_suffix('\n').unwrap_or(text));
    }
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(unwritten)
}

/// Writes a value to standard output, as JSON on one line.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|error| {
        Error::new(Kind::Internal, OPERATION, "this cannot be said in JSON").because(error)
    })?;
    line(&text)
}

/// Writes to standard error what went wrong and what to do about it: for people, or as JSON on one line.
pub(crate) fn error(error: &Error, json: bool) {
    let text = match serde_json::to_string(&ErrorInfo::from(error)) {
        Ok(text) if json => text,
        _ => sentences(error),
    };
    // Where standard error is closed, nobody can be told of that.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn sentences(error: &Error) -> String {
    let text = error.to_string();
    let Some(advice) = error.advice() else { return format!("error: {text}") };
    let sentence = text.strip_suffix(advice).and_then(|text| text.strip_suffix(". "));
    format!("error: {}\nhelp: {advice}", sentence.unwrap_or(&text))
}
