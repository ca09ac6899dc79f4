//! The table of routes.

mod behaviours;
mod groups;
mod host;
mod locks;
mod partitions;
mod policies;
mod sessions;
mod waist;

use std::fmt;

use althing_client::wire::{BACKEND_HEADER, BASE};
use althing_core::{Error, Kind, Principal};
use althing_runtime::{Backends, Runtime};
use axum::extract::{FromRequestParts, MatchedPath, Request, State as Shared};
use axum::handler::Handler;
use axum::http::Method;
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use axum::{Extension, Router};
use tokio_util::sync::CancellationToken;

use crate::MetricsPage;
use crate::answer::{Answer, Failure};
use crate::openapi::{Described, Operation, Reads};

/// What every route can reach.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) backends: Backends,
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

impl Reads for By {
    fn tell(_: &mut Operation<'_>) {}
}

/// The runtime of the backend that the request is for.
pub(crate) struct On(pub(crate) Runtime);

impl FromRequestParts<State> for On {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Answer<Self> {
        let name = parts.headers.get(BACKEND_HEADER).map(|value| String::from_utf8_lossy(value.as_bytes()));
        Ok(On(state.backends.get(name.as_deref())?.clone()))
    }
}

impl Reads for On {
    fn tell(operation: &mut Operation<'_>) {
        operation.reads_header(BACKEND_HEADER, false, "The backend it is for, by its name on this host.");
    }
}

impl Reads for Shared<State> {
    fn tell(_: &mut Operation<'_>) {}
}

/// A row of the table: a method of a path, the function that answers it, and what the document says of it.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// Its name for whoever makes a client of the document: module and name of the function.
    pub(crate) id: String,
    pub(crate) summary: &'static str,
    pub(crate) describe: fn(&mut Operation<'_>),
    answer: MethodRouter<State>,
}

/// Makes a row. Below [`BASE`], unless the path is one of the few outside.
fn route<F, Read, Types>(method: Method, path: &str, function: F, summary: &'static str) -> Route
where
    F: Handler<Read, State> + Described<Types>,
    Read: 'static,
{
    let base = if OUTSIDE.contains(&path) { "" } else { BASE };
    let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::GET);
    let name: Vec<_> = std::any::type_name::<F>().rsplit("::").take(2).collect();
    Route {
        method,
        path: format!("{base}{path}"),
        id: format!("{}_{}", name.last().unwrap_or(&""), name.first().unwrap_or(&"")),
        summary,
        describe: F::describe,
        answer: on(filter, function),
    }
}

/// What monitors ask is found where they expect it.
const OUTSIDE: &[&str] = &["/healthz", "/metrics"];

/// Every route. A function can only stand here if its types tell the document what it reads and answers.
fn table() -> Vec<Route> {
    [of_host(), of_sessions(), of_groups()].into_iter().flatten().collect()
}

/// What is about the host, and what is pushed to it.
fn of_host() -> Vec<Route> {
    use Method as M;
    vec![
        route(M::GET, "/healthz", host::health, "Tell whether this host is well"),
        route(M::GET, "/metrics", host::metrics, "Show the metrics, in the text format of Prometheus"),
        route(M::GET, "/openapi.json", host::openapi, "Show this document"),
        route(M::GET, "/host", host::show, "Show this host"),
        route(M::GET, "/drivers", host::drivers, "Show what the backends of this host promise"),
        route(M::GET, "/policies", policies::list, "List the policies that were pushed"),
        route(M::POST, "/policies", policies::push, "Upload a packed bundle; a job says how far it has come"),
        route(M::GET, "/policies/{policy}", policies::show, "Show a policy and its versions"),
        route(M::POST, "/waist", waist::open, "Share the backend of this host; a stream of bytes follows"),
        route(M::GET, "/jobs/{job}", policies::job, "Show how far an upload has come"),
    ]
}

/// What is done with a session, except in groups.
fn of_sessions() -> Vec<Route> {
    use Method as M;
    vec![
        route(M::POST, "/sessions", sessions::open, "Open a session"),
        route(M::GET, "/sessions/{session}", sessions::show, "Show what a session holds"),
        route(M::DELETE, "/sessions/{session}", sessions::end, "End a session; its members leave"),
        route(M::POST, "/sessions/{session}/renew", sessions::renew, "Renew a session"),
        route(M::GET, "/sessions/{session}/events", sessions::events, "Follow a session"),
        route(M::POST, "/sessions/{session}/stopped", sessions::stopped, "Confirm that a leader stopped"),
        route(M::GET, "/locks", locks::list, "List the locks that somebody holds or waits for"),
        route(M::POST, "/locks", locks::lock, "Lock names, all or none, and wait for them"),
        route(M::GET, "/locks/{lock}", locks::show, "Show who holds a lock and who waits"),
        route(M::POST, "/locks/{lock}/release", locks::release, "Give a lock back"),
        route(M::POST, "/locks/{lock}/break", locks::break_up, "Take a lock away from whoever holds it"),
        route(M::GET, "/behaviours", behaviours::list, "List the behaviours"),
        route(M::GET, "/behaviours/{behaviour}", behaviours::show, "Show a behaviour and its last calls"),
        route(M::POST, "/behaviours/{behaviour}", behaviours::call, "Call a behaviour"),
        route(M::DELETE, "/behaviours/{behaviour}", behaviours::remove, "Remove a behaviour"),
        route(M::PUT, "/behaviours/{behaviour}/policy", behaviours::activate, "Let a policy answer"),
        route(M::POST, "/behaviours/{behaviour}/rollback", behaviours::rollback, "Let the former one answer"),
    ]
}

/// What is about groups.
fn of_groups() -> Vec<Route> {
    use Method as M;
    vec![
        route(M::GET, "/groups", groups::list, "List the groups"),
        route(M::POST, "/groups", groups::create, "Create a group"),
        route(M::GET, "/groups/{group}", groups::show, "Show a group"),
        route(M::DELETE, "/groups/{group}", groups::delete, "Delete a group that has no members"),
        route(M::GET, "/groups/{group}/events", groups::events, "Follow a group"),
        route(M::POST, "/groups/{group}/members", groups::join, "Join a group"),
        route(M::GET, "/groups/{group}/members", groups::members, "List the members, oldest first"),
        route(M::GET, "/groups/{group}/members/{member}", groups::member, "Show a member"),
        route(
            M::PATCH,
            "/groups/{group}/members/{member}",
            groups::update,
            "Change what a member says of itself",
        ),
        route(M::DELETE, "/groups/{group}/members/{member}", groups::leave, "Leave a group"),
        route(M::POST, "/groups/{group}/members/{member}/evict", groups::evict, "Ask a member to go"),
        route(
            M::GET,
            "/groups/{group}/partition",
            partitions::show,
            "Show what the members of a group share",
        ),
        route(
            M::PUT,
            "/groups/{group}/partition",
            partitions::make,
            "Let the members of a group share objects",
        ),
        route(M::POST, "/groups/{group}/owners", partitions::owners, "Tell whom objects belong to"),
        route(
            M::POST,
            "/groups/{group}/members/{member}/settled",
            partitions::settle,
            "Confirm that a member gave up what it lost",
        ),
        route(M::GET, "/groups/{group}/leader", groups::leader, "Show who leads a group"),
        route(M::POST, "/groups/{group}/stand-down", groups::stand_down, "Ask the leader to stand down"),
        route(M::PUT, "/groups/{group}/policy", groups::activate, "Let a policy decide in a group"),
        route(M::POST, "/groups/{group}/rollback", groups::rollback, "Let the former policy decide again"),
        route(M::GET, "/groups/{group}/decisions", groups::decisions, "Show the last decisions of this host"),
    ]
}

/// Refuses the one name that cannot be asked for again: the empty one takes no place in a path.
fn nameable(what: &str, name: &str) -> Answer<()> {
    if name.is_empty() {
        let message = format!("the empty name of a {what} has no place in a path");
        return Err(Error::new(Kind::Invalid, "read request", message).advise("Give it a name").into());
    }
    Ok(())
}

/// What a request that waits is told when the host ends.
fn ends(operation: &'static str) -> Error {
    let error = Error::new(Kind::Closed, operation, "the host ends").with_unknown_effect();
    error.advise("Open a session on another host and ask there")
}

/// Makes the router of all routes.
pub(crate) fn router(state: State) -> Router {
    let table = table();
    let mut known: Vec<_> = table.iter().map(|route| route.path.clone()).collect();
    known.dedup();
    let known = known.join(" ");
    let each = |router: Router<State>, route: Route| router.route(&route.path, route.answer);
    table
        .into_iter()
        .fold(Router::new(), each)
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
