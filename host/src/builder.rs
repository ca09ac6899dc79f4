//! Starts a host.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{Chance, Clock, Error, Kind, Location, OsChance, Result, SystemClock, layers, limits};
use althing_engine::{Engine, EngineConfig, PublicKey};
use althing_runtime::{Backends, DEFAULT_BACKEND, Runtime, RuntimeConfig, Tuning};
use futures::future::join_all;

use crate::backends;

/// Threads for the backend's sockets and the renewals. They mostly wait; two, so that one call that keeps
/// its thread for a while does not delay a renewal.
const IO_THREADS: usize = 2;

/// A host that runs inside this process.
#[derive(Debug)]
pub struct Althing {
    first: Runtime,
    backends: Backends,
    _io: Io,
}

impl Althing {
    /// Begins to describe a host.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Returns what the host can do on its backend; of several, on the first. It is of no use any more once the host
    /// was dropped.
    pub fn runtime(&self) -> &Runtime {
        &self.first
    }

    /// Returns what the host can do on each of its backends.
    pub fn backends(&self) -> &Backends {
        &self.backends
    }

    /// Ends the host in good order: its leaders resign, its members leave, its sessions are closed. A host
    /// that is dropped instead leaves all that to the end of its lease.
    pub async fn stop(self) {
        join_all(self.backends.iter().map(Runtime::stop)).await;
    }
}

impl Drop for Althing {
    fn drop(&mut self) {
        self.backends.iter().for_each(Runtime::abandon);
    }
}

/// What a host is started with.
#[derive(Clone)]
#[must_use = "nothing runs before `start`"]
pub struct Builder {
    backends: Vec<(String, String)>,
    name: Option<String>,
    lease: Duration,
    state: Option<PathBuf>,
    trusted: Vec<PublicKey>,
    allow_unsigned: bool,
    tuning: Tuning,
    catch_signals: bool,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
}

impl fmt::Debug for Builder {
    /// Leaves out the URLs of the backends, in which passwords may be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backends: Vec<&str> = self.backends.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Builder")
            .field("backends", &backends)
            .field("name", &self.name)
            .field("lease", &self.lease)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            backends: Vec::new(),
            name: None,
            lease: limits::LEASE_DEFAULT,
            state: None,
            trusted: Vec::new(),
            allow_unsigned: false,
            tuning: Tuning::default(),
            catch_signals: false,
            clock: Arc::new(SystemClock),
            chance: Arc::new(OsChance),
        }
    }
}

impl Builder {
    /// Adds the backend that is meant where none is named, by its URL; `memory:` if no backend is ever added.
    pub fn backend(self, url: impl Into<String>) -> Self {
        self.named_backend(DEFAULT_BACKEND, url)
    }

    /// Adds one of several backends by its URL. Each has groups, members and policies of its own; [`Althing::backends`]
    /// finds it by this name, at most [`limits::BACKEND_NAME_BYTES_MAX`] of a-z, 0-9, `-` and `_`.
    pub fn named_backend(mut self, name: impl Into<String>, url: impl Into<String>) -> Self {
        self.backends.push((name.into(), url.into()));
        self
    }

    /// Sets the host's name, for people; the machine's name if never called.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the lease to ask of the backend: how long a host that died goes on counting.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// Sets where the host's identity, its decisions and a cache of bundles are kept. Without one they are
    /// kept in memory.
    pub fn state(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state = Some(folder.into());
        self
    }

    /// Runs bundles that this key signed. Call it once for each key.
    pub fn trust(mut self, key: PublicKey) -> Self {
        self.trusted.push(key);
        self
    }

    /// Sets whether bundles without a trusted signature are run.
    pub fn allow_unsigned(mut self, allow: bool) -> Self {
        self.allow_unsigned = allow;
        self
    }

