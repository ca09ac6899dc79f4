//! One connection to one member, and every error of it by name. The only file that knows the client crate.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use althing_core::{Error, Kind, Result};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{self, Uri};
use tonic::codegen::{Service, tokio_stream};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::line;
use crate::proto::{
    AuthenticateRequest, AuthenticateResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseRequest, MemberListResponse, Nothing, RangeRequest, RangeResponse, StatusResponse, TxnRequest,
    TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
};
use crate::settings::{Server, Settings};

/// The largest answer we read, in bytes. What is asked for in pages is asked for again in smaller ones.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How much of one answer, and of all of them, may be on its way before it is read.
const WINDOW_BYTES: u32 = 1 << 20;
const WINDOWS_BYTES: u32 = 8 << 20;
/// How often a connection with requests under way is asked whether it is there. etcd ends those of whoever asks more
/// often than every five seconds.
const PING_EVERY: Duration = Duration::from_secs(6);

/// Why a call did not do what it should.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// What was asked about is no longer kept.
    Compacted,
    /// The login of this connection has run out, or is of before users or roles changed. Nothing was done.
    LoggedOut,
    /// The answer would be too large. Only where nothing is written.
    TooLarge,
    /// There is no such lease.
    NoLease,
    /// There is one already.
    LeaseExists,
    /// The member, or the way to it, does not serve; another may.
    Outage(Error),
    /// Asking another would not help.
    Failed(Error),
}

impl Refusal {
    /// Makes an error of what a call has no use for itself.
    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        let unexpected = |what: &str| Error::new(Kind::Unavailable, operation, what);
        match self {
            Refusal::Outage(error) | Refusal::Failed(error) => error,
            Refusal::Compacted => unexpected("what was asked for was compacted meanwhile"),
            Refusal::LoggedOut => unexpected("etcd ends our login again and again"),
            Refusal::TooLarge => Error::new(Kind::TooLarge, operation, "the answer of etcd is too large"),
            Refusal::NoLease => Error::new(Kind::SessionLost, operation, "the session has ended"),
            Refusal::LeaseExists => unexpected("the lease exists already"),
        }
    }
}

/// What a call is, for its errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) operation: &'static str,
    pub(crate) writes: bool,
}

/// A connection that many callers share. Dropping it ends it, with what is still under way.
pub(crate) struct Wire {
    line: Line,
    origin: Uri,
    token: Option<MetadataValue<Ascii>>,
    task: JoinHandle<()>,
    condemned: watch::Sender<bool>,
    server: String,
    number: usize,
}

