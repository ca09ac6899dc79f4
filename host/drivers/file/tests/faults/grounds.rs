//! What a directory can be and become: full, frozen, removed, damaged, another's.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use althing_core::{
    Change, Clock, Delta, Driver, Effect, Guard, Key, Kind, Level, ManualClock, OsChance, Revision,
    SystemClock, Txn, limits,
};
use althing_driver_file::Directory;
use althing_test_servers::Folder;
use tokio::task::JoinSet;

use crate::member::Member;
use crate::processes::start_in_another_boot;
use crate::stage::{all_below, changes_until, check_error, connect, next, put, value, watch_from_now};

/// Where the frames of a log begin.
const FRAMES_AT: usize = 192;
const HEAD_BYTES: usize = 24;

/// Returns the logs of the only namespace.
fn logs(folder: &Folder) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.path().join("ns-n")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("log.")).collect()
}

fn log(folder: &Folder) -> PathBuf {
    let [log] = logs(folder).try_into().unwrap();
    log
}

/// Returns where the frames of a log begin and end.
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let (mut at, mut found) = (FRAMES_AT, Vec::new());
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        found.push((at, at + HEAD_BYTES + length));
        at += HEAD_BYTES + length;
    }
    found
}

fn append(path: &Path, bytes: &[u8]) {
    let file = fs::OpenOptions::new().append(true).open(path).unwrap();
    let end = file.metadata().unwrap().size();
    file.write_all_at(bytes, end).unwrap();
}

async fn check_refused(url: &str, kind: Kind, said: &str) {
    let error = connect(url).await.unwrap_err();
    check_error(&error, kind, Effect::None);
    assert!(error.to_string().contains(said), "{error}");
}

/// What a killed writer left is passed over, by those who are there and by those who come later.
pub(crate) async fn goes_on_behind_what_a_killed_writer_left_half_written() {
    let folder = Folder::new();
    let driver = connect(&folder.url("n")).await.unwrap();
    let mut watch = watch_from_now(&driver).await;
    put(&driver, "large", vec![b'x'; 10_000]).await.unwrap();
    let bytes = fs::read(log(&folder)).unwrap();
    let (start, end) = *frames(&bytes).last().unwrap();
    for (round, length) in [1, HEAD_BYTES - 1, HEAD_BYTES, 4096, end - start - 1].into_iter().enumerate() {
        append(&log(&folder), &bytes[start..start + length]);
        // Who comes while it stands at the end, and who was there.
        let late = connect(&folder.url("n")).await.unwrap();
        assert_eq!(value(&driver, "round").await, round.checked_sub(1).map(|round| round.to_string()));
        put(&late, "round", round.to_string()).await.unwrap();
        assert_eq!(value(&driver, "round").await, Some(round.to_string()));
        put(&driver, "other", round.to_string()).await.unwrap();
        assert_eq!(value(&late, "other").await, Some(round.to_string()));
    }
    let end = put(&driver, "end", "").await.unwrap();
    let changes = changes_until(&mut *watch, |change| change.revision() == end).await;
    assert_eq!(changes.len(), 12, "{changes:?}");
    drop((driver, watch));
    let again = connect(&folder.url("n")).await.unwrap();
    assert_eq!((value(&again, "round").await.as_deref(), all_below(&again, "").await.len()), (Some("4"), 4));
}

pub(crate) async fn refuses_a_damaged_log_and_cuts_nothing_off() {
    let folder = Folder::new();
    let driver = connect(&folder.url("n")).await.unwrap();
    for round in 0..10 {
        put(&driver, &format!("k/{round}"), "a value").await.unwrap();
    }
    drop(driver);
    let (path, good) = (log(&folder), fs::read(log(&folder)).unwrap());
    let frames = frames(&good);
    // In heads and bodies, from the first frame to the last one.
    let places = frames.iter().flat_map(|(start, end)| [*start, start + 5, start + HEAD_BYTES, end - 1]);
    let places: Vec<usize> = places.collect();
    for at in places.iter().copied().filter(|at| *at < frames.last().unwrap().0) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        check_refused(&folder.url("n"), Kind::Format, "the log is damaged at byte").await;
        assert!(fs::read(&path).unwrap() == bad, "a damaged log was changed");
    }
    // The last frame is whole in length: nobody who was killed left it like this.
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    fs::write(&path, &bad).unwrap();
    check_refused(&folder.url("n"), Kind::Format, "the log is damaged at byte").await;
    for (at, said) in [(0, "no log of Althing"), (16, "layout is version"), (40, "head is damaged")] {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&path, &bad).unwrap();
        check_refused(&folder.url("n"), Kind::Format, said).await;
    }
    fs::write(&path, &good).unwrap();
    assert_eq!(all_below(&connect(&folder.url("n")).await.unwrap(), "k/").await.len(), 10);
}

