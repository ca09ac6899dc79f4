//! Sentinels: which server is the master now, and whether it still is.
//!
//! Nobody is believed alone. All sentinels are asked at once, and of those that answer in time the one that knows of
//! the latest fail-over is believed, unless this driver knows of a later one: a sentinel that was cut off would lead
//! us to a master that others have left. A task asks one after another, for ever, because a master that was cut off
//! from its sentinels and not from us goes on serving, and so does a sentinel that was cut off together with it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use althing_core::{BootTime, Clock, Error, Kind, Result};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::task::JoinHandle;

use crate::reply::Reply;
use crate::settings::{Endpoint, Target, Way, addresses};
use crate::store::Store;
use crate::wire::Wire;

/// How often a sentinel is asked whether the master still is, each time the next one.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The share of a call that one look may take, so that a sentinel which hangs does not hold up the round. A call that
/// has to connect makes twice as many round trips as a look: where calls succeed, looks do.
const LOOK_SHARE: u32 = 2;
/// How often a sentinel is asked anew because there was a fail-over while it answered.
const WORDS_MAX: u32 = 3;

/// The sentinels of a master.
#[derive(Debug)]
pub(crate) struct Sentinels {
    targets: Vec<Target>,
    master: String,
    /// The latest fail-over known, by the number that the sentinels give it. It falls where a master is in use to which
    /// an earlier one led.
    epoch: AtomicU64,
}

/// What a sentinel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    /// Where the master is.
    pub(crate) endpoint: Endpoint,
    /// The fail-over that led there.
    pub(crate) epoch: u64,
    /// How many sentinels there are by what this one knows, itself included.
    sentinels: usize,
}

impl Sentinels {
    /// Begins without knowing of any fail-over.
    pub(crate) fn new(targets: Vec<Target>, master: String) -> Sentinels {
        Sentinels { targets, master, epoch: AtomicU64::new(0) }
    }

    /// Finds the master. Waits for all sentinels; once one has answered, for the others until `patience` is over.
    pub(crate) async fn find(&self, clock: &dyn Clock, patience: Duration) -> Result<Word> {
        let mut asked: FuturesUnordered<_> = self.targets.iter().map(|target| self.ask(target)).collect();
        let (mut words, mut errors, mut until) = (Vec::new(), Vec::new(), None);
        loop {
            let answer = tokio::select! {
                biased;
                answer = asked.next() => answer,
                () = over(clock, until) => None,
            };
            match answer {
                Some(Ok(word)) => {
                    words.push(word);
                    until = until.or(Some(clock.now() + patience));
                }
                Some(Err(error)) => errors.push(error),
                None => break,
            }
        }
        if words.is_empty() {
            return Err(self.nobody_answers(errors));
        }
        self.believe(&words)
    }

