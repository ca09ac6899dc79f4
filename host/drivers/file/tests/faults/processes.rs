//! What happens to the processes that share a directory, and to their machine: they are killed, stand still, race each other,
//! and lose their power.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use althing_core::{
    Cause, Chance, Change, Clock, Delta, Driver, Effect, Key, Kind, OsChance, Record, Revision, SystemClock,
    Txn,
};
use althing_test_servers::{Folder, ready_to};

use crate::member::Member;
use crate::stage::{all_below, changes_until, check_error, connect, next, put, value, watch_from_now};

/// What a writer was told: number and revision, in order.
fn acknowledged(lines: &[String]) -> Vec<(u64, u64)> {
    let ack = |line: &String| {
        let (number, revision) = line.strip_prefix("ack ")?.split_once(' ')?;
        Some((number.parse().ok()?, revision.parse().ok()?))
    };
    lines.iter().filter_map(ack).collect()
}

/// Fails unless the newest of what a writer was told, or something newer, is there.
fn check_kept(pid: u32, acks: &[(u64, u64)], records: &BTreeMap<String, (u64, u64)>) {
    assert!(acks.is_sorted_by(|left, right| left.1 < right.1), "tokens of {pid} do not rise: {acks:?}");
    let mut newest = BTreeMap::new();
    for (number, revision) in acks {
        newest.insert(number % 4, (*number, *revision));
    }
    for (slot, (number, revision)) in newest {
        let found = records.get(&format!("w/{pid}/{slot}")).copied();
        let found =
            found.unwrap_or_else(|| panic!("{number} of {pid} was acknowledged at {revision} and is lost"));
        assert!(
            found == (number, revision) || found.1 > revision,
            "{found:?} where {number} {revision} was acknowledged"
        );
    }
}

fn numbers_of(records: &[Record]) -> BTreeMap<String, (u64, u64)> {
    let number = |record: &Record| u64::from_le_bytes(record.value[..8].try_into().unwrap());
    let row = |record: &Record| (record.key.to_string(), (number(record), record.stamp.modified.0));
    records.iter().map(row).collect()
}

/// Kills writers at random moments while others write, and gathers what all of them were told.
async fn kill_writers(url: &str, kills: usize) -> Vec<(u32, Vec<(u64, u64)>)> {
    let mut writers: Vec<Member> = (0..3).map(|_| Member::start("writer", url)).collect();
    let mut told = Vec::new();
    for kill in 0..kills {
        let victim = &mut writers[kill % 3];
        let mut lines = Vec::new();
        for _ in 0..=OsChance.bits() % 20 {
            lines.push(format!("ack {}", victim.says("ack").await));
        }
        SystemClock.sleep(Duration::from_micros((OsChance.bits() % 5000) as u64)).await;
        victim.kill();
        lines.extend(victim.rest().await);
        told.push((victim.pid(), acknowledged(&lines)));
        writers[kill % 3] = Member::start("writer", url);
    }
    for mut writer in writers {
        writer.kill();
        told.push((writer.pid(), acknowledged(&writer.rest().await)));
    }
    told
}

pub(crate) async fn a_kill_at_any_moment_loses_nothing_acknowledged_and_ends_its_session_at_once() {
    let folder = Folder::new();
    let url = folder.url("n");
    let driver = connect(&url).await.unwrap();
    let mut watch = watch_from_now(&driver).await;
    let told = kill_writers(&url, 24).await;
    let end = put(&driver, "end", "").await.unwrap();
    let changes = changes_until(&mut *watch, |change| change.revision() == end).await;
    assert!(changes.is_sorted_by_key(Change::revision), "out of order");
    let mut tokens = BTreeSet::new();
    let fresh = connect(&url).await.unwrap();
    let records = numbers_of(&all_below(&fresh, "w/").await);
    for (pid, acks) in &told {
        check_kept(*pid, acks, &records);
        let seen = |revision: u64| changes.iter().any(|change| change.revision().0 == revision);
        assert!(acks.iter().all(|(_, revision)| seen(*revision)), "the watch missed something of {pid}");
        assert!(acks.iter().all(|(_, revision)| tokens.insert(*revision)), "a token was given twice");
    }
    // Their leases last a minute; nobody waits for those.
    let deadline = SystemClock.now() + Duration::from_secs(3);
    while !(all_below(&fresh, "alive/").await.is_empty() && all_below(&fresh, "session/").await.is_empty()) {
        assert!(SystemClock.now() < deadline, "the records of the killed are still there");
    }
}

