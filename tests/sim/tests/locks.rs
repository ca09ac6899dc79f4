//! Locks on fleets of one to three hosts: exclusive, shared, permits; in order, with tokens, and with nothing left behind
//! whatever fails. Promises 1, 2, 3, 6, 7 and 14.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use althing_core::info::{
    BreakAsk, LockAnswer, LockAsk, LockHold, LockInfo, LockMode, ReleaseAsk, Released, SessionAsk,
    SessionEvent,
};
use althing_core::layers::{Fault, Operation};
use althing_core::{Effect, Error, Key, Kind, Level, Principal, Requirement, Txn, Write};
use althing_runtime::Runtime;
use althing_sim::{Client, Fleet, Stage, eventually, eventually_found, next_told};
use althing_test_servers::Backend;
use tokio::task::JoinHandle;

althing_sim::suite! {
    Backend::ALL => [
        one_holds_and_whoever_waits_follows_in_the_order_of_asking,
        who_shares_holds_together_and_nobody_overtakes,
        a_semaphore_lets_in_as_many_as_its_limit,
        a_name_is_used_in_one_way_at_a_time,
        several_names_are_locked_all_or_none,
        a_lock_that_is_tried_right_after_a_release_elsewhere_is_got,
        a_request_asked_again_is_answered_by_the_same_grant,
        what_a_session_holds_and_waits_for_goes_when_it_ends,
        a_release_is_told_from_a_loss_and_from_a_second_one,
        a_broken_holder_stops_before_the_next_one_holds,
        a_holder_that_says_nothing_is_asked_and_force_does_not_wait_for_it,
        a_host_that_is_cut_off_stops_before_the_lock_moves_on,
        what_a_dead_host_held_is_cleared_away_though_nobody_waits,
        a_host_that_dies_while_another_writes_is_cleared_away_too,
        who_waits_goes_on_waiting_when_its_host_lost_its_session,
        what_was_lost_while_another_name_was_waited_for_is_taken_anew,
        a_request_that_nobody_waits_for_leaves_nothing,
        a_grant_whose_reply_is_lost_is_found_and_held,
        a_release_that_failed_is_done_when_the_backend_is_back,
        a_backend_that_promises_less_than_is_required_locks_nothing,
        a_crowd_on_three_hosts_holds_one_by_one_with_rising_tokens,
    ],
}

fn ask(names: &[&str], mode: LockMode, wait_ms: Option<u64>) -> LockAsk {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    let limit = (mode == LockMode::Permit).then_some(2);
    LockAsk { names, mode, limit, wait_ms, ..LockAsk::default() }
}

async fn lock(client: &Client, ask: LockAsk) -> Result<LockAnswer, Error> {
    client.runtime.lock(&client.key, ask).await
}

/// Tries one lock.
async fn tried(client: &Client, name: &str, mode: LockMode) -> Option<LockHold> {
    lock(client, ask(&[name], mode, Some(0))).await.unwrap().locks.pop()
}

async fn held(client: &Client, name: &str) -> LockHold {
    tried(client, name, LockMode::Exclusive).await.expect("nobody holds it")
}

/// Waits for a lock in a task, which has begun to wait when this returns.
async fn waiting(client: &Client, name: &str, mode: LockMode) -> JoinHandle<Result<LockAnswer, Error>> {
    let before = info(&client.runtime, name).await.waiters.len();
    let (waiter, ask) = (client.clone(), ask(&[name], mode, None));
    let waiting = tokio::spawn(async move { lock(&waiter, ask).await });
    seen(&client.runtime, name, |info| info.waiters.len() > before).await;
    waiting
}

async fn granted(waiting: JoinHandle<Result<LockAnswer, Error>>) -> LockHold {
    let answer = tokio::time::timeout(althing_sim::PATIENCE, waiting).await.expect("it is let in");
    answer.unwrap().unwrap().locks.pop().unwrap()
}

async fn release(client: &Client, hold: &LockHold) -> Released {
    let ask = ReleaseAsk { token: hold.token, id: None };
    client.runtime.release_lock(&client.key, &hold.lock, &ask).await.unwrap()
}

