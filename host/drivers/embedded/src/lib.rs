//! The embedded backend: `embedded:///var/lib/althing/store.redb`. One file, one process, no server; the memory backend
//! made durable.
//!
//! Options: `namespace`; `timeout`, the longest a call may take. The path is absolute. The file is made with mode 0600, and
//! so is a folder that is missing in one that is there (mode 0700). File systems of a network are refused. A second process
//! that opens the file is refused at once; it goes through the socket of the daemon that has it.
//!
//! All of a namespace is also in memory, and reads, watches and renewals are answered from there. One plain thread owns the
//! file (`writer.rs`): it takes all operations that wait, runs them in order over the image (`draft.rs`), makes what they
//! change durable with one fsync (`wire.rs`), and only then changes the image, answers, and wakes the watches. So nothing is
//! ever shown that a crash could take back, and a hundred commits at once cost as much as one.
//!
//! A session lies in the file with its lease; its renewals are kept in memory only. When the file is opened, each stored
//! session gets one whole lease from then on. The lock on the file is taken before that moment, and whoever had it before
//! acknowledged no renewal after it let go of it: so a holder that counts from the sending of its last acknowledged renewal
//! has stopped believing before anything of its is given to others. A session whose deadline has come is not renewed any
//! more, and it has ended when that is durable; until then its records are shown and guard what they guard. The id of a
//! session holds the revision at which it began, and is therefore never given again.
//!
//! A disk that is full refuses commits and ends of sessions, not reads and renewals, and the driver goes on by itself when
//! there is room. Room is taken before anything is written, so such a refusal has written nothing. After any failure the
//! file is opened again, under the same lock: what it holds then tells whether the commit was written; where the disk did
//! not keep what it took, or cannot be read, the effect is unknown, and watches resync if it was.
//!
//! Level L1 on a disk. Level L0 where what is synced does not last, or nobody can see that it does: on a tmpfs, on the root of a
//! container, or where a link leads there. Deadlines are by the clock of this machine that goes on in suspend; a process that was stopped for longer than
//! a lease finds its sessions ended.

mod disk;
mod draft;
mod settings;
mod shared;
mod store;
mod watch;
mod wire;
mod writer;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, mpsc as blocking};
use std::time::Duration;

use althing_core::{
    BootTime, Capability, Cause, Chance, Clock, Committed, Driver, Error, Expiry, Key, Kind, Lease, Level,
    Location, Order, Page, Record, Result, Revision, Session, SessionId, Txn, Watch, WatchMode, Write,
    limits,
};
use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use crate::draft::{Draft, lost};
use crate::settings::Settings;
use crate::shared::{Shared, closed};
use crate::store::Renewal;
use crate::watch::EmbeddedWatch;
use crate::writer::{Claim, QUEUE_MAX, Request, Start};

/// How long a file may take to be opened and checked, where a call may not take as long.
const OPEN_DEADLINE: Duration = Duration::from_secs(60);
/// How long the last owner of a driver waits for its file to be closed, should the disk stand still.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// A namespace in a file that this process owns. Parts of one process share it by cloning it. Dropping the last clone
/// closes the file, and waits for that: another process can open it then.
#[derive(Clone)]
pub struct Embedded(Arc<Owner>);

struct Owner {
    shared: Arc<Shared>,
    settings: Settings,
    /// `None` only while it is dropped.
    queue: Option<mpsc::Sender<Request>>,
    /// Ends with the writer. A std Mutex: only a drop looks at it.
    ended: Mutex<blocking::Receiver<()>>,
}

impl Embedded {
    /// Opens the file that `location` names, or makes it, and takes it for this process.
    ///
    /// Fails with `Invalid` on a URL it does not understand, `Busy` where another process has the file, `Format` where it is
    /// damaged, foreign or of another version (it is left as it is), `NotFound` where there is no folder for it,
    /// `Unsupported` on a file system of other machines, and `Denied`, `Unavailable` or `Timeout` as the disk says.
    pub async fn connect(
        location: &Location,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
    ) -> Result<Embedded> {
        Embedded::start(Settings::read(location)?, clock, chance).await
    }

