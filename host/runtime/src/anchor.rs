//! The host's one session in the backend: opened, renewed, and known to be held until a deadline.

use std::sync::Arc;
use std::time::Duration;

use althing_core::info::Standing;
use althing_core::{BootTime, Chance, Clock, Driver, Kind, Result, SessionId, limits};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

/// The host's session, and until when it is surely kept.
#[derive(Debug)]
pub(crate) struct Anchor {
    driver: Arc<dyn Driver>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    lease: Duration,
    state: watch::Sender<AnchorState>,
    /// Somebody was told that the session has ended.
    doubted: Notify,
}

/// What is known of the session at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AnchorState {
    /// The session; gone while a new one is being opened.
    pub session: Option<SessionId>,
    /// Until when the store surely keeps it, counted from the send of the last acknowledged renewal.
    pub deadline: BootTime,
    pub standing: Standing,
    /// The host has ended: whatever is still learned of a session changes nothing any more.
    pub over: bool,
}

impl AnchorState {
    /// Returns the session, if it is surely held at that moment.
    fn held(&self, now: BootTime) -> Option<SessionId> {
        self.session.filter(|_| self.standing != Standing::Lost && now < self.deadline)
    }
}

/// Before the first session, and after the last.
const LOST: AnchorState = AnchorState {
    session: None,
    deadline: BootTime::new(Duration::ZERO),
    standing: Standing::Lost,
    over: false,
};

impl Anchor {
    pub(crate) fn new(
        driver: Arc<dyn Driver>,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
        lease: Duration,
    ) -> Self {
        Anchor { driver, clock, chance, lease, state: watch::Sender::new(LOST), doubted: Notify::new() }
    }

    /// Returns the session while it is surely held.
    pub(crate) fn held(&self) -> Option<SessionId> {
        self.state.borrow().held(self.clock.now())
    }

    /// Returns for how long the session is surely kept from now on.
    pub(crate) fn remaining(&self) -> Duration {
        let state = *self.state.borrow();
        match state.standing {
            Standing::Lost => Duration::ZERO,
            _ => state.deadline.since(self.clock.now()),
        }
    }

    pub(crate) fn state(&self) -> AnchorState {
        *self.state.borrow()
    }

    /// Has the session renewed at once: somebody was told that it has ended.
    pub(crate) fn doubt(&self) {
        self.doubted.notify_one();
    }

    /// Returns the session while it is surely held; where there is none, or `former` has ended, waits a moment for the next.
    pub(crate) async fn next(&self, former: Option<SessionId>) -> Option<SessionId> {
        let held = |state: &AnchorState| state.held(self.clock.now()).filter(|held| Some(*held) != former);
        let mut states = self.subscribe();
        tokio::select! {
            _ = states.wait_for(|state| state.over || held(state).is_some()) => {}
            () = self.clock.sleep(limits::NEXT_SESSION_WAIT) => {}
        }
        held(&self.state())
    }

    /// Follows every change of the session.
    pub(crate) fn subscribe(&self) -> watch::Receiver<AnchorState> {
        self.state.subscribe()
    }

    /// Opens the first session.
    pub(crate) async fn open(&self) -> Result<SessionId> {
        let sent = self.clock.now();
        let session = self.driver.open(self.lease).await?;
        self.set(Some(session.id), sent + usable(session.lease_min), Standing::Held);
        Ok(session.id)
    }

    /// Gives the session up for good: nothing is held by it any more, even if an answer to a renewal comes after
    /// this. Returns it, to be ended in the store.
    pub(crate) fn give_up(&self) -> Option<SessionId> {
        let state = self.state.send_replace(AnchorState { over: true, ..LOST });
        state.session
    }

    /// Keeps the session alive for ever; when it is lost, ends it and opens another.
    pub(crate) async fn run(&self) {
        loop {
            let state = self.state();
            if let Some(session) = state.session {
                self.keep(session).await;
                let lost = self.state();
                self.set(lost.session, lost.deadline, Standing::Lost);
                warn!(%session, "the host's session is lost");
                self.end(session).await;
            }
            self.reopen().await;
        }
    }

    /// Ends the session in the store, however long that takes: what it owned must be gone before the
    /// host comes back under another one.
    async fn end(&self, session: SessionId) {
        let mut pause = limits::RETRY_PAUSE;
        while let Err(error) = self.driver.close(session).await {
            warn!(%session, %error, "cannot end the lost session yet");
            self.rest(&mut pause).await;
        }
    }

