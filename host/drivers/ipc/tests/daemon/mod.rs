//! A daemon in this process: a host, and its socket.

#![allow(dead_code, reason = "each test binary needs its part of this")]

use std::path::PathBuf;
use std::sync::Arc;

use althing_core::{Clock, Driver, OsChance, Result, SystemClock, layers};
use althing_driver_ipc::Ipc;
use althing_driver_memory::Memory;
use althing_engine::{Engine, EngineConfig};
use althing_runtime::{Runtime, RuntimeConfig};
use althing_server::{Server, ServerConfig};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A daemon that can be ended and started again over the same backend.
pub(crate) struct Daemon {
    folder: tempfile::TempDir,
    backend: Arc<dyn Driver>,
    engine: Engine,
    runs: Option<Runs>,
}

/// One run of it, on threads of its own: these end with it, as those of a process do.
struct Runs {
    runtime: Runtime,
    end: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    threads: tokio::runtime::Runtime,
}

impl Daemon {
    pub(crate) async fn start(backend: Arc<dyn Driver>) -> Daemon {
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = Daemon { folder, backend, engine, runs: None };
        daemon.begin().await;
        daemon
    }

    pub(crate) async fn on_memory() -> Daemon {
        Daemon::start(Arc::new(Memory::new(Arc::new(SystemClock), Arc::new(OsChance)))).await
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("a.sock")
    }

    /// Returns the URL of a part of its namespace; of all of it where that is empty.
    pub(crate) fn url(&self, namespace: &str) -> String {
        let query = if namespace.is_empty() { String::new() } else { format!("?namespace={namespace}") };
        format!("ipc://{}{query}", self.socket().display())
    }

    pub(crate) async fn connect(&self, namespace: &str) -> Ipc {
        connect(&self.url(namespace)).await.unwrap()
    }

    /// Gives it another backend, for when it comes back.
    pub(crate) fn replace(&mut self, backend: Arc<dyn Driver>) {
        self.backend = backend;
    }

    /// Returns its own host.
    pub(crate) fn runtime(&self) -> Runtime {
        self.runs.as_ref().unwrap().runtime.clone()
    }

    /// Starts it, as after `end` or `die`.
    pub(crate) async fn begin(&mut self) {
        let (backend, engine) = (self.backend.clone(), self.engine.clone());
        let socket = self.socket();
        let threads =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (end, ended) = oneshot::channel();
        let begun = threads.spawn(async move {
            let (clock, chance) = (Arc::new(SystemClock), Arc::new(OsChance));
            let driver = layers::stack(backend, clock, chance, Handle::current());
            let config = RuntimeConfig::new(Handle::current());
            let runtime = Runtime::start(config, driver, engine).await.unwrap();
            let token_file = socket.with_extension("token");
            let config = ServerConfig { socket, listen: None, token_file, metrics: None };
            let server = Server::bind(config, runtime.clone()).await.unwrap();
            let serving = tokio::spawn(server.run(async move { drop(ended.await) }));
            (runtime, serving)
        });
        let (runtime, serving) = begun.await.unwrap();
        self.runs = Some(Runs { runtime, end, serving, threads });
    }

    /// Ends it as SIGTERM does: what is under way is answered.
    pub(crate) async fn end(&mut self) {
        let runs = self.runs.take().unwrap();
        let _ = runs.end.send(());
        runs.serving.await.unwrap();
        runs.runtime.stop().await;
        runs.threads.shutdown_background();
    }

    /// Lets it die: nothing is answered, nothing is closed, and its connections end.
    pub(crate) async fn die(&mut self) {
        let runs = self.runs.take().unwrap();
        tokio::task::spawn_blocking(move || runs.threads.shutdown_timeout(std::time::Duration::from_secs(5)))
            .await
            .unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(runs) = self.runs.take() {
            runs.threads.shutdown_background();
        }
    }
}

pub(crate) async fn connect(url: &str) -> Result<Ipc> {
    connect_by(url, Arc::new(SystemClock)).await
}

pub(crate) async fn connect_by(url: &str, clock: Arc<dyn Clock>) -> Result<Ipc> {
    Ipc::connect(&url.parse()?, clock, Arc::new(OsChance)).await
}
