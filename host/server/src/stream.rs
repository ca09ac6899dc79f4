//! Server-sent events.

use std::convert::Infallible;
use std::future::Future;
use std::marker::PhantomData;

use althing_client::wire::EVENT_STREAM;
use althing_core::info::{Event, SessionEvent};
use althing_core::limits;
use althing_runtime::{GroupStream, SessionStream};
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::openapi::{Answers, Operation};

/// Where events come from. A call of `next` that is dropped loses nothing.
pub(crate) trait Source: Send + 'static {
    /// What comes.
    type Item: Serialize + JsonSchema;

    /// Waits for the next event; `None` ends the stream.
    fn next(&mut self) -> impl Future<Output = Option<Self::Item>> + Send;
}

impl Source for SessionStream {
    type Item = SessionEvent;

    fn next(&mut self) -> impl Future<Output = Option<SessionEvent>> + Send {
        SessionStream::next(self)
    }
}

impl Source for GroupStream {
    type Item = Event;

    fn next(&mut self) -> impl Future<Output = Option<Event>> + Send {
        GroupStream::next(self)
    }
}

/// A response that is a stream of events, each a `T`.
pub(crate) struct Events<T>(Response, PhantomData<fn() -> T>);

impl<T> IntoResponse for Events<T> {
    fn into_response(self) -> Response {
        self.0
    }
}

impl<T: JsonSchema> Answers for Events<T> {
    fn tell(operation: &mut Operation<'_>) {
        operation.answers_events::<T>();
    }
}

/// Makes a response of all events of `source`, until it or the host ends.
///
/// The source is dropped as soon as the connection closes: while this body is waited for, the connection is
/// read, and its end ends the body.
pub(crate) fn events<S: Source>(source: S, ending: CancellationToken) -> Events<S::Item> {
    let frames = futures::stream::unfold((source, ending), |(mut source, ending)| async move {
        let frame = tokio::select! {
            () = ending.cancelled() => None,
            frame = frame(&mut source) => frame,
        };
        frame.map(|frame| (Ok::<_, Infallible>(frame), (source, ending)))
    });
    let headers = [(CONTENT_TYPE, EVENT_STREAM), (CACHE_CONTROL, "no-store")];
    Events((headers, Body::from_stream(frames)).into_response(), PhantomData)
}

async fn frame<S: Source>(source: &mut S) -> Option<Bytes> {
    let Ok(next) = timeout(limits::STREAM_BEAT, source.next()).await else {
        return Some(Bytes::from_static(b": beat\n\n"));
    };
    match serde_json::to_string(&next?) {
        Ok(json) => Some(Bytes::from(format!("data: {json}\n\n"))),
        Err(error) => {
            tracing::error!(%error, "an event cannot be said in JSON; its stream ends");
            None
        }
    }
}
