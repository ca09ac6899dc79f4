//! The task of one lock on this host. It knows which parties of this host should stand in the lock's record, and sees to it
//! that they do and that no others of its session do: whatever was cancelled, failed half-way or landed late is struck out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use althing_core::info::LockHold;
use althing_core::{BootTime, Effect, Error, Guard, Kind, Result, Revision, SessionId, Txn, limits};
use tokio::sync::{Notify, oneshot};
use tracing::debug;

use super::record::{Image, LockRecord, Party, lock_key};
use crate::Host;
use crate::apply::contended;
use crate::layout::encode;
use crate::recipes::member::no_lease;

/// Where what this host's clients ask of one lock is laid down.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    inbox: Mutex<Vec<Ask>>,
    pub wake: Notify,
}

/// What is asked of a lock.
#[derive(Debug)]
pub(super) enum Ask {
    Enter(Enter),
    /// Strike a party out, whether it holds or waits. That is done however long it takes; the answer tells how the first
    /// try went.
    Leave {
        id: String,
        answer: Option<oneshot::Sender<Result<()>>>,
    },
    Break(Break),
    /// Look at the lock. A desk that has just looked stays for that: what it saw may be of before.
    Look,
}

/// Asks to be let in.
#[derive(Debug)]
pub(super) struct Enter {
    /// Its session is filled in at the desk.
    pub party: Party,
    pub limit: Option<u32>,
    /// It waits for its turn.
    pub patient: bool,
    /// The request for which it stands.
    pub request: String,
    /// Answered with `None` when it is not let in at once and does not wait. When nobody takes the answer, the party
    /// leaves again.
    pub answer: oneshot::Sender<Result<Option<LockHold>>>,
}

/// Asks to take the lock away from its holders, and is answered with those that it concerns.
#[derive(Debug)]
pub(super) struct Break {
    pub token: Option<Revision>,
    pub by: String,
    pub force: bool,
    pub answer: oneshot::Sender<Result<Vec<Party>>>,
}