impl Wire {
    /// Connects and logs in. Nothing is written, so every error has no effect.
    pub(crate) async fn dial(settings: &Settings, server: &Server, number: usize) -> Result<Wire, Refusal> {
        let stream = line::open(server).await.map_err(Refusal::Outage)?;
        let address = server.address();
        let unreachable = |error: BoxError| {
            let message = format!("etcd at {address} does not speak HTTP/2");
            Refusal::Outage(Error::new(Kind::Unavailable, "connect", message).because(error))
        };
        let (line, work) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOWS_BYTES)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(settings.timeout)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(error.into()))?;
        let task = tokio::spawn(async move {
            // How it ended is told to those whose requests were under way.
            let _ = work.await;
        });
        let origin = format!("{}://{address}", if server.tls.is_some() { "https" } else { "http" });
        let origin = origin.parse::<Uri>().map_err(|error| unreachable(error.into()))?;
        let condemned = watch::Sender::new(false);
        let mut wire =
            Wire { line: Line(line), origin, token: None, task, condemned, server: address, number };
        wire.log_in(settings).await?;
        Ok(wire)
    }

    /// Tells whether the connection may be used.
    pub(crate) fn is_open(&self) -> bool {
        !self.task.is_finished() && !*self.condemned.borrow()
    }

    /// Says that nothing more should be asked here.
    pub(crate) fn condemn(&self) {
        self.condemned.send_replace(true);
    }

    /// Waits until somebody says that nothing more should be asked here.
    pub(crate) async fn condemnation(&self) {
        // The sender is ours, so waiting for it cannot fail.
        let _ = self.condemned.subscribe().wait_for(|condemned| *condemned).await;
    }

    /// Returns which of the URL's members this is.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Returns the member's address.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// Asks for the member's version.
    pub(crate) async fn version(&self) -> Result<String, Refusal> {
        let call = Call { operation: "connect", writes: false };
        let path = PathAndQuery::from_static("/etcdserverpb.Maintenance/Status");
        let status: StatusResponse = self.ask(call, path, Nothing {}).await?;
        Ok(status.version)
    }

    /// Counts the members that vote.
    pub(crate) async fn voters(&self) -> Result<usize, Refusal> {
        let call = Call { operation: "connect", writes: false };
        let path = PathAndQuery::from_static("/etcdserverpb.Cluster/MemberList");
        let list: MemberListResponse = self.ask(call, path, Nothing {}).await?;
        Ok(list.members.iter().filter(|member| !member.is_learner).count())
    }

    pub(crate) async fn range(&self, call: Call, range: RangeRequest) -> Result<RangeResponse, Refusal> {
        self.ask(call, PathAndQuery::from_static("/etcdserverpb.KV/Range"), range).await
    }

    pub(crate) async fn txn(&self, call: Call, txn: TxnRequest) -> Result<TxnResponse, Refusal> {
        self.ask(call, PathAndQuery::from_static("/etcdserverpb.KV/Txn"), txn).await
    }

    /// Makes a lease. Returns the seconds it lives.
    pub(crate) async fn grant(&self, call: Call, ask: LeaseGrantRequest) -> Result<i64, Refusal> {
        let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseGrant");
        let granted: LeaseGrantResponse = self.ask(call, path, ask).await?;
        Ok(granted.ttl)
    }

    pub(crate) async fn revoke(&self, call: Call, id: i64) -> Result<(), Refusal> {
        let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseRevoke");
        self.ask(call, path, LeaseRequest { id }).await.map(|Nothing {}| ())
    }

    /// Renews a lease.
    pub(crate) async fn keep_alive(&self, call: Call, id: i64) -> Result<LeaseKeepAliveResponse, Refusal> {
        let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
        // One question on a stream of its own: a stream that is kept would have to be watched, and found again.
        let mut answers = self.stream(call, path, tokio_stream::once(LeaseRequest { id })).await?;
        let answer: Option<LeaseKeepAliveResponse> =
            answers.message().await.map_err(|status| self.fault(call, status))?;
        let answer = answer.ok_or_else(|| self.fault(call, Status::unavailable("no answer")))?;
        if answer.ttl > 0 { Ok(answer) } else { Err(Refusal::NoLease) }
    }

    /// Begins to watch.
    pub(crate) async fn watch(&self, call: Call, create: WatchCreateRequest) -> Result<Feed, Refusal> {
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let first = tokio_stream::once(WatchRequest { create: Some(create) });
        // The stream of questions must not end: etcd would end the answers.
        let questions = tokio_stream::StreamExt::chain(first, tokio_stream::pending());
        let answers = self.stream(call, path, questions).await?;
        Ok(Feed { answers, call, server: self.server.clone() })
    }

    async fn log_in(&mut self, settings: &Settings) -> Result<(), Refusal> {
        let Some((user, password)) = &settings.login else { return Ok(()) };
        let ask = AuthenticateRequest { name: user.clone(), password: password.expose().to_owned() };
        let path = PathAndQuery::from_static("/etcdserverpb.Auth/Authenticate");
        let call = Call { operation: "connect", writes: false };
        let answer: AuthenticateResponse = self.ask(call, path, ask).await?;
        let token = answer.token.parse().map_err(|_| {
            Refusal::Failed(Error::new(Kind::Internal, "connect", "etcd gave a token that cannot be sent"))
        })?;
        self.token = Some(token);
        Ok(())
    }

    async fn ask<Q, A>(&self, call: Call, path: PathAndQuery, question: Q) -> Result<A, Refusal>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready(call).await?;
        let request = self.dressed(Request::new(question));
        let answer = grpc.unary(request, path, ProstCodec::<Q, A>::default()).await;
        answer.map(tonic::Response::into_inner).map_err(|status| self.fault(call, status))
    }

    async fn stream<Q, A>(
        &self,
        call: Call,
        path: PathAndQuery,
        questions: impl tokio_stream::Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<A>, Refusal>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready(call).await?;
        let request = self.dressed(Request::new(questions));
        let answers = grpc.streaming(request, path, ProstCodec::<Q, A>::default()).await;
        answers.map(tonic::Response::into_inner).map_err(|status| self.fault(call, status))
    }

    /// Waits until a request can be sent. Nothing was sent where that fails.
    async fn ready(&self, call: Call) -> Result<Grpc<Line>, Refusal> {
        let grpc = Grpc::with_origin(self.line.clone(), self.origin.clone());
        let mut grpc = grpc.max_decoding_message_size(ANSWER_BYTES_MAX);
        grpc.ready().await.map_err(|error| {
            let message = format!("the connection to etcd at {} has ended", self.server);
            Refusal::Outage(Error::new(Kind::Unavailable, call.operation, message).because(error))
        })?;
        Ok(grpc)
    }

    fn dressed<T>(&self, mut request: Request<T>) -> Request<T> {
        // A member that has lost its leader says so at once, and another can be asked.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    fn fault(&self, call: Call, status: Status) -> Refusal {
        fault(call, &self.server, status)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("server", &self.server).field("open", &self.is_open()).finish()
    }
}

