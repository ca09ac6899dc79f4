//! Checks the house: who may know whom, how long things may be, which words are not used, what must be documented.
//!
//! Every rule is a function from a part of the [`Tree`](tree::Tree) to [`Finding`]s. One test runs it over this
//! repository, another over a bad example in memory, so that a rule which no longer finds anything is noticed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a check that cannot run must fail"
)]

mod docs;
mod layers;
mod sizes;
mod tokens;
mod tree;
mod words;

use std::fmt;

/// Something that breaks a rule: where, what, and what to do about it.
struct Finding {
    place: String,
    what: String,
    advice: String,
}

impl Finding {
    fn new(place: impl fmt::Display, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding { place: place.to_string(), what: what.into(), advice: advice.into() }
    }

    fn at(path: &str, line: usize, what: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding::new(format_args!("{path}:{line}"), what, advice)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. {}", self.place, self.what, self.advice)
    }
}

/// Fails with one line for each finding.
#[track_caller]
fn expect_none(findings: impl IntoIterator<Item = Finding>) {
    let lines: Vec<_> = findings.into_iter().map(|finding| finding.to_string()).collect();
    assert!(lines.is_empty(), "{} findings\n{}\n", lines.len(), lines.join("\n"));
}

/// Fails unless the findings are at exactly these places.
#[track_caller]
fn expect_at(findings: impl IntoIterator<Item = Finding>, places: &[&str]) {
    let found: Vec<_> = findings.into_iter().map(|finding| finding.place).collect();
    assert_eq!(found, places);
}
