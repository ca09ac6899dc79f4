//! Every fault of a link, on real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Duration;

use althing_chaos::{Fault, Flow, Proxy, Way};
use althing_core::{Clock, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Far longer than anything that works takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing must come for a test to take it that nothing comes.
const SILENCE: Duration = Duration::from_millis(80);

/// A client and a server, and the link between them.
struct Pair {
    client: TcpStream,
    server: TcpStream,
    proxy: Proxy,
    listener: TcpListener,
}

impl Pair {
    async fn new(seed: u64) -> Pair {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap().port(), seed);
        let client = dial(&proxy).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let mut pair = Pair { client, server, proxy, listener };
        pair.passes().await;
        pair
    }

    /// Fails unless bytes pass both ways.
    async fn passes(&mut self) {
        self.client.write_all(b"ping").await.unwrap();
        assert_eq!(read(&mut self.server, 4).await, b"ping");
        self.server.write_all(b"pong").await.unwrap();
        assert_eq!(read(&mut self.client, 4).await, b"pong");
    }

    /// Takes a new connection and fails unless bytes pass.
    async fn reconnects(&mut self) {
        self.client = dial(&self.proxy).await.unwrap();
        (self.server, _) = timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        self.passes().await;
    }
}

async fn dial(proxy: &Proxy) -> std::io::Result<TcpStream> {
    let stream = timeout(PATIENCE, TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port()))).await.unwrap()?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    timeout(PATIENCE, stream.read_exact(&mut bytes)).await.expect("bytes come").unwrap();
    bytes
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(SILENCE, stream.read_u8()).await.is_err()
}

/// Reads what is left and tells how the stream ended: `None` by its end, else by this error.
async fn end(stream: &mut TcpStream) -> (usize, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    let outcome = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the stream ends");
    (bytes.len(), outcome.err().map(|error| error.kind()))
}

