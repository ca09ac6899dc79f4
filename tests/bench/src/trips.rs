//! How often a client waits for its server.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use althing_core::{Clock, SystemClock};
use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// How long an answer is kept back, so that all requests of one go are on their way before the first answer.
const ANSWER_AFTER: Duration = Duration::from_millis(4);

/// Relays in front of ports. A client that speaks after it was answered, or for the first time, makes one more round
/// trip; to connect is none.
pub(crate) struct Trips {
    ports: Vec<u16>,
    made: Arc<AtomicU64>,
}

impl Trips {
    /// Listens on a free port for each of `ports`, and relays to it.
    pub(crate) async fn before(ports: &[u16]) -> Result<Trips> {
        let mut trips = Trips { ports: Vec::new(), made: Arc::default() };
        for port in ports.iter().copied() {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            trips.ports.push(listener.local_addr()?.port());
            let made = trips.made.clone();
            tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(relay_to_port(client, port, made.clone()));
                }
            });
        }
        Ok(trips)
    }

    /// Listens on the socket `at`, and relays to another one.
    pub(crate) fn before_socket(socket: &Path, at: &Path) -> Result<Trips> {
        let trips = Trips { ports: Vec::new(), made: Arc::default() };
        let (listener, socket, made) = (UnixListener::bind(at)?, socket.to_owned(), trips.made.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (socket, made) = (socket.clone(), made.clone());
                tokio::spawn(async move { relay(client, UnixStream::connect(socket).await?, made).await });
            }
        });
        Ok(trips)
    }

    /// Returns the ports to speak to, in order.
    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Returns how many were made so far, on all connections together.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }
}

async fn relay_to_port(client: TcpStream, port: u16, made: Arc<AtomicU64>) -> Result<()> {
    let server = TcpStream::connect(("127.0.0.1", port)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    relay(client, server, made).await
}

async fn relay<S: AsyncRead + AsyncWrite>(client: S, server: S, made: Arc<AtomicU64>) -> Result<()> {
    let ((from_client, to_client), (from_server, to_server)) =
        (tokio::io::split(client), tokio::io::split(server));
    let waits = AtomicBool::new(false);
    let asked = || {
        if !waits.swap(true, Ordering::SeqCst) {
            made.fetch_add(1, Ordering::SeqCst);
        }
    };
    let answered = || waits.store(false, Ordering::SeqCst);
    let asking = copy(from_client, to_server, Duration::ZERO, asked);
    tokio::try_join!(asking, copy(from_server, to_client, ANSWER_AFTER, answered))?;
    Ok(())
}

/// Passes on what is read after a while, and says so before.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    after: Duration,
    passes: impl Fn(),
) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        SystemClock.sleep(after).await;
        passes();
        to.write_all(&buffer[..length]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_before_an_answer_is_one_trip() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let trips = Trips::before(&[listener.local_addr().unwrap().port()]).await.unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", trips.ports()[0])).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut heard = [0; 2];
        for made in 1..=2 {
            for half in 0..2 {
                client.write_all(b"x").await.unwrap();
                server.read_exact(&mut heard[half..=half]).await.unwrap();
            }
            assert_eq!(trips.made(), made);
            server.write_all(b"y").await.unwrap();
            client.read_exact(&mut heard[..1]).await.unwrap();
        }
    }
}