    async fn start(settings: Settings, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Result<Embedded> {
        let (queue, requests) = mpsc::channel(QUEUE_MAX);
        let (opened, opening) = oneshot::channel();
        let (ending, ended) = blocking::channel::<()>();
        let start =
            Start { settings: settings.clone(), clock: clock.clone(), chance, queue: requests, opened };
        let thread = std::thread::Builder::new().name("althing-embedded".into()).spawn(move || {
            let _ending = ending;
            start.run();
        });
        thread.map_err(|error| {
            Error::new(Kind::Internal, "connect", "no thread for the file").because(error)
        })?;
        let deadline = clock.now() + settings.timeout.max(OPEN_DEADLINE);
        let shared = match within(&*clock, deadline, opening).await {
            Some(Ok(shared)) => shared?,
            Some(Err(_)) => return Err(closed("connect")),
            None => return Err(late("connect", &settings)),
        };
        Ok(Embedded(Arc::new(Owner { shared, settings, queue: Some(queue), ended: Mutex::new(ended) })))
    }
}

/// Returns what this backend promises where the file lies on a disk.
pub fn capability() -> Capability {
    capability_on(true)
}

fn capability_on(durable: bool) -> Capability {
    Capability {
        backend: "embedded".into(),
        level: if durable { Level::L1 } else { Level::L0 },
        linearizable_reads: true,
        across_hosts: false,
        watch: WatchMode::Pushed,
        order: Order::Namespace,
        expiry: Expiry::Driver,
        txn_keys_max: limits::TXN_KEYS_MAX,
        value_bytes_max: limits::VALUE_BYTES_MAX as u32,
        key_bytes_max: limits::KEY_BYTES_MAX as u32,
        lease_min: limits::LEASE_MIN,
        token_survives_restart: durable,
        // There is nobody to fail over to.
        token_survives_failover: false,
        beat_requests: 1,
    }
}

impl Owner {
    /// Has the writer run `work` and waits until what it did is durable.
    async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        bytes: usize,
        work: impl FnOnce(&mut Draft<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(queue) = &self.queue else { return Err(closed(operation)) };
        let clock = &*self.shared.clock;
        let deadline = clock.now() + self.settings.timeout;
        let claim = Claim::default();
        let (request, answered) = Request::new(operation, bytes, claim.clone(), work);
        match within(clock, deadline, queue.send(request)).await {
            Some(Ok(())) => {}
            Some(Err(_)) => return Err(closed(operation)),
            None => return Err(late(operation, &self.settings)),
        }
        let error = match within(clock, deadline, answered).await {
            Some(Ok(result)) => return result,
            Some(Err(_)) => closed(operation),
            None => late(operation, &self.settings),
        };
        // What the writer has not begun, it will not begin any more.
        Err(if claim.take() { error } else { error.with_unknown_effect() })
    }
}

#[async_trait]
impl Driver for Embedded {
    fn capability(&self) -> Capability {
        capability_on(self.0.shared.durable)
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        let lease = capability().grant(ask);
        let chance = self.0.shared.chance.clone();
        let id = self.0.write("open", 0, move |draft| Ok(draft.open(lease, &*chance))).await?;
        Ok(Session { id, lease_min: lease })
    }

    async fn renew(&self, session: SessionId) -> Result<Lease> {
        let shared = &self.0.shared;
        match shared.read("renew", |store| store.renew(session, shared.clock.now()))? {
            Renewal::Renewed(lease) => return Ok(Lease { min: lease, store_time: None }),
            Renewal::Gone => return Err(lost("renew", session)),
            Renewal::Due => {}
        }
        // The batch ends it first. Lost is final, so it is not said before that is durable.
        self.0.write("renew", 0, move |_| Err(lost("renew", session))).await
    }