/// What the machine had not written when it went down was promised to nobody; all the rest was.
pub(crate) async fn another_boot_cuts_off_only_what_was_promised_to_nobody() {
    let Some(folder) = Folder::on_tmpfs("8m") else { return };
    let driver = connect(&folder.url("n")).await.unwrap();
    for round in 0..3 {
        put(&driver, &format!("k/{round}"), "a value").await.unwrap();
    }
    drop(driver);
    let (path, good) = (log(&folder), fs::read(log(&folder)).unwrap());
    let (start, end) = *frames(&good).last().unwrap();
    for at in [FRAMES_AT, start, end - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        let lines = start_in_another_boot(&folder, "reader").rest().await;
        assert!(lines[0].contains("is damaged at byte"), "{lines:?}");
        assert!(fs::read(&path).unwrap() == bad, "a damaged log was changed");
    }
    // Pages that came to the disk in another order than they were written.
    fs::write(&path, [&good[..], &[0; 4096], &good[start..end], b"rest"].concat()).unwrap();
    check_refused(&folder.url("n"), Kind::Format, "is damaged at byte").await;
    let lines = start_in_another_boot(&folder, "reader").rest().await;
    assert!(lines.len() == 4 && lines[2].starts_with("record k/2 "), "{lines:?}");
}

pub(crate) async fn a_running_process_stops_at_damage_too() {
    let folder = Folder::new();
    let driver = connect(&folder.url("n")).await.unwrap();
    put(&driver, "k", "1").await.unwrap();
    let bytes = fs::read(log(&folder)).unwrap();
    let (start, end) = *frames(&bytes).last().unwrap();
    let mut bad = bytes[start..end].to_vec();
    *bad.last_mut().unwrap() ^= 1;
    append(&log(&folder), &bad);
    check_error(&driver.get(&"k".into()).await.unwrap_err(), Kind::Format, Effect::None);
    check_error(&put(&driver, "k", "2").await.unwrap_err(), Kind::Format, Effect::None);
}

fn generation(folder: &Folder) -> u64 {
    let newest = logs(folder).into_iter().max().unwrap();
    newest.extension().unwrap().to_string_lossy().parse().unwrap()
}

/// Writes over and over the same keys until the log was begun anew so many times.
async fn write_through(driver: &Directory, folder: &Folder, times: u64) -> Revision {
    let (first, mut last) = (generation(folder), Revision::ZERO);
    for round in 0u32.. {
        last = put(driver, &format!("big/{}", round % 5), vec![round as u8; 200_000]).await.unwrap();
        if generation(folder) >= first + times {
            break;
        }
    }
    last
}

pub(crate) async fn begins_a_long_log_anew_and_keeps_everything_and_every_watch() {
    let folder = Folder::new();
    let (one, two) = (connect(&folder.url("n")).await.unwrap(), connect(&folder.url("n")).await.unwrap());
    let idle = connect(&folder.url("n")).await.unwrap();
    let session = one.open(Duration::from_secs(60)).await.unwrap().id;
    let made = one.commit(Txn::new().put_owned("mine".into(), "1", session)).await.unwrap();
    let mut watch = watch_from_now(&two).await;
    let last = write_through(&one, &folder, 3).await;
    let changes = changes_until(&mut *watch, |change| change.revision() == last).await;
    let next_to = |pair: &[Change]| pair[0].revision().0 + 1 == pair[1].revision().0;
    assert!(changes.windows(2).all(next_to), "the watch missed something");
    // Long asleep, and yet nothing else than the others.
    for driver in [&one, &two, &idle] {
        let mine = driver.get(&"mine".into()).await.unwrap().unwrap();
        assert_eq!((mine.stamp, mine.session), (made.stamps[0], Some(session)));
        assert_eq!(all_below(driver, "big/").await.len(), 5);
        driver.renew(session).await.unwrap();
    }
    let after =
        idle.commit(Txn::new().guard(Guard::Unchanged("mine".into(), made.stamps[0])).delete("mine".into()));
    assert!(after.await.unwrap().revision > last);
    let size = fs::metadata(log(&folder)).unwrap().size();
    assert!(size < 12 << 20, "a log of {size} bytes for 1 MB of records");
    assert_eq!(all_below(&connect(&folder.url("n")).await.unwrap(), "").await.len(), 6);
}

