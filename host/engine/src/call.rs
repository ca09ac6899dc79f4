//! One call of a guest: let in, run on the guest runtime, held to its limits.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use althing_core::Clock;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use wasmtime::Store;

use crate::engine::Inner;
use crate::fault::{Fault, FaultCause};
use crate::host::Subject;
use crate::journal::{CallLimits, Journal};
use crate::kinds::PolicyKind;
use crate::store::{Call, new_store};

/// An answer, with what the call said and used.
pub(crate) struct Answered<R> {
    pub(crate) answer: R,
    pub(crate) log: Vec<String>,
    pub(crate) cpu: Duration,
}

/// A call that was let in: one of so many at once.
pub(crate) struct Admitted<'a> {
    engine: &'a Inner,
    journal: Arc<Journal>,
    permits: Permits,
}

/// The place of a call among all calls, and that of a behaviour's among those of behaviours.
type Permits = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl<'a> Admitted<'a> {
    /// Waits while as many calls run as the engine lets in. Behaviours, which wait for the backend, get half of the places,
    /// so that a slow backend does not keep rules from deciding.
    pub(crate) async fn admit(
        engine: &'a Inner,
        kind: PolicyKind,
        limits: CallLimits,
    ) -> Result<Self, Fault> {
        let ending = |_| Fault::new(FaultCause::Host, "the engine is ending");
        let among_behaviours = match kind {
            PolicyKind::Election => None,
            PolicyKind::Behaviour => {
                Some(engine.behaviour_permits.clone().acquire_owned().await.map_err(ending)?)
            }
        };
        let among_all = engine.permits.clone().acquire_owned().await.map_err(ending)?;
        let journal = Arc::new(Journal::new(limits, engine.clock.clone()));
        Ok(Admitted { engine, journal, permits: (among_all, among_behaviours) })
    }

    /// Makes the store of the call.
    pub(crate) fn store(&self, subject: Subject) -> Store<Call> {
        new_store(&self.engine.wasm, self.journal.clone(), subject)
    }

    /// Tells whether this is the guest runtime, so that the call need not go anywhere.
    pub(crate) fn is_here(&self) -> bool {
        Handle::try_current().is_ok_and(|here| here.id() == self.engine.handle.id())
    }

    /// Runs the call in place. Dropping this future ends it.
    pub(crate) async fn here<R>(
        self,
        work: impl Future<Output = wasmtime::Result<R>>,
    ) -> Result<Answered<R>, Fault> {
        let Admitted { engine, journal, permits } = self;
        let outcome = within(&*engine.clock, journal.limits.wall, journal.count(work)).await;
        // Only now, since the store held a place in the pool until `work` was dropped.
        drop(permits);
        settle(outcome.map(Ok), &journal)
    }

    /// Runs the call as a task of the guest runtime. Dropping this future ends it.
    pub(crate) async fn away<R: Send + 'static>(
        self,
        work: impl Future<Output = wasmtime::Result<R>> + Send + 'static,
    ) -> Result<Answered<R>, Fault> {
        let Admitted { engine, journal, permits } = self;
        let counted = journal.clone();
        let task = Task(engine.handle.spawn(async move {
            let outcome = counted.count(work).await;
            drop(permits);
            outcome
        }));
        let outcome = within(&*engine.clock, journal.limits.wall, task).await;
        settle(outcome, &journal)
    }
}

fn settle<R>(
    outcome: Option<Result<wasmtime::Result<R>, tokio::task::JoinError>>,
    journal: &Journal,
) -> Result<Answered<R>, Fault> {
    let log = journal.take_log();
    let fault = match outcome {
        Some(Ok(Ok(answer))) => return Ok(Answered { answer, log, cpu: journal.cpu() }),
        Some(Ok(Err(error))) => Fault::from_engine(&error, journal),
        Some(Err(error)) => Fault::new(FaultCause::Host, format!("the call's task ended: {error}")),
        None => {
            let wall = journal.limits.wall.as_millis();
            Fault::new(FaultCause::Deadline, format!("it gave no answer within {wall} ms"))
        }
    };
    Err(Fault { log, ..fault })
}

/// Waits for `work`, at most for `wall`. Most calls end in the first poll, so the timer is made only after it.
async fn within<T>(clock: &dyn Clock, wall: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    if let Poll::Ready(value) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        return Some(value);
    }
    tokio::select! {
        biased;
        value = work => Some(value),
        () = clock.sleep(wall) => None,
    }
}

/// A task that is aborted when nobody waits for it any more.
struct Task<T>(JoinHandle<T>);

impl<T> Future for Task<T> {
    type Output = Result<T, tokio::task::JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