/// What a watch is told.
pub(crate) struct Feed {
    answers: Streaming<WatchResponse>,
    call: Call,
    server: String,
}

impl Feed {
    /// Waits for the next answer. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<WatchResponse, Refusal> {
        let answer = self.answers.message().await.map_err(|status| fault(self.call, &self.server, status))?;
        let answer = answer
            .ok_or_else(|| fault(self.call, &self.server, Status::unavailable("the watch has ended")))?;
        if !answer.canceled {
            return Ok(answer);
        }
        if answer.compact_revision > 0 {
            return Err(Refusal::Compacted);
        }
        // The whole status in words: "rpc error: code = PermissionDenied desc = etcdserver: permission denied".
        let reason = answer.cancel_reason;
        let reason = reason.split_once(" desc = ").map_or(reason.as_str(), |(_, reason)| reason);
        Err(fault(self.call, &self.server, Status::unavailable(reason)))
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The connection as tonic wants it.
#[derive(Clone)]
struct Line(SendRequest<tonic::body::Body>);

impl Service<http::Request<tonic::body::Body>> for Line {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// What etcd says, word by word, and what it means. Some of it means nothing was done where its code alone would leave
/// that open.
const SAYINGS: &[(&str, Saying)] = &[
    ("etcdserver: mvcc: required revision has been compacted", Saying::Compacted),
    // A member that has not yet heard of a revision that another told us of.
    ("etcdserver: mvcc: required revision is a future revision", Saying::Behind),
    ("etcdserver: requested lease not found", Saying::NoLease),
    ("etcdserver: lease already exists", Saying::LeaseExists),
    ("etcdserver: invalid auth token", Saying::LoggedOut),
    // A token of `--auth-token=jwt` says of which state of users and roles it is. It is looked at before anything is applied.
    ("etcdserver: revision of auth store is old", Saying::LoggedOut),
    // The same before 3.5.2. Debian's 3.4.23 says the first.
    ("auth: revision in header is old", Saying::LoggedOut),
    ("etcdserver: no leader", Saying::Behind),
    ("etcdserver: not capable", Saying::Behind),
    ("etcdserver: too many requests", Saying::Busy),
    ("etcdserver: request is too large", Saying::TooLarge("Raise etcd's --max-request-bytes")),
    ("etcdserver: too many operations in txn request", Saying::TooLarge("Raise etcd's --max-txn-ops to 128")),
    ("etcdserver: mvcc: database space exceeded", Saying::Full),
    (
        "etcdserver: authentication failed, invalid user ID or password",
        Saying::Denied("Check user and password in the backend URL"),
    ),
    (
        "etcdserver: authentication is not enabled",
        Saying::Denied("Take user and password out of the backend URL, or enable etcd's authentication"),
    ),
    ("etcdserver: user name is empty", Saying::Denied("Write user:password@ before the hosts")),
    (
        "etcdserver: permission denied",
        Saying::Denied("The user's role needs readwrite on the prefix althing/<namespace>/"),
    ),
];

#[derive(Clone, Copy, Debug)]
enum Saying {
    Compacted,
    NoLease,
    LeaseExists,
    LoggedOut,
    Behind,
    Busy,
    Full,
    TooLarge(&'static str),
    Denied(&'static str),
}

fn fault(call: Call, server: &str, status: Status) -> Refusal {
    if was_never_sent(&status) {
        let message = format!("the connection to etcd at {server} has ended");
        return Refusal::Outage(Error::new(Kind::Unavailable, call.operation, message).because(status));
    }
    let said = SAYINGS.iter().find(|(words, _)| status.message().starts_with(words));
    let error = |kind: Kind, status: Status| {
        Error::new(kind, call.operation, message(&status)).with("server", server).because(status)
    };
    match said.map(|(_, saying)| *saying) {
        Some(Saying::Compacted) => Refusal::Compacted,
        Some(Saying::NoLease) => Refusal::NoLease,
        Some(Saying::LeaseExists) => Refusal::LeaseExists,
        Some(Saying::LoggedOut) => Refusal::LoggedOut,
        Some(Saying::Behind) => Refusal::Outage(error(Kind::Unavailable, status)),
        Some(Saying::Busy) => Refusal::Failed(error(Kind::Busy, status)),
        Some(Saying::Full) => {
            let error = error(Kind::Unavailable, status).advise(
                "Compact and defragment etcd, then `etcdctl alarm disarm`; or raise --quota-backend-bytes",
            );
            // Whoever comes first over the quota is told so after what he asked for was applied.
            Refusal::Failed(if call.writes { error.with_unknown_effect() } else { error })
        }
        Some(Saying::TooLarge(advice)) => Refusal::Failed(error(Kind::TooLarge, status).advise(advice)),
        Some(Saying::Denied(advice)) => Refusal::Failed(error(Kind::Denied, status).advise(advice)),
        None => unheard_of(call, server, status),
    }
}

/// Tells whether hyper gave the request back because the connection had ended before: it cancels nothing else.
fn was_never_sent(status: &Status) -> bool {
    let first = std::error::Error::source(status);
    let mut causes = std::iter::successors(first, |cause| cause.source());
    causes.any(|cause| cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled))
}

/// Maps an answer by its code alone.
fn unheard_of(call: Call, server: &str, status: Status) -> Refusal {
    let kind = match status.code() {
        // Our own limit on what we read: the answer was there.
        Code::OutOfRange if !call.writes => return Refusal::TooLarge,
        Code::DeadlineExceeded => Kind::Timeout,
        Code::PermissionDenied | Code::Unauthenticated => Kind::Denied,
        Code::ResourceExhausted => Kind::Busy,
        Code::InvalidArgument | Code::Unimplemented | Code::FailedPrecondition => Kind::Internal,
        // Also what a broken connection comes as: Unavailable, Unknown, Internal, Cancelled.
        _ => Kind::Unavailable,
    };
    let error = Error::new(kind, call.operation, message(&status)).with("server", server).because(status);
    // A request that was refused for what it is was not carried out; of all else that is not known.
    let was_refused = matches!(kind, Kind::Denied | Kind::Internal);
    let error = if call.writes && !was_refused { error.with_unknown_effect() } else { error };
    if was_refused || kind == Kind::Busy { Refusal::Failed(error) } else { Refusal::Outage(error) }
}

fn message(status: &Status) -> String {
    match status.message() {
        "" => format!("etcd answered {:?}", status.code()),
        said => format!("etcd said {said:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use althing_core::Effect;

    const WRITE: Call = Call { operation: "commit", writes: true };

    #[track_caller]
    fn check(status: Status, kind: Kind, effect: Effect) {
        let error = fault(WRITE, "h:1", status).into_error("commit");
        assert_eq!((error.kind(), error.effect()), (kind, effect), "{error}");
    }

    #[test]
    fn knows_what_was_not_done() {
        check(Status::unavailable("etcdserver: no leader"), Kind::Unavailable, Effect::None);
        check(Status::unavailable("etcdserver: request timed out"), Kind::Unavailable, Effect::Unknown);
        // Both are said also of what was proposed, or applied, already.
        check(Status::unavailable("etcdserver: server stopped"), Kind::Unavailable, Effect::Unknown);
        let full = "etcdserver: mvcc: database space exceeded";
        check(Status::resource_exhausted(full), Kind::Unavailable, Effect::Unknown);
        check(Status::unknown("connection reset"), Kind::Unavailable, Effect::Unknown);
        check(Status::resource_exhausted("etcdserver: too many requests"), Kind::Busy, Effect::None);
        check(Status::invalid_argument("etcdserver: request is too large"), Kind::TooLarge, Effect::None);
        check(Status::permission_denied("etcdserver: permission denied"), Kind::Denied, Effect::None);
        check(Status::out_of_range("too long"), Kind::Unavailable, Effect::Unknown);
        check(Status::invalid_argument("etcdserver: duplicate key"), Kind::Internal, Effect::None);
    }

    #[test]
    fn logs_in_anew_where_the_login_is_too_old() {
        for status in [
            Status::unauthenticated("etcdserver: invalid auth token"),
            Status::invalid_argument("etcdserver: revision of auth store is old"),
            Status::unknown("auth: revision in header is old"),
        ] {
            let refusal = fault(WRITE, "h:1", status);
            assert!(matches!(refusal, Refusal::LoggedOut), "{refusal:?}");
        }
    }
}