/// Returns the drafts in which more stands than the beginning of a state.
fn snapshots(folder: &Folder) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder.path().join("ns-n")).unwrap().map(|entry| entry.unwrap().path());
    let is_large = |path: &PathBuf| fs::metadata(path).is_ok_and(|file| file.size() > 1 << 20);
    let is_draft = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("draft.");
    paths.filter(is_draft).filter(is_large).collect()
}

pub(crate) async fn one_of_many_begins_a_long_log_anew_and_no_session_is_lost() {
    // A disk that others keep busy is not what is tested.
    let Some(folder) = Folder::on_tmpfs("256m") else { return };
    let url = format!("{}&timeout=20s", folder.url("n"));
    let drivers = [Arc::new(connect(&url).await.unwrap()), Arc::new(connect(&url).await.unwrap())];
    for part in 0..3 {
        put(&drivers[0], &format!("state/{part}"), vec![part; 1_000_000]).await.unwrap();
    }
    // They look whenever something happens, and so meet each seal at once.
    let mut watchers = Vec::new();
    for _ in 0..3 {
        let watcher = connect(&url).await.unwrap();
        watchers.push(watch_from_now(&watcher).await);
    }
    let mut holders: Vec<Member> = (0..2).map(|_| Member::start("2000", &url)).collect();
    for holder in &mut holders {
        holder.says("renewed").await;
    }
    let mut load = JoinSet::new();
    for driver in drivers.clone() {
        load.spawn(async move {
            loop {
                put(&driver, "load", vec![7; 50_000]).await.unwrap();
                // Each of the others has to read it too.
                SystemClock.sleep(Duration::from_millis(10)).await;
            }
        });
    }
    let (first, mut seen) = (generation(&folder), BTreeSet::new());
    while generation(&folder) < first + 3 {
        seen.extend(snapshots(&folder));
        SystemClock.sleep(Duration::from_millis(1)).await;
        assert!(load.try_join_next().is_none(), "a commit failed");
    }
    let times = generation(&folder) - first;
    load.shutdown().await;
    // One each; but where a busy machine gives no turn to the one who is at it, another goes on in his place.
    assert!((1..2 * times).contains(&(seen.len() as u64)), "{times} times: {seen:?}");
    for holder in &mut holders {
        holder.says("renewed").await;
        assert!(!holder.said().iter().any(|line| line.starts_with("lost")), "a session was lost");
    }
    assert_eq!(all_below(&drivers[1], "session/").await.len(), 2);
}

pub(crate) async fn what_is_too_long_to_be_read_in_a_call_is_opened_all_the_same() {
    let folder = Folder::new();
    let driver = connect(&folder.url("n")).await.unwrap();
    for key in ["a", "b", "c"] {
        put(&driver, key, vec![1; 1_000_000]).await.unwrap();
    }
    drop(driver);
    let hasty = connect(&format!("{}&timeout=1ms", folder.url("n"))).await.unwrap();
    drop(hasty);
    let Some(folder) = Folder::on_ext4() else { return };
    folder.freeze();
    let (location, clock) = (folder.url("n").parse().unwrap(), Arc::new(ManualClock::new()));
    let connecting = {
        let clock = clock.clone();
        tokio::spawn(
            async move { Directory::connect(&location, clock, Arc::new(OsChance)).await.unwrap_err() },
        )
    };
    let begun = clock.now();
    while !connecting.is_finished() {
        clock.advance(Duration::from_secs(1));
        SystemClock.sleep(Duration::from_millis(1)).await;
    }
    folder.thaw();
    let error = connecting.await.unwrap();
    check_error(&error, Kind::Timeout, Effect::None);
    assert!(clock.now().since(begun) >= Duration::from_secs(60), "it gave up early");
    assert!(error.to_string().contains("timeout="), "{error}");
}

