//! A link to a server that a test makes slow, or leads elsewhere.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use althing_core::{Clock, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A port that leads to another.
pub(super) struct Passage {
    port: u16,
    to: watch::Sender<u16>,
}

impl Passage {
    /// Leads to the port `to`, and holds back each request for `delay`.
    pub(super) async fn start(to: u16, delay: Duration) -> Passage {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (to, leads) = watch::channel(to);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, leads.clone(), delay));
            }
        });
        Passage { port, to }
    }

    /// Cuts what goes over it, and leads to the port `to` from now on.
    pub(super) fn lead(&self, to: u16) {
        self.to.send_replace(to);
    }

    /// Returns the port at its near end.
    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

async fn carry(client: TcpStream, mut leads: watch::Receiver<u16>, delay: Duration) -> io::Result<()> {
    let to = *leads.borrow_and_update();
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await?;
    tokio::select! {
        ended = exchange(client, server, delay) => ended,
        _ = leads.changed() => Ok(()),
    }
}

async fn exchange(mut client: TcpStream, mut server: TcpStream, delay: Duration) -> io::Result<()> {
    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        tokio::select! {
            length = client.read(&mut asked) => {
                let length = length?;
                if length == 0 {
                    return Ok(());
                }
                SystemClock.sleep(delay).await;
                server.write_all(&asked[..length]).await?;
            }
            length = server.read(&mut answered) => {
                let length = length?;
                if length == 0 {
                    return Ok(());
                }
                client.write_all(&answered[..length]).await?;
            }
        }
    }
}
