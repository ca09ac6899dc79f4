//! A disk that is full, or no disk at all: a small one of our own, in memory.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use althing_core::{Clock, Driver, Effect, Key, Kind, Level, Revision, SystemClock};
use tempfile::TempDir;

use crate::{BEAT, LEASE, PATIENCE, Place, check_error, next_changes, open, put, value};

const SIZE: usize = 8 << 20;

/// A file system in memory. Dropping it unmounts it.
struct Disk {
    folder: TempDir,
}

impl Disk {
    fn mount() -> Option<Disk> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={SIZE}");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        mount.is_ok_and(|mount| mount.status.success()).then_some(Disk { folder })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Fills what is left of it.
    fn fill(&self) {
        let mut ballast = File::create(self.path("ballast")).unwrap();
        for size in [4096, 1] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.path("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the file may still be in use where a test failed.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

/// Says why no disk can be filled here. In CI that is no excuse.
pub(crate) fn impossible() -> Option<&'static str> {
    let excused = !althing_test_servers::required() && Disk::mount().is_none();
    excused.then_some("only root can mount a small disk to fill")
}

pub(crate) async fn a_link_promises_no_more_than_where_it_leads() {
    let disk = Disk::mount().expect("only root can mount a small disk, and CI=true requires it");
    let place = Place::new();
    put(&open(&disk.path("store.redb")).await.unwrap(), "a", "1").await.unwrap();
    symlink(disk.path("store.redb"), place.file()).unwrap();
    let driver = place.open().await;
    assert_eq!(value(&driver, "a").await.as_deref(), Some("1"));
    let promised = driver.capability();
    assert_eq!((promised.level, promised.token_survives_restart), (Level::L0, false), "it leads into memory");
}

pub(crate) async fn a_full_disk_refuses_commits_and_nothing_else() {
    let disk = Disk::mount().expect("only root can mount a small disk to fill, and CI=true requires it");
    let file = disk.path("store.redb");
    let driver = open(&file).await.unwrap();
    let promised = driver.capability();
    assert_eq!((promised.level, promised.token_survives_restart), (Level::L0, false), "it lies in memory");
    let kept = driver.open(LEASE).await.unwrap().id;
    let left = driver.open(LEASE).await.unwrap().id;
    let mut last = put(&driver, "a", "1").await.unwrap();
    let mut watch = driver.watch(&Key::default(), last).await.unwrap();
    disk.fill();

    // What the file has of its own can still be written.
    let mut count = 0;
    let error = loop {
        match put(&driver, &format!("large-{count}"), vec![b'x'; 20_000]).await {
            Ok(revision) => (count, last) = (count + 1, revision),
            Err(error) => break error,
        }
        driver.renew(kept).await.unwrap();
        next_changes(&mut *watch).await;
    };
    check_error(&error, Kind::Unavailable, Effect::None, "no room left on the disk");
    assert_eq!(value(&driver, "a").await.as_deref(), Some("1"));
    assert_eq!(value(&driver, &format!("large-{count}")).await, None);

    // For longer than a lease: renewals go on, and no end is told that is not written.
    for _ in 0..35 {
        driver.renew(kept).await.unwrap();
        SystemClock.sleep(BEAT).await;
        let error = put(&driver, "b", vec![b'x'; 500_000]).await.unwrap_err();
        check_error(&error, Kind::Unavailable, Effect::None, "no room left on the disk");
    }
    let due = driver.get(&left.key()).await.unwrap().is_some();
    let renewed = driver.renew(left).await.unwrap_err();
    assert_eq!(renewed.kind(), if due { Kind::Unavailable } else { Kind::SessionLost }, "{renewed}");

    disk.make_room();
    let deadline = SystemClock.now() + PATIENCE;
    let revision = loop {
        driver.renew(kept).await.unwrap();
        match put(&driver, "b", vec![b'x'; 500_000]).await {
            Ok(revision) => break revision,
            Err(error) => assert!(SystemClock.now() < deadline, "{error}"),
        }
        SystemClock.sleep(Duration::from_millis(20)).await;
    };
    assert!(revision > last);
    assert_eq!(driver.get(&left.key()).await.unwrap(), None);
    driver.renew(kept).await.unwrap();
    drop(driver);
    let driver = open(&file).await.unwrap();
    assert_eq!(value(&driver, "b").await.map(|value| value.len()), Some(500_000));
    assert!(put(&driver, "a", "2").await.unwrap() > revision.max(Revision::ZERO));
}