pub(crate) async fn refuses_a_key_that_is_too_long_wherever_it_stands() {
    let folder = Folder::new();
    let driver = connect(&folder.url("n")).await.unwrap();
    let long = Key::new(vec![b'k'; limits::KEY_BYTES_MAX + 1]);
    let short = Key::from("k");
    let refused = [
        driver.get(&long).await.unwrap_err(),
        driver.list(&long, None, 0).await.unwrap_err(),
        driver.list(&short, Some(&long), 0).await.unwrap_err(),
        driver.watch(&long, Revision::ZERO).await.unwrap_err(),
    ];
    for error in refused {
        check_error(&error, Kind::TooLarge, Effect::None);
    }
}

/// The names of the two logs may be on the disk before what they hold.
pub(crate) async fn a_loss_of_power_right_after_a_log_was_begun_anew_loses_nothing() {
    let Some(folder) = Folder::on_ext4() else { return };
    let driver = connect(&folder.url("n")).await.unwrap();
    write_through(&driver, &folder, 1).await;
    let there = all_below(&driver, "big/").await;
    fs::File::create(folder.mount_point().join("another")).unwrap().sync_all().unwrap();
    let after = folder.after_power_loss();
    let lines = start_in_another_boot(&after, "reader").rest().await;
    for record in there {
        let begins = |line: &&String| line.starts_with(&format!("record {} ", record.key));
        let line = lines.iter().find(begins).unwrap_or_else(|| panic!("{} is lost: {lines:?}", record.key));
        assert!(line.ends_with(&format!(" {}", record.stamp.modified.0)), "{line}");
    }
}