    async fn close(&self, session: SessionId) -> Result<()> {
        let end = move |draft: &mut Draft<'_>| {
            draft.end(session, Cause::Closed);
            Ok(())
        };
        self.0.write("close", 0, end).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        capability().check_key("get", key)?;
        self.0.shared.read("get", |store| store.get(key).cloned())
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<Page> {
        for key in after.into_iter().chain([prefix]) {
            capability().check_key("list", key)?;
        }
        self.0.shared.read("list", |store| store.list(prefix, after, Page::records_max(limit)))
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        txn.check(&capability())?;
        self.0.write("commit", bytes(&txn), move |draft| draft.commit(txn)).await
    }

    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>> {
        capability().check_key("watch", prefix)?;
        Ok(Box::new(EmbeddedWatch::new(self.0.shared.clone(), prefix.clone(), from)))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // First, so that nothing is renewed here when another process may have the file.
        self.shared.close();
        self.queue = None;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Blocks for one fsync. The writer sends nothing: it hangs up when the file is closed.
        let _ = ended.recv_timeout(CLOSE_DEADLINE);
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded")
            .field("file", &self.0.settings.path)
            .field("namespace", &self.0.settings.namespace)
            .finish_non_exhaustive()
    }
}

/// Waits for `work` until `deadline`.
async fn within<T>(clock: &dyn Clock, deadline: BootTime, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = clock.sleep_until(deadline) => None,
    }
}

fn late(operation: &'static str, settings: &Settings) -> Error {
    Error::new(Kind::Timeout, operation, "the disk did not answer in time")
        .with("file", settings.path.display())
        .advise("Look after the disk, or give it longer with timeout=")
}