async fn info(runtime: &Runtime, name: &str) -> LockInfo {
    runtime.lock_info(name).await.unwrap()
}

/// Waits until a host sees a lock so.
async fn seen(runtime: &Runtime, name: &str, is_so: impl Fn(&LockInfo) -> bool) {
    eventually_found("the lock is seen so", async || is_so(&info(runtime, name).await)).await;
}

/// Tells whether nothing of any lock lies in the store.
async fn is_clean(fleet: &Fleet) -> bool {
    fleet.store.list(&Key::path(["lock"]).below(), None, 10).await.unwrap().records.is_empty()
}

fn writes_lock(txn: &Txn) -> bool {
    let locks = Key::path(["lock"]).below();
    txn.writes
        .iter()
        .any(|write| matches!(write, Write::Put { key, .. } | Write::Delete(key) if key.starts_with(&locks)))
}

/// A session whose client is elsewhere and learns of a loss by a message only.
fn remote(fleet: &Fleet, host: usize) -> Client {
    fleet.hosts[host].session_with(SessionAsk { ttl_ms: Some(3000), drop_on_disconnect: false }, true)
}

async fn one_holds_and_whoever_waits_follows_in_the_order_of_asking(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let clients = [0, 1, 0, 1].map(|host| fleet.hosts[host].session());
    let mut hold = held(&clients[0], "db").await;
    assert!(tried(&clients[1], "db", LockMode::Exclusive).await.is_none());
    let mut queue = Vec::new();
    for client in &clients[1..] {
        queue.push(waiting(client, "db", LockMode::Exclusive).await);
        // A host sees what it asked for itself at once; the next one is of the other host.
        for host in &fleet.hosts {
            seen(&host.runtime, "db", |info| info.waiters.len() == queue.len()).await;
        }
    }
    let shown = info(&clients[1].runtime, "db").await;
    assert_eq!(
        (shown.holders[0].token, shown.holders[0].party.session.as_str()),
        (hold.token, &*clients[0].key.id)
    );
    let positions: Vec<_> =
        shown.waiters.iter().map(|waiter| (waiter.position, &*waiter.party.session)).collect();
    assert_eq!(positions, [(1, &*clients[1].key.id), (2, &*clients[2].key.id), (3, &*clients[3].key.id)]);
    for (index, next) in queue.into_iter().enumerate() {
        assert!(!next.is_finished());
        assert!(clients[index].runtime.holds_lock(&clients[index].key, "db", hold.token));
        assert_eq!(release(&clients[index], &hold).await, Released::Released);
        assert!(!clients[index].runtime.holds_lock(&clients[index].key, "db", hold.token));
        let former = std::mem::replace(&mut hold, granted(next).await);
        assert!(hold.token > former.token, "{hold:?} after {former:?}");
        assert!(clients[index + 1].runtime.holds_lock(&clients[index + 1].key, "db", hold.token));
    }
    release(&clients[3], &hold).await;
    assert!(is_clean(&fleet).await);
}

async fn who_shares_holds_together_and_nobody_overtakes(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let [reader, other, writer, late] = [0, 1, 0, 1].map(|host| fleet.hosts[host].session());
    let first = tried(&reader, "f", LockMode::Shared).await.unwrap();
    let second = tried(&other, "f", LockMode::Shared).await.unwrap();
    let writing = waiting(&writer, "f", LockMode::Exclusive).await;
    assert!(tried(&late, "f", LockMode::Shared).await.is_none(), "it would overtake");
    let reading = waiting(&late, "f", LockMode::Shared).await;
    release(&reader, &first).await;
    assert!(!writing.is_finished());
    release(&other, &second).await;
    let written = granted(writing).await;
    assert!(!reading.is_finished() && written.token > second.token);
    release(&writer, &written).await;
    let read = granted(reading).await;
    assert!(read.token > written.token);
    assert!(tried(&writer, "f", LockMode::Exclusive).await.is_none());
    release(&late, &read).await;
    assert!(is_clean(&fleet).await);
}

