//! One error for everything below the HTTP surface: what went wrong, whether it landed, and where.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The result of everything that can fail in Althing.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Callers branch on this and on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// The input is malformed, or not allowed in this place. Sending it again will not help.
    Invalid,
    /// A stated limit on size or count was passed.
    TooLarge,
    /// What was named does not exist.
    NotFound,
    /// What should be made exists already.
    Exists,
    /// A guard of the transaction did not hold: somebody else wrote first.
    Conflict,
    /// The session has ended. It will not come back.
    SessionLost,
    /// The backend cannot be reached or refuses service now.
    Unavailable,
    /// No answer within the deadline.
    Timeout,
    /// This backend, as configured, does not promise what was asked.
    Unsupported,
    /// The principal, or the policy, may not do this.
    Denied,
    /// A bounded resource is in use; try later.
    Busy,
    /// The namespace holds another layout, or a newer one.
    Format,
    /// A guest failed: it trapped, ran out of its budget or answered nonsense.
    Fault,
    /// The host is ending.
    Closed,
    /// A bug in Althing, or an answer of a backend that its protocol does not allow.
    Internal,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Invalid => "invalid",
            Kind::TooLarge => "too-large",
            Kind::NotFound => "not-found",
            Kind::Exists => "exists",
            Kind::Conflict => "conflict",
            Kind::SessionLost => "session-lost",
            Kind::Unavailable => "unavailable",
            Kind::Timeout => "timeout",
            Kind::Unsupported => "unsupported",
            Kind::Denied => "denied",
            Kind::Busy => "busy",
            Kind::Format => "format",
            Kind::Fault => "fault",
            Kind::Closed => "closed",
            Kind::Internal => "internal",
        })
    }
}

/// Whether the failed operation changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Nothing was written; the operation may be sent again.
    None,
    /// It may have been written; read back before sending it again.
    Unknown,
}

/// A failure: its [`Kind`], its [`Effect`], the operation, a sentence, what to do, and where.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: Kind,
    effect: Effect,
    operation: &'static str,
    message: String,
    advice: Option<String>,
    context: Vec<(&'static str, String)>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Makes an error with effect [`Effect::None`]. `message` is a sentence without a full stop.
    pub fn new(kind: Kind, operation: &'static str, message: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            kind,
            effect: Effect::None,
            operation,
            message: message.into(),
            advice: None,
            context: Vec::new(),
            source: None,
        }))
    }

    /// Says that the operation may have been written.
    #[must_use]
    pub fn with_unknown_effect(mut self) -> Self {
        self.0.effect = Effect::Unknown;
        self
    }

    /// Adds where it happened: a key, a group, a file.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string()));
        self
    }

    /// Tells each value of the context anew: `tell` is given its name and what it was.
    #[must_use]
    pub fn map_context(mut self, tell: impl Fn(&str, String) -> String) -> Self {
        for (name, value) in &mut self.0.context {
            *value = tell(name, std::mem::take(value));
        }
        self
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// Adds the error that caused this one.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Returns what went wrong.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Returns whether the operation may have been written.
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// Returns the operation that failed, such as `commit`.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// Returns the sentence that says what went wrong.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns what the reader can do about it, if that is known.
    pub fn advice(&self) -> Option<&str> {
        self.0.advice.as_deref()
    }

    /// Returns where it happened, as name and value.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.operation, self.0.message)?;
        for (index, (name, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{name}={value}", if index == 0 { " (" } else { ", " })?;
        }
        if !self.0.context.is_empty() {
            f.write_str(")")?;
        }
        if self.0.effect == Effect::Unknown {
            f.write_str("; it may have been written")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        if let Some(advice) = &self.0.advice {
            write!(f, ". {advice}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_where_whether_it_landed_and_what_to_do() {
        let error = Error::new(Kind::Timeout, "commit", "no answer within 2 s")
            .with("key", "group/web")
            .with_unknown_effect()
            .because(std::io::Error::other("reset"))
            .advise("Check the backend");
        assert_eq!(
            error.to_string(),
            "commit: no answer within 2 s (key=group/web); it may have been written: reset. Check the backend"
        );
        assert_eq!(error.effect(), Effect::Unknown);
    }
}
