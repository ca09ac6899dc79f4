//! One connection, and every error of it by name. The only file that knows the client crate.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use althing_core::{Error, Kind, Result};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::tls::{ChannelBinding, NoTls, TlsConnect, TlsStream};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{AsyncMessage, Client, Config, Connection};

use crate::operation::{Argument, Operation};
use crate::settings::Settings;
use crate::tls::Tls;

/// The kernel asks a silent peer this often whether it is there, and gives up after this many questions.
const KEEPALIVE: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// How long what was sent may stay unacknowledged, in milliseconds.
const UNACKNOWLEDGED_MS_MAX: u32 = 20_000;
/// Requests under way at once on one connection; further callers wait before it.
const REQUESTS_MAX: usize = 512;
/// Messages that nobody has taken yet; then the socket is not read.
const MESSAGES_MAX: usize = 64;
const APPLICATION: &str = "althing";

/// A connection that many callers share. Dropping it ends it, with what is still under way.
pub(crate) struct Wire {
    client: Client,
    permits: Semaphore,
    task: JoinHandle<()>,
}

impl Wire {
    /// Connects and logs in. Nothing is written, so every error has no effect.
    pub(crate) async fn dial(settings: &Settings) -> Result<Wire> {
        dial(settings).await.map(|(wire, _)| wire)
    }

    /// Tells whether the connection was still open when it was last looked at.
    pub(crate) fn is_open(&self) -> bool {
        !self.client.is_closed() && !self.task.is_finished()
    }

    /// Calls a function of the schema. One round trip, and nothing is left on the server that belongs to this
    /// connection, so that it may lead through a pooler.
    pub(crate) async fn run(&self, operation: Operation, arguments: &[Argument]) -> Result<Row> {
        let _permit = self.permits.acquire().await;
        let typed: Vec<_> =
            arguments.iter().map(|argument| (argument as &(dyn ToSql + Sync), sql_type(argument))).collect();
        let row = self.client.query_typed_one(operation.statement(), &typed).await;
        let failed = |error| fault(operation.name(), operation.writes(), error);
        Ok(Row { row: row.map_err(failed)?, operation })
    }

    /// Reads the one row that a statement gives.
    pub(crate) async fn ask(&self, statement: &str) -> Result<Row> {
        let row = self.client.query_typed_one(statement, &[]).await;
        let failed = |error| fault("connect", false, error);
        Ok(Row { row: row.map_err(failed)?, operation: Operation::Adopt })
    }

    /// Runs statements of which only an error is of interest.
    pub(crate) async fn batch(&self, statements: &str) -> Result<()> {
        self.client.batch_execute(statements).await.map_err(|error| fault("connect", false, error))
    }

    /// Says `message` to whoever listens.
    pub(crate) async fn notify(&self, channel: &str, message: &str) -> Result<()> {
        let arguments: [(&(dyn ToSql + Sync), Type); 2] = [(&channel, Type::TEXT), (&message, Type::TEXT)];
        let told = self.client.query_typed("select pg_notify($1, $2)", &arguments).await;
        told.map(drop).map_err(|error| fault("notify", false, error))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // The crate goes on until every request is answered; a hung server would keep it for ever.
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
    wire: Wire,
    messages: Receiver<String>,
}

impl Ear {
    /// Connects, logs in and listens.
    pub(crate) async fn open(settings: &Settings, channel: &str) -> Result<Ear> {
        let (wire, messages) = dial(settings).await?;
        wire.batch(&format!("listen \"{channel}\"")).await?;
        Ok(Ear { wire, messages })
    }

    /// Waits for the next message. `None` when the connection has ended. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<String> {
        self.messages.recv().await
    }

    /// Asks whether the server is there.
    pub(crate) async fn ping(&self) -> Result<()> {
        self.wire.batch("").await
    }
}

/// The one row of an answer.
#[derive(Debug)]
pub(crate) struct Row {
    row: tokio_postgres::Row,
    operation: Operation,
}

impl Row {
    pub(crate) fn flag(&self, column: &'static str) -> Result<Option<bool>> {
        self.read(column)
    }

    pub(crate) fn int(&self, column: &'static str) -> Result<Option<i32>> {
        self.read(column)
    }

    pub(crate) fn long(&self, column: &'static str) -> Result<Option<i64>> {
        self.read(column)
    }

    pub(crate) fn text(&self, column: &'static str) -> Result<Option<String>> {
        self.read(column)
    }

