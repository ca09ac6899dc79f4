//! What a backend promises, in this configuration. Recipes ask this, never the backend's name.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::location::nearest;
use crate::{Error, Kind, Result};

/// How much a held leadership or lock is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Level {
    /// A hint: the store may forget what it acknowledged.
    L0,
    /// One durable server: what it acknowledged survives its restart.
    L1,
    /// Consensus: what it acknowledged survives the loss of a minority.
    L2,
}

/// How a watch learns of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum WatchMode {
    /// The backend tells.
    Pushed,
    /// The driver asks again and again.
    Polled,
}

/// Within what revisions are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Over all keys of the namespace.
    Namespace,
    /// For each key by itself.
    Key,
}

/// Who ends a session whose lease ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Expiry {
    /// The backend, by its own clock.
    Backend,
    /// Whichever driver looks next, by the backend's clock.
    Driver,
}

/// What a backend promises in its configuration. The conformance suite fails a driver that does less or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Capability {
    /// The scheme of its URL, such as `redis`.
    pub backend: String,
    /// How much its word is worth.
    pub level: Level,
    /// A read sees every commit acknowledged before it began.
    pub linearizable_reads: bool,
    /// Hosts on several machines can share it.
    pub across_hosts: bool,
    /// How watches learn of changes.
    pub watch: WatchMode,
    /// Within what revisions are ordered.
    pub order: Order,
    /// Who ends sessions.
    pub expiry: Expiry,
    /// Keys that one transaction may guard and write, all together.
    pub txn_keys_max: u32,
    /// The largest value, in bytes.
    pub value_bytes_max: u32,
    /// The longest key, in bytes.
    pub key_bytes_max: u32,
    /// The shortest lease it grants.
    pub lease_min: Duration,
    /// Revisions go on rising after the server was restarted, and no acknowledged commit is lost.
    pub token_survives_restart: bool,
    /// Revisions go on rising after a fail-over of the server.
    pub token_survives_failover: bool,
    /// Requests that one renewal costs, whatever the session owns.
    pub beat_requests: u32,
}

/// What a name asks of the backend it lies in. A backend that promises less is refused for it, not taken as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Requirement {
    /// The lowest level that is enough.
    pub level: Option<Level>,
    /// A read sees every commit acknowledged before it began.
    pub linearizable_reads: bool,
    /// Hosts on several machines can share the backend.
    pub across_hosts: bool,
    /// The backend tells of changes; nobody has to ask again and again.
    pub pushed_watch: bool,
    /// Tokens go on rising after the server was restarted, and no acknowledged commit is lost.
    pub token_survives_restart: bool,
    /// Tokens go on rising after a fail-over of the server.
    pub token_survives_failover: bool,
}

/// A promise that can be required: its name in words, where it stands in a requirement, whether a backend makes it.
type Promise = (&'static str, fn(&mut Requirement) -> &mut bool, fn(&Capability) -> bool);

const PROMISES: &[Promise] = &[
    ("linearizable-reads", |asked| &mut asked.linearizable_reads, |of| of.linearizable_reads),
    ("across-hosts", |asked| &mut asked.across_hosts, |of| of.across_hosts),
    ("pushed-watch", |asked| &mut asked.pushed_watch, |of| of.watch == WatchMode::Pushed),
    ("token-survives-restart", |asked| &mut asked.token_survives_restart, |of| of.token_survives_restart),
    ("token-survives-failover", |asked| &mut asked.token_survives_failover, |of| of.token_survives_failover),
];

const LEVELS: &[(&str, Level)] = &[("L0", Level::L0), ("L1", Level::L1), ("L2", Level::L2)];

impl Requirement {
    /// Asks for nothing.
    pub const NONE: Requirement = Requirement {
        level: None,
        linearizable_reads: false,
        across_hosts: false,
        pushed_watch: false,
        token_survives_restart: false,
        token_survives_failover: false,
    };

    /// Tells whether nothing is asked.
    pub fn is_none(&self) -> bool {
        *self == Requirement::NONE
    }
}

/// In words, comma-separated: `L1,across-hosts`; reads back as the same.
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut asked = *self;
        let level = LEVELS.iter().filter(|(_, level)| self.level == Some(*level)).map(|(name, _)| *name);
        let promises = PROMISES.iter().filter(|(_, place, _)| *place(&mut asked)).map(|(name, ..)| *name);
        f.write_str(&level.chain(promises).collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Requirement {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut requirement = Requirement::NONE;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            if let Some((_, level)) = LEVELS.iter().find(|(name, _)| *name == word) {
                requirement.level = requirement.level.max(Some(*level));
            } else if let Some((_, place, _)) = PROMISES.iter().find(|(name, ..)| *name == word) {
                *place(&mut requirement) = true;
            } else {
                return Err(unknown(word));
            }
        }
        Ok(requirement)
    }
}