async fn a_semaphore_lets_in_as_many_as_its_limit(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let clients = [0, 1, 0].map(|host| fleet.hosts[host].session());
    let first = tried(&clients[0], "s", LockMode::Permit).await.unwrap();
    let again = tried(&clients[0], "s", LockMode::Permit).await.unwrap();
    assert_eq!(first.limit, Some(2));
    assert!(tried(&clients[1], "s", LockMode::Permit).await.is_none());
    let next = waiting(&clients[1], "s", LockMode::Permit).await;
    release(&clients[0], &again).await;
    let third = granted(next).await;
    assert!(third.token > first.token);
    release(&clients[1], &third).await;
    release(&clients[0], &first).await;
    assert!(is_clean(&fleet).await);
}

async fn a_name_is_used_in_one_way_at_a_time(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let (one, two) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    let permit = tried(&one, "s", LockMode::Permit).await.unwrap();
    let wrong = [
        ask(&["s"], LockMode::Exclusive, None),
        LockAsk { limit: Some(3), ..ask(&["s"], LockMode::Permit, Some(0)) },
    ];
    for ask in wrong {
        let error = lock(&two, ask).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        assert!(error.to_string().contains("a semaphore with a limit of 2"), "{error}");
    }
    release(&one, &permit).await;
    release(&two, &held(&two, "s").await).await;
    assert!(is_clean(&fleet).await);
}

