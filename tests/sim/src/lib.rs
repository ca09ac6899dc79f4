//! Fleets of hosts in one process, with faults on their way to the backend.
//!
//! The hosts are real runtimes on one [`Stage`], a namespace on a real backend; each reaches it through a chaos layer of
//! its own, so that a test can cut off or slow down one host alone. A [`Witness`] records every term as the store orders them and
//! looks at what every host believes to hold.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "only tests use this; what fails here fails the test"
)]

pub mod crowd;
mod stage;
mod suite;
mod witness;

use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use althing_core::info::{
    BehaviourAsk, BehaviourInfo, Event, GroupInfo, Hold, JoinAsk, Joined, SessionAsk, SessionEvent,
};
use althing_core::layers::{self, Chaos, Faults};
use althing_core::{
    Chance, Clock, Driver, Key, Principal, Requirement, Secret, SeededChance, SystemClock, Txn, Write,
};
use althing_engine::{Bundle, Engine, EngineConfig, Policy};
use althing_runtime::{GroupStream, Runtime, RuntimeConfig, SessionKey, SessionStream, Tuning};
use bytes::Bytes;
use serde_json::Value;

pub use stage::{Stage, TICK};
pub use suite::{Test, run};
pub use witness::{Term, Witness};

/// The longest a test waits for anything: far longer than it takes, so that reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Several hosts on one store.
#[derive(Debug)]
pub struct Fleet {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The store, with no faults on the way.
    pub store: Arc<dyn Driver>,
}

/// One host and the switches of its way to the store.
#[derive(Debug)]
pub struct Host {
    /// The host.
    pub runtime: Runtime,
    /// What goes wrong on its way to the store.
    pub faults: Arc<Faults>,
}

/// How fleets in tests are paced: like the default, several times faster.
pub fn quick() -> Tuning {
    Tuning {
        claim_window: Duration::from_millis(150),
        handover_window: Duration::from_millis(400),
        tenure_min: Duration::from_millis(50),
        moves_per_minute: 12,
        // On a busy machine a hand-over may take longer than its window, and is tried again after this.
        passed_backoff: Duration::from_secs(3),
    }
}

impl Fleet {
    /// Starts one more host, which reaches the store by `way`.
    async fn add_host(&mut self, way: Arc<dyn Driver>, seed: u64, change: impl FnOnce(&mut RuntimeConfig)) {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let chance: Arc<dyn Chance> = Arc::new(SeededChance::new(seed));
        let chaos = Chaos::new(way, clock.clone(), chance.clone());
        let faults = chaos.faults();
        let mut config = RuntimeConfig {
            name: format!("host-{}", self.hosts.len()),
            allow_unsigned: true,
            chance: chance.clone(),
            ..RuntimeConfig::new(tokio::runtime::Handle::current())
        };
        change(&mut config);
        let driver = layers::stack(Arc::new(chaos), clock, chance, tokio::runtime::Handle::current());
        let runtime = Runtime::start(config, driver, engine().clone()).await.unwrap();
        self.hosts.push(Host { runtime, faults });
    }

    /// Creates a group and waits until every host sees it.
    pub async fn create(&self, group: &str) {
        self.hosts[0].runtime.create_group(&Principal::Embedder, group, &Requirement::NONE).await.unwrap();
        for host in &self.hosts {
            let runtime = host.runtime.clone();
            eventually("the group is seen", || runtime.group(group).is_ok()).await;
        }
    }
}

/// The engine of all hosts of this process: compiling is what costs most, and is no matter of a host's.
fn engine() -> &'static Engine {
    static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(EngineConfig::default()).unwrap());
    &ENGINE
}

/// Keeps what was compiled once for the fleets that follow in this process.
async fn keep(bundle: &Bundle) {
    static KEPT: Mutex<Vec<Arc<Policy>>> = Mutex::new(Vec::new());
    let policy = engine().load(&Arc::new(bundle.clone())).await.unwrap();
    let mut kept = KEPT.lock().unwrap();
    if !kept.iter().any(|other| Arc::ptr_eq(other, &policy)) {
        kept.push(policy);
    }
}

impl Host {
    /// Opens a session as code in this process does.
    pub fn session(&self) -> Client {
        self.session_with(SessionAsk::default(), false)
    }

    /// Opens a session as asked.
    pub fn session_with(&self, ask: SessionAsk, remote: bool) -> Client {
        Client::open(&self.runtime, ask, remote).unwrap()
    }

    /// Pushes and waits until it is done.
    pub async fn push(&self, bundle: &Bundle) {
        let job = self.runtime.push(&Principal::Embedder, Bytes::from(bundle.pack())).unwrap();
        let job = self.runtime.job_done(&job.id, PATIENCE).await.unwrap();
        assert!(job.done && job.error.is_none(), "{job:?}");
        keep(bundle).await;
    }

    /// Lets a pushed policy answer under its own name.
    pub async fn answer_by(&self, policy: &str) -> BehaviourInfo {
        self.runtime.activate_behaviour(&Principal::Embedder, policy, policy, None).await.unwrap()
    }

    /// Binds a pushed policy.
    pub async fn activate(&self, group: &str, policy: &str) -> GroupInfo {
        self.runtime.activate(&Principal::Embedder, group, policy, None).await.unwrap()
    }
}

/// A client session.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its host.
    pub runtime: Runtime,
    /// Its key.
    pub key: SessionKey,
}

