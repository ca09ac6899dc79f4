//! The heaviest live member leads, members of the preferred zone before all others. The leader stays unless another
//! one is better by more than the margin.

use althing_guest::election::{Election, Member, Verdict, View};
use althing_guest::log;

#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    margin: u32,
    zone: String,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { margin: 0, zone: String::new() }
    }
}

struct Weighted;

impl Election for Weighted {
    type Settings = Settings;

    const SCHEMA: &'static str = r#"{
        "margin": "by how much heavier another member must be before the leader changes; 0 by default",
        "zone": "members whose metadata `zone` is this come first; none by default"
    }"#;

    fn elect(view: &View, settings: &Settings) -> Result<Verdict, String> {
        let ranked = view
            .ranked_by_score(|member| (is_preferred(member, settings), weight(member), member.readiness()));
        let Some(((preferred, heaviest, _), first)) = ranked.first() else {
            return Ok(Verdict::keep("nobody is alive"));
        };
        if let Some(leader) = view.live_leader() {
            let gain = heaviest - weight(leader);
            let moves_into_zone = *preferred && !is_preferred(leader, settings);
            if !moves_into_zone && gain <= i64::from(settings.margin) {
                return Ok(Verdict::keep(format!(
                    "{} leads and nobody is heavier by more than {}",
                    leader.id, settings.margin
                )));
            }
        }
        let reason = format!("{} is the heaviest with {heaviest}", first.id);
        Ok(Verdict::elect(ranked.into_iter().map(|(_, member)| member), reason))
    }
}

fn is_preferred(member: &Member, settings: &Settings) -> bool {
    !settings.zone.is_empty() && member.meta("zone") == Some(&settings.zone)
}

/// Reads a member's weight. Services write it, so anything may be in it.
fn weight(member: &Member) -> i64 {
    let Some(text) = member.meta("weight") else { return 0 };
    text.trim().parse::<i32>().map(i64::from).unwrap_or_else(|_| {
        log::warn(&format!("weight of {} is {text:?}, not an integer; it counts as 0", member.id));
        0
    })
}

althing_guest::export_election!(Weighted);
