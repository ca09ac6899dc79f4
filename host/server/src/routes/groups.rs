//! `/v1/groups`: groups, their members, leaders, policies and decisions.

use althing_client::wire::{ActivationAsk, DecisionsQuery, GroupAsk, StandDownQuery};
use althing_core::info::{
    Decision, Event, Evicted, GroupInfo, GroupSummary, JoinAsk, Joined, LeaderInfo, MemberInfo, StoodDown,
    UpdateAsk,
};
use althing_core::limits;
use axum::extract::State as Shared;
use axum::{Extension, Json};

use super::{By, On, State, nameable};
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

pub(super) async fn members(On(runtime): On, Names(group): Names<String>) -> Answer<Json<Vec<MemberInfo>>> {
    Ok(Json(runtime.group(&group)?.members))
}

pub(super) async fn member(
    On(runtime): On,
    Names((group, id)): Names<(String, String)>,
) -> Answer<Json<MemberInfo>> {
    Ok(Json(runtime.member(&group, &id)?))
}

pub(super) async fn update(
    On(runtime): On,
    Names((group, id)): Names<(String, String)>,
    Session(session): Session,
    Body(ask): Body<UpdateAsk>,
) -> Answer<Json<MemberInfo>> {
    Ok(Json(runtime.update_member(&session, &group, &id, ask).await?))
}

pub(super) async fn evict(
    On(runtime): On,
    Extension(by): By,
    Names((group, id)): Names<(String, String)>,
) -> Answer<Json<Evicted>> {
    Ok(Json(runtime.evict(&by, &group, &id).await?))
}

pub(super) async fn leader(On(runtime): On, Names(group): Names<String>) -> Answer<Json<Option<LeaderInfo>>> {
    Ok(Json(runtime.group(&group)?.leader))
}

pub(super) async fn stand_down(
    On(runtime): On,
    Extension(by): By,
    Names(group): Names<String>,
    Asked(query): Asked<StandDownQuery>,
) -> Answer<Json<StoodDown>> {
    Ok(Json(match query.successor {
        None => runtime.stand_down(&by, &group).await?,
        Some(successor) => runtime.stand_down_to(&by, &group, &successor).await?,
    }))
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
