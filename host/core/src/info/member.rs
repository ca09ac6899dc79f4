//! Members of groups: how they join, change, and are shown.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::{Requirement, Revision};

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemberInfo {
    /// Its id, unique within the group.
    pub id: String,
    /// Names this stay: another one after a leave and a join.
    pub incarnation: String,
    /// The id of the host through which it joined.
    pub host: String,
    /// What it says of itself, by name.
    pub metadata: BTreeMap<String, String>,
    /// What it says it can do: any JSON; `null` where it said nothing.
    #[serde(default)]
    pub capabilities: Value,
    /// It stands for election. One that does not is a member like any other, but never leads.
    #[serde(default = "stands")]
    pub candidate: bool,
    /// Wall time of its joining in milliseconds since 1970, as its host saw it.
    pub joined_ms: u64,
    /// The revision of its joining: the order of seniority.
    pub since: Revision,
    /// The revision at which it last changed what it says of itself; that of its joining until it does.
    #[serde(default)]
    pub updated: Revision,
    /// Wall time of that change in milliseconds since 1970, as its host saw it.
    #[serde(default)]
    pub updated_ms: u64,
}

/// What joining a group asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct JoinAsk {
    /// The member's id.
    pub id: String,
    /// What the member says of itself, by name.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// What the member says it can do: any JSON. For bytes see [`bytes_as_json`].
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub capabilities: Value,
    /// The member stands for election. One that does not is in no election's view and never leads.
    #[serde(default = "stands", skip_serializing_if = "is_true")]
    pub candidate: bool,
    /// The key of a former stay, which this one supersedes.
    #[serde(default)]
    pub resume: Option<String>,
    /// Create the group if there is none.
    #[serde(default)]
    pub create: bool,
    /// Delete a group that was made by this join when its last member has gone. Only with `create`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ephemeral: bool,
    /// What the backend must promise, else the member is refused; of a group made for it, every later member too.
    #[serde(default)]
    pub require: Requirement,
}

impl Default for JoinAsk {
    fn default() -> Self {
        JoinAsk {
            id: String::new(),
            metadata: BTreeMap::new(),
            capabilities: Value::Null,
            candidate: true,
            resume: None,
            create: false,
            ephemeral: false,
            require: Requirement::NONE,
        }
    }
}

/// A member that joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Joined {
    /// It.
    pub member: MemberInfo,
    /// Presented at a later join, this supersedes this stay at once.
    pub resume: String,
}

/// What a member changes of itself. Whatever is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UpdateAsk {
    /// What it says of itself from now on: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// What it says it can do from now on; `null` takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub capabilities: Option<Value>,
    /// Whether it stands for election from now on. A leader that no longer does resigns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<bool>,
}

/// What came of asking a member to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Evicted {
    /// It is gone.
    Evicted,
    /// Its host was asked to let it go, and has not yet; it is gone at the latest when its host's session ends.
    Asked,
}

/// Writes bytes as JSON, by the convention that clients in all languages share: `{"base64": "…"}`.
pub fn bytes_as_json(bytes: &[u8]) -> Value {
    json!({ "base64": STANDARD.encode(bytes) })
}

/// Reads bytes that were written as JSON by [`bytes_as_json`]; `None` for any other JSON.
pub fn bytes_of_json(value: &Value) -> Option<Vec<u8>> {
    let fields = value.as_object().filter(|fields| fields.len() == 1)?;
    STANDARD.decode(fields.get("base64")?.as_str()?).ok()
}

fn stands() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// Reads a value that is there: also `null`, which is not the same as none.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_that_asks_for_nothing_new_is_written_as_it_always_was() {
        let ask = JoinAsk { id: "a".into(), ..JoinAsk::default() };
        let written = serde_json::to_value(&ask).unwrap();
        for added in ["capabilities", "candidate", "ephemeral"] {
            assert_eq!(written.get(added), None, "a host of an older version would refuse it");
        }
        let read: JoinAsk = serde_json::from_str(r#"{"id":"a"}"#).unwrap();
        assert_eq!(read, ask);
    }

    #[test]
    fn capabilities_that_are_taken_back_are_not_left_out() {
        let ask: UpdateAsk = serde_json::from_str(r#"{"capabilities":null}"#).unwrap();
        assert_eq!(ask.capabilities, Some(Value::Null));
        assert_eq!(serde_json::to_string(&ask).unwrap(), r#"{"capabilities":null}"#);
        assert_eq!(serde_json::from_str::<UpdateAsk>("{}").unwrap(), UpdateAsk::default());
    }

    #[test]
    fn bytes_are_read_back_and_other_json_is_not_taken_for_bytes() {
        for bytes in [b"".as_slice(), b"\x00\xff", "ü".as_bytes()] {
            assert_eq!(bytes_of_json(&bytes_as_json(bytes)).as_deref(), Some(bytes));
        }
        for other in
            [json!(null), json!({"base64": 1}), json!({"base64": "*"}), json!({"base64": "", "a": 1})]
        {
            assert_eq!(bytes_of_json(&other), None, "{other}");
        }
    }
}
