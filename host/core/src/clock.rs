//! The one door for time and chance.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// A moment on the boot clock, which goes on in suspend and is never set. Means nothing on another machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootTime(Duration);

impl BootTime {
    /// Makes the moment `since_boot` after the machine started.
    pub const fn new(since_boot: Duration) -> Self {
        BootTime(since_boot)
    }

    /// Returns the time from `earlier` until this moment; zero if it is not later.
    pub fn since(self, earlier: BootTime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the time since boot.
    pub fn as_duration(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for BootTime {
    type Output = BootTime;

    fn add(self, time: Duration) -> BootTime {
        BootTime(self.0.saturating_add(time))
    }
}

impl Sub<Duration> for BootTime {
    type Output = BootTime;

    fn sub(self, time: Duration) -> BootTime {
        BootTime(self.0.saturating_sub(time))
    }
}

/// Tells the time and waits for it. Everything that needs time takes one of these.
#[async_trait]
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Returns the moment now on the boot clock.
    fn now(&self) -> BootTime;

    /// Returns wall time in milliseconds since 1970, for people to read and for nothing else.
    fn wall_ms(&self) -> u64;

    /// Returns the processor time this thread has used. Real whatever the clock shows: work is work.
    fn thread_cpu(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
    }

    /// Waits until `deadline`. Returns at once if it has passed. Cancel-safe.
    async fn sleep_until(&self, deadline: BootTime);

    /// Waits for `time`.
    async fn sleep(&self, time: Duration) {
        self.sleep_until(self.now() + time).await;
    }
}

/// The machine's clock: `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// The longest single sleep. Tokio's timer stands still in suspend, so a long wait is taken in steps.
const SLEEP_STEP: Duration = Duration::from_secs(1);

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> BootTime {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        BootTime(Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32))
    }

    fn wall_ms(&self) -> u64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        time.tv_sec.unsigned_abs() * 1000 + time.tv_nsec.unsigned_abs() / 1_000_000
    }

    async fn sleep_until(&self, deadline: BootTime) {
        loop {
            let rest = deadline.since(self.now());
            if rest.is_zero() {
                return;
            }
            tokio::time::sleep(rest.min(SLEEP_STEP)).await;
        }
    }
}

/// A clock that a test moves by hand. Wall time is its boot time.
#[derive(Debug)]
pub struct ManualClock {
    now: tokio::sync::watch::Sender<Duration>,
}

impl ManualClock {
    /// Makes a clock that stands at one hour after boot.
    pub fn new() -> Self {
        ManualClock { now: tokio::sync::watch::Sender::new(Duration::from_secs(3600)) }
    }

    /// Moves the clock forward and wakes whoever waits for a moment that has come.
    pub fn advance(&self, time: Duration) {
        self.now.send_modify(|now| *now += time);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> BootTime {
        BootTime(*self.now.borrow())
    }

    fn wall_ms(&self) -> u64 {
        self.now.borrow().as_millis() as u64
    }

    async fn sleep_until(&self, deadline: BootTime) {
        // The sender lives in `self`, so waiting cannot fail while anybody waits.
        let _ = self.now.subscribe().wait_for(|now| BootTime(*now) >= deadline).await;
    }
}

/// Where randomness comes from.
pub trait Chance: Send + Sync + fmt::Debug + 'static {
    /// Returns 128 random bits.
    fn bits(&self) -> u128;

    /// Returns a number from 0 up to, not including, 1.
    fn unit(&self) -> f64 {
        (self.bits() as u64 >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Stretches or shrinks `time` by up to a tenth, so that hosts do not march in step.
    fn jitter(&self, time: Duration) -> Duration {
        time.mul_f64(0.9 + 0.2 * self.unit())
    }
}

/// Randomness of the operating system; good enough for secrets.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsChance;

impl Chance for OsChance {
    fn bits(&self) -> u128 {
        let mut bytes = [0; 16];
        // On Linux getrandom cannot fail once the machine has booted; ids that repeat would break every
        // promise, so there is nothing to go on with.
        if getrandom::fill(&mut bytes).is_err() {
            std::process::abort();
        }
        u128::from_le_bytes(bytes)
    }
}

/// Randomness from a seed, so that a test can be run again.
#[derive(Debug)]
pub struct SeededChance(std::sync::atomic::AtomicU64);

impl SeededChance {
    /// Makes a sequence that is the same for the same seed.
    pub fn new(seed: u64) -> Self {
        SeededChance(std::sync::atomic::AtomicU64::new(seed))
    }

    fn next(&self) -> u64 {
        // SplitMix64: one addition of state, so an atomic suffices.
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let state = self.0.fetch_add(STEP, std::sync::atomic::Ordering::Relaxed).wrapping_add(STEP);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

impl Chance for SeededChance {
    fn bits(&self) -> u128 {
        (u128::from(self.next()) << 64) | u128::from(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_a_unit_stays_below_one() {
        let (first, second) = (SeededChance::new(7), SeededChance::new(7));
        assert!((0..100).all(|_| first.bits() == second.bits()));
        assert!((0..1000).map(|_| first.unit()).all(|unit| (0.0..1.0).contains(&unit)));
    }

    #[tokio::test]
    async fn a_sleeper_wakes_when_the_moment_comes_and_not_before() {
        let clock = std::sync::Arc::new(ManualClock::new());
        let deadline = clock.now() + Duration::from_secs(2);
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep_until(deadline).await }
        });
        clock.advance(Duration::from_secs(1));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
    }
}
