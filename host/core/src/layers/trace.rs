//! What was asked of a backend, how it went and how long it took.

use std::sync::Arc;

use tracing::{Instrument, Span, debug, debug_span, field};

use super::around::{Around, Call, Try};
use crate::{Clock, Driver, Result};

/// Makes a span of each call, at debug level: backend, operation, key, outcome, micros. Values and
/// sessions are not shown.
#[derive(Debug)]
pub struct Trace {
    inner: Arc<dyn Driver>,
    clock: Arc<dyn Clock>,
    backend: String,
}

impl Trace {
    /// Wraps a driver.
    pub fn new(inner: Arc<dyn Driver>, clock: Arc<dyn Clock>) -> Self {
        let backend = inner.capability().backend;
        Trace { inner, clock, backend }
    }

    fn record<T>(&self, span: &Span, result: &Result<T>, micros: u128) {
        span.record("micros", micros as u64);
        match result {
            Ok(_) => span.record("outcome", "ok"),
            Err(error) => span.record("outcome", field::display(error.kind())),
        };
        span.in_scope(|| match result {
            Ok(_) => debug!("answered"),
            Err(error) => debug!(%error, "failed"),
        });
    }
}

impl Around for Trace {
    fn inner(&self) -> &Arc<dyn Driver> {
        &self.inner
    }

    async fn around<'a, T: Send + 'a>(
        &'a self,
        call: Call<'a>,
        send: impl Fn() -> Try<'a, T> + Send + Sync + 'a,
    ) -> Result<T> {
        let span = debug_span!(
            "backend",
            backend = self.backend,
            operation = call.operation.name(),
            key = call.key.map(field::display),
            outcome = field::Empty,
            micros = field::Empty,
        );
        if span.is_disabled() {
            return send().await;
        }
        let begun = self.clock.now();
        let result = send().instrument(span.clone()).await;
        self.record(&span, &result, self.clock.now().since(begun).as_micros());
        result
    }
}
