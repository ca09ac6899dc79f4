//! How this host follows the fleet: it watches, loads what is bound, and writes down how far it has come.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use althing_core::info::Standing;
use althing_core::{Delta, Digest, Key, Kind, Revision, SessionId, Txn, limits};
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::Host;
use crate::layout::{HostRecord, Seat, encode, fleet, host_key};

/// What this host is following up.
#[derive(Debug, Default)]
pub(crate) struct Following {
    look: Notify,
    /// A member joined in a session that has ended by now.
    pub stray: Notify,
    loading: Mutex<HashSet<Digest>>,
    /// Why a digest could not be loaded.
    failed: Mutex<BTreeMap<Digest, String>>,
}

/// The pause before a policy that could not be loaded is tried again.
const RELOAD_PAUSE: Duration = Duration::from_secs(2);

impl Host {
    /// Watches the fleet for ever: every change goes into the mirror, then to whom it concerns.
    pub(crate) async fn watch_fleet(self: Arc<Self>) {
        self.follow(fleet(), |delta| {
            let touched = self.mirror.apply(delta);
            touched.groups.iter().for_each(|group| self.elections.wake(group));
            if touched.hosts {
                self.elections.wake_all();
                self.clear_locks();
            }
            self.following.look.notify_one();
        })
        .await;
    }

    /// Watches what lies below a prefix for ever, and hands over every delta, the first of which is a snapshot.
    pub(crate) async fn follow(&self, prefix: Key, mut take: impl FnMut(Delta) + Send) {
        let (mut seen, mut pause) = (Revision::ZERO, limits::RETRY_PAUSE);
        loop {
            match self.follow_from(&prefix, &mut seen, &mut pause, &mut take).await {
                Ok(()) => {}
                Err(error) => warn!(%prefix, %error, "a watch broke; it begins again"),
            }
            self.clock.sleep(self.chance.jitter(pause)).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn follow_from(
        &self,
        prefix: &Key,
        seen: &mut Revision,
        pause: &mut Duration,
        take: &mut (impl FnMut(Delta) + Send),
    ) -> althing_core::Result<()> {
        let mut watch = self.driver.watch(prefix, *seen).await?;
        loop {
            let delta = watch.next().await?;
            *pause = limits::RETRY_PAUSE;
            let (Delta::Changes { revision, .. } | Delta::Resync { revision, .. }) = &delta;
            *seen = *revision;
            take(delta);
        }
    }

    /// Follows the standing of the host's session: tells the clients, wakes the elections, and after a loss
    /// joins everybody again.
    pub(crate) async fn follow_anchor(self: Arc<Self>) {
        let mut states = self.anchor.subscribe();
        let mut former = *states.borrow_and_update();
        loop {
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return },
                () = self.following.stray.notified() => drop(self.spawn(self.clone().rejoin_all())),
            }
            let state = *states.borrow_and_update();
            let reopened = state.session != former.session;
            if reopened && former.standing != Standing::Lost {
                // The loss and the new session were seen as one change: the loss is told all the same.
                self.leave_locks(self.sessions.stand(Standing::Lost));
            }
            if reopened || state.standing != former.standing {
                self.leave_locks(self.sessions.stand(state.standing));
            }
            if reopened {
                self.sessions.keep_records(state.session);
                self.keep_sessions(state.session, former.session);
                self.following.look.notify_one();
                self.spawn(self.clone().rejoin_all());
            }
            if state.standing == Standing::Held {
                self.elections.wake_all();
            }
            former = state;
        }
    }

    /// Writes down which sessions a later run must end.
    pub(crate) fn keep_sessions(&self, session: Option<SessionId>, former: Option<SessionId>) {
        let sessions: Vec<SessionId> = session.into_iter().chain(former).collect();
        if let Err(error) = self.identity.keep(&sessions) {
            warn!(%error, "the session is not written down: after a restart its members stay until it expires");
        }
    }

    /// Loads what groups are bound to, and publishes how far this host has followed.
    pub(crate) async fn follow_bindings(self: Arc<Self>) {
        let mut published: Option<(SessionId, HostRecord)> = None;
        loop {
            self.clone().load_bound();
            let next = self.host_record(published.as_ref().map(|(_, record)| record));
            if let Some(session) = self.anchor.held()
                && published.as_ref() != Some(&(session, next.clone()))
            {
                match self.publish(session, &next).await {
                    Ok(_) => published = Some((session, next)),
                    Err(error) => {
                        debug!(%error, "cannot publish how far this host has followed");
                        self.clock.sleep(limits::RETRY_PAUSE).await;
                        continue;
                    }
                }
            }
            self.following.look.notified().await;
        }
    }

