//! One call of a behaviour: asked, and asked again as long as it waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use althing_core::info::{BehaviourAsk, BehaviourCall, BehaviourOutcome, Standing};
use althing_core::{BootTime, Digest, Error, Key, Kind, Result, Revision, Stamp, limits};
use althing_engine::{BehaviourAnswer, BehaviourRequest, Fault, Handled, Policy, RecordsError};
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::hub::Listener;
use super::records::{Reached, Request};
use crate::envelope::data_key;
use crate::layout::behaviour_key;
use crate::recipes::binding::no_behaviour;
use crate::sessions::Caller;
use crate::{Host, SessionKey};

/// A call under way.
#[derive(Debug)]
pub(super) struct Call {
    host: Arc<Host>,
    request: Arc<Request>,
    caller: Caller,
    ask: BehaviourAsk,
    began: BootTime,
    /// Until when the client waits.
    deadline: BootTime,
    deadline_ms: f64,
    /// Done when the client no longer waits.
    gone: CancellationToken,
    /// Until when the behaviour may clear away; `None` before that.
    last: Option<BootTime>,
    /// What is told of it afterwards.
    told: BehaviourCall,
}

/// What a call is asked of.
#[derive(Debug)]
struct Bound {
    policy: Arc<Policy>,
    stamp: Stamp,
}

/// What came of asking once.
enum Turn {
    Done(Bytes),
    Wait(Waiting),
    /// Ask again at once: another policy answers now.
    Again,
    /// Somebody no longer waits.
    Over(Over),
    Faulty(Fault),
}

/// What a call waits for.
struct Waiting {
    prefix: Key,
    until: BootTime,
    listener: Listener,
    /// What the call wrote itself when it was asked.
    written: Vec<(Key, Revision)>,
    /// The binding under which it was asked.
    stamp: Stamp,
}

/// Why a call goes on no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// The session of the client, or that of the host in the backend, has ended.
    Lost,
    /// The client went away.
    Gone,
    /// The time is over.
    Late,
}

impl Call {
    /// Lets a call in.
    pub(super) fn begin(
        host: &Arc<Host>,
        key: &SessionKey,
        name: &str,
        ask: BehaviourAsk,
        gone: CancellationToken,
    ) -> Result<Call> {
        host.mirror.behaviour(name).ok_or_else(|| no_behaviour(name))?;
        let anchor = host.held("call behaviour")?;
        let caller = host.sessions.begin_call(key)?;
        let (began, at_ms, id) = (host.clock.now(), host.clock.wall_ms(), host.chance.bits());
        let timeout = ask.timeout.unwrap_or(limits::BEHAVIOUR_TIMEOUT_DEFAULT);
        let request = Request {
            host: host.clone(),
            session: key.id.clone(),
            id,
            anchor,
            calls: AtomicU32::new(0),
            has_read: AtomicBool::new(false),
            has_written: AtomicBool::new(false),
            committing: Arc::default(),
        };
        let told = BehaviourCall {
            behaviour: name.to_owned(),
            id: format!("{id:032x}"),
            at_ms,
            epoch: 0,
            digest: None,
            operation: ask.operation.clone(),
            principal: caller.by.to_string(),
            session: key.id.clone(),
            attempts: 0,
            store_calls: 0,
            took_ms: 0.0,
            outcome: BehaviourOutcome::Done,
            error: None,
            log: Vec::new(),
        };
        Ok(Call {
            host: host.clone(),
            request: Arc::new(request),
            caller,
            ask,
            began,
            deadline: began + timeout,
            deadline_ms: at_ms as f64 + timeout.as_secs_f64() * 1000.0,
            gone,
            last: None,
            told,
        })
    }

    /// Asks until there is an answer, and hands it over. What nobody takes is cleared away.
    pub(super) async fn run(mut self, client: oneshot::Sender<Result<Bytes>>) {
        let answer = self.answer_and_tell().await;
        if let Err(Ok(_)) = client.send(answer)
            && self.last.is_none()
        {
            self.clear().await;
        }
    }

