//! Behaviours: a [`BehaviourRequest`] in, a [`BehaviourAnswer`] out, and a granted part of the store in between.

use std::collections::BTreeMap;
use std::time::Duration;

use althing_core::{Digest, limits};
use bytes::Bytes;
use wasmtime::Store;
use wasmtime::component::{Instance, InstancePre};

use crate::bindings::behaviour::exports::althing::policy::behaviour as wit;
use crate::bindings::behaviour::{BehaviourPolicy, BehaviourPolicyPre};
use crate::host::store::check_granted;
use crate::records::RecordsError;
use crate::store::Call;
use crate::words;

/// A request of a client, as a behaviour is shown it.
#[derive(Clone, Debug, PartialEq)]
pub struct BehaviourRequest {
    /// Names the request: the same however often it is asked.
    pub id: String,
    /// What the client wants, as the behaviour names its operations.
    pub operation: String,
    /// What it sent.
    pub body: Bytes,
    /// Who asks.
    pub principal: String,
    /// The client's session, as 32 hexadecimal digits.
    pub session: String,
    /// The moment, in milliseconds since 1970.
    pub now_ms: f64,
    /// Until when the client waits, in milliseconds since 1970.
    pub deadline_ms: f64,
    /// How often it was asked before.
    pub attempt: u32,
    /// The client no longer waits.
    pub last: bool,
    /// Room for what later versions add.
    pub attributes: BTreeMap<String, String>,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum BehaviourAnswer {
    /// It is done; these bytes go to the client.
    Done(Bytes),
    /// Ask again as soon as anything below `prefix` changes, and at `until_ms` at the latest.
    Wait {
        /// A granted prefix, or one below it.
        prefix: Bytes,
        /// A moment, in milliseconds since 1970.
        until_ms: f64,
    },
}

/// What a behaviour answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Handled {
    /// Its answer, or why it could not give one.
    pub answer: Result<BehaviourAnswer, RecordsError>,
    /// What the guest logged.
    pub log: Vec<String>,
    /// The processor time it took.
    pub cpu: Duration,
}

impl BehaviourRequest {
    /// Returns what the randomness of the call is made from: each asking has its own.
    pub(crate) fn seed(&self) -> Digest {
        Digest::of(format!("{}/{}/{}", self.session, self.id, self.attempt))
    }

    /// Returns how long the call may take on the wall: until the client no longer waits, and a grace beyond it in which a
    /// commit that has begun is heard of, and the last call of a request removes what was written for the waiting.
    pub(crate) fn wall(&self) -> Duration {
        let left_ms = (self.deadline_ms - self.now_ms).max(0.0);
        let left = Duration::try_from_secs_f64(left_ms / 1000.0).unwrap_or(Duration::ZERO);
        left.saturating_add(limits::BEHAVIOUR_GRACE)
    }
}

impl BehaviourAnswer {
    /// Returns the answer as it can be followed, or what is wrong with it.
    pub(crate) fn checked(self, request: &BehaviourRequest, prefixes: &[String]) -> Result<Self, String> {
        match self {
            BehaviourAnswer::Done(bytes) => {
                let max = limits::BEHAVIOUR_ANSWER_BYTES_MAX;
                let length = bytes.len();
                if length > max {
                    return Err(format!("its answer has {length} bytes; at most {max}"));
                }
                Ok(BehaviourAnswer::Done(bytes))
            }
            BehaviourAnswer::Wait { prefix, until_ms } => {
                check_granted(prefixes, &prefix).map_err(|denied| format!("it waits for what {denied}"))?;
                if until_ms.is_nan() {
                    return Err("it waits until NaN".into());
                }
                let soonest = request.now_ms + limits::BEHAVIOUR_PAUSE_MIN.as_secs_f64() * 1000.0;
                let until_ms = until_ms.max(soonest).min(request.deadline_ms.max(request.now_ms));
                Ok(BehaviourAnswer::Wait { prefix, until_ms })
            }
        }
    }
}

/// A behaviour, linked and ready for any number of calls.
#[derive(Clone)]
pub(crate) struct Primitive(BehaviourPolicyPre<Call>);

impl Primitive {
    /// Fails when the component exports no behaviour.
    pub(crate) fn new(linked: InstancePre<Call>) -> wasmtime::Result<Self> {
        BehaviourPolicyPre::new(linked).map(Primitive)
    }

    /// Fails when what the component exports is of other types than the world's.
    pub(crate) fn check_types(store: &mut Store<Call>, instance: &Instance) -> wasmtime::Result<()> {
        BehaviourPolicy::new(store, instance).map(drop)
    }

    /// Asks the guest what becomes of a request.
    pub(crate) async fn handle(
        &self,
        mut store: Store<Call>,
        request: &BehaviourRequest,
    ) -> wasmtime::Result<Result<BehaviourAnswer, RecordsError>> {
        let guest = self.0.instantiate_async(&mut store).await?;
        let shown = wit::Request {
            id: request.id.clone(),
            operation: request.operation.clone(),
            body: request.body.to_vec(),
            principal: request.principal.clone(),
            session: request.session.clone(),
            now: request.now_ms,
            deadline: request.deadline_ms,
            attempt: request.attempt,
            last: request.last,
            attributes: request.attributes.clone().into_iter().collect(),
        };
        let answer = guest.althing_policy_behaviour().call_handle(&mut store, &shown).await?;
        Ok(answer.map(from_guest).map_err(gave_up))
    }
}

fn from_guest(answer: wit::Answer) -> BehaviourAnswer {
    match answer {
        wit::Answer::Done(bytes) => BehaviourAnswer::Done(bytes.into()),
        wit::Answer::Wait(wit::Waiting { prefix, until }) => {
            BehaviourAnswer::Wait { prefix: prefix.into(), until_ms: until }
        }
    }
}

/// Returns why the guest gave up, cut to what fits a line.
fn gave_up(error: wit::Error) -> RecordsError {
    let cut = |text: String| words::plain(&text, limits::REASON_BYTES_MAX);
    match error {
        wit::Error::Conflict(mut key) => {
            key.truncate(limits::BEHAVIOUR_KEY_BYTES_MAX);
            RecordsError::Conflict(key.into())
        }
        wit::Error::SessionLost => RecordsError::SessionLost,
        wit::Error::Denied(text) => RecordsError::Denied(cut(text)),
        wit::Error::TooLarge(text) => RecordsError::TooLarge(cut(text)),
        wit::Error::Unavailable(text) => RecordsError::Unavailable(cut(text)),
        wit::Error::Unknown(text) => RecordsError::Unknown(cut(text)),
        wit::Error::Other(text) => RecordsError::Other(cut(text)),
    }
}
