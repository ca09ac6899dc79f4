//! A crowd of callers of the shipped semaphore and barrier on several hosts. Callers are killed all the time, and a host
//! once; a watch on the store and the callers themselves tell whether the promises held.

mod witness;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use althing_core::info::SessionAsk;
use althing_core::{Chance, Clock, Effect, Error, Kind, OsChance, Result, SystemClock};
use althing_runtime::Runtime;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{Client, Fleet, PATIENCE, Stage, eventually, shipped};
use witness::Witness;

/// How many permits there are.
pub const LIMIT: usize = 4;
/// How many parties a barrier takes.
pub const PARTIES: usize = 4;

/// The longest a permit is held. Far below every lease: whoever is killed has stopped before its permit is free.
const HOLD: Duration = Duration::from_millis(6);
/// How long a call waits.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The pause between two kills of a caller.
const KILL_PAUSE: Duration = Duration::from_millis(150);

/// The pause of a caller between two hosts.
const MOVE_PAUSE: Duration = Duration::from_millis(20);
/// The lease of the hosts: so long that a busy machine does not end it.
const LEASE: Duration = Duration::from_secs(2);

/// What a crowd did, and what went wrong.
#[derive(Debug, Default)]
pub struct Told {
    /// Calls that were answered, with success or not.
    pub calls: u64,
    /// Permits that callers were told of.
    pub acquired: u64,
    /// Answers that a barrier tripped.
    pub tripped: u64,
    /// Times that a barrier tripped in the store.
    pub trips: u64,
    /// Callers that were killed.
    pub killed: u64,
    /// The most permits that callers believed to hold at once.
    pub believed_max: usize,
    /// The most permits in the store at once.
    pub stored_max: usize,
    /// Records that were left behind after the last caller had gone, and one lease more.
    pub left_behind: usize,
    /// What must not have happened.
    pub wrong: Vec<String>,
}

/// Starts three hosts on which both behaviours answer.
pub async fn fleet(stage: &Stage) -> Fleet {
    let fleet = stage.fleet_with(3, |config| config.lease = LEASE).await;
    bind(&fleet).await;
    fleet
}

/// Lets `callers` call for so long at least, and until each could have held once, on a fleet whose last host dies in the middle.
pub async fn gather(fleet: &Fleet, callers: usize, lasting: Duration) -> Told {
    let clock = SystemClock;
    let witness = Witness::begin(&*fleet.store).await;
    let seen = Arc::new(Seen::default());
    let hosts: Arc<[Runtime]> = fleet.hosts.iter().map(|host| host.runtime.clone()).collect();
    let mut crowd: Vec<_> = (0..callers).map(|index| start(index, &hosts, &seen)).collect();
    let (begin, mut killed, mut is_host_alive) = (clock.now(), 0, true);
    let has_seen_enough = || seen.acquired.load(Ordering::Relaxed) > callers as u64;
    while clock.now().since(begin) < lasting || (!has_seen_enough() && clock.now().since(begin) < PATIENCE) {
        clock.sleep(KILL_PAUSE).await;
        let index = killed * 7 % callers;
        kill(std::mem::replace(&mut crowd[index], start(index, &hosts, &seen))).await;
        killed += 1;
        if is_host_alive && clock.now().since(begin) > lasting / 2 {
            is_host_alive = false;
            hosts[hosts.len() - 1].abandon();
        }
    }
    for caller in crowd {
        kill(caller).await;
    }
    let left_behind = left_behind(fleet).await;
    let mut told = witness.end(&*fleet.store).await;
    seen.tell(&mut told);
    told.killed = killed as u64;
    told.left_behind = left_behind;
    judge(&mut told, callers);
    told
}

/// Makes both behaviours answer on every host of a fleet.
pub async fn bind(fleet: &Fleet) {
    for policy in ["semaphore", "barrier"] {
        fleet.hosts[0].push(&shipped(policy)).await;
        fleet.hosts[0].answer_by(policy).await;
        for host in &fleet.hosts {
            let followed = || {
                let hosts = host.runtime.behaviour(policy).map(|info| info.hosts).unwrap_or_default();
                hosts.len() == fleet.hosts.len() && hosts.iter().all(|host| !host.behind)
            };
            eventually("all hosts follow the behaviour", followed).await;
        }
    }
}

/// What callers saw.
#[derive(Debug, Default)]
struct Seen {
    calls: AtomicU64,
    acquired: AtomicU64,
    tripped: AtomicU64,
    /// Calls of the barrier that did not hear how it ended.
    unheard: AtomicU64,
    believed: AtomicUsize,
    believed_max: AtomicUsize,
    wrong: std::sync::Mutex<Vec<String>>,
}

impl Seen {
    fn tell(&self, told: &mut Told) {
        told.calls = self.calls.load(Ordering::SeqCst);
        told.acquired = self.acquired.load(Ordering::SeqCst);
        told.tripped = self.tripped.load(Ordering::SeqCst);
        told.believed_max = self.believed_max.load(Ordering::SeqCst);
        told.wrong.append(&mut self.wrong.lock().unwrap());
        let heard = told.tripped;
        let counted = told.trips * PARTIES as u64;
        let unheard = self.unheard.load(Ordering::SeqCst);
        if heard > counted || counted > heard + unheard {
            told.wrong.push(format!(
                "{heard} heard that the barrier tripped, {unheard} could not hear, and {counted} were counted"
            ));
        }
    }
}

