//! Sentinels: which server is the master now, and whether it still is.
//!
//! Nobody is believed alone. All sentinels are asked at once, and of those that answer in time the one that knows of
//! the latest fail-over is believed, unless this driver knows of a later one: a sentinel that was cut off would lead
//! us to a master that others have left. A task asks one of them again and again, because a master that was cut off
//! from its sentinels and not from us goes on serving.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use althing_core::{Clock, Error, Kind, Result};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::task::JoinHandle;

use crate::reply::Reply;
use crate::settings::{Endpoint, SENTINELS_MAX, Target, Way, addresses};
use crate::store::Store;
use crate::wire::Wire;

/// How often a sentinel is asked whether the master still is.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often a sentinel is asked anew because there was a fail-over while it answered.
const WORDS_MAX: u32 = 3;

/// The sentinels of a master.
#[derive(Debug)]
pub(crate) struct Sentinels {
    targets: Vec<Target>,
    master: String,
    /// The latest fail-over known, by the number that the sentinels give it.
    epoch: AtomicU64,
}

/// What a sentinel says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    endpoint: Endpoint,
    epoch: u64,
}

impl Sentinels {
    /// Begins without knowing of any fail-over.
    pub(crate) fn new(targets: Vec<Target>, master: String) -> Sentinels {
        Sentinels { targets, master, epoch: AtomicU64::new(0) }
    }

    /// Finds the master. Waits for all sentinels; once one has answered, for the others until `patience` is over.
    pub(crate) async fn find(&self, clock: &dyn Clock, patience: Duration) -> Result<Endpoint> {
        let until = clock.now() + patience;
        let mut asked: FuturesUnordered<_> = self.targets.iter().map(|target| self.ask(target)).collect();
        let (mut words, mut errors) = (Vec::new(), Vec::new());
        loop {
            let answer = tokio::select! {
                biased;
                answer = asked.next() => answer,
                () = clock.sleep_until(until), if !words.is_empty() => None,
            };
            match answer {
                Some(Ok(word)) => words.push(word),
                Some(Err(error)) => errors.push(error),
                None => break,
            }
        }
        if words.is_empty() {
            return Err(self.nobody_answers(errors));
        }
        self.believe(&words)
    }

    /// Decides between sentinels that do not agree.
    fn believe(&self, words: &[Word]) -> Result<Endpoint> {
        let known = self.epoch.load(Ordering::Acquire);
        let Some(latest) = words.iter().max_by_key(|word| word.epoch) else {
            return Err(self.nobody_answers(Vec::new()));
        };
        let agree = words.iter().filter(|word| word.epoch == latest.epoch).count();
        // Below what is known only where most say so: then Sentinel was set up anew and counts from the start.
        if latest.epoch < known && agree * 2 <= self.targets.len() {
            let message = format!(
                "the sentinels that answer know of fail-over {}, and there was a fail-over {known}",
                latest.epoch
            );
            return Err(self.say(Error::new(Kind::Unavailable, "connect", message)));
        }
        self.epoch.store(latest.epoch, Ordering::Release);
        Ok(latest.endpoint.clone())
    }

    async fn ask(&self, target: &Target) -> Result<Word> {
        let word = async { self.word(&Wire::dial(target).await?, target).await };
        word.await.map_err(|error| match error.kind() {
            Kind::Denied => {
                let message = "a sentinel refused user and password";
                Error::new(Kind::Denied, "connect", message).with("server", &target.endpoint).because(error)
            }
            _ => error,
        })
    }

    /// Asks over a connection that is there. The number and the address are two questions; where a fail-over came
    /// between them, both are asked again, so that an address never goes with the number of another.
    async fn word(&self, wire: &Wire, target: &Target) -> Result<Word> {
        let mut before = self.ask_epoch(wire).await?;
        for _ in 0..WORDS_MAX {
            let endpoint = self.ask_endpoint(wire, target).await?;
            let epoch = self.ask_epoch(wire).await?;
            if epoch == before {
                return Ok(Word { endpoint, epoch });
            }
            before = epoch;
        }
        Err(Error::new(Kind::Unavailable, "connect", "the sentinels move the master again and again"))
    }

    /// Asks for the number of the latest fail-over; zero where the sentinel may not tell.
    async fn ask_epoch(&self, wire: &Wire) -> Result<u64> {
        let about = wire.ask(&["SENTINEL", "MASTER", &self.master]).await?;
        let about = about.as_ref().map(texts).unwrap_or_default();
        let mut pairs = about.chunks_exact(2);
        let epoch = pairs.find_map(|pair| if pair[0] == Some("config-epoch") { pair[1] } else { None });
        Ok(epoch.and_then(|text| text.parse().ok()).unwrap_or_default())
    }

