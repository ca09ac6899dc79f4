//! The waist spoken over the Unix socket of a host: the calls of [`Driver`](althing_core::Driver) as messages, for
//! whoever shares the host's backend without its URL.
//!
//! A connection begins as `POST /v1/waist` with `Upgrade: althing-waist/1`. After the 101 each message is four bytes of
//! length and a value in MessagePack, its fields by name, so that later versions can add some. (Postcard would be
//! shorter, and every new field another protocol.) The host begins with a [`Greeting`]. Then
//!
//! - a connection for calls carries [`Request`]s, and an [`Answer`] to each, in any order;
//! - a connection whose first request is [`Call::Watch`] carries [`Told`] from then on and nothing else.
//!
//! A session lives as long as the connection for calls on which it was opened, or renewed after a restart of the host.

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use althing_core::info::ErrorInfo;
use althing_core::{
    Capability, Change, Committed, Effect, Error, Key, Kind, Lease, Page, Record, Result, Revision, Session,
    SessionId, Txn, limits,
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::{Method, Request as HttpRequest, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::codec::{Decoder, FramedRead, FramedWrite, LengthDelimitedCodec};

use crate::Address;
use crate::connection::{Task, check_host};
use crate::failure::told;
use crate::wire::{BACKEND_HEADER, path, query_value};

/// What is spoken after the upgrade. Another number is another protocol.
pub const PROTOCOL: &str = "althing-waist/1";

/// The route that is asked for the upgrade, below [`BASE`](crate::wire::BASE).
pub const ROUTE: &str = "waist";

/// The first message of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// What the backend promises to whoever speaks here.
    pub capability: Capability,
}

/// A message to the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Comes back in the answer. Not used twice while it is under way.
    pub id: u64,
    /// What is asked.
    pub call: Call,
}

/// One call of the waist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// `Driver::open`.
    Open {
        /// The lease that is asked for.
        ask: Duration,
    },
    /// `Driver::renew`.
    Renew(SessionId),
    /// `Driver::close`.
    Close(SessionId),
    /// `Driver::get`.
    Get(Key),
    /// `Driver::list`.
    List {
        /// What the keys begin with.
        prefix: Key,
        /// Where to go on.
        after: Option<Key>,
        /// The most records.
        limit: u32,
    },
    /// `Driver::commit`.
    Commit(Txn),
    /// `Driver::watch`: only as the first request of a connection, which is the watch's from then on.
    Watch {
        /// What the keys begin with.
        prefix: Key,
        /// What was seen already.
        from: Revision,
    },
}

/// What the host says to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The request's.
    pub id: u64,
    /// What came of it.
    pub result: Result<Reply, Failure>,
}

/// What a call gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// To `open`.
    Session(Session),
    /// To `renew`.
    Lease(Lease),
    /// To `close`, and to `watch`.
    Done,
    /// To `get`.
    Record(Option<Record>),
    /// To `list`.
    Page(Page),
    /// To `commit`.
    Committed(Committed),
}

/// What a watch tells. A delta may come in several messages, so that none is too large.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// Changes of a delta.
    Changes {
        /// Some of them.
        changes: Vec<Change>,
        /// The revision of the whole delta.
        revision: Revision,
        /// More of the same delta follow.
        more: bool,
    },
    /// Records of a resync.
    Records {
        /// Some of them.
        records: Vec<Record>,
        /// The revision of the whole snapshot.
        revision: Revision,
        /// More of the same snapshot follow.
        more: bool,
    },
    /// The backend failed; the watch goes on.
    Failed(Failure),
}

/// An error on its way: all that [`Error`] has, so that nobody has to read sentences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its kind, by name: one that is not known here is an internal one.
    kind: String,
    effect: Effect,
    message: String,
    advice: Option<String>,
    context: Vec<(String, String)>,
    cause: Option<String>,
}

/// What drivers and their layers call the context of errors. `Error` keeps names that live as long as the program: what
/// is called otherwise, as by a later version, is told within the sentence.
const CONTEXT: &[&str] = &[
    "backend",
    "database",
    "etcd key",
    "file",
    "key",
    "level",
    "namespace",
    "node",
    "path",
    "races",
    "sentinels",
    "server",
    "servers",
    "session",
    "starts",
    "url",
];

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let context = error.context().iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        Failure {
            kind: error.kind().to_string(),
            effect: error.effect(),
            message: error.message().to_owned(),
            advice: error.advice().map(String::from),
            context: context.collect(),
            cause: std::error::Error::source(error).map(ToString::to_string),
        }
    }
}