    async fn reopen(&self) {
        let mut pause = limits::RETRY_PAUSE;
        loop {
            match self.open().await {
                Ok(session) => return info!(%session, "the host has a new session"),
                Err(error) => warn!(%error, "cannot open a session yet"),
            }
            self.rest(&mut pause).await;
        }
    }

    async fn rest(&self, pause: &mut Duration) {
        self.clock.sleep(self.chance.jitter(*pause)).await;
        *pause = (*pause * 2).min(Duration::from_secs(1));
    }

    /// Renews until the session is lost.
    async fn keep(&self, session: SessionId) {
        // What the store promised to keep it for, which may be less than what it was asked for.
        let mut promised = self.remaining().min(self.lease);
        let mut due = self.clock.now() + self.chance.jitter(promised / limits::RENEWALS_PER_LEASE);
        let mut former: Option<(BootTime, Duration)> = None;
        loop {
            tokio::select! {
                () = self.clock.sleep_until(due) => {}
                () = self.doubted.notified() => {}
            }
            let sent = self.clock.now();
            let deadline = self.state().deadline;
            let outcome = tokio::select! {
                outcome = self.driver.renew(session) => outcome,
                () = self.clock.sleep_until(deadline) => return,
                () = self.overdue(sent + promised / 6, deadline) => continue,
            };
            match outcome {
                Ok(lease) => {
                    self.set(Some(session), sent + usable(lease.min), Standing::Held);
                    self.compare_clocks(&mut former, sent, lease.store_time);
                    promised = lease.min.min(self.lease);
                    due = sent + self.chance.jitter(promised / limits::RENEWALS_PER_LEASE);
                }
                Err(error) if error.kind() == Kind::SessionLost => return,
                Err(error) => {
                    warn!(%session, %error, "a renewal failed");
                    self.set(Some(session), deadline, Standing::Suspect);
                    due = self.clock.now() + self.chance.jitter(promised / (8 * limits::RENEWALS_PER_LEASE));
                }
            }
            if self.clock.now() >= self.state().deadline {
                return;
            }
        }
    }

    /// Waits until a renewal is overdue, and says so.
    async fn overdue(&self, at: BootTime, deadline: BootTime) {
        self.clock.sleep_until(at).await;
        let state = self.state();
        self.set(state.session, deadline, Standing::Suspect);
    }

    /// A store whose clock is set expires leases early or late; all that can be done is to say so.
    fn compare_clocks(
        &self,
        former: &mut Option<(BootTime, Duration)>,
        sent: BootTime,
        store: Option<Duration>,
    ) {
        let Some(store) = store else { return };
        if let Some((sent_before, store_before)) = former.replace((sent, store)) {
            let ours = sent.since(sent_before);
            let theirs = store.saturating_sub(store_before);
            let apart = ours.abs_diff(theirs);
            if apart > self.lease / 4 {
                warn!(
                    ?apart,
                    "the backend's clock jumped against ours: leases of that time are not reliable"
                );
                metrics::counter!("althing_store_clock_jumps_total").increment(1);
            }
        }
    }

    fn set(&self, session: Option<SessionId>, deadline: BootTime, standing: Standing) {
        self.state.send_if_modified(|state| {
            if state.over {
                return false;
            }
            let next = AnchorState { session, deadline, standing, over: false };
            let told = (state.session, state.standing) != (next.session, next.standing);
            *state = next;
            told
        });
    }
}

/// What is left of a lease after clock drift and the guard: after that we no longer trust it.
pub(crate) fn usable(lease: Duration) -> Duration {
    let guard = limits::LEASE_GUARD_MIN.max(lease.mul_f64(limits::LEASE_GUARD_SHARE));
    lease.saturating_sub(guard).saturating_sub(lease.mul_f64(limits::CLOCK_DRIFT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_lies_before_the_stores_own() {
        assert_eq!(usable(Duration::from_secs(10)), Duration::from_millis(9490));
        assert_eq!(usable(Duration::from_millis(500)), Duration::from_micros(449_500));
        assert_eq!(usable(Duration::from_millis(10)), Duration::ZERO);
    }
}
