//! A real host with its surface, in memory, on which a guest does its worst while somebody counts the heartbeats.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use althing_client::wire::SessionKey;
use althing_client::{Address, Client};
use althing_core::info::{ErrorInfo, JoinAsk, SessionAsk};
use althing_core::layers::{self, Around, Call, Operation, Try};
use althing_core::{BootTime, Chance, Clock, Driver, OsChance, Result, Secret, SystemClock, limits};
use althing_driver_memory::Memory;
use althing_engine::{Engine, EngineConfig};
use althing_runtime::{Runtime, RuntimeConfig};
use althing_server::{Server, ServerConfig};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The longest anything is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Short, so that a row of the table sees several renewals.
const LEASE: Duration = Duration::from_millis(1500);
/// The time between two renewals that are on time.
pub const INTERVAL: Duration =
    Duration::from_nanos(LEASE.as_nanos() as u64 / limits::RENEWALS_PER_LEASE as u64);

/// A host, spoken to over its Unix socket.
pub struct Stage {
    /// Speaks to the host as its operator does.
    pub client: Client,
    heart: Arc<Heart>,
    floor: Floor,
    folder: tempfile::TempDir,
    runtime: Runtime,
    io: Option<tokio::runtime::Runtime>,
    end: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

impl Stage {
    /// Starts a host as `althing serve` does: renewals on a runtime of their own.
    pub async fn start() -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let io = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (clock, chance) = (Arc::new(SystemClock), Arc::new(Steady));
        let memory = Arc::new(Memory::new(clock.clone(), chance.clone()));
        let inner = layers::stack(memory, clock, chance.clone(), io.handle().clone());
        let heart = Arc::new(Heart { inner, beats: Mutex::default() });
        let config = RuntimeConfig {
            lease: LEASE,
            allow_unsigned: true,
            chance,
            ..RuntimeConfig::new(io.handle().clone())
        };
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let runtime = Runtime::start(config, heart.clone(), engine).await.unwrap();
        let socket = folder.path().join("a.sock");
        let page = metrics().clone();
        let config = ServerConfig {
            socket: socket.clone(),
            listen: None,
            token_file: folder.path().join("token"),
            metrics: Some(Arc::new(move || page.render())),
        };
        let server = Server::bind(config, runtime.clone()).await.unwrap();
        let (end, ended) = oneshot::channel();
        let server = tokio::spawn(server.run(async move { drop(ended.await) }));
        let client = Client::new(Address::Unix(socket));
        Stage { client, heart, floor: Floor::start(), folder, runtime, io: Some(io), end: Some(end), server }
    }

    /// Ends the host in good order.
    pub async fn end(mut self) {
        drop(self.end.take());
        (&mut self.server).await.unwrap();
        self.runtime.stop().await;
    }

    /// Returns how many renewals there were.
    pub fn beats(&self) -> u32 {
        self.heart.beats().count
    }

    /// Returns by how much the latest renewal was late, whether it has come or not.
    pub fn latest(&self) -> Duration {
        let beats = self.heart.beats();
        let overdue = beats.last.map_or(Duration::ZERO, |last| late(last, SystemClock.now()));
        beats.latest.max(overdue)
    }

    /// Returns by how much the machine let a thread wait that does nothing but sleep, at the worst.
    pub fn floor(&self) -> Duration {
        Duration::from_nanos(self.floor.0.worst.load(Ordering::Relaxed))
    }

    /// Opens a session that outlasts the host.
    pub async fn session(&self) -> SessionKey {
        let ask = SessionAsk { ttl_ms: Some(3_600_000), ..SessionAsk::default() };
        let grant = self.client.open_session(&ask).await.unwrap();
        SessionKey { id: grant.id, secret: Secret::new(grant.secret) }
    }

    /// Pushes a bundle and waits until the upload is done. Returns why it was refused, if it was.
    pub async fn push(&self, bundle: Vec<u8>) -> Option<ErrorInfo> {
        let first = self.client.push(bundle.into()).await.unwrap();
        let job = eventually("the end of an upload", || async {
            Some(self.client.job(&first.id, limits::JOB_WAIT_MAX).await.unwrap()).filter(|job| job.done)
        });
        job.await.error
    }

    /// Joins a member.
    pub async fn join(&self, session: &SessionKey, group: &str, member: &str) {
        let ask = JoinAsk { id: member.into(), ..JoinAsk::default() };
        self.client.join(session, group, &ask).await.unwrap();
    }

    /// Asks for the metrics as a scraper does, and returns the value of a counter of this policy; 0 where it is not there.
    pub async fn counted(&self, counter: &str, policy: &str) -> u64 {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        let line = format!("{counter}{{policy=\"{policy}\"}} ");
        let value = page.lines().find_map(|other| other.strip_prefix(&line));
        value.map_or(0, |value| value.trim().parse().unwrap())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("a.sock")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(io) = self.io.take() {
            io.shutdown_background();
        }
    }
}

/// A thread that sleeps, and knows by how much the machine woke it too late. Ends when this is dropped.
struct Floor(Arc<Sleeper>);

#[derive(Default)]
struct Sleeper {
    ended: AtomicBool,
    worst: AtomicU64,
}

impl Floor {
    const STEP: Duration = Duration::from_millis(5);

    fn start() -> Floor {
        let sleeper = Arc::new(Sleeper::default());
        let shared = sleeper.clone();
        std::thread::spawn(move || {
            while !shared.ended.load(Ordering::Relaxed) {
                let begin = SystemClock.now();
                std::thread::park_timeout(Floor::STEP);
                let late = SystemClock.now().since(begin).saturating_sub(Floor::STEP);
                shared.worst.fetch_max(late.as_nanos() as u64, Ordering::Relaxed);
            }
        });
        Floor(sleeper)
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

/// Asks again and again until `ask` gives something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let asking = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            SystemClock.sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// Metrics are one for the process; each policy has its own row in them.
fn metrics() -> &'static PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    METRICS.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap())
}

/// Randomness without jitter, so that the moment of each renewal is known before.
#[derive(Debug)]
struct Steady;

impl Chance for Steady {
    fn bits(&self) -> u128 {
        OsChance.bits()
    }

    fn jitter(&self, time: Duration) -> Duration {
        time
    }
}

/// A driver that notes when the host's session is renewed.
#[derive(Debug)]
struct Heart {
    inner: Arc<dyn Driver>,
    beats: Mutex<Beats>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Beats {
    count: u32,
    last: Option<BootTime>,
    latest: Duration,
}

impl Heart {
    fn beats(&self) -> Beats {
        *self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beat(&self) {
        let now = SystemClock.now();
        let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let overdue = beats.last.map_or(Duration::ZERO, |last| late(last, now));
        *beats = Beats { count: beats.count + 1, last: Some(now), latest: beats.latest.max(overdue) };
    }
}

impl Around for Heart {
    fn inner(&self) -> &Arc<dyn Driver> {
        &self.inner
    }

    async fn around<'a, T: Send + 'a>(
        &'a self,
        call: Call<'a>,
        send: impl Fn() -> Try<'a, T> + Send + Sync + 'a,
    ) -> Result<T> {
        if call.operation == Operation::Renew {
            self.beat();
        }
        send().await
    }
}

fn late(last: BootTime, now: BootTime) -> Duration {
    now.since(last).saturating_sub(INTERVAL)
}
