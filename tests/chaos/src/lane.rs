//! One direction of a connection through a [`Proxy`](crate::Proxy).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use althing_core::{BootTime, Chance, Clock, SeededChance, SystemClock};
use bytes::{Buf, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;

use crate::proxy::{Flow, State, Way};

/// The most bytes that wait in a lane; then the sender waits, as it does before a full socket.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// The connection is broken on both ends.
#[derive(Debug)]
pub(crate) struct Broken;

/// Carries the bytes of one connection one way, as the link's faults let it.
#[derive(Debug)]
pub(crate) struct Lane<'a> {
    way: Way,
    states: watch::Receiver<State>,
    chance: SeededChance,
    arrived: &'a AtomicU64,
    /// What was read, and from when on it may be written.
    waiting: VecDeque<(BootTime, Bytes)>,
    waiting_bytes: usize,
    /// From when on more may be written.
    free_at: BootTime,
    /// Bytes vanished: nothing may ever follow them.
    holed: bool,
    /// The sender has ended.
    ended: bool,
    flow: Flow,
    /// How many bytes may still pass before the connection is cut.
    left: usize,
}

impl<'a> Lane<'a> {
    pub(crate) fn new(way: Way, states: watch::Receiver<State>, seed: u64, arrived: &'a AtomicU64) -> Self {
        Lane {
            way,
            states,
            chance: SeededChance::new(seed),
            arrived,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            free_at: BootTime::default(),
            holed: false,
            ended: false,
            flow: Flow::Pass,
            left: 0,
        }
    }

    /// Carries until the sender has ended and everything has arrived, end of stream included.
    pub(crate) async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), Broken> {
        let mut bytes = [0; 16 << 10];
        loop {
            self.look()?;
            let next = self.next();
            if self.ended && self.waiting.is_empty() && self.passes() {
                return to.shutdown().await.map_err(|_| Broken);
            }
            tokio::select! {
                _ = self.states.changed() => {}
                read = from.read(&mut bytes), if !self.ended && self.waiting_bytes < WAITING_BYTES_MAX => {
                    let length = read.map_err(|_| Broken)?;
                    self.take(&bytes[..length]);
                }
                () = SystemClock.sleep_until(next.unwrap_or_default()), if next.is_some() => {
                    self.pass(&mut to).await?;
                }
            }
        }
    }

    /// Looks which fault there is now.
    fn look(&mut self) -> Result<(), Broken> {
        let flow = self.states.borrow_and_update().flow(self.way);
        if flow != self.flow {
            self.flow = flow;
            if let Flow::Cut { after } = flow {
                self.left = after;
            }
        }
        if self.holed && flow != Flow::BlackHole { Err(Broken) } else { Ok(()) }
    }

    fn passes(&self) -> bool {
        !matches!(self.flow, Flow::Hold | Flow::BlackHole)
    }

    /// Returns when the next bytes may be written.
    fn next(&self) -> Option<BootTime> {
        let (due, _) = self.waiting.front().filter(|_| self.passes())?;
        Some((*due).max(self.free_at))
    }

    /// Takes in what was read; nothing is the end of the stream.
    fn take(&mut self, bytes: &[u8]) {
        self.ended |= bytes.is_empty();
        if self.flow == Flow::BlackHole {
            self.holed = true;
            return;
        }
        if bytes.is_empty() {
            return;
        }
        let due = SystemClock.now() + self.lateness();
        // Nothing overtakes what went before.
        let due = self.waiting.back().map_or(due, |(before, _)| due.max(*before));
        self.waiting_bytes += bytes.len();
        self.waiting.push_back((due, Bytes::copy_from_slice(bytes)));
    }

    fn lateness(&self) -> Duration {
        match self.flow {
            Flow::Delay { least, jitter } => least + jitter.mul_f64(self.chance.unit()),
            _ => Duration::ZERO,
        }
    }

    /// Writes the first of what waits, or as much of it as may pass now.
    async fn pass(&mut self, to: &mut WriteHalf<'_>) -> Result<(), Broken> {
        let Some((_, first)) = self.waiting.front_mut() else { return Ok(()) };
        let length = match self.flow {
            Flow::Drip { bytes, every } => {
                self.free_at = SystemClock.now() + every;
                bytes.clamp(1, first.len())
            }
            Flow::Cut { .. } => self.left.min(first.len()),
            _ => first.len(),
        };
        let written = to.write_all(&first[..length]).await;
        first.advance(length);
        let emptied = first.is_empty();
        written.map_err(|_| Broken)?;
        self.arrived.fetch_add(length as u64, Ordering::Relaxed);
        self.waiting_bytes -= length;
        if emptied {
            self.waiting.pop_front();
        }
        if let Flow::Cut { .. } = self.flow {
            self.left -= length;
            return if self.left == 0 { Err(Broken) } else { Ok(()) };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JITTER: Flow = Flow::Delay { least: Duration::ZERO, jitter: Duration::from_secs(1) };

    fn with_lane<T>(seed: u64, act: impl FnOnce(&mut Lane<'_>) -> T) -> T {
        let (_state, states) = watch::channel(State::default());
        let arrived = AtomicU64::new(0);
        let mut lane = Lane::new(Way::Up, states, seed, &arrived);
        lane.flow = JITTER;
        act(&mut lane)
    }

    #[test]
    fn a_seed_repeats_its_delays() {
        let delays = |seed| with_lane(seed, |lane| (0..10).map(|_| lane.lateness()).collect::<Vec<_>>());
        assert_eq!(delays(7), delays(7));
        assert_ne!(delays(7), delays(8));
    }

    #[test]
    fn nothing_overtakes_what_went_before() {
        let due = with_lane(7, |lane| {
            (0..100).for_each(|_| lane.take(b"x"));
            lane.waiting.iter().map(|(due, _)| *due).collect::<Vec<_>>()
        });
        assert!(due.is_sorted(), "{due:?}");
    }
}
