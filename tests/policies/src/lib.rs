//! The shipped policies, by their cases, and the behaviours among them by many callers at once. The tests are in `tests/`.
//!
//! A [`Backend`] is records in memory that fail as backends do, and [`Backend::call`] asks a behaviour as a host does: again
//! when something changes, and one last time when nobody waits any more.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail in no better way")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use althing_core::{Chance, Clock, Result, Revision, SeededChance, SystemClock};
use althing_engine::{
    BehaviourAnswer, BehaviourRequest, Bundle, Engine, EngineConfig, Entry, EntryGuard, EntryPage,
    EntryWrite, MemoryRecords, Policy, Records, RecordsError,
};
use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::watch;

/// Loads the shipped policy of this name.
pub async fn shipped(name: &str) -> Arc<Policy> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies").join(name);
    let bundle = Bundle::open(&folder).unwrap_or_else(|error| panic!("{error} (run cargo xtask guests)"));
    Engine::new(EngineConfig::default()).unwrap().load(&Arc::new(bundle)).await.unwrap()
}

/// Makes a bundle by way of a folder, of the component at `component` below the root of the repository. `rest` is what follows
/// the head of its policy.toml.
pub fn bundle(kind: &str, component: &str, rest: &str) -> Result<Arc<Bundle>> {
    let component = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(component);
    let component =
        std::fs::read(component).unwrap_or_else(|error| panic!("{error} (run cargo xtask guests)"));
    let folder = tempfile::tempdir().unwrap();
    let head = format!("name = 'test'\nversion = '1'\nkind = '{kind}'\ncomponent = 'guest.wasm'\n{rest}");
    std::fs::write(folder.path().join("policy.toml"), head).unwrap();
    std::fs::write(folder.path().join("guest.wasm"), component).unwrap();
    Bundle::open(folder.path()).map(Arc::new)
}

/// Records in memory that all callers share, and how they fail.
#[derive(Clone, Debug)]
pub struct Backend(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    records: MemoryRecords,
    changes: watch::Sender<u64>,
    chance: SeededChance,
    /// The share of operations that fail.
    faults: f64,
    /// Commits that nobody heard of and that land later.
    late: Mutex<Vec<Late>>,
    /// How many records each commit removed.
    removed: Mutex<Vec<usize>>,
}

#[derive(Debug)]
struct Late {
    session: String,
    guards: Vec<EntryGuard>,
    writes: Vec<EntryWrite>,
}

impl Backend {
    /// Makes a backend where this share of the operations fails: is refused, or has an unknown effect and landed, did not, or
    /// lands later.
    pub fn new(faults: f64, seed: u64) -> Self {
        Backend(Arc::new(Shared {
            records: MemoryRecords::new(""),
            changes: watch::Sender::new(0),
            chance: SeededChance::new(seed),
            faults,
            late: Mutex::default(),
            removed: Mutex::default(),
        }))
    }

    /// Returns the keys of all records.
    pub fn keys(&self) -> Vec<String> {
        let entries = self.0.records.entries();
        entries.iter().map(|entry| String::from_utf8_lossy(&entry.key).into_owned()).collect()
    }

    /// Returns how many records each commit removed that landed, in their order.
    pub fn removed(&self) -> Vec<usize> {
        self.0.removed.lock().unwrap().clone()
    }

    /// Waits until a record has a key with this in it.
    pub async fn shows(&self, part: &str) {
        let mut changes = self.0.changes.subscribe();
        while !self.keys().iter().any(|key| key.contains(part)) {
            changes.changed().await.unwrap();
        }
    }

    /// Ends a session: what it owns goes.
    pub fn end(&self, session: &str) {
        self.0.records.seen_by(session).end_session();
        self.0.changes.send_modify(|count| *count += 1);
    }

    /// Lets whatever is still under way land.
    pub async fn settle(&self) {
        let late = std::mem::take(&mut *self.0.late.lock().unwrap());
        for Late { session, guards, writes } in late {
            let _ = self.seen_by(&session).land(guards, writes).await;
        }
    }

