//! Locks by the recipe that clients get: one that nobody else wants, and one that passes from a host to another.

use std::sync::Arc;
use std::time::Duration;

use althing_core::info::{LockAsk, LockHold, ReleaseAsk, Released};
use althing_core::{BootTime, Clock, Driver, SystemClock, WatchMode, limits};
use althing_runtime::{Runtime, SessionKey};
use anyhow::{Context, Result, ensure};
use tokio::runtime::Handle;

use crate::host;
use crate::rounds::{Round, timed};

/// The name of a lock.
const NAME: &str = "bench";
/// For how long a lock is held at least and at most that another host waits for, in milliseconds, as in `tooz_peer.py`: a
/// host that looks for it time after time is met at any moment of its pause.
const HOLD_MS: [u64; 2] = [20, 500];
/// What the next hold is longer by, until it starts over.
const HOLD_STEP_MS: u64 = 97;

/// A host, and a session of it that locks. Clones are the same.
#[derive(Clone)]
struct Locker {
    host: Runtime,
    session: SessionKey,
}

impl Locker {
    /// Starts a host on a driver with all layers.
    async fn on(driver: Arc<dyn Driver>, io: &Handle) -> Result<Locker> {
        let host = host::start(driver, limits::LEASE_DEFAULT, io).await?;
        let session = host::session(&host)?;
        Ok(Locker { host, session })
    }

    /// Locks, however long that takes.
    async fn lock(&self) -> Result<LockHold> {
        let ask = LockAsk { names: vec![NAME.to_owned()], ..LockAsk::default() };
        self.host.lock(&self.session, ask).await?.locks.pop().context("a grant has a lock")
    }

    async fn release(&self, held: LockHold) -> Result<()> {
        let ask = ReleaseAsk { token: held.token, id: Some(held.id) };
        let said = self.host.release_lock(&self.session, &held.lock, &ask).await?;
        ensure!(said == Released::Released, "a lock that was held is {said:?}");
        Ok(())
    }

    /// Locks, and says when it did.
    async fn lock_at(self) -> Result<(LockHold, BootTime)> {
        let held = self.lock().await?;
        Ok((held, SystemClock.now()))
    }

    /// Waits until somebody stands behind whoever holds it.
    async fn until_wanted(&self) -> Result<()> {
        let waiting = async {
            while self.host.lock_info(NAME).await?.waiters.is_empty() {
                SystemClock.sleep(Duration::from_millis(1)).await;
            }
            Ok(())
        };
        tokio::time::timeout(host::PATIENCE, waiting).await.context("nobody waits for the lock")?
    }
}

/// A lock that nobody else wants.
pub(crate) struct Lock(Locker);

impl Lock {
    /// Starts a host with all layers.
    pub(crate) async fn of(url: &str, io: &Handle) -> Result<Lock> {
        let driver = host::stacked(host::connect(url, io).await?, io);
        Ok(Lock(Locker::on(driver, io).await?))
    }

    /// Takes it.
    pub(crate) async fn acquire(&self) -> Result<LockHold> {
        self.0.lock().await
    }

    /// Releases what was taken.
    pub(crate) async fn release(&self, held: LockHold) -> Result<()> {
        self.0.release(held).await
    }

    /// Ends the host.
    pub(crate) async fn stop(&self) {
        self.0.host.stop().await;
    }
}

impl Round for Lock {
    fn name(&self) -> &'static str {
        "lock and release, free"
    }

    async fn round(&mut self) -> Result<Duration> {
        timed(async {
            let held = self.acquire().await?;
            self.release(held).await
        })
        .await
    }
}

/// A lock that one host holds and another waits for.
pub(crate) struct HandOff {
    near: Locker,
    far: Locker,
    /// How often it was passed on.
    passed: u64,
}

impl HandOff {
    /// Starts two hosts, or two parts of one where nobody else can reach the backend.
    pub(crate) async fn of(url: &str, is_within_a_host: bool, io: &Handle) -> Result<HandOff> {
        let driver = host::stacked(host::connect(url, io).await?, io);
        let other = match is_within_a_host {
            true => driver.clone(),
            false => host::stacked(host::connect(url, io).await?, io),
        };
        let (near, far) = (Locker::on(driver, io).await?, Locker::on(other, io).await?);
        Ok(HandOff { near, far, passed: 0 })
    }

    /// Says for how long it is held this time.
    fn hold(&mut self) -> Duration {
        let [least, most] = HOLD_MS;
        self.passed += 1;
        Duration::from_millis(least + self.passed * HOLD_STEP_MS % (most - least))
    }

    /// Tells whether the backend tells of changes, and nobody has to look for them.
    pub(crate) fn is_pushed(&self) -> bool {
        self.near.host.driver().capability().watch == WatchMode::Pushed
    }

    /// Ends both hosts.
    pub(crate) async fn stop(&self) {
        self.near.host.stop().await;
        self.far.host.stop().await;
    }
}

impl Round for HandOff {
    fn name(&self) -> &'static str {
        "release → another host has the lock"
    }

    async fn round(&mut self) -> Result<Duration> {
        let held = self.near.lock().await?;
        let waiting = tokio::spawn(self.far.clone().lock_at());
        self.near.until_wanted().await?;
        SystemClock.sleep(self.hold()).await;
        let begin = SystemClock.now();
        self.near.release(held).await?;
        let (held, at) = waiting.await??;
        self.far.release(held).await?;
        Ok(at.since(begin))
    }
}
