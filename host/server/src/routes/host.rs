//! `/v1/host`, `/v1/drivers`, `/v1/openapi.json`, `/healthz`, `/metrics`: the host itself.

use althing_core::info::{BackendInfo, HostInfo, Standing};
use althing_core::{Error, Kind};
use althing_runtime::Runtime;
use axum::Json;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{On, State, table};
use crate::answer::Answer;
use crate::openapi::{self, Answers, Operation};

pub(super) async fn show(On(runtime): On) -> Json<HostInfo> {
    Json(runtime.host())
}

pub(super) async fn drivers(Shared(state): Shared<State>) -> Json<Vec<BackendInfo>> {
    let info = |runtime: &Runtime| BackendInfo {
        name: runtime.backend().to_owned(),
        capability: runtime.capability(),
    };
    Json(state.backends.iter().map(info).collect())
}

/// Shows the document of all routes.
pub(super) async fn openapi() -> Json<Value> {
    Json(openapi::document(&table()))
}

/// Ready as long as the host's own session is lost in no backend.
pub(super) async fn health(Shared(state): Shared<State>) -> Health {
    let standings = state.backends.iter().map(|runtime| runtime.host().standing);
    Health(standings.max().unwrap_or(Standing::Lost))
}

/// The standing of the host, in a word and as a status.
pub(super) struct Health(Standing);

impl IntoResponse for Health {
    fn into_response(self) -> Response {
        match self.0 {
            Standing::Held => (StatusCode::OK, "held\n"),
            Standing::Suspect => (StatusCode::OK, "suspect\n"),
            Standing::Lost => (StatusCode::SERVICE_UNAVAILABLE, "lost\n"),
        }
        .into_response()
    }
}

impl Answers for Health {
    fn tell(operation: &mut Operation<'_>) {
        let said =
            |words: [&str; 2]| json!({ "type": "string", "enum": words.map(|word| format!("{word}\n")) });
        operation.answers(
            200,
            "Its leases in its backends are held.",
            "text/plain",
            said(["held", "suspect"]),
        );
        let lost = json!({ "type": "string", "const": "lost\n" });
        operation.answers(503, "Its lease in a backend is lost.", "text/plain", lost);
    }
}

pub(super) async fn metrics(Shared(state): Shared<State>) -> Answer<Metrics> {
    let Some(page) = &state.metrics else {
        return Err(Error::new(Kind::NotFound, "show metrics", "this host keeps no metrics").into());
    };
    for runtime in state.backends.iter() {
        let (host, backend) = (runtime.host(), runtime.backend().to_owned());
        metrics::gauge!("althing_sessions", "backend" => backend.clone()).set(host.sessions as f64);
        metrics::gauge!("althing_members", "backend" => backend.clone()).set(host.members as f64);
        metrics::gauge!("althing_lease_remaining_seconds", "backend" => backend)
            .set(host.remaining_ms / 1000.0);
    }
    Ok(Metrics(page()))
}

/// A page of metrics.
pub(super) struct Metrics(String);

impl IntoResponse for Metrics {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "text/plain; version=0.0.4")], self.0).into_response()
    }
}

impl Answers for Metrics {
    fn tell(operation: &mut Operation<'_>) {
        operation.answers(200, "All metrics of this process.", "text/plain", json!({ "type": "string" }));
    }
}
