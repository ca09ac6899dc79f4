//! Policies: push, list, show. An upload is a job.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use althing_core::info::{Decision, ErrorInfo, JobInfo, Phase, PolicyInfo, PolicyVersion};
use althing_core::{Digest, Effect, Error, Guard, Kind, Principal, Record, Result, Txn, limits};
use althing_engine::Bundle;
use bytes::Bytes;
use tokio::sync::watch;
use tracing::info;

use crate::apply::no_group;
use crate::layout::{
    LAYOUT, PolicyRecord, Seat, chunk_key, chunks_prefix, decode, encode, policies_prefix, policy_key,
};
use crate::{Host, Runtime, admit};

/// The last uploads.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    kept: Mutex<VecDeque<watch::Sender<JobInfo>>>,
}

impl Jobs {
    /// Begins a job; forgets the oldest finished one when there are many. `Busy` when all are still at work.
    fn begin(&self, id: String) -> Result<watch::Sender<JobInfo>> {
        let mut kept = self.kept();
        if kept.len() >= limits::JOBS_KEPT_MAX {
            let done = kept.iter().position(|job| job.borrow().done).ok_or_else(|| {
                Error::new(Kind::Busy, "push", "too many uploads are under way")
                    .advise("Wait for one to finish")
            })?;
            kept.remove(done);
        }
        let first = JobInfo {
            id,
            phase: Phase::Uploaded,
            digest: None,
            policy: None,
            cases: None,
            error: None,
            done: false,
        };
        let job = watch::Sender::new(first);
        kept.push_back(job.clone());
        Ok(job)
    }

