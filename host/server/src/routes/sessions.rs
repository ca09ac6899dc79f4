//! `/v1/sessions`: the sessions of clients.

use althing_client::wire::StoppedAsk;
use althing_core::info::{Renewal, SessionAsk, SessionEvent, SessionGrant};
use axum::extract::State as Shared;
use axum::{Extension, Json};

use super::{By, On, State};
use crate::answer::{Answer, Body, Empty, Names, Session, Told};
use crate::stream::{self, Events};

pub(super) async fn open(
    On(runtime): On,
    Extension(by): By,
    Body(ask): Body<SessionAsk>,
) -> Answer<Told<201, SessionGrant>> {
    runtime.ready().await;
    Ok(Told(runtime.open_session(&by, ask, true)?))
}

pub(super) async fn renew(
    On(runtime): On,
    Names(id): Names<String>,
    session: Session,
) -> Answer<Json<Renewal>> {
    Ok(Json(runtime.renew_session(&session.named(&id)?)?))
}

pub(super) async fn show(
    On(runtime): On,
    Names(id): Names<String>,
    session: Session,
) -> Answer<Json<Renewal>> {
    Ok(Json(runtime.session(&session.named(&id)?)?))
}

pub(super) async fn end(On(runtime): On, Names(id): Names<String>, session: Session) -> Answer<Empty<204>> {
    runtime.end_session(&session.named(&id)?).await?;
    Ok(Empty)
}

pub(super) async fn events(
    Shared(state): Shared<State>,
    On(runtime): On,
    Names(id): Names<String>,
    session: Session,
) -> Answer<Events<SessionEvent>> {
    let events = runtime.session_events(&session.named(&id)?)?;
    Ok(stream::events(events, state.ending))
}

pub(super) async fn stopped(
    On(runtime): On,
    Names(id): Names<String>,
    session: Session,
    Body(ask): Body<StoppedAsk>,
) -> Answer<Empty<204>> {
    runtime.confirm_stopped(&session.named(&id)?, &ask.group, ask.term)?;
    Ok(Empty)
}
