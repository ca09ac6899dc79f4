//! Nobody leads while fewer than `quorum` members are alive; else the oldest live member does, and stays.

use althing_guest::election::{Election, Verdict, View};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    quorum: u32,
}

struct Quorum;

impl Election for Quorum {
    type Settings = Settings;

    const SCHEMA: &'static str =
        r#"{"quorum": "how many members must be alive for one to lead; at least 1"}"#;

    fn elect(view: &View, settings: &Settings) -> Result<Verdict, String> {
        let live = view.live().count();
        if live < settings.quorum as usize {
            return Ok(Verdict::vacate(format!("{live} of {} needed members are alive", settings.quorum)));
        }
        if let Some(leader) = view.live_leader() {
            return Ok(Verdict::keep(format!("{} leads and {live} members are alive", leader.id)));
        }
        let ranked = view.ranked_by_score(|member| member.readiness());
        Ok(Verdict::elect(
            ranked.into_iter().map(|(_, member)| member),
            format!("{live} members are alive; the oldest leads"),
        ))
    }

    fn check(settings: &Settings) -> Result<(), String> {
        if settings.quorum == 0 { Err("quorum is 0; it must be at least 1".into()) } else { Ok(()) }
    }
}

althing_guest::export_election!(Quorum);
