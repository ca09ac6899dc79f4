//! Members: join, leave, and join again after a loss.

use std::sync::Arc;

use althing_core::info::{JoinAsk, Joined, MemberInfo, SessionEvent};
use althing_core::{Effect, Error, Guard, Kind, Record, Result, Revision, SessionId, Stamp, Txn, limits};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::apply::{Applied, Read, contended, no_group};
use crate::layout::{GroupRecord, MemberRecord, encode, group_key, member_key};
use crate::mirror::{member_info, member_of};
use crate::sessions::{LocalMember, Placed, resume_digest};
use crate::{Host, Runtime, SessionKey, admit};

impl Runtime {
    /// Joins a group. The member stays until it leaves or its session ends; then its record goes.
    ///
    /// Fails with `Exists` while another stay of that id is live, unless that stay is this session's own, a ghost of this
    /// host's former run, or one whose resume key is presented: those are superseded. A call that is dropped is done to
    /// its end; one that fails leaves no member behind.
    pub async fn join(&self, key: &SessionKey, group: &str, ask: JoinAsk) -> Result<Joined> {
        admit::name("group", group)?;
        admit::name("member", &ask.id)?;
        admit::metadata(&ask.metadata)?;
        admit::capabilities(&ask.capabilities)?;
        if ask.ephemeral && !ask.create {
            return Err(Error::new(
                Kind::Invalid,
                "join",
                "only a group that the join may create is ephemeral",
            )
            .with("group", group)
            .advise("Ask for `create` too"));
        }
        self.0.sessions.room(key)?;
        let (host, session, group) = (self.0.clone(), key.id.clone(), group.to_owned());
        self.0.to_its_end("join", async move { host.join(&session, &group, ask, None).await }).await
    }

    /// Returns a member as this host has seen it.
    pub fn member(&self, group: &str, id: &str) -> Result<MemberInfo> {
        let image = self.0.mirror.group(group).ok_or_else(|| no_group(group))?;
        image.members.get(id).map(|member| member.info()).ok_or_else(|| no_member(group, id))
    }

    /// Leaves a group; a leader resigns first. Leaving what was left succeeds. Where this fails, the host goes on until
    /// the member has left.
    pub async fn leave(&self, key: &SessionKey, group: &str, id: &str) -> Result<()> {
        self.0.sessions.check(key)?;
        let Some(member) = self.0.sessions.placed(&key.id, group, id) else { return Ok(()) };
        let placed = Placed { session: key.id.clone(), group: group.to_owned(), member };
        let (host, anchor) = (self.0.clone(), self.0.anchor.state().session);
        let leaving = async move {
            let left = host.leave(&placed).await;
            if left.is_err() {
                host.spawn(host.clone().leave_all(vec![placed], anchor));
            }
            left
        };
        self.0.to_its_end("leave", leaving).await
    }
}

