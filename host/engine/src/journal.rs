//! What is known of a call while it runs and after it was dropped: processor time, log, refused memory.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use althing_core::{Clock, limits};

use crate::words;

/// What one call may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallLimits {
    /// Processor time.
    pub(crate) cpu: Duration,
    /// All memories and tables together.
    pub(crate) memory_bytes: usize,
    /// Time on the wall.
    pub(crate) wall: Duration,
}

/// Ends a call that used up its processor time.
#[derive(Debug)]
pub(crate) struct OutOfCpu;

impl fmt::Display for OutOfCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of processor time")
    }
}

impl std::error::Error for OutOfCpu {}

/// The record of one call, shared by its store and whoever waits for it.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) limits: CallLimits,
    clock: Arc<dyn Clock>,
    /// Nanoseconds of the polls that have ended.
    spent: AtomicU64,
    /// The thread's processor time, in nanoseconds, when the current poll began.
    entered: AtomicU64,
    /// What the limiter said no to, the last time it did.
    refused: Mutex<Option<Refused>>,
    log: Mutex<Log>,
}

/// What a guest asked for and did not get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// So many bytes of memory, in all.
    Bytes(usize),
    /// So many entries of tables, in all.
    Entries(usize),
}

impl Refused {
    /// Says so to people, of a guest that may have so much memory.
    pub(crate) fn told(self, memory_bytes: usize) -> String {
        match self {
            Refused::Bytes(asked) => {
                format!("it asked for {asked} bytes of memory in all; it may have {memory_bytes}")
            }
            Refused::Entries(asked) => {
                let max = limits::GUEST_TABLE_ENTRIES_MAX;
                format!("it asked for {asked} entries of tables in all; it may have {max}")
            }
        }
    }
}

#[derive(Debug, Default)]
struct Log {
    lines: Vec<String>,
    dropped: usize,
}

impl Journal {
    pub(crate) fn new(limits: CallLimits, clock: Arc<dyn Clock>) -> Self {
        Journal {
            limits,
            clock,
            spent: AtomicU64::new(0),
            entered: AtomicU64::new(0),
            refused: Mutex::default(),
            log: Mutex::default(),
        }
    }

    /// Runs `work`, counting the processor time of its polls and not the time between them: what the guest
    /// waits for, and what other programs of the machine do, is not its doing.
    pub(crate) async fn count<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|context| {
            self.entered.store(self.thread_cpu(), Ordering::Relaxed);
            let poll = work.as_mut().poll(context);
            self.spent.store(self.cpu_nanos(), Ordering::Relaxed);
            poll
        })
        .await
    }

    /// Runs what the host does for the guest within [`Journal::count`]. Its processor time is not the guest's either.
    pub(crate) async fn apart<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        poll_fn(|context| {
            let before = self.thread_cpu();
            let poll = work.as_mut().poll(context);
            self.entered.fetch_add(self.thread_cpu().saturating_sub(before), Ordering::Relaxed);
            poll
        })
        .await
    }

    /// Tells, from within a poll, whether the call has used up its processor time.
    pub(crate) fn is_out_of_cpu(&self) -> bool {
        Duration::from_nanos(self.cpu_nanos()) > self.limits.cpu
    }

    /// Returns the processor time of the polls that have ended.
    pub(crate) fn cpu(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Ordering::Relaxed))
    }

    /// Adds a line, or counts it when there are too many.
    pub(crate) fn add_line(&self, line: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.lines.len() < limits::GUEST_LOG_LINES_MAX {
            log.lines.push(words::plain(line, limits::GUEST_LOG_LINE_BYTES_MAX));
        } else {
            log.dropped += 1;
        }
    }

    /// Takes the log; where lines were dropped, the last one says how many.
    pub(crate) fn take_log(&self) -> Vec<String> {
        let log = std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner));
        let mut lines = log.lines;
        if log.dropped > 0 {
            lines.push(format!("… and {} more lines", log.dropped));
        }
        lines
    }

    /// Remembers what the limiter said no to.
    pub(crate) fn refuse(&self, refused: Refused) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(refused);
    }

    /// Returns what the limiter said no to, if it ever did.
    pub(crate) fn refused(&self) -> Option<Refused> {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cpu_nanos(&self) -> u64 {
        let entered = self.entered.load(Ordering::Relaxed);
        self.spent.load(Ordering::Relaxed) + self.thread_cpu().saturating_sub(entered)
    }

    fn thread_cpu(&self) -> u64 {
        self.clock.thread_cpu().as_nanos() as u64
    }
}
