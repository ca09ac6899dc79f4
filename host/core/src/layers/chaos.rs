//! Injected faults, so that tests can show what a lost reply, a slow store or a cut network does.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::around::{Around, Call, Operation, Try};
use crate::{Chance, Clock, Delta, Driver, Error, Key, Kind, Result, Txn, Watch};

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not sent, and the caller knows: `Unavailable`, effect none.
    Refuse,
    /// It is not sent, and the caller does not know: `Unavailable`, effect unknown where it writes.
    LoseRequest,
    /// It is sent and done, and the answer is lost: `Unavailable`, effect unknown where it writes.
    LoseReply,
    /// It is sent later.
    Delay(Duration),
    /// It is held until [`Faults::heal`], and then sent.
    BlackHole,
}

/// Injects the faults that its [`Faults`] say; none at first. A fault of [`Operation::Next`] meets a delta
/// on its way to the watcher: it is late, but never lost.
#[derive(Debug)]
pub struct Chaos {
    inner: Arc<dyn Driver>,
    faults: Arc<Faults>,
}

impl Chaos {
    /// Wraps a driver.
    pub fn new(inner: Arc<dyn Driver>, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Self {
        let (rules, healed) = (Mutex::default(), watch::Sender::new(0));
        Chaos { inner, faults: Arc::new(Faults { rules, healed, clock, chance }) }
    }

    /// Returns the switches, which work while the layer runs.
    pub fn faults(&self) -> Arc<Faults> {
        self.faults.clone()
    }
}

/// The switches of a [`Chaos`] layer. Where several faults fit a call, the first injected counts.
pub struct Faults {
    rules: Mutex<Rules>,
    /// How often all was healed.
    healed: watch::Sender<u64>,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
}

#[derive(Default)]
struct Rules {
    rules: Vec<Rule>,
    met: u64,
}

struct Rule {
    fault: Fault,
    operation: Operation,
    share: f64,
    selects: Box<dyn Fn(&Txn) -> bool + Send + Sync>,
}

impl Faults {
    /// Lets every call of `operation` meet `fault` from now on.
    pub fn inject(&self, operation: Operation, fault: Fault) {
        self.inject_sometimes(operation, fault, 1.0);
    }

    /// Lets a share of the calls of `operation`, from 0 to 1, meet `fault` from now on.
    pub fn inject_sometimes(&self, operation: Operation, fault: Fault, share: f64) {
        self.add(Rule { fault, operation, share, selects: Box::new(|_| true) });
    }

    /// Lets the commits that `selects` picks meet `fault` from now on.
    pub fn inject_on_commits(&self, fault: Fault, selects: impl Fn(&Txn) -> bool + Send + Sync + 'static) {
        self.add(Rule { fault, operation: Operation::Commit, share: 1.0, selects: Box::new(selects) });
    }

    /// Ends all faults and lets go what black holes hold.
    pub fn heal(&self) {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        rules.rules.clear();
        self.healed.send_modify(|healed| *healed += 1);
    }

    /// Returns how many calls have met a fault so far.
    pub fn met(&self) -> u64 {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).met
    }

    fn add(&self, rule: Rule) {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).rules.push(rule);
    }

    /// Returns the fault that a call meets, and by what to see that it is healed.
    fn choose(&self, call: Call<'_>) -> Option<(Fault, watch::Receiver<u64>)> {
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |rule: &&Rule| {
            rule.operation == call.operation
                && call.txn.is_none_or(|txn| (rule.selects)(txn))
                && self.chance.unit() < rule.share
        };
        let fault = rules.rules.iter().find(fits)?.fault;
        rules.met += 1;
        // Subscribed under the lock: a healing after it is seen.
        Some((fault, self.healed.subscribe()))
    }

    /// Does what a call meets before it is sent. `Err` if it is not to be sent; the error with which it is
    /// to be answered, if its reply is to be lost.
    async fn meet(&self, call: Call<'_>) -> Result<Option<Error>> {
        let Some((fault, mut healed)) = self.choose(call) else { return Ok(None) };
        match fault {
            Fault::Refuse => return Err(injected(call, "refused")),
            Fault::LoseRequest => {
                return Err(call.operation.unanswered(injected(call, "the request was lost")));
            }
            Fault::LoseReply => {
                return Ok(Some(call.operation.unanswered(injected(call, "the reply was lost"))));
            }
            Fault::Delay(time) => self.clock.sleep(time).await,
            // The sender lives in `self`, so waiting for it cannot fail.
            Fault::BlackHole => drop(healed.changed().await),
        }
        Ok(None)
    }
}

fn injected(call: Call<'_>, message: &str) -> Error {
    Error::new(Kind::Unavailable, call.operation.name(), format!("{message}, by an injected fault"))
}

impl Around for Chaos {
    fn inner(&self) -> &Arc<dyn Driver> {
        &self.inner
    }

    async fn around<'a, T: Send + 'a>(
        &'a self,
        call: Call<'a>,
        send: impl Fn() -> Try<'a, T> + Send + Sync + 'a,
    ) -> Result<T> {
        let lost = self.faults.meet(call).await?;
        let result = send().await;
        lost.map_or(result, Err)
    }

    fn around_watch(&self, prefix: &Key, watch: Box<dyn Watch>) -> Box<dyn Watch> {
        Box::new(ChaosWatch { watch, prefix: prefix.clone(), held: None, faults: self.faults() })
    }
}

#[derive(Debug)]
struct ChaosWatch {
    watch: Box<dyn Watch>,
    prefix: Key,
    /// What a fault keeps from the watcher.
    held: Option<Delta>,
    faults: Arc<Faults>,
}

#[async_trait]
impl Watch for ChaosWatch {
    async fn next(&mut self) -> Result<Delta> {
        loop {
            if self.held.is_none() {
                self.held = Some(self.watch.next().await?);
            }
            let call = Call::on(Operation::Next, &self.prefix);
            if let Some(lost) = self.faults.meet(call).await? {
                return Err(lost);
            }
            if let Some(delta) = self.held.take() {
                return Ok(delta);
            }
        }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = rules.rules.iter().map(|rule| (rule.operation, rule.fault));
        f.debug_struct("Faults").field("rules", &shown.collect::<Vec<_>>()).field("met", &rules.met).finish()
    }
}
