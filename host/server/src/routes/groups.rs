//! `/v1/groups`: groups, their members, leaders, policies and decisions.

use althing_client::wire::{ActivationAsk, DecisionsQuery, GroupAsk};
use althing_core::info::{Decision, Event, GroupInfo, GroupSummary, JoinAsk, Joined, LeaderInfo, StoodDown};
use althing_core::{Error, Kind, limits};
use axum::extract::State as Shared;
use axum::{Extension, Json};

use super::{By, On, State};
use crate::answer::{Answer, Asked, Body, Empty, Names, Session, Told};
use crate::stream::{self, Events};

pub(super) async fn list(On(runtime): On) -> Answer<Json<Vec<GroupSummary>>> {
    Ok(Json(runtime.groups()?))
}

pub(super) async fn create(
    On(runtime): On,
    Extension(by): By,
    Body(ask): Body<GroupAsk>,
) -> Answer<Empty<201>> {
    nameable("group", &ask.name)?;
    runtime.create_group(&by, &ask.name, &ask.require).await?;
    Ok(Empty)
}

pub(super) async fn show(On(runtime): On, Names(group): Names<String>) -> Answer<Json<GroupInfo>> {
    Ok(Json(runtime.group(&group)?))
}

pub(super) async fn delete(
    On(runtime): On,
    Extension(by): By,
    Names(group): Names<String>,
) -> Answer<Empty<204>> {
    runtime.delete_group(&by, &group).await?;
    Ok(Empty)
}

pub(super) async fn events(
    Shared(state): Shared<State>,
    On(runtime): On,
    Names(group): Names<String>,
) -> Answer<Events<Event>> {
    Ok(stream::events(runtime.watch_group(&group)?, state.ending))
}

pub(super) async fn join(
    On(runtime): On,
    Names(group): Names<String>,
    Session(session): Session,
    Body(ask): Body<JoinAsk>,
) -> Answer<Told<201, Joined>> {
    nameable("member", &ask.id)?;
    Ok(Told(runtime.join(&session, &group, ask).await?))
}

pub(super) async fn leave(
    On(runtime): On,
    Names((group, id)): Names<(String, String)>,
    Session(session): Session,
) -> Answer<Empty<204>> {
    runtime.leave(&session, &group, &id).await?;
    Ok(Empty)
}

pub(super) async fn leader(On(runtime): On, Names(group): Names<String>) -> Answer<Json<Option<LeaderInfo>>> {
    Ok(Json(runtime.group(&group)?.leader))
}

pub(super) async fn stand_down(
    On(runtime): On,
    Extension(by): By,
    Names(group): Names<String>,
) -> Answer<Json<StoodDown>> {
    Ok(Json(runtime.stand_down(&by, &group).await?))
}

pub(super) async fn activate(
    On(runtime): On,
    Extension(by): By,
    Names(group): Names<String>,
    Body(ask): Body<ActivationAsk>,
) -> Answer<Json<GroupInfo>> {
    Ok(Json(runtime.activate(&by, &group, &ask.policy, ask.digest).await?))
}

pub(super) async fn rollback(
    On(runtime): On,
    Extension(by): By,
    Names(group): Names<String>,
) -> Answer<Json<GroupInfo>> {
    Ok(Json(runtime.rollback(&by, &group).await?))
}

pub(super) async fn decisions(
    On(runtime): On,
    Names(group): Names<String>,
    Asked(query): Asked<DecisionsQuery>,
) -> Answer<Json<Vec<Decision>>> {
    let limit = query.limit.unwrap_or(limits::DECISIONS_SHOWN_DEFAULT);
    Ok(Json(runtime.decisions(&group, limit)?))
}

/// Refuses the one name that cannot be asked for again: the empty one takes no place in a path.
fn nameable(what: &str, name: &str) -> Answer<()> {
    if name.is_empty() {
        let message = format!("the empty name of a {what} has no place in a path");
        return Err(Error::new(Kind::Invalid, "read request", message).advise("Give it a name").into());
    }
    Ok(())
}
