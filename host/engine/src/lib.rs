//! Runs guests: everything wasmtime and nothing else.
//!
//! A [`Bundle`] is what an operator uploads. An [`Engine`] makes a [`Policy`] of it: compiled off every runtime, linked
//! with what its kind and its grants give, its settings checked by the guest itself. A policy is asked through
//! [`Policy::elect`]: each call runs in a fresh instance on the engine's own runtime, held to its processor time, its
//! memory and its time on the wall, and gives a [`Ruling`] or a [`Fault`].

mod background;
mod bindings;
pub mod bundle;
mod call;
mod code;
mod configuration;
mod engine;
mod fault;
mod host;
mod journal;
mod kinds;
mod memory_records;
mod policy;
mod proof;
mod records;
mod shape;
mod shelf;
pub mod signature;
mod store;
mod words;

pub use bundle::{Bundle, Case, Manifest};
pub use engine::{Engine, EngineConfig};
pub use fault::{Fault, FaultCause};
pub use kinds::PolicyKind;
pub use kinds::behaviour::{BehaviourAnswer, BehaviourRequest, Handled};
pub use memory_records::MemoryRecords;
pub use policy::{Policy, Ruling};
pub use proof::Proof;
pub use records::{Entry, EntryGuard, EntryPage, EntryWrite, Records, RecordsError};
pub use signature::{PublicKey, SigningKey};
