//! A loaded policy, and the calls it takes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{Digest, ElectionView, Error, Kind, Result, Verdict, limits};

use crate::bundle::{Bundle, Manifest, Settings};
use crate::call::{Admitted, Answered};
use crate::code::{Code, Guest, Unfit, other_world};
use crate::engine::Engine;
use crate::fault::{Fault, FaultCause};
use crate::host::Subject;
use crate::host::store::Reach;
use crate::journal::CallLimits;
use crate::kinds::behaviour::{BehaviourRequest, Handled};
use crate::records::Records;
use crate::words;

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
        policy.schema = answer.map_err(|unfit| match unfit {
            Unfit::World(why) => other_world(policy.manifest().kind, why),
            Unfit::Settings(refusal) => {
                let message = format!("the policy refuses its settings: {}", cut(&refusal));
                Error::new(Kind::Invalid, "load policy", message)
                    .with("file", "policy.toml")
                    .advise("Change the table [settings]")
            }
        })?;
        let (length, max) = (policy.schema.len(), limits::GUEST_SCHEMA_BYTES_MAX);
        if length > max {
            let message = format!("the schema of its settings has {length} bytes; at most {max}");
            return Err(Error::new(Kind::TooLarge, "load policy", message));
        }
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
                Some(wrong) => Err(refused(cut(&wrong), log)),
                None => Ok(Ruling { verdict, log, cpu }),
            },
        }
    }

    /// Asks the behaviour what becomes of a request, in a fresh instance. It reaches `records` within its grants. The call may
    /// take until the request's deadline on the wall, and [`limits::BEHAVIOUR_GRACE`] longer. Waits while too many calls run.
    ///
    /// Dropping the future ends the call, and drops what it asked of `records`: what must not be cut off, such as a commit
    /// that was sent, goes on only where `records` sees to it.
    pub async fn handle(
        &self,
        request: &BehaviourRequest,
        records: Arc<dyn Records>,
    ) -> Result<Handled, Fault> {
        self.handle_with(request, records, self.settings.clone()).await
    }

    /// Asks the behaviour with other settings than its own.
    pub(crate) async fn handle_with(
        &self,
        request: &BehaviourRequest,
        records: Arc<dyn Records>,
        settings: Arc<Settings>,
    ) -> Result<Handled, Fault> {
        let Guest::Behaviour(primitive) = self.code.guest.clone() else {
            return Err(self.not_asked_that("it handles no requests"));
        };
        let reach = Some(Reach::new(records, self.bundle.clone()));
        let subject = Subject { reach, ..self.subject(request.now_ms, request.seed(), settings) };
        let admitted = self.admit(request.wall()).await?;
        let (store, shown) = (admitted.store(subject), request.clone());
        // Never in place: it waits for the backend, and its caller may have other things to do in the meantime.
        let call = admitted.away(async move { primitive.handle(store, &shown).await });
        let Answered { answer, log, cpu } = call.await?;
        match answer.map(|answer| answer.checked(request, &self.manifest().grants.store)) {
            Ok(Ok(answer)) => Ok(Handled { answer: Ok(answer), log, cpu }),
            Ok(Err(wrong)) => Err(Fault { log, ..Fault::new(FaultCause::Answer, wrong) }),
            Err(error) => Ok(Handled { answer: Err(error), log, cpu }),
        }
    }

    /// Runs the guest's check of its settings.
    async fn check(&self, subject: Subject) -> Result<Answered<Result<String, Unfit>>, Fault> {
        let admitted = self.admit(self.wall()).await?;
        let (code, store) = (self.code.clone(), admitted.store(subject));
        admitted.away(async move { code.check(store).await }).await
    }

    /// Runs the guest's decision: in place where that is possible, else with a copy of the view.
    async fn ask(
        &self,
        subject: Subject,
        view: &ElectionView,
    ) -> Result<Answered<Result<Verdict, String>>, Fault> {
        let Guest::Election(rule) = &self.code.guest else {
            return Err(self.not_asked_that("it decides about no group"));
        };
        let admitted = self.admit(self.wall()).await?;
        let store = admitted.store(subject);
        if admitted.is_here() {
            return admitted.here(rule.elect(store, view)).await;
        }
        let (rule, view) = (rule.clone(), view.clone());
        admitted.away(async move { rule.elect(store, &view).await }).await
    }

    fn not_asked_that(&self, what: &str) -> Fault {
        Fault::new(FaultCause::Host, format!("the policy is of kind {}: {what}", self.manifest().kind))
    }

    async fn admit(&self, wall: Duration) -> Result<Admitted<'_>, Fault> {
        let Manifest { kind, limits, .. } = self.manifest();
        let limits = CallLimits { cpu: limits.cpu(), memory_bytes: limits.memory_bytes(), wall };
        Admitted::admit(&self.engine.0, *kind, limits).await
    }

    /// Returns how long a call that waits for nothing may take on the wall.
    fn wall(&self) -> Duration {
        self.manifest().limits.cpu() * limits::GUEST_WALL_FACTOR
    }

    /// Returns the settings of its bundle.
    pub(crate) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    fn subject(&self, now_ms: f64, seed: Digest, settings: Arc<Settings>) -> Subject {
        Subject { now_ms, seed, settings, may_log: self.manifest().grants.log, reach: None }
    }
}

/// Cuts what a guest wrote to a length that fits a record, and a terminal.
fn cut(text: &str) -> String {
    words::plain(text, limits::REASON_BYTES_MAX)
}