fn unknown(word: &str) -> Error {
    let known = || LEVELS.iter().map(|(name, _)| *name).chain(PROMISES.iter().map(|(name, ..)| *name));
    let advice = match nearest(word, known()) {
        Some(meant) => format!("Did you mean {meant}?"),
        None => format!("There are {}", known().collect::<Vec<_>>().join(" ")),
    };
    Error::new(Kind::Invalid, "read requirement", format!("no backend can be asked for {word:?}"))
        .advise(advice)
}

impl Capability {
    /// Checks that this backend promises what is required. Fails with `Unsupported` and names what it does not.
    pub fn check(&self, operation: &'static str, required: &Requirement) -> Result<()> {
        let mut lacking = *required;
        lacking.level = required.level.filter(|level| *level > self.level);
        for (_, place, made) in PROMISES {
            *place(&mut lacking) &= !made(self);
        }
        if lacking.is_none() {
            return Ok(());
        }
        let message = format!("the backend does not promise {lacking}");
        Err(Error::new(Kind::Unsupported, operation, message)
            .with("backend", &self.backend)
            .with("level", format!("{:?}", self.level))
            .advise("Use a backend that does; `althing drivers` lists what each promises"))
    }

    /// Returns all that this backend promises, as a requirement.
    pub fn promises(&self) -> Requirement {
        let mut all = Requirement { level: Some(self.level), ..Requirement::NONE };
        for (_, place, made) in PROMISES {
            *place(&mut all) = made(self);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> Capability {
        Capability {
            backend: "cache".into(),
            level: Level::L0,
            linearizable_reads: true,
            across_hosts: true,
            watch: WatchMode::Polled,
            order: Order::Namespace,
            expiry: Expiry::Backend,
            txn_keys_max: 1,
            value_bytes_max: 1,
            key_bytes_max: 1,
            lease_min: Duration::ZERO,
            token_survives_restart: false,
            token_survives_failover: false,
            beat_requests: 1,
        }
    }

    #[test]
    fn a_backend_that_promises_less_is_refused_and_what_it_lacks_is_named() {
        let required: Requirement = "L1, across-hosts, pushed-watch".parse().unwrap();
        let error = cache().check("create group", &required).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.message().ends_with("does not promise L1,pushed-watch"), "{error}");
        cache().check("create group", &"L0,across-hosts".parse().unwrap()).unwrap();
        cache().check("create group", &Requirement::NONE).unwrap();
    }

    #[test]
    fn a_requirement_reads_back_as_it_was_written() {
        for (name, ..) in PROMISES {
            let required: Requirement = name.parse().unwrap();
            assert_eq!(required.to_string(), *name);
            let json = serde_json::to_value(required).unwrap();
            assert_eq!(json[name.replace('-', "_")], true, "{json}");
            assert_eq!(serde_json::from_value::<Requirement>(json).unwrap(), required);
        }
        let required: Requirement = "across-hosts,L1,L2,L0".parse().unwrap();
        assert_eq!(required.to_string(), "L2,across-hosts");
        let error = "L1,acros-hosts".parse::<Requirement>().unwrap_err();
        assert!(error.to_string().contains("Did you mean across-hosts?"), "{error}");
    }
}
