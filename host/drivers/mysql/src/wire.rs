//! One connection, and every error of it by name. The only file that knows the client crate.

use std::fmt;
use std::time::Duration;

use althing_core::{Error, Kind, Result, limits};
use bytes::Bytes;
use mysql_async::prelude::{FromValue, Queryable};
use mysql_async::{ClientIdentity, Conn, DriverError, IoError, OptsBuilder, ServerError, SslOpts, Value};
use tokio::task::JoinHandle;

use crate::operation::{Argument, Operation};
use crate::settings::Settings;
use crate::tls::Tls;

/// The kernel asks a silent peer this soon whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// The server ends a connection that is silent for longer, in seconds: a day.
const SILENCE_MAX: u32 = 86_400;
/// The longest answer the client takes, in bytes.
const PACKET_BYTES_MAX: usize = 1 << 30;
/// Statements kept prepared: all there are.
const STATEMENTS_MAX: usize = 32;
/// How often a statement is sent again that the server took back because it ran into another one.
const AGAIN_MAX: u32 = 8;
/// Of how many bytes the server sorts by: the longest name, and its length, which follows it there.
const SORT_BYTES: usize = 2 * limits::KEY_BYTES_MAX;

/// A connection. It does one thing at a time; dropping it ends it.
pub(crate) struct Wire {
    conn: Conn,
}

/// What the server answered: one row, and the rows of a second result.
#[derive(Debug)]
pub(crate) struct Reply {
    /// None where a procedure found no row to tell of.
    pub(crate) head: Option<Row>,
    pub(crate) rows: Vec<Row>,
}

impl Wire {
    /// Connects and logs in. Nothing is written, so every error has no effect.
    pub(crate) async fn dial(settings: &Settings) -> Result<Wire> {
        match Task::spawn(Conn::new(options(settings))).end().await {
            Some(Ok(conn)) => Ok(Wire { conn }),
            Some(Err(error)) => Err(not_connected(settings, error)),
            None => Err(panicked("connect")),
        }
    }

    /// Calls a procedure of the schema: one round trip, and one before it to prepare the statement where this connection
    /// has not sent it before. Gives the connection back where it can be used again. Where the caller goes away, so does
    /// the connection.
    pub(crate) async fn run(
        self,
        operation: Operation,
        arguments: Vec<Argument>,
    ) -> (Option<Wire>, Result<Reply>) {
        let request = Request::Call(operation, arguments);
        let (wire, reply) = self.exchange(request).await;
        let reply = reply.unwrap_or_else(|| Err(Failure::Panicked { sent: true }));
        let fault = |failure: Failure| failure.fault(operation.name(), operation.writes());
        (wire, reply.map(|reply| reply.of(operation)).map_err(fault))
    }

    /// Runs a statement that changes nothing but the schema, and reads the one row that it gives, if it does.
    pub(crate) async fn ask(self, statement: String) -> Result<(Wire, Option<Row>)> {
        let (wire, reply) = self.exchange(Request::Ask(statement)).await;
        let reply = reply.unwrap_or_else(|| Err(Failure::Panicked { sent: true }));
        let reply = reply.map_err(|failure| failure.fault("connect", false))?;
        let broken = || Error::new(Kind::Unavailable, "connect", BROKEN.1);
        Ok((wire.ok_or_else(broken)?, reply.of(Operation::Adopt).head))
    }

    /// In a task of its own: what the crate makes of a foreign server must not tear down whoever calls.
    async fn exchange(self, request: Request) -> (Option<Wire>, Option<Result<Sets, Failure>>) {
        let mut held = Held(Some(self.conn));
        let work = async move {
            let done = request.send_over(&mut held).await;
            let is_clean = match &done {
                Ok(_) => true,
                Err(failure) => failure.is_taken_back() && held.takes_back().await,
            };
            (if is_clean { held.0.take() } else { None }, done)
        };
        match Task::spawn(work).end().await {
            Some((conn, done)) => (conn.map(|conn| Wire { conn }), Some(done)),
            None => (None, None),
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("connection", &self.conn.id()).finish_non_exhaustive()
    }
}

/// Work that goes on only while somebody waits for it.
struct Task<T>(JoinHandle<T>);

impl<T: Send + 'static> Task<T> {
    fn spawn(work: impl Future<Output = T> + Send + 'static) -> Task<T> {
        Task(tokio::spawn(work))
    }