    /// Asks until there is an answer, and keeps a line of what came of it.
    async fn answer_and_tell(&mut self) -> Result<Bytes> {
        let answer = self.answer().await;
        self.told.took_ms = self.host.clock.now().since(self.began).as_secs_f64() * 1000.0;
        self.told.store_calls = self.request.calls.load(Ordering::Relaxed);
        self.told.outcome = match &answer {
            _ if self.gone.is_cancelled() => BehaviourOutcome::Gone,
            Ok(_) => BehaviourOutcome::Done,
            Err(error) => outcome(error),
        };
        self.told.error = answer.as_ref().err().map(ToString::to_string);
        if self.told.epoch > 0 {
            self.host.audit.keep_call(self.told.clone());
        }
        answer
    }

    async fn answer(&mut self) -> Result<Bytes> {
        loop {
            match self.turn().await? {
                Turn::Done(bytes) => return self.verified(bytes).await,
                Turn::Wait(waiting) => {
                    if let Some(over) = self.wait(waiting).await {
                        return self.conclude(over).await;
                    }
                }
                Turn::Again => {}
                Turn::Over(over) => return self.conclude(over).await,
                Turn::Faulty(fault) => match self.clear().await {
                    Some(bytes) => return self.verified(bytes).await,
                    None => return Err(self.failed(Kind::Fault, "the behaviour failed").because(fault)),
                },
            }
        }
    }

    /// Asks once. Listens before it asks, so that no change between what the guest reads and its answer is missed.
    async fn turn(&mut self) -> Result<Turn> {
        let bound = match self.bound().await? {
            Ok(bound) => bound,
            Err(over) => return Ok(Turn::Over(over)),
        };
        let name = &self.told.behaviour;
        let reached = Arc::new(Reached::new(self.request.clone(), behaviour_key(name), bound.stamp));
        let listener = self.host.listen();
        let asked = self.asked();
        self.told.attempts += 1;
        let handled = tokio::select! {
            biased;
            handled = bound.policy.handle(&asked, reached.clone()) => handled,
            () = reached.rebound.cancelled() => {
                self.swapped(bound.stamp).await;
                return Ok(Turn::Again);
            }
            over = self.over(self.cut()) => return Ok(Turn::Over(over)),
        };
        let Handled { answer, log, .. } = match handled {
            Ok(handled) => handled,
            Err(fault) => {
                metrics::counter!("althing_faults_total", "policy" => bound.policy.manifest().name.clone())
                    .increment(1);
                self.told.log.clone_from(&fault.log);
                return Ok(Turn::Faulty(fault));
            }
        };
        self.told.log = log;
        let written = std::mem::take(&mut *reached.written());
        match answer {
            // It wrote nothing, so nothing in the store says that it was asked before the swap.
            Ok(_) if written.is_empty() && self.is_retired(bound.stamp) => Ok(Turn::Again),
            Ok(BehaviourAnswer::Done(bytes)) => Ok(Turn::Done(bytes)),
            Ok(BehaviourAnswer::Wait { prefix, until_ms }) => {
                let wait = (until_ms - asked.now_ms).max(0.0) / 1000.0;
                let wait =
                    std::time::Duration::try_from_secs_f64(wait).unwrap_or(limits::BEHAVIOUR_TIMEOUT_MAX);
                let until = self.host.clock.now() + wait;
                Ok(Turn::Wait(Waiting {
                    prefix: data_key(&prefix),
                    until,
                    listener,
                    written,
                    stamp: bound.stamp,
                }))
            }
            Err(error) => Err(self.refused(error)),
        }
    }

