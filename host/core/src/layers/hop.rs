//! The hop to the I/O runtime: what a call waits for, it waits for there, so that neither a caller that is
//! dropped nor one that blocks its own runtime stops it midway.
//!
//! The first step of a call is taken on the caller's thread, within the context of the I/O runtime: what
//! need not wait is answered there, and a request leaves without the delay of waking another thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};

use super::around::Operation;
use crate::{
    Capability, Committed, Delta, Driver, Error, Key, Kind, Lease, Page, Record, Result, Revision, Session,
    SessionId, Txn, Watch,
};

/// Runs each call below on a runtime. A caller that is dropped does not cancel a call that has begun. When
/// that runtime has ended, a call that must wait fails with [`Kind::Closed`], of unknown effect where it
/// writes. A driver that panics fails its call with [`Kind::Internal`].
#[derive(Debug)]
pub struct Hop {
    inner: Arc<dyn Driver>,
    runtime: Handle,
}

impl Hop {
    /// Wraps a driver.
    pub fn new(inner: Arc<dyn Driver>, runtime: Handle) -> Self {
        Hop { inner, runtime }
    }

    async fn run<T, F>(&self, operation: Operation, call: impl FnOnce(Arc<dyn Driver>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        match begin(&self.runtime, operation, Box::pin(call(self.inner.clone())))? {
            Begun::Done(result) => result,
            Begun::Waits(task) => task.await.unwrap_or_else(|ended| Err(ended_early(operation, &ended))),
        }
    }
}

enum Begun<T> {
    Done(T),
    Waits(JoinHandle<T>),
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Takes the first step of a call here, and makes the rest a task of `runtime`.
fn begin<T: Send + 'static>(runtime: &Handle, operation: Operation, mut call: Boxed<T>) -> Result<Begun<T>> {
    // Entered, so that timers and sockets made in this step belong to that runtime.
    let _entered = runtime.enter();
    // Nobody needs waking by this step: a new task is always polled once.
    let step = || call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(Poll::Ready(result)) => Ok(Begun::Done(result)),
        Ok(Poll::Pending) => Ok(Begun::Waits(runtime.spawn(call))),
        Err(_) => Err(panicked(operation)),
    }
}

#[async_trait]
impl Driver for Hop {
    fn capability(&self) -> Capability {
        self.inner.capability()
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        self.run(Operation::Open, |inner| async move { inner.open(ask).await }).await
    }

    async fn renew(&self, session: SessionId) -> Result<Lease> {
        self.run(Operation::Renew, move |inner| async move { inner.renew(session).await }).await
    }

    async fn close(&self, session: SessionId) -> Result<()> {
        self.run(Operation::Close, |inner| async move { inner.close(session).await }).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        let key = key.clone();
        self.run(Operation::Get, |inner| async move { inner.get(&key).await }).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<Page> {
        let (prefix, after) = (prefix.clone(), after.cloned());
        let call = |inner: Arc<dyn Driver>| async move { inner.list(&prefix, after.as_ref(), limit).await };
        self.run(Operation::List, call).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        self.run(Operation::Commit, |inner| async move { inner.commit(txn).await }).await
    }

    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>> {
        let prefix = prefix.clone();
        let call = |inner: Arc<dyn Driver>| async move { inner.watch(&prefix, from).await };
        let watch = self.run(Operation::Watch, call).await?;
        Ok(Box::new(HopWatch { runtime: self.runtime.clone(), state: State::Idle(watch) }))
    }
}

/// A watch below, asked by a task only when it is asked itself: nothing is queued here, so the driver's
/// bound is the only one. (A task that forwards into a channel would be a second queue to bound.)
#[derive(Debug)]
struct HopWatch {
    runtime: Handle,
    state: State,
}

#[derive(Debug)]
enum State {
    Idle(Box<dyn Watch>),
    /// Kept when a caller is dropped, so that the delta it waited for is not lost.
    Asked(JoinHandle<(Box<dyn Watch>, Result<Delta>)>),
    Ended,
}

#[async_trait]
impl Watch for HopWatch {
    async fn next(&mut self) -> Result<Delta> {
        if let Some(delta) = self.ask()? {
            return Ok(delta);
        }
        let State::Asked(task) = &mut self.state else {
            return Err(Error::new(Kind::Closed, Operation::Next.name(), "the watch has ended"));
        };
        let answer = task.await;
        self.state = State::Ended;
        let (watch, delta) = answer.map_err(|ended| ended_early(Operation::Next, &ended))?;
        self.state = State::Idle(watch);
        delta
    }
}

impl HopWatch {
    /// Asks the watch below unless it is being asked already. Returns what it answers at once.
    fn ask(&mut self) -> Result<Option<Delta>> {
        let mut watch = match std::mem::replace(&mut self.state, State::Ended) {
            State::Idle(watch) => watch,
            other => {
                self.state = other;
                return Ok(None);
            }
        };
        let call = Box::pin(async move {
            let delta = watch.next().await;
            (watch, delta)
        });
        match begin(&self.runtime, Operation::Next, call)? {
            Begun::Done((watch, delta)) => {
                self.state = State::Idle(watch);
                delta.map(Some)
            }
            Begun::Waits(task) => {
                self.state = State::Asked(task);
                Ok(None)
            }
        }
    }
}

impl Drop for HopWatch {
    fn drop(&mut self) {
        if let State::Asked(task) = &self.state {
            task.abort();
        }
    }
}

fn ended_early(operation: Operation, ended: &JoinError) -> Error {
    if ended.is_panic() {
        return panicked(operation);
    }
    operation.unanswered(Error::new(Kind::Closed, operation.name(), "the I/O runtime has ended"))
}

fn panicked(operation: Operation) -> Error {
    operation.unanswered(Error::new(Kind::Internal, operation.name(), "the driver panicked"))
}
