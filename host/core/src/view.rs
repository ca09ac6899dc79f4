//! What a rule is shown, and what it answers. Same view, same verdict.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Revision, limits};

/// What an election rule is shown: one group at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElectionView {
    /// The group's name.
    pub group: String,
    /// Wall time of the view, in milliseconds since 1970. A rule has no other clock.
    #[serde(default)]
    pub now_ms: f64,
    /// The members that may lead, oldest first.
    #[serde(default)]
    pub members: Vec<MemberView>,
    /// Who leads; `None` where nobody does.
    #[serde(default)]
    pub leader: Option<LeaderView>,
    /// Room for what later versions add.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// One member of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberView {
    /// Its id, unique within the group.
    pub id: String,
    /// Names this stay in the group; another one after a leave and a join.
    #[serde(default)]
    pub incarnation: String,
    /// Its place in the order of joining: 0 is the oldest.
    #[serde(default)]
    pub seniority: u32,
    /// What the member says of itself.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// What the host thinks of its health.
    #[serde(default)]
    pub liveness: Liveness,
    /// What the host adds: `host`, `passed-over` where it let its turn to claim pass, and `capabilities`, as JSON, where it
    /// said what it can do.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// What the host thinks of a member's health.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Liveness {
    /// `alive`, `suspect` or `dead`; treat any other as `suspect`.
    pub state: String,
    /// How much it is suspected, from 0 (not at all) to 1.
    pub level: f64,
}

impl Default for Liveness {
    fn default() -> Self {
        Liveness { state: "alive".into(), level: 0.0 }
    }
}

/// Who leads a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaderView {
    /// The member's id.
    pub member: String,
    /// The member's incarnation.
    #[serde(default)]
    pub incarnation: String,
    /// The fencing token of its term.
    #[serde(default)]
    pub term: Revision,
    /// For how long it leads, in milliseconds.
    #[serde(default)]
    pub tenure_ms: f64,
    /// Room for what later versions add.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

/// What an election rule answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Verdict {
    /// Who shall lead.
    pub choice: Choice,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// Ask again after this many milliseconds, even if nothing changed.
    #[serde(default)]
    pub revisit_ms: Option<f64>,
}

/// Who shall lead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// These members, best first; at most [`limits::RANKED_MAX`].
    Elect(Vec<String>),
    /// Whoever leads goes on; a vacant group stays vacant.
    Keep,
    /// Nobody.
    Vacate,
}

impl ElectionView {
    /// Returns the bytes that name this view: the same view gives the same bytes on every host.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Serialising these plain structures to memory cannot fail: all keys are strings.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns the member of this id.
    pub fn member(&self, id: &str) -> Option<&MemberView> {
        self.members.iter().find(|member| member.id == id)
    }
}

impl Verdict {
    /// Returns what is wrong with this answer to `view`, if anything: too many candidates, none, one
    /// twice, or one that is no member.
    pub fn fault(&self, view: &ElectionView) -> Option<String> {
        let Choice::Elect(ranked) = &self.choice else { return None };
        if ranked.is_empty() {
            return Some("it elects from an empty list; to leave the group without a leader, vacate".into());
        }
        if ranked.len() > limits::RANKED_MAX {
            return Some(format!("it ranks {} candidates; at most {}", ranked.len(), limits::RANKED_MAX));
        }
        let stranger = ranked.iter().find(|id| view.member(id).is_none());
        if let Some(id) = stranger {
            return Some(format!("it elects {id:?}, which is no member of the view"));
        }
        let twice = ranked.iter().enumerate().find(|(index, id)| ranked[..*index].contains(id));
        twice.map(|(_, id)| format!("it ranks {id:?} twice"))
    }
}
