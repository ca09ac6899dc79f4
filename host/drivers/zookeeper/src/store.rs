//! The namespace as this driver knows it: one connection that all calls share, and the volume of the log that
//! is written now.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use althing_core::{BootTime, Chance, Clock, Error, Kind, Result};

use crate::layout::{self, BUCKETS, Layout};
use crate::settings::Settings;
use crate::wire::{Mode, Refusal, Step, Wire};

/// The layout of the nodes. Another number is another layout.
const FORMAT: &[u8] = b"althing 1";
/// The time-out asked for the connection that carries data. Short, because nothing is lost with it.
const SESSION: Duration = Duration::from_secs(4);

/// A namespace on an ensemble.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) settings: Settings,
    pub(crate) layout: Layout,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
    /// Held by whoever writes in a bucket, so that commits of this driver do not fail each other.
    pub(crate) turns: Vec<tokio::sync::Mutex<()>>,
    volume: AtomicU32,
    // A std Mutex: held for a clone, never over an await.
    live: Mutex<Live>,
    /// Held by whoever connects, so that a thousand callers make one connection.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Live {
    /// And since when.
    wire: Option<(Arc<Wire>, BootTime)>,
    failures: u64,
    failure: Option<Error>,
}

impl Store {
    /// Makes the store; connects at the first call.
    pub(crate) fn new(settings: Settings, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Store {
        Store {
            layout: Layout::new(settings.root.clone()),
            settings,
            clock,
            chance,
            turns: (0..BUCKETS).map(|_| tokio::sync::Mutex::default()).collect(),
            volume: AtomicU32::new(0),
            live: Mutex::default(),
            connecting: tokio::sync::Mutex::new(()),
        }
    }

    /// Returns the moment by which a call that begins now must have ended.
    pub(crate) fn deadline(&self) -> BootTime {
        self.clock.now() + self.settings.timeout
    }

    /// Waits for `work` until `deadline`.
    pub(crate) async fn within<T>(&self, deadline: BootTime, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.clock.sleep_until(deadline) => None,
        }
    }

    /// Waits for a read on the shared connection until `deadline`.
    pub(crate) async fn read<T>(
        &self,
        operation: &'static str,
        deadline: BootTime,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.within(deadline, work).await.unwrap_or_else(|| Err(self.silent(operation)))
    }

    /// Returns a connection that is there, or makes one, before `deadline`. Nothing is written on failure.
    pub(crate) async fn wire(&self, operation: &'static str, deadline: BootTime) -> Result<Arc<Wire>> {
        let found = async {
            loop {
                let wire = match self.open_one() {
                    Some(wire) => wire,
                    None => self.connect().await?,
                };
                // It may end while we wait; then another is made.
                if wire.connected().await.is_ok() {
                    return Ok(wire);
                }
            }
        };
        self.read(operation, deadline, found).await
    }

    /// Returns the volume of the log that was written when we last looked.
    pub(crate) fn volume(&self) -> u32 {
        self.volume.load(Ordering::Acquire)
    }

    /// Looks which volume of the log is written now.
    pub(crate) async fn find_volume(&self, wire: &Wire) -> Result<u32> {
        let (names, _) =
            wire.children(&self.layout.logs()).await?.ok_or_else(|| layout::foreign("the log"))?;
        let volume = names.iter().filter_map(|name| layout::volume_of(name)).max();
        let volume = volume.ok_or_else(|| layout::foreign("the log"))?;
        self.volume.fetch_max(volume, Ordering::AcqRel);
        Ok(volume)
    }

    /// Makes the error that no answer came in time on the shared connection, and leaves that: a server that was
    /// cut off from its ensemble answers pings, and nothing else.
    pub(crate) fn silent(&self, operation: &'static str) -> Error {
        let now = self.clock.now();
        let mut live = self.lock();
        // One that is younger than the call that waited was not the silent one.
        if live.wire.as_ref().is_some_and(|(_, since)| now.since(*since) >= self.settings.timeout) {
            live.wire = None;
        }
        drop(live);
        self.late(operation)
    }

