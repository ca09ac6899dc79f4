//! The engine's own threads: one ticks, one compiles. Neither may share a runtime with anything that has a deadline.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use althing_core::{Clock, Error, Kind, Result, limits};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Moves the engine's epoch, by which running guests are interrupted. Ends when it is dropped.
pub(crate) struct Ticker {
    stopped: Arc<AtomicBool>,
    thread: Thread,
}

impl Ticker {
    pub(crate) fn start(engine: wasmtime::Engine) -> Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = stopped.clone();
        let ticks = move || {
            while !stop.load(Ordering::Relaxed) {
                thread::park_timeout(limits::EPOCH_TICK);
                engine.increment_epoch();
            }
        };
        let handle = thread::Builder::new().name("althing-ticker".into()).spawn(ticks).map_err(no_thread)?;
        Ok(Ticker { stopped, thread: handle.thread().clone() })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

/// Compiles components, one at a time, each on a thread of its own.
///
/// A compilation cannot be interrupted. One that takes longer than it may is left to itself, and the next one begins;
/// while as many as [`limits::COMPILES_OVERDUE_MAX`] are left so, nothing new is compiled.
#[derive(Clone)]
pub(crate) struct Compiler {
    turn: Arc<Semaphore>,
    overdue: Arc<Semaphore>,
    deadline: Duration,
    clock: Arc<dyn Clock>,
    /// Where compilations are watched, whether or not somebody still waits for them.
    handle: Handle,
}

impl Compiler {
    pub(crate) fn new(deadline: Duration, clock: Arc<dyn Clock>, handle: Handle) -> Self {
        let (turn, overdue) =
            (Arc::new(Semaphore::new(1)), Arc::new(Semaphore::new(limits::COMPILES_OVERDUE_MAX)));
        Compiler { turn, overdue, deadline, clock, handle }
    }

    /// Does `job` when it is its turn. Dropping the future leaves a job that has begun to end by itself.
    ///
    /// `Timeout` when the job takes too long, `Busy` when too many did, `Internal` when it panics.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let turn = self.turn.clone().acquire_owned().await.map_err(|_| gone())?;
        let overdue = self.overdue.clone().try_acquire_owned().map_err(|_| {
            let message =
                format!("{} components are being compiled for too long", limits::COMPILES_OVERDUE_MAX);
            Error::new(Kind::Busy, "compile", message).advise("Wait until they are done, or restart the host")
        })?;
        let watched = self.clone().watch(job, turn, overdue);
        self.handle.spawn(watched).await.map_err(|_| gone())?
    }

    async fn watch<T: Send + 'static>(
        self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
        turn: OwnedSemaphorePermit,
        overdue: OwnedSemaphorePermit,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let work = move || {
            // What a guest is made of must not end the host, whatever a compiler makes of it.
            let outcome = catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| Err(panicked()));
            drop(overdue);
            // Whoever asked may have given up.
            drop(answer.send(outcome));
        };
        thread::Builder::new().name("althing-compiler".into()).spawn(work).map_err(no_thread)?;
        let outcome = tokio::select! {
            outcome = answered => outcome.unwrap_or_else(|_| Err(gone())),
            () = self.clock.sleep(self.deadline) => Err(late(self.deadline)),
        };
        drop(turn);
        outcome
    }
}

fn late(deadline: Duration) -> Error {
    let message = format!("the component is not compiled after {} s", deadline.as_secs_f32());
    Error::new(Kind::Timeout, "compile", message)
        .advise("Split its largest functions, or build it without inlining")
}

fn panicked() -> Error {
    Error::new(Kind::Internal, "compile", "the compiler fails on this component")
        .advise("Report it with the component; another version of its toolchain may do")
}

fn gone() -> Error {
    Error::new(Kind::Closed, "compile", "the engine is ending")
}

pub(crate) fn no_thread(error: io::Error) -> Error {
    Error::new(Kind::Unavailable, "start engine", "the system gives no thread").because(error)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use althing_core::ManualClock;

    use super::*;

    fn compiler(clock: Arc<ManualClock>) -> Compiler {
        Compiler::new(Duration::from_secs(60), clock, Handle::current())
    }

    #[tokio::test]
    async fn a_job_that_panics_takes_nobody_with_it() {
        let compiler = compiler(Arc::new(ManualClock::new()));
        let job = || -> Result<()> { std::panic::resume_unwind(Box::new("a bug")) };
        assert_eq!(compiler.run(job).await.unwrap_err().kind(), Kind::Internal);
        assert_eq!(compiler.run(|| Ok(7)).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn a_job_without_end_keeps_the_next_one_waiting_until_its_deadline_only() {
        let clock = Arc::new(ManualClock::new());
        let compiler = compiler(clock.clone());
        let mut ends = Vec::new();
        for _ in 0..limits::COMPILES_OVERDUE_MAX {
            let (begin, begun) = oneshot::channel();
            let (end, ended) = mpsc::channel::<()>();
            ends.push(end);
            let endless = move || {
                let _ = begin.send(());
                let _ = ended.recv();
                Ok(())
            };
            let running = tokio::spawn({
                let compiler = compiler.clone();
                async move { compiler.run(endless).await }
            });
            begun.await.unwrap();
            clock.advance(Duration::from_secs(61));
            let error = running.await.unwrap().unwrap_err();
            assert_eq!(
                (error.kind(), error.message()),
                (Kind::Timeout, "the component is not compiled after 60 s")
            );
        }
        assert_eq!(compiler.run(|| Ok(())).await.unwrap_err().kind(), Kind::Busy);
        drop(ends);
        // Their threads end now; each gives its place back.
        let all = compiler.overdue.acquire_many(limits::COMPILES_OVERDUE_MAX as u32).await.unwrap();
        drop(all);
        compiler.run(|| Ok(())).await.unwrap();
    }
}