impl Desk {
    /// Lays something down, if there is something, and has the lock looked at.
    pub(super) fn put(&self, ask: Option<Ask>) {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).push(ask.unwrap_or(Ask::Look));
        self.wake.notify_one();
    }

    fn take(&self) -> Vec<Ask> {
        std::mem::take(&mut *self.inbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_empty(&self) -> bool {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Works until nobody of this host has to do with the lock any more.
    pub(super) async fn run(self: Arc<Self>, host: Arc<Host>, name: String) {
        let mut anchor = host.anchor.subscribe();
        let mut queue = Queue::new(host, name, self.clone());
        loop {
            let until = queue.step().await;
            let locks = &queue.host.locks;
            if until.is_none() && queue.is_idle() && locks.retire(&queue.name, || self.is_empty()) {
                return;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                _ = anchor.changed() => {}
                () = queue.host.clock.sleep_until(until.unwrap_or_default()), if until.is_some() => {}
            }
        }
    }
}

/// A party of this host.
#[derive(Debug)]
struct Ours {
    party: Party,
    limit: Option<u32>,
    patient: bool,
    request: String,
    stage: Stage,
    /// Taken when it is let in or refused.
    answer: Option<oneshot::Sender<Result<Option<LockHold>>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It does not stand in the record, as far as is known.
    New,
    Waiting,
    Held,
    /// It was told to stop.
    Stopping,
}

/// What is known of a lock here, and what is under way.
#[derive(Debug)]
struct Queue {
    host: Arc<Host>,
    name: String,
    desk: Arc<Desk>,
    ours: Vec<Ours>,
    leaving: Vec<(String, Option<oneshot::Sender<Result<()>>>)>,
    breaks: Vec<Break>,
    /// The session in which `ours` stand.
    session: Option<SessionId>,
    /// Until when a write of unknown effect may still land.
    linger: Option<BootTime>,
    pause: Duration,
}

/// What the record should become.
#[derive(Debug)]
struct Plan {
    record: LockRecord,
    changed: bool,
    /// Sessions whose parties are struck out because they have ended, which the write proves.
    ended: Vec<SessionId>,
    /// Who is not let in: an error, or `None` who does not wait.
    refused: Vec<(String, Option<Error>)>,
    broken: Vec<Vec<Party>>,
}

impl Queue {
    fn new(host: Arc<Host>, name: String, desk: Arc<Desk>) -> Self {
        Queue {
            host,
            name,
            desk,
            ours: Vec::new(),
            leaving: Vec::new(),
            breaks: Vec::new(),
            session: None,
            linger: None,
            pause: limits::RETRY_PAUSE,
        }
    }

    fn is_idle(&self) -> bool {
        self.ours.is_empty() && self.leaving.is_empty() && self.breaks.is_empty()
    }

    /// Makes the record as it should be. Returns when to look again though nothing changes.
    async fn step(&mut self) -> Option<BootTime> {
        self.take_in();
        let Some(session) = self.host.anchor.held() else {
            self.stand_down();
            return None;
        };
        self.stand_in(session);
        let now = self.host.clock.now();
        match self.reconcile(session).await {
            Ok(plan) => {
                self.pause = limits::RETRY_PAUSE;
                self.settle(plan);
                self.linger = self.linger.filter(|until| now < *until);
                self.linger
            }
            Err(error) => {
                self.fail(&error);
                self.pause = (self.pause * 2).min(limits::CALL_DEADLINE);
                Some(self.host.clock.now() + self.host.chance.jitter(self.pause))
            }
        }
    }

    fn take_in(&mut self) {
        for ask in self.desk.take() {
            match ask {
                Ask::Enter(Enter { party, limit, patient, request, answer }) => {
                    let (stage, answer) = (Stage::New, Some(answer));
                    self.ours.push(Ours { party, limit, patient, request, stage, answer });
                }
                Ask::Leave { id, answer } => {
                    self.ours.retain(|ours| ours.party.id != id);
                    self.leaving.push((id, answer));
                }
                Ask::Break(ask) => self.breaks.push(ask),
                Ask::Look => {}
            }
        }
        // Who no longer waits for the answer does not wait for the lock.
        let gone = |ours: &Ours| ours.answer.as_ref().is_some_and(oneshot::Sender::is_closed);
        for ours in self.ours.extract_if(.., |ours| gone(ours)) {
            self.leaving.push((ours.party.id, None));
        }
    }

    /// This host has no session: what stood in the former one goes with it. Who waits, waits for the next one.
    fn stand_down(&mut self) {
        self.session = None;
        self.ours.retain_mut(|ours| match ours.stage {
            Stage::Held | Stage::Stopping => false,
            Stage::New | Stage::Waiting if ours.patient => {
                ours.stage = Stage::New;
                true
            }
            Stage::New | Stage::Waiting => {
                tell(ours.answer.take(), Err(no_lease("lock")));
                false
            }
        });
        for (_, answer) in self.leaving.drain(..) {
            tell(answer, Ok(()));
        }
        for ask in self.breaks.drain(..) {
            tell(Some(ask.answer), Err(no_lease("break lock")));
        }
    }

    /// Sees to it that all stand in this session.
    fn stand_in(&mut self, session: SessionId) {
        if self.session == Some(session) {
            for ours in self.ours.iter_mut().filter(|ours| ours.stage == Stage::New) {
                ours.party.session = session;
            }
            return;
        }
        if self.session.is_some() {
            self.stand_down();
        }
        self.session = Some(session);
        self.ours.iter_mut().for_each(|ours| ours.party.session = session);
    }

    /// Writes what is to change, from what was seen at first, then from fresh reads as long as others write first. Nobody
    /// is turned away by what was only seen.
    async fn reconcile(&mut self, session: SessionId) -> Result<Plan> {
        let (mut image, mut is_fresh) = (self.host.locks.image(&self.name), false);
        for round in 0..limits::CONFLICT_TRIES {
            let mut plan = self.plan(image.as_ref(), session);
            let is_final = is_fresh || (plan.refused.is_empty() && self.breaks.is_empty());
            if is_final && (!plan.changed || self.write(image.as_ref(), &mut plan).await?) {
                return Ok(plan);
            }
            if round > 1 {
                self.host.clock.sleep(self.host.chance.jitter(limits::RETRY_PAUSE)).await;
            }
            for ended in &plan.ended {
                self.check_ended(*ended).await?;
            }
            (image, is_fresh) = (self.read().await?, true);
        }
        Err(contended(&self.name))
    }

    /// Makes the record from one that was seen or read.
    fn plan(&self, image: Option<&Image>, session: SessionId) -> Plan {
        let mut record = image.map_or_else(LockRecord::new, |image| image.record.clone());
        let ended = self.ended(&record, session);
        let is_ours = |id: &str| self.ours.iter().any(|ours| ours.party.id == id);
        record.keep(|party| match party.session == session {
            true => is_ours(&party.id),
            false => !ended.contains(&party.session),
        });
        let broken = self.breaks.iter().map(|ask| mark_broken(&mut record, ask)).collect();
        let now_ms = self.host.clock.wall_ms();
        record.advance(now_ms);
        let mut refused = Vec::new();
        for ours in self.ours.iter().filter(|ours| ours.stage == Stage::New) {
            let id = &ours.party.id;
            if record.holder(id).is_some() || record.is_waiting(id) {
                continue;
            }
            if record.parties() >= limits::LOCK_PARTIES_MAX {
                refused.push((id.clone(), Some(crowded(&self.name))));
            } else if let Err(error) = record.enter(&self.name, ours.party.clone(), ours.limit) {
                refused.push((id.clone(), Some(error)));
            } else {
                record.advance(now_ms);
                if !ours.patient && record.is_waiting(id) {
                    record.waiters.pop();
                    refused.push((id.clone(), None));
                }
            }
        }
        let changed = image.map_or(!record.is_empty(), |image| image.record != record);
        Plan { record, changed, ended, refused, broken }
    }

    /// Returns the sessions of parties that have ended, as far as was seen.
    fn ended(&self, record: &LockRecord, session: SessionId) -> Vec<SessionId> {
        let mut ended: Vec<_> = record.each().map(|party| party.session).collect();
        ended.sort_unstable();
        ended.dedup();
        ended.retain(|other| *other != session && self.host.locks.is_ended(*other));
        ended.truncate(limits::LOCK_SESSIONS_REAPED_MAX);
        ended
    }

    /// Writes the record under the guard it was seen with. Returns whether it was written: not when somebody else wrote
    /// first, nor when nobody can tell. From then on the plan's record has all tokens.
    async fn write(&mut self, image: Option<&Image>, plan: &mut Plan) -> Result<bool> {
        let key = lock_key(&self.name);
        let guard = match image {
            Some(image) => Guard::Unchanged(key.clone(), image.stamp),
            None => Guard::Absent(key.clone()),
        };
        let ended = plan.ended.iter().map(|session| Guard::Absent(session.key()));
        let txn = ended.fold(Txn::new().guard(guard), Txn::guard);
        let txn = match plan.record.is_empty() {
            true => txn.delete(key),
            false => txn.put(key, encode(&plan.record)),
        };
        match self.host.commit(txn).await {
            Ok(committed) => {
                let stamp = committed.stamps.first().copied().filter(|_| !plan.record.is_empty());
                let image = stamp.map(|stamp| Image::written(plan.record.clone(), stamp));
                plan.record = image.as_ref().map(|image| image.record.clone()).unwrap_or_default();
                self.host.locks.learn(&self.name, image, committed.revision);
                Ok(true)
            }
            Err(error) if error.kind() == Kind::Conflict => Ok(false),
            Err(error) if error.effect() == Effect::Unknown => {
                debug!(lock = self.name, %error, "nobody can tell whether a write landed");
                self.linger = Some(self.host.clock.now() + limits::CALL_DEADLINE * 2);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn read(&self) -> Result<Option<Image>> {
        let record = self.host.driver.get(&lock_key(&self.name)).await?;
        let image = record.as_ref().map(Image::of).transpose()?;
        self.host.locks.learn_read(&self.name, image.clone());
        Ok(image)
    }

    /// Looks whether a session that was not seen has really ended: it may have begun a moment ago.
    async fn check_ended(&self, session: SessionId) -> Result<()> {
        if let Some(record) = self.host.driver.get(&session.key()).await? {
            self.host.locks.lives(session, record.stamp.created);
        }
        Ok(())
    }

    /// Answers whoever waits for what is written now.
    fn settle(&mut self, plan: Plan) {
        // Not what the board shows by now: that may lag behind, and nothing need ever change again.
        let record = plan.record;
        for (id, refusal) in plan.refused {
            for ours in self.ours.extract_if(.., |ours| ours.party.id == id) {
                let refusal = refusal.clone().map_or(Ok(None), Err);
                tell(ours.answer, refusal);
            }
        }
        for mut ours in std::mem::take(&mut self.ours) {
            if self.follow_up(&mut ours, &record) {
                self.ours.push(ours);
            }
        }
        for (_, answer) in self.leaving.drain(..) {
            tell(answer, Ok(()));
        }
        for (ask, broken) in self.breaks.drain(..).zip(plan.broken) {
            tell(Some(ask.answer), Ok(broken));
        }
    }

    /// Tells a party how it stands in the record. Returns whether it stays.
    fn follow_up(&self, ours: &mut Ours, record: &LockRecord) -> bool {
        let id = &ours.party.id;
        let Some(holder) = record.holder(id) else {
            if matches!(ours.stage, Stage::Held | Stage::Stopping) {
                let reason = "it was taken away in the backend";
                self.host.sessions.lose_lock(&ours.party.client, id, reason);
                return false;
            }
            ours.stage = if record.is_waiting(id) { Stage::Waiting } else { Stage::New };
            if ours.stage == Stage::New {
                self.desk.wake.notify_one();
            }
            return true;
        };
        if ours.answer.is_some() && !self.let_in(ours, holder) {
            return ours.answer.is_some();
        }
        if holder.breaking.is_some() && ours.stage == Stage::Held {
            ours.stage = Stage::Stopping;
            let (host, name, party) = (self.host.clone(), self.name.clone(), holder.clone());
            self.host.spawn(async move {
                host.sessions.stop_lock(&party.client, &party.id).await;
                host.ask_lock(&name, Some(Ask::Leave { id: party.id, answer: None }));
            });
        }
        true
    }

    /// Has a client hold what it was let in to, before anybody can ask it to stop. Returns whether it does; who keeps its
    /// answer waits on, for the host's next session.
    fn let_in(&self, ours: &mut Ours, holder: &Party) -> bool {
        let hold = LockHold {
            lock: self.name.clone(),
            mode: holder.mode,
            limit: ours.limit,
            token: holder.token(),
            since_ms: holder.since_ms,
            id: ours.request.clone(),
        };
        let sessions = &self.host.sessions;
        let is_open = sessions.begin_lock(&holder.client, &holder.id, hold.clone());
        // Now that it is held: a loss that was told before did not take it along.
        if is_open && self.host.anchor.held() != Some(holder.session) {
            sessions.drop_lock(&holder.client, &holder.id);
            return false;
        }
        let answer = ours.answer.take().filter(|_| is_open);
        if answer.is_some_and(|answer| answer.send(Ok(Some(hold))).is_ok()) {
            ours.stage = Stage::Held;
            return true;
        }
        sessions.drop_lock(&holder.client, &holder.id);
        self.desk.put(Some(Ask::Leave { id: holder.id.clone(), answer: None }));
        false
    }

    /// The backend failed. Who only tries is told so, and so is everybody whom waiting does not help; what is to be
    /// struck out is tried again.
    fn fail(&mut self, error: &Error) {
        debug!(lock = self.name, %error, "a lock cannot be written");
        let passes = matches!(
            error.kind(),
            Kind::Unavailable | Kind::Timeout | Kind::Conflict | Kind::Busy | Kind::SessionLost
        );
        for ours in self.ours.extract_if(.., |ours| ours.stage == Stage::New && !(ours.patient && passes)) {
            tell(ours.answer, Err(error.clone()));
            self.leaving.push((ours.party.id, None));
        }
        for (_, answer) in &mut self.leaving {
            tell(answer.take(), Err(error.clone()));
        }
        for ask in self.breaks.drain(..) {
            tell(Some(ask.answer), Err(error.clone()));
        }
    }
}

/// Answers whoever still waits for it.
fn tell<T>(answer: Option<oneshot::Sender<T>>, word: T) {
    if let Some(answer) = answer {
        drop(answer.send(word));
    }
}

/// Asks the holders to stop, or takes the lock away from them; returns whom that concerns.
fn mark_broken(record: &mut LockRecord, ask: &Break) -> Vec<Party> {
    let concerns = |party: &Party| ask.token.is_none_or(|token| party.token == Some(token));
    if ask.force {
        return record.holders.extract_if(.., |party| concerns(party)).collect();
    }
    let mut asked = Vec::new();
    for party in record.holders.iter_mut().filter(|party| concerns(party)) {
        party.breaking.get_or_insert_with(|| ask.by.clone());
        asked.push(party.clone());
    }
    asked
}

fn crowded(name: &str) -> Error {
    Error::new(Kind::Busy, "lock", "as many hold this lock and wait for it as can")
        .with("lock", name)
        .with("parties_max", limits::LOCK_PARTIES_MAX)
        .advise("Try again later")
}
