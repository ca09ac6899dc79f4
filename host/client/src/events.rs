//! Server-sent events, read one by one.

use std::marker::PhantomData;
use std::time::Duration;

use althing_core::{Error, Kind, Result, limits};
use bytes::{Buf, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::connection::Task;

/// A host that said nothing for this long, not even that it lives, is taken for gone.
const SILENCE_MAX: Duration = Duration::from_secs(3 * limits::STREAM_BEAT.as_secs());

/// Events of a host in order. Dropping it closes its connection at once.
#[derive(Debug)]
pub struct EventStream<T> {
    body: Incoming,
    lines: Lines,
    _connection: Task,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> EventStream<T> {
    pub(crate) fn new(body: Incoming, connection: Task) -> Self {
        EventStream { body, lines: Lines::default(), _connection: connection, item: PhantomData }
    }

    /// Waits for the next event; `None` when the host ended the stream. Cancel-safe. Fails when the
    /// connection breaks or the host falls silent; then the stream is of no more use.
    pub async fn next(&mut self) -> Result<Option<T>> {
        loop {
            if let Some(data) = self.lines.event()? {
                return serde_json::from_slice(&data).map(Some).map_err(malformed);
            }
            let silent = |_| broken(Kind::Timeout, format!("the host was silent for {SILENCE_MAX:?}"));
            match timeout(SILENCE_MAX, self.body.frame()).await.map_err(silent)? {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(broken(Kind::Unavailable, "the connection broke".into()).because(error));
                }
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.lines.bytes.extend_from_slice(&bytes);
                    }
                }
            }
        }
    }
}

/// Bytes that arrived, taken apart into events.
#[derive(Debug, Default)]
struct Lines {
    bytes: BytesMut,
    /// How many of `bytes` are known to hold no end of line.
    searched: usize,
    data: Vec<u8>,
}

impl Lines {
    /// Returns the data of the next event that is here as a whole.
    fn event(&mut self) -> Result<Option<Vec<u8>>> {
        while let Some(line) = self.line()? {
            if line.is_empty() {
                if !self.data.is_empty() {
                    return Ok(Some(std::mem::take(&mut self.data)));
                }
            } else if let Some(data) = line.strip_prefix(b"data:") {
                if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
                self.check(self.data.len())?;
            }
            // Everything else is a comment, which says that the host lives, or a field nobody sends.
        }
        Ok(None)
    }

    fn line(&mut self) -> Result<Option<BytesMut>> {
        let Some(length) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            self.check(self.searched)?;
            return Ok(None);
        };
        let mut line = self.bytes.split_to(self.searched + length);
        self.bytes.advance(1);
        self.searched = 0;
        if line.last() == Some(&b'\r') {
            line.truncate(line.len() - 1);
        }
        Ok(Some(line))
    }

    fn check(&self, length: usize) -> Result<()> {
        if length <= limits::ANSWER_BYTES_MAX {
            return Ok(());
        }
        Err(broken(Kind::TooLarge, format!("an event of more than {} bytes", limits::ANSWER_BYTES_MAX)))
    }
}

fn broken(kind: Kind, message: String) -> Error {
    Error::new(kind, "read events", message)
}

fn malformed(error: serde_json::Error) -> Error {
    broken(Kind::Internal, "an event that this client does not understand".into())
        .because(error)
        .advise("See whether the host is of the same version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(chunks: &[&str], expected: &[&str]) {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for chunk in chunks {
            lines.bytes.extend_from_slice(chunk.as_bytes());
            while let Some(data) = lines.event().unwrap() {
                seen.push(String::from_utf8(data).unwrap());
            }
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn events_are_found_however_they_are_cut() {
        check(&["data: 1\n\ndata: 2\n\n"], &["1", "2"]);
        check(&["da", "ta: 1", "\n", "\n", "data:2\r\n\r\n"], &["1", "2"]);
        check(&[": beat\n\nevent: x\ndata: a\ndata: b\n\ndata: half"], &["a\nb"]);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut lines = Lines::default();
        lines.bytes.resize(limits::ANSWER_BYTES_MAX + 1, b'x');
        assert_eq!(lines.event().unwrap_err().kind(), Kind::TooLarge);
    }
}
