//! `/v1/locks`: locks, who holds them and who waits.

use althing_core::info::{
    BreakAsk, LockAnswer, LockAsk, LockBroken, LockInfo, LockSummary, ReleaseAsk, Released,
};
use axum::extract::State as Shared;
use axum::{Extension, Json};

use super::{By, On, State, ends, nameable};
use crate::answer::{Answer, Body, Names, Session};

pub(super) async fn list(On(runtime): On) -> Answer<Json<Vec<LockSummary>>> {
    Ok(Json(runtime.locks().await?))
}

/// When the client goes away, this is dropped and it waits no longer.
pub(super) async fn lock(
    Shared(state): Shared<State>,
    On(runtime): On,
    Session(session): Session,
    Body(ask): Body<LockAsk>,
) -> Answer<Json<LockAnswer>> {
    for name in &ask.names {
        nameable("lock", name)?;
    }
    tokio::select! {
        answer = runtime.lock(&session, ask) => Ok(Json(answer?)),
        () = state.ending.cancelled() => Err(ends("lock").into()),
    }
}

pub(super) async fn show(On(runtime): On, Names(lock): Names<String>) -> Answer<Json<LockInfo>> {
    Ok(Json(runtime.lock_info(&lock).await?))
}

pub(super) async fn release(
    On(runtime): On,
    Names(lock): Names<String>,
    Session(session): Session,
    Body(ask): Body<ReleaseAsk>,
) -> Answer<Json<Released>> {
    Ok(Json(runtime.release_lock(&session, &lock, &ask).await?))
}

pub(super) async fn break_up(
    On(runtime): On,
    Extension(by): By,
    Names(lock): Names<String>,
    Body(ask): Body<BreakAsk>,
) -> Answer<Json<LockBroken>> {
    Ok(Json(runtime.break_lock(&by, &lock, &ask).await?))
}
