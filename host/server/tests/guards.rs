//! The guards of the Rust client: a lock, and a part in what a group shares. They know what they hold without asking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod stage;

use std::time::Duration;

use althing_client::{Lock, Membership, Partition};
use althing_core::info::{BreakAsk, JoinAsk, LockAsk, PartitionAsk, Released, SessionEvent};
use tokio::time::timeout;

use crate::stage::Host;

/// The longest that anything is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

async fn session(host: &Host) -> Membership {
    Membership::open(host.client(), Some(Duration::from_secs(5))).await.unwrap()
}

fn ask(name: &str, wait_ms: Option<u64>) -> LockAsk {
    LockAsk { names: vec![name.into()], wait_ms, ..LockAsk::default() }
}

async fn locked(session: &Membership, name: &str) -> Lock {
    session.lock(&ask(name, Some(0))).await.unwrap().expect("nobody holds it").pop().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_held_until_it_is_released_and_then_by_the_next() {
    let host = Host::start().await;
    let (one, two) = (session(&host).await, session(&host).await);
    let first = locked(&one, "db").await;
    assert!(first.is_held() && two.lock(&ask("db", Some(0))).await.unwrap().is_none());
    let asked = ask("db", None);
    let next = two.lock(&asked);
    let token = first.token();
    let release = async { first.release().await.unwrap() };
    let (next, released) = timeout(PATIENCE, async { tokio::join!(next, release) }).await.unwrap();
    let next = next.unwrap().unwrap().pop().unwrap();
    assert!(released == Released::Released && next.is_held() && next.token() > token);
    drop(next);
    let again = timeout(PATIENCE, one.lock(&asked)).await.unwrap().unwrap().unwrap().pop().unwrap();
    assert!(again.is_held(), "what is dropped is released");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_lock_is_not_held_at_once_and_moves_on_when_its_guard_goes() {
    let host = Host::start().await;
    let (mut one, two) = (session(&host).await, session(&host).await);
    let lock = locked(&one, "db").await;
    let (client, force) = (host.client(), BreakAsk::default());
    let breaking = tokio::spawn(async move { client.break_lock("db", &force).await });
    timeout(PATIENCE, lock.lost()).await.unwrap();
    assert!(!lock.is_held() && two.lock(&ask("db", Some(0))).await.unwrap().is_none());
    let token = lock.token();
    drop(lock);
    assert_eq!(breaking.await.unwrap().unwrap().broken, [token]);
    locked(&two, "db").await;
    loop {
        match timeout(PATIENCE, one.next_event()).await.unwrap() {
            Some(SessionEvent::LockStop { lock }) => return assert_eq!(lock.token, token),
            Some(_) => {}
            None => panic!("the session ended"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_takes_its_locks_along() {
    let host = Host::start().await;
    let (one, two) = (session(&host).await, session(&host).await);
    let lock = locked(&one, "db").await;
    one.close().await.unwrap();
    assert!(!lock.is_held());
    locked(&two, "db").await;
    assert_eq!(host.client().lock_info("db").await.unwrap().waiters, []);
}

async fn joined(host: &Host, id: &str) -> (Membership, Partition) {
    let session = session(host).await;
    let ask = JoinAsk { id: id.into(), create: true, ..JoinAsk::default() };
    session.join("web", &ask).await.unwrap();
    let part = session.partition("web", id, &PartitionAsk::default()).await.unwrap();
    (session, part)
}

fn owned(part: &Partition) -> Vec<String> {
    (0..100).map(|index| format!("object-{index}")).filter(|object| part.owns(object)).collect()
}

/// Waits until shares are so.
async fn until(part: &Partition, is_so: impl Fn(&Partition) -> bool) {
    let waiting = async {
        while !is_so(part) {
            let Some(info) = part.info() else {
                tokio::task::yield_now().await;
                continue;
            };
            if is_so(part) {
                break;
            }
            part.changed(&info).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("the shares come to be so");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_object_has_two_owners_while_it_moves_and_all_have_one_in_the_end() {
    let host = Host::start().await;
    let (_one, first) = joined(&host, "a").await;
    until(&first, |part| owned(part).len() == 100).await;
    let (two, second) = joined(&host, "b").await;
    until(&first, |part| part.info().unwrap().pending == ["a"]).await;
    until(&second, |part| part.info().unwrap().version == 2).await;
    let (kept, gained) = (owned(&first), owned(&second));
    assert!(kept.len() < 100 && gained.is_empty(), "b waits for a, who works on {} still", kept.len());
    first.settle().await.unwrap();
    until(&second, |part| !owned(part).is_empty()).await;
    assert_eq!(owned(&first), kept);
    assert_eq!(owned(&second).len() + kept.len(), 100);
    assert!(owned(&second).iter().all(|object| !kept.contains(object)));
    two.leave("web", "b").await.unwrap();
    assert!(owned(&second).is_empty(), "who left owns nothing");
    until(&first, |part| owned(part).len() == 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_made_anew_is_shared_anew() {
    let host = Host::start().await;
    let (one, part) = joined(&host, "a").await;
    let (two, _) = joined(&host, "b").await;
    until(&part, |part| part.info().unwrap().version == 2).await;
    two.close().await.unwrap();
    one.leave("web", "a").await.unwrap();
    let last = part.info().unwrap();
    host.client().delete_group("web").await.unwrap();
    timeout(PATIENCE, part.changed(&last)).await.expect("the end of the group is told");
    one.join("web", &JoinAsk { id: "a".into(), create: true, ..JoinAsk::default() }).await.unwrap();
    host.client().partition_group("web", &PartitionAsk::default()).await.unwrap();
    until(&part, |part| owned(part).len() == 100).await;
    assert!(part.info().unwrap().version < last.version, "versions begin anew");
}
