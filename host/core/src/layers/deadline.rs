//! No call hangs: each is answered within [`limits::CALL_DEADLINE`].

use std::sync::Arc;

use super::around::{Around, Call, Try};
use crate::{Clock, Driver, Error, Kind, Result, limits};

/// Bounds each call below. A call that is not answered in time is dropped and fails with
/// [`Kind::Timeout`], of unknown effect where it writes. Waiting for a watch is not bounded.
#[derive(Debug)]
pub struct Deadline {
    inner: Arc<dyn Driver>,
    clock: Arc<dyn Clock>,
}

impl Deadline {
    /// Wraps a driver.
    pub fn new(inner: Arc<dyn Driver>, clock: Arc<dyn Clock>) -> Self {
        Deadline { inner, clock }
    }
}

impl Around for Deadline {
    fn inner(&self) -> &Arc<dyn Driver> {
        &self.inner
    }

    async fn around<'a, T: Send + 'a>(
        &'a self,
        call: Call<'a>,
        send: impl Fn() -> Try<'a, T> + Send + Sync + 'a,
    ) -> Result<T> {
        let deadline = self.clock.now() + limits::CALL_DEADLINE;
        // Biased: an answer that is there counts, however late we look.
        tokio::select! {
            biased;
            result = send() => result,
            () = self.clock.sleep_until(deadline) => Err(timeout(call)),
        }
    }
}

fn timeout(call: Call<'_>) -> Error {
    let message = format!("no answer within {:?}", limits::CALL_DEADLINE);
    let mut error = Error::new(Kind::Timeout, call.operation.name(), message);
    if let Some(key) = call.key {
        error = error.with("key", key);
    }
    call.operation.unanswered(error)
}
