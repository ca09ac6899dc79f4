//! Faults on real processes and real links, histories of what clients saw, and a checker of them.
//!
//! [`Proxy`] stands for a network, [`Stopped`] and [`kill`] for machines; a [`Recorder`] writes down what its owner
//! saw; [`check`] says which promises a [`History`] breaks. It knows nothing of how hosts work: it compares what clients
//! were told with each other.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "only tests use this; what does not work must end the test with what was seen"
)]

mod check;
mod ground;
mod history;
mod lane;
mod locker;
mod member;
mod process;
mod proxy;
mod report;
mod route;
mod scenarios;
mod signal;
mod stage;
mod watcher;

pub use althing_test_servers::Backend;
pub use check::{Rule, Violation, check};
pub use history::{Ask, Entry, History, LockStep, Nanos, Outcome, Recorder, What, nanos, now};
pub use locker::{LockerAsk, be_locker};
pub use member::{MemberAsk, be_member};
pub use process::Programs;
pub use proxy::{Fault, Flow, Proxy, Way};
pub use report::Report;
pub use scenarios::{Plan, SCENARIOS, Scenario, holds, play, scenarios};
pub use signal::{Stopped, kill, terminate};