#[tokio::test]
async fn a_link_without_faults_carries_everything_and_the_end_of_each_direction() {
    let mut pair = Pair::new(1).await;
    let sent: Vec<u8> = (0..3 << 20).map(|number: u32| (number % 251) as u8).collect();
    let expected = sent.clone();
    let mut client = pair.client;
    let sending = tokio::spawn(async move {
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    let mut arrived = Vec::new();
    pair.server.read_to_end(&mut arrived).await.unwrap();
    assert!(arrived == expected, "{} of {} bytes", arrived.len(), expected.len());
    assert_eq!(pair.proxy.arrived(Way::Up), 4 + expected.len() as u64);
    // The other direction is still open.
    let mut client = sending.await.unwrap();
    pair.server.write_all(b"late").await.unwrap();
    drop(pair.server);
    assert_eq!(end(&mut client).await, (4, None));
}

#[tokio::test]
async fn a_delay_holds_each_byte_for_its_time_one_way_and_not_the_other() {
    let mut pair = Pair::new(1).await;
    let least = Duration::from_millis(120);
    pair.proxy.inject(Fault::Flow(Way::Up, Flow::Delay { least, jitter: Duration::from_millis(20) }));
    let sent = SystemClock.now();
    pair.client.write_all(b"slow").await.unwrap();
    pair.server.write_all(b"fast").await.unwrap();
    assert_eq!(read(&mut pair.client, 4).await, b"fast");
    assert!(SystemClock.now().since(sent) < least, "the way down is not delayed");
    assert_eq!(read(&mut pair.server, 4).await, b"slow");
    assert!(SystemClock.now().since(sent) >= least);
    pair.proxy.heal();
    pair.passes().await;
}

#[tokio::test]
async fn what_is_held_arrives_when_the_link_heals_and_nothing_is_missing() {
    let mut pair = Pair::new(1).await;
    for way in [Way::Up, Way::Down] {
        pair.proxy.inject(Fault::Flow(way, Flow::Hold));
    }
    pair.client.write_all(b"one").await.unwrap();
    pair.server.write_all(b"two").await.unwrap();
    assert!(is_silent(&mut pair.server).await && is_silent(&mut pair.client).await);
    pair.proxy.heal();
    assert_eq!(read(&mut pair.server, 3).await, b"one");
    assert_eq!(read(&mut pair.client, 3).await, b"two");
    pair.passes().await;
}

#[tokio::test]
async fn a_black_hole_swallows_one_way_keeps_the_connection_and_resets_it_when_it_heals() {
    let mut pair = Pair::new(1).await;
    pair.proxy.inject(Fault::Flow(Way::Up, Flow::BlackHole));
    pair.client.write_all(b"lost").await.unwrap();
    assert!(is_silent(&mut pair.server).await);
    pair.server.write_all(b"news").await.unwrap();
    assert_eq!(read(&mut pair.client, 4).await, b"news", "the way down is open");
    pair.proxy.heal();
    assert_eq!(end(&mut pair.client).await, (0, Some(ErrorKind::ConnectionReset)));
    assert_eq!(end(&mut pair.server).await, (0, Some(ErrorKind::ConnectionReset)));
    pair.reconnects().await;
}

#[tokio::test]
async fn a_black_hole_swallows_the_end_of_a_stream_and_harms_no_connection_that_was_silent() {
    let mut pair = Pair::new(1).await;
    pair.proxy.inject(Fault::Flow(Way::Up, Flow::BlackHole));
    pair.proxy.heal();
    pair.passes().await;
    pair.proxy.inject(Fault::Flow(Way::Up, Flow::BlackHole));
    pair.client.shutdown().await.unwrap();
    assert!(is_silent(&mut pair.server).await);
    pair.proxy.heal();
    assert_eq!(end(&mut pair.server).await, (0, Some(ErrorKind::ConnectionReset)));
}

#[tokio::test]
async fn a_half_open_connection_is_closed_at_one_end_and_the_other_is_told_when_the_link_heals() {
    for way in [Way::Up, Way::Down] {
        let mut pair = Pair::new(1).await;
        pair.proxy.inject(Fault::HalfOpen(way));
        let (closed, open) = match way {
            Way::Up => (&mut pair.server, &mut pair.client),
            Way::Down => (&mut pair.client, &mut pair.server),
        };
        assert_eq!(end(closed).await, (0, None), "{way:?}");
        open.write_all(b"anybody?").await.unwrap();
        assert!(is_silent(open).await, "{way:?}");
        pair.proxy.heal();
        assert_eq!(end(open).await, (0, Some(ErrorKind::ConnectionReset)), "{way:?}");
        pair.reconnects().await;
    }
}

#[tokio::test]
async fn a_reset_breaks_the_connections_there_are_at_both_ends_and_no_later_one() {
    let mut pair = Pair::new(1).await;
    pair.proxy.inject(Fault::Reset);
    assert_eq!(end(&mut pair.client).await, (0, Some(ErrorKind::ConnectionReset)));
    assert_eq!(end(&mut pair.server).await, (0, Some(ErrorKind::ConnectionReset)));
    pair.reconnects().await;
}

#[tokio::test]
async fn a_message_is_cut_after_so_many_bytes_on_every_connection_until_the_link_heals() {
    let mut pair = Pair::new(1).await;
    pair.proxy.inject(Fault::Flow(Way::Up, Flow::Cut { after: 10 }));
    pair.client.write_all(b"0123").await.unwrap();
    assert_eq!(read(&mut pair.server, 4).await, b"0123");
    pair.client.write_all(b"4567890123").await.unwrap();
    assert_eq!(end(&mut pair.server).await, (6, Some(ErrorKind::ConnectionReset)));
    assert_eq!(end(&mut pair.client).await, (0, Some(ErrorKind::ConnectionReset)));
    pair.client = dial(&pair.proxy).await.unwrap();
    (pair.server, _) = pair.listener.accept().await.unwrap();
    pair.client.write_all(&[7; 100]).await.unwrap();
    assert_eq!(end(&mut pair.server).await, (10, Some(ErrorKind::ConnectionReset)));
    pair.proxy.heal();
    pair.reconnects().await;
}

#[tokio::test]
async fn a_slow_drip_lets_so_many_bytes_pass_at_a_time() {
    let mut pair = Pair::new(1).await;
    let every = Duration::from_millis(30);
    pair.proxy.inject(Fault::Flow(Way::Down, Flow::Drip { bytes: 2, every }));
    let sent = SystemClock.now();
    pair.server.write_all(b"0123456789").await.unwrap();
    assert_eq!(read(&mut pair.client, 10).await, b"0123456789");
    assert!(SystemClock.now().since(sent) >= every * 4, "five drops");
    pair.proxy.heal();
    pair.passes().await;
}

#[tokio::test]
async fn new_connections_are_refused_while_those_there_are_go_on_and_taken_again_when_the_link_heals() {
    let mut pair = Pair::new(1).await;
    pair.proxy.inject(Fault::Refuse);
    let refused = async {
        loop {
            // One that arrived just before is still taken, or reset.
            match dial(&pair.proxy).await {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    timeout(PATIENCE, refused).await.expect("connections are refused");
    pair.client.write_all(b"on").await.unwrap();
    assert_eq!(read(&mut pair.server, 2).await, b"on");
    pair.proxy.heal();
    let taken = async {
        while dial(&pair.proxy).await.is_err() {
            SystemClock.sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, taken).await.expect("connections are taken again");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_reset_connection() {
    let proxy = Proxy::start(althing_test_servers::free_port(), 1);
    let outcome = match dial(&proxy).await {
        Ok(mut client) => end(&mut client).await.1,
        Err(error) => Some(error.kind()),
    };
    assert_eq!(outcome, Some(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn dropping_a_proxy_ends_its_connections() {
    let mut pair = Pair::new(1).await;
    drop(pair.proxy);
    let (length, _) = end(&mut pair.client).await;
    assert_eq!(length, 0);
}
