//! How this host follows the fleet: it watches, loads what is bound, and writes down how far it has come.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use althing_core::info::Standing;
use althing_core::{Digest, Key, Kind, Revision, SessionId, Txn, limits};
use tokio::sync::Notify;
use tracing::{debug, warn};

use crate::Host;
use crate::layout::{HostRecord, encode, fleet, host_key};

/// What this host is following up.
#[derive(Debug, Default)]
pub(crate) struct Following {
    look: Notify,
    loading: Mutex<HashSet<Digest>>,
    /// Why a digest could not be loaded.
    failed: Mutex<BTreeMap<Digest, String>>,
}

/// The pause before a policy that could not be loaded is tried again.
const RELOAD_PAUSE: Duration = Duration::from_secs(2);

impl Host {
    /// Watches the fleet for ever: every change goes into the mirror, then to whom it concerns.
    pub(crate) async fn watch_fleet(self: Arc<Self>) {
        let prefix = fleet();
        let mut pause = limits::RETRY_PAUSE;
        loop {
            match self.watch_from(&prefix, &mut pause).await {
                Ok(()) => {}
                Err(error) => warn!(%error, "the watch broke; it begins again"),
            }
            self.clock.sleep(self.chance.jitter(pause)).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn watch_from(&self, prefix: &Key, pause: &mut Duration) -> althing_core::Result<()> {
        let mut watch = self.driver.watch(prefix, self.mirror.revision()).await?;
        loop {
            let delta = watch.next().await?;
            *pause = limits::RETRY_PAUSE;
            let touched = self.mirror.apply(delta);
            touched.groups.iter().for_each(|group| self.elections.wake(group));
            if touched.hosts {
                self.elections.wake_all();
            }
            self.following.look.notify_one();
        }
    }

    /// Follows the standing of the host's session: tells the clients, wakes the elections, and after a loss
    /// joins everybody again.
    pub(crate) async fn follow_anchor(self: Arc<Self>) {
        let mut states = self.anchor.subscribe();
        let mut former = *states.borrow_and_update();
        while states.changed().await.is_ok() {
            let state = *states.borrow_and_update();
            let reopened = state.session != former.session;
            if reopened && former.standing != Standing::Lost {
                // The loss and the new session were seen as one change: the loss is told all the same.
                self.sessions.stand(Standing::Lost);
            }
            if reopened || state.standing != former.standing {
                self.sessions.stand(state.standing);
            }
            if reopened {
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
        self.driver.commit(txn).await.map(|committed| committed.revision)
    }

    /// Says for each bound group by which epoch this host decides. A group whose rule is not loaded keeps the epoch
    /// that was published before: nothing is decided by it any more, but it tells how far behind this host is.
    fn host_record(&self, former: Option<&HostRecord>) -> HostRecord {
        let mut record = HostRecord {
            name: self.identity.name.clone(),
            incarnation: self.identity.incarnation.clone(),
            ..HostRecord::default()
        };
        let failed = self.following.failed.lock().unwrap_or_else(PoisonError::into_inner);
        for group in self.mirror.groups() {
            let Some((bound, _)) = group.record.as_ref().filter(|(bound, _)| bound.epoch > 0) else {
                continue;
            };
            let epoch = match self.shelf.rule(bound) {
                Some(_) => Some(bound.epoch),
                None => former.and_then(|former| former.epochs.get(&group.name).copied()),
            };
            if let Some(epoch) = epoch {
                record.epochs.insert(group.name.clone(), epoch);
            }
            let reason = bound.binding.as_ref().and_then(|binding| failed.get(&binding.digest));
            if let Some(reason) = reason {
                record.behind.insert(group.name.clone(), reason.clone());
            }
        }
        record
    }

    /// Begins to load every bound policy that is not on the shelf, and lets go of those no group may need again.
    fn load_bound(self: Arc<Self>) {
        for group in self.mirror.groups() {
            let Some((record, _)) = &group.record else { continue };
            let missing = record.binding.as_ref().filter(|_| self.shelf.rule(record).is_none());
            if let Some(binding) = missing
                && self.following.loading().insert(binding.digest)
            {
                self.spawn(self.clone().load_until_done(binding.digest));
            }
        }
        self.shelf.keep(&self.needed());
    }

    /// Returns the digests that groups are bound to, or may be again by a rollback.
    pub(crate) fn needed(&self) -> HashSet<Digest> {
        let groups = self.mirror.groups();
        let records = groups.iter().filter_map(|group| group.record.as_ref().map(|(record, _)| record));
        let bindings = records.flat_map(|record| record.binding.iter().chain(record.former.iter().flatten()));
        bindings.map(|binding| binding.digest).collect()
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
        let bound = |group: &Arc<crate::mirror::Group>| {
            let binding = group.record.as_ref().and_then(|(record, _)| record.binding.as_ref());
            binding.is_some_and(|binding| binding.digest == digest)
        };
        self.mirror.groups().iter().any(bound)
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

    /// Looks at the fleet again: something was loaded.
    pub(crate) fn again(&self) {
        self.look.notify_one();
    }
}