pub(crate) async fn who_is_killed_is_missed_long_before_its_lease_runs_out() {
    let folder = Folder::new();
    let driver = connect(&folder.url("n")).await.unwrap();
    let mut watch = watch_from_now(&driver).await;
    for _ in 0..5 {
        let mut member = Member::start("60000", &folder.url("n"));
        let session = member.says("ready").await;
        let session = Key::path(["session", &session]);
        let killed = SystemClock.now();
        member.kill();
        let changes = changes_until(
            &mut *watch,
            |change| matches!(change, Change::Deleted { key, .. } if *key == session),
        );
        let changes = changes.await;
        let passed = SystemClock.now().since(killed);
        assert!(passed < Duration::from_secs(3), "it took {passed:?} to see a death");
        let gone: Vec<_> = changes.iter().filter(|change| matches!(change, Change::Deleted { .. })).collect();
        let expired = |change: &&Change| matches!(change, Change::Deleted { cause: Cause::Expired, .. });
        assert!(gone.len() == 2 && gone.iter().all(expired), "{gone:?}");
        assert_eq!(gone[0].revision(), gone[1].revision());
    }
}

pub(crate) async fn who_stands_still_is_over_after_its_lease_and_hears_it() {
    let (folder, lease) = (Folder::new(), Duration::from_millis(800));
    let driver = connect(&folder.url("n")).await.unwrap();
    let mut watch = watch_from_now(&driver).await;
    let mut member = Member::start("800", &folder.url("n"));
    member.says("renewed").await;
    let alive = Key::from(format!("alive/{}", member.pid()).as_str());
    member.stop();
    let stopped = SystemClock.now();
    let changes =
        changes_until(&mut *watch, |change| matches!(change, Change::Deleted { key, .. } if *key == alive))
            .await;
    assert!(matches!(changes.last(), Some(Change::Deleted { cause: Cause::Expired, .. })), "{changes:?}");
    // It still holds its lock: only the deadline can have ended it, and not before its time.
    assert!(SystemClock.now().since(stopped) >= lease / 2, "a session that was just renewed ended at once");
    SystemClock.sleep_until(stopped + lease * 3).await;
    member.go_on();
    assert_eq!(member.says("lost").await, "Some(SessionLost)");
    assert_eq!(driver.get(&alive).await.unwrap(), None);
}

/// There is no lock to stand still with: the others go on at once, wherever it was stopped.
pub(crate) async fn who_stands_still_in_the_middle_of_anything_keeps_nobody_waiting() {
    let folder = Folder::new();
    let url = folder.url("n");
    let driver = connect(&format!("{url}&timeout=1s")).await.unwrap();
    let mut writers: Vec<Member> = (0..2).map(|_| Member::start("writer", &url)).collect();
    let mut told = vec![Vec::new(), Vec::new()];
    for round in 0..40 {
        let place = round % 2;
        told[place].push(format!("ack {}", writers[place].says("ack").await));
        SystemClock.sleep(Duration::from_micros((OsChance.bits() % 3000) as u64)).await;
        writers[place].stop();
        put(&driver, "mine", round.to_string()).await.unwrap();
        assert_eq!(value(&driver, "mine").await, Some(round.to_string()));
        writers[place].go_on();
    }
    for (mut writer, mut lines) in writers.into_iter().zip(told) {
        writer.kill();
        lines.extend(writer.rest().await);
        let records = numbers_of(&all_below(&driver, "w/").await);
        check_kept(writer.pid(), &acknowledged(&lines), &records);
    }
}

