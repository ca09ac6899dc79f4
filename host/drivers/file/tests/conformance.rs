//! A directory does what every driver must do, on a disk and on a tmpfs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test: what it does not expect ends it"
)]

use std::process::ExitCode;
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use althing_conformance::{Subject, main as run, trials};
use althing_core::{
    Capability, Clock, Committed, Delta, Driver, Error, Key, Kind, Lease, OsChance, Page, Record, Result,
    Revision, Session, SessionId, SystemClock, Txn, Watch,
};
use althing_driver_file::Directory;
use althing_test_servers::Folder;
use async_trait::async_trait;
use tokio::sync::Mutex;

/// A private directory for one case.
struct OnDirectory {
    folder: Folder,
    drivers: StdMutex<Vec<Arc<Reopened>>>,
}

/// A directory that is opened anew when all processes died: everything that was in memory is dropped, watches too.
#[derive(Debug)]
struct Reopened {
    url: String,
    directory: Mutex<Option<Arc<Directory>>>,
    watches: StdMutex<Vec<Place>>,
}

type Place = Arc<Mutex<Option<Box<dyn Watch>>>>;

#[derive(Debug)]
struct ReopenedWatch {
    driver: Arc<Reopened>,
    place: Place,
    prefix: Key,
    seen: Revision,
}

impl Reopened {
    async fn directory(&self) -> Result<Arc<Directory>> {
        let mut directory = self.directory.lock().await;
        if let Some(directory) = &*directory {
            return Ok(directory.clone());
        }
        let location = self.url.parse()?;
        let opened = Directory::connect(&location, Arc::new(SystemClock), Arc::new(OsChance)).await?;
        Ok(directory.insert(Arc::new(opened)).clone())
    }

    async fn die(&self) {
        let watches = self.watches.lock().unwrap().clone();
        for watch in watches {
            *watch.lock().await = None;
        }
        *self.directory.lock().await = None;
    }
}

/// What the suite is handed; the same for all who hold it.
#[derive(Debug)]
struct Handed(Arc<Reopened>);

#[async_trait]
impl Driver for Handed {
    fn capability(&self) -> Capability {
        self.0.directory.try_lock().unwrap().as_ref().unwrap().capability()
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        self.0.directory().await?.open(ask).await
    }

    async fn renew(&self, session: SessionId) -> Result<Lease> {
        self.0.directory().await?.renew(session).await
    }

    async fn close(&self, session: SessionId) -> Result<()> {
        self.0.directory().await?.close(session).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.0.directory().await?.get(key).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<Page> {
        self.0.directory().await?.list(prefix, after, limit).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        self.0.directory().await?.commit(txn).await
    }

    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>> {
        let watch = self.0.directory().await?.watch(prefix, from).await?;
        let place = Arc::new(Mutex::new(Some(watch)));
        self.0.watches.lock().unwrap().push(place.clone());
        Ok(Box::new(ReopenedWatch { driver: self.0.clone(), place, prefix: prefix.clone(), seen: from }))
    }
}

#[async_trait]
impl Watch for ReopenedWatch {
    async fn next(&mut self) -> Result<Delta> {
        let mut watch = self.place.lock().await;
        if watch.is_none() {
            *watch = Some(self.driver.directory().await?.watch(&self.prefix, self.seen).await?);
        }
        let delta = watch.as_mut().unwrap().next().await?;
        let (Delta::Changes { revision, .. } | Delta::Resync { revision, .. }) = &delta;
        self.seen = *revision;
        Ok(delta)
    }
}

#[async_trait]
impl Subject for OnDirectory {
    async fn connect(&self, namespace: &str) -> Result<Arc<dyn Driver>> {
        let url = self.folder.url(namespace);
        let driver = Reopened { url, directory: Mutex::default(), watches: StdMutex::default() };
        let driver = Arc::new(driver);
        driver.directory().await?;
        self.drivers.lock().unwrap().push(driver.clone());
        Ok(Arc::new(Handed(driver)))
    }

    async fn pass(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    async fn restart(&self) -> bool {
        let drivers = self.drivers.lock().unwrap().clone();
        for driver in drivers {
            driver.die().await;
        }
        true
    }
}

fn on(folder: Folder) -> OnDirectory {
    OnDirectory { folder, drivers: StdMutex::default() }
}

fn main() -> ExitCode {
    let mut all = trials("file", || async { Ok(on(Folder::new())) });
    all.extend(trials("file-tmpfs", || async {
        let missing = || Error::new(Kind::NotFound, "start", "this user may not mount a tmpfs");
        Folder::on_tmpfs("512m").map(on).ok_or_else(missing)
    }));
    run(all)
}
