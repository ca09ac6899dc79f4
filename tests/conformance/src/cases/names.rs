//! Names and values: any bytes, up to the stated limits.

use althing_core::{Change, Guard, Key, Kind, Txn};
use bytes::Bytes;

use crate::stage::{key, list_all, refused};
use crate::{Follower, Stage};

/// Names that some backend, somewhere, takes for something else.
fn odd_names(longest: usize) -> Vec<Key> {
    let mut names: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let texts =
        ["", "//", "../..", "a/b", "a b", "%00", "{tag}", "session", "Session/x", "format", "a\nb", "a\r\nb"];
    names.extend(texts.map(Vec::from));
    names.extend(["a\0b", "'; --", "Þing", "e\u{301}", "\u{e9}", "名前", "🏛"].map(Vec::from));
    names.push(vec![0xFF; 64]);
    names.push(vec![0; 64]);
    names.push(vec![b'n'; longest]);
    names.push(vec![0xFF; longest]);
    names.sort();
    names.dedup();
    names.into_iter().map(Key::new).collect()
}

pub(super) async fn keeps_any_byte_string_as_a_name(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    let session = stage.long_session(&*one).await;
    let names = odd_names(one.capability().key_bytes_max as usize);
    let mut follower = Follower::begin(&*two, &Key::default()).await;
    for (index, name) in names.iter().enumerate() {
        let guard = Guard::Absent(name.clone());
        let txn = Txn::new().guard(guard).put_owned(name.clone(), index.to_string(), session.id);
        one.commit(txn).await.unwrap_or_else(|error| panic!("{name:?} is refused: {error}"));
    }
    let records = list_all(&*two, &Key::default(), 100).await;
    assert!(records.iter().map(|record| &record.key).eq(&names), "each name is listed as it was written");
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.value, index.to_string());
        assert_eq!(two.get(&record.key).await.unwrap().as_ref(), Some(record));
        let guard = Guard::Unchanged(record.key.clone(), record.stamp);
        two.commit(Txn::new().guard(guard).delete(record.key.clone())).await.unwrap();
    }
    let gone = |follower: &Follower| {
        let deleted = |change: &&Change| matches!(change, Change::Deleted { .. });
        follower.changes.iter().filter(deleted).count() == names.len()
    };
    follower.until(gone).await;
    assert!(names.iter().all(|name| follower.of(name).len() == 2), "each name is told as it was written");
}

pub(super) async fn refuses_a_name_that_is_too_long(stage: Stage) {
    let driver = stage.connect().await;
    let long = Key::new(vec![b'n'; driver.capability().key_bytes_max as usize + 1]);
    let put = Txn::new().put(key("beside"), "1").put(long.clone(), "1");
    if driver.capability().txn_keys_max > 1 {
        refused(driver.commit(put).await, Kind::TooLarge);
    }
    refused(driver.commit(Txn::new().put(long.clone(), "1")).await, Kind::TooLarge);
    refused(driver.commit(Txn::new().delete(long.clone())).await, Kind::TooLarge);
    let guarded = Txn::new().guard(Guard::Absent(long.clone())).put(key("beside"), "1");
    refused(driver.commit(guarded).await, Kind::TooLarge);
    refused(driver.get(&long).await, Kind::TooLarge);
    refused(driver.list(&long, None, 0).await, Kind::TooLarge);
    refused(driver.watch(&long, althing_core::Revision::ZERO).await, Kind::TooLarge);
    assert_eq!(driver.get(&key("beside")).await.unwrap(), None);
}

pub(super) async fn keeps_values_up_to_the_limit(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    let most = one.capability().value_bytes_max as usize;
    let all_bytes: Vec<u8> = (0..=255).collect();
    let large: Vec<u8> = (0..most).map(|index| (index % 251) as u8).collect();
    let mut follower = Follower::begin(&*two, &key("a")).await;
    let values = [Vec::new(), vec![0], all_bytes, b"\r\n".to_vec(), large].map(Bytes::from);
    for value in &values {
        one.commit(Txn::new().put(key("a"), value.clone())).await.unwrap();
        let read = two.get(&key("a")).await.unwrap().unwrap();
        assert!(read.value == *value, "{} bytes do not come back", value.len());
    }
    follower.until(|follower| follower.changes.len() == values.len()).await;
    let told = |change: &Change| match change {
        Change::Put(record) => record.value.clone(),
        Change::Deleted { .. } => panic!("nothing was deleted"),
    };
    assert!(follower.changes.iter().map(told).eq(values), "a watch tells values as they were written");
}

pub(super) async fn refuses_a_value_over_the_limit(stage: Stage) {
    let driver = stage.connect().await;
    let over = vec![b'v'; driver.capability().value_bytes_max as usize + 1];
    refused(driver.commit(Txn::new().put(key("a"), over)).await, Kind::TooLarge);
    assert_eq!(driver.get(&key("a")).await.unwrap(), None);
}
