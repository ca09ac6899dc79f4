//! What becomes of a call that fails. A fault is a value: it is recorded, and the decision falls to the default.

use std::fmt;

use althing_core::limits;
use serde::{Deserialize, Serialize};
use wasmtime::Trap;
use wasmtime::component::ResourceTableError;

use crate::journal::{Journal, OutOfCpu};
use crate::store::RESOURCES_MAX;
use crate::words;

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

    /// Finds out why the engine ended a call. The limiter is asked before the trap: a guest that is refused memory
    /// mostly traps, and the trap would hide the reason.
    pub(crate) fn from_engine(error: &wasmtime::Error, journal: &Journal) -> Self {
        if error.is::<OutOfCpu>() {
            let limit = journal.limits.cpu.as_millis();
            return Fault::new(FaultCause::Cpu, format!("it ran for more than {limit} ms of processor time"));
        }
        if let Some(refused) = journal.refused() {
            return Fault::new(FaultCause::Memory, refused.told(journal.limits.memory_bytes));
        }
        if let Some(ResourceTableError::Full) = error.downcast_ref() {
            let message = format!("it holds more than {RESOURCES_MAX} resources, such as timers and streams");
            return Fault::new(FaultCause::Memory, message);
        }
        if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
            return Fault::new(FaultCause::Trap, format!("it exited with status {}", exit.0));
        }
        if let Some(trap) = error.downcast_ref::<Trap>() {
            return Fault::new(FaultCause::Trap, format!("it trapped: {trap}"));
        }
        Fault::from_values(error)
    }

    /// Tells who is to blame for an error without a type of its own. The host is for want of memory or instances; any
    /// other comes of what the guest handed over, or of where it wanted to be handed something.
    fn from_values(error: &wasmtime::Error) -> Self {
        let detail = words::plain(&error.root_cause().to_string(), limits::GUEST_ERROR_BYTES_MAX);
        if error.is::<wasmtime::PoolConcurrencyLimitError>() || error.is::<std::io::Error>() {
            return Fault::new(FaultCause::Host, detail);
        }
        // Wasmtime has no type for this one either.
        if detail.contains("fuel allocated for hostcalls") {
            let limit = limits::GUEST_HOSTCALL_FUEL;
            return Fault::new(FaultCause::Answer, format!("it handed over more than {limit} bytes at once"));
        }
        Fault::new(FaultCause::Answer, format!("what it handed over cannot be read: {detail}"))
    }
}
