//! A semaphore: of the permits of a name, so many are held at once. First come, first served.
//!
//! A permit is a slot: the record `semaphore/<name>/permit/<slot>`, made only where none is, so that more than the limit cannot be
//! there. Who waits has the record `semaphore/<name>/wait/<request>`, and they stand in the order in which these began.
//! All belong to their caller's session and go with it.

use std::collections::BTreeMap;

use althing_guest::NoSettings;
use althing_guest::behaviour::{Answer, Behaviour, Error, Request};
use althing_guest::store::{self, Entry, TXN_KEYS_MAX, Txn};
use serde::{Deserialize, Serialize};

/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 512;
/// The most permits of a name.
const PERMITS_MAX: u32 = 1000;
/// The most requests that wait for a name.
const WAITING_MAX: usize = 1000;
/// How often a transaction that conflicted is made anew while the request is asked once.
const TRIES: usize = 24;
/// When to look again where the store did not answer, or all tries conflicted.
const AGAIN_MS: f64 = 250.0;

struct Semaphore;

impl Behaviour for Semaphore {
    type Settings = NoSettings;

    fn handle(request: &Request, _: &NoSettings) -> Result<Answer, Error> {
        match request.operation.as_str() {
            "acquire" => acquire(request),
            "release" => release(request),
            "show" => show(request),
            other => Err(format!("there is no operation {other:?}, but acquire, release and show").into()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Acquire {
    name: String,
    limit: u32,
    wait: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    name: String,
    /// The permit with this token; without it, all of the session.
    token: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Show {
    name: String,
}

#[derive(Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
enum Outcome<'a> {
    Held { slot: u32, token: &'a str },
    Busy { waiting: usize },
    Released,
    NotHeld,
}

fn acquire(request: &Request) -> Result<Answer, Error> {
    let ask: Acquire = request.json()?;
    if ask.limit == 0 || ask.limit > PERMITS_MAX {
        return Err(format!("limit is {}; it may be from 1 to {PERMITS_MAX}", ask.limit).into());
    }
    let place = Place::named(&ask.name)?;
    if request.last {
        return give_up(request, &place);
    }
    let again = Answer::wait_until(&*place.prefix, request.now + AGAIN_MS);
    match take(request, &ask, &place) {
        Ok(answer) => Ok(answer.unwrap_or(again)),
        // Whether it was written shows when we look again.
        Err(Error::Unknown(_)) => Ok(again),
        Err(Error::Unavailable(_)) if request.attempt > 0 => Ok(again),
        Err(error) => Err(error),
    }
}

/// Takes a slot, or a place in the line. Gives no answer when others were quicker each time.
fn take(request: &Request, ask: &Acquire, place: &Place) -> Result<Option<Answer>, Error> {
    let waits = Answer::wait(&*place.prefix);
    for _ in 0..TRIES {
        let state = State::read(place)?;
        if let Some((slot, permit)) = state.permits.iter().find(|(_, permit)| is_of(permit, request)) {
            return Answer::json(Outcome::Held { slot: *slot, token: &permit.stamp.created }).map(Some);
        }
        let before = state.waiting.iter().take_while(|waiting| !is_of(waiting, request)).count();
        let own = state.waiting.get(before);
        // Whoever is third in the line takes the third free slot, so that those who go at once do not collide.
        let free = (0..ask.limit).filter(|slot| !state.permits.contains_key(slot)).nth(before);
        let mark = Mark { id: request.id.clone(), principal: request.principal.clone() };
        let txn = match (free, own) {
            (Some(slot), own) => {
                let key = place.permit(slot);
                let txn = Txn::new().absent(&key).put_owned(&key, &mark)?;
                own.into_iter().fold(txn, Txn::take)
            }
            (None, Some(_)) => return Ok(Some(waits)),
            (None, None) if ask.wait == Some(false) => {
                return Answer::json(Outcome::Busy { waiting: before }).map(Some);
            }
            (None, None) if before >= WAITING_MAX => {
                return Err(Error::TooLarge(format!("{before} requests wait for it; that is the most")));
            }
            (None, None) => {
                let key = place.waiting(&request.id);
                Txn::new().absent(&key).put_owned(&key, &mark)?
            }
        };
        match (txn.commit(), free) {
            (Ok(token), Some(slot)) => {
                return Answer::json(Outcome::Held { slot, token: &token }).map(Some);
            }
            (Ok(_), None) => return Ok(Some(waits)),
            (Err(Error::Conflict(_)), _) => {}
            (Err(error), _) => return Err(error),
        }
    }
    Ok(None)
}

/// Removes what a request wrote that nobody waits for: its place in the line, and a permit that nobody was told of.
fn give_up(request: &Request, place: &Place) -> Result<Answer, Error> {
    for _ in 0..TRIES {
        let state = State::read(place)?;
        let txn = state.all().filter(|entry| is_of(entry, request)).fold(Txn::new(), Txn::take);
        if txn.is_empty() {
            return Ok(Answer::wait(&*place.prefix));
        }
        match txn.commit() {
            // We look once more, since a permit may have taken the place of the waiting in between.
            Ok(_) | Err(Error::Conflict(_) | Error::Unknown(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Unknown(format!("whether {:?} still waits or holds a permit", request.id)))
}

fn release(request: &Request) -> Result<Answer, Error> {
    let ask: Release = request.json()?;
    let place = Place::named(&ask.name)?;
    let mut outcome = Outcome::NotHeld;
    for _ in 0..TRIES {
        let state = State::read(&place)?;
        let is_meant = |permit: &&Entry| {
            let is_named = ask.token.as_ref().is_none_or(|token| *token == permit.stamp.created);
            permit.is_owned_by(&request.session) && is_named
        };
        let txn = state.permits.values().filter(is_meant).take(TXN_KEYS_MAX).fold(Txn::new(), Txn::take);
        if txn.is_empty() {
            return Answer::json(outcome);
        }
        match txn.commit() {
            // Of an unknown effect too: what is gone when we look again is released.
            Ok(_) | Err(Error::Unknown(_)) => outcome = Outcome::Released,
            Err(Error::Conflict(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Unknown(format!("whether all permits of {:?} are released", ask.name)))
}

#[derive(Serialize)]
struct Shown<'a> {
    permits: Vec<Permit<'a>>,
    /// Who waits, first come first.
    waiting: Vec<String>,
}

#[derive(Serialize)]
struct Permit<'a> {
    slot: u32,
    token: &'a str,
    principal: String,
    /// It belongs to the session of whoever asks.
    mine: bool,
}

fn show(request: &Request) -> Result<Answer, Error> {
    let ask: Show = request.json()?;
    let state = State::read(&Place::named(&ask.name)?)?;
    let permits = state.permits.iter().map(|(slot, permit)| Permit {
        slot: *slot,
        token: &permit.stamp.created,
        principal: mark(permit).principal,
        mine: permit.is_owned_by(&request.session),
    });
    let waiting = state.waiting.iter().map(|waiting| mark(waiting).principal).collect();
    Answer::json(Shown { permits: permits.collect(), waiting })
}

/// What permits and the waiting say of whom they are.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Mark {
    id: String,
    principal: String,
}

fn mark(entry: &Entry) -> Mark {
    // A record that somebody else spoilt is nobody's; its slot counts as taken.
    entry.json().unwrap_or_default()
}

fn is_of(entry: &Entry, request: &Request) -> bool {
    entry.is_owned_by(&request.session) && mark(entry).id == request.id
}

/// Where the records of a name lie.
struct Place {
    prefix: Vec<u8>,
}

impl Place {
    fn named(name: &str) -> Result<Self, Error> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(format!("a name has from 1 to {NAME_BYTES_MAX} bytes").into());
        }
        Ok(Place { prefix: store::below(["semaphore", name]) })
    }

    fn permit(&self, slot: u32) -> Vec<u8> {
        [&*self.prefix, &store::key(["permit", &slot.to_string()])].concat()
    }

    fn waiting(&self, request: &str) -> Vec<u8> {
        [&*self.prefix, &store::key(["wait", request])].concat()
    }
}

/// The permits of a name by their slot, and who waits, first come first.
struct State {
    permits: BTreeMap<u32, Entry>,
    waiting: Vec<Entry>,
}

impl State {
    fn read(place: &Place) -> Result<Self, Error> {
        let (mut permits, mut waiting) = (BTreeMap::new(), Vec::new());
        for entry in store::list(&place.prefix)? {
            let rest = entry.key.get(place.prefix.len()..).unwrap_or_default();
            match rest.strip_prefix(b"permit/").map(|slot| String::from_utf8_lossy(slot).parse()) {
                Some(Ok(slot)) => drop(permits.insert(slot, entry)),
                Some(Err(_)) => {}
                None => waiting.push(entry),
            }
        }
        // Revisions are as long as one another, so they order as text.
        waiting.sort_by(|left, right| left.stamp.created.cmp(&right.stamp.created));
        Ok(State { permits, waiting })
    }

    fn all(&self) -> impl Iterator<Item = &Entry> {
        self.permits.values().chain(&self.waiting)
    }
}

althing_guest::export_behaviour!(Semaphore);
