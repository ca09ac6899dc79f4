//! The policies this host has loaded, and where they come from: the backend, with a copy in the state directory.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use althing_core::{Digest, Error, Kind, Result};
use althing_engine::{Bundle, Policy};
use tokio::sync::{Notify, OnceCell};
use tracing::{info, warn};

use crate::Host;
use crate::decide::Rule;
use crate::layout::{Bound, chunks_prefix};

/// Loaded policies by digest.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    loaded: Mutex<HashMap<Digest, Arc<OnceCell<Arc<Policy>>>>>,
    /// Rung when one more is loaded.
    news: Notify,
}

impl Shelf {
    /// Returns the rule that is bound to a group; `None` while this host has not loaded it.
    pub(crate) fn rule(&self, bound: &Bound) -> Option<Rule> {
        let policy = match &bound.binding {
            None => None,
            Some(binding) => Some((binding.clone(), self.policy(&binding.digest)?)),
        };
        Some(Rule { epoch: bound.epoch, policy })
    }

    /// Tells whether all that is bound there is loaded.
    pub(crate) fn has(&self, bound: &Bound) -> bool {
        bound.binding.as_ref().is_none_or(|binding| self.policy(&binding.digest).is_some())
    }

    /// Waits until a policy is loaded, by whoever loads it.
    pub(crate) async fn loaded(&self, digest: &Digest) -> Arc<Policy> {
        loop {
            let news = self.news.notified();
            if let Some(policy) = self.policy(digest) {
                return policy;
            }
            news.await;
        }
    }

    fn policy(&self, digest: &Digest) -> Option<Arc<Policy>> {
        self.table().get(digest)?.get().cloned()
    }

    fn cell(&self, digest: Digest) -> Arc<OnceCell<Arc<Policy>>> {
        self.table().entry(digest).or_default().clone()
    }

    /// Lets go of what no group may need again and nobody is using, such as an activation under way.
    pub(crate) fn keep(&self, needed: &HashSet<Digest>) {
        let in_use =
            |cell: &OnceCell<Arc<Policy>>| cell.get().is_none_or(|policy| Arc::strong_count(policy) > 1);
        self.table().retain(|digest, cell| needed.contains(digest) || in_use(cell));
    }

    fn table(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<OnceCell<Arc<Policy>>>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    /// Loads a policy from the state directory or the backend; once, however many ask for it.
    pub(crate) async fn ensure_policy(&self, digest: Digest) -> Result<Arc<Policy>> {
        let cell = self.shelf.cell(digest);
        let policy = cell
            .get_or_try_init(|| async {
                let bundle = self.fetch_bundle(digest).await?;
                self.prove_bundle(&Arc::new(bundle)).await
            })
            .await?;
        self.shelf.news.notify_waiters();
        Ok(policy.clone())
    }

    /// Puts a policy that was proven here on the shelf.
    pub(crate) fn shelve(&self, digest: Digest, policy: Arc<Policy>) {
        // Another task may have loaded the same bytes at the same time; either copy serves.
        let _ = self.shelf.cell(digest).set(policy);
        self.shelf.news.notify_waiters();
    }

    /// Checks who signed a bundle. Returns the id of the key.
    pub(crate) fn verify_bundle(&self, bundle: &Bundle) -> Result<Option<String>> {
        if self.config.allow_unsigned && bundle.signed_by().is_none() {
            warn!(policy = bundle.manifest.name, "runs without a signature, as --allow-unsigned allows");
            return Ok(None);
        }
        bundle.verify(&self.config.trusted).map(Some)
    }

    /// Links, compiles and proves a bundle on this host.
    pub(crate) async fn prove_bundle(&self, bundle: &Arc<Bundle>) -> Result<Arc<Policy>> {
        self.verify_bundle(bundle)?;
        let policy = self.engine.load(bundle).await?;
        self.engine.prove(&policy).await?;
        info!(policy = bundle.manifest.name, digest = bundle.digest().short(), "loaded and proven");
        Ok(policy)
    }

    async fn fetch_bundle(&self, digest: Digest) -> Result<Bundle> {
        if let Some(bundle) = self.cached_bundle(digest) {
            return Ok(bundle);
        }
        let mut bytes = Vec::new();
        let prefix = chunks_prefix(&digest);
        let mut after = None;
        loop {
            let page = self.driver.list(&prefix, after.as_ref(), 0).await?;
            page.records.iter().for_each(|record| bytes.extend_from_slice(&record.value));
            crate::admit::bundle(&bytes)?;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let bundle = read_bundle(digest, &bytes)?;
        self.cache_bundle(digest, &bytes);
        Ok(bundle)
    }

    fn cached_bundle(&self, digest: Digest) -> Option<Bundle> {
        let bytes = fs::read(self.cache_file(digest)?).ok()?;
        // A damaged copy is as good as none: the backend has another.
        read_bundle(digest, &bytes).ok()
    }

    /// Keeps a copy, so that this host can start while the backend is slow. A copy that cannot be written is
    /// no reason to fail.
    pub(crate) fn cache_bundle(&self, digest: Digest, bytes: &[u8]) {
        let Some(file) = self.cache_file(digest) else { return };
        let fresh = file.with_extension("new");
        let written = file
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&fresh, bytes))
            .and_then(|()| fs::rename(&fresh, &file));
        if let Err(error) = written {
            warn!(file = %file.display(), %error, "no copy of the bundle is kept");
        }
    }

    fn cache_file(&self, digest: Digest) -> Option<PathBuf> {
        Some(self.config.state.as_ref()?.join("artefacts").join(format!("{digest}.bundle")))
    }
}

fn read_bundle(digest: Digest, bytes: &[u8]) -> Result<Bundle> {
    if bytes.is_empty() {
        return Err(Error::new(Kind::NotFound, "load policy", "the bundle does not lie in the backend")
            .with("digest", digest)
            .advise("Push it again"));
    }
    let bundle = Bundle::unpack(bytes)?;
    match bundle.digest() == digest {
        true => Ok(bundle),
        false => Err(Error::new(Kind::Invalid, "load policy", "the bundle is not what its digest says")
            .with("digest", digest)
            .with("found", bundle.digest())
            .advise("Push it again; if it happens again, somebody changes the backend")),
    }
}
