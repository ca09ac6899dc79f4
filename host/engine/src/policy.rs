//! A loaded policy, and the calls it takes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{Digest, ElectionView, Error, Kind, Result, Verdict};
use wasmtime::component::Component;

use crate::bundle::{Bundle, Manifest, Settings};
use crate::call::{Admitted, Answered};
use crate::engine::Engine;
use crate::fault::{Fault, FaultCause};
use crate::host::Subject;
use crate::journal::CallLimits;
use crate::kinds::election::Rule;

/// A component, compiled and linked.
pub(crate) struct Code {
    rule: Rule,
    /// Whether it can ask for randomness, so that the view needs a digest.
    wants_random: bool,
}

impl Code {
    pub(crate) fn new(rule: Rule, engine: &wasmtime::Engine, component: &Component) -> Self {
        let kind = component.component_type();
        let is_random =
            |name: &str| name.starts_with("althing:policy/random@") || name.starts_with("wasi:random/");
        let wants_random = kind.imports(engine).any(|(name, _)| is_random(name));
        Code { rule, wants_random }
    }
}

/// A policy that can be asked. Nothing of one call is left for the next.
pub struct Policy {
    engine: Engine,
    bundle: Arc<Bundle>,
    code: Arc<Code>,
    settings: Arc<Settings>,
    schema: String,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Manifest { name, version, .. } = self.manifest();
        write!(f, "Policy({name} {version} {})", self.digest().short())
    }
}

/// What a rule decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Ruling {
    /// The verdict. It names nobody but members of the view.
    pub verdict: Verdict,
    /// What the guest logged.
    pub log: Vec<String>,
    /// The processor time it took.
    pub cpu: Duration,
}

impl Policy {
    /// Makes a policy, and has the guest check its settings.
    pub(crate) async fn checked(engine: Engine, bundle: Arc<Bundle>, code: Arc<Code>) -> Result<Policy> {
        let settings = Arc::new(Settings::new(&bundle.manifest.settings)?);
        let mut policy = Policy { engine, bundle, code, settings, schema: String::new() };
        let subject = policy.subject(0.0, Digest::of(b""), policy.settings.clone());
        let Answered { answer, .. } = policy.check(subject).await.map_err(|fault| {
            Error::new(Kind::Fault, "load policy", "the guest failed when it was to check its settings")
                .because(fault)
        })?;
        policy.schema = answer.map_err(|refusal| {
            Error::new(Kind::Invalid, "load policy", format!("the policy refuses its settings: {refusal}"))
                .with("file", "policy.toml")
                .advise("Change the table [settings]")
        })?;
        Ok(policy)
    }

    /// Returns the digest of the settings in its manifest.
    pub fn settings_digest(&self) -> Digest {
        self.bundle.settings_digest()
    }

    /// Returns the digest of its bundle.
    pub fn digest(&self) -> Digest {
        self.bundle.digest()
    }

    /// Returns what its bundle says of it.
    pub fn manifest(&self) -> &Manifest {
        &self.bundle.manifest
    }

    /// Returns what its bundle holds.
    pub fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    /// Returns what the guest says of the settings it takes: a JSON object, or nothing.
    pub fn settings_schema(&self) -> &str {
        &self.schema
    }

    /// Asks the rule who shall lead, in a fresh instance. Waits while too many calls run; a wait is not a fault.
    /// Dropping the future ends the call.
    pub async fn elect(&self, view: &ElectionView) -> Result<Ruling, Fault> {
        self.elect_with(view, self.settings.clone()).await
    }

    /// Asks the rule with other settings than its own.
    pub(crate) async fn elect_with(
        &self,
        view: &ElectionView,
        settings: Arc<Settings>,
    ) -> Result<Ruling, Fault> {
        let seed = if self.code.wants_random { view.to_bytes() } else { Vec::new() };
        let subject = self.subject(view.now_ms, Digest::of(seed), settings);
        let Answered { answer, log, cpu } = self.ask(subject, view).await?;
        let refused = |detail: String, log| Fault { log, ..Fault::new(FaultCause::Answer, detail) };
        match answer {
            Err(reason) => Err(refused(format!("it gave up: {}", cut(&reason)), log)),
            Ok(verdict) => match verdict.fault(view) {
                Some(wrong) => Err(refused(cut(&wrong).to_owned(), log)),
                None => Ok(Ruling { verdict, log, cpu }),
            },
        }
    }

    /// Runs the guest's check of its settings.
    async fn check(&self, subject: Subject) -> Result<Answered<Result<String, String>>, Fault> {
        let admitted = Admitted::admit(&self.engine.0, self.limits()).await?;
        let (code, store) = (self.code.clone(), admitted.store(subject));
        admitted.away(async move { code.rule.check(store).await }).await
    }

    /// Runs the guest's decision: in place where that is possible, else with a copy of the view.
    async fn ask(
        &self,
        subject: Subject,
        view: &ElectionView,
    ) -> Result<Answered<Result<Verdict, String>>, Fault> {
        let admitted = Admitted::admit(&self.engine.0, self.limits()).await?;
        let store = admitted.store(subject);
        if admitted.is_here() {
            return admitted.here(self.code.rule.elect(store, view)).await;
        }
        let (code, view) = (self.code.clone(), view.clone());
        admitted.away(async move { code.rule.elect(store, &view).await }).await
    }

    /// Returns the settings of its bundle.
    pub(crate) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    fn subject(&self, now_ms: f64, seed: Digest, settings: Arc<Settings>) -> Subject {
        Subject { now_ms, seed, settings, may_log: self.manifest().grants.log }
    }

    fn limits(&self) -> CallLimits {
        let limits = &self.manifest().limits;
        CallLimits { cpu: limits.cpu(), memory_bytes: limits.memory_bytes() }
    }
}

/// Cuts what a guest wrote to a length that fits a record.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(althing_core::limits::REASON_BYTES_MAX)]
}
