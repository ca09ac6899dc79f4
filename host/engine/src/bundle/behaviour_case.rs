//! Cases of behaviours: records and a request, and the answer and the records that must come of them.

use std::collections::BTreeMap;
use std::fmt;

use althing_core::{Result, Revision, Stamp};
use bytes::Bytes;
use serde::Deserialize;

use crate::kinds::behaviour::BehaviourRequest;
use crate::records::Entry;

/// Records and a request, and what must come of them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BehaviourCase {
    /// Its name: that of its file.
    #[serde(skip)]
    pub name: String,
    /// Settings for this case, in place of the bundle's.
    pub settings: Option<toml::Table>,
    /// What is there before, in the order in which it was written.
    #[serde(default)]
    pub records: Vec<CaseRecord>,
    /// What the behaviour is asked.
    pub request: CaseRequest,
    /// What must come of it.
    pub expect: BehaviourExpectation,
}

/// A record before or after.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseRecord {
    /// Its name.
    pub key: String,
    /// Its value; empty where none is given.
    #[serde(default)]
    pub value: Content,
    /// The session that owns it.
    pub session: Option<String>,
    /// The revision that it began at: its place among the records, counted from 1, where none is given.
    pub created: Option<u64>,
    /// The revision that wrote it last: that it began at, where none is given.
    pub modified: Option<u64>,
}

/// Bytes: text as it is, anything else as JSON.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Content(toml::Value);

impl Default for Content {
    fn default() -> Self {
        Content(toml::Value::String(String::new()))
    }
}

/// What a behaviour is asked; what is left out is ordinary.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaseRequest {
    /// Names the request.
    pub id: String,
    /// What the client wants.
    pub operation: String,
    /// What it sent.
    pub body: Content,
    /// Who asks.
    pub principal: String,
    /// The session of whoever asks.
    pub session: String,
    /// The moment.
    pub now_ms: f64,
    /// Until when the client waits.
    pub deadline_ms: f64,
    /// How often it was asked before.
    pub attempt: u32,
    /// The client no longer waits.
    pub last: bool,
    /// Room for what later versions add.
    pub attributes: BTreeMap<String, String>,
}

impl Default for CaseRequest {
    fn default() -> Self {
        CaseRequest {
            id: "request".into(),
            operation: String::new(),
            body: Content::default(),
            principal: "somebody".into(),
            session: "00000000000000000000000000000001".into(),
            now_ms: 1.7e12,
            deadline_ms: 1.7e12 + 30_000.0,
            attempt: 0,
            last: false,
            attributes: BTreeMap::new(),
        }
    }
}

/// What must come of a request.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, try_from = "RawExpectation")]
pub struct BehaviourExpectation {
    /// The answer.
    pub outcome: Outcome,
    /// All records that are there afterwards; those from before where none are given.
    pub records: Option<Vec<CaseRecord>>,
}

/// What a behaviour must answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// These bytes.
    Done(Content),
    /// It waits for this prefix, and until this moment if one is given.
    Wait(String, Option<f64>),
    /// It gives up, with this in its error.
    Error(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpectation {
    done: Option<Content>,
    wait: Option<String>,
    until_ms: Option<f64>,
    error: Option<String>,
    records: Option<Vec<CaseRecord>>,
}

impl TryFrom<RawExpectation> for BehaviourExpectation {
    type Error = String;

    fn try_from(raw: RawExpectation) -> std::result::Result<Self, String> {
        let outcome = match (raw.done, raw.wait, raw.error, raw.until_ms) {
            (Some(content), None, None, None) => Outcome::Done(content),
            (None, Some(prefix), None, until_ms) => Outcome::Wait(prefix, until_ms),
            (None, None, Some(part), None) => Outcome::Error(part),
            _ => return Err("it takes one of done, wait and error; until_ms goes with wait".into()),
        };
        Ok(BehaviourExpectation { outcome, records: raw.records })
    }
}

impl BehaviourCase {
    pub(super) fn parse(name: String, file: &str, text: &str) -> Result<Self> {
        let case: BehaviourCase = super::parse_toml(text, file)?;
        Ok(BehaviourCase { name, ..case })
    }

    /// Returns what is there before.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>> {
        (1..).zip(&self.records).map(|(place, record)| record.entry(place)).collect()
    }
}

impl CaseRecord {
    fn entry(&self, place: u64) -> Result<Entry> {
        let created = self.created.unwrap_or(place);
        let modified = Revision(self.modified.unwrap_or(created));
        Ok(Entry {
            key: self.key.clone().into(),
            value: self.value.bytes()?,
            session: self.session.clone(),
            stamp: Stamp { created: Revision(created), modified },
        })
    }

    /// Tells whether `entry` is this record; its stamp counts where one is given.
    pub(crate) fn is(&self, entry: &Entry) -> bool {
        let Stamp { created, modified } = entry.stamp;
        entry.key == self.key.as_bytes()
            && self.value.is(&entry.value)
            && entry.session == self.session
            && self.created.is_none_or(|given| given == created.0)
            && self.modified.is_none_or(|given| given == modified.0)
    }
}

impl Content {
    /// Returns the bytes.
    pub(crate) fn bytes(&self) -> Result<Bytes> {
        Ok(match &self.0 {
            toml::Value::String(text) => text.clone().into(),
            other => super::settings::json("value", other)?.to_string().into(),
        })
    }

    /// Tells whether `bytes` are these: text exactly, JSON by what it means.
    pub(crate) fn is(&self, bytes: &[u8]) -> bool {
        match &self.0 {
            toml::Value::String(text) => text.as_bytes() == bytes,
            other => {
                let parsed = serde_json::from_slice::<serde_json::Value>(bytes).ok();
                parsed.is_some() && parsed == super::settings::json("value", other).ok()
            }
        }
    }
}

impl CaseRequest {
    /// Returns the request as a behaviour is asked it.
    pub(crate) fn request(&self) -> Result<BehaviourRequest> {
        Ok(BehaviourRequest {
            id: self.id.clone(),
            operation: self.operation.clone(),
            body: self.body.bytes()?,
            principal: self.principal.clone(),
            session: self.session.clone(),
            now_ms: self.now_ms,
            deadline_ms: self.deadline_ms,
            attempt: self.attempt,
            last: self.last,
            attributes: self.attributes.clone(),
        })
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.bytes().unwrap_or_default()))
    }
}

impl fmt::Display for CaseRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.key, self.value)?;
        self.session.as_ref().map_or(Ok(()), |session| write!(f, " of {session}"))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done(content) => write!(f, "done {content}"),
            Outcome::Wait(prefix, None) => write!(f, "wait for {prefix}"),
            Outcome::Wait(prefix, Some(until_ms)) => write!(f, "wait for {prefix} until {until_ms}"),
            Outcome::Error(part) => write!(f, "an error with {part:?}"),
        }
    }
}