    async fn ask_endpoint(&self, wire: &Wire, target: &Target) -> Result<Endpoint> {
        let address = wire.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &self.master]).await?;
        let Some(address) = address.as_ref().map(texts) else {
            let message = "the server is no sentinel, or does not let this user ask SENTINEL";
            return Err(Error::new(Kind::Unsupported, "connect", message).with("server", &target.endpoint));
        };
        let [Some(host), Some(port)] = address.as_slice() else {
            let message = format!("the sentinels know no master called {:?}", self.master);
            return Err(Error::new(Kind::NotFound, "connect", message));
        };
        let port = port.parse().map_err(|_| {
            let message = format!("a sentinel says that the master listens on port {port:?}");
            Error::new(Kind::Internal, "connect", message).with("server", &target.endpoint)
        })?;
        Ok(Endpoint::Tcp { host: (*host).to_owned(), port })
    }

    /// Makes one error of those of all sentinels: the one that somebody has to act upon.
    fn nobody_answers(&self, errors: Vec<Error>) -> Error {
        let of = |kind| errors.iter().find(|error| error.kind() == kind);
        if let Some(error) = of(Kind::Denied) {
            let advice = "Say who we are to the sentinels with sentinel_username and sentinel_password in the \
                          backend URL; user:password@ is for the master";
            return self.say(error.clone()).advise(advice);
        }
        if let Some(error) = of(Kind::NotFound) {
            return self.say(error.clone()).advise("Check the name in the path of the backend URL");
        }
        if let Some(error) = of(Kind::Unsupported) {
            return self.say(error.clone()).advise("Check the ports: sentinels listen on 26379 by default");
        }
        let error = self.say(Error::new(Kind::Unavailable, "connect", "no sentinel can be reached"));
        errors.into_iter().take(1).fold(error, Error::because)
    }

    fn say(&self, error: Error) -> Error {
        error.with("sentinels", addresses(&self.targets))
    }
}

/// Returns the texts of a list; `None` in place of what is none. Empty where it is no list.
fn texts(reply: &Reply) -> Vec<Option<&str>> {
    fn text(reply: &Reply) -> Option<&str> {
        match reply {
            Reply::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
    match reply {
        Reply::List(list) => list.iter().map(text).collect(),
        _ => Vec::new(),
    }
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by the sentinels {}", self.master, addresses(&self.targets))
    }
}

/// Looks for as long as it lives whether the master still is.
#[derive(Debug)]
pub(crate) struct Sentry(JoinHandle<()>);

impl Sentry {
    /// Begins on the runtime of the caller.
    pub(crate) fn start(store: &Arc<Store>) -> Sentry {
        Sentry(tokio::spawn(stand(Arc::downgrade(store))))
    }
}

impl Drop for Sentry {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn stand(store: Weak<Store>) {
    let (mut wire, mut turn) = (None, None);
    while let Some(store) = store.upgrade() {
        let Way::Sentinels(sentinels) = &store.settings.way else { return };
        // Begun anywhere, so that not all hosts ask the same.
        let place = *turn.get_or_insert_with(|| store.chance.bits() as usize % SENTINELS_MAX);
        let target = &sentinels.targets[place % sentinels.targets.len()];
        let deadline = store.clock.now() + store.settings.timeout;
        match store.within(deadline, look(sentinels, target, &mut wire)).await {
            Some(Ok(true)) => store.abandon(),
            Some(Ok(false)) => {}
            // It is gone or behind: the next one.
            _ => (wire, turn) = (None, Some(place + 1)),
        }
        let clock = store.clock.clone();
        drop(store);
        clock.sleep(LOOK_EVERY).await;
    }
}

/// Tells whether there was a fail-over. Fails where the sentinel knows less than we.
async fn look(sentinels: &Sentinels, target: &Target, wire: &mut Option<Wire>) -> Result<bool> {
    let open = match wire.take() {
        Some(open) => open,
        None => Wire::dial(target).await?,
    };
    let word = sentinels.word(wire.insert(open), target).await?;
    let known = sentinels.epoch.load(Ordering::Acquire);
    if word.epoch < known {
        return Err(sentinels.say(Error::new(Kind::Unavailable, "watch", "a sentinel is behind")));
    }
    Ok(word.epoch > known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Login;

    fn sentinels() -> Sentinels {
        let target = |port| Target { endpoint: endpoint(port), login: Login::default(), tls: None };
        Sentinels::new((1..=3).map(target).collect(), "m".into())
    }

    fn endpoint(port: u16) -> Endpoint {
        Endpoint::Tcp { host: "h".into(), port }
    }

    /// Lets sentinels speak, each by the port of the master and the fail-over that it knows of.
    #[track_caller]
    fn check(sentinels: &Sentinels, words: &[(u16, u64)], believed: Option<u16>) {
        let words: Vec<_> =
            words.iter().map(|(port, epoch)| Word { endpoint: endpoint(*port), epoch: *epoch }).collect();
        assert_eq!(sentinels.believe(&words).ok(), believed.map(endpoint), "{words:?}");
    }

    #[test]
    fn believes_who_knows_of_the_latest_fail_over() {
        let sentinels = sentinels();
        check(&sentinels, &[(7, 0)], Some(7));
        check(&sentinels, &[(7, 0), (8, 1), (7, 0)], Some(8));
        check(&sentinels, &[(7, 0)], None);
        check(&sentinels, &[(8, 1), (7, 0)], Some(8));
    }

    #[test]
    fn believes_most_of_them_that_sentinel_was_set_up_anew() {
        let sentinels = sentinels();
        check(&sentinels, &[(7, 5)], Some(7));
        check(&sentinels, &[(8, 0), (9, 1)], None);
        check(&sentinels, &[(8, 0), (8, 0)], Some(8));
        check(&sentinels, &[(8, 0)], Some(8));
    }
}
