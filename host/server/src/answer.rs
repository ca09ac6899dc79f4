//! What is read from requests and written into answers: JSON, and errors as `ErrorInfo`.

use althing_client::wire::{SESSION_HEADER, SessionKey as Shown};
use althing_core::info::ErrorInfo;
use althing_core::{Error, Kind, limits};
use althing_runtime::SessionKey;
use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::openapi::{Answers, Operation, Reads};

/// What a route answers.
pub(crate) type Answer<T> = Result<T, Failure>;

/// An error on its way to a client.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = status(self.0.kind());
        if status.is_server_error() {
            tracing::warn!(error = %self.0, "a request failed");
        }
        let mut response = (status, Json(ErrorInfo::from(&self.0))).into_response();
        if self.0.kind() == Kind::Busy {
            let after = (HeaderName::from_static("retry-after"), HeaderValue::from_static("1"));
            response.headers_mut().insert(after.0, after.1);
        }
        response
    }
}

impl<T: Answers> Answers for Answer<T> {
    fn tell(operation: &mut Operation<'_>) {
        T::tell(operation);
    }
}

/// A value with another status than 200.
pub(crate) struct Told<const STATUS: u16, T>(pub(crate) T);

impl<const STATUS: u16, T: Serialize> IntoResponse for Told<STATUS, T> {
    fn into_response(self) -> Response {
        (Empty::<STATUS>.status(), Json(self.0)).into_response()
    }
}

impl<const STATUS: u16, T: JsonSchema> Answers for Told<STATUS, T> {
    fn tell(operation: &mut Operation<'_>) {
        operation.answers_json::<T>(STATUS);
    }
}

/// A status that says all.
pub(crate) struct Empty<const STATUS: u16>;

impl<const STATUS: u16> Empty<STATUS> {
    fn status(&self) -> StatusCode {
        StatusCode::from_u16(STATUS).unwrap_or(StatusCode::OK)
    }
}

impl<const STATUS: u16> IntoResponse for Empty<STATUS> {
    fn into_response(self) -> Response {
        self.status().into_response()
    }
}

impl<const STATUS: u16> Answers for Empty<STATUS> {
    fn tell(operation: &mut Operation<'_>) {
        operation.answers_nothing(STATUS);
    }
}

/// Returns the status by which an error is told. The kind in the body says it more exactly.
pub(crate) fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Exists | Kind::Conflict => StatusCode::CONFLICT,
        Kind::SessionLost => StatusCode::GONE,
        Kind::Unavailable | Kind::Closed => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Kind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Kind::Denied => StatusCode::FORBIDDEN,
        Kind::Busy => StatusCode::TOO_MANY_REQUESTS,
        Kind::Fault => StatusCode::UNPROCESSABLE_ENTITY,
        // `Format`, `Internal`, and whatever kind is added without a row here.
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The body of a request, read as JSON. The content type is not looked at.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Answer<Self> {
        let bytes = read(request, limits::BODY_BYTES_MAX).await?;
        serde_json::from_slice(&bytes)
            .map(Body)
            .map_err(|error| invalid("a body that is not understood").because(error).into())
    }
}

impl<T: JsonSchema> Reads for Body<T> {
    fn tell(operation: &mut Operation<'_>) {
        operation.reads_json::<T>();
    }
}

/// The body of a request as it is, which is a packed bundle.
pub(crate) struct Packed(pub(crate) Bytes);

impl<S: Send + Sync> FromRequest<S> for Packed {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Answer<Self> {
        read(request, limits::BUNDLE_BYTES_MAX).await.map(Packed)
    }
}

impl Reads for Packed {
    fn tell(operation: &mut Operation<'_>) {
        operation.reads(OCTETS, serde_json::json!({}));
    }
}

/// The body of a request as it is, for a behaviour.
pub(crate) struct Sent {
    pub(crate) bytes: Bytes,
    /// It was sent as JSON, and that is how the answer goes back.
    pub(crate) is_json: bool,
}

impl<S: Send + Sync> FromRequest<S> for Sent {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Answer<Self> {
        let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_json = content_type.is_some_and(|text| text.starts_with(JSON));
        let bytes = read(request, limits::BEHAVIOUR_BODY_BYTES_MAX).await?;
        Ok(Sent { bytes, is_json })
    }
}

impl Reads for Sent {
    fn tell(operation: &mut Operation<'_>) {
        for content_type in [OCTETS, JSON] {
            operation.reads(content_type, serde_json::json!({}));
        }
    }
}

/// What a behaviour answered, as it is.
pub(crate) struct Reply {
    pub(crate) bytes: Bytes,
    pub(crate) is_json: bool,
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, if self.is_json { JSON } else { OCTETS })], self.bytes).into_response()
    }
}

impl Answers for Reply {
    fn tell(operation: &mut Operation<'_>) {
        let about = "What the behaviour answered; as application/json where the body was sent as such.";
        for content_type in [OCTETS, JSON] {
            operation.answers(200, about, content_type, serde_json::json!({}));
        }
    }
}

const JSON: &str = "application/json";
const OCTETS: &str = "application/octet-stream";

/// Reads a body of at most `most` bytes. One that says beforehand that it is larger is not read at all.
async fn read(request: Request, most: usize) -> Answer<Bytes> {
    let too_large = || {
        let message = format!("a body of more than {most} bytes");
        Failure(Error::new(Kind::TooLarge, "read request", message))
    };
    if request.body().size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let reading = Limited::new(request.into_body(), most).collect();
    match timeout(limits::REQUEST_BODY_DEADLINE, reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(invalid("a body that cannot be read").because(error).into()),
        Err(_) => {
            let message = format!("the body did not arrive within {:?}", limits::REQUEST_BODY_DEADLINE);
            Err(Error::new(Kind::Timeout, "read request", message).into())
        }
    }
}

/// The names in the path of a request.
pub(crate) struct Names<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Names<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(Names(names)),
            Err(rejected) => Err(invalid("a path that is not understood").because(rejected).into()),
        }
    }
}

/// The path itself says which names it has.
impl<T> Reads for Names<T> {
    fn tell(_: &mut Operation<'_>) {}
}

/// The query of a request.
pub(crate) struct Asked<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Answer<Self> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(query)) => Ok(Asked(query)),
            Err(rejected) => Err(invalid("a query that is not understood").because(rejected).into()),
        }
    }
}

impl<T: JsonSchema> Reads for Asked<T> {
    fn tell(operation: &mut Operation<'_>) {
        operation.reads_query::<T>();
    }
}

/// The session that a request shows to be its own.
pub(crate) struct Session(pub(crate) SessionKey);

impl Session {
    /// Fails unless this is the session that the path names.
    pub(crate) fn named(self, id: &str) -> Answer<SessionKey> {
        if self.0.id == id {
            Ok(self.0)
        } else {
            Err(unproven("the header names another session than the path"))
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Session {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        let text = parts.headers.get(SESSION_HEADER).and_then(|value| value.to_str().ok());
        match text.and_then(Shown::from_header) {
            Some(shown) => Ok(Session(SessionKey { id: shown.id, secret: shown.secret })),
            None => Err(unproven("the request shows no session")),
        }
    }
}

impl Reads for Session {
    fn tell(operation: &mut Operation<'_>) {
        operation.reads_session();
    }
}

fn unproven(message: &str) -> Failure {
    let advice = "Send the header Althing-Session with the session's id, a dot and its secret";
    Failure(Error::new(Kind::Denied, "read request", message).advise(advice))
}

fn invalid(message: &str) -> Error {
    Error::new(Kind::Invalid, "read request", message)
}
