//! Locks: exclusive, shared, and semaphores. Lock, release, break, list, show.
//!
//! A lock is one record (`record.rs`), so that taking it, giving it back and letting the next one in are one guarded write
//! each, on every backend. Who waits stands in that record, in the order of the turns, and hears of its own by a watch
//! (`board.rs`): nobody polls, and a release wakes those it concerns. What this host asks of one lock is done by one task
//! (`desk.rs`), so that its own clients never write against each other.

mod board;
mod desk;
mod record;

use std::sync::Arc;

use althing_core::info::{
    BreakAsk, LockAnswer, LockAsk, LockBreak, LockBroken, LockHold, LockInfo, LockSummary, ReleaseAsk,
    Released,
};
use althing_core::{BootTime, Error, Kind, Principal, Result, Revision, SessionId, limits};
use tokio::sync::oneshot;

use self::desk::{Ask, Break, Enter};
use self::record::Party;
use crate::sessions::{Caller, LeftLock};
use crate::{Host, Runtime, SessionKey, admit};

pub(crate) use board::Locks;

impl Runtime {
    /// Locks names, all or none, and waits for them as long as is asked. A call that is dropped, or whose session ends,
    /// leaves nothing behind.
    ///
    /// The holder's token is higher than that of every earlier holder. `Conflict` where a name is in use as something else;
    /// `Busy` where as many stand there as can; `SessionLost` when the session ended meanwhile; `Unsupported` where the
    /// backend promises less than is required.
    pub async fn lock(&self, key: &SessionKey, ask: LockAsk) -> Result<LockAnswer> {
        let host = &self.0;
        let names = admit::lock(&ask)?;
        host.driver.capability().check("lock", &ask.require)?;
        let caller = host.sessions.begin_locking(key, names.len())?;
        let wait = ask.wait_ms.map(std::time::Duration::from_millis);
        let id = ask.id.clone().unwrap_or_else(|| host.nonce());
        let mut taking = Taking {
            host: host.clone(),
            client: key.id.clone(),
            caller,
            deadline: wait.map(|wait| host.clock.now() + wait),
            patient: wait.is_none_or(|wait| !wait.is_zero()),
            ask: LockAsk { id: Some(id), ..ask },
            parties: Vec::new(),
            locks: Vec::new(),
        };
        if let Some(locks) = taking.ask.id.as_ref().and_then(|id| host.sessions.granted(key, id, &names)) {
            return Ok(LockAnswer { granted: true, locks });
        }
        loop {
            for name in &names {
                if !taking.take(name.clone()).await? {
                    taking.give_back().await?;
                    return Ok(LockAnswer { granted: false, locks: Vec::new() });
                }
            }
            if host.sessions.grant_locks(&taking.client, &taking.parties) {
                return Ok(LockAnswer { granted: true, locks: taking.done() });
            }
            // One was lost while another was waited for, and somebody else may have had it since.
            taking.give_back().await?;
        }
    }

    /// Gives a lock back: from here on it is not held, and whoever is next is let in. Where this fails, the host goes on until
    /// that is done.
    pub async fn release_lock(&self, key: &SessionKey, lock: &str, ask: &ReleaseAsk) -> Result<Released> {
        match self.0.sessions.release(key, lock, ask)? {
            Err(before) => Ok(before),
            Ok(party) => self.0.leave_lock(lock, party).await.map(|()| Released::Released),
        }
    }

    /// Takes a lock away from its holders: asks them to stop and waits for their word, at most
    /// [`limits::HANDOVER_WINDOW`]; or, by force, at once. It is written to the audit.
    pub async fn break_lock(&self, by: &Principal, lock: &str, ask: &BreakAsk) -> Result<LockBroken> {
        admit::name("lock", lock)?;
        let host = &self.0;
        let (answer, asked) = oneshot::channel();
        let (token, force) = (ask.token, ask.force);
        host.ask_lock(lock, Some(Ask::Break(Break { token, by: by.to_string(), force, answer })));
        let parties = asked.await.unwrap_or_else(|_| Err(ends("break lock")))?;
        if !parties.is_empty() {
            let holders = parties.iter().map(Party::holder).collect();
            let (at_ms, by) = (host.clock.wall_ms(), by.to_string());
            host.audit.keep_break(LockBreak { lock: lock.to_owned(), at_ms, by, force, holders });
        }
        let left = if force { Vec::new() } else { host.until_left(lock, &parties).await };
        let tokens = |is_left: bool| {
            let of = parties.iter().filter(|party| left.contains(&party.id) == is_left);
            of.map(Party::token).collect()
        };
        Ok(LockBroken { broken: tokens(false), asked: tokens(true) })
    }

    /// Returns all locks that somebody holds or waits for, by name, as this host has seen them.
    pub async fn locks(&self) -> Result<Vec<LockSummary>> {
        self.0.see_all_locks().await?;
        let all = self.0.locks.all();
        Ok(all.iter().filter_map(|(name, record)| record.summary(name)).collect())
    }

    /// Returns who holds a lock and who waits, as this host has seen it; empty lists where nobody does.
    pub async fn lock_info(&self, name: &str) -> Result<LockInfo> {
        admit::name("lock", name)?;
        self.0.see_all_locks().await?;
        let nobody = || LockInfo { name: name.to_owned(), ..LockInfo::default() };
        Ok(self.0.locks.shown(name).map_or_else(nobody, |record| record.info(name)))
    }

