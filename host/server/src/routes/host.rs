//! `/v1/host`, `/v1/drivers`, `/healthz`, `/metrics`: the host itself.

use althing_core::info::{HostInfo, Standing};
use althing_core::{Capability, Error, Kind};
use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName};

use super::State;
use crate::answer::Answer;

pub(super) async fn show(Shared(state): Shared<State>) -> Json<HostInfo> {
    Json(state.runtime.host())
}

pub(super) async fn drivers(Shared(state): Shared<State>) -> Json<Vec<Capability>> {
    Json(vec![state.runtime.capability()])
}

/// Ready as long as the host's own session is not lost.
pub(super) async fn health(Shared(state): Shared<State>) -> (StatusCode, &'static str) {
    match state.runtime.host().standing {
        Standing::Held => (StatusCode::OK, "held\n"),
        Standing::Suspect => (StatusCode::OK, "suspect\n"),
        Standing::Lost => (StatusCode::SERVICE_UNAVAILABLE, "lost\n"),
    }
}

pub(super) async fn metrics(
    Shared(state): Shared<State>,
) -> Answer<([(HeaderName, &'static str); 1], String)> {
    let Some(page) = &state.metrics else {
        return Err(Error::new(Kind::NotFound, "show metrics", "this host keeps no metrics").into());
    };
    let host = state.runtime.host();
    metrics::gauge!("althing_sessions").set(host.sessions as f64);
    metrics::gauge!("althing_members").set(host.members as f64);
    metrics::gauge!("althing_lease_remaining_seconds").set(host.remaining_ms / 1000.0);
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], page()))
}
