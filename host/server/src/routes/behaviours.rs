//! `/v1/behaviours`: behaviours, their policies, and calls of them.

use std::time::Duration;

use althing_client::wire::{ActivationAsk, CallQuery};
use althing_core::Kind;
use althing_core::info::{BehaviourAsk, BehaviourInfo, BehaviourSummary};
use axum::extract::State as Shared;
use axum::{Extension, Json};

use super::{By, On, State, ends};
use crate::answer::{Answer, Asked, Body, Empty, Names, Reply, Sent, Session};

pub(super) async fn list(On(runtime): On) -> Answer<Json<Vec<BehaviourSummary>>> {
    Ok(Json(runtime.behaviours()?))
}

pub(super) async fn show(On(runtime): On, Names(behaviour): Names<String>) -> Answer<Json<BehaviourInfo>> {
    Ok(Json(runtime.behaviour(&behaviour)?))
}

/// When the client goes away, this is dropped and the behaviour clears away what it wrote for the waiting.
pub(super) async fn call(
    Shared(state): Shared<State>,
    On(runtime): On,
    Names(behaviour): Names<String>,
    Asked(query): Asked<CallQuery>,
    Session(session): Session,
    Sent { bytes, is_json }: Sent,
) -> Answer<Reply> {
    let timeout = query.timeout_ms.map(Duration::from_millis);
    let ask = BehaviourAsk { operation: query.operation, body: bytes, timeout };
    tokio::select! {
        answer = runtime.call_behaviour(&session, &behaviour, ask) => match answer {
            // Where the host ends, so do the connections that sessions hang on.
            Err(error) if error.kind() == Kind::SessionLost && state.ending.is_cancelled() => Err(ends("call behaviour").into()),
            answer => Ok(Reply { bytes: answer?, is_json }),
        },
        () = state.ending.cancelled() => Err(ends("call behaviour").into()),
    }
}

pub(super) async fn remove(
    On(runtime): On,
    Extension(by): By,
    Names(behaviour): Names<String>,
) -> Answer<Empty<204>> {
    runtime.remove_behaviour(&by, &behaviour).await?;
    Ok(Empty)
}

pub(super) async fn activate(
    On(runtime): On,
    Extension(by): By,
    Names(behaviour): Names<String>,
    Body(ask): Body<ActivationAsk>,
) -> Answer<Json<BehaviourInfo>> {
    let info = runtime.activate_behaviour(&by, &behaviour, &ask.policy, ask.digest).await?;
    Ok(Json(info))
}

pub(super) async fn rollback(
    On(runtime): On,
    Extension(by): By,
    Names(behaviour): Names<String>,
) -> Answer<Json<BehaviourInfo>> {
    Ok(Json(runtime.rollback_behaviour(&by, &behaviour).await?))
}