impl Failure {
    /// Makes the error that it was there, as one of `operation`. That the host ends is an outage to others.
    pub fn into_error(self, operation: &'static str) -> Error {
        let kind: Result<_, serde::de::value::Error> =
            Kind::deserialize(self.kind.as_str().into_deserializer());
        let kind = match kind {
            Ok(Kind::Closed) => Kind::Unavailable,
            Ok(kind) => kind,
            Err(_) => Kind::Internal,
        };
        let (mut message, mut context) = (self.message, Vec::new());
        for (name, value) in self.context {
            match CONTEXT.iter().find(|known| **known == name) {
                Some(known) => context.push((*known, value)),
                None => message += &format!(" ({name}={value})"),
            }
        }
        let mut error = Error::new(kind, operation, message);
        for (name, value) in context {
            error = error.with(name, value);
        }
        if self.effect == Effect::Unknown {
            error = error.with_unknown_effect();
        }
        if let Some(cause) = self.cause {
            error = error.because(cause);
        }
        match self.advice {
            Some(advice) => error.advise(advice),
            None => error,
        }
    }
}

/// Writes a message.
pub fn encode(message: &impl Serialize) -> Result<Bytes> {
    let bytes = rmp_serde::to_vec_named(message).map_err(|error| {
        Error::new(Kind::Internal, "waist", "a message cannot be said in MessagePack").because(error)
    })?;
    let (length, most) = (bytes.len(), limits::WAIST_FRAME_BYTES_MAX);
    if length > most {
        let error = format!("a message of {length} bytes; at most {most}");
        return Err(Error::new(Kind::TooLarge, "waist", error));
    }
    Ok(bytes.into())
}

/// Reads a message. Fails with `Invalid` where it is not one of these.
pub fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T> {
    rmp_serde::from_slice(frame).map_err(|error| {
        let message = format!("a message that is not understood: {error}");
        Error::new(Kind::Invalid, "waist", message)
    })
}

/// Makes what takes messages apart. One that is too large is an error before it is read.
pub fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(limits::WAIST_FRAME_BYTES_MAX).new_codec()
}

/// Where the waist is spoken, and to which part of which backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The host's socket.
    pub socket: PathBuf,
    /// The part of its namespace; its own where there is none.
    pub namespace: Option<String>,
    /// The backend's name there; its only one, or that called `default`, where there is none.
    pub backend: Option<String>,
}

/// A connection on which nothing was asked yet. It closes when both halves are dropped.
#[derive(Debug)]
pub struct Dialled {
    /// What the host said first.
    pub greeting: Greeting,
    /// What it says.
    pub frames: FramedRead<OwnedReadHalf, LengthDelimitedCodec>,
    /// What is said to it.
    pub sink: FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>,
}

/// Connects to a host and asks for the waist. Fails with `Unavailable` where nobody answers; `Denied` where we may not, or
/// where whoever answers is neither root nor our own user, unless we are root; `Unsupported` where the host is of a version
/// that does not speak it; and with what the host says else. Nothing was written then. Waits for as long as the host takes.
pub async fn dial(operation: &'static str, place: &Place) -> Result<Dialled> {
    let address = Address::Unix(place.socket.clone());
    let broken = |what: &dyn Display| {
        Error::new(Kind::Unavailable, operation, format!("the connection to {address} broke: {what}"))
    };
    let stream =
        UnixStream::connect(&place.socket).await.map_err(|error| unreachable(operation, place, error))?;
    // The host asks the kernel who we are, and we who it is: a backend is believed whatever it says.
    check_host(operation, &address, &stream)?;
    let (mut sender, driving) = handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let driving = tokio::spawn(async move { drop(driving.with_upgrades().await) });
    // Ends the connection where we are dropped before it is ours.
    let _task = Task::new(driving.abort_handle());
    let response = sender.send_request(request(operation, place)?).await.map_err(|error| broken(&error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(operation, &address, response).await);
    }
    if response.headers().get(UPGRADE).is_none_or(|protocol| protocol != PROTOCOL) {
        return Err(stranger(operation, &address, "another protocol than was asked for"));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| broken(&error))?;
    let Ok(parts) = upgraded.downcast::<TokioIo<UnixStream>>() else {
        return Err(Error::new(Kind::Internal, operation, "an upgraded connection that is none of ours"));
    };
    let (read, write) = parts.io.into_inner().into_split();
    let mut frames = FramedRead::new(read, codec());
    let first = first(&mut frames, &parts.read_buf).await.map_err(|error| broken(&error))?;
    let greeting = decode(&first).map_err(|error| stranger(operation, &address, error))?;
    Ok(Dialled { greeting, frames, sink: FramedWrite::new(write, codec()) })
}