impl Host {
    /// Does work that must not stop midway when whoever waits for it goes away.
    pub(super) async fn to_its_end<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let (told, answer) = oneshot::channel();
        self.spawn(async move { drop(told.send(work.await)) });
        answer.await.unwrap_or_else(|_| {
            Err(Error::new(Kind::Closed, operation, "the host ends").with_unknown_effect())
        })
    }

    /// Joins a member; `former` is the stay that it had before this host lost its session.
    async fn join(
        self: &Arc<Self>,
        session: &str,
        group: &str,
        ask: JoinAsk,
        former: Option<&LocalMember>,
    ) -> Result<Joined> {
        let mut member = LocalMember {
            incarnation: self.nonce(),
            ask,
            resume: format!("{:032x}", self.chance.bits()),
            anchor: None,
            turn: former.map(|former| former.turn.clone()).unwrap_or_default(),
        };
        let placed = Placed { session: session.to_owned(), group: group.to_owned(), member: member.clone() };
        let anchor = self.anchor.state().session;
        let (record, joined) = match self.write_member(session, group, &member, former).await {
            Ok(written) => written,
            Err(error) => {
                if error.effect() == Effect::Unknown {
                    self.spawn(self.clone().take_back(placed, anchor));
                }
                return Err(error);
            }
        };
        if joined.ephemeral {
            // When its session is lost, the group may be gone before it joins again.
            member.ask = JoinAsk { create: true, ephemeral: true, require: joined.require, ..member.ask };
        }
        member.anchor = record.session;
        let joined = Joined { member: member_info(&record)?, resume: member.resume.clone() };
        if let Err(error) = self.sessions.place(session, group, member) {
            // The session ended while the member joined: nothing of it may stay behind.
            self.clone().leave_all(vec![placed], anchor).await;
            return Err(error);
        }
        if self.anchor.state().session != record.session {
            // Those who join again after that loss may not have seen this one yet.
            self.following.stray.notify_one();
        }
        self.settle(record.stamp.modified).await;
        self.elections.wake(group);
        Ok(joined)
    }

    /// Writes the member's record, and in the same transaction that of a group which is made for it: at first on what this
    /// host has seen, in one round trip, then made anew from fresh reads as long as others write first.
    async fn write_member(
        &self,
        session: &str,
        group: &str,
        member: &LocalMember,
        former_stay: Option<&LocalMember>,
    ) -> Result<(Record, GroupRecord)> {
        let mut ended = None;
        for round in 0..limits::CONFLICT_TRIES {
            let anchor = self.next_session("join", ended).await?;
            let Some(read) = self.group_to_join(group, &member.ask, round == 0).await? else { continue };
            if let Some(mark) = former_stay.and_then(|former| read.record.eviction(&former.incarnation)) {
                return Err(Error::new(Kind::Denied, "join", evicted_by(&mark.by)));
            }
            let key = member_key(group, &member.ask.id);
            let seen =
                self.mirror.group(group).is_some_and(|group| group.members.contains_key(&member.ask.id));
            let former = if round == 0 && !seen { None } else { self.driver.get(&key).await? };
            if let Some(former) = &former {
                self.may_supersede(session, group, member, former)?;
            }
            let value = encode(&self.member_record(member));
            let mut txn = Txn::new().guard(Guard::since(&key, former.as_ref()));
            if matches!(read.guard, Guard::Absent(_)) {
                txn = txn.put(group_key(group), encode(&read.record));
            }
            let txn = txn.guard(read.guard).put_owned(key.clone(), value.clone(), anchor);
            let landed =
                async || Ok(self.find_member(group, member).await?.map(|found| found.stamp.modified));
            let applied = match self.commit_known(txn, landed).await {
                Err(error) if error.kind() == Kind::SessionLost => {
                    ended = Some(anchor);
                    continue;
                }
                applied => applied?,
            };
            if let Applied::At(revision) = applied {
                if former.is_none() {
                    let stamp = Stamp { created: revision, modified: revision };
                    let written = Record { key, value: value.into(), session: Some(anchor), stamp };
                    return Ok((written, read.record));
                }
                let found = self.find_member(group, member).await.map_err(Error::with_unknown_effect)?;
                return found.map(|found| (found, read.record)).ok_or_else(|| no_lease("join"));
            }
        }
        Err(contended(group))
    }

    /// Returns the group to join, or a new one under the guard that there is none; `None` when it must be looked at again.
    async fn group_to_join(&self, group: &str, ask: &JoinAsk, first: bool) -> Result<Option<Read>> {
        let make = || {
            let record = self.new_group(&ask.require, ask.ephemeral)?;
            Ok(Read { record, guard: Guard::Absent(group_key(group)), modified: Revision::ZERO })
        };
        // What this host has seen may be old: good enough to write on under a guard, not to refuse by.
        let read = match self.seen_group(group).filter(|read| first && !read.record.closing) {
            Some(read) => read,
            None if first && ask.create && self.mirror.group(group).is_none() => make()?,
            None => match self.read_group(group).await {
                Err(error) if error.kind() == Kind::NotFound && ask.create => make()?,
                read => read?,
            },
        };
        if read.record.closing {
            return self.see_closed(group, ask).await.map(|()| None);
        }
        let capability = self.driver.capability();
        for required in [&read.record.require, &ask.require] {
            capability.check("join", required).map_err(|error| error.with("group", group))?;
        }
        let members = self.mirror.group(group).map_or(0, |group| group.members.len());
        if members >= limits::GROUP_MEMBERS_MAX {
            return Err(Error::new(Kind::TooLarge, "join", "the group has as many members as it can")
                .with("group", group)
                .with("members_max", limits::GROUP_MEMBERS_MAX));
        }
        Ok(Some(read))
    }

    /// Whoever may create the group does not wait for somebody else to delete it, who may have died over that: it is
    /// deleted here, or open again, and the join goes on.
    async fn see_closed(&self, group: &str, ask: &JoinAsk) -> Result<()> {
        if !ask.create {
            return Err(no_group(group).with("closing", true));
        }
        match self.close_group(group, |record| record.closing).await {
            Err(error) if error.kind() != Kind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn member_record(&self, member: &LocalMember) -> MemberRecord {
        MemberRecord {
            id: member.ask.id.clone(),
            incarnation: member.incarnation.clone(),
            host: self.identity.id.clone(),
            host_incarnation: self.identity.incarnation.clone(),
            joined_ms: self.clock.wall_ms(),
            metadata: member.ask.metadata.clone(),
            capabilities: member.ask.capabilities.clone(),
            candidate: member.ask.candidate,
            updated_ms: 0,
            resume: resume_digest(&member.resume),
        }
    }

    /// Fails unless a live record of this id is a ghost, or the caller's own.
    fn may_supersede(&self, session: &str, group: &str, member: &LocalMember, former: &Record) -> Result<()> {
        let stay = member_of(former)?.record;
        let own_ghost = stay.host == self.identity.id && stay.host_incarnation != self.identity.incarnation;
        let resumed = member.ask.resume.as_deref().is_some_and(|key| resume_digest(key) == stay.resume);
        let own = self
            .sessions
            .placed(session, group, &stay.id)
            .is_some_and(|local| local.incarnation == stay.incarnation);
        if own_ghost || resumed || own || stay.incarnation == member.incarnation {
            return Ok(());
        }
        Err(Error::new(Kind::Exists, "join", "a live member has that id")
            .with("group", group)
            .with("member", &stay.id)
            .with("host", &stay.host)
            .advise("Choose another id, wait until its session ends, or present its resume key"))
    }

    pub(super) async fn find_member(&self, group: &str, member: &LocalMember) -> Result<Option<Record>> {
        let Some(record) = self.driver.get(&member_key(group, &member.ask.id)).await? else {
            return Ok(None);
        };
        let found = member_of(&record)?;
        Ok((found.record.incarnation == member.incarnation).then_some(record))
    }

    /// Removes a member and, in the same transaction, its leadership. What this host has seen is tried first: when a
    /// leader's process dies, every round trip counts.
    pub(crate) async fn leave(&self, placed: &Placed) -> Result<()> {
        let (group, id) = (placed.group.as_str(), placed.member.ask.id.as_str());
        self.sessions.displace(&placed.session, group, id, &placed.member.incarnation);
        for round in 0..limits::CONFLICT_TRIES {
            let Some(txn) = self.leave_txn(placed, round == 0).await? else { return Ok(()) };
            let gone = async || {
                let left = self.find_member(group, &placed.member).await?.is_none();
                Ok(left.then_some(Revision::ZERO))
            };
            if let Applied::At(revision) = self.commit_known(txn, gone).await? {
                self.settle(revision).await;
                return Ok(());
            }
        }
        Err(contended(group))
    }

    /// Makes the transaction of a leave; `None` when the stay is over already.
    async fn leave_txn(&self, placed: &Placed, seen: bool) -> Result<Option<Txn>> {
        let (group, member) = (&placed.group, &placed.member);
        let key = member_key(group, &member.ask.id);
        let image = self.mirror.group(group).filter(|_| seen);
        let known = image.as_ref().and_then(|image| image.stay(&member.ask.id, &member.incarnation));
        let (read, stamp) = match (known, self.seen_group(group).filter(|_| seen)) {
            (Some(known), Some(read)) => (Some(read), known.stamp),
            _ => {
                let Some(record) = self.find_member(group, member).await? else { return Ok(None) };
                (self.read_group(group).await.ok(), record.stamp)
            }
        };
        let txn = Txn::new().guard(Guard::Unchanged(key.clone(), stamp)).delete(key);
        let leads = |read: &Read| {
            read.record.leader.as_ref().is_some_and(|leader| leader.incarnation == member.incarnation)
        };
        let is_marked = |read: &Read| read.record.eviction(&member.incarnation).is_some();
        Ok(Some(match read.filter(|read| leads(read) || is_marked(read)) {
            Some(read) => {
                let leader = if leads(&read) { None } else { read.record.leader.clone() };
                let mut record = GroupRecord { leader, nonce: self.nonce(), ..read.record };
                record.evicted.retain(|mark| mark.incarnation != member.incarnation);
                txn.guard(read.guard).put(group_key(group), encode(&record))
            }
            None => txn,
        }))
    }

    /// Sees to it that a join of unknown fate leaves nothing behind.
    async fn take_back(self: Arc<Self>, placed: Placed, anchor: Option<SessionId>) {
        let mut pause = limits::RETRY_PAUSE;
        while let Err(error) = self.overtake(&placed).await {
            // What would be owned by a session that has ended cannot land.
            if self.anchor.state().session != anchor {
                return;
            }
            warn!(group = placed.group, member = placed.member.ask.id, %error, "cannot take back a join yet");
            self.clock.sleep(pause).await;
            pause = (pause * 2).min(limits::CALL_DEADLINE);
        }
        self.leave_all(vec![placed], anchor).await;
    }

    /// Writes the group's record anew: the join was guarded by it, so from then on it has landed, to be left again, or
    /// never will. Where there is none, a join that would have made it is met by one, and any other by its absence.
    async fn overtake(&self, placed: &Placed) -> Result<()> {
        let anew = |read: &Read| Ok(Some(read.record.clone()));
        match self.change::<GroupRecord>(&placed.group, anew).await {
            Err(error) if error.kind() == Kind::NotFound && placed.member.ask.create => {
                let ask = &placed.member.ask;
                let record = self.new_group(&ask.require, ask.ephemeral)?;
                self.make_group(&placed.group, record).await.map(drop)
            }
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            changed => changed.map(drop),
        }
    }

    /// Sees to it that members leave, however long the backend stays away: unless the host's session has
    /// ended, which removes them as well.
    pub(crate) async fn leave_all(self: Arc<Self>, members: Vec<Placed>, anchor: Option<SessionId>) {
        for placed in members {
            let mut pause = limits::RETRY_PAUSE;
            while let Err(error) = self.leave(&placed).await {
                if self.anchor.state().session != anchor || error.kind() == Kind::NotFound {
                    break;
                }
                warn!(group = placed.group, member = placed.member.ask.id, %error, "cannot leave yet");
                self.clock.sleep(pause).await;
                pause = (pause * 2).min(limits::CALL_DEADLINE);
            }
        }
    }

    /// After the host lost its session: joins everybody again under new incarnations, and says so.
    pub(crate) async fn rejoin_all(self: Arc<Self>) {
        let anchor = self.anchor.state().session;
        for placed in self.sessions.all_placed() {
            let mut pause = limits::RETRY_PAUSE;
            while !self.rejoin(&placed).await {
                if self.anchor.state().session != anchor {
                    return;
                }
                self.clock.sleep(pause).await;
                pause = (pause * 2).min(limits::CALL_DEADLINE);
            }
        }
    }

    /// Joins one member again. Returns whether that is settled: it joined, it left, or it cannot.
    async fn rejoin(self: &Arc<Self>, placed: &Placed) -> bool {
        let (group, id) = (placed.group.clone(), placed.member.ask.id.clone());
        let _turn = placed.member.turn.lock().await;
        // As it is now: it may have changed, or left, or joined in this session.
        let member = self.sessions.placed(&placed.session, &group, &id);
        let anchor = self.anchor.state().session;
        let Some(member) = member.filter(|member| anchor.is_none() || member.anchor != anchor) else {
            return true;
        };
        let ask = JoinAsk { resume: Some(member.resume.clone()), ..member.ask.clone() };
        let event = match self.join(&placed.session, &group, ask, Some(&member)).await {
            Ok(joined) => {
                info!(group, member = id, "joined again");
                let Joined { member: stay, resume, .. } = joined;
                SessionEvent::Rejoined { group, member: id, incarnation: stay.incarnation, resume }
            }
            Err(error) if matches!(error.kind(), Kind::Unavailable | Kind::Timeout | Kind::Conflict) => {
                return false;
            }
            Err(error) => {
                self.sessions.displace(&placed.session, &group, &id, &member.incarnation);
                self.elections.wake(&group);
                let is_evicted = error.kind() == Kind::Denied;
                let reason = if is_evicted { error.message().to_owned() } else { error.to_string() };
                SessionEvent::Removed { group, member: id, reason }
            }
        };
        self.sessions.tell(&placed.session, event);
        true
    }
}

pub(crate) fn evicted_by(by: &str) -> String {
    format!("evicted by {by}")
}

pub(crate) fn no_member(group: &str, id: &str) -> Error {
    Error::new(Kind::NotFound, "member", "there is no such member")
        .with("group", group)
        .with("member", id)
        .advise("`althing member list` tells who is there")
}

/// The error while this host has no session in the backend.
pub(crate) fn no_lease(operation: &'static str) -> Error {
    Error::new(
        Kind::Unavailable,
        operation,
        "this host has lost its session in the backend and is getting a new one",
    )
    .advise("Try again shortly; `althing drivers` and the host's log tell how the backend is")
}
