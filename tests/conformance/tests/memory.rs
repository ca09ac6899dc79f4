//! The suite on the memory driver: bare, and below all layers.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use althing_conformance::{Subject, main as run, trials};
use althing_core::layers::{Chaos, stack};
use althing_core::{Driver, ManualClock, Result, SeededChance};
use althing_driver_memory::Memory;
use async_trait::async_trait;
use tokio::runtime::Handle;

/// Memory by a manual clock, one backend per namespace.
#[derive(Default)]
struct OnMemory {
    clock: Arc<ManualClock>,
    namespaces: Mutex<HashMap<String, Memory>>,
    layered: bool,
}

#[async_trait]
impl Subject for OnMemory {
    async fn connect(&self, namespace: &str) -> Result<Arc<dyn Driver>> {
        let chance = Arc::new(SeededChance::new(1));
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Memory::new(self.clock.clone(), chance.clone());
        let memory = Arc::new(namespaces.entry(namespace.to_owned()).or_insert_with(make).clone());
        if !self.layered {
            return Ok(memory);
        }
        let chaos = Arc::new(Chaos::new(memory, self.clock.clone(), chance.clone()));
        Ok(stack(chaos, self.clock.clone(), chance, Handle::current()))
    }

    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
    }
}

fn main() -> ExitCode {
    let bare = trials("memory", || async { Ok(OnMemory::default()) });
    let layered = trials("layered", || async { Ok(OnMemory { layered: true, ..OnMemory::default() }) });
    run(bare.into_iter().chain(layered).collect())
}
