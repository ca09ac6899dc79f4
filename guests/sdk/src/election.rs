//! Election rules.

use std::cmp::Reverse;

use serde::de::DeserializeOwned;

pub use crate::bindings::election::exports::althing::policy::election::{Choice, Leader, Verdict, View};
pub use crate::bindings::shared::althing::policy::types::Member;

/// The most candidates a verdict ranks.
pub const RANKED_MAX: usize = 8;

/// An election rule. Export it with [`export_election!`](crate::export_election).
pub trait Election {
    /// Its settings: `[settings]` of policy.toml. Refuse unknown ones with `#[serde(deny_unknown_fields)]`.
    type Settings: DeserializeOwned;

    /// Tells people about the settings: a JSON object from name to sentence. Empty when there are none.
    const SCHEMA: &'static str = "";

    /// Decides. The same view and settings must give the same verdict. An error is a fault: a leader stays.
    fn elect(view: &View, settings: &Self::Settings) -> Result<Verdict, String>;

    /// Tells what is wrong with settings that could be read.
    fn check(_settings: &Self::Settings) -> Result<(), String> {
        Ok(())
    }
}

impl View {
    /// Returns the members that are alive, oldest first.
    pub fn live(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.liveness.state == "alive")
    }

    /// Returns the leader if it is a member, in the incarnation that was elected, and alive.
    pub fn live_leader(&self) -> Option<&Member> {
        let leader = self.leader.as_ref()?;
        self.live().find(|member| member.id == leader.member && member.incarnation == leader.incarnation)
    }

    /// Returns the best live members, best first, by a score: the highest leads, and of equals the oldest.
    pub fn ranked_by_score<S: Ord>(&self, mut score: impl FnMut(&Member) -> S) -> Vec<(S, &Member)> {
        let mut ranked: Vec<_> = self.live().map(|member| (score(member), member)).collect();
        // The sort is stable, and members come oldest first.
        ranked.sort_by(|(left, _), (right, _)| right.cmp(left));
        ranked.truncate(RANKED_MAX);
        ranked
    }
}

impl Member {
    /// Returns what the member says of itself under `name`.
    pub fn meta(&self, name: &str) -> Option<&str> {
        find(&self.metadata, name)
    }

    /// Tells whether the member let its turn to lead pass.
    pub fn was_passed_over(&self) -> bool {
        find(&self.attributes, "passed-over").is_some()
    }

    /// Returns an order in which members that let their turn pass come last, and else the oldest comes first.
    pub fn readiness(&self) -> impl Ord + use<> {
        (!self.was_passed_over(), Reverse(self.seniority))
    }
}

fn find<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

impl Verdict {
    /// Elects these members, best first; those past the eighth are left out.
    pub fn elect<'a>(ranked: impl IntoIterator<Item = &'a Member>, reason: impl Into<String>) -> Self {
        let ids = ranked.into_iter().take(RANKED_MAX).map(|member| member.id.clone()).collect();
        Verdict::new(Choice::Elect(ids), reason)
    }

    /// Leaves everything as it is.
    pub fn keep(reason: impl Into<String>) -> Self {
        Verdict::new(Choice::Keep, reason)
    }

    /// Lets nobody lead.
    pub fn vacate(reason: impl Into<String>) -> Self {
        Verdict::new(Choice::Vacate, reason)
    }

    /// Asks to be called again after this many milliseconds, even if nothing changes.
    #[must_use]
    pub fn revisit(mut self, after_ms: f64) -> Self {
        self.revisit = Some(after_ms);
        self
    }

    fn new(choice: Choice, reason: impl Into<String>) -> Self {
        Verdict { choice, reason: reason.into(), revisit: None, attributes: Vec::new() }
    }
}

/// Exports a type that implements [`Election`](crate::election::Election) as the component's policy.
#[macro_export]
macro_rules! export_election {
    ($policy:ty) => {
        struct AlthingExport;

        impl $crate::bindings::election::exports::althing::policy::election::Guest for AlthingExport {
            fn elect(view: $crate::election::View) -> Result<$crate::election::Verdict, String> {
                let settings = $crate::settings()?;
                <$policy as $crate::election::Election>::elect(&view, &settings)
            }
        }

        impl $crate::bindings::shared::exports::althing::policy::settings::Guest for AlthingExport {
            fn schema() -> String {
                <$policy as $crate::election::Election>::SCHEMA.into()
            }

            fn check() -> Result<(), String> {
                let settings = $crate::settings()?;
                <$policy as $crate::election::Election>::check(&settings)
            }
        }

        $crate::bindings::shared::export_settings!(AlthingExport with_types_in $crate::bindings::shared);
        $crate::bindings::election::export_election!(AlthingExport with_types_in $crate::bindings::election);
    };
}
