//! What becomes of a member while it stays: it changes what it says of itself, and it is evicted.

use std::sync::Arc;

use althing_core::info::{Evicted, MemberInfo, SessionEvent, UpdateAsk};
use althing_core::{Effect, Error, Guard, Kind, Principal, Record, Result, Revision, Stamp, Txn, limits};
use tracing::info;

use super::member::{evicted_by, no_lease, no_member};
use crate::apply::{Applied, contended, no_group};
use crate::layout::{Eviction, MemberRecord, encode, member_key};
use crate::mirror::{Member, Mirror, member_info, member_of};
use crate::sessions::Placed;
use crate::{Host, Runtime, SessionKey, admit};

impl Runtime {
    /// Changes what a member says of itself: the same stay, of the same seniority. Where nothing is changed, nothing is
    /// written. A leader that no longer stands for election resigns shortly after.
    ///
    /// `Denied` for a session other than the one through which it joined. A call that is dropped is done to its end.
    pub async fn update_member(
        &self,
        key: &SessionKey,
        group: &str,
        id: &str,
        ask: UpdateAsk,
    ) -> Result<MemberInfo> {
        self.0.sessions.check(key)?;
        ask.metadata.as_ref().map_or(Ok(()), admit::metadata)?;
        ask.capabilities.as_ref().map_or(Ok(()), admit::capabilities)?;
        let member = match self.0.sessions.placed(&key.id, group, id) {
            Some(member) => member,
            None => return Err(self.0.not_its_own(group, id)),
        };
        let placed = Placed { session: key.id.clone(), group: group.to_owned(), member };
        let host = self.0.clone();
        self.0.to_its_end("update", async move { host.update(placed, ask).await }).await
    }

    /// Asks a member to go, whoever it belongs to, and waits for that, at most [`limits::HANDOVER_WINDOW`]. A leader stops
    /// first, and its client confirms that or is given up. It comes back only if its client joins again.
    pub async fn evict(&self, by: &Principal, group: &str, id: &str) -> Result<Evicted> {
        let host = &self.0;
        let (incarnation, marked) = host.mark_evicted(by, group, id).await?;
        let is_gone =
            |mirror: &Mirror| mirror.group(group).is_none_or(|group| group.stay(id, &incarnation).is_none());
        let gone = async {
            host.mirror.reach(marked).await;
            host.mirror.until(is_gone).await;
        };
        tokio::select! {
            () = gone => Ok(Evicted::Evicted),
            () = host.clock.sleep(limits::HANDOVER_WINDOW) => Ok(Evicted::Asked),
        }
    }
}

impl Host {
    async fn update(&self, placed: Placed, ask: UpdateAsk) -> Result<MemberInfo> {
        let (group, id) = (placed.group.as_str(), placed.member.ask.id.as_str());
        let _turn = placed.member.turn.lock().await;
        // As it is now: it may have been joined again while others had their turn.
        let member = self.sessions.placed(&placed.session, group, id).ok_or_else(|| no_member(group, id))?;
        let placed = Placed { member, ..placed.clone() };
        let key = member_key(group, id);
        let mut may_have_landed = false;
        for _ in 0..limits::CONFLICT_TRIES {
            let told = |error: Error| if may_have_landed { error.with_unknown_effect() } else { error };
            let session = self.held("update").map_err(told)?;
            let record = self.stay_to_change(&placed).await.map_err(told)?;
            let Some(changed) = self.changed(&record, &ask)? else {
                return self.taken_in(&placed, &record).await;
            };
            let (value, unchanged) = (encode(&changed), Guard::Unchanged(key.clone(), record.stamp));
            let txn = Txn::new().guard(unchanged).put_owned(key.clone(), value.clone(), session);
            match self.commit(txn).await {
                Ok(committed) => {
                    let stamp = Stamp { modified: committed.revision, ..record.stamp };
                    let written = Record { key, value: value.into(), session: Some(session), stamp };
                    return self.taken_in(&placed, &written).await;
                }
                // Looked at again: what has landed already changes nothing.
                Err(error) if error.effect() == Effect::Unknown => may_have_landed = true,
                Err(error) if error.kind() == Kind::Conflict => {}
                Err(error) if error.kind() == Kind::SessionLost => return Err(told(no_lease("update"))),
                Err(error) => return Err(told(error)),
            }
        }
        let contended = contended(group);
        Err(if may_have_landed { contended.with_unknown_effect() } else { contended })
    }

