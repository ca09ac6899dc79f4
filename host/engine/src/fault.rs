//! What becomes of a call that fails. A fault is a value: it is recorded, and the decision falls to the default.

use std::fmt;

use serde::{Deserialize, Serialize};
use wasmtime::Trap;

use crate::journal::{Journal, OutOfCpu};

/// Why a guest gave no usable answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultCause {
    /// It used up its processor time.
    Cpu,
    /// It took too long on the wall.
    Deadline,
    /// It asked for more memory than it may have.
    Memory,
    /// It trapped: a panic, an access out of bounds, an exit.
    Trap,
    /// It gave up, or its answer cannot be followed.
    Answer,
    /// The host failed it. Not the guest's doing.
    Host,
}

impl fmt::Display for FaultCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FaultCause::Cpu => "cpu",
            FaultCause::Deadline => "deadline",
            FaultCause::Memory => "memory",
            FaultCause::Trap => "trap",
            FaultCause::Answer => "answer",
            FaultCause::Host => "host",
        })
    }
}

/// A call that gave no usable answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Why.
    pub cause: FaultCause,
    /// What happened, in one line.
    pub detail: String,
    /// What the guest logged before.
    pub log: Vec<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fault ({}): {}", self.cause, self.detail)
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// Makes a fault of the host or of an answer.
    pub(crate) fn new(cause: FaultCause, detail: impl Into<String>) -> Self {
        Fault { cause, detail: detail.into(), log: Vec::new() }
    }

    /// Finds out why the engine ended a call. The limiter is asked first: a guest that is refused memory
    /// mostly traps, and the trap would hide the reason.
    pub(crate) fn from_engine(error: &wasmtime::Error, journal: &Journal) -> Self {
        if let Some(asked) = journal.memory_refused() {
            let limit = journal.limits.memory_bytes;
            return Fault::new(
                FaultCause::Memory,
                format!("it asked for {asked} bytes of memory in all; it may have {limit}"),
            );
        }
        if error.is::<OutOfCpu>() {
            let limit = journal.limits.cpu.as_millis();
            return Fault::new(FaultCause::Cpu, format!("it ran for more than {limit} ms of processor time"));
        }
        if let Some(trap) = error.downcast_ref::<Trap>() {
            return Fault::new(FaultCause::Trap, format!("it trapped: {trap}"));
        }
        if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
            return Fault::new(FaultCause::Trap, format!("it exited with status {}", exit.0));
        }
        let detail = error.root_cause().to_string();
        // Wasmtime has no type for this one: lifting an argument or an answer passed the store's allowance.
        let cause = if detail.contains("fuel allocated for hostcalls") {
            FaultCause::Answer
        } else {
            FaultCause::Host
        };
        Fault::new(cause, detail)
    }
}