impl Client {
    /// Opens a session on a host.
    pub fn open(runtime: &Runtime, ask: SessionAsk, remote: bool) -> althing_core::Result<Client> {
        let grant = runtime.open_session(&Principal::Embedder, ask, remote)?;
        let key = SessionKey { id: grant.id, secret: Secret::new(grant.secret) };
        Ok(Client { runtime: runtime.clone(), key })
    }

    /// Joins with a weight.
    pub async fn join(&self, group: &str, id: &str, weight: u32) -> Joined {
        let metadata = [("weight".to_owned(), weight.to_string())].into();
        let ask = JoinAsk { id: id.into(), metadata, ..JoinAsk::default() };
        self.runtime.join(&self.key, group, ask).await.unwrap()
    }

    /// Leaves.
    pub async fn leave(&self, group: &str, id: &str) {
        self.runtime.leave(&self.key, group, id).await.unwrap();
    }

    /// Calls a behaviour with JSON and reads JSON.
    pub async fn call(
        &self,
        behaviour: &str,
        operation: &str,
        body: Value,
        timeout: Duration,
    ) -> althing_core::Result<Value> {
        let ask = BehaviourAsk {
            operation: operation.into(),
            body: body.to_string().into(),
            timeout: Some(timeout),
        };
        let answer = self.runtime.call_behaviour(&self.key, behaviour, ask).await?;
        Ok(serde_json::from_slice(&answer).unwrap())
    }

    /// Ends the session.
    pub async fn end(&self) {
        self.runtime.end_session(&self.key).await.unwrap();
    }

    /// Follows the session.
    pub fn events(&self) -> SessionStream {
        self.runtime.session_events(&self.key).unwrap()
    }
}

/// Waits until `condition` holds; fails after [`PATIENCE`].
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let clock = SystemClock;
    let deadline = clock.now() + PATIENCE;
    while !condition() {
        assert!(clock.now() < deadline, "never: {what}");
        clock.sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until `group` is led by `member` as this host sees it.
pub async fn led_by(runtime: &Runtime, group: &str, member: &str) {
    let what = format!("{group} is led by {member}");
    let leader = || runtime.group(group).ok()?.leader.map(|leader| leader.member);
    eventually(&what, || leader().as_deref() == Some(member)).await;
}

/// Returns the next event of a group that `wanted` picks.
pub async fn next_event<T>(stream: &mut GroupStream, wanted: impl FnMut(&Event) -> Option<T>) -> T {
    pick(async || stream.next().await, wanted).await
}

/// Returns the next event of a session that `wanted` picks.
pub async fn next_told<T>(stream: &mut SessionStream, wanted: impl FnMut(&SessionEvent) -> Option<T>) -> T {
    pick(async || stream.next().await, wanted).await
}

async fn pick<E, T>(mut next: impl AsyncFnMut() -> Option<E>, mut wanted: impl FnMut(&E) -> Option<T>) -> T {
    let search = async {
        loop {
            let event = next().await.expect("the stream goes on");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, search).await.expect("the event comes")
}

/// Waits until a member of the session is elected.
pub async fn told_elected(stream: &mut SessionStream) -> Hold {
    next_told(stream, |event| match event {
        SessionEvent::Elected { hold } => Some(hold.clone()),
        _ => None,
    })
    .await
}

/// Tells whether a transaction writes or removes a member's record.
pub fn writes_member(txn: &Txn) -> bool {
    let members = Key::path(["fleet", "member"]).below();
    txn.writes.iter().any(
        |write| matches!(write, Write::Put { key, .. } | Write::Delete(key) if key.starts_with(&members)),
    )
}

/// Returns the folder of the whole project.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// Opens a shipped policy.
pub fn shipped(name: &str) -> Bundle {
    Bundle::open(&root().join("policies").join(name)).unwrap()
}

/// Makes a bundle of a shipped policy's component under another version.
pub fn shipped_as(name: &str, version: &str) -> Bundle {
    let from = root().join("policies").join(name);
    let manifest = std::fs::read_to_string(from.join("policy.toml")).unwrap();
    let lines = manifest.lines().map(|line| match line.starts_with("version") {
        true => format!("version = \"{version}\"\n"),
        false => format!("{line}\n"),
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("policy.toml"), lines.collect::<String>()).unwrap();
    let component = format!("{}.wasm", name.replace('-', "_"));
    std::fs::copy(from.join(&component), folder.path().join(&component)).unwrap();
    Bundle::open(folder.path()).unwrap()
}

/// Waits until what is looked up holds; fails after [`PATIENCE`].
pub async fn eventually_found(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !is_so().await {
            SystemClock.sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, looking).await.is_ok(), "never: {what}");
}

/// Makes a bundle, without cases, of a guest that misbehaves.
pub fn fixture(name: &str, version: u32) -> Bundle {
    let folder = tempfile::tempdir().unwrap();
    let component = root().join(format!("guests/fixtures/built/{name}.wasm"));
    std::fs::copy(&component, folder.path().join("guest.wasm"))
        .unwrap_or_else(|error| panic!("{}: {error}; run cargo xtask guests", component.display()));
    let manifest = format!(
        "name = \"{name}\"\nversion = \"0.0.{version}\"\nkind = \"election\"\ncomponent = \"guest.wasm\"\n"
    );
    std::fs::write(folder.path().join("policy.toml"), manifest).unwrap();
    std::fs::write(folder.path().join("README.md"), name).unwrap();
    Bundle::open(folder.path()).unwrap()
}