    pub(crate) fn bytes(&self, column: &'static str) -> Result<Option<Bytes>> {
        Ok(self.read::<&[u8]>(column)?.map(Bytes::copy_from_slice))
    }

    /// Reads a list; none is an empty one.
    pub(crate) fn longs(&self, column: &'static str) -> Result<Vec<Option<i64>>> {
        Ok(self.read(column)?.unwrap_or_default())
    }

    /// Reads a list; none is an empty one.
    pub(crate) fn texts(&self, column: &'static str) -> Result<Vec<Option<String>>> {
        Ok(self.read(column)?.unwrap_or_default())
    }

    /// Reads a list; none is an empty one.
    pub(crate) fn bytes_list(&self, column: &'static str) -> Result<Vec<Option<Bytes>>> {
        let list: Vec<Option<&[u8]>> = self.read(column)?.unwrap_or_default();
        Ok(list.into_iter().map(|item| item.map(Bytes::copy_from_slice)).collect())
    }

    fn read<'a, T: FromSql<'a>>(&'a self, column: &'static str) -> Result<Option<T>> {
        let value = self.row.try_get(column);
        value.map_err(|error| crate::answer::nonsense(self.operation, column).because(error))
    }
}

impl ToSql for Argument {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Argument::Flag(flag) => flag.to_sql(kind, out),
            Argument::Int(number) => number.to_sql(kind, out),
            Argument::Long(number) => number.to_sql(kind, out),
            Argument::Text(text) => text.to_sql(kind, out),
            Argument::Bytes(bytes) => bytes.as_deref().to_sql(kind, out),
            Argument::Longs(list) => list.to_sql(kind, out),
            Argument::BytesList(list) => {
                list.iter().map(Option::as_deref).collect::<Vec<_>>().to_sql(kind, out)
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

fn sql_type(argument: &Argument) -> Type {
    match argument {
        Argument::Flag(_) => Type::BOOL,
        Argument::Int(_) => Type::INT4,
        Argument::Long(_) => Type::INT8,
        Argument::Text(_) => Type::TEXT,
        Argument::Bytes(_) => Type::BYTEA,
        Argument::Longs(_) => Type::INT8_ARRAY,
        Argument::BytesList(_) => Type::BYTEA_ARRAY,
    }
}

async fn dial(settings: &Settings) -> Result<(Wire, Receiver<String>)> {
    let unreachable = |error: std::io::Error| {
        let message = format!("PostgreSQL at {} cannot be reached", settings.address());
        Error::new(Kind::Unavailable, "connect", message).because(error)
    };
    let stream = TcpStream::connect((settings.host.as_str(), settings.port)).await.map_err(unreachable)?;
    tune(&stream).map_err(unreachable)?;
    let config = login(settings);
    let (told, messages) = channel(MESSAGES_MAX);
    let started = match settings.tls.clone() {
        None => config.connect_raw(stream, NoTls).await.map(|made| start(made, told)),
        Some(tls) => config.connect_raw(stream, Greeting(tls)).await.map(|made| start(made, told)),
    };
    let (client, task) = started.map_err(|error| fault("connect", false, error))?;
    Ok((Wire { client, permits: Semaphore::new(REQUESTS_MAX), task }, messages))
}

fn start<S>(made: (Client, Connection<TcpStream, S>), told: Sender<String>) -> (Client, JoinHandle<()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = made;
    (client, tokio::spawn(drive(connection, told)))
}

/// Moves what comes and goes until the connection ends.
async fn drive<S>(mut connection: Connection<TcpStream, S>, told: Sender<String>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(notification) = message {
            // Only an ear keeps the other end.
            let _ = told.send(notification.payload().to_owned()).await;
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
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS_MAX)?;
    Ok(())
}

fn login(settings: &Settings) -> Config {
    let mut config = Config::new();
    config.user(&settings.user).dbname(&settings.database).application_name(APPLICATION);
    config.ssl_mode(if settings.tls.is_some() { SslMode::Require } else { SslMode::Disable });
    if let Some(password) = &settings.password {
        config.password(password.expose());
    }
    config
}

/// Our TLS, as the crate wants it.
struct Greeting(Tls);

impl TlsConnect<TcpStream> for Greeting {
    type Stream = Greeted;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Greeted>> + Send>>;

    fn connect(self, stream: TcpStream) -> Self::Future {
        Box::pin(async move { self.0.connect(stream).await.map(Greeted) })
    }
}

struct Greeted(tokio_rustls::client::TlsStream<TcpStream>);

impl TlsStream for Greeted {
    fn channel_binding(&self) -> ChannelBinding {
        // The server was verified by its certificate.
        ChannelBinding::none()
    }
}

impl AsyncRead for Greeted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Says what an error of the client crate means. `writes` tells whether the request would have written: then
/// whatever may have happened after it was sent has an unknown effect. Connecting writes nothing.
fn fault(operation: &'static str, writes: bool, error: tokio_postgres::Error) -> Error {
    let (kind, message, advice, may_have_run) = meaning(&error);
    let fault = Error::new(kind, operation, message);
    let fault = if advice.is_empty() { fault } else { fault.advise(advice) };
    // The crate's own sentence is "db error"; the one worth reading is its cause.
    let fault = match error.into_source() {
        Some(source) => fault.because(source),
        None => fault,
    };
    if writes && may_have_run { fault.with_unknown_effect() } else { fault }
}

/// Kind, sentence, advice, and whether the server may have run the request.
type Meaning = (Kind, &'static str, &'static str, bool);

const BROKEN: Meaning = (Kind::Unavailable, "the connection to PostgreSQL broke", "", true);

fn meaning(error: &tokio_postgres::Error) -> Meaning {
    if let Some(error) = error.as_db_error() {
        let (kind, message, advice) = code_meaning(error.code().code());
        return (kind, message, advice, !is_rolled_back(error));
    }
    let source = std::error::Error::source(error);
    // The crate names its other errors by their sentences only.
    match error.to_string().as_str() {
        "error performing TLS handshake" => (
            Kind::Unavailable,
            "PostgreSQL refused TLS, or is not who it should be",
            "Check the port, tls-ca in the backend URL, and ssl in the server's configuration",
            false,
        ),
        "invalid configuration" => (
            Kind::Denied,
            "PostgreSQL asks for a password",
            "Write postgresql://user:password@host/database",
            false,
        ),
        "authentication error" => (Kind::Denied, "PostgreSQL asks for a login we do not know", "", false),
        _ if error.is_closed() || source.is_some_and(|source| source.is::<std::io::Error>()) => BROKEN,
        _ => (Kind::Internal, "the server answered what is not PostgreSQL", "", true),
    }
}

/// An error ends the statement and takes back what it did; what ends the connection may have come after it.
fn is_rolled_back(error: &DbError) -> bool {
    error.parsed_severity() == Some(Severity::Error)
}

fn code_meaning(code: &str) -> (Kind, &'static str, &'static str) {
    match code {
        "55P03" => (
            Kind::Timeout,
            "another session of PostgreSQL holds the namespace",
            "Look for it in pg_locks and pg_stat_activity",
        ),
        "57014" => (Kind::Timeout, "PostgreSQL cancelled the statement", ""),
        "28P01" | "28000" => (Kind::Denied, "PostgreSQL refused user and password", ""),
        "42501" => (
            Kind::Denied,
            "PostgreSQL does not let this user do that",
            "It needs the right to create in the database, or the schema made by its owner and schema=given",
        ),
        "3D000" => (Kind::Invalid, "there is no such database", "Create it, or name another in the URL"),
        "25006" => (Kind::Unavailable, READ_ONLY, "Name the primary in the backend URL"),
        "42P01" | "42703" | "42883" | "3F000" | "42P02" | "42804" => (
            Kind::Format,
            "the schema althing is not as this version makes it",
            "Drop it, choose another database, or run the host of the version that made it",
        ),
        // Two ran into each other, or a row was locked in another order: nothing was written.
        "40001" | "40P01" => (Kind::Unavailable, "PostgreSQL asks to try again", ""),
        "53300" => (Kind::Unavailable, "PostgreSQL has no connection left", "Raise max_connections"),
        "57P03" => (Kind::Unavailable, "PostgreSQL is starting or stopping", ""),
        "57P01" | "57P02" | "57P05" => BROKEN_BY_SERVER,
        _ if code.starts_with("08") => BROKEN_BY_SERVER,
        _ if code.starts_with("53") => (Kind::Unavailable, "PostgreSQL has run out of something", ""),
        _ => (Kind::Internal, "PostgreSQL failed the request", ""),
    }
}

const BROKEN_BY_SERVER: (Kind, &str, &str) = (Kind::Unavailable, "PostgreSQL ended the connection", "");

/// What is said about a server that does not write, whether it told us at connect or later.
pub(crate) const READ_ONLY: &str = "this PostgreSQL only reads: a standby, or set so";
