//! What travels between client and host besides the values of [`althing_core::info`].

use althing_core::{Digest, Requirement, Revision, Secret};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// The header by which a request shows that a session is its own: the session's id, a dot and its secret.
pub const SESSION_HEADER: &str = "althing-session";

/// The header that names the backend a request is for. Needed where a host has several and none is called `default`.
pub const BACKEND_HEADER: &str = "althing-backend";

/// What the path of every route begins with, except `/healthz` and `/metrics`.
pub const BASE: &str = "/v1";

/// The content type of an event stream.
pub const EVENT_STREAM: &str = "text/event-stream";

/// A session and the proof that it is ours.
#[derive(Clone, Debug)]
pub struct SessionKey {
    /// Its id.
    pub id: String,
    /// Its secret, from the grant.
    pub secret: Secret,
}

impl SessionKey {
    /// Returns what [`SESSION_HEADER`] carries.
    pub fn to_header(&self) -> String {
        format!("{}.{}", self.id, self.secret.expose())
    }

    /// Reads what [`SESSION_HEADER`] carries.
    pub fn from_header(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once('.')?;
        Some(SessionKey { id: id.to_owned(), secret: Secret::new(secret) })
    }
}

/// Asks for a new group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GroupAsk {
    /// Its name.
    pub name: String,
    /// What the backend must promise, now and to whoever joins.
    #[serde(default)]
    pub require: Requirement,
}

/// Confirms that a leader stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StoppedAsk {
    /// The group it led.
    pub group: String,
    /// The term in which it led.
    pub term: Revision,
}

/// Asks for another policy to decide in a group, or to answer for a behaviour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ActivationAsk {
    /// The policy's name.
    pub policy: String,
    /// Which of the bundles that were pushed under this name; the newest where it is left out.
    #[serde(default)]
    pub digest: Option<Digest>,
}

/// How long to wait for a job, as a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct JobQuery {
    /// Answer when the job is done, or after this many milliseconds.
    #[serde(default)]
    pub wait_ms: u64,
}

/// Which decisions to show, as a query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DecisionsQuery {
    /// At most so many, newest first.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// Who is to lead after a leader that stands down, as a query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StandDownQuery {
    /// The id of the member to hand over to, whatever the rule says; where it is left out, the rule says who.
    #[serde(default)]
    pub successor: Option<String>,
}

/// What a call of a behaviour asks for besides its body, as a query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CallQuery {
    /// What is wanted, as the behaviour names its operations.
    #[serde(default)]
    pub operation: String,
    /// Wait for the answer for so many milliseconds; 30 000 where it is left out.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// Which part of a backend the waist is spoken to, as a query.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct WaistQuery {
    /// The part of the host's namespace that bears this name; the host's own namespace where it is left out.
    #[serde(default)]
    pub namespace: Option<String>,
}

/// What stays as it is in a name that takes a place in a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// Makes the path of a route. Each part is escaped, so that any name takes exactly one place.
pub fn path<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut path = String::from(BASE);
    for part in parts {
        path.push('/');
        path.extend(utf8_percent_encode(part, PLAIN));
    }
    path
}

/// Escapes a value that takes a place in a query.
pub fn query_value(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_takes_exactly_one_place_in_a_path() {
        assert_eq!(path(["groups", "a/b ü", "..", "?"]), "/v1/groups/a%2Fb%20%C3%BC/%2E%2E/%3F");
    }

    #[test]
    fn a_field_nobody_knows_is_refused() {
        let error = serde_json::from_str::<GroupAsk>(r#"{"name":"web","colour":"red"}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `colour`"), "{error}");
    }
}
