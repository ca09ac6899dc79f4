//! `/v1/sessions`: the sessions of clients.

use althing_client::wire::StoppedAsk;
use althing_core::info::{Renewal, SessionAsk, SessionGrant};
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};

use super::{By, State};
use crate::answer::{Answer, Body, Names, Session};
use crate::stream;

pub(super) async fn open(
    Shared(state): Shared<State>,
    Extension(by): By,
    Body(ask): Body<SessionAsk>,
) -> Answer<(StatusCode, Json<SessionGrant>)> {
    Ok((StatusCode::CREATED, Json(state.runtime.open_session(&by, ask, true)?)))
}

pub(super) async fn renew(
    Shared(state): Shared<State>,
    Names(id): Names<String>,
    session: Session,
) -> Answer<Json<Renewal>> {
    Ok(Json(state.runtime.renew_session(&session.named(&id)?)?))
}

pub(super) async fn end(
    Shared(state): Shared<State>,
    Names(id): Names<String>,
    session: Session,
) -> Answer<StatusCode> {
    state.runtime.end_session(&session.named(&id)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn events(
    Shared(state): Shared<State>,
    Names(id): Names<String>,
    session: Session,
) -> Answer<Response> {
    let events = state.runtime.session_events(&session.named(&id)?)?;
    Ok(stream::events(events, state.ending))
}

pub(super) async fn stopped(
    Shared(state): Shared<State>,
    Names(id): Names<String>,
    session: Session,
    Body(ask): Body<StoppedAsk>,
) -> Answer<StatusCode> {
    state.runtime.confirm_stopped(&session.named(&id)?, &ask.group, ask.term)?;
    Ok(StatusCode::NO_CONTENT)
}