    /// Says that the master to which fail-over `epoch` led is in use from now on.
    pub(crate) fn follow(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Decides between sentinels that do not agree.
    fn believe(&self, words: &[Word]) -> Result<Word> {
        let known = self.epoch.load(Ordering::Acquire);
        let Some(latest) = words.iter().max_by_key(|word| word.epoch) else {
            return Err(self.nobody_answers(Vec::new()));
        };
        let agree = words.iter().filter(|word| word.epoch == latest.epoch).count();
        // One name may stand for many sentinels, of which one answers: what they know of each other counts too.
        let all = words.iter().map(|word| word.sentinels).fold(self.targets.len(), usize::max);
        // Below what is known only where most say so: then Sentinel was set up anew and counts from the start.
        if latest.epoch < known && agree * 2 <= all {
            let message = format!(
                "the sentinels that answer know of fail-over {}, and there was a fail-over {known}",
                latest.epoch
            );
            let advice = format!(
                "If Sentinel was set up anew, more than half of its {all} have to say so: name each of them in the \
                 backend URL"
            );
            return Err(self.say(Error::new(Kind::Unavailable, "connect", message)).advise(advice));
        }
        self.epoch.fetch_max(latest.epoch, Ordering::AcqRel);
        Ok(latest.clone())
    }

    async fn ask(&self, target: &Target) -> Result<Word> {
        let answer = async { self.word(&Wire::dial(target).await?, target).await };
        match answer.await {
            Ok(Some(word)) => Ok(word),
            Ok(None) => Err(untold(target)),
            Err(error) if error.kind() == Kind::Denied => Err(refused(target, error)),
            Err(error) => Err(error),
        }
    }

    /// Asks over a connection that is there; `None` where the sentinel does not tell the number. The number and the
    /// address are two questions; where a fail-over came between them, both are asked again, so that an address never
    /// goes with the number of another.
    async fn word(&self, wire: &Wire, target: &Target) -> Result<Option<Word>> {
        let mut before = self.ask_about(wire).await?;
        for _ in 0..WORDS_MAX {
            let endpoint = self.ask_endpoint(wire, target).await?;
            let Some(about) = self.ask_about(wire).await? else { return Ok(None) };
            let About { epoch, sentinels } = about;
            if before.replace(about).is_some_and(|before| before.epoch == epoch) {
                return Ok(Some(Word { endpoint, epoch, sentinels }));
            }
        }
        Err(Error::new(Kind::Unavailable, "connect", "the sentinels move the master again and again"))
    }

    async fn ask_about(&self, wire: &Wire) -> Result<Option<About>> {
        let about = wire.ask(&["SENTINEL", "MASTER", &self.master]).await?;
        Ok(about.as_ref().and_then(About::read))
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
            return self.say(error.clone());
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

/// What a sentinel tells about the master, as far as we ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct About {
    epoch: u64,
    sentinels: usize,
}

impl About {
    fn read(reply: &Reply) -> Option<About> {
        let texts = texts(reply);
        let mut pairs = texts.chunks_exact(2);
        let epoch = pairs.clone().find(|pair| pair[0] == Some("config-epoch"))?[1]?.parse().ok()?;
        let others: usize = pairs.find(|pair| pair[0] == Some("num-other-sentinels"))?[1]?.parse().ok()?;
        Some(About { epoch, sentinels: others.saturating_add(1) })
    }
}

/// Waits until `until`, for ever where there is no such moment.
async fn over(clock: &dyn Clock, until: Option<BootTime>) {
    match until {
        Some(until) => clock.sleep_until(until).await,
        None => std::future::pending().await,
    }
}

fn refused(target: &Target, error: Error) -> Error {
    Error::new(Kind::Denied, "connect", "a sentinel refused user and password")
        .with("server", &target.endpoint)
        .because(error)
        .advise(
            "Say who we are to the sentinels with sentinel_username and sentinel_password in the backend URL; \
             user:password@ is for the master",
        )
}

/// Makes the error that a sentinel tells where the master is, and not after which fail-over.
fn untold(target: &Target) -> Error {
    Error::new(Kind::Denied, "connect", "a sentinel does not let this user ask SENTINEL MASTER")
        .with("server", &target.endpoint)
        .advise(
            "Grant it there with ACL SETUSER and +sentinel|master: without it nobody can tell a sentinel that was \
             cut off from one that knows of the latest fail-over",
        )
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

/// Asks one sentinel after the other: one that was cut off together with the master would say for ever that all is
/// well. Each keeps its connection.
async fn stand(store: Weak<Store>) {
    let (mut turn, mut wires) = (None, Vec::new());
    while let Some(store) = store.upgrade() {
        let Way::Sentinels(sentinels) = &store.settings.way else { return };
        let count = sentinels.targets.len();
        wires.resize_with(count, || None);
        // Begun anywhere, so that not all hosts ask the same.
        let place = turn.map_or_else(|| store.chance.bits() as usize, |last| last + 1) % count;
        turn = Some(place);
        let deadline = store.clock.now() + store.settings.timeout / LOOK_SHARE;
        match store.within(deadline, look(sentinels, &sentinels.targets[place], &mut wires[place])).await {
            Some(Ok(true)) => store.abandon(),
            Some(Ok(false)) => {}
            _ => wires[place] = None,
        }
        let clock = store.clock.clone();
        drop(store);
        clock.sleep(LOOK_EVERY).await;
    }
}

/// Tells whether there was a fail-over of which nobody knew here.
async fn look(sentinels: &Sentinels, target: &Target, wire: &mut Option<Wire>) -> Result<bool> {
    let open = match wire.take().filter(Wire::is_open) {
        Some(open) => open,
        None => Wire::dial(target).await?,
    };
    let word = sentinels.word(wire.insert(open), target).await?;
    Ok(word.is_some_and(|word| word.epoch > sentinels.epoch.fetch_max(word.epoch, Ordering::AcqRel)))
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

    /// Lets so many sentinels speak, each by the port of the master and the fail-over that it knows of, and connects.
    #[track_caller]
    fn check_of(sentinels: &Sentinels, all: usize, words: &[(u16, u64)], believed: Option<u16>) {
        let word =
            |(port, epoch): &(u16, u64)| Word { endpoint: endpoint(*port), epoch: *epoch, sentinels: all };
        let words: Vec<_> = words.iter().map(word).collect();
        let found = sentinels.believe(&words).ok();
        assert_eq!(found.as_ref().map(|word| &word.endpoint), believed.map(endpoint).as_ref(), "{words:?}");
        if let Some(word) = found {
            sentinels.follow(word.epoch);
        }
    }

    #[track_caller]
    fn check(sentinels: &Sentinels, words: &[(u16, u64)], believed: Option<u16>) {
        check_of(sentinels, 3, words, believed);
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

    #[test]
    fn most_are_most_of_all_that_the_sentinels_know_of() {
        let sentinels = sentinels();
        check_of(&sentinels, 5, &[(7, 5)], Some(7));
        check_of(&sentinels, 5, &[(8, 0), (8, 0)], None);
        check_of(&sentinels, 5, &[(8, 0), (8, 0), (8, 0)], Some(8));
    }

    #[test]
    fn remembers_a_fail_over_until_another_master_is_in_use() {
        let sentinels = sentinels();
        let words = |epoch| vec![Word { endpoint: endpoint(7), epoch, sentinels: 3 }; 2];
        sentinels.believe(&words(5)).unwrap();
        sentinels.believe(&words(0)).unwrap();
        check(&sentinels, &[(8, 0)], None);
        sentinels.follow(0);
        check(&sentinels, &[(8, 0)], Some(8));
    }
}
