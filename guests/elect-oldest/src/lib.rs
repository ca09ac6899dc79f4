//! The oldest live member leads, and goes on leading while it lives.

use althing_guest::NoSettings;
use althing_guest::election::{Election, Verdict, View};

struct Oldest;

impl Election for Oldest {
    type Settings = NoSettings;

    fn elect(view: &View, _: &NoSettings) -> Result<Verdict, String> {
        if let Some(leader) = view.live_leader() {
            return Ok(Verdict::keep(format!("{} leads and is alive", leader.id)));
        }
        let ranked = view.ranked_by_score(|member| member.readiness());
        let Some((_, first)) = ranked.first() else { return Ok(Verdict::keep("nobody is alive")) };
        let reason = format!("{} is the oldest live member", first.id);
        Ok(Verdict::elect(ranked.into_iter().map(|(_, member)| member), reason))
    }
}

althing_guest::export_election!(Oldest);
