//! `/v1/groups/{group}/partition`: what the members of a group share.

use althing_core::info::{OwnersAsk, OwnersInfo, PartitionAsk, PartitionInfo, SettledAsk};
use axum::{Extension, Json};

use super::{By, On};
use crate::answer::{Answer, Body, Names, Session};

pub(super) async fn show(On(runtime): On, Names(group): Names<String>) -> Answer<Json<PartitionInfo>> {
    Ok(Json(runtime.partition(&group)?))
}

pub(super) async fn make(
    On(runtime): On,
    Extension(by): By,
    Names(group): Names<String>,
    Body(ask): Body<PartitionAsk>,
) -> Answer<Json<PartitionInfo>> {
    Ok(Json(runtime.partition_group(&by, &group, &ask).await?))
}

pub(super) async fn owners(
    On(runtime): On,
    Names(group): Names<String>,
    Body(ask): Body<OwnersAsk>,
) -> Answer<Json<OwnersInfo>> {
    Ok(Json(runtime.owners(&group, &ask)?))
}

pub(super) async fn settle(
    On(runtime): On,
    Names((group, member)): Names<(String, String)>,
    Session(session): Session,
    Body(ask): Body<SettledAsk>,
) -> Answer<Json<PartitionInfo>> {
    Ok(Json(runtime.settle_partition(&session, &group, &member, ask.version).await?))
}