/// Reads the first message of the host, of which some or all may have come `early`, together with the 101.
async fn first(
    frames: &mut FramedRead<OwnedReadHalf, LengthDelimitedCodec>,
    early: &[u8],
) -> io::Result<BytesMut> {
    let mut early = BytesMut::from(early);
    // A reader looks into its buffer only after it has read more. Its own codec looks here: that knows of a length which
    // it has taken out already.
    let first = frames.decoder_mut().decode(&mut early)?;
    *frames.read_buffer_mut() = early;
    match first {
        Some(frame) => Ok(frame),
        None => frames
            .next()
            .await
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "it was closed"))?,
    }
}

fn request(operation: &'static str, place: &Place) -> Result<HttpRequest<Empty<Bytes>>> {
    let mut route = path([ROUTE]);
    if let Some(namespace) = &place.namespace {
        route = format!("{route}?namespace={}", query_value(namespace));
    }
    let mut request = HttpRequest::builder()
        .method(Method::POST)
        .uri(route)
        .header(HOST, "localhost")
        .header(CONNECTION, "upgrade")
        .header(UPGRADE, PROTOCOL);
    if let Some(backend) = &place.backend {
        request = request.header(BACKEND_HEADER, backend);
    }
    request.body(Empty::new()).map_err(|error| {
        let message = "the backend's name holds what no header may hold";
        Error::new(Kind::Invalid, operation, message).because(error)
    })
}

async fn refused(operation: &'static str, address: &Address, response: Response<Incoming>) -> Error {
    let status = response.status();
    let body = Limited::new(response.into_body(), limits::BODY_BYTES_MAX).collect().await;
    let info = body.ok().and_then(|body| serde_json::from_slice::<ErrorInfo>(&body.to_bytes()).ok());
    match info {
        Some(info) if info.kind == Kind::NotFound && info.message.contains(&path([ROUTE])) => {
            let message = format!("the host at {address} does not let others use its backend");
            Error::new(Kind::Unsupported, operation, message).advise("It is of an older version: update it")
        }
        Some(info) => told(operation, &info),
        None => stranger(operation, address, status),
    }
}

fn unreachable(operation: &'static str, place: &Place, source: io::Error) -> Error {
    use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    let socket = place.socket.display();
    match source.kind() {
        ConnectionRefused | NotFound => {
            Error::new(Kind::Unavailable, operation, format!("no host answers at unix:{socket}"))
                .advise(format!("Start one with `althing serve --socket {socket}`, or name the socket of one that runs, as in ipc:///run/althing.sock"))
        }
        PermissionDenied => {
            Error::new(Kind::Denied, operation, format!("unix:{socket} may not be opened"))
                .advise("Run as the user of the host, or as root")
        }
        _ => Error::new(Kind::Unavailable, operation, format!("unix:{socket} cannot be reached")),
    }
    .because(source)
}