pub(crate) async fn a_full_disk_refuses_commits_and_ends_no_session() {
    let Some(folder) = Folder::on_tmpfs("1m") else { return };
    let url = folder.url("n");
    let (driver, other) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    let lease = Duration::from_secs(2);
    let session = driver.open(lease).await.unwrap().id;
    driver.commit(Txn::new().put_owned("mine".into(), "1", session)).await.unwrap();
    let mut watch = watch_from_now(&driver).await;
    let doomed = other.open(Duration::from_millis(500)).await.unwrap().id;
    let filler = folder.mount_point().join("filler");
    // Some file took all the room there is.
    Command::new("dd")
        .args(["if=/dev/zero", "bs=4k"])
        .arg(format!("of={}", filler.display()))
        .output()
        .unwrap();
    let error = loop {
        driver.renew(session).await.unwrap();
        match put(&driver, "small", "1").await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    check_error(&error, Kind::Unavailable, Effect::None);
    assert!(error.to_string().contains("The disk is full"), "{error}");
    check_error(&put(&other, "large", vec![0; 300_000]).await.unwrap_err(), Kind::Unavailable, Effect::None);
    check_error(&driver.open(lease).await.unwrap_err(), Kind::Unavailable, Effect::None);
    for _ in 0..8 {
        SystemClock.sleep(lease / 4).await;
        driver.renew(session).await.unwrap();
        assert_eq!(value(&driver, "mine").await.as_deref(), Some("1"));
    }
    // The other did not renew, and is over for all who look, though the disk is full.
    let gone = |change: &Change| *change.key() == doomed.key() && matches!(change, Change::Deleted { .. });
    changes_until(&mut *watch, gone).await;
    assert_eq!(all_below(&other, "large").await, vec![]);
    fs::remove_file(filler).unwrap();
    put(&driver, "large", vec![b'x'; 100_000]).await.unwrap();
    assert_eq!(all_below(&connect(&url).await.unwrap(), "large").await.len(), 1);
}

pub(crate) async fn a_disk_that_answers_nobody_is_told_in_time_and_with_its_effect() {
    let Some(folder) = Folder::on_ext4() else { return };
    let url = format!("{}&timeout=300ms", folder.url("n"));
    let (driver, other) = (connect(&url).await.unwrap(), connect(&url).await.unwrap());
    put(&driver, "a", "1").await.unwrap();
    folder.freeze();
    let begun = SystemClock.now();
    // The first stands in its write; what stands behind it has not begun.
    check_error(&put(&driver, "a", "2").await.unwrap_err(), Kind::Timeout, Effect::Unknown);
    check_error(&put(&driver, "b", "2").await.unwrap_err(), Kind::Timeout, Effect::None);
    check_error(&driver.get(&"a".into()).await.unwrap_err(), Kind::Timeout, Effect::None);
    assert!(SystemClock.now().since(begun) < Duration::from_secs(3));
    // Who only reads needs nothing of that disk.
    assert_eq!(value(&other, "a").await.as_deref(), Some("1"));
    folder.thaw();
    while driver.get(&"a".into()).await.is_err() {}
    put(&driver, "c", "3").await.unwrap();
    let found = [value(&other, "a").await, value(&other, "b").await, value(&other, "c").await];
    assert_eq!(
        found,
        [Some("2".into()), None, Some("3".into())],
        "what was begun was done, the rest was not"
    );
}

pub(crate) async fn tells_that_its_directory_was_removed_and_goes_on_in_the_next() {
    let folder = Folder::new();
    let url = folder.url("n");
    let driver = Arc::new(connect(&url).await.unwrap());
    let session = driver.open(Duration::from_secs(60)).await.unwrap().id;
    let before = driver.commit(Txn::new().put_owned("mine".into(), "1", session)).await.unwrap().revision;
    let mut watch = watch_from_now(&driver).await;
    fs::remove_dir_all(folder.path()).unwrap();
    let error = put(&driver, "lost", "1").await.unwrap_err();
    check_error(&error, Kind::Unavailable, Effect::None);
    assert!(error.to_string().contains("the directory is gone"), "{error}");
    assert_eq!(driver.get(&"mine".into()).await.unwrap_err().kind(), Kind::Unavailable);
    assert_eq!(driver.renew(session).await.unwrap_err().kind(), Kind::Unavailable);
    // Whoever waits hears it, without asking anything.
    assert_eq!(next(&mut *watch).await.unwrap_err().kind(), Kind::Unavailable);
    assert!(!folder.path().exists(), "a running process made a new directory");

    let second = connect(&url).await.unwrap();
    let delta = loop {
        match next(&mut *watch).await {
            Ok(delta) => break delta,
            Err(error) => assert_eq!(error.kind(), Kind::Unavailable, "{error}"),
        }
    };
    let Delta::Resync { records, revision } = delta else { panic!("loss was hidden: {delta:?}") };
    assert!(records.is_empty() && revision > before, "{records:?} {revision:?} after {before:?}");
    check_error(&driver.renew(session).await.unwrap_err(), Kind::SessionLost, Effect::None);
    assert!(put(&driver, "a", "1").await.unwrap() > before);
    assert_eq!(value(&second, "a").await.as_deref(), Some("1"));
    let changes = changes_until(&mut *watch, |change| *change.key() == "a".into()).await;
    assert_eq!(changes.len(), 1);
}

/// An older copy of the directory is put back under a running process: its tokens go on rising all the same.
pub(crate) async fn tokens_rise_over_an_older_copy_of_the_directory() {
    let folder = Folder::new();
    let driver = connect(&folder.url("n")).await.unwrap();
    put(&driver, "a", "1").await.unwrap();
    let old = fs::read(log(&folder)).unwrap();
    let before = put(&driver, "a", "2").await.unwrap();
    let mut watch = driver.watch(&Key::default(), before).await.unwrap();
    let path = log(&folder);
    let copy = path.with_file_name("copy");
    fs::write(&copy, old).unwrap();
    fs::rename(copy, &path).unwrap();
    assert_eq!(value(&driver, "a").await.as_deref(), Some("1"));
    assert!(put(&driver, "a", "3").await.unwrap() > before);
    let Delta::Resync { records, .. } = next(&mut *watch).await.unwrap() else { panic!("a loss was hidden") };
    assert_eq!(records.len(), 1);
}

pub(crate) async fn refuses_a_directory_that_is_not_ours_and_changes_nothing() {
    let folder = Folder::new();
    let url = folder.url("n");
    fs::create_dir(folder.path()).unwrap();
    let (other, format) = (folder.path().join("thesis.tex"), folder.path().join("althing"));
    fs::write(&other, "years of work").unwrap();
    check_refused(&url, Kind::Format, "it holds \"thesis.tex\"").await;
    for (text, said) in [("#!/bin/sh\n", "says something else"), ("althing file, layout 2\n", "has layout 2")]
    {
        fs::write(&format, text).unwrap();
        check_refused(&url, Kind::Format, said).await;
        assert_eq!(fs::read_to_string(&format).unwrap(), text);
    }
    fs::remove_file(&format).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something was written");
    assert_eq!(fs::read_to_string(&other).unwrap(), "years of work");
    fs::remove_file(&other).unwrap();
    fs::create_dir(folder.path().join("lost+found")).unwrap();
    put(&connect(&url).await.unwrap(), "a", "1").await.unwrap();
}

pub(crate) async fn refuses_what_is_no_directory_or_has_no_parent() {
    let folder = Folder::new();
    check_refused(&folder.url("n").replace("/shared", "/a/b"), Kind::Unavailable, "its parent is missing")
        .await;
    fs::write(folder.path(), "a file").unwrap();
    check_refused(&folder.url("n"), Kind::Invalid, "Name a directory").await;
    check_refused("file:///proc/althing", Kind::Unsupported, "unknown to this driver").await;
    check_refused(&format!("{}&timeuot=1s", folder.url("n")), Kind::Invalid, "Did you mean timeout?").await;
}

pub(crate) async fn refuses_a_directory_that_cannot_be_written() {
    if rustix::process::geteuid().is_root() {
        let Some(folder) = Folder::on_tmpfs("1m") else { return };
        folder.make_read_only();
        check_refused(&folder.url("n"), Kind::Denied, "so that it can be written").await;
    } else {
        let folder = Folder::new();
        fs::create_dir(folder.path()).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o500)).unwrap();
        check_refused(&folder.url("n"), Kind::Denied, "must own the directory").await;
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

pub(crate) async fn what_it_makes_is_for_its_user_alone() {
    let folder = Folder::new();
    let driver = connect(&folder.url("n")).await.unwrap();
    let session = driver.open(Duration::from_secs(60)).await.unwrap().id;
    let namespace = folder.path().join("ns-n");
    let file = namespace.join("sessions").join(session.to_string());
    for path in [&folder.path(), &namespace, &namespace.join("sessions")] {
        assert_eq!(mode(path), 0o700, "{}", path.display());
    }
    for path in [&folder.path().join("althing"), &log(&folder), &file] {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
    driver.close(session).await.unwrap();
    assert!(!file.exists(), "the file of a session outlived it");
}

pub(crate) async fn sweeps_away_what_killed_processes_left() {
    let folder = Folder::new();
    let driver = connect(&folder.url("n")).await.unwrap();
    let mut member = Member::start("60000", &folder.url("n"));
    let session = member.says("ready").await;
    let namespace = folder.path().join("ns-n");
    let draft = namespace.join(format!("draft.{:032x}", 7));
    let (orphan, live) = (
        namespace.join("sessions/0".to_owned() + &"7".repeat(31)),
        namespace.join("sessions").join(&session),
    );
    fs::write(&draft, "half a log").unwrap();
    fs::write(&orphan, "").unwrap();
    drop(connect(&folder.url("n")).await.unwrap());
    assert_eq!([draft.exists(), orphan.exists(), live.exists()], [false, false, true]);
    member.kill();
    while driver.get(&Key::path(["session", &session])).await.unwrap().is_some() {
        SystemClock.sleep(Duration::from_millis(10)).await;
    }
    drop(connect(&folder.url("n")).await.unwrap());
    assert!(!live.exists(), "the file of a killed process outlived it");
}

pub(crate) async fn promises_what_its_file_system_keeps() {
    let Some(disk) = Folder::on_ext4() else { return };
    let capability = connect(&disk.url("n")).await.unwrap().capability();
    assert_eq!(capability, althing_driver_file::capability());
    assert!(!capability.across_hosts);
    check_level(&disk, Level::L1).await;
    let Some(memory) = Folder::on_tmpfs("1m") else { return };
    check_level(&memory, Level::L0).await;
    // What is written to an overlay is worth what lies below it, unless it syncs nothing.
    let layers = [(&disk, "", Level::L1), (&disk, ",volatile", Level::L0), (&memory, "", Level::L0)];
    for (below, options, level) in layers {
        let Some(overlay) = below.under_overlay(options) else { return };
        check_level(&overlay, level).await;
    }
}

async fn check_level(folder: &Folder, level: Level) {
    let capability = connect(&folder.url("n")).await.unwrap().capability();
    assert_eq!((capability.level, capability.token_survives_restart), (level, level == Level::L1));
}

pub(crate) async fn namespaces_do_not_see_each_other() {
    let folder = Folder::new();
    let (left, right) =
        (connect(&folder.url("a")).await.unwrap(), connect(&folder.url("a%2Fb")).await.unwrap());
    put(&left, "k", "1").await.unwrap();
    assert_eq!(value(&right, "k").await, None);
    assert!(folder.path().join("ns-a%2Fb").is_dir());
}