    /// Waits for it. `None` where it panicked.
    async fn end(mut self) -> Option<T> {
        (&mut self.0).await.ok()
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection in the middle of something.
struct Held(Option<Conn>);

impl Held {
    /// Makes the server take back whatever it has not yet. False where it does not say that it did.
    async fn takes_back(&mut self) -> bool {
        let Some(conn) = &mut self.0 else { return false };
        conn.query_drop(TAKE_BACK).await.is_ok()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(conn) = self.0.take() else { return };
        // Within the runtime the crate would first read the answer to the end, and a hung server would keep it for
        // ever; outside of it the socket is closed.
        let _ = std::thread::Builder::new().spawn(move || drop(conn));
    }
}

enum Request {
    Call(Operation, Vec<Argument>),
    Ask(String),
}

/// The first two results of a request.
struct Sets(Vec<mysql_async::Row>, Vec<mysql_async::Row>);

impl Sets {
    fn of(self, operation: Operation) -> Reply {
        let row = |row| Row { row, operation };
        Reply { head: self.0.into_iter().next().map(row), rows: self.1.into_iter().map(row).collect() }
    }
}

impl Request {
    async fn send_over(self, held: &mut Held) -> Result<Sets, Failure> {
        let Some(conn) = &mut held.0 else { return Err(Failure::Panicked { sent: false }) };
        let not_sent = |error| Failure::Failed { error, sent: false };
        let sent = |error| Failure::Failed { error, sent: true };
        match self {
            Request::Ask(statement) => {
                let mut result = conn.query_iter(statement).await.map_err(sent)?;
                let first = result.collect().await.map_err(sent)?;
                result.drop_result().await.map_err(sent)?;
                Ok(Sets(first, Vec::new()))
            }
            Request::Call(operation, arguments) => {
                let statement = conn.prep(operation.statement()).await.map_err(not_sent)?;
                let values: Vec<Value> = arguments.into_iter().map(value).collect();
                for _ in 0..AGAIN_MAX {
                    match call(conn, &statement, values.clone()).await {
                        Err(mysql_async::Error::Server(error)) if AGAIN.contains(&error.code) => {
                            conn.query_drop(TAKE_BACK).await.map_err(not_sent)?;
                        }
                        done => return done.map_err(sent),
                    }
                }
                call(conn, &statement, values).await.map_err(sent)
            }
        }
    }
}

async fn call(
    conn: &mut Conn,
    statement: &mysql_async::Statement,
    values: Vec<Value>,
) -> mysql_async::Result<Sets> {
    let mut result = conn.exec_iter(statement, values).await?;
    let first = result.collect().await?;
    let second = if result.is_empty() { Vec::new() } else { result.collect().await? };
    // To the end: an error may come after the rows.
    result.drop_result().await?;
    Ok(Sets(first, second))
}

fn value(argument: Argument) -> Value {
    match argument {
        Argument::Long(number) => Value::Int(number),
        Argument::Bytes(None) => Value::NULL,
        Argument::Bytes(Some(bytes)) => Value::Bytes(bytes.into()),
    }
}

/// A row of an answer. Each column can be read once.
#[derive(Debug)]
pub(crate) struct Row {
    row: mysql_async::Row,
    operation: Operation,
}

impl Row {
    pub(crate) fn long(&mut self, column: &'static str) -> Result<Option<i64>> {
        self.read(column)
    }

    pub(crate) fn bytes(&mut self, column: &'static str) -> Result<Option<Bytes>> {
        Ok(self.read::<Vec<u8>>(column)?.map(Bytes::from))
    }

    pub(crate) fn text(&mut self, column: &'static str) -> Result<Option<String>> {
        Ok(self.read::<Vec<u8>>(column)?.map(|text| String::from_utf8_lossy(&text).into_owned()))
    }

    fn read<T: FromValue>(&mut self, column: &'static str) -> Result<Option<T>> {
        match self.row.take_opt::<Option<T>, _>(column) {
            Some(Ok(value)) => Ok(value),
            Some(Err(_)) | None => Err(crate::answer::nonsense(self.operation, column)),
        }
    }
}

fn options(settings: &Settings) -> OptsBuilder {
    // Seconds, of which the server knows no parts; less than a call may take, so that its answer says that nothing was
    // done before we give up.
    let patience = (settings.timeout / 2).as_secs().max(1);
    // Whatever the server's own settings would make of a transaction, of its end, and of an order.
    let session = format!(
        "set autocommit = 1, completion_type = 0, max_sort_length = {SORT_BYTES}, \
         innodb_lock_wait_timeout = {patience}, lock_wait_timeout = {patience}, wait_timeout = {SILENCE_MAX}, \
         names binary"
    );
    let isolation = "set session transaction isolation level read committed".to_owned();
    OptsBuilder::default()
        .ip_or_hostname(&settings.host)
        .tcp_port(settings.port)
        .user(Some(&settings.user))
        .pass(settings.password.as_ref().map(|password| password.expose()))
        .db_name(Some(&settings.database))
        .ssl_opts(settings.tls.as_ref().map(trust))
        .init(vec![session, isolation])
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE))
        .prefer_socket(false)
        .stmt_cache_size(STATEMENTS_MAX)
        // Said here so that it does not ask.
        .max_allowed_packet(Some(PACKET_BYTES_MAX))
        .wait_timeout(Some(SILENCE_MAX as usize))
}

