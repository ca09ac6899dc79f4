//! A short outage is nobody's concern: what is known not to have landed is sent again.

use std::sync::Arc;

use super::around::{Around, Call, Try};
use crate::{Chance, Clock, Driver, Effect, Error, Kind, Result, limits};

/// Sends again what failed with [`Kind::Unavailable`] or [`Kind::Timeout`] and wrote nothing, at most
/// [`limits::CALL_TRIES`] times in all, after pauses that double from [`limits::RETRY_PAUSE`]. Never what
/// may have been written: that is for its caller to read back.
#[derive(Debug)]
pub struct Retry {
    inner: Arc<dyn Driver>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
}

impl Retry {
    /// Wraps a driver.
    pub fn new(inner: Arc<dyn Driver>, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Self {
        Retry { inner, clock, chance }
    }
}

impl Around for Retry {
    fn inner(&self) -> &Arc<dyn Driver> {
        &self.inner
    }

    async fn around<'a, T: Send + 'a>(
        &'a self,
        _call: Call<'a>,
        send: impl Fn() -> Try<'a, T> + Send + Sync + 'a,
    ) -> Result<T> {
        let mut pause = limits::RETRY_PAUSE;
        for _ in 1..limits::CALL_TRIES {
            match send().await {
                Err(error) if may_send_again(&error) => {
                    self.clock.sleep(self.chance.jitter(pause)).await;
                    pause *= 2;
                }
                result => return result,
            }
        }
        send().await
    }
}

/// A read has no effect that could be unknown, so this is right for reads too.
fn may_send_again(error: &Error) -> bool {
    error.effect() == Effect::None && matches!(error.kind(), Kind::Unavailable | Kind::Timeout)
}
