//! What wraps a driver: deadlines, retries, traces, injected faults and the hop to the I/O runtime.
//!
//! Each layer is itself a [`Driver`], so they stack in any order; [`stack`] knows the one a host uses.

mod around;
mod chaos;
mod deadline;
mod hop;
mod retry;
mod scope;
mod trace;

use std::sync::Arc;

use tokio::runtime::Handle;

pub use around::{Around, Call, Operation, Try};
pub use chaos::{Chaos, Fault, Faults};
pub use deadline::Deadline;
pub use hop::Hop;
pub use retry::Retry;
pub use scope::Scope;
pub use trace::Trace;

use crate::{Chance, Clock, Driver};

/// Wraps a driver as a host does: each call hops to `runtime`, is traced there as a whole, is retried where
/// that is safe, and each try has its deadline.
pub fn stack(
    driver: Arc<dyn Driver>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    runtime: Handle,
) -> Arc<dyn Driver> {
    // The hop is outermost: a caller that is dropped then leaves a task that ends by the deadlines below.
    let bounded = Arc::new(Deadline::new(driver, clock.clone()));
    let retried = Arc::new(Retry::new(bounded, clock.clone(), chance));
    let traced = Arc::new(Trace::new(retried, clock));
    Arc::new(Hop::new(traced, runtime))
}