    /// Finds what is bound, and waits until this host has loaded it.
    async fn bound(&mut self) -> Result<Result<Bound, Over>> {
        let name = self.told.behaviour.clone();
        loop {
            let behaviour = self.host.mirror.behaviour(&name).ok_or_else(|| self.unbound())?;
            let bound = &behaviour.record.bound;
            let binding = bound.binding.as_ref().ok_or_else(|| self.unbound())?;
            (self.told.epoch, self.told.digest) = (bound.epoch, Some(binding.digest));
            tokio::select! {
                biased;
                policy = self.host.shelf.loaded(&binding.digest) => {
                    return Ok(Ok(Bound { policy, stamp: behaviour.stamp }));
                }
                () = self.host.mirror.rebound(&name, behaviour.stamp) => {}
                over = self.over(self.cut().min(self.host.clock.now() + limits::BEHAVIOUR_GRACE)) => {
                    return match over {
                        Over::Late => Err(self.behind(&binding.digest)),
                        over => Ok(Err(over)),
                    };
                }
            }
        }
    }

    /// Makes the question.
    fn asked(&self) -> BehaviourRequest {
        BehaviourRequest {
            id: self.told.id.clone(),
            operation: self.ask.operation.clone(),
            body: self.ask.body.clone(),
            principal: self.told.principal.clone(),
            session: self.told.session.clone(),
            now_ms: self.host.clock.wall_ms() as f64,
            deadline_ms: self.deadline_ms,
            attempt: self.told.attempts,
            last: self.last.is_some(),
            attributes: BTreeMap::new(),
        }
    }

    /// Waits until there is a reason to ask again; returns why there will be none.
    async fn wait(&self, mut waiting: Waiting) -> Option<Over> {
        tokio::select! {
            biased;
            over = self.over(self.deadline) => Some(over),
            () = waiting.listener.changed(&waiting.prefix, &waiting.written) => None,
            () = self.host.mirror.rebound(&self.told.behaviour, waiting.stamp) => None,
            () = self.host.clock.sleep_until(waiting.until) => None,
        }
    }

    /// Waits until the call is over: for good, for its client, or at `deadline`.
    async fn over(&self, deadline: BootTime) -> Over {
        let mut anchor = self.host.anchor.subscribe();
        let lost = anchor.wait_for(|anchor| {
            anchor.session != Some(self.request.anchor) || anchor.standing == Standing::Lost
        });
        tokio::select! {
            biased;
            () = self.caller.ended.cancelled() => Over::Lost,
            _ = lost => Over::Lost,
            () = self.gone.cancelled(), if self.last.is_none() => Over::Gone,
            () = self.host.clock.sleep_until(deadline) => Over::Late,
        }
    }

    /// Returns when asking once is cut off. Past the deadline of the client there is a little more: so that even one
    /// who does not want to wait gets an answer, and a commit that has begun is heard of.
    fn cut(&self) -> BootTime {
        self.last.unwrap_or(self.deadline + limits::BEHAVIOUR_GRACE)
    }

    /// Ends a call for which nobody waits any more: asks one last time, so that nothing stays behind of the waiting.
    async fn conclude(&mut self, over: Over) -> Result<Bytes> {
        if over == Over::Lost {
            return Err(self.lost());
        }
        let done = self.clear().await;
        match (over, done) {
            (_, Some(bytes)) => self.verified(bytes).await,
            (Over::Gone, None) => Err(Error::new(Kind::Closed, "call behaviour", "the client went away")),
            (_, None) => {
                let timeout = self.deadline.since(self.began);
                Err(self
                    .failed(Kind::Timeout, format!("the behaviour was not done within {timeout:?}"))
                    .advise("Ask again, or wait for longer"))
            }
        }
    }

    /// Asks one last time, unless nothing was begun. Returns the answer when it turns out to be done after all.
    async fn clear(&mut self) -> Option<Bytes> {
        // A commit that was cut off from its caller is over before the behaviour looks again.
        drop(self.request.committing.lock().await);
        if !self.request.has_written.load(Ordering::Relaxed) {
            return None;
        }
        let end = self.host.clock.now() + limits::BEHAVIOUR_GRACE;
        self.last = Some(end);
        while self.host.clock.now() < end {
            match self.turn().await {
                Ok(Turn::Again) => {}
                Ok(Turn::Done(bytes)) => return Some(bytes),
                Ok(Turn::Wait(_)) => {
                    // It has cleared away, and knows of nothing that it gave.
                    self.request.has_written.store(false, Ordering::Relaxed);
                    return None;
                }
                Ok(Turn::Over(_) | Turn::Faulty(_)) | Err(_) => return None,
            }
        }
        None
    }

