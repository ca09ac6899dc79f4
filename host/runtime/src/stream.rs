//! What a client hears of its own session.

use std::sync::Arc;

use althing_core::info::SessionEvent;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::Host;

/// A session's events, the first of which says what it holds. Bounded: who lags behind is told what it holds now.
#[derive(Debug)]
pub struct SessionStream {
    host: Arc<Host>,
    session: String,
    first: Option<SessionEvent>,
    events: Receiver<SessionEvent>,
    over: bool,
}

impl SessionStream {
    pub(crate) fn new(
        host: Arc<Host>,
        session: String,
        first: SessionEvent,
        events: Receiver<SessionEvent>,
    ) -> Self {
        SessionStream { host, session, first: Some(first), events, over: false }
    }

    /// Waits for the next event; `None` after the session ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<SessionEvent> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        if self.over {
            return None;
        }
        match self.events.recv().await {
            Ok(event) => {
                self.over = matches!(event, SessionEvent::Ended { .. });
                Some(event)
            }
            Err(RecvError::Lagged(_)) => {
                self.events = self.events.resubscribe();
                self.host.standing_of(&self.session)
            }
            Err(RecvError::Closed) => None,
        }
    }
}

impl Drop for SessionStream {
    fn drop(&mut self) {
        if !self.over && self.host.sessions.drops_on_disconnect(&self.session) {
            self.host.end_session(&self.session, "its connection closed");
        }
    }
}
