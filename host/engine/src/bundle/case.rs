//! `cases/*.toml`: what a policy is asked, and what it must answer.

use althing_core::{Choice, ElectionView, Result};
use serde::Deserialize;

use super::behaviour_case::BehaviourCase;
use crate::kinds::PolicyKind;

/// A case, by the kind of its policy.
#[derive(Clone, Debug, PartialEq)]
pub enum Case {
    /// Of an election rule.
    Election(ElectionCase),
    /// Of a behaviour.
    Behaviour(BehaviourCase),
}

/// A view, and the verdict the rule must give.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElectionCase {
    /// Its name: that of its file.
    #[serde(skip)]
    pub name: String,
    /// Settings for this case, in place of the bundle's.
    pub settings: Option<toml::Table>,
    /// What the rule is shown. Where no member has a seniority, they are numbered in their order.
    pub view: ElectionView,
    /// What it must answer.
    pub expect: Expectation,
}

/// What a verdict must be.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// The choice, exactly.
    pub choice: Choice,
    /// A part of the reason.
    pub reason: Option<String>,
}

impl Case {
    /// Reads the case in `file`.
    pub(crate) fn parse(kind: PolicyKind, file: &str, text: &str) -> Result<Case> {
        let name = file.trim_start_matches("cases/").trim_end_matches(".toml").to_owned();
        Ok(match kind {
            PolicyKind::Election => Case::Election(ElectionCase::parse(name, file, text)?),
            PolicyKind::Behaviour => Case::Behaviour(BehaviourCase::parse(name, file, text)?),
        })
    }

    /// Returns its name: that of its file.
    pub fn name(&self) -> &str {
        match self {
            Case::Election(case) => &case.name,
            Case::Behaviour(case) => &case.name,
        }
    }

    /// Returns the settings for this case, if it has some in place of the bundle's.
    pub(crate) fn settings(&self) -> Option<&toml::Table> {
        match self {
            Case::Election(case) => case.settings.as_ref(),
            Case::Behaviour(case) => case.settings.as_ref(),
        }
    }
}

impl ElectionCase {
    fn parse(name: String, file: &str, text: &str) -> Result<Self> {
        let mut case: ElectionCase = super::parse_toml(text, file)?;
        case.name = name;
        if case.view.members.iter().all(|member| member.seniority == 0) {
            for (place, member) in (0..).zip(&mut case.view.members) {
                member.seniority = place;
            }
        }
        Ok(case)
    }
}
