//! The table of routes.

mod groups;
mod host;
mod policies;
mod sessions;

use std::fmt;

use althing_client::wire::BASE;
use althing_core::{Error, Kind, Principal};
use althing_runtime::Runtime;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{MethodRouter, delete, get, post, put};
use axum::{Extension, Router};
use tokio_util::sync::CancellationToken;

use crate::MetricsPage;
use crate::answer::Failure;

/// What every route can reach.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) runtime: Runtime,
    /// Done when the host ends.
    pub(crate) ending: CancellationToken,
    pub(crate) metrics: Option<MetricsPage>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

/// Who makes the request, as `admit` established.
type By = Extension<Principal>;

/// Every route below [`BASE`], with what answers it.
fn table() -> Vec<(&'static str, MethodRouter<State>)> {
    vec![
        ("/host", get(host::show)),
        ("/drivers", get(host::drivers)),
        ("/sessions", post(sessions::open)),
        ("/sessions/{id}", delete(sessions::end)),
        ("/sessions/{id}/renew", post(sessions::renew)),
        ("/sessions/{id}/events", get(sessions::events)),
        ("/sessions/{id}/stopped", post(sessions::stopped)),
        ("/groups", get(groups::list).post(groups::create)),
        ("/groups/{group}", get(groups::show).delete(groups::delete)),
        ("/groups/{group}/events", get(groups::events)),
        ("/groups/{group}/members", post(groups::join)),
        ("/groups/{group}/members/{id}", delete(groups::leave)),
        ("/groups/{group}/leader", get(groups::leader)),
        ("/groups/{group}/stand-down", post(groups::stand_down)),
        ("/groups/{group}/policy", put(groups::activate)),
        ("/groups/{group}/rollback", post(groups::rollback)),
        ("/groups/{group}/decisions", get(groups::decisions)),
        ("/policies", get(policies::list).post(policies::push)),
        ("/policies/{name}", get(policies::show)),
        ("/jobs/{id}", get(policies::job)),
    ]
}

/// Makes the router of all routes.
pub(crate) fn router(state: State) -> Router {
    let mut router = Router::new().route("/healthz", get(host::health)).route("/metrics", get(host::metrics));
    let mut known = vec!["/healthz".to_owned(), "/metrics".to_owned()];
    for (path, methods) in table() {
        let path = format!("{BASE}{path}");
        router = router.route(&path, methods);
        known.push(path);
    }
    let known = known.join(" ");
    router
        .route_layer(from_fn(count))
        .fallback(move |request: Request| async move { unknown(&request, &known) })
        .method_not_allowed_fallback(|request: Request| async move { unfit(&request) })
        .with_state(state)
}

fn unknown(request: &Request, known: &str) -> Failure {
    let message = format!("there is no {}", request.uri().path());
    Failure(Error::new(Kind::NotFound, "find route", message).advise(format!("There are {known}")))
}

fn unfit(request: &Request) -> Failure {
    let message = format!("{} is not for {}", request.method(), request.uri().path());
    Failure(Error::new(Kind::Invalid, "find route", message))
}

/// Counts requests by route and status.
async fn count(path: MatchedPath, request: Request, next: Next) -> Response {
    let method = request.method().to_string();
    let response = next.run(request).await;
    let labels = [
        ("method", method),
        ("route", path.as_str().to_owned()),
        ("status", response.status().as_u16().to_string()),
    ];
    metrics::counter!("althing_requests_total", &labels).increment(1);
    response
}