async fn several_names_are_locked_all_or_none(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let (one, two) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    let taken = held(&one, "b").await;
    let none = lock(&two, ask(&["c", "b", "a"], LockMode::Exclusive, Some(0))).await.unwrap();
    assert_eq!(none, LockAnswer { granted: false, locks: Vec::new() });
    release(&one, &held(&one, "a").await).await;
    let all = waiting(&two, "b", LockMode::Exclusive).await;
    release(&one, &taken).await;
    release(&two, &granted(all).await).await;
    let all = lock(&two, ask(&["c", "b", "a"], LockMode::Exclusive, Some(1000))).await.unwrap().locks;
    assert_eq!(all.iter().map(|hold| hold.lock.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    // Both want the same two, named in another order: one of them follows the other.
    for hold in &all {
        release(&two, hold).await;
    }
    let names = [["x", "y"], ["y", "x"]];
    let both = [&one, &two].into_iter().zip(names).map(|(client, names)| async move {
        for _ in 0..10 {
            for hold in lock(client, ask(&names, LockMode::Exclusive, None)).await.unwrap().locks {
                release(client, &hold).await;
            }
        }
    });
    futures::future::join_all(both).await;
    assert!(is_clean(&fleet).await);
}

async fn a_lock_that_is_tried_right_after_a_release_elsewhere_is_got(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let clients = [0, 1].map(|host| fleet.hosts[host].session());
    for round in 0..20 {
        let client = &clients[round % 2];
        release(client, &held(client, "db").await).await;
    }
    assert!(is_clean(&fleet).await);
}

async fn a_request_asked_again_is_answered_by_the_same_grant(stage: Stage) {
    let fleet = stage.fleet(1).await;
    let client = fleet.hosts[0].session();
    let ask = LockAsk { id: Some("mine".into()), ..ask(&["a", "b"], LockMode::Exclusive, Some(0)) };
    let first = lock(&client, ask.clone()).await.unwrap();
    assert!(first.granted && first.locks.iter().all(|hold| hold.id == "mine"));
    assert_eq!(lock(&client, ask.clone()).await.unwrap(), first);
    for hold in &first.locks {
        release(&client, hold).await;
    }
    let again = lock(&client, ask).await.unwrap();
    assert!(again.granted && again.locks[0].token > first.locks[0].token);
}

async fn what_a_session_holds_and_waits_for_goes_when_it_ends(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let [holder, waiter, third] = [0, 1, 0].map(|host| fleet.hosts[host].session());
    held(&holder, "db").await;
    held(&holder, "other").await;
    let gone = waiting(&waiter, "db", LockMode::Exclusive).await;
    let next = waiting(&third, "db", LockMode::Exclusive).await;
    waiter.end().await;
    assert_eq!(gone.await.unwrap().unwrap_err().kind(), Kind::SessionLost);
    holder.end().await;
    release(&third, &granted(next).await).await;
    eventually_found("nothing is left", async || is_clean(&fleet).await).await;
}

async fn a_release_is_told_from_a_loss_and_from_a_second_one(stage: Stage) {
    let fleet = stage.fleet(1).await;
    let (one, two) = (fleet.hosts[0].session(), fleet.hosts[0].session());
    let hold = held(&one, "db").await;
    assert_eq!(release(&two, &hold).await, Released::Gone, "it is not his");
    assert_eq!(release(&one, &hold).await, Released::Released);
    assert_eq!(release(&one, &hold).await, Released::Gone);
    let hold = held(&one, "db").await;
    let force = BreakAsk { token: Some(hold.token), force: true };
    let broken = one.runtime.break_lock(&Principal::Embedder, "db", &force).await.unwrap();
    assert_eq!((broken.broken, broken.asked), (vec![hold.token], vec![]));
    assert_eq!(release(&one, &hold).await, Released::Lost);
    assert!(is_clean(&fleet).await);
}

async fn a_broken_holder_stops_before_the_next_one_holds(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let (holder, next) = (remote(&fleet, 0), fleet.hosts[1].session());
    let mut told = holder.events();
    let hold = held(&holder, "db").await;
    let waiting = waiting(&next, "db", LockMode::Exclusive).await;
    let breaker = fleet.hosts[1].runtime.clone();
    let breaking =
        tokio::spawn(
            async move { breaker.break_lock(&Principal::Embedder, "db", &BreakAsk::default()).await },
        );
    let stop = next_told(&mut told, |event| match event {
        SessionEvent::LockStop { lock } => Some(lock.clone()),
        _ => None,
    });
    assert_eq!(stop.await, hold);
    assert!(!holder.runtime.holds_lock(&holder.key, "db", hold.token), "it was told to stop");
    assert!(!waiting.is_finished() && !breaking.is_finished(), "it has not said yet that it stopped");
    assert!(info(&holder.runtime, "db").await.holders[0].breaking);
    assert_eq!(release(&holder, &hold).await, Released::Released);
    assert_eq!(breaking.await.unwrap().unwrap().broken, [hold.token]);
    assert!(granted(waiting).await.token > hold.token);
}

async fn a_holder_that_says_nothing_is_asked_and_force_does_not_wait_for_it(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let holder = remote(&fleet, 0);
    let breaker = &fleet.hosts[1].runtime;
    let mut told = holder.events();
    let hold = held(&holder, "db").await;
    // It goes on to renew, and believes so for as long as its last renewal before the break allows.
    let asked = breaker.break_lock(&Principal::Embedder, "db", &BreakAsk::default()).await.unwrap();
    let (broken, asked) = (asked.broken, asked.asked);
    assert!(broken == [hold.token] || asked == [hold.token], "{broken:?} {asked:?}");
    if !asked.is_empty() {
        let force = BreakAsk { token: None, force: true };
        let broken = breaker.break_lock(&Principal::Embedder, "db", &force).await.unwrap();
        assert_eq!(broken.broken, [hold.token]);
    }
    next_told(&mut told, |event| matches!(event, SessionEvent::LockLost { .. }).then_some(())).await;
    eventually_found("nothing is left", async || is_clean(&fleet).await).await;
}

async fn a_host_that_is_cut_off_stops_before_the_lock_moves_on(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let (holder, next) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    let mut told = holder.events();
    let hold = held(&holder, "db").await;
    let waiting = waiting(&next, "db", LockMode::Exclusive).await;
    for operation in [Operation::Renew, Operation::Commit, Operation::Get, Operation::Next, Operation::Open] {
        fleet.hosts[0].faults.inject(operation, Fault::BlackHole);
    }
    let grant = granted(waiting).await;
    assert!(!holder.runtime.holds_lock(&holder.key, "db", hold.token), "it held on");
    assert!(grant.token > hold.token);
    let lost = next_told(&mut told, |event| match event {
        SessionEvent::LockLost { lock, .. } => Some(lock.clone()),
        _ => None,
    });
    assert_eq!(lost.await, hold);
    fleet.hosts[0].faults.heal();
    assert_eq!(release(&holder, &hold).await, Released::Lost);
    assert!(next.runtime.holds_lock(&next.key, "db", grant.token));
}

async fn what_a_dead_host_held_is_cleared_away_though_nobody_waits(stage: Stage) {
    let mut fleet = stage.fleet(2).await;
    // Both have to do with locks.
    for host in &fleet.hosts {
        host.runtime.locks().await.unwrap();
    }
    let dead = fleet.hosts.pop().unwrap();
    held(&dead.session(), "db").await;
    held(&dead.session(), "other").await;
    eventually_found("both are listed", async || fleet.hosts[0].runtime.locks().await.unwrap().len() == 2)
        .await;
    dead.runtime.abandon();
    eventually_found("nothing is left", async || is_clean(&fleet).await).await;
    let client = fleet.hosts[0].session();
    held(&client, "db").await;
}

async fn a_host_that_dies_while_another_writes_is_cleared_away_too(stage: Stage) {
    let mut fleet = stage.fleet(2).await;
    let dead = fleet.hosts.pop().unwrap();
    let client = fleet.hosts[0].session();
    let shared = tried(&client, "f", LockMode::Shared).await.unwrap();
    tried(&dead.session(), "f", LockMode::Shared).await.unwrap();
    seen(&client.runtime, "f", |info| info.holders.len() == 2).await;
    // The release is on its way while the session ends, and nobody has anything to do with the lock after that.
    fleet.hosts[0].faults.inject_on_commits(Fault::Delay(Duration::from_millis(300)), writes_lock);
    let (releasing, session) = (release(&client, &shared), dead.runtime.host().session.unwrap());
    let dying = async {
        dead.runtime.abandon();
        fleet.store.close(session).await.unwrap();
    };
    tokio::join!(releasing, dying);
    fleet.hosts[0].faults.heal();
    eventually_found("nothing is left", async || is_clean(&fleet).await).await;
}

async fn who_waits_goes_on_waiting_when_its_host_lost_its_session(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let (holder, waiter) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    let hold = held(&holder, "db").await;
    let waiting = waiting(&waiter, "db", LockMode::Exclusive).await;
    let former = waiter.runtime.host().session.unwrap();
    fleet.store.close(former).await.unwrap();
    eventually("there is a new session", || {
        waiter.runtime.host().session.is_some_and(|session| session != former)
    })
    .await;
    seen(&holder.runtime, "db", |info| info.waiters.len() == 1).await;
    release(&holder, &hold).await;
    assert!(granted(waiting).await.token > hold.token);
}

async fn what_was_lost_while_another_name_was_waited_for_is_taken_anew(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let (other, waiter) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    let last = held(&other, "b").await;
    let (both, waits) = (ask(&["a", "b"], LockMode::Exclusive, None), waiter.clone());
    let waiting = tokio::spawn(async move { lock(&waits, both).await });
    seen(&other.runtime, "b", |info| info.waiters.len() == 1).await;
    let former = waiter.runtime.host().session.unwrap();
    fleet.store.close(former).await.unwrap();
    let between = lock(&other, ask(&["a"], LockMode::Exclusive, None)).await.unwrap().locks.remove(0);
    release(&other, &between).await;
    eventually("there is a new session", || {
        waiter.runtime.host().session.is_some_and(|session| session != former)
    })
    .await;
    release(&other, &last).await;
    let answer = tokio::time::timeout(althing_sim::PATIENCE, waiting).await.expect("it is let in");
    let locks = answer.unwrap().unwrap().locks;
    assert!(locks[0].token > between.token, "{locks:?} after {between:?}");
    for hold in &locks {
        assert_eq!(release(&waiter, hold).await, Released::Released);
    }
    assert!(is_clean(&fleet).await);
}

async fn a_request_that_nobody_waits_for_leaves_nothing(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let (holder, waiter) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    let hold = held(&holder, "db").await;
    let queued = waiting(&waiter, "db", LockMode::Exclusive).await;
    queued.abort();
    seen(&holder.runtime, "db", |info| info.waiters.is_empty()).await;
    let late = lock(&waiter, ask(&["db"], LockMode::Exclusive, Some(50))).await.unwrap();
    assert!(!late.granted);
    // One that is given up while its write is on the way.
    release(&holder, &hold).await;
    fleet.hosts[1].faults.inject_on_commits(Fault::Delay(Duration::from_millis(100)), writes_lock);
    let slow = lock(&waiter, ask(&["db"], LockMode::Exclusive, None));
    assert!(tokio::time::timeout(Duration::from_millis(30), slow).await.is_err(), "it was given up");
    fleet.hosts[1].faults.heal();
    eventually_found("nothing is left", async || is_clean(&fleet).await).await;
    held(&holder, "db").await;
}

async fn a_grant_whose_reply_is_lost_is_found_and_held(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let client = fleet.hosts[0].session();
    fleet.hosts[0].faults.inject_on_commits(Fault::LoseReply, writes_lock);
    let hold = held(&client, "db").await;
    assert!(fleet.hosts[0].faults.met() > 0);
    fleet.hosts[0].faults.heal();
    assert_eq!(info(&fleet.hosts[1].runtime, "db").await.holders[0].token, hold.token);
    fleet.hosts[0].faults.inject_on_commits(Fault::LoseReply, writes_lock);
    assert_eq!(release(&client, &hold).await, Released::Released);
    assert!(is_clean(&fleet).await);
}

async fn a_release_that_failed_is_done_when_the_backend_is_back(stage: Stage) {
    let fleet = stage.fleet(2).await;
    let (holder, next) = (fleet.hosts[0].session(), fleet.hosts[1].session());
    let hold = held(&holder, "db").await;
    let waiting = waiting(&next, "db", LockMode::Exclusive).await;
    for operation in [Operation::Commit, Operation::Get] {
        fleet.hosts[0].faults.inject(operation, Fault::Refuse);
    }
    let ask = ReleaseAsk { token: hold.token, id: None };
    let error = holder.runtime.release_lock(&holder.key, "db", &ask).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(!holder.runtime.holds_lock(&holder.key, "db", hold.token));
    let tried = lock(&holder, self::ask(&["new"], LockMode::Exclusive, Some(0))).await.unwrap_err();
    assert_eq!((tried.kind(), tried.effect()), (Kind::Unavailable, Effect::None));
    fleet.hosts[0].faults.heal();
    assert!(granted(waiting).await.token > hold.token);
}

async fn a_backend_that_promises_less_than_is_required_locks_nothing(stage: Stage) {
    let fleet = stage.fleet(1).await;
    let client = fleet.hosts[0].session();
    let level = client.runtime.capability().level;
    let required = |level| LockAsk {
        require: Requirement { level: Some(level), ..Requirement::NONE },
        ..ask(&["db"], LockMode::Exclusive, Some(0))
    };
    let hold = lock(&client, required(level)).await.unwrap().locks.pop().unwrap();
    release(&client, &hold).await;
    if level < Level::L2 {
        let error = lock(&client, required(Level::L2)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
    }
    assert!(is_clean(&fleet).await);
}

async fn a_crowd_on_three_hosts_holds_one_by_one_with_rising_tokens(stage: Stage) {
    let fleet = stage.fleet(3).await;
    let clients: Vec<_> = (0..9).map(|index| fleet.hosts[index % 3].session()).collect();
    let tokens = std::sync::Mutex::new(Vec::new());
    let inside = std::sync::atomic::AtomicU32::new(0);
    let crowd = clients.iter().map(|client| async {
        for _ in 0..5 {
            let hold =
                lock(client, ask(&["db"], LockMode::Exclusive, None)).await.unwrap().locks.pop().unwrap();
            assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0, "two hold it");
            tokens.lock().unwrap().push(hold.token);
            tokio::task::yield_now().await;
            inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            release(client, &hold).await;
        }
    });
    futures::future::join_all(crowd).await;
    let tokens = tokens.into_inner().unwrap();
    assert!(tokens.len() == 45 && tokens.is_sorted_by(|left, right| left < right), "{tokens:?}");
    assert!(is_clean(&fleet).await);
}
