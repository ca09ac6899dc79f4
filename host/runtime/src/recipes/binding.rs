//! What policies are bound to: groups and behaviours, both by one road. A binding is one guarded write that every host
//! follows.

use althing_core::info::{BehaviourInfo, BindingInfo, GroupInfo, PolicyVersion};
use althing_core::{Digest, Error, Guard, Kind, Principal, Result, Txn, limits};
use althing_engine::PolicyKind;
use tracing::info;

use crate::apply::{Applied, Kept, Named, contended, no_group};
use crate::layout::{BehaviourRecord, Bound, GroupRecord, Seat};
use crate::{Host, Runtime, admit};

impl Runtime {
    /// Binds a policy to a group, on every host at once: from the moment this returns, no decision is made here
    /// by what was bound before, and on no host does one made by it take effect. Without a digest, the newest
    /// version pushed is bound. `Invalid` for a policy that is no election rule.
    pub async fn activate(
        &self,
        by: &Principal,
        group: &str,
        policy: &str,
        digest: Option<Digest>,
    ) -> Result<GroupInfo> {
        let binding = self.binding(by, policy, digest, PolicyKind::Election).await?;
        self.bind_group(group, |bound| Ok(bound.then(binding.clone()))).await
    }

    /// Binds again what was bound to a group before. Fails with `NotFound` when nothing was.
    pub async fn rollback(&self, _by: &Principal, group: &str) -> Result<GroupInfo> {
        self.bind_group(group, |bound| bound.back().ok_or_else(|| nothing_before(Seat::Group(group)))).await
    }

    /// Lets a policy answer under a behaviour's name, on every host at once: from the moment this returns, no answer
    /// is given here by what was bound before, and on no host does it commit anything. Makes the behaviour where there
    /// is none. Without a digest, the newest version pushed is bound. `Invalid` for a policy that is no behaviour.
    pub async fn activate_behaviour(
        &self,
        by: &Principal,
        behaviour: &str,
        policy: &str,
        digest: Option<Digest>,
    ) -> Result<BehaviourInfo> {
        admit::name("behaviour", behaviour)?;
        self.0.room_for_behaviour(behaviour)?;
        let binding = self.binding(by, policy, digest, PolicyKind::Behaviour).await?;
        self.bind_behaviour(behaviour, |bound| Ok(bound.then(binding.clone()))).await
    }

    /// Lets the policy answer again that was bound to a behaviour before. Fails with `NotFound` when none was.
    pub async fn rollback_behaviour(&self, _by: &Principal, behaviour: &str) -> Result<BehaviourInfo> {
        self.bind_behaviour(behaviour, |bound| match bound.back() {
            _ if bound.epoch == 0 => Err(no_behaviour(behaviour)),
            Some(former) if former.binding.is_some() => Ok(former),
            _ => Err(nothing_before(Seat::Behaviour(behaviour))),
        })
        .await
    }

    /// Removes a behaviour. Calls that wait fail with `NotFound`; what it has written stays: what is owned until its
    /// session ends, the rest for whatever is bound next.
    pub async fn remove_behaviour(&self, _by: &Principal, behaviour: &str) -> Result<()> {
        self.0.remove_behaviour(behaviour).await
    }

    /// Makes the binding of a policy that is loaded and proven here, and of the right kind for the place.
    async fn binding(
        &self,
        by: &Principal,
        policy: &str,
        digest: Option<Digest>,
        kind: PolicyKind,
    ) -> Result<BindingInfo> {
        let version = self.version(policy, digest).await?;
        let loaded = self.0.ensure_policy(version.digest).await?;
        let found = loaded.manifest().kind;
        if found != kind {
            return Err(Error::new(Kind::Invalid, "activate", unfit(found))
                .with("policy", policy)
                .with("kind", found)
                .advise(match found {
                    PolicyKind::Behaviour => "Activate it without naming a group",
                    PolicyKind::Election => "Name the group it shall decide in",
                }));
        }
        Ok(BindingInfo {
            policy: policy.to_owned(),
            version: version.version,
            digest: version.digest,
            settings_digest: loaded.settings_digest(),
            bound_by: by.to_string(),
            bound_ms: self.0.clock.wall_ms(),
        })
    }

    async fn version(&self, policy: &str, digest: Option<Digest>) -> Result<PolicyVersion> {
        let info = self.policy(policy).await?;
        let wanted = |version: &PolicyVersion| digest.is_none_or(|digest| version.digest == digest);
        info.versions.into_iter().find(wanted).ok_or_else(|| {
            let digest = digest.map_or_else(String::new, |digest| digest.to_string());
            Error::new(Kind::NotFound, "activate", "the policy has no version of that digest")
                .with("policy", policy)
                .with("digest", digest)
                .advise("`althing policy show` lists its versions")
        })
    }

    async fn bind_group(&self, group: &str, next: impl FnMut(&Bound) -> Result<Bound>) -> Result<GroupInfo> {
        let host = &self.0;
        host.bind::<GroupRecord>(group, next).await?;
        host.elections.pass_gate(group).await;
        host.elections.wake(group);
        let epoch = host.mirror.info(group).ok_or_else(|| no_group(group))?.epoch;
        host.follow_here(Seat::Group(group), epoch).await;
        host.mirror.info(group).ok_or_else(|| no_group(group))
    }