fn stranger(operation: &'static str, address: &Address, what: impl Display) -> Error {
    Error::new(Kind::Unsupported, operation, format!("{address} answered what no host answers: {what}"))
        .advise("See whether it is an althing host, and of this version")
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use althing_core::{Cause, Guard, Stamp};
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[track_caller]
    fn check_same<T: Serialize + DeserializeOwned + Debug>(message: &T) {
        let read: T = decode(&encode(message).unwrap()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{message:?}"));
    }

    #[test]
    fn messages_come_back_as_they_were_written() {
        let (key, id) = (Key::new(vec![0, 0xFF, b'/']), SessionId(u128::MAX - 7));
        let stamp = Stamp { created: Revision(u64::MAX), modified: Revision(1) };
        let value = Bytes::from(vec![0xFE; 300]);
        let txn = Txn::new()
            .guard(Guard::Absent(key.clone()))
            .guard(Guard::Unchanged(key.clone(), stamp))
            .put_owned(key.clone(), value.clone(), id)
            .delete(Key::default());
        for call in [
            Call::Open { ask: Duration::MAX },
            Call::Renew(id),
            Call::List { prefix: key.clone(), after: Some(Key::default()), limit: 7 },
            Call::Commit(txn),
            Call::Watch { prefix: key.clone(), from: Revision(3) },
        ] {
            check_same(&Request { id: u64::MAX, call });
        }
        let record = Record { key: key.clone(), value, session: Some(id), stamp };
        check_same(&Answer { id: 1, result: Ok(Reply::Record(None)) });
        check_same(&Answer { id: 1, result: Ok(Reply::Record(Some(record.clone()))) });
        let deleted = Change::Deleted { key, last: stamp, revision: Revision(9), cause: Cause::Expired };
        let changes = vec![Change::Put(record.clone()), deleted];
        check_same(&Told::Changes { changes, revision: Revision(9), more: true });
        check_same(&Told::Records { records: vec![record], revision: Revision(9), more: false });
    }

    #[test]
    fn an_error_keeps_all_that_it_has() {
        let there = Error::new(Kind::Timeout, "commit", "no answer within 2 s")
            .with("key", "group/web")
            .with_unknown_effect()
            .because(io::Error::other("reset"))
            .advise("Check the backend");
        let frame = encode(&Failure::from(&there)).unwrap();
        let here = decode::<Failure>(&frame).unwrap().into_error("commit");
        assert_eq!(here.to_string(), there.to_string());
        assert_eq!((here.kind(), here.effect()), (there.kind(), there.effect()));
        assert_eq!(here.context(), there.context());
    }

    #[test]
    fn what_drivers_name_keeps_its_name_and_nothing_else_is_lost() {
        let error =
            CONTEXT.iter().fold(Error::new(Kind::Format, "get", "odd"), |error, name| error.with(name, 7));
        let known = Failure::from(&error).into_error("get");
        assert_eq!((known.message(), known.context()), ("odd", error.context()));
        let error =
            Error::new(Kind::Busy, "get", "later").with("colour", "red").with("key", "a").with("tone", 3);
        let told = Failure::from(&error).into_error("get");
        assert_eq!(told.to_string(), "get: later (colour=red) (tone=3) (key=a)");
    }

    #[tokio::test]
    async fn a_first_message_is_whole_however_much_of_it_comes_with_the_upgrade() {
        let bytes = b"\0\0\0\x05hello\0\0\0\x03you";
        for cut in 0..=9 {
            let (mut host, here) = UnixStream::pair().unwrap();
            let mut frames = FramedRead::new(here.into_split().0, codec());
            host.write_all(&bytes[cut..]).await.unwrap();
            assert_eq!(&first(&mut frames, &bytes[..cut]).await.unwrap()[..], b"hello", "{cut} came early");
            assert_eq!(&frames.next().await.unwrap().unwrap()[..], b"you", "{cut} came early");
        }
        let (_, here) = UnixStream::pair().unwrap();
        let mut frames = FramedRead::new(here.into_split().0, codec());
        assert!(first(&mut frames, b"").await.unwrap_err().to_string().contains("closed"));
    }

    #[test]
    fn what_a_later_version_adds_is_passed_over() {
        #[derive(Serialize)]
        struct Later {
            id: u64,
            colour: &'static str,
            call: Call,
        }
        let frame = encode(&Later { id: 4, colour: "red", call: Call::Renew(SessionId(1)) }).unwrap();
        assert_eq!(decode::<Request>(&frame).unwrap(), Request { id: 4, call: Call::Renew(SessionId(1)) });
        let frame = encode(&("red", 1)).unwrap();
        assert_eq!(decode::<Request>(&frame).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn a_kind_that_is_not_known_here_is_an_internal_one_and_the_end_of_a_host_an_outage() {
        let mut failure = Failure::from(&Error::new(Kind::Busy, "get", "later"));
        assert_eq!(failure.clone().into_error("get").kind(), Kind::Busy);
        failure.kind = "closed".into();
        assert_eq!(failure.clone().into_error("get").kind(), Kind::Unavailable);
        failure.kind = "weather".into();
        assert_eq!(failure.into_error("get").kind(), Kind::Internal);
    }
}
