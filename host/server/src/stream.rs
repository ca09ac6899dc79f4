//! Server-sent events.

use std::convert::Infallible;
use std::future::Future;

use althing_client::wire::EVENT_STREAM;
use althing_core::info::{Event, SessionEvent};
use althing_core::limits;
use althing_runtime::{GroupStream, SessionStream};
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Where events come from. A call of `next` that is dropped loses nothing.
pub(crate) trait Source: Send + 'static {
    /// What comes.
    type Item: Serialize;

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

/// Makes a response of all events of `source`, until it or the host ends.
///
/// The source is dropped as soon as the connection closes: while this body is waited for, the connection is
/// read, and its end ends the body.
pub(crate) fn events<S: Source>(source: S, ending: CancellationToken) -> Response {
    let frames = futures::stream::unfold((source, ending), |(mut source, ending)| async move {
        let frame = tokio::select! {
            () = ending.cancelled() => None,
            frame = frame(&mut source) => frame,
        };
        frame.map(|frame| (Ok::<_, Infallible>(frame), (source, ending)))
    });
    let headers = [(CONTENT_TYPE, EVENT_STREAM), (CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(frames)).into_response()
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
