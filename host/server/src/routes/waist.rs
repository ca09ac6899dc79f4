//! `/v1/waist`: the backend of this host for other processes of the machine.

use std::sync::Arc;

use althing_client::waist::PROTOCOL;
use althing_client::wire::WaistQuery;
use althing_core::layers::Scope;
use althing_core::{Driver, Error, Kind, Principal, Result};
use axum::Extension;
use axum::extract::{FromRequestParts, State as Shared};
use axum::http::StatusCode;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;

use super::{By, On, State};
use crate::answer::{Answer, Asked, Failure};
use crate::openapi::{Answers, Operation, Reads};
use crate::waist::{Party, Seat};

pub(super) async fn open(
    Shared(state): Shared<State>,
    On(runtime): On,
    Extension(by): By,
    Asked(query): Asked<WaistQuery>,
    upgrade: Upgrade,
) -> Answer<Switched> {
    admit(&by, rustix::process::geteuid().as_raw())?;
    let whole = runtime.driver();
    let driver: Arc<dyn Driver> = match &query.namespace {
        Some(name) => Arc::new(Scope::new(whole, name)?),
        None => whole,
    };
    let place = query.namespace.map_or("the host's own namespace".into(), |name| format!("namespace {name}"));
    let who = format!("{by}, backend {}, {place}", runtime.backend());
    let party = Party { driver, ending: state.ending, who };
    upgrade.seat.take(upgrade.coming, party)?;
    Ok(Switched)
}

/// Lets in who could read the backend's URL as well: root, and the user whom the daemon runs as.
fn admit(by: &Principal, own: u32) -> Result<()> {
    if matches!(by, Principal::Uid(uid) if *uid == 0 || *uid == own) {
        return Ok(());
    }
    let message = format!("the backend itself is shared with root and with uid {own} only, not with {by}");
    Err(Error::new(Kind::Denied, "admit", message)
        .advise("Run as that user, or ask for groups and members over HTTP, as the command line does"))
}

/// A request to go on with the waist instead of HTTP.
pub(super) struct Upgrade {
    coming: OnUpgrade,
    seat: Seat,
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        let invalid = |message: String| Failure(Error::new(Kind::Invalid, "read request", message));
        let asked = parts.headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !asked.eq_ignore_ascii_case(PROTOCOL) {
            let message = format!("{asked:?} is not spoken here, but {PROTOCOL}");
            return Err(invalid(message));
        }
        let coming = parts.extensions.remove::<OnUpgrade>();
        match (coming, parts.extensions.get::<Seat>().cloned()) {
            (Some(coming), Some(seat)) => Ok(Upgrade { coming, seat }),
            _ => Err(invalid("the request lacks the header connection: upgrade".into())),
        }
    }
}

impl Reads for Upgrade {
    fn tell(operation: &mut Operation<'_>) {
        operation.reads_header(
            "upgrade",
            true,
            "The protocol, althing-waist/1, with which the connection goes on. Only on the Unix socket, and only for \
             root and the user of the host.",
        );
    }
}

/// The connection is no longer HTTP.
pub(super) struct Switched;

impl IntoResponse for Switched {
    fn into_response(self) -> Response {
        (StatusCode::SWITCHING_PROTOCOLS, [(CONNECTION, "upgrade"), (UPGRADE, PROTOCOL)]).into_response()
    }
}

impl Answers for Switched {
    fn tell(operation: &mut Operation<'_>) {
        operation.answers_nothing(StatusCode::SWITCHING_PROTOCOLS.as_u16());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(by: Principal, admitted: bool) {
        let outcome = admit(&by, 1000);
        assert_eq!(outcome.is_ok(), admitted, "{by}");
        if let Err(error) = outcome {
            assert_eq!(error.kind(), Kind::Denied);
            assert!(error.to_string().contains("over HTTP"), "{error}");
        }
    }

    #[test]
    fn only_root_and_the_daemons_own_user_reach_the_backend() {
        check(Principal::Uid(0), true);
        check(Principal::Uid(1000), true);
        check(Principal::Uid(1001), false);
        check(Principal::Token("operator".into()), false);
        check(Principal::Host, false);
    }
}
