//! What went wrong on the way to a host, and what the host said went wrong.

use std::io;
use std::time::Duration;

use althing_core::info::ErrorInfo;
use althing_core::{Effect, Error, Kind};

use crate::Address;

/// Turns what a host answered into the error that it was there: kind, effect, sentence and advice stay.
///
/// `operation` is what was asked here. Where the host's sentence begins with the same words they are not
/// said twice; where it failed deeper down, its words follow ours.
pub fn told(operation: &'static str, info: &ErrorInfo) -> Error {
    let sentence = info.message.strip_prefix(operation).and_then(|rest| rest.strip_prefix(": "));
    let mut sentence = sentence.unwrap_or(&info.message).to_owned();
    if let Some(advice) = &info.advice
        && let Some(rest) = sentence.strip_suffix(advice.as_str()).and_then(|rest| rest.strip_suffix(". "))
    {
        sentence.truncate(rest.len());
    }
    if info.effect == Effect::Unknown {
        sentence = sentence.replacen("; it may have been written", "", 1);
    }
    let mut error = Error::new(info.kind, operation, sentence);
    if info.effect == Effect::Unknown {
        error = error.with_unknown_effect();
    }
    match &info.advice {
        Some(advice) => error.advise(advice.as_str()),
        None => error,
    }
}

/// Makes the error that nobody could be reached at `address`. Nothing was sent.
pub(crate) fn unreachable(operation: &'static str, address: &Address, source: io::Error) -> Error {
    use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    match source.kind() {
        ConnectionRefused | NotFound => {
            Error::new(Kind::Unavailable, operation, format!("no host answers at {address}"))
                .advise("Start one with `althing serve`, or name another with --server")
        }
        PermissionDenied => Error::new(Kind::Denied, operation, format!("{address} may not be opened"))
            .advise("Ask for membership in the socket's group, or use --server http://… with a token"),
        _ => Error::new(Kind::Unavailable, operation, format!("{address} cannot be reached")),
    }
    .because(source)
}

/// Makes the error that the connection broke. What was sent may have been done.
pub(crate) fn broken(operation: &'static str, address: &Address, source: hyper::Error) -> Error {
    let error = Error::new(Kind::Unavailable, operation, format!("the connection to {address} broke"));
    let error = if source.is_canceled() { error } else { error.with_unknown_effect() };
    error.because(source)
}

/// Makes the error that no answer came in time. What was sent may have been done.
pub(crate) fn late(operation: &'static str, address: &Address, deadline: Duration) -> Error {
    Error::new(Kind::Timeout, operation, format!("no answer from {address} within {deadline:?}"))
        .with_unknown_effect()
        .advise("See whether the host is overloaded or stopped")
}

/// Makes the error that something answered which is not a host.
pub(crate) fn stranger(operation: &'static str, address: &Address, what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Internal, operation, format!("{address} answered what no host answers: {what}"))
        .with_unknown_effect()
        .advise("See whether it is an althing host, and of this version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_host_keeps_kind_effect_sentence_and_advice() {
        let there = Error::new(Kind::Timeout, "commit", "no answer within 2 s")
            .with("key", "group/web")
            .with_unknown_effect()
            .because(io::Error::other("reset"))
            .advise("Check the backend");
        let here = told("create group", &ErrorInfo::from(&there));
        assert_eq!(
            (here.kind(), here.effect(), here.advice()),
            (there.kind(), there.effect(), there.advice())
        );
        assert_eq!(
            here.to_string(),
            "create group: commit: no answer within 2 s (key=group/web): reset; it may have been written. Check the backend"
        );
    }

    #[test]
    fn the_operation_is_not_said_twice() {
        let there = Error::new(Kind::Exists, "create group", "it exists").with("group", "web");
        assert_eq!(told("create group", &ErrorInfo::from(&there)).to_string(), there.to_string());
    }
}
