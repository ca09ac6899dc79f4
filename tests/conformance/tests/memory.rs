//! The suite on the memory driver: bare, below all layers, and in a part of a namespace.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use althing_conformance::{Subject, main as run, trials};
use althing_core::layers::{Chaos, Scope, stack};
use althing_core::{Driver, ManualClock, Result, SeededChance, limits};
use althing_driver_memory::Memory;
use async_trait::async_trait;
use tokio::runtime::Handle;

/// Memory by a manual clock, one backend per namespace.
#[derive(Default)]
struct OnMemory {
    clock: Arc<ManualClock>,
    namespaces: Mutex<HashMap<String, Memory>>,
    layered: bool,
    /// All in one backend, each namespace a part of it.
    scoped: bool,
}

/// As long as a name of a part may be: it must leave room enough for keys.
fn part(namespace: &str) -> String {
    format!("{namespace:'<width$}", width = limits::SCOPE_BYTES_MAX)
}

#[async_trait]
impl Subject for OnMemory {
    async fn connect(&self, namespace: &str) -> Result<Arc<dyn Driver>> {
        let chance = Arc::new(SeededChance::new(1));
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Memory::new(self.clock.clone(), chance.clone());
        let backend = if self.scoped { "" } else { namespace };
        let memory = Arc::new(namespaces.entry(backend.to_owned()).or_insert_with(make).clone());
        if self.scoped {
            return Ok(Arc::new(Scope::new(memory, &part(namespace))?));
        }
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
    let scoped = trials("scoped", || async { Ok(OnMemory { scoped: true, ..OnMemory::default() }) });
    run(bare.into_iter().chain(layered).chain(scoped).collect())
}