    async fn publish(&self, session: SessionId, record: &HostRecord) -> althing_core::Result<Revision> {
        let txn = Txn::new().put_owned(host_key(&self.identity.id), encode(record), session);
        self.commit(txn).await.map(|committed| committed.revision)
    }

    /// Says for all that policies are bound to by which epoch this host decides. Where the policy is not loaded, the
    /// epoch stays that was published before: nothing is decided by it any more, but it tells how far behind this host is.
    fn host_record(&self, former: Option<&HostRecord>) -> HostRecord {
        let mut record = HostRecord {
            name: self.identity.name.clone(),
            incarnation: self.identity.incarnation.clone(),
            ..HostRecord::default()
        };
        let failed = self.following.failed.lock().unwrap_or_else(PoisonError::into_inner);
        self.mirror.each_bound(|seat, bound| {
            let (followed, name) = match seat {
                Seat::Group(name) => (&mut record.groups, name),
                Seat::Behaviour(name) => (&mut record.behaviours, name),
            };
            let former = || former.map_or(0, |former| former.epoch(seat));
            let epoch = if self.shelf.has(bound) { bound.epoch } else { former() };
            if epoch > 0 {
                followed.epochs.insert(name.to_owned(), epoch);
            }
            let reason = bound.binding.as_ref().and_then(|binding| failed.get(&binding.digest));
            if let Some(reason) = reason {
                followed.behind.insert(name.to_owned(), reason.clone());
            }
        });
        record
    }

    /// Begins to load every bound policy that is not on the shelf, and lets go of those that nobody may need again.
    fn load_bound(self: Arc<Self>) {
        let mut missing = HashSet::new();
        self.mirror.each_bound(|_, bound| {
            let binding = bound.binding.as_ref().filter(|_| !self.shelf.has(bound));
            missing.extend(binding.map(|binding| binding.digest));
        });
        for digest in missing {
            if self.following.loading().insert(digest) {
                self.spawn(self.clone().load_until_done(digest));
            }
        }
        self.shelf.keep(&self.needed());
        self.audit.keep_calls_of(|behaviour| self.mirror.behaviour(behaviour).is_some());
    }

    /// Returns the digests that are bound somewhere, or may be again by a rollback.
    pub(crate) fn needed(&self) -> HashSet<Digest> {
        let mut needed = HashSet::new();
        self.mirror.each_bound(|_, bound| {
            let bindings = bound.binding.iter().chain(bound.former.iter().flatten());
            needed.extend(bindings.map(|binding| binding.digest));
        });
        needed
    }

    /// Loads a policy; what fails for want of the backend is tried again, and so is a refusal: an operator may mend it.
    async fn load_until_done(self: Arc<Self>, digest: Digest) {
        loop {
            match self.ensure_policy(digest).await {
                Ok(_) => break,
                Err(error) => {
                    warn!(digest = digest.short(), %error, "this host is behind: it cannot load what is bound");
                    self.following.fail(digest, Some(error.to_string()));
                    if matches!(error.kind(), Kind::Unavailable | Kind::Timeout) {
                        self.clock.sleep(limits::RETRY_PAUSE).await;
                    } else {
                        self.clock.sleep(RELOAD_PAUSE).await;
                    }
                }
            }
            if !self.is_bound(digest) {
                break;
            }
        }
        self.following.fail(digest, None);
        self.following.loading().remove(&digest);
        self.following.look.notify_one();
        self.elections.wake_all();
    }

    fn is_bound(&self, digest: Digest) -> bool {
        let mut found = false;
        self.mirror.each_bound(|_, bound| {
            found |= bound.binding.as_ref().is_some_and(|binding| binding.digest == digest);
        });
        found
    }
}

impl Following {
    fn loading(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, digest: Digest, reason: Option<String>) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) => drop(failed.insert(digest, reason)),
            None => drop(failed.remove(&digest)),
        }
        drop(failed);
        self.look.notify_one();
    }

    /// Returns why a policy could not be loaded.
    pub(crate) fn failure(&self, digest: &Digest) -> Option<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    /// Looks at the fleet again: something was loaded.
    pub(crate) fn again(&self) {
        self.look.notify_one();
    }
}
