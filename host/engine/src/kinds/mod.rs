//! The kinds of policy. A kind is a file here, a `.wit`, and a row of [`PolicyKind::SERVED`].

pub(crate) mod election;

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a policy decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PolicyKind {
    /// Who shall lead a group.
    Election,
}

impl PolicyKind {
    /// The kinds this host runs.
    pub const SERVED: [(PolicyKind, &'static str); 1] = [(PolicyKind::Election, "election")];
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = PolicyKind::SERVED.iter().find(|(kind, _)| kind == self);
        f.write_str(row.map_or("", |(_, name)| name))
    }
}

impl From<PolicyKind> for String {
    fn from(kind: PolicyKind) -> String {
        kind.to_string()
    }
}

impl TryFrom<String> for PolicyKind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let row = PolicyKind::SERVED.iter().find(|(_, name)| *name == text);
        row.map(|(kind, _)| *kind).ok_or_else(|| {
            let served: Vec<_> = PolicyKind::SERVED.iter().map(|(_, name)| *name).collect();
            format!("this host runs no policies of kind {text:?}; it runs: {}", served.join(", "))
        })
    }
}