    /// Asks a behaviour on behalf of `session` until it is done. `None` when it was not within `patience`.
    pub async fn call(
        &self,
        policy: &Policy,
        session: &str,
        operation: &str,
        body: Value,
        patience: Duration,
    ) -> Result<Option<Value>, RecordsError> {
        let records = Arc::new(self.seen_by(session));
        let (began, id) = (SystemClock.now(), format!("{:032x}", self.0.chance.bits()));
        let mut request = BehaviourRequest {
            id,
            operation: operation.into(),
            body: body.to_string().into(),
            principal: session.into(),
            session: session.into(),
            now_ms: 0.0,
            deadline_ms: patience.as_secs_f64() * 1000.0,
            attempt: 0,
            last: false,
            attributes: Default::default(),
        };
        let mut changes = self.0.changes.subscribe();
        loop {
            changes.mark_unchanged();
            request.now_ms = SystemClock.now().since(began).as_secs_f64() * 1000.0;
            request.last = request.now_ms >= request.deadline_ms;
            let handled = policy.handle(&request, records.clone()).await;
            let answer = match handled.unwrap_or_else(|fault| panic!("{fault}")).answer {
                Err(RecordsError::Unavailable(_) | RecordsError::Unknown(_)) if request.last => continue,
                answer => answer?,
            };
            let until_ms = match answer {
                BehaviourAnswer::Done(bytes) => return Ok(Some(serde_json::from_slice(&bytes).unwrap())),
                BehaviourAnswer::Wait { .. } if request.last => return Ok(None),
                BehaviourAnswer::Wait { until_ms, .. } => until_ms,
            };
            request.attempt += 1;
            let wait = Duration::from_secs_f64((until_ms - request.now_ms).max(0.0) / 1000.0);
            // Whichever comes first: both are reasons to ask again.
            let _ = tokio::time::timeout(wait, changes.changed()).await;
        }
    }

    fn seen_by(&self, session: &str) -> Seen {
        let records = self.0.records.seen_by(session);
        Seen { backend: self.clone(), session: session.into(), records }
    }
}

/// The backend as one session sees it.
#[derive(Debug)]
struct Seen {
    backend: Backend,
    session: String,
    records: MemoryRecords,
}

enum Fate {
    Good,
    Refused,
    Unheard,
    Lost,
    Late,
}

impl Seen {
    async fn fate(&self) -> Fate {
        // Others get their turn, as they do while a backend answers.
        tokio::task::yield_now().await;
        let Shared { chance, faults, .. } = &*self.backend.0;
        if chance.unit() >= *faults {
            return Fate::Good;
        }
        match (chance.unit() * 4.0) as u32 {
            0 => Fate::Refused,
            1 => Fate::Unheard,
            2 => Fate::Lost,
            _ => Fate::Late,
        }
    }

    async fn check_read(&self) -> Result<(), RecordsError> {
        match self.fate().await {
            Fate::Good => Ok(()),
            _ => Err(RecordsError::Unavailable("a fault of the test".into())),
        }
    }

    async fn land(&self, guards: Vec<EntryGuard>, writes: Vec<EntryWrite>) -> Result<Revision, RecordsError> {
        let removes = writes.iter().filter(|write| matches!(write, EntryWrite::Delete(_))).count();
        let landed = self.records.commit(guards, writes).await;
        if landed.is_ok() {
            self.backend.0.removed.lock().unwrap().push(removes);
            self.backend.0.changes.send_modify(|count| *count += 1);
        }
        landed
    }

    /// Lands one of the commits that are late.
    async fn land_late(&self) {
        let late = self.backend.0.late.lock().unwrap().pop();
        if let Some(Late { session, guards, writes }) = late {
            let _ = self.backend.seen_by(&session).land(guards, writes).await;
        }
    }
}

#[async_trait]
impl Records for Seen {
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, RecordsError> {
        self.check_read().await?;
        self.records.get(key).await
    }

    async fn list(&self, prefix: &[u8], after: Option<&[u8]>, limit: u32) -> Result<EntryPage, RecordsError> {
        self.check_read().await?;
        // Small pages, so that much can happen between them.
        self.records.list(prefix, after, limit.min(3)).await
    }

    async fn commit(
        &self,
        guards: Vec<EntryGuard>,
        writes: Vec<EntryWrite>,
    ) -> Result<Revision, RecordsError> {
        let unknown = || Err(RecordsError::Unknown("a fault of the test".into()));
        match self.fate().await {
            Fate::Good => {
                let landed = self.land(guards, writes).await;
                self.land_late().await;
                landed
            }
            Fate::Refused => Err(RecordsError::Unavailable("a fault of the test".into())),
            Fate::Unheard => self.land(guards, writes).await.and_then(|_| unknown()),
            Fate::Lost => unknown(),
            Fate::Late => {
                let late = Late { session: self.session.clone(), guards, writes };
                self.backend.0.late.lock().unwrap().push(late);
                unknown()
            }
        }
    }
}