fn trust(tls: &Tls) -> SslOpts {
    let identity =
        tls.identity.clone().map(|(certificate, key)| ClientIdentity::new(certificate.into(), key.into()));
    SslOpts::default()
        .with_disable_built_in_roots(true)
        .with_root_certs(tls.authorities.iter().map(|one| one.clone().into()).collect())
        .with_client_identity(identity)
}

/// How a request went wrong.
#[derive(Debug)]
enum Failure {
    Failed {
        error: mysql_async::Error,
        sent: bool,
    },
    /// The crate did not expect what the server said.
    Panicked {
        sent: bool,
    },
}

impl Failure {
    /// Tells whether the server took back what it had begun. Of no other error is that sure: a procedure that was killed
    /// may not get to its `rollback`, and its transaction would go on with whatever is sent next.
    fn is_taken_back(&self) -> bool {
        let Failure::Failed { error: mysql_async::Error::Server(error), .. } = self else { return false };
        error.code == LOCKED || AGAIN.contains(&error.code)
    }

    /// Says what it means. `writes` tells whether the request would have written: then whatever may have happened after it
    /// was sent has an unknown effect. Connecting writes nothing.
    fn fault(self, operation: &'static str, writes: bool) -> Error {
        match self {
            Failure::Panicked { sent } => {
                let fault = panicked(operation);
                if writes && sent { fault.with_unknown_effect() } else { fault }
            }
            Failure::Failed { error, sent } => {
                let (meaning, may_have_run) = meaning(&error);
                let fault = told(operation, meaning).because(error);
                if writes && sent && may_have_run { fault.with_unknown_effect() } else { fault }
            }
        }
    }
}

fn panicked(operation: &'static str) -> Error {
    let (kind, message, advice) = NOT_MYSQL;
    Error::new(kind, operation, message).advise(advice)
}

fn told(operation: &'static str, (kind, message, advice): Meaning) -> Error {
    let error = Error::new(kind, operation, message);
    if advice.is_empty() { error } else { error.advise(advice) }
}

/// Kind, sentence, advice.
type Meaning = (Kind, &'static str, &'static str);

const BROKEN: Meaning = (Kind::Unavailable, "the connection to MySQL broke", "");
const ENDED: Meaning = (Kind::Unavailable, "MySQL ended the connection", "");
const NOT_MYSQL: Meaning =
    (Kind::Internal, "the server answered what is not MySQL", "Check host and port in the backend URL");
const NO_TLS: Meaning = (
    Kind::Unavailable,
    "MySQL refused TLS, or is not who it should be",
    "Check the port, tls-ca in the backend URL, and ssl_cert in the server's configuration",
);
const NO_LOGIN: Meaning =
    (Kind::Denied, "MySQL asks for a login we do not know", "Use TLS, or another plugin for this user");

/// What is said about a server that does not write, whether it told us at connect or later.
pub(crate) const READ_ONLY: &str = "this MySQL only reads: a replica, or set so";

