//! How wasmtime is set up: the decision engine, its pool, and the fall-back without one.

use std::hash::{Hash, Hasher};

use althing_core::{Digest, Error, Kind, Result, limits};
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

/// What a slot of the pool keeps of its memories and tables between calls.
const RESIDENT_MEMORY_BYTES: usize = 256 << 10;
const RESIDENT_TABLE_BYTES: usize = 64 << 10;

/// Slots beyond the calls that are let in: a slot is free again a moment after its call has ended.
const SPARE_SLOTS: usize = 8;
/// Linear memories of one component. Engines of JavaScript come with two or three.
const MEMORIES_MAX: u32 = 4;
/// Core instances of one component. Python's come with dozens.
const CORE_INSTANCES_MAX: u32 = 200;
/// Tables of one component.
const TABLES_MAX: u32 = 32;
/// What the engine keeps of one instance beside its memories, in bytes.
const INSTANCE_BYTES_MAX: usize = 4 << 20;
/// The stack of a guest.
const STACK_BYTES: usize = 512 << 10;

/// Makes the engine, with a pool of instances where the machine's address space has room for it.
pub(crate) fn make(calls_max: usize, catch_signals: bool) -> Result<wasmtime::Engine> {
    let mut config = decisions();
    config.signals_based_traps(catch_signals);
    let without_pool = config.clone();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(calls_max)));
    wasmtime::Engine::new(&config).or_else(|error| {
        tracing::warn!(%error, "no pool for guests: each call maps its memory anew and is slower");
        wasmtime::Engine::new(&without_pool).map_err(|error| {
            Error::new(Kind::Internal, "start engine", "wasmtime refuses its configuration").because(error)
        })
    })
}

/// Returns what names this engine: its version, its configuration and the processor it compiles for.
pub(crate) fn digest(engine: &wasmtime::Engine) -> Digest {
    let mut bytes = Collected(Vec::new());
    engine.precompile_compatibility_hash().hash(&mut bytes);
    Digest::of(bytes.0)
}

/// Every host must decide the same: floating point has one NaN, relaxed SIMD one result. Without support for
/// concurrency inside components a call costs half.
fn decisions() -> Config {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .max_wasm_stack(STACK_BYTES)
        .memory_init_cow(true)
        .parallel_compilation(false);
    config
}

fn pool(calls_max: usize) -> PoolingAllocationConfig {
    let slots = u32::try_from(calls_max + SPARE_SLOTS).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    // Each slot can take the largest component there is, so that a call let in never finds the pool empty.
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(CORE_INSTANCES_MAX))
        .total_memories(slots.saturating_mul(MEMORIES_MAX))
        .total_tables(slots.saturating_mul(TABLES_MAX))
        .total_stacks(slots)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_component_instance_size(INSTANCE_BYTES_MAX)
        .max_core_instance_size(INSTANCE_BYTES_MAX)
        .table_elements(limits::GUEST_TABLE_ENTRIES_MAX)
        .max_memory_size((limits::GUEST_MEMORY_MIB_MAX as usize) << 20)
        // Pages that a call touched are cleared in place, found by a scan: giving them back to the kernel each time
        // costs more than the whole call of a small guest.
        .linear_memory_keep_resident(RESIDENT_MEMORY_BYTES)
        .table_keep_resident(RESIDENT_TABLE_BYTES)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// Collects what is hashed, to name it by a digest that is the same in every process.
struct Collected(Vec<u8>);

impl Hasher for Collected {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_come_from_a_pool_and_the_digest_is_of_the_configuration() {
        let (few, many) = (make(1, false).unwrap(), make(limits::GUEST_CALLS_MAX, false).unwrap());
        assert!(many.pooling_allocator_metrics().is_some());
        assert_eq!(digest(&few), digest(&many));
        let other = decisions().signals_based_traps(false).cranelift_nan_canonicalization(false).clone();
        assert_ne!(digest(&few), digest(&wasmtime::Engine::new(&other).unwrap()));
    }
}