    fn find(&self, id: &str) -> Result<watch::Receiver<JobInfo>> {
        let kept = self.kept();
        let job = kept.iter().find(|job| job.borrow().id == id);
        job.map(watch::Sender::subscribe).ok_or_else(|| {
            Error::new(Kind::NotFound, "job", "this host knows no such upload")
                .with("job", id)
                .advise("Ask the host it was pushed to; the last uploads only are remembered")
        })
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<watch::Sender<JobInfo>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runtime {
    /// Takes an upload in and returns its job. It is verified, linked, compiled and proven here before it is stored
    /// for the fleet; nothing is bound by it.
    pub fn push(&self, by: &Principal, bundle: Bytes) -> Result<JobInfo> {
        admit::bundle(&bundle)?;
        let job = self.0.jobs.begin(format!("{:016x}", self.0.chance.bits() as u64))?;
        let first = job.borrow().clone();
        let host = self.0.clone();
        self.0.spawn(host.run_job(by.to_string(), bundle, job));
        Ok(first)
    }

    /// Returns how far an upload has come.
    pub fn job(&self, id: &str) -> Result<JobInfo> {
        Ok(self.0.jobs.find(id)?.borrow().clone())
    }

    /// Waits until an upload is done, or `at_most` so long, and returns how far it has come.
    pub async fn job_done(&self, id: &str, at_most: Duration) -> Result<JobInfo> {
        let mut job = self.0.jobs.find(id)?;
        tokio::select! {
            _ = job.wait_for(|job| job.done) => {}
            () = self.0.clock.sleep(at_most) => {}
        }
        Ok(job.borrow().clone())
    }

    /// Returns all policies by name.
    pub async fn policies(&self) -> Result<Vec<PolicyInfo>> {
        let mut policies = Vec::new();
        let mut after = None;
        loop {
            let page = self.0.driver.list(&policies_prefix(), after.as_ref(), 0).await?;
            for record in &page.records {
                policies.extend(self.0.policy_info(record)?);
            }
            after = page.next;
            if after.is_none() {
                return Ok(policies);
            }
        }
    }

    /// Returns one policy.
    pub async fn policy(&self, name: &str) -> Result<PolicyInfo> {
        let record = self.0.driver.get(&policy_key(name)).await?.ok_or_else(|| no_policy(name))?;
        self.0.policy_info(&record)?.ok_or_else(|| no_policy(name))
    }

    /// Returns the last decisions that this host made for a group, newest first.
    pub fn decisions(&self, group: &str, limit: usize) -> Result<Vec<Decision>> {
        self.0.mirror.group(group).ok_or_else(|| no_group(group))?;
        Ok(self.0.audit.last(group, limit))
    }
}

impl Host {
    async fn run_job(self: Arc<Self>, by: String, bytes: Bytes, job: watch::Sender<JobInfo>) {
        if let Err(error) = self.store_upload(&by, &bytes, &job).await {
            job.send_modify(|job| job.error = Some(ErrorInfo::from(&error)));
        }
        job.send_modify(|job| job.done = true);
    }

    async fn store_upload(&self, by: &str, bytes: &[u8], job: &watch::Sender<JobInfo>) -> Result<()> {
        let bundle = Arc::new(Bundle::unpack(bytes)?);
        let digest = bundle.digest();
        admit::name("policy", &bundle.manifest.name)?;
        let signed_by = self.verify_bundle(&bundle)?;
        job.send_modify(|job| {
            job.phase = Phase::Verified;
            job.digest = Some(digest);
            job.policy = Some(bundle.manifest.name.clone());
        });
        let policy = self.engine.load(&bundle).await?;
        job.send_modify(|job| job.phase = Phase::Compiled);
        let proof = self.engine.prove(&policy).await?;
        job.send_modify(|job| {
            job.phase = Phase::Proven;
            job.cases = Some(proof.cases);
        });
        let packed = bundle.pack();
        self.store_chunks(digest, &packed).await?;
        self.cache_bundle(digest, &packed);
        let version = PolicyVersion {
            version: bundle.manifest.version.clone(),
            kind: bundle.manifest.kind.to_string(),
            digest,
            signed_by,
            pushed_by: by.to_owned(),
            pushed_ms: self.clock.wall_ms(),
            bytes: packed.len() as u64,
            cases: proof.cases,
        };
        let surplus = self.add_version(&bundle.manifest.name, version).await?;
        self.shelve(digest, policy);
        self.remove_surplus(surplus).await?;
        job.send_modify(|job| job.phase = Phase::Stored);
        info!(policy = bundle.manifest.name, digest = digest.short(), by, "pushed");
        Ok(())
    }

    /// Writes a packed bundle in chunks, and removes what a longer one of the same digest (with another
    /// signature) left behind. Writing the same chunk twice does no harm.
    async fn store_chunks(&self, digest: Digest, packed: &[u8]) -> Result<()> {
        let largest = (self.driver.capability().value_bytes_max as usize).min(limits::CHUNK_BYTES);
        let chunks = packed.chunks(largest.max(1));
        let count = chunks.len();
        for (index, chunk) in chunks.enumerate() {
            self.commit_surely(Txn::new().put(chunk_key(&digest, index), chunk.to_vec())).await?;
        }
        self.commit_surely(Txn::new().delete(chunk_key(&digest, count))).await
    }

    /// Commits what may be written twice: tried again when nobody can tell whether it landed.
    async fn commit_surely(&self, txn: Txn) -> Result<()> {
        for _ in 1..limits::CALL_TRIES {
            match self.commit(txn.clone()).await {
                Err(error) if error.effect() == Effect::Unknown => {}
                other => return other.map(|_| ()),
            }
        }
        self.commit(txn).await.map(|_| ())
    }

    /// Adds a version to what was pushed under a name. Returns those that are no longer listed.
    async fn add_version(&self, name: &str, version: PolicyVersion) -> Result<Vec<PolicyVersion>> {
        let key = policy_key(name);
        for _ in 0..limits::CONFLICT_TRIES {
            let record = self.driver.get(&key).await?;
            let mut policy: PolicyRecord = record.as_ref().map(decode).transpose()?.unwrap_or_default();
            policy.layout = LAYOUT;
            policy.versions.retain(|former| former.digest != version.digest);
            policy.versions.insert(0, version.clone());
            let kept = policy.versions.len().min(limits::VERSIONS_KEPT_MAX);
            let surplus = policy.versions.split_off(kept);
            let txn = Txn::new().guard(Guard::since(&key, record.as_ref())).put(key.clone(), encode(&policy));
            match self.commit(txn).await {
                Ok(_) => return Ok(surplus),
                Err(error) if error.kind() == Kind::Conflict || error.effect() == Effect::Unknown => {}
                Err(error) => return Err(error),
            }
        }
        Err(crate::apply::contended(name))
    }

    /// Removes the chunks of versions that are no longer listed and that no group may need again.
    async fn remove_surplus(&self, surplus: Vec<PolicyVersion>) -> Result<()> {
        let needed = self.needed();
        for version in surplus.iter().filter(|version| !needed.contains(&version.digest)) {
            let prefix = chunks_prefix(&version.digest);
            let mut after = None;
            loop {
                let page = self.driver.list(&prefix, after.as_ref(), 0).await?;
                for chunk in page.records {
                    self.commit_surely(Txn::new().delete(chunk.key)).await?;
                }
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn policy_info(&self, record: &Record) -> Result<Option<PolicyInfo>> {
        let Some(name) = record.key.names().and_then(|names| String::from_utf8(names.get(1)?.clone()).ok())
        else {
            return Ok(None);
        };
        let policy: PolicyRecord = decode(record)?;
        let (mut groups, mut behaviours) = (Vec::new(), Vec::new());
        self.mirror.each_bound(|seat, bound| {
            let here = bound.binding.as_ref().is_some_and(|binding| binding.policy == name);
            match seat {
                Seat::Group(group) if here => groups.push(group.to_owned()),
                Seat::Behaviour(behaviour) if here => behaviours.push(behaviour.to_owned()),
                _ => {}
            }
        });
        groups.sort_unstable();
        Ok(Some(PolicyInfo { name, versions: policy.versions, groups, behaviours }))
    }
}

fn no_policy(name: &str) -> Error {
    Error::new(Kind::NotFound, "policy", "no policy of that name was pushed")
        .with("policy", name)
        .advise("Push it first: `althing policy push BUNDLE`")
}
