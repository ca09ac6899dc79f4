//! Tooz beside Althing: its own suite through our driver, and each of its failures on both.
//!
//! The scenarios are Python (`failures/`), because what is compared is what a service sees of Tooz's API. From here come the
//! servers, the hosts, and the faults that only whoever started a server can play. `cargo xtask tooz` prints both as tables.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "only tests use this; what does not work must end the test with what was seen"
)]

mod failures;
mod host;
mod place;
mod python;
mod suite;

pub use failures::{Kind, Row, Side, play};
pub use host::{Host, program, url};
pub use place::its_url;
pub use python::{environment, is_ready};
pub use suite::{PASSED, SKIPPED, Tally, run_suite};

use std::time::Duration;

use althing_test_servers::{Backend, Server};

/// A ZooKeeper's unit of time: two of them are the shortest session.
const TICK: Duration = Duration::from_millis(100);

/// Starts a private backend. `None` where its program is missing and not required.
pub async fn server(backend: Backend) -> Option<Server> {
    Server::start(backend, TICK).await
}

/// Returns where Tooz or Althing is played at all: an ensemble and a cluster are to a client what one server is.
pub fn backends() -> Vec<Backend> {
    Backend::ALL.iter().copied().filter(|backend| backend.one() == *backend).collect()
}
