//! The one place where a store is made, so that no guest runs without its limits.

use std::sync::Arc;

use althing_core::limits;
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, ResourceLimiter, Store, UpdateDeadline};

use crate::host::Subject;
use crate::host::random::Sequence;
use crate::host::wasi::Wasi;
use crate::journal::{Journal, OutOfCpu, Refused};

/// The most resources a guest holds at once, such as streams.
pub(crate) const RESOURCES_MAX: usize = 1024;
/// The size of a table's entry in the engine.
const TABLE_ENTRY_BYTES: usize = size_of::<usize>();

/// What host functions see of the call they are part of.
pub(crate) struct Call {
    pub(crate) journal: Arc<Journal>,
    pub(crate) subject: Subject,
    pub(crate) sequence: Sequence,
    pub(crate) wasi: Wasi,
    pub(crate) resources: ResourceTable,
    memory: MemoryLimiter,
}

/// Makes the store of one call: memory bounded in all, processor time bounded, host calls and resources bounded.
pub(crate) fn new_store(engine: &Engine, journal: Arc<Journal>, subject: Subject) -> Store<Call> {
    let mut resources = ResourceTable::new();
    resources.set_max_capacity(RESOURCES_MAX);
    let memory = MemoryLimiter { journal: journal.clone(), bytes: 0, table_entries: 0 };
    let sequence = Sequence::new(subject.seed);
    let call = Call { journal, subject, sequence, wasi: Wasi::default(), resources, memory };
    let mut store = Store::new(engine, call);
    store.limiter(|call| &mut call.memory);
    store.set_hostcall_fuel(limits::GUEST_HOSTCALL_FUEL);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|store| {
        if store.data().journal.is_out_of_cpu() {
            return Err(OutOfCpu.into());
        }
        // Not `Yield`: it wakes itself into the slot that runs next, so that nothing else gets a turn.
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    });
    store
}

/// Bounds the sum over all memories and tables of a store; wasmtime's own limiter bounds each alone.
struct MemoryLimiter {
    journal: Arc<Journal>,
    bytes: usize,
    table_entries: usize,
}

impl MemoryLimiter {
    fn grow(&mut self, more: usize) -> bool {
        let bytes = self.bytes.saturating_add(more);
        if bytes > self.journal.limits.memory_bytes {
            self.journal.refuse(Refused::Bytes(bytes));
            return false;
        }
        self.bytes = bytes;
        true
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(&mut self, now: usize, want: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(want.saturating_sub(now)))
    }

    fn table_growing(&mut self, now: usize, want: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        let more = want.saturating_sub(now);
        let entries = self.table_entries.saturating_add(more);
        if entries > limits::GUEST_TABLE_ENTRIES_MAX {
            self.journal.refuse(Refused::Entries(entries));
            return Ok(false);
        }
        if !self.grow(more.saturating_mul(TABLE_ENTRY_BYTES)) {
            return Ok(false);
        }
        self.table_entries = entries;
        Ok(true)
    }
}
