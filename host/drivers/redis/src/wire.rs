//! One connection, and every error of it by name. The only file that knows the client crate.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use althing_core::{Error, Kind, Result};
use bytes::Bytes;
use futures::StreamExt;
use redis::aio::{ConnectionLike, MultiplexedConnection, PubSub, PubSubSink, PubSubStream};
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, RedisConnectionInfo, RedisError, Script, ServerErrorKind, Value,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::reply::Reply;
use crate::script::{OPERATIONS, Operation};
use crate::settings::{Endpoint, Login, Target};

/// The kernel asks a silent peer this often whether it is there, and gives up after this many questions.
const KEEPALIVE: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// Requests that wait for the socket at once; further callers wait before that.
const QUEUE: usize = 512;

static SCRIPTS: LazyLock<Vec<Script>> =
    LazyLock::new(|| OPERATIONS.iter().map(|operation| Script::new(&operation.code())).collect());

/// A connection that many callers share. Dropping it ends it, with what is still under way.
pub(crate) struct Wire {
    connection: MultiplexedConnection,
    task: JoinHandle<()>,
    /// The server said that it is no master any more.
    demoted: AtomicBool,
}

impl Wire {
    /// Connects and logs in. Nothing is written, so every error has no effect.
    pub(crate) async fn dial(target: &Target) -> Result<Wire> {
        let stream = stream(target).await?;
        // Time limits are ours: the crate's would hide whether a request was sent.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_pipeline_buffer_size(QUEUE);
        let (connection, work) =
            MultiplexedConnection::new_with_config(&login(&target.login), stream, config)
                .await
                .map_err(|error| fault("connect", false, error).with("server", &target.endpoint))?;
        Ok(Wire { connection, task: tokio::spawn(work), demoted: AtomicBool::new(false) })
    }

    /// Tells whether the connection can still be used: open when last looked at, and to a master when last asked.
    pub(crate) fn is_open(&self) -> bool {
        !self.task.is_finished() && !self.demoted.load(Ordering::Acquire)
    }

    /// Runs a script by its digest, and by its text where the server does not know it yet.
    pub(crate) async fn run(
        &self,
        operation: Operation,
        keys: &[String],
        arguments: &[Bytes],
    ) -> Result<Reply> {
        let script = &SCRIPTS[operation as usize];
        let command = |verb: &str, code: &str| {
            let mut command = redis::cmd(verb);
            command.arg(code).arg(keys.len()).arg(keys);
            for argument in arguments {
                command.arg(argument.as_ref());
            }
            command
        };
        let sent = self.send(command("EVALSHA", script.get_hash())).await;
        let sent = match sent {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.send(command("EVAL", &operation.code())).await
            }
            sent => sent,
        };
        sent.and_then(reply).map_err(|error| fault(operation.name(), operation.writes(), error))
    }

    /// Asks the server about itself. `None` where it does not let us.
    pub(crate) async fn ask(&self, words: &[&str]) -> Result<Option<Reply>> {
        let mut command = Cmd::new();
        for word in words {
            command.arg(word);
        }
        match self.send(command).await.and_then(reply) {
            Ok(reply) => Ok(Some(reply)),
            Err(error) => match error.kind() {
                // NOPERM of an ACL, or a command renamed away.
                ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::ResponseError) => Ok(None),
                _ => Err(fault("connect", false, error)),
            },
        }
    }

    async fn send(&self, command: Cmd) -> Result<Value, RedisError> {
        let sent = match self.connection.clone().req_packed_command(&command).await {
            Ok(Value::ServerError(error)) => Err(error.into()),
            sent => sent,
        };
        if let Err(error) = &sent
            && let ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) = error.kind()
        {
            self.demoted.store(true, Ordering::Release);
        }
        sent
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The crate's task goes on until every request is answered; a hung server would keep it for ever.
        self.task.abort();
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("open", &self.is_open()).finish_non_exhaustive()
    }
}

/// A connection that only listens on one channel.
pub(crate) struct Ear {
    sink: PubSubSink,
    stream: PubSubStream,
}

