//! A service that lets only the holder of a lock write, by the header `althing-token`.
//!
//! `cargo run --package althing-fence --example http -- 127.0.0.1:8080`, and then
//! `curl -X PUT -H 'althing-token: 42' -d paid http://127.0.0.1:8080/orders`: after that, a lower token is answered with 412. Below
//! `althing lock orders -- …` the token is in `$ALTHING_LOCK_TOKEN`.
#![allow(clippy::print_stdout, reason = "an example speaks to whoever runs it")]

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use althing_fence::Fence;
use althing_fence::http::{Refused, SEEN, TOKEN, token};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, service()).await
}

/// What the service keeps.
#[derive(Default)]
struct Store {
    fence: Fence,
    states: Mutex<HashMap<String, String>>,
}

/// Makes the service.
pub(crate) fn service() -> Router {
    Router::new().route("/{name}", get(read).put(write)).with_state(Arc::new(Store::default()))
}

async fn read(State(store): State<Arc<Store>>, Path(name): Path<String>) -> Response {
    let states = store.states.lock().unwrap_or_else(PoisonError::into_inner);
    states.get(&name).cloned().ok_or(StatusCode::NOT_FOUND).into_response()
}

async fn write(
    State(store): State<Arc<Store>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    state: String,
) -> Response {
    match try_write(&store, &name, &headers, state) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(refused) => {
            let status = StatusCode::from_u16(refused.status()).unwrap_or(StatusCode::BAD_REQUEST);
            let seen = refused.seen().map(|seen| [(SEEN, seen)]);
            (status, seen, refused.to_string()).into_response()
        }
    }
}

/// Compares and writes in one step: between the two, nobody else is let in.
fn try_write(store: &Store, name: &str, headers: &HeaderMap, state: String) -> Result<(), Refused> {
    let token = token(headers.get_all(TOKEN))?;
    store.fence.admit_then(name, token, || {
        store.states.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), state);
    })?;
    Ok(())
}
