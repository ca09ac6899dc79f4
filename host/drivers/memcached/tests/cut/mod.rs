//! A link to the server that breaks when a certain request goes over it.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// When the link breaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// The server does not see the request.
    Before(&'static str),
    /// The server sees it, and its answer is lost.
    After(&'static str),
}

/// A link that breaks once for each cut that is asked for.
pub(crate) struct Proxy {
    port: u16,
    cut: Arc<Mutex<Option<Cut>>>,
}

impl Proxy {
    /// Leads to the server on `port`.
    pub(crate) async fn start(server: u16) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cut = Arc::new(Mutex::new(None));
        let proxy = Proxy { port, cut: cut.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(lead(client, server, cut.clone()));
            }
        });
        proxy
    }

    /// Returns the URL of a namespace over this link.
    pub(crate) fn url(&self, namespace: &str) -> String {
        format!("memcached://127.0.0.1:{}/?namespace={namespace}", self.port)
    }

    /// Breaks the link at the next such request.
    pub(crate) fn cut(&self, cut: Cut) {
        *self.cut.lock().unwrap() = Some(cut);
    }
}

async fn lead(mut client: TcpStream, server: u16, cut: Arc<Mutex<Option<Cut>>>) {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await.unwrap();
    let (mut asked, mut answered) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        tokio::select! {
            Ok(length) = client.read(&mut asked) => {
                let request = &asked[..length];
                let now = cut.lock().unwrap().take_if(|cut| is_in(cut, request));
                if length == 0 || matches!(now, Some(Cut::Before(_))) {
                    return;
                }
                server.write_all(request).await.unwrap();
                if now.is_some() {
                    // Until it has answered, so that it has surely done it.
                    let _ = server.read(&mut answered).await;
                    return;
                }
            }
            Ok(length) = server.read(&mut answered) => {
                if length == 0 || client.write_all(&answered[..length]).await.is_err() {
                    return;
                }
            }
            else => return,
        }
    }
}

/// Requests of these tests are small: one comes in one piece.
fn is_in(cut: &Cut, request: &[u8]) -> bool {
    let (Cut::Before(begin) | Cut::After(begin)) = cut;
    request.windows(begin.len()).any(|window| window == begin.as_bytes())
}