/// It ran into another one, or a row changed under it, and the server has taken back all of it.
const AGAIN: [u16; 2] = [1213, 1020];
/// It waited for a lock for too long.
const LOCKED: u16 = 1205;
/// Said also where the procedure has taken all back: somebody may have killed it before it came to that.
const TAKE_BACK: &str = "rollback";

/// Says what an error means, and whether the server may have done what was asked.
fn meaning(error: &mysql_async::Error) -> (Meaning, bool) {
    match error {
        mysql_async::Error::Server(error) => server_meaning(error),
        mysql_async::Error::Io(_) | mysql_async::Error::Driver(DriverError::ConnectionClosed) => {
            (BROKEN, true)
        }
        _ => (NOT_MYSQL, true),
    }
}

/// Says why there is no connection. Nothing was written.
fn not_connected(settings: &Settings, error: mysql_async::Error) -> Error {
    let meaning = match &error {
        mysql_async::Error::Server(error) => server_meaning(error).0,
        mysql_async::Error::Io(IoError::Tls(_)) => NO_TLS,
        mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer) => NO_TLS,
        // What rustls finds wrong comes as such an error.
        mysql_async::Error::Io(IoError::Io(error))
            if settings.tls.is_some() && error.kind() == std::io::ErrorKind::InvalidData =>
        {
            NO_TLS
        }
        mysql_async::Error::Io(_) | mysql_async::Error::Driver(DriverError::ConnectionClosed) => {
            let message = format!("MySQL at {} cannot be reached", settings.address());
            return Error::new(Kind::Unavailable, "connect", message).because(error);
        }
        mysql_async::Error::Driver(
            DriverError::UnknownAuthPlugin { .. }
            | DriverError::MysqlOldPasswordDisabled
            | DriverError::CleartextPluginDisabled,
        ) => NO_LOGIN,
        _ => NOT_MYSQL,
    };
    told("connect", meaning).because(error)
}

fn server_meaning(error: &ServerError) -> (Meaning, bool) {
    let before_it_ran = |kind, message, advice| ((kind, message, advice), false);
    match error.code {
        LOCKED => before_it_ran(
            Kind::Timeout,
            "another session of MySQL holds the namespace",
            "Look for it in information_schema.innodb_trx and with show processlist",
        ),
        1213 | 1020 => before_it_ran(Kind::Unavailable, "MySQL asks to try again", ""),
        1045 | 1698 => before_it_ran(
            Kind::Denied,
            "MySQL refused user and password",
            "Check both, and whether this user must use TLS (tls=true)",
        ),
        1129 | 1130 => before_it_ran(Kind::Denied, "MySQL lets nobody in from this machine", ""),
        3159 => before_it_ran(Kind::Denied, "MySQL wants TLS", "Say tls=true in the backend URL"),
        1044 | 1142 | 1143 | 1227 | 1370 => before_it_ran(
            Kind::Denied,
            "MySQL does not let this user do that",
            "It needs create and create routine in the database, or the schema made by somebody else and schema=given",
        ),
        1046 | 1049 => {
            before_it_ran(Kind::Invalid, "there is no such database", "Create it, or name another in the URL")
        }
        1290 | 1792 | 1836 => {
            before_it_ran(Kind::Unavailable, READ_ONLY, "Name the primary in the backend URL")
        }
        // The last is what `althing_claim` says of another version.
        1054 | 1146 | 1305 | 1318 | 1644 => before_it_ran(
            Kind::Format,
            "the tables and procedures of Althing are not as this version makes them",
            "Drop them, choose another database, or run the host of the version that made them",
        ),
        1153 => {
            before_it_ran(Kind::TooLarge, "this is more than MySQL takes at once", "Raise max_allowed_packet")
        }
        1040 | 1203 | 1226 => {
            before_it_ran(Kind::Unavailable, "MySQL has no connection left", "Raise max_connections")
        }
        1317 | 1969 | 3024 => ((Kind::Timeout, "MySQL cancelled the statement", ""), true),
        1021 | 1037 | 1038 | 1041 | 1114 => ((Kind::Unavailable, "MySQL has run out of something", ""), true),
        1053 | 1079 | 1152 | 1158..=1161 | 1184 | 1927 | 4031 => (ENDED, true),
        _ => ((Kind::Internal, "MySQL failed the request", ""), true),
    }
}