    /// Proves that both sessions stood when the guest was done: it may have concluded something from a record that
    /// was not there, and with a session its records go.
    async fn verified(&self, bytes: Bytes) -> Result<Bytes> {
        if self.request.has_read.load(Ordering::Relaxed) {
            let session = self.host.driver.get(&self.request.anchor.key()).await;
            let session = session.map_err(|error| {
                self.failed(error.kind(), "the session of this host cannot be verified").because(error)
            })?;
            session.ok_or_else(|| self.lost())?;
        }
        if self.request.is_live() { Ok(bytes) } else { Err(self.lost()) }
    }

    /// Waits until this host has seen what is bound now.
    async fn swapped(&self, stamp: Stamp) {
        tokio::select! {
            () = self.host.mirror.rebound(&self.told.behaviour, stamp) => {}
            _ = self.over(self.cut()) => {}
        }
    }

    fn is_retired(&self, stamp: Stamp) -> bool {
        let behaviour = self.host.mirror.behaviour(&self.told.behaviour);
        behaviour.is_none_or(|behaviour| behaviour.stamp != stamp)
    }

    fn refused(&self, error: RecordsError) -> Error {
        let (kind, message) = match error {
            RecordsError::SessionLost => return self.lost(),
            RecordsError::Conflict(key) => {
                let key = key.escape_ascii();
                return self.failed(Kind::Conflict, format!("others kept writing first to {key}"));
            }
            RecordsError::Unknown(text) => {
                return self.failed(Kind::Unavailable, text).with_unknown_effect();
            }
            RecordsError::Denied(text) => (Kind::Denied, text),
            RecordsError::TooLarge(text) => (Kind::TooLarge, text),
            RecordsError::Unavailable(text) => (Kind::Unavailable, text),
            RecordsError::Other(text) => return self.error(Kind::Invalid, text),
        };
        self.failed(kind, message)
    }

    fn unbound(&self) -> Error {
        let error = no_behaviour(&self.told.behaviour);
        if self.request.has_written.load(Ordering::Relaxed) { error.with_unknown_effect() } else { error }
    }

    fn behind(&self, digest: &Digest) -> Error {
        let error = self.failed(Kind::Unavailable, "this host has not loaded what is bound");
        match self.host.following.failure(digest) {
            Some(reason) => error.because(reason).advise("Mend it, or ask another host"),
            None => error.advise("Try again shortly"),
        }
    }

    fn lost(&self) -> Error {
        if self.host.ended.is_cancelled() {
            return self.failed(Kind::Closed, "the host ended meanwhile");
        }
        let whose = if self.caller.ended.is_cancelled() { "the session" } else { "this host's session" };
        self.failed(Kind::SessionLost, format!("{whose} ended meanwhile, and what it owned is gone"))
            .advise("Open a new session and ask again")
    }

    /// Makes an error of the call; of unknown effect where something was written for it.
    fn failed(&self, kind: Kind, message: impl Into<String>) -> Error {
        let error = self.error(kind, message);
        if self.request.has_written.load(Ordering::Relaxed) { error.with_unknown_effect() } else { error }
    }

    fn error(&self, kind: Kind, message: impl Into<String>) -> Error {
        Error::new(kind, "call behaviour", message).with("behaviour", &self.told.behaviour)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.host.sessions.end_call(&self.told.session);
    }
}

fn outcome(error: &Error) -> BehaviourOutcome {
    match error.kind() {
        Kind::Timeout => BehaviourOutcome::TimedOut,
        Kind::SessionLost => BehaviourOutcome::SessionLost,
        Kind::Fault => BehaviourOutcome::Fault,
        Kind::Invalid | Kind::Denied | Kind::Conflict | Kind::TooLarge => BehaviourOutcome::Refused,
        _ => BehaviourOutcome::Failed,
    }
}