pub(crate) async fn only_one_of_many_processes_wins() {
    let folder = Folder::new();
    let mut racers: Vec<Member> = (0..4).map(|_| Member::start("racer", &folder.url("n"))).collect();
    let mut winners = BTreeMap::new();
    for racer in &mut racers {
        for line in racer.rest().await {
            let words: Vec<String> = line.split(' ').map(String::from).collect();
            assert_eq!(words[0], "won", "{line}");
            let former = winners.insert(words[1].clone(), (racer.pid().to_string(), words[2].clone()));
            assert_eq!(former, None, "round {} was won twice", words[1]);
        }
    }
    assert_eq!(winners.len(), 150);
    let driver = connect(&folder.url("n")).await.unwrap();
    for (round, (winner, revision)) in winners {
        let record = driver.get(&format!("race/{round}").as_str().into()).await.unwrap().unwrap();
        assert_eq!(
            (record.value.as_ref(), record.stamp.created.0.to_string()),
            (winner.as_bytes(), revision)
        );
    }
}

pub(crate) async fn no_update_of_many_processes_is_lost() {
    let folder = Folder::new();
    let mut counters: Vec<Member> = (0..4).map(|_| Member::start("counter", &folder.url("n"))).collect();
    for counter in &mut counters {
        assert_eq!(counter.rest().await, Vec::<String>::new());
    }
    let driver = connect(&folder.url("n")).await.unwrap();
    assert_eq!(value(&driver, "count").await.as_deref(), Some("400"));
}

/// Starts a part in a process that takes the machine for started anew.
pub(crate) fn start_in_another_boot(folder: &Folder, part: &str) -> Member {
    let file = folder.mount_point().with_file_name("boot_id");
    std::fs::write(&file, "00000000-0000-4000-8000-00000000000b\n").unwrap();
    let script = format!("mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$0\"", file.display());
    Member::start_in(&["unshare", "--mount", "sh", "-c", &script], part, &folder.url("n"))
}

pub(crate) async fn a_loss_of_power_loses_nothing_acknowledged_and_ends_all_sessions() {
    let Some(folder) = Folder::on_ext4() else { return };
    let mut writers: Vec<Member> = (0..2).map(|_| Member::start("writer", &folder.url("n"))).collect();
    for _ in 0..4 {
        let mut told: Vec<(u32, Vec<String>)> = Vec::new();
        for writer in &mut writers {
            told.push((writer.pid(), vec![format!("ack {}", writer.says("ack").await)]));
        }
        SystemClock.sleep(Duration::from_millis((OsChance.bits() % 50) as u64)).await;
        writers.iter().for_each(Member::stop);
        // What they had said by now was on the disk.
        for (writer, (_, lines)) in writers.iter_mut().zip(&mut told) {
            lines.extend(writer.said());
        }
        // The copy takes a while: what the kernel was still writing must be done.
        SystemClock.sleep(Duration::from_millis(200)).await;
        let after = folder.after_power_loss();
        let mut reader = start_in_another_boot(&after, "reader");
        check_after_power_loss(&told, &reader.rest().await);
        writers.iter().for_each(Member::go_on);
    }
}

fn check_after_power_loss(told: &[(u32, Vec<String>)], lines: &[String]) {
    let (mut records, mut highest) = (BTreeMap::new(), 0);
    for line in lines.iter().filter_map(|line| line.strip_prefix("record ")) {
        let words: Vec<&str> = line.split(' ').collect();
        assert!(
            !words[0].starts_with("session/") && !words[0].starts_with("alive/"),
            "{line} outlived its boot"
        );
        let revision: u64 = words[2].parse().unwrap();
        highest = revision.max(highest);
        records.insert(words[0].to_owned(), (words[1].parse().unwrap(), revision));
    }
    for (pid, lines) in told {
        check_kept(*pid, &acknowledged(lines), &records);
    }
    let wrote: u64 = lines.last().unwrap().strip_prefix("wrote ").unwrap().parse().unwrap();
    assert!(wrote > highest, "{wrote} after {highest}");
}