impl Ear {
    /// Connects, logs in and subscribes.
    pub(crate) async fn open(target: &Target, channel: &str) -> Result<Ear> {
        let failed = |error| fault("subscribe", false, error).with("server", &target.endpoint);
        let stream = stream(target).await?;
        let (mut sink, stream) = PubSub::new(&login(&target.login), stream).await.map_err(failed)?.split();
        sink.subscribe(channel).await.map_err(failed)?;
        Ok(Ear { sink, stream })
    }

    /// Waits for the next message. `None` when the connection has ended. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let message = self.stream.next().await?;
        Some(Bytes::copy_from_slice(message.get_payload_bytes()))
    }

    /// Asks whether the server is there.
    pub(crate) async fn ping(&mut self) -> Result<()> {
        self.sink.ping::<Value>().await.map(drop).map_err(|error| fault("ping", false, error))
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

async fn stream(target: &Target) -> Result<Box<dyn Stream>> {
    let unreachable = |error: std::io::Error| {
        let message = format!("Redis at {} cannot be reached", target.endpoint);
        Error::new(Kind::Unavailable, "connect", message).because(error)
    };
    let (host, port) = match &target.endpoint {
        Endpoint::Unix(file) => return Ok(Box::new(UnixStream::connect(file).await.map_err(unreachable)?)),
        Endpoint::Tcp { host, port } => (host.as_str(), *port),
    };
    let stream = TcpStream::connect((host, port)).await.map_err(unreachable)?;
    tune(&stream).map_err(unreachable)?;
    match &target.tls {
        None => Ok(Box::new(stream)),
        Some(tls) => {
            let stream = tls.connect(host, stream).await.map_err(|error| {
                let message = format!("Redis at {} refused TLS, or is not who it should be", target.endpoint);
                Error::new(Kind::Unavailable, "connect", message)
                    .because(error)
                    .advise("Check the port, and tls-ca in the backend URL")
            })?;
            Ok(Box::new(stream))
        }
    }
}

fn tune(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

fn login(of: &Login) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default().set_db(of.database.into()).set_skip_set_lib_name();
    if let Some(user) = &of.user {
        login = login.set_username(user);
    }
    if let Some(password) = &of.password {
        login = login.set_password(password.expose());
    }
    login
}

fn reply(value: Value) -> Result<Reply, RedisError> {
    match value {
        Value::Nil => Ok(Reply::Nil),
        Value::Int(integer) => Ok(Reply::Integer(integer)),
        Value::BulkString(bytes) => Ok(Reply::Bytes(bytes.into())),
        Value::SimpleString(text) => Ok(Reply::Bytes(text.into())),
        Value::Okay => Ok(Reply::Bytes(Bytes::from_static(b"OK"))),
        Value::Array(values) => values.into_iter().map(reply).collect::<Result<_, _>>().map(Reply::List),
        Value::ServerError(error) => Err(error.into()),
        // RESP3 only, and we speak RESP2.
        _ => Err((ErrorKind::Parse, "an answer of another protocol").into()),
    }
}

/// Says what an error of the client crate means. `writes` tells whether the request would have written: then
/// whatever may have happened after it was sent has an unknown effect. Connecting writes nothing.
fn fault(operation: &'static str, writes: bool, error: RedisError) -> Error {
    let (kind, message, may_have_run) = meaning(&error);
    let fault = Error::new(kind, operation, message).because(error);
    if writes && may_have_run { fault.with_unknown_effect() } else { fault }
}

/// Returns kind, sentence, and whether the server may have run the request.
fn meaning(error: &RedisError) -> (Kind, &'static str, bool) {
    match error.kind() {
        ErrorKind::Io => (Kind::Unavailable, "the connection to Redis broke", true),
        ErrorKind::AuthenticationFailed => (Kind::Denied, "Redis refused user and password", false),
        ErrorKind::InvalidClientConfig | ErrorKind::Client => (Kind::Invalid, "the client refused", false),
        // What a script's command may not do has no code of its own, only this sentence.
        ErrorKind::Server(ServerErrorKind::ResponseError)
            if error.detail().is_some_and(|detail| detail.starts_with("The user executing the script")) =>
        {
            server_meaning(ServerErrorKind::NoPerm)
        }
        ErrorKind::Server(kind) => server_meaning(kind),
        ErrorKind::Extension => code_meaning(error.code().unwrap_or_default()),
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
            (Kind::Internal, "the server answered what is not Redis", true)
        }
        // The crate's own Sentinel and cluster, and RESP3, of which we use none; the crate may add kinds.
        _ => (Kind::Internal, "the client failed", true),
    }
}