fn judge(told: &mut Told, callers: usize) {
    let mut check = |holds: bool, what: String| {
        if !holds {
            told.wrong.push(what);
        }
    };
    check(told.believed_max <= LIMIT, format!("{} believed to hold at once", told.believed_max));
    check(told.stored_max <= LIMIT, format!("{} permits stood at once", told.stored_max));
    check(told.left_behind == 0, format!("{} records were left behind", told.left_behind));
    check(told.acquired > callers as u64, format!("only {} permits were given", told.acquired));
    check(told.trips > 0, "the barrier never tripped".into());
}

/// Starts a caller: of the semaphore or of the barrier, by its number.
fn start(index: usize, hosts: &Arc<[Runtime]>, seen: &Arc<Seen>) -> JoinHandle<()> {
    let (hosts, seen) = (hosts.clone(), seen.clone());
    tokio::spawn(async move {
        let mut home = index;
        loop {
            let Some(host) = hosts.get(home % hosts.len()) else { return };
            // Ends when its host does; then the caller goes to the next one.
            if let Err(error) = call(host, index, &seen).await {
                seen.note(&error);
            }
            // Whoever is refused everywhere must not keep the hosts from coming back.
            SystemClock.sleep(MOVE_PAUSE).await;
            home += 1;
        }
    })
}

/// Kills a caller as the death of its process would: first it stops, then its connection closes.
async fn kill(caller: JoinHandle<()>) {
    caller.abort();
    assert!(caller.await.is_err_and(|error| error.is_cancelled()), "a caller never ends by itself");
}

impl Seen {
    /// Takes note of a failure that may be, and of one that may not.
    fn note(&self, error: &Error) {
        let expected = matches!(
            error.kind(),
            Kind::Timeout | Kind::SessionLost | Kind::Closed | Kind::Unavailable | Kind::Conflict
        );
        if !expected {
            self.wrong.lock().unwrap().push(format!("{}: {error}", error.kind()));
        }
    }
}

/// Calls from one session until that is of no more use.
async fn call(host: &Runtime, index: usize, seen: &Seen) -> Result<()> {
    let ask = SessionAsk { ttl_ms: Some(3_600_000), drop_on_disconnect: true };
    let client = Client::open(host, ask, true)?;
    // Dropped with the caller, and with it the session ends.
    let _connection = host.session_events(&client.key)?;
    loop {
        let outcome = match index % 2 {
            0 => hold(&client, seen).await,
            _ => meet(&client, seen).await,
        };
        match outcome {
            Err(error) if matches!(error.kind(), Kind::Timeout | Kind::Conflict) => seen.note(&error),
            other => other?,
        }
    }
}

/// Takes a permit, holds it for a moment, and gives it back.
async fn hold(client: &Client, seen: &Seen) -> Result<()> {
    let body = json!({ "name": "db", "limit": LIMIT });
    let held = client.call("semaphore", "acquire", body, TIMEOUT).await;
    seen.calls.fetch_add(1, Ordering::SeqCst);
    let held = held?;
    {
        let _belief = Belief::begin(seen);
        seen.acquired.fetch_add(1, Ordering::SeqCst);
        SystemClock.sleep(HOLD.mul_f64(OsChance.unit())).await;
    }
    let body = json!({ "name": "db", "token": held["token"] });
    let released = client.call("semaphore", "release", body, TIMEOUT).await;
    seen.calls.fetch_add(1, Ordering::SeqCst);
    let released: Value = released?;
    if released["outcome"] != "released" {
        seen.wrong.lock().unwrap().push(format!("a permit that was held was {released}"));
    }
    Ok(())
}

/// A caller that believes to hold a permit.
struct Belief<'a>(&'a Seen);

impl<'a> Belief<'a> {
    fn begin(seen: &'a Seen) -> Self {
        let now = seen.believed.fetch_add(1, Ordering::SeqCst) + 1;
        seen.believed_max.fetch_max(now, Ordering::SeqCst);
        Belief(seen)
    }
}

impl Drop for Belief<'_> {
    fn drop(&mut self) {
        self.0.believed.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Waits for others.
async fn meet(client: &Client, seen: &Seen) -> Result<()> {
    let unheard = Unheard(&seen.unheard);
    let body = json!({ "name": "start", "parties": PARTIES });
    let met = client.call("barrier", "wait", body, TIMEOUT).await;
    seen.calls.fetch_add(1, Ordering::SeqCst);
    let is_known = match &met {
        Ok(_) => true,
        Err(error) => error.effect() == Effect::None && error.kind() == Kind::Timeout,
    };
    if is_known {
        std::mem::forget(unheard);
    }
    seen.tripped.fetch_add(u64::from(met? == json!({ "tripped": true })), Ordering::SeqCst);
    Ok(())
}

/// Counts a call whose end its caller did not hear, because it was killed or told that nobody knows.
struct Unheard<'a>(&'a AtomicU64);

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Returns how many records are left one lease after everybody has gone.
async fn left_behind(fleet: &Fleet) -> usize {
    let clock = SystemClock;
    let records = async || fleet.store.list(&"data/".into(), None, 0).await.unwrap().records.len();
    // The lease, and what a loaded machine and a server's tick may add to it.
    let deadline = clock.now() + LEASE * 2;
    loop {
        let left = records().await;
        if left == 0 || clock.now() > deadline {
            return left;
        }
        clock.sleep(Duration::from_millis(20)).await;
    }
}