pub(crate) async fn a_process_of_another_boot_finds_the_records_and_no_session() {
    let Some(folder) = Folder::on_tmpfs("8m") else { return };
    let driver = connect(&folder.url("n")).await.unwrap();
    let session = driver.open(Duration::from_secs(60)).await.unwrap().id;
    let txn = Txn::new().put("kept".into(), "12345678").put_owned("mine".into(), "1", session);
    let before = driver.commit(txn).await.unwrap().revision;
    drop(driver);
    let mut reader = start_in_another_boot(&folder, "reader");
    let lines = reader.rest().await;
    let number = u64::from_le_bytes(*b"12345678");
    assert_eq!(lines[0], format!("record kept {number} {}", before.0));
    let wrote: u64 = lines[1].strip_prefix("wrote ").unwrap().parse().unwrap();
    assert!(wrote > before.0 && lines.len() == 2, "{lines:?}");
}

/// Tells whether a wrapper works on this machine, for this user.
fn runs(wrapper: &[&str]) -> bool {
    let output = Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").output();
    output.is_ok_and(|output| output.status.success())
}

pub(crate) async fn watches_poll_where_the_kernel_lets_them_hear_nothing() {
    let folder = Folder::new();
    let driver = connect(&folder.url("n")).await.unwrap();
    let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\"";
    let wrapper = ["unshare", "--user", "--map-root-user", "sh", "-c", script];
    if !ready_to("forbid inotify", runs(&wrapper)) {
        return;
    }
    let mut watcher = Member::start_in(&wrapper, "watcher", &folder.url("n"));
    watcher.says("ready").await;
    for round in 0..20 {
        put(&driver, &format!("told/{round}"), "").await.unwrap();
        assert_eq!(watcher.says("told").await, format!("told/{round}"));
    }
}

pub(crate) async fn a_clock_of_its_own_is_refused() {
    let folder = Folder::new();
    let wrapper = ["unshare", "--time", "--boottime", "1000", "--fork"];
    if !ready_to("make a time namespace", runs(&wrapper)) {
        return;
    }
    let mut member = Member::start_in(&wrapper, "1000", &folder.url("n"));
    let lines = member.rest().await;
    assert!(lines[0].contains("time namespace"), "{lines:?}");
    assert!(!folder.path().exists(), "a directory was made for nobody");
}

pub(crate) async fn a_session_lives_as_long_as_it_is_renewed_by_whomever() {
    let folder = Folder::new();
    let (owner, other) = (connect(&folder.url("n")).await.unwrap(), connect(&folder.url("n")).await.unwrap());
    let mut watch = watch_from_now(&other).await;
    let lease = Duration::from_millis(1500);
    let session = owner.open(lease).await.unwrap().id;
    for _ in 0..6 {
        SystemClock.sleep(lease / 3).await;
        other.renew(session).await.unwrap();
    }
    let last = put(&owner, "last", "1").await.unwrap();
    let changes = changes_until(&mut *watch, |change| change.revision() == last).await;
    assert!(changes.iter().all(|change| matches!(change, Change::Put(_))), "{changes:?}");
    let Delta::Changes { changes, .. } = next(&mut *watch).await.unwrap() else { panic!("a resync") };
    assert!(matches!(&changes[0], Change::Deleted { cause: Cause::Expired, .. }), "{changes:?}");
}

pub(crate) async fn who_drops_its_driver_is_gone_at_once() {
    let folder = Folder::new();
    let (owner, other) = (connect(&folder.url("n")).await.unwrap(), connect(&folder.url("n")).await.unwrap());
    let session = owner.open(Duration::from_secs(60)).await.unwrap().id;
    let made = owner.commit(Txn::new().put_owned("mine".into(), "1", session)).await.unwrap().revision;
    let mut watch = other.watch(&"mine".into(), made).await.unwrap();
    drop(owner);
    let Delta::Changes { changes, .. } = next(&mut *watch).await.unwrap() else { panic!("a resync") };
    assert_eq!((changes.len(), changes[0].revision()), (1, Revision(made.0 + 1)));
    let error = other.renew(session).await.unwrap_err();
    check_error(&error, Kind::SessionLost, Effect::None);
}
