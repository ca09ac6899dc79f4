//! Connections to a host: dialled when needed, one kept for the next request.

use std::future::Future;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use althing_core::info::ErrorInfo;
use althing_core::{Error, Kind, Result, Secret, limits};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::rt::{Read, Write};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::wire::{BACKEND_HEADER, EVENT_STREAM, SESSION_HEADER, SessionKey};
use crate::{Address, failure};

/// One request, before it is sent.
pub(crate) struct Ask<'a> {
    pub(crate) operation: &'static str,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) session: Option<&'a SessionKey>,
    pub(crate) backend: Option<&'a str>,
    pub(crate) body: Bytes,
    pub(crate) content_type: &'static str,
}

/// A way to a host. Several requests may be under way at once; each then has its own connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) address: Address,
    token: Option<Secret>,
    idle: Mutex<Option<Dialled>>,
}

/// An open connection. The task that drives it ends when this is dropped.
#[derive(Debug)]
struct Dialled {
    sender: SendRequest<Full<Bytes>>,
    _task: Task,
}

/// Ends the task that drives a connection, and with it the connection, when dropped.
#[derive(Debug)]
pub(crate) struct Task(AbortHandle);

impl Task {
    pub(crate) fn new(task: AbortHandle) -> Self {
        Task(task)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    pub(crate) fn new(address: Address, token: Option<Secret>) -> Self {
        Connection { address, token, idle: Mutex::new(None) }
    }

    /// Sends a request and reads its whole answer, within `deadline`.
    pub(crate) async fn exchange(&self, ask: &Ask<'_>, deadline: Duration) -> Result<Bytes> {
        self.within(ask.operation, deadline, async {
            let (response, dialled) = self.send(ask).await?;
            let answer = self.read(ask.operation, response).await;
            *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(dialled);
            answer
        })
        .await
    }

    /// Sends a request whose answer is an event stream. Only its beginning has to come within `deadline`.
    pub(crate) async fn stream(&self, ask: &Ask<'_>, deadline: Duration) -> Result<(Incoming, Task)> {
        self.within(ask.operation, deadline, async {
            let (response, dialled) = self.send(ask).await?;
            if response.status().is_success() {
                return Ok((response.into_body(), dialled._task));
            }
            match self.read(ask.operation, response).await {
                Err(error) => Err(error),
                Ok(_) => Err(failure::stranger(ask.operation, &self.address, "success and failure at once")),
            }
        })
        .await
    }

    async fn within<T>(
        &self,
        operation: &'static str,
        deadline: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match timeout(deadline, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(failure::late(operation, &self.address, deadline)),
        }
    }

    /// Sends over the kept connection if it still lives, else over a new one. A request is sent twice only
    /// where nothing of it left this process the first time.
    async fn send(&self, ask: &Ask<'_>) -> Result<(Response<Incoming>, Dialled)> {
        let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut dialled) = kept
            && dialled.sender.ready().await.is_ok()
        {
            match dialled.sender.try_send_request(self.request(ask)?).await {
                Ok(response) => return Ok((response, dialled)),
                Err(mut failed) => {
                    if failed.take_message().is_none() {
                        return Err(failure::broken(ask.operation, &self.address, failed.into_error()));
                    }
                }
            }
        }
        let mut dialled = self.dial(ask.operation).await?;
        match dialled.sender.send_request(self.request(ask)?).await {
            Ok(response) => Ok((response, dialled)),
            Err(error) => Err(failure::broken(ask.operation, &self.address, error)),
        }
    }

    async fn dial(&self, operation: &'static str) -> Result<Dialled> {
        let unreachable = |error| failure::unreachable(operation, &self.address, error);
        match &self.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                // Elsewhere whoever may open the socket may ask, as an operator in its group does.
                if self.address.is_open_to_anybody() {
                    check_host(operation, &self.address, &stream)?;
                }
                self.greet(operation, TokioIo::new(stream)).await
            }
            Address::Tcp(authority) => {
                let stream = TcpStream::connect(authority).await.map_err(unreachable)?;
                stream.set_nodelay(true).map_err(unreachable)?;
                self.greet(operation, TokioIo::new(stream)).await
            }
        }
    }

    async fn greet<S>(&self, operation: &'static str, stream: S) -> Result<Dialled>
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let (sender, driving) =
            handshake(stream).await.map_err(|error| failure::broken(operation, &self.address, error))?;
        // How the connection ended is told to whoever waits for an answer on it.
        let task = tokio::spawn(async move { drop(driving.await) });
        Ok(Dialled { sender, _task: Task(task.abort_handle()) })
    }

    fn request(&self, ask: &Ask<'_>) -> Result<Request<Full<Bytes>>> {
        let host = match &self.address {
            Address::Unix(_) => "localhost",
            Address::Tcp(authority) => authority,
        };
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(ask.path.as_str())
            .header(HOST, host)
            .header(ACCEPT, format!("application/json, {EVENT_STREAM}"));
        if !ask.body.is_empty() {
            request = request.header(CONTENT_TYPE, ask.content_type);
        }
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        if let Some(session) = ask.session {
            request = request.header(SESSION_HEADER, session.to_header());
        }
        if let Some(backend) = ask.backend {
            request = request.header(BACKEND_HEADER, backend);
        }
        // Only the token, the session's secret and the backend's name come from outside unescaped.
        request.body(Full::new(ask.body.clone())).map_err(|error| {
            Error::new(
                Kind::Invalid,
                ask.operation,
                "the token, the secret or the backend's name holds what no header may hold",
            )
            .because(error)
        })
    }

    async fn read(&self, operation: &'static str, response: Response<Incoming>) -> Result<Bytes> {
        let status = response.status();
        let bytes = match Limited::new(response.into_body(), limits::ANSWER_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Err(failure::stranger(operation, &self.address, error)),
        };
        if status.is_success() {
            return Ok(bytes);
        }
        match serde_json::from_slice::<ErrorInfo>(&bytes) {
            Ok(info) => Err(failure::told(operation, &info)),
            Err(_) => Err(failure::stranger(operation, &self.address, status)),
        }
    }
}

/// Makes sure that root or our own user answers at a socket: somebody else may have made it first and only pose as a
/// host. Root may ask anybody's. Fails with `Denied`; the kernel tells who listens.
pub(crate) fn check_host(operation: &'static str, address: &Address, stream: &UnixStream) -> Result<()> {
    let peer = stream.peer_cred().map_err(|error| failure::unreachable(operation, address, error))?;
    let own = rustix::process::geteuid().as_raw();
    if is_trusted(peer.uid(), own) {
        return Ok(());
    }
    let message =
        format!("uid {} answers at {address}, which is neither root nor our own uid {own}", peer.uid());
    Err(Error::new(Kind::Denied, operation, message).advise(
        "It may only pose as a host: have its socket removed and start one as this user or as root, or name another",
    ))
}

fn is_trusted(host: u32, own: u32) -> bool {
    own == 0 || host == 0 || host == own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_roots_and_our_own_host_are_believed_unless_we_are_root() {
        assert!(is_trusted(1000, 1000));
        assert!(is_trusted(0, 1000));
        assert!(is_trusted(1001, 0));
        assert!(!is_trusted(1001, 1000));
    }
}
