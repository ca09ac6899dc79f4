//! The guard of a lock.

use std::sync::Arc;

use althing_core::info::{LockAsk, LockHold, Released};
use althing_core::{Chance, Clock, Error, Kind, OsChance, Result, Revision};

use crate::Membership;
use crate::membership::Keeper;

/// A lock that is held, as long as [`is_held`](Self::is_held) says so.
///
/// The contract is that of the [`Membership`] it came from: while it is held here, it is held nowhere else that excludes it. It
/// is lost when the deadline passes, when the host says so, or when somebody breaks it; it never comes back. Who is asked to
/// stop has until its lease runs out: the lock moves on as soon as this guard is released or dropped. Give the
/// [`token`](Self::token) along wherever a step can be fenced.
///
/// Dropping it releases it in the background; [`release`](Self::release) waits for that.
#[derive(Debug)]
pub struct Lock {
    keeper: Arc<Keeper>,
    hold: LockHold,
}

impl Membership {
    /// Locks names, all or none; `None` where others hold one for longer than was waited. Dropping this future leaves
    /// nothing behind. `SessionLost` when the session has ended or ends meanwhile, whatever becomes of the connection.
    pub async fn lock(&self, ask: &LockAsk) -> Result<Option<Vec<Lock>>> {
        let id = ask.id.clone().unwrap_or_else(|| format!("{:032x}", OsChance.bits()));
        let ask = LockAsk { id: Some(id.clone()), ..ask.clone() };
        let mut asking = Asking { keeper: self.keeper().clone(), id, granted: Vec::new() };
        asking.keeper.change(|held| held.ask(&asking.id));
        let answer = tokio::select! {
            biased;
            () = asking.keeper.until_ended() => return Err(ended()),
            answer = asking.keeper.client.lock(&asking.keeper.session, &ask) => answer?,
        };
        asking.granted.clone_from(&answer.locks);
        let keeper = asking.keeper.clone();
        // From here on the locks are known, so that a renewal does not take them for forgotten ones.
        drop(asking);
        let lock = |hold| Lock { keeper: keeper.clone(), hold };
        Ok(answer.granted.then(|| answer.locks.into_iter().map(lock).collect()))
    }
}

/// A request whose answer is on its way, known as such until that has come or nobody waits for it any more.
struct Asking {
    keeper: Arc<Keeper>,
    id: String,
    granted: Vec<LockHold>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        let now = self.keeper.clock.now();
        self.keeper.change(|held| held.answered(&self.id, &self.granted, now));
    }
}

/// A release on its way, known as such until the host has heard of it or nobody waits for that any more.
struct Releasing {
    keeper: Arc<Keeper>,
    hold: LockHold,
}

impl Drop for Releasing {
    fn drop(&mut self) {
        self.keeper.change(|held| held.unlocked(&self.hold));
    }
}

impl Lock {
    /// Returns the lock as the host granted it.
    pub fn hold(&self) -> &LockHold {
        &self.hold
    }

    /// Returns the fencing token: higher than that of every holder before.
    pub fn token(&self) -> Revision {
        self.hold.token
    }

    /// Tells whether it is held now. Asks nobody.
    pub fn is_held(&self) -> bool {
        self.keeper.held().has(&self.hold, self.keeper.clock.now())
    }

    /// Waits until it is not held any more. Cancel-safe.
    pub async fn lost(&self) {
        loop {
            let changed = self.keeper.changed.notified();
            let deadline = self.keeper.held().deadline();
            if !self.is_held() {
                return;
            }
            tokio::select! {
                () = changed => {}
                () = self.keeper.clock.sleep_until(deadline) => {}
            }
        }
    }

    /// Releases it. From here on it is not held, whatever comes of this; where it fails, the host is told again with
    /// the next renewal.
    pub async fn release(self) -> Result<Released> {
        let keeper = self.keeper.clone();
        let hold = self.hold.clone();
        let was_held = keeper.change(|held| held.unlock(&hold));
        drop(self);
        let releasing = Releasing { keeper: keeper.clone(), hold };
        let released = keeper.client.release_lock(&keeper.session, &releasing.hold).await?;
        // The host may not have noticed yet that the deadline here has passed.
        Ok(if was_held == Some(true) { released } else { Released::Lost })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.keeper.change(|held| held.unlock(&self.hold)).is_some() {
            self.keeper.clone().release_in_background(self.hold.clone());
        }
    }
}

fn ended() -> Error {
    Error::new(Kind::SessionLost, "lock", "the session has ended").advise("Open a new session and lock again")
}