fn bytes(txn: &Txn) -> usize {
    let sizes = txn.writes.iter().map(|write| match write {
        Write::Put { value, .. } => value.len(),
        Write::Delete(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use althing_core::{Delta, Effect, Guard, ManualClock, SeededChance};

    use super::*;
    use crate::wire::Faults;

    const LEASE: Duration = Duration::from_secs(10);

    struct Stage {
        driver: Embedded,
        clock: Arc<ManualClock>,
        faults: Faults,
        folder: tempfile::TempDir,
    }

    /// Opens a file on a disk that can be made to fail, by a clock that stands.
    async fn stage() -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("embedded://{}/store.redb", folder.path().display());
        let settings = Settings::read(&url.parse().unwrap()).unwrap();
        let (clock, faults) = (Arc::new(ManualClock::new()), settings.faults.clone());
        let driver = Embedded::start(settings, clock.clone(), Arc::new(SeededChance::new(1))).await.unwrap();
        Stage { driver, clock, faults, folder }
    }

    async fn put(driver: &Embedded, key: &'static str) -> Result<Revision> {
        driver.commit(Txn::new().put(key.into(), "1")).await.map(|committed| committed.revision)
    }

    async fn is_there(driver: &Embedded, key: impl Into<Key>) -> bool {
        driver.get(&key.into()).await.unwrap().is_some()
    }

    #[track_caller]
    fn check_error(error: &Error, kind: Kind, effect: Effect) {
        assert_eq!((error.kind(), error.effect()), (kind, effect), "{error}");
    }

    async fn until(holds: impl Fn() -> bool) {
        while !holds() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_stuck_disk_stops_writes_in_time_and_neither_reads_nor_renewals() {
        let Stage { driver, clock, faults, folder: _folder } = stage().await;
        let session = driver.open(LEASE).await.unwrap().id;
        put(&driver, "before").await.unwrap();
        faults.stick(true);
        let write = |key| {
            tokio::spawn({
                let driver = driver.clone();
                async move { put(&driver, key).await }
            })
        };
        let begun = write("begun");
        until(|| faults.is_stuck()).await;
        let waiting = write("waiting");
        until(|| driver.0.queue.as_ref().unwrap().capacity() < QUEUE_MAX).await;
        assert!(is_there(&driver, "before").await && !is_there(&driver, "begun").await);
        driver.renew(session).await.unwrap();
        clock.advance(limits::CALL_DEADLINE);
        check_error(&begun.await.unwrap().unwrap_err(), Kind::Timeout, Effect::Unknown);
        check_error(&waiting.await.unwrap().unwrap_err(), Kind::Timeout, Effect::None);
        faults.stick(false);
        put(&driver, "after").await.unwrap();
        assert!(is_there(&driver, "begun").await && !is_there(&driver, "waiting").await);
    }

    #[tokio::test]
    async fn a_commit_that_the_disk_did_not_surely_keep_is_of_unknown_effect_and_watches_resync() {
        let Stage { driver, clock, faults, folder: _folder } = stage().await;
        let session = driver.open(LEASE).await.unwrap().id;
        let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
        watch.next().await.unwrap();
        clock.advance(LEASE / 2);
        driver.renew(session).await.unwrap();
        faults.fail();
        check_error(&put(&driver, "a").await.unwrap_err(), Kind::Unavailable, Effect::Unknown);
        // It was all written, so the file has it.
        assert!(is_there(&driver, "a").await);
        let Delta::Resync { records, revision } = watch.next().await.unwrap() else { panic!("a hidden gap") };
        assert_eq!(records.len(), 2);
        check_error(&put(&driver, "soon").await.unwrap_err(), Kind::Unavailable, Effect::None);
        // The disk is left alone for a moment; then it is tried again. No deadline was moved.
        clock.advance(LEASE / 2);
        assert!(put(&driver, "later").await.unwrap() > revision);
        driver.renew(session).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_lost_answer_left_in_the_file_is_seen_before_anything_is_written_over_it() {
        let Stage { driver, clock, faults, folder } = stage().await;
        let before = put(&driver, "a").await.unwrap();
        faults.fail();
        faults.fail_opening();
        check_error(&put(&driver, "b").await.unwrap_err(), Kind::Unavailable, Effect::Unknown);
        assert!(!is_there(&driver, "b").await, "the file could not be read");
        clock.advance(LEASE);
        let claim = Txn::new().guard(Guard::Absent("b".into())).put("b".into(), "2");
        let taken = driver.commit(claim).await.unwrap_err();
        assert_eq!((taken.kind(), is_there(&driver, "b").await), (Kind::Conflict, true), "{taken}");
        let after = put(&driver, "c").await.unwrap();
        assert_eq!(after, Revision(before.0 + 2), "a revision is given once");
        drop(driver);
        let url = format!("embedded://{}/store.redb", folder.path().display());
        let settings = Settings::read(&url.parse().unwrap()).unwrap();
        let again = Embedded::start(settings, clock, Arc::new(SeededChance::new(1))).await.unwrap();
        assert_eq!(again.get(&"b".into()).await.unwrap().unwrap().stamp.modified, Revision(before.0 + 1));
    }

    #[tokio::test]
    async fn an_ended_session_is_told_as_lost_only_when_its_end_is_durable() {
        let Stage { driver, clock, faults, folder: _folder } = stage().await;
        let session = driver.open(LEASE).await.unwrap().id;
        faults.stick(true);
        clock.advance(LEASE);
        until(|| faults.is_stuck()).await;
        assert!(is_there(&driver, session.key()).await);
        let renewal = tokio::spawn({
            let driver = driver.clone();
            async move { driver.renew(session).await }
        });
        until(|| driver.0.queue.as_ref().unwrap().capacity() < QUEUE_MAX).await;
        faults.stick(false);
        check_error(&renewal.await.unwrap().unwrap_err(), Kind::SessionLost, Effect::None);
        assert!(!is_there(&driver, session.key()).await);
    }
}