    /// Tells whether a session of this host surely holds a lock by this token right now. No round trip.
    pub fn holds_lock(&self, key: &SessionKey, lock: &str, token: Revision) -> bool {
        self.0.anchor.held().is_some() && self.0.sessions.holds_lock(key, lock, token)
    }
}

impl Host {
    /// Strikes out what a session held that ended.
    pub(crate) fn leave_locks(self: &Arc<Self>, locks: Vec<LeftLock>) {
        for LeftLock { lock, party } in locks {
            self.ask_lock(&lock, Some(Ask::Leave { id: party, answer: None }));
        }
    }

    /// Strikes a party out of a lock; returns when that is done, or how the first try failed.
    async fn leave_lock(self: &Arc<Self>, lock: &str, party: String) -> Result<()> {
        let (answer, left) = oneshot::channel();
        self.ask_lock(lock, Some(Ask::Leave { id: party, answer: Some(answer) }));
        left.await.unwrap_or_else(|_| Err(ends("release lock").with_unknown_effect()))
    }

    /// Waits until parties stand in a lock no longer; returns those that still do in the end.
    async fn until_left(self: &Arc<Self>, lock: &str, parties: &[Party]) -> Vec<String> {
        let deadline = self.clock.now() + limits::HANDOVER_WINDOW;
        let mut seen = self.locks.subscribe();
        loop {
            seen.mark_unchanged();
            let image = self.locks.image(lock);
            let stands = |party: &&Party| image.iter().any(|image| image.record.holder(&party.id).is_some());
            let left: Vec<_> = parties.iter().filter(stands).map(|party| party.id.clone()).collect();
            if left.is_empty() {
                return left;
            }
            tokio::select! {
                _ = seen.changed() => {}
                () = self.clock.sleep_until(deadline) => return left,
            }
        }
    }

    /// Waits until all locks were seen once.
    async fn see_all_locks(self: &Arc<Self>) -> Result<()> {
        self.watch_locks();
        let mut seen = self.locks.subscribe();
        tokio::select! {
            _ = seen.wait_for(Option::is_some) => Ok(()),
            () = self.clock.sleep(limits::CALL_DEADLINE) => {
                let message = format!("the backend showed no locks within {:?}", limits::CALL_DEADLINE);
                Err(Error::new(Kind::Timeout, "list locks", message).advise("Look at the backend's log"))
            }
        }
    }
}

/// A request under way. What it has taken is given back when it is dropped before it is done.
#[derive(Debug)]
struct Taking {
    host: Arc<Host>,
    client: String,
    caller: Caller,
    ask: LockAsk,
    deadline: Option<BootTime>,
    patient: bool,
    /// Who stands where for this request, by lock.
    parties: Vec<(String, String)>,
    locks: Vec<LockHold>,
}

impl Taking {
    /// Takes one lock. Returns whether it is held.
    async fn take(&mut self, name: String) -> Result<bool> {
        let party = self.party();
        let (answer, granted) = oneshot::channel();
        // Before it is asked for: whatever happens from here on, it leaves again.
        self.parties.push((name.clone(), party.id.clone()));
        let request = self.ask.id.clone().unwrap_or_default();
        let enter = Enter { party, limit: self.ask.limit, patient: self.patient, request, answer };
        self.host.ask_lock(&name, Some(Ask::Enter(enter)));
        let late = async {
            match self.deadline.filter(|_| self.patient) {
                Some(deadline) => self.host.clock.sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let granted = tokio::select! {
            biased;
            granted = granted => match granted {
                Ok(granted) => granted?,
                Err(_) if self.caller.ended.is_cancelled() => return Err(self.ended()),
                Err(_) => return Err(ends("lock")),
            },
            () = self.caller.ended.cancelled() => return Err(self.ended()),
            () = self.host.ended.cancelled() => return Err(ends("lock")),
            () = late => None,
        };
        let is_held = granted.is_some();
        self.locks.extend(granted);
        Ok(is_held)
    }

    fn party(&self) -> Party {
        Party {
            id: self.host.nonce(),
            session: SessionId(0),
            host: self.host.identity.id.clone(),
            client: self.client.clone(),
            by: self.caller.by.to_string(),
            label: self.ask.label.clone(),
            mode: self.ask.mode,
            since_ms: self.host.clock.wall_ms(),
            token: None,
            breaking: None,
        }
    }

    fn ended(&self) -> Error {
        Error::new(Kind::SessionLost, "lock", "the session ended meanwhile")
            .with("session", &self.client)
            .advise("Open a new session and lock again")
    }

    /// Gives back what was taken, and waits until nothing of it stays. What is left where that fails is given back with this
    /// value.
    async fn give_back(&mut self) -> Result<()> {
        self.locks.clear();
        while let Some((lock, party)) = self.parties.pop() {
            self.host.sessions.drop_lock(&self.client, &party);
            self.host.leave_lock(&lock, party).await?;
        }
        Ok(())
    }

    fn done(mut self) -> Vec<LockHold> {
        self.parties.clear();
        std::mem::take(&mut self.locks)
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.host.sessions.end_locking(&self.client);
        for (lock, party) in self.parties.drain(..) {
            self.host.sessions.drop_lock(&self.client, &party);
            self.host.ask_lock(&lock, Some(Ask::Leave { id: party, answer: None }));
        }
    }
}

fn ends(operation: &'static str) -> Error {
    Error::new(Kind::Closed, operation, "the host ends")
        .advise("Open a session on another host and ask there")
}