    /// Sets how elections are paced.
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        self.tuning = tuning;
        self
    }

    /// Sets whether rules in WebAssembly may rely on signals: they run faster then, and hardened against speculative
    /// execution, but handlers for SIGSEGV, SIGILL and SIGFPE are installed for the whole process, and stay. Only for
    /// a program that is a host and nothing else; without this call a host installs no signal handler.
    pub fn catch_signals(mut self, catch: bool) -> Self {
        self.catch_signals = catch;
        self
    }

    /// Connects to the backends, opens the host's session in each and starts to take part.
    ///
    /// Fails with `Invalid` where a URL, a name or the lease is wrong or two backends have one name, `Unavailable` where a backend cannot be
    /// reached, and `Format` where its namespace holds another layout. Needs a tokio runtime, on
    /// which everything but the backends' sockets and the renewals will run.
    pub async fn start(mut self) -> Result<Althing> {
        if self.backends.is_empty() {
            self = self.backend("memory:");
        }
        check_lease(self.lease)?;
        check_names(&self.backends)?;
        let io = Io::start()?;
        let engine = Engine::new(EngineConfig {
            clock: self.clock.clone(),
            catch_signals: self.catch_signals,
            ..EngineConfig::default()
        })?;
        let mut begun = Begun(Vec::new());
        for (name, url) in &self.backends {
            match self.start_one(name, url, &io, engine.clone()).await {
                Ok(runtime) => begun.0.push(runtime),
                Err(error) => {
                    join_all(begun.0.iter().map(Runtime::stop)).await;
                    return Err(if self.backends.len() > 1 { error.with("backend", name) } else { error });
                }
            }
        }
        let first = begun.0[0].clone();
        Ok(Althing { first, backends: Backends::new(std::mem::take(&mut begun.0))?, _io: io })
    }

    async fn start_one(&self, name: &str, url: &str, io: &Io, engine: Engine) -> Result<Runtime> {
        let location: Location = url.parse()?;
        let connecting = backends::connect(location, self.clock.clone(), self.chance.clone());
        let driver = io.handle.spawn(connecting).await.map_err(cut_off)??;
        let driver = layers::stack(driver, self.clock.clone(), self.chance.clone(), io.handle.clone());
        let state = self.state.as_ref().map(|folder| match name {
            DEFAULT_BACKEND => folder.clone(),
            name => folder.join("backends").join(name),
        });
        let config = RuntimeConfig {
            name: self.name.clone().unwrap_or_else(machine_name),
            backend: name.to_owned(),
            lease: self.lease,
            state,
            trusted: self.trusted.clone(),
            allow_unsigned: self.allow_unsigned,
            clock: self.clock.clone(),
            chance: self.chance.clone(),
            io: io.handle.clone(),
            tuning: self.tuning,
        };
        Runtime::start(config, driver, engine).await
    }
}

/// What runs already while the rest is started. Abandoned with a start that is given up.
struct Begun(Vec<Runtime>);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.iter().for_each(Runtime::abandon);
    }
}

/// Refuses a name that cannot be one of a folder and of a header, or that two have.
fn check_names(backends: &[(String, String)]) -> Result<()> {
    let wrong = |message: String| Err(Error::new(Kind::Invalid, "start host", message));
    if backends.len() > limits::BACKENDS_MAX {
        return wrong(format!("{} backends; at most {}", backends.len(), limits::BACKENDS_MAX));
    }
    let is_plain =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-_".contains(letter);
    let is_name =
        |name: &str| (1..=limits::BACKEND_NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_plain);
    let mut names = BTreeSet::new();
    for (name, _) in backends {
        if !is_name(name) {
            let longest = limits::BACKEND_NAME_BYTES_MAX;
            return wrong(format!(
                "a backend cannot be called {name:?}; a name has 1 to {longest} of a-z, 0-9, - and _"
            ));
        }
        if !names.insert(name) {
            return wrong(format!("two backends are called {name:?}"));
        }
    }
    Ok(())
}

fn check_lease(lease: Duration) -> Result<()> {
    if (limits::LEASE_MIN..=limits::LEASE_MAX).contains(&lease) {
        return Ok(());
    }
    let message = format!("a lease of {lease:?}; from {:?} to {:?}", limits::LEASE_MIN, limits::LEASE_MAX);
    Err(Error::new(Kind::Invalid, "start host", message))
}

fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn cut_off(error: tokio::task::JoinError) -> Error {
    Error::new(Kind::Internal, "start host", "connecting to the backend was cut off").because(error)
}

/// The runtime of the backend's sockets and the renewals. Nothing a caller or a guest does keeps it busy.
#[derive(Debug)]
struct Io {
    handle: tokio::runtime::Handle,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Io {
    fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(IO_THREADS)
            .thread_name("althing-io")
            .enable_all()
            .build()
            .map_err(|error| {
                Error::new(Kind::Internal, "start host", "no threads can be started").because(error)
            })?;
        Ok(Io { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // The owner may itself live on a runtime, where waiting for another one is forbidden.
            runtime.shutdown_background();
        }
    }
}
