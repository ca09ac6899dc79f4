//! The very request a driver sends, overheard, so that a raw client can send it again.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A relay in front of a server that keeps what clients send.
pub(crate) struct Overheard {
    port: u16,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Overheard {
    /// Listens on a free port and relays to the server on `port`.
    pub(crate) async fn before(port: u16) -> Result<Overheard> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let overheard = Overheard { port: listener.local_addr()?.port(), heard: Arc::default() };
        let heard = overheard.heard.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(relay(client, port, heard.clone()));
            }
        });
        Ok(overheard)
    }

    /// Returns the port to send to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the last request that began with the word `verb`, word by word.
    pub(crate) fn last(&self, verb: &str) -> Result<Vec<Vec<u8>>> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rest, mut last) = (&heard[..], None);
        while let Some((request, after)) = request(rest) {
            if request.first().is_some_and(|word| word.eq_ignore_ascii_case(verb.as_bytes())) {
                last = Some(request);
            }
            rest = after;
        }
        last.with_context(|| format!("no {verb} was sent"))
    }
}

async fn relay(client: TcpStream, port: u16, heard: Arc<Mutex<Vec<u8>>>) -> Result<()> {
    let server = TcpStream::connect(("127.0.0.1", port)).await?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = from_client.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        heard.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..length]);
        to_server.write_all(&buffer[..length]).await?;
    }
}

/// Reads one request, `*2\r\n$3\r\nGET\r\n$1\r\na\r\n`, and returns its words and what comes after it.
fn request(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, &[u8])> {
    let (count, mut rest) = number(bytes, b'*')?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let (length, word) = number(rest, b'$')?;
        words.push(word.get(..length)?.to_vec());
        rest = word.get(length + 2..)?;
    }
    Some((words, rest))
}

fn number(bytes: &[u8], sigil: u8) -> Option<(usize, &[u8])> {
    let bytes = bytes.strip_prefix(&[sigil])?;
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()?, &bytes[end + 2..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_last_request_of_a_verb() {
        let heard = b"*2\r\n$3\r\nSET\r\n$1\r\na\r\n*2\r\n$3\r\nset\r\n$2\r\n\r\n\r\n*1\r\n$4\r\nPING\r\n*1\r\n$9\r\nhalf".to_vec();
        let overheard = Overheard { port: 0, heard: Arc::new(Mutex::new(heard)) };
        assert_eq!(overheard.last("SET").unwrap(), [b"set".to_vec(), b"\r\n".to_vec()]);
        assert!(overheard.last("GET").is_err());
    }
}
