//! Listings: order, pages, prefixes.

use althing_core::{Driver, Key, Record, Txn, limits};

use crate::stage::{key, list_all, put};
use crate::{Follower, Stage};

async fn put_all(driver: &dyn Driver, names: &[&[u8]]) {
    for name in names {
        driver.commit(Txn::new().put(Key::new(name.to_vec()), "v")).await.unwrap();
    }
}

#[track_caller]
fn check_names(records: &[Record], expected: &[&[u8]]) {
    let found: Vec<&[u8]> = records.iter().map(|record| record.key.as_bytes()).collect();
    assert_eq!(found, expected);
}

pub(super) async fn lists_in_the_order_of_bytes(stage: Stage) {
    let driver = stage.connect().await;
    put_all(&*driver, &[b"b", b"\xff", b"a\xff", b"a", b"B", b"a\x00", b"a/", b"10", b"9"]).await;
    let all = list_all(&*driver, &Key::default(), 0).await;
    check_names(&all, &[b"10", b"9", b"B", b"a", b"a\x00", b"a/", b"a\xff", b"b", b"\xff"]);
    for limit in 1..10 {
        assert_eq!(list_all(&*driver, &Key::default(), limit).await, all, "by {limit}");
    }
    for record in &all {
        assert_eq!(driver.get(&record.key).await.unwrap().as_ref(), Some(record));
    }
}

pub(super) async fn lists_long_names_that_differ_in_their_last_byte(stage: Stage) {
    let driver = stage.connect().await;
    let longest = driver.capability().key_bytes_max as usize;
    let long = |last: u8| [&vec![b'n'; longest - 1][..], &[last]].concat();
    // Not in their order, which a store that looks only at how they begin would find.
    let names = [5, 1, 7, 3, 0, 6, 2, 4].map(long);
    put_all(&*driver, &names.each_ref().map(Vec::as_slice)).await;
    for limit in [1, 2, 3, 0] {
        let records = list_all(&*driver, &key("n"), limit).await;
        assert!(records.iter().map(|record| record.key.as_bytes()).eq((0..8).map(long)), "by {limit}");
    }
}

pub(super) async fn goes_on_after_any_key(stage: Stage) {
    let driver = stage.connect().await;
    put_all(&*driver, &[b"o", b"p/1", b"p/3", b"p/5", b"q"]).await;
    let prefix = key("p/");
    let after = async |after: &str| {
        let page = driver.list(&prefix, Some(&key(after)), 0).await.unwrap();
        assert_eq!(page.next, None);
        page.records
    };
    check_names(&after("").await, &[b"p/1", b"p/3", b"p/5"]);
    check_names(&after("p/1").await, &[b"p/3", b"p/5"]);
    check_names(&after("p/2").await, &[b"p/3", b"p/5"]);
    check_names(&after("p/5").await, &[]);
    check_names(&after("z").await, &[]);
}

pub(super) async fn bounds_its_pages(stage: Stage) {
    let driver = stage.connect().await;
    put_many(&*driver, limits::PAGE_RECORDS_MAX as usize + 1).await;
    let two = driver.list(&key("many/"), None, 2).await.unwrap();
    assert_eq!((two.records.len(), two.next.as_ref()), (2, Some(&two.records[1].key)));
    for limit in [0, limits::PAGE_RECORDS_MAX + 1, u32::MAX] {
        let page = driver.list(&key("many/"), None, limit).await.unwrap();
        assert!(page.records.len() <= limits::PAGE_RECORDS_MAX as usize);
        assert!(page.next.is_some(), "a page of {} says that it is the last", page.records.len());
    }
}

pub(super) async fn bounds_the_bytes_of_a_page(stage: Stage) {
    let driver = stage.connect().await;
    let largest = driver.capability().value_bytes_max as usize;
    let count = limits::PAGE_BYTES_MAX / largest + 2;
    for index in 0..count.min(16) {
        let name = key(&format!("large/{index:02}"));
        driver.commit(Txn::new().put(name, vec![b'v'; largest])).await.unwrap();
    }
    let (mut after, mut seen) = (None, 0);
    loop {
        let page = driver.list(&key("large/"), after.as_ref(), 0).await.unwrap();
        let bytes: usize = page.records.iter().map(|record| record.value.len()).sum();
        assert!(bytes <= limits::PAGE_BYTES_MAX || page.records.len() == 1, "a page of {bytes} bytes");
        seen += page.records.len();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, count.min(16));
}

pub(super) async fn takes_prefixes_as_bytes(stage: Stage) {
    let driver = stage.connect().await;
    let names: [&[u8]; 8] = [b"a", b"a*", b"a?b", b"ab", b"b[c]", b"\xfe\xff", b"\xff", b"\xff\xff\x01"];
    put_all(&*driver, &names).await;
    for prefix in [&b""[..], b"a", b"a*", b"a?", b"b[", b"b[c", b"\xfe", b"\xff", b"\xff\xff", b"\\", b"%"] {
        let found = list_all(&*driver, &Key::new(prefix.to_vec()), 0).await;
        let expected: Vec<&[u8]> = names.into_iter().filter(|name| name.starts_with(prefix)).collect();
        check_names(&found, &expected);
    }
}

async fn put_many(driver: &dyn Driver, count: usize) {
    let at_once = driver.capability().txn_keys_max.min(50) as usize;
    let names: Vec<String> = (0..count).map(|index| format!("many/{index:04}")).collect();
    for names in names.chunks(at_once) {
        let txn = names.iter().fold(Txn::new(), |txn, name| txn.put(key(name), name.clone()));
        driver.commit(txn).await.unwrap();
    }
}

pub(super) async fn lists_two_thousand_keys(stage: Stage) {
    let (one, two) = (stage.connect().await, stage.connect().await);
    put_many(&*one, 2000).await;
    put(&*one, "many", "not below").await;
    let all = list_all(&*two, &key("many/"), 300).await;
    assert_eq!(all.len(), 2000);
    assert!(all.iter().all(|record| record.key.as_bytes() == record.value));
    assert!(all.windows(2).all(|pair| pair[0].key < pair[1].key));
    let follower = Follower::begin(&*two, &key("many/")).await;
    assert!(follower.records.into_values().eq(all), "a resync shows what a listing shows");
}
