//! Files that are new, old, damaged, foreign or large.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use althing_core::{Chance, Driver, Effect, Kind, Revision, SeededChance, Txn};

use crate::{LEASE, Place, all, check_error, connect, open, put, value};

pub(crate) async fn a_file_that_was_let_go_can_be_opened_at_once() {
    let place = Place::new();
    for round in 0..20 {
        let driver = place.open().await;
        let error = open(&place.file()).await.unwrap_err();
        check_error(&error, Kind::Busy, Effect::None, "another part of this one");
        let clone = driver.clone();
        drop(driver);
        assert_eq!(value(&clone, "round").await, (round > 0).then(|| (round - 1).to_string()));
        put(&clone, "round", round.to_string()).await.unwrap();
        // A commit that nobody waits for is no reason to keep the file.
        let dropped = tokio::time::timeout(std::time::Duration::ZERO, put(&clone, "dropped", "1"));
        drop(dropped.await);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

pub(crate) async fn is_for_its_owner_alone_and_makes_one_folder() {
    let place = Place::new();
    let folder = place.folder.path().join("one");
    let deep = folder.join("two/store.redb");
    let error = open(&deep).await.unwrap_err();
    check_error(&error, Kind::NotFound, Effect::None, &format!("Make {}/two", folder.display()));
    assert!(!folder.exists());
    let file = folder.join("store.redb");
    open(&file).await.unwrap();
    assert_eq!((mode(&folder), mode(&file)), (0o700, 0o600));
    let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["store.redb"]);
    let error = open(&folder).await.unwrap_err();
    check_error(&error, Kind::Invalid, Effect::None, "Name a file, not a folder");
}

pub(crate) async fn begins_anew_in_an_empty_file_and_after_an_unfinished_one() {
    let place = Place::new();
    fs::write(place.file(), "").unwrap();
    fs::write(place.folder.path().join("store.redb.new"), "the beginning of a file").unwrap();
    put(&place.open().await, "a", "1").await.unwrap();
    assert_eq!(value(&place.open().await, "a").await.as_deref(), Some("1"));
    assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 1);
}

async fn check_left_alone(content: &[u8], said: &str) {
    let place = Place::new();
    fs::write(place.file(), content).unwrap();
    check_error(&open(&place.file()).await.unwrap_err(), Kind::Format, Effect::None, said);
    assert_eq!(fs::read(place.file()).unwrap(), content);
}

pub(crate) async fn leaves_alone_what_is_not_its_own() {
    check_left_alone(b"What I have to buy:\nmilk\n", "not one of ours").await;
    check_left_alone(b"redb\x1a\x0a\xa9\x0d\x0a and so on", "not one of ours").await;
    check_left_alone(b"althing embedded 2\nwho knows", "layout version 2, not 1").await;
    check_left_alone(b"x", "not one of ours").await;
}

/// Makes a file with some records, and returns what it holds and its bytes, while it is in use or after it was closed.
async fn filled(closed: bool) -> (Vec<althing_core::Record>, Vec<u8>) {
    let place = Place::new();
    let driver = place.open().await;
    for index in 0..40 {
        put(&driver, &format!("key-{index}"), vec![b'x'; 300]).await.unwrap();
    }
    let session = driver.open(LEASE * 100).await.unwrap().id;
    driver.commit(Txn::new().put_owned("mine".into(), "1", session)).await.unwrap();
    let records = all(&driver).await;
    if closed {
        drop(driver);
    }
    (records, fs::read(place.file()).unwrap())
}

/// A bit that the disk turned is told, or was in no part that matters: nothing is lost, and nothing invented.
pub(crate) async fn tells_damage_and_loses_nothing_silently() {
    let chance = SeededChance::new(4);
    for closed in [true, false] {
        let (records, bytes) = filled(closed).await;
        let mut told = 0;
        // Half of them where our page and redb's header say what the file is.
        let places = (0..120).map(|round| {
            let bits = chance.bits() as usize;
            match round % 4 {
                0 => bits % 24,
                1 => 4096 + bits % 320,
                _ => bits % bytes.len(),
            }
        });
        for place in places {
            let damaged = Place::new();
            let mut content = bytes.clone();
            content[place] ^= 1 << (chance.bits() % 8);
            fs::write(damaged.file(), content).unwrap();
            match open(&damaged.file()).await {
                Ok(driver) => assert_eq!(all(&driver).await, records, "byte {place}, closed: {closed}"),
                Err(error) => {
                    check_error(&error, Kind::Format, Effect::None, "store.redb");
                    told += 1;
                }
            }
        }
        assert!(told > 20, "{told} of 120 were told");
        let cut = Place::new();
        fs::write(cut.file(), &bytes[..bytes.len() / 2]).unwrap();
        check_error(&open(&cut.file()).await.unwrap_err(), Kind::Format, Effect::None, "damaged");
    }
}

async fn overwrite(driver: &althing_driver_embedded::Embedded, rounds: usize) {
    for round in 0..rounds {
        let name = |index| format!("key-{index}").as_str().into();
        let value = vec![round as u8; 1000];
        let txn = (0..50).fold(Txn::new(), |txn, index| txn.put(name(index), value.clone()));
        driver.commit(txn).await.unwrap();
    }
}

pub(crate) async fn does_not_grow_for_ever() {
    let place = Place::new();
    let driver = place.open().await;
    let size = || fs::metadata(place.file()).unwrap().len();
    overwrite(&driver, 50).await;
    let settled = size();
    overwrite(&driver, 250).await;
    assert!(size() <= settled, "{} bytes after {settled}", size());

    for index in 0..20 {
        put(&driver, &format!("large-{index}"), vec![0; 1 << 20]).await.unwrap();
    }
    assert!(size() > 20 << 20);
    for index in 0..20 {
        driver.commit(Txn::new().delete(format!("large-{index}").as_str().into())).await.unwrap();
    }
    drop(driver);
    // What it grew by once is given back when it is opened again.
    overwrite(&place.open().await, 20).await;
    assert!(size() <= 4 * settled, "{} bytes after {settled}, with nothing more in it", size());
}

pub(crate) async fn namespaces_do_not_see_each_other() {
    let place = Place::new();
    let url = |namespace| format!("embedded://{}?namespace={namespace}", place.file().display());
    let mut last = Revision::ZERO;
    for namespace in ["one", "two", "one", "records%20of%20one"] {
        let driver = connect(&url(namespace)).await.unwrap();
        let known = value(&driver, "name").await;
        assert!(known.is_none() || known.as_deref() == Some(namespace), "{namespace} sees {known:?}");
        let revision = put(&driver, "name", namespace).await.unwrap();
        assert!(revision > last);
        last = revision;
    }
    assert_eq!(value(&connect(&url("one")).await.unwrap(), "name").await.as_deref(), Some("one"));
}
