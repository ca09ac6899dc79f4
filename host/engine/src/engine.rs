//! The engine: a runtime for guests, a compiler, a ticker, and what is loaded.

use std::sync::Arc;
use std::time::Duration;

use althing_core::{Clock, Digest, Error, Kind, Result, SystemClock, limits};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Semaphore;
use wasmtime::component::Component;

use crate::background::{Compiler, Ticker, no_thread};
use crate::bundle::Bundle;
use crate::code::Code;
use crate::configuration;
use crate::kinds::Links;
use crate::policy::Policy;
use crate::proof::{self, Proof};
use crate::shape;
use crate::shelf::Shelf;
use crate::words;

/// How an engine is made.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Guest calls at once; further ones wait.
    pub calls_max: usize,
    /// Threads that run guests.
    pub threads: usize,
    /// How long the compilation of one component may take.
    pub compile_deadline: Duration,
    /// Find the faults of guests by signals: handlers for SIGSEGV, SIGILL and SIGFPE are installed for the whole process,
    /// and stay. Only for whoever owns the process. Without them guests check each access themselves, which is slower, and
    /// wasmtime cannot harden these checks against speculative execution.
    pub catch_signals: bool,
    /// Measures how long a call takes.
    pub clock: Arc<dyn Clock>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        EngineConfig {
            calls_max: limits::GUEST_CALLS_MAX,
            threads: std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2)),
            compile_deadline: limits::COMPILE_DEADLINE,
            catch_signals: false,
            clock: Arc::new(SystemClock),
        }
    }
}

/// Runs guests. A handle: clones share everything. With the last handle and the last [`Policy`] its threads end.
#[derive(Clone)]
pub struct Engine(pub(crate) Arc<Inner>);

/// What the handles share.
pub(crate) struct Inner {
    pub(crate) wasm: wasmtime::Engine,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) behaviour_permits: Arc<Semaphore>,
    pub(crate) handle: Handle,
    digest: Digest,
    /// Taken when it ends: a runtime dropped in place would block, and panic inside another one.
    runtime: Option<Runtime>,
    compiler: Compiler,
    _ticker: Ticker,
    code: Shelf<(Digest, Links), Code>,
    policies: Shelf<Digest, Policy>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("digest", &self.0.digest).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts an engine: its threads, its runtime and its pool of instances.
    pub fn new(config: EngineConfig) -> Result<Engine> {
        let wasm = configuration::make(config.calls_max, config.catch_signals)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(config.threads.max(1))
            .thread_name("althing-guest")
            .enable_time()
            .build()
            .map_err(no_thread)?;
        let inner = Inner {
            digest: configuration::digest(&wasm),
            _ticker: Ticker::start(wasm.clone())?,
            compiler: Compiler::new(config.compile_deadline, config.clock.clone(), runtime.handle().clone()),
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
            permits: Arc::new(Semaphore::new(config.calls_max)),
            behaviour_permits: Arc::new(Semaphore::new(config.calls_max.div_ceil(2))),
            clock: config.clock,
            code: Shelf::new(),
            policies: Shelf::new(),
            wasm,
        };
        Ok(Engine(Arc::new(inner)))
    }

    /// Returns what names this engine: the version of wasmtime, its configuration and the processor. Two engines
    /// of one digest decide the same.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// Returns the runtime that guests run on. A task there calls a policy in place, without a hop.
    pub fn handle(&self) -> &Handle {
        &self.0.handle
    }

    /// Makes a policy of a bundle: compiles its component, links it with what its kind and its grants give, and has
    /// the guest check its settings. A bundle that is loaded already is returned as it is. Does not verify the
    /// signature and does not run the cases.
    ///
    /// `Invalid` for a component that is none, of another world, or whose settings it refuses; `Denied` for imports
    /// it is not given; `Fault` when the guest fails.
    pub async fn load(&self, bundle: &Arc<Bundle>) -> Result<Arc<Policy>> {
        if let Some(policy) = self.0.policies.find(&bundle.digest()) {
            return Ok(policy);
        }
        let code = self.code(bundle).await.map_err(|error| error.with("policy", &bundle.manifest.name))?;
        let policy = Policy::checked(self.clone(), bundle.clone(), code)
            .await
            .map_err(|error| error.with("policy", &bundle.manifest.name))?;
        Ok(self.0.policies.put(bundle.digest(), Arc::new(policy)))
    }

    /// Runs the cases of the policy's bundle. The error names the first case that fails, what it expected and
    /// what it got. A bundle without cases is proven by none.
    pub async fn prove(&self, policy: &Arc<Policy>) -> Result<Proof> {
        proof::prove(policy).await.map_err(|error| error.with("policy", &policy.manifest().name))
    }

    /// Returns the compiled component, from the shelf where it is in use.
    async fn code(&self, bundle: &Arc<Bundle>) -> Result<Arc<Code>> {
        let name = (bundle.component_digest(), Links::of(&bundle.manifest));
        if let Some(code) = self.0.code.find(&name) {
            return Ok(code);
        }
        let (inner, bundle) = (self.0.clone(), bundle.clone());
        let job = move || match inner.code.find(&name) {
            Some(code) => Ok(code),
            None => Ok(inner.code.put(name, Arc::new(inner.compile(&bundle)?))),
        };
        self.0.compiler.run(job).await
    }
}

impl Inner {
    fn compile(&self, bundle: &Bundle) -> Result<Code> {
        refuse_other_files(&bundle.component)?;
        shape::check(&bundle.component)?;
        let component = Component::from_binary(&self.wasm, &bundle.component).map_err(|error| {
            Error::new(Kind::Invalid, "load policy", "the component cannot be compiled for this host")
                .because(words::of_error(&error))
                .advise("Look whether the file is whole, and whether it asks for more than a guest may have")
        })?;
        Code::link(&self.wasm, &component, Links::of(&bundle.manifest))
    }
}

/// Tells apart what people upload by mistake.
fn refuse_other_files(bytes: &[u8]) -> Result<()> {
    const MAGIC: &[u8] = b"\0asm";
    const COMPONENT: &[u8] = &[0x0d, 0, 1, 0];
    let not = |what: &str, advice: &str| {
        Err(Error::new(Kind::Invalid, "load policy", format!("the component is {what}")).advise(advice))
    };
    match (bytes.starts_with(MAGIC), bytes.get(4..8)) {
        (true, Some(COMPONENT)) => Ok(()),
        (true, _) => not(
            "a core WebAssembly module, not a component",
            "Link it with wasm-component-ld, or run `wasm-tools component new` on it",
        ),
        (false, _) => not("no WebAssembly at all", "Name the built .wasm file as `component` in policy.toml"),
    }
}
