//! The engine's own threads: one ticks, one compiles. Neither may share a runtime with anything that has a deadline.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, Thread};

use althing_core::{Error, Kind, Result, limits};
use tokio::sync::oneshot;

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

type Job = Box<dyn FnOnce() + Send>;

/// Compiles components, one at a time. Its thread ends after the last job when this is dropped.
pub(crate) struct Compiler(mpsc::Sender<Job>);

impl Compiler {
    pub(crate) fn start() -> Result<Self> {
        let (sender, jobs) = mpsc::channel::<Job>();
        let work = move || jobs.into_iter().for_each(|job| job());
        thread::Builder::new().name("althing-compiler".into()).spawn(work).map_err(no_thread)?;
        Ok(Compiler(sender))
    }

    /// Does `job` on the compiler's thread. Dropping the future leaves the job to end by itself.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let gone = || Error::new(Kind::Closed, "compile", "the engine's compiler has ended");
        // Whoever asked may be gone by the time the job is done.
        let job = Box::new(move || drop(answer.send(job())));
        self.0.send(job).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

pub(crate) fn no_thread(error: io::Error) -> Error {
    Error::new(Kind::Unavailable, "start engine", "the system gives no thread").because(error)
}