    /// Remembers what a member says of itself by its record, for when it joins again, and shows it.
    async fn taken_in(&self, placed: &Placed, record: &Record) -> Result<MemberInfo> {
        let stay = member_of(record)?.record;
        self.sessions.amend(placed, |ask| {
            ask.metadata = stay.metadata;
            ask.capabilities = stay.capabilities;
            ask.candidate = stay.candidate;
        });
        self.settle(record.stamp.modified).await;
        member_info(record)
    }

    /// Returns the record of a member's stay. Fails where that is over.
    async fn stay_to_change(&self, placed: &Placed) -> Result<Record> {
        let (group, id) = (placed.group.as_str(), placed.member.ask.id.as_str());
        let Some(record) = self.driver.get(&member_key(group, id)).await? else {
            // It is about to be joined again, or to be told that it cannot.
            return Err(no_lease("update"));
        };
        let is_same = member_of(&record)?.record.incarnation == placed.member.incarnation;
        is_same.then_some(record).ok_or_else(|| {
            no_member(group, id).advise("Another stay has taken its place: join again, or leave it there")
        })
    }

    /// Returns what a member's record is to be; `None` where that is what it is.
    fn changed(&self, record: &Record, ask: &UpdateAsk) -> Result<Option<MemberRecord>> {
        let stay = member_of(record)?.record;
        let mut changed = stay.clone();
        let UpdateAsk { metadata, capabilities, candidate } = ask.clone();
        changed.metadata = metadata.unwrap_or(changed.metadata);
        changed.capabilities = capabilities.unwrap_or(changed.capabilities);
        changed.candidate = candidate.unwrap_or(changed.candidate);
        if changed == stay {
            return Ok(None);
        }
        changed.updated_ms = self.clock.wall_ms();
        Ok(Some(changed))
    }

    fn not_its_own(&self, group: &str, id: &str) -> Error {
        let Some(image) = self.mirror.group(group) else { return no_group(group) };
        if !image.members.contains_key(id) {
            return no_member(group, id);
        }
        Error::new(Kind::Denied, "update", "the member joined through another session")
            .with("group", group)
            .with("member", id)
    }

    /// Marks the stay that a member is in, and returns it with the revision by which it is marked. Guarded by both records:
    /// it is in that stay when it is marked.
    async fn mark_evicted(&self, by: &Principal, group: &str, id: &str) -> Result<(String, Revision)> {
        let key = member_key(group, id);
        for _ in 0..limits::CONFLICT_TRIES {
            let read = self.read_group(group).await?;
            let member = self.driver.get(&key).await?.ok_or_else(|| no_member(group, id))?;
            let incarnation = member_of(&member)?.record.incarnation;
            if read.record.eviction(&incarnation).is_some() {
                return Ok((incarnation, read.modified));
            }
            let image = self.mirror.group(group);
            let members = || image.iter().flat_map(|image| image.members.values());
            let mut record = read.record;
            let mark = Eviction { incarnation: incarnation.clone(), by: by.to_string() };
            if !record.evict(mark, |stay| members().any(|member| member.record.incarnation == stay)) {
                return Err(busy(group));
            }
            let stays = Txn::new().guard(Guard::Unchanged(key.clone(), member.stamp));
            if let Applied::At(revision) = self.write(group, read.guard, record, stays).await? {
                info!(group, member = id, %by, "asked to go");
                return Ok((incarnation, revision));
            }
        }
        Err(contended(group))
    }

    /// Lets a member of this host go that was asked to, once it has surely stopped if it led, and tells its client.
    /// Returns whether it was there to go: it has joined, and is not about to leave anyway.
    pub(super) async fn expel(self: &Arc<Self>, group: &str, member: &Member, by: &str) -> bool {
        let stay = &member.record;
        let Some(placed) = self.sessions.find(group, &stay.id, &stay.incarnation) else { return false };
        info!(group, member = stay.id, by, "evicted");
        let (group, member) = (group.to_owned(), stay.id.clone());
        let event = SessionEvent::Removed { group, member, reason: evicted_by(by) };
        self.sessions.tell(&placed.session, event);
        let anchor = self.anchor.state().session;
        if self.leave(&placed).await.is_err() {
            self.spawn(self.clone().leave_all(vec![placed], anchor));
        }
        true
    }
}

fn busy(group: &str) -> Error {
    Error::new(Kind::Busy, "evict", "too many members of the group are asked to go")
        .with("group", group)
        .with("evictions_max", limits::EVICTIONS_KEPT_MAX)
        .advise("Wait until some of them are gone")
}
