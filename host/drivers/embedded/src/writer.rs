//! The writer: one plain thread that owns the file. It takes all operations that wait, runs them in order over the image,
//! writes what they change as one durable commit, and answers then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use althing_core::{BootTime, Cause, Chance, Clock, Error, Kind, Result};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use crate::disk;
use crate::draft::Draft;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::store::{Store, Written};
use crate::wire::Wire;

/// Operations that wait for the writer; further callers wait for a place.
pub(crate) const QUEUE_MAX: usize = 1024;
/// The bytes of a batch after which no further operation is taken into it.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// How long the disk is left alone after a failure. What would be written meanwhile is refused at once.
const FAILURE_PAUSE: Duration = Duration::from_millis(500);

/// An operation that waits.
pub(crate) struct Request {
    bytes: usize,
    run: Run,
}

/// Runs on the draft of a batch, unless its caller has given up, and returns how to answer.
type Run = Box<dyn FnOnce(&mut Draft<'_>) -> Option<Answer> + Send>;
/// Answers when the batch is durable, or was refused.
type Answer = Box<dyn FnOnce(Result<(), &Refusal>) + Send>;

/// A batch that was not written, or not surely.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    error: Error,
    unknown: bool,
}

impl Refusal {
    /// Makes the error for one of the operations that it answers.
    fn of(&self, operation: &'static str, wrote: bool) -> Error {
        let mut error = Error::new(self.error.kind(), operation, self.error.message());
        for (name, value) in self.error.context() {
            error = error.with(name, value);
        }
        if let Some(advice) = self.error.advice() {
            error = error.advise(advice);
        }
        if self.unknown && wrote { error.with_unknown_effect() } else { error }
    }
}

/// A claim on an operation: the writer takes it to run it, or its caller to give up. Whoever is first has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claim(Arc<AtomicBool>);

impl Claim {
    pub(crate) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

impl Request {
    /// Makes a request of `work`, and where its answer arrives.
    pub(crate) fn new<T: Send + 'static>(
        operation: &'static str,
        bytes: usize,
        claim: Claim,
        work: impl FnOnce(&mut Draft<'_>) -> Result<T> + Send + 'static,
    ) -> (Request, oneshot::Receiver<Result<T>>) {
        let (sender, answered) = oneshot::channel();
        let run = move |draft: &mut Draft<'_>| -> Option<Answer> {
            if !claim.take() {
                return None;
            }
            let before = draft.revision();
            let result = work(draft);
            let wrote = draft.revision() > before;
            Some(Box::new(move |outcome| {
                let result = outcome.map_err(|refusal| refusal.of(operation, wrote)).and(result);
                // Nobody listens where the caller was dropped.
                let _ = sender.send(result);
            }))
        };
        (Request { bytes, run: Box::new(run) }, answered)
    }
}

/// What the thread is started with.
pub(crate) struct Start {
    pub(crate) settings: Settings,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
    pub(crate) queue: mpsc::Receiver<Request>,
    /// Is told the image once the file is open, or why it is not.
    pub(crate) opened: oneshot::Sender<Result<Arc<Shared>>>,
}

impl Start {
    /// Opens the file and writes until no requests can come any more; then the file is closed.
    pub(crate) fn run(self) {
        let (mut writer, runtime) = match open(&self.settings, self.clock, self.chance) {
            Ok(open) => open,
            Err(error) => return drop(self.opened.send(Err(error))),
        };
        // Goes before the writer, also in a panic: nothing is renewed here once another process can have the file.
        let closing = Closing(writer.shared.clone());
        if self.opened.send(Ok(closing.0.clone())).is_ok() {
            writer.serve(&runtime, self.queue);
        }
    }
}

fn open(settings: &Settings, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Result<(Writer, Runtime)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime
        .map_err(|error| Error::new(Kind::Internal, "connect", "no timer can be started").because(error))?;
    let (file, durable) = disk::take(&settings.path, |file| Wire::make(file, settings))?;
    let wire = Wire::open(file, settings)?;
    // The time is taken after the lock: nobody else has renewed a session since.
    let store = Store::of(wire.load()?, &Store::default(), clock.now());
    let shared = Arc::new(Shared::new(store, durable, clock, chance));
    Ok((Writer { shared, wire, failure: None }, runtime))
}

/// Closes the image when it goes.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Writer {
    shared: Arc<Shared>,
    wire: Wire,
    failure: Option<Failure>,
}

/// The last failure of the disk, and until when it is left alone.
struct Failure {
    error: Error,
    until: BootTime,
}

