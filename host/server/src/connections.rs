//! Connections: accepted, bounded, driven, and ended.

use std::sync::Arc;
use std::time::Duration;

use althing_core::{Error, Kind, limits};
use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::Request;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::admit::{Peer, principal};
use crate::answer::Failure;
use crate::listen::{TcpDoor, UnixDoor};
use crate::waist::{Seat, Waist};

/// How long to wait after a connection could not be accepted, which is mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Everything that all connections share.
#[derive(Clone, Debug)]
pub(crate) struct Surface {
    pub(crate) router: Router,
    pub(crate) requests: Arc<Semaphore>,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) open: TaskTracker,
    pub(crate) ending: CancellationToken,
    pub(crate) waist: Waist,
}

impl Surface {
    /// Takes connections from the Unix socket, for ever.
    pub(crate) async fn accept_unix(&self, door: &UnixDoor) {
        loop {
            let accepted = door.listener.accept().await;
            let peer = accepted.and_then(|(stream, _)| Ok((stream.peer_cred()?.uid(), stream)));
            match peer {
                Ok((uid, stream)) => self.drive(TokioIo::new(stream), Peer::Unix(uid)),
                Err(error) => pause(error).await,
            }
        }
    }

    /// Takes connections from the TCP port, for ever.
    pub(crate) async fn accept_tcp(&self, door: Option<&TcpDoor>) {
        let Some(door) = door else { return };
        let token = Arc::new(door.token.clone());
        loop {
            let accepted = door.listener.accept().await;
            match accepted.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream)) {
                Ok(stream) => self.drive(TokioIo::new(stream), Peer::Tcp(token.clone())),
                Err(error) => pause(error).await,
            }
        }
    }

    /// Ends event streams and idle connections, and waits for the others within the drain deadline.
    pub(crate) async fn end(&self) {
        self.ending.cancel();
        self.open.close();
        if timeout(limits::DRAIN_DEADLINE, self.open.wait()).await.is_err() {
            tracing::warn!(
                connections = self.open.len(),
                "connections were cut off in the middle of a request"
            );
        }
    }

    fn drive<S>(&self, stream: S, peer: Peer)
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let Ok(permit) = self.connections.clone().try_acquire_owned() else {
            tracing::warn!(most = limits::CONNECTIONS_MAX, "a connection was refused: there are too many");
            return;
        };
        self.open.spawn(self.clone().converse(stream, peer, permit));
    }

    /// Answers the requests of one connection until it closes or the host ends.
    async fn converse<S>(self, stream: S, peer: Peer, permit: OwnedSemaphorePermit)
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let seat = Seat::new(self.waist.clone(), self.open.clone(), permit);
        let service = service_fn(|request| self.answer(&peer, &seat, request));
        // Half-closed connections stay off: the end of what a client sends is the end of the client, which
        // is how the death of one is seen while an event stream goes to it.
        let conversation = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::REQUEST_HEAD_DEADLINE)
            .serve_connection(stream, service)
            .with_upgrades();
        tokio::pin!(conversation);
        let outcome = tokio::select! {
            outcome = conversation.as_mut() => outcome,
            () = self.ending.cancelled() => {
                conversation.as_mut().graceful_shutdown();
                conversation.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, "a connection broke");
        }
    }

    async fn answer(
        &self,
        peer: &Peer,
        seat: &Seat,
        request: Request<Incoming>,
    ) -> Result<Response, std::convert::Infallible> {
        let Ok(_permit) = self.requests.try_acquire() else {
            let message = format!("{} requests are being answered already", limits::REQUESTS_MAX);
            return Ok(
                Failure(Error::new(Kind::Busy, "admit", message).advise("Try again later")).into_response()
            );
        };
        let mut request = request.map(Body::new);
        match principal(peer, &request) {
            Ok(principal) => request.extensions_mut().insert(principal),
            Err(error) => return Ok(Failure(error).into_response()),
        };
        request.extensions_mut().insert(seat.clone());
        self.router.clone().oneshot(request).await
    }
}

async fn pause(error: std::io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    sleep(ACCEPT_PAUSE).await;
}