    /// Makes the error that no answer came in time.
    pub(crate) fn late(&self, operation: &'static str) -> Error {
        let message = format!("no answer of ZooKeeper within {} ms", self.settings.timeout.as_millis());
        Error::new(Kind::Timeout, operation, message).with("servers", self.settings.address())
    }

    async fn connect(&self) -> Result<Arc<Wire>> {
        let failures = self.lock().failures;
        let _turn = self.connecting.lock().await;
        if let Some(wire) = self.open_one() {
            return Ok(wire);
        }
        // Whoever had the turn while we waited has just failed: his failure is ours.
        if let Live { failures: now, failure: Some(failure), .. } = &*self.lock()
            && *now != failures
        {
            return Err(failure.clone());
        }
        let wire = self.adopt().await.map(Arc::new);
        let mut live = self.lock();
        match &wire {
            Ok(wire) => live.wire = Some((wire.clone(), self.clock.now())),
            Err(error) => {
                live.failures += 1;
                live.failure = Some(error.clone());
            }
        }
        wire
    }

    /// Connects and takes the namespace into use: checks its layout, or lays it out.
    async fn adopt(&self) -> Result<Wire> {
        let mut wire = Wire::dial(&self.settings, SESSION).await?;
        wire.learn_votes().await?;
        for _ in 0..2 {
            let synced = wire.sync();
            // In this order: a layout is made at once, so names without a format after them are not ours.
            let (names, format) = (wire.children(self.layout.root()), wire.get(&self.layout.format()));
            let (_, names, format) = tokio::try_join!(synced, names, format)?;
            if let Some((format, _)) = format {
                self.check_format(&format)?;
                self.find_volume(&wire).await?;
                return Ok(wire);
            }
            if names.is_some_and(|(names, _)| !names.is_empty()) {
                return Err(self.refuse("nodes without a format"));
            }
            self.lay_out(&wire).await?;
        }
        Err(self.refuse("no layout, though one was just made"))
    }

    fn check_format(&self, found: &[u8]) -> Result<()> {
        if found == FORMAT {
            return Ok(());
        }
        Err(self.refuse(&format!("\"{}\"", found.escape_ascii())))
    }

    fn refuse(&self, found: &str) -> Error {
        let message = format!("the namespace holds {found}, not \"{}\"", FORMAT.escape_ascii());
        Error::new(Kind::Format, "connect", message)
            .with("node", self.layout.root())
            .advise("Choose another namespace, or a host of the version that wrote it")
    }

    /// Makes all nodes of an empty namespace at once. Somebody else may be quicker.
    async fn lay_out(&self, wire: &Wire) -> Result<()> {
        wire.make_folders(self.layout.root()).await?;
        let make = |path: String, data: &[u8]| Step::Create { path, data: data.into(), mode: Mode::Lasting };
        let folders =
            [self.layout.buckets(), self.layout.sessions(), self.layout.estates(), self.layout.logs()];
        let mut steps = vec![make(self.layout.format(), FORMAT)];
        steps.extend(folders.map(|path| make(path, &[])));
        steps.push(make(self.layout.volume(0), &[]));
        steps.extend((0..BUCKETS).map(|bucket| make(self.layout.bucket(bucket), &layout::bucket_data(0))));
        match wire.transact("connect", &steps).await {
            Ok(_) | Err(Refusal::Step(_)) => Ok(()),
            Err(Refusal::Failed(error)) => Err(error),
        }
    }

    fn open_one(&self) -> Option<Arc<Wire>> {
        self.lock().wire.as_ref().map(|(wire, _)| wire.clone()).filter(|wire| !wire.is_over())
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        // Nothing under the lock can panic; a poisoned one would still guard a whole state.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