impl Writer {
    fn serve(&mut self, runtime: &Runtime, mut queue: mpsc::Receiver<Request>) {
        while let Some(batch) = runtime.block_on(self.next_batch(&mut queue)) {
            self.write(batch);
        }
    }

    /// Waits for operations, or until a session is due: the batch is then empty. `None` when no more can come.
    async fn next_batch(&self, queue: &mut mpsc::Receiver<Request>) -> Option<Vec<Request>> {
        let first = tokio::select! {
            biased;
            first = queue.recv() => first?,
            () = self.until_due() => return Some(Vec::new()),
        };
        let mut bytes = first.bytes;
        let mut batch = vec![first];
        while bytes < BATCH_BYTES_MAX
            && batch.len() < QUEUE_MAX
            && let Ok(next) = queue.try_recv()
        {
            bytes += next.bytes;
            batch.push(next);
        }
        Some(batch)
    }

    async fn until_due(&self) {
        // Renewals only move deadlines away, so the first one of now is early enough to look again.
        let Some(deadline) = self.shared.with(|store| store.next_deadline()) else {
            return std::future::pending().await;
        };
        let paused = self.failure.as_ref().map_or(deadline, |failure| failure.until);
        self.shared.clock.sleep_until(deadline.max(paused)).await;
    }

    /// Ends the sessions that are due, runs the batch, writes what changed and answers.
    fn write(&mut self, batch: Vec<Request>) {
        // First: a file that is opened again may hold more than the image, and the draft is over what it holds.
        let ready = self.ready();
        let now = self.shared.clock.now();
        let (answers, written) = self.shared.with(|store| {
            let due: Vec<_> = store.due(now).collect();
            let mut draft = Draft::new(store);
            due.into_iter().for_each(|id| draft.end(id, Cause::Expired));
            let answers: Vec<Answer> =
                batch.into_iter().filter_map(|request| (request.run)(&mut draft)).collect();
            (answers, draft.finish())
        });
        // What wrote nothing in a batch that wrote nothing has seen nothing but what is durable.
        let outcome = written.map_or(Ok(()), |written| ready.and_then(|()| self.commit(written)));
        answers.into_iter().for_each(|answer| answer(outcome.as_ref().copied()));
        self.shared.show();
    }

    /// Makes `written`, drafted over what the file holds, durable and part of the image.
    fn commit(&mut self, written: Written) -> Result<(), Refusal> {
        let Err(broken) = self.wire.write(&written) else {
            let now = self.shared.clock.now();
            self.shared.with(|store| store.apply(written, now));
            if self.failure.take().is_some() {
                tracing::info!("the file is written again");
            }
            return Ok(());
        };
        tracing::warn!(error = %broken.error, "a commit of the file failed");
        let before = self.shared.with(|store| store.revision());
        // What the file holds now tells whether it was written, unless the disk is not to be believed.
        let unknown = !broken.unwritten
            && (self.reopen().is_err()
                || broken.unsynced
                || self.shared.with(|store| store.revision()) > before);
        self.pause(&broken.error);
        Err(Refusal { error: broken.error, unknown })
    }

    /// Sees to it that the file can be written to. Where it cannot, nothing was written.
    fn ready(&mut self) -> Result<(), Refusal> {
        let refused = |error: Error| Refusal { error, unknown: false };
        if let Some(failure) = &self.failure
            && self.shared.clock.now() < failure.until
        {
            return Err(refused(failure.error.clone()));
        }
        if self.wire.is_open() {
            return Ok(());
        }
        self.reopen().map_err(|error| {
            self.pause(&error);
            refused(error)
        })
    }

    /// Opens the file again. It is open only where the image holds all that it does: nothing is drafted over less.
    fn reopen(&mut self) -> Result<()> {
        let known = self.wire.reopen().and_then(|()| self.take_in());
        known.inspect_err(|_| self.wire.close())
    }

    /// Takes in what a commit of unknown effect left in the file.
    fn take_in(&self) -> Result<()> {
        let (found, known) = (self.wire.revision()?, self.shared.with(|store| store.revision()));
        if found > known {
            let (contents, now) = (self.wire.load()?, self.shared.clock.now());
            self.shared.with(|store| *store = Store::of(contents, store, now));
        }
        if found >= known {
            return Ok(());
        }
        Err(Error::new(
            Kind::Unavailable,
            "connect",
            format!("the disk lost what it had: {known} became {found}"),
        )
        .advise("Look after the disk, then start again"))
    }

    fn pause(&mut self, error: &Error) {
        self.failure = Some(Failure { error: error.clone(), until: self.shared.clock.now() + FAILURE_PAUSE });
    }
}