fn server_meaning(kind: ServerErrorKind) -> (Kind, &'static str, bool) {
    match kind {
        ServerErrorKind::BusyLoading => (Kind::Unavailable, "Redis is still loading its data", false),
        ServerErrorKind::MasterDown => (Kind::Unavailable, "Redis has lost its master", false),
        ServerErrorKind::ReadOnly => {
            (Kind::Unavailable, "Redis is a replica; writes go to its master", false)
        }
        ServerErrorKind::TryAgain => (Kind::Unavailable, "Redis asks to try again", false),
        ServerErrorKind::Moved
        | ServerErrorKind::Ask
        | ServerErrorKind::ClusterDown
        | ServerErrorKind::CrossSlot => (Kind::Unsupported, CLUSTER, false),
        // Looked at for each command of a script, so that an earlier one may have written.
        ServerErrorKind::NoPerm => (Kind::Denied, "Redis does not let this user do that", true),
        // The crate may add kinds; a failed script is not rolled back.
        _ => (Kind::Internal, "Redis failed the request", true),
    }
}

fn code_meaning(code: &str) -> (Kind, &'static str, bool) {
    match code {
        "NOAUTH" | "WRONGPASS" => (Kind::Denied, "Redis refused user and password", false),
        // These four are looked at before a script's first write.
        "OOM" => (Kind::Unavailable, "Redis is full: raise its maxmemory, or delete records", false),
        "MISCONF" => (Kind::Unavailable, "Redis cannot write its data to disk", false),
        "NOREPLICAS" => (Kind::Unavailable, "Redis lacks the replicas it is told to have", false),
        "BUSY" => (Kind::Unavailable, "Redis is busy with a long script", false),
        "WRONGTYPE" => (Kind::Format, "a key of the namespace holds something foreign", true),
        _ => (Kind::Internal, "Redis failed the request", true),
    }
}

/// What is said about a cluster, whether it told us at connect or later.
pub(crate) const CLUSTER: &str = "this Redis is part of a cluster, which this driver does not speak to";

#[cfg(test)]
mod tests {
    use super::*;
    use althing_core::Effect;

    #[track_caller]
    fn check(line: &'static str, kind: Kind, effect: Effect) {
        let (code, detail) = line.split_once(' ').unwrap();
        let value = redis::parse_redis_value(format!("-{code} {detail}\r\n").as_bytes()).unwrap();
        let fault = fault("commit", true, reply(value).unwrap_err());
        assert_eq!((fault.kind(), fault.effect()), (kind, effect), "{fault}");
    }

    #[test]
    fn names_what_the_server_says_and_whether_it_may_have_run() {
        check("NOAUTH Authentication required.", Kind::Denied, Effect::None);
        check("OOM command not allowed when used memory > 'maxmemory'.", Kind::Unavailable, Effect::None);
        check("READONLY You can't write against a read only replica.", Kind::Unavailable, Effect::None);
        check("LOADING Redis is loading the dataset in memory", Kind::Unavailable, Effect::None);
        check("MOVED 3999 127.0.0.1:6381", Kind::Unsupported, Effect::None);
        check("WRONGTYPE Operation against a key", Kind::Format, Effect::Unknown);
        check("ERR Error running script", Kind::Internal, Effect::Unknown);
        check("NOPERM this user has no permissions", Kind::Denied, Effect::Unknown);
        check(
            "ERR The user executing the script can't publish to the channel",
            Kind::Denied,
            Effect::Unknown,
        );
        check("STRANGE thing", Kind::Internal, Effect::Unknown);
    }

    #[test]
    fn a_broken_connection_leaves_a_write_unknown_and_a_read_without_effect() {
        let broken = || RedisError::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!(fault("commit", true, broken()).effect(), Effect::Unknown);
        assert_eq!(fault("get", false, broken()).effect(), Effect::None);
    }
}
