//! `cases/*.toml`: a view, and the verdict it must get.

use althing_core::{Choice, ElectionView, Result};
use serde::Deserialize;

/// A view, and the verdict the policy must give.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
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
    pub(crate) fn parse(file: &str, text: &str) -> Result<Case> {
        let mut case: Case = super::parse_toml(text, file)?;
        case.name = file.trim_start_matches("cases/").trim_end_matches(".toml").to_owned();
        if case.view.members.iter().all(|member| member.seniority == 0) {
            for (place, member) in (0..).zip(&mut case.view.members) {
                member.seniority = place;
            }
        }
        Ok(case)
    }
}