    async fn bind_behaviour(
        &self,
        behaviour: &str,
        next: impl FnMut(&Bound) -> Result<Bound>,
    ) -> Result<BehaviourInfo> {
        let host = &self.0;
        host.bind::<BehaviourRecord>(behaviour, next).await?;
        let epoch = host.mirror.behaviour_info(behaviour).ok_or_else(|| no_behaviour(behaviour))?.epoch;
        host.follow_here(Seat::Behaviour(behaviour), epoch).await;
        self.behaviour(behaviour)
    }
}

impl Host {
    /// Writes what `next` makes of a binding, and loads it here.
    async fn bind<R: Named>(&self, name: &str, mut next: impl FnMut(&Bound) -> Result<Bound>) -> Result<()> {
        let mut digest = None;
        self.change::<R>(name, |read| {
            let mut record = read.record.clone();
            let bound = next(record.bound())?;
            digest = bound.binding.as_ref().map(|binding| binding.digest);
            *record.bound() = bound;
            Ok(Some(record))
        })
        .await?;
        if let Some(digest) = digest {
            self.ensure_policy(digest).await?;
        }
        metrics::counter!("althing_swaps_total").increment(1);
        info!(name, ?digest, "bound");
        Ok(())
    }

    /// Waits until this host has said that it followed.
    async fn follow_here(&self, seat: Seat<'_>, epoch: u64) {
        self.following.again();
        tokio::select! {
            () = self.mirror.followed(&self.identity.id, seat, epoch) => {}
            () = self.clock.sleep(limits::CALL_DEADLINE) => {}
        }
    }

    fn room_for_behaviour(&self, behaviour: &str) -> Result<()> {
        let known = self.mirror.behaviours();
        if known.len() < limits::BEHAVIOURS_MAX || known.iter().any(|known| known.name == behaviour) {
            return Ok(());
        }
        Err(Error::new(Kind::TooLarge, "activate", "the namespace has as many behaviours as it can")
            .with("behaviours_max", limits::BEHAVIOURS_MAX)
            .advise("Remove behaviours that nobody calls, or use another namespace"))
    }

    async fn remove_behaviour(&self, behaviour: &str) -> Result<()> {
        let key = BehaviourRecord::key(behaviour);
        for _ in 0..limits::CONFLICT_TRIES {
            let read = self.read::<BehaviourRecord>(behaviour).await?;
            if matches!(read.guard, Guard::Absent(_)) {
                return Err(no_behaviour(behaviour));
            }
            let txn = Txn::new().guard(read.guard).delete(key.clone());
            let gone = async || Ok(self.driver.get(&key).await?.is_none().then_some(read.modified));
            if let Applied::At(revision) = self.commit_known(txn, gone).await? {
                self.settle(revision).await;
                return Ok(());
            }
        }
        Err(contended(behaviour))
    }
}

impl Bound {
    /// Returns what follows when this is bound; what is bound now is remembered.
    fn then(&self, binding: BindingInfo) -> Bound {
        let mut former = self.former.clone();
        former.push(self.binding.clone());
        let surplus = former.len().saturating_sub(limits::BINDINGS_KEPT_MAX);
        former.drain(..surplus);
        Bound { epoch: self.epoch + 1, binding: Some(binding), former }
    }

    /// Returns what follows when the former is bound again; `None` where there is none.
    fn back(&self) -> Option<Bound> {
        let mut former = self.former.clone();
        let binding = former.pop()?;
        Some(Bound { epoch: self.epoch + 1, binding, former })
    }
}

fn unfit(kind: PolicyKind) -> &'static str {
    match kind {
        PolicyKind::Behaviour => "a behaviour decides in no group: it answers calls, under a name of its own",
        PolicyKind::Election => "an election rule answers no calls: it decides in a group",
    }
}

fn nothing_before(seat: Seat<'_>) -> Error {
    let (what, name, advice) = match seat {
        Seat::Group(name) => ("group", name, "`althing group show` tells what is bound"),
        Seat::Behaviour(name) => {
            ("behaviour", name, "`althing behaviour remove` removes it, with what is bound to it")
        }
    };
    Error::new(Kind::NotFound, "rollback", format!("nothing was bound to the {what} before"))
        .with(what, name)
        .advise(advice)
}

pub(crate) fn no_behaviour(name: &str) -> Error {
    Error::new(Kind::NotFound, "behaviour", "there is no such behaviour").with("behaviour", name).advise(
        "Push a policy of kind behaviour and activate it; `althing behaviour list` tells which there are",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(policy: &str) -> BindingInfo {
        BindingInfo {
            policy: policy.into(),
            version: String::new(),
            digest: Digest::of(policy),
            settings_digest: Digest::of(""),
            bound_by: String::new(),
            bound_ms: 0,
        }
    }

    fn policy(bound: &Bound) -> Option<&str> {
        bound.binding.as_ref().map(|binding| binding.policy.as_str())
    }

    #[test]
    fn a_rollback_binds_what_was_bound_before_and_every_change_raises_the_epoch() {
        let first = Bound::default().then(binding("a"));
        let second = first.then(binding("b"));
        let back = second.back().unwrap();
        assert_eq!((policy(&second), policy(&back), back.epoch), (Some("b"), Some("a"), 3));
    }

    #[test]
    fn so_many_former_bindings_are_kept_and_no_more() {
        let most = limits::BINDINGS_KEPT_MAX;
        let bound = (0..=most).fold(Bound::default(), |bound, n| bound.then(binding(&n.to_string())));
        assert_eq!((bound.former.len(), bound.epoch), (most, most as u64 + 1));
        let oldest = bound.former[0].as_ref().map(|binding| binding.policy.clone());
        assert_eq!(oldest, Some("0".into()), "that nothing was bound at first is what was let go of");
    }
}
