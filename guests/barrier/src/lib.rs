//! A barrier: parties wait for one another, and go on when so many are there.
//!
//! A party has two records, which belong to its session: its ticket `barrier/<name>/came/<request>`, which only it removes, and its
//! place `barrier/<name>/here/<request>`. Of the places, the first so many are removed by one transaction that is guarded by all
//! of them: then the barrier has tripped, for all or for none. A party whose ticket says that it has a place, and whose
//! place is gone, has gone on.
//!
//! The ticket is written first, and the place under its guard, so that a commit of unknown effect that lands late makes no party
//! that nobody knows of.

use althing_guest::NoSettings;
use althing_guest::behaviour::{Answer, Behaviour, Error, Request};
use althing_guest::store::{self, Entry, TXN_KEYS_MAX, Txn};
use serde::{Deserialize, Serialize};

/// The longest name, in bytes.
const NAME_BYTES_MAX: usize = 512;
/// The most requests that wait at a name.
const PLACES_MAX: usize = 1000;
/// How many steps a request takes while it is asked once.
const STEPS: usize = 24;
/// How often the ticket of a party that goes on is tried to be removed.
const REMOVALS: usize = 3;
/// When to look again where the store did not answer, or all steps conflicted.
const AGAIN_MS: f64 = 250.0;

struct Barrier;

impl Behaviour for Barrier {
    type Settings = NoSettings;

    fn handle(request: &Request, _: &NoSettings) -> Result<Answer, Error> {
        match request.operation.as_str() {
            "wait" => wait(request),
            other => Err(format!("there is no operation {other:?}, but wait").into()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    name: String,
    parties: usize,
}

#[derive(Serialize)]
struct Tripped {
    tripped: bool,
}

fn wait(request: &Request) -> Result<Answer, Error> {
    let ask: Wait = request.json()?;
    if ask.name.is_empty() || ask.name.len() > NAME_BYTES_MAX {
        return Err(format!("a name has from 1 to {NAME_BYTES_MAX} bytes").into());
    }
    if ask.parties == 0 || ask.parties > TXN_KEYS_MAX {
        let why = "they go on in one transaction, which takes no more";
        return Err(format!("parties is {}; it may be from 1 to {TXN_KEYS_MAX}: {why}", ask.parties).into());
    }
    let party = Party { request, parties: ask.parties, name: &ask.name };
    if request.last {
        return party.leave();
    }
    let again = Answer::wait_until(party.places(), request.now + AGAIN_MS);
    // One that was asked before may be there, though this time the store does not tell.
    let mut was_seen = request.attempt > 0;
    match party.pass(&mut was_seen) {
        Ok(answer) => Ok(answer.unwrap_or(again)),
        Err(Error::Unavailable(_) | Error::Unknown(_)) if was_seen => Ok(again),
        Err(error) => {
            // The client hears the first error, which says more than that of the leaving.
            let _ = party.leave();
            Err(error)
        }
    }
}

/// A request to wait.
struct Party<'a> {
    request: &'a Request,
    parties: usize,
    name: &'a str,
}

impl Party<'_> {
    /// Comes, and goes on when enough are here. Gives no answer when others were quicker each time.
    fn pass(&self, was_seen: &mut bool) -> Result<Option<Answer>, Error> {
        for _ in 0..STEPS {
            let txn = match Ticket::read(&self.ticket())? {
                None => {
                    self.refuse(&Place::list(&self.places())?)?;
                    Txn::new()
                        .absent(&self.ticket())
                        .put_owned(&self.ticket(), &Ticket { has_place: false })?
                }
                Some((ticket, entry)) => {
                    *was_seen = true;
                    if !ticket.has_place {
                        self.take_place(&entry)?
                    } else {
                        // The places are read after the ticket: one that is missing was there before.
                        let places = Place::list(&self.places())?;
                        if !places.iter().any(|place| place.entry.key == self.place()) {
                            return self.go_on().map(Some);
                        }
                        match self.trip(&places) {
                            Some(txn) => txn,
                            None => return Ok(Some(Answer::wait(self.places()))),
                        }
                    }
                }
            };
            match txn.commit() {
                Ok(_) | Err(Error::Conflict(_) | Error::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if *was_seen { Ok(None) } else { Err(Error::Unavailable("the store answers no commit".into())) }
    }

    fn take_place(&self, ticket: &Entry) -> Result<Txn, Error> {
        let mark = Mark { principal: self.request.principal.clone(), parties: self.parties };
        Txn::new()
            .unchanged(ticket)
            .put_owned(&ticket.key, &Ticket { has_place: true })?
            .put_owned(&self.place(), &mark)
    }

    /// Removes the first places, if they are enough.
    fn trip(&self, places: &[Place]) -> Option<Txn> {
        let counts = |place: &&Place| place.mark.parties == self.parties;
        let first: Vec<_> = places.iter().filter(counts).take(self.parties).collect();
        let is_enough = first.len() == self.parties;
        is_enough.then(|| first.into_iter().map(|place| &place.entry).fold(Txn::new(), Txn::take))
    }

    /// Removes the ticket, and tells that the barrier tripped. What cannot be removed goes with the session.
    fn go_on(&self) -> Result<Answer, Error> {
        let _ = (0..REMOVALS).any(|_| Txn::new().delete(&self.ticket()).commit().is_ok());
        Answer::json(Tripped { tripped: true })
    }

    /// Leaves, or hears that the barrier tripped.
    fn leave(&self) -> Result<Answer, Error> {
        for _ in 0..STEPS {
            let Some((ticket, entry)) = Ticket::read(&self.ticket())? else {
                return Ok(Answer::wait(self.places()));
            };
            let mut txn = Txn::new().take(&entry);
            if ticket.has_place {
                let Some(place) = store::get(&self.place())? else { return self.go_on() };
                txn = txn.take(&place);
            }
            match txn.commit() {
                Ok(_) | Err(Error::Conflict(_) | Error::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Unknown(format!("whether {:?} still waits", self.request.id)))
    }

    fn refuse(&self, places: &[Place]) -> Result<(), Error> {
        if places.len() >= PLACES_MAX {
            return Err(Error::TooLarge(format!("{} requests wait at it; that is the most", places.len())));
        }
        let other = places.iter().find(|place| place.mark.parties != self.parties);
        other.map_or(Ok(()), |Place { mark, .. }| {
            let (who, theirs, ours) = (&mark.principal, mark.parties, self.parties);
            Err(format!("{who} waits at it for {theirs} parties, and not for {ours}").into())
        })
    }

    fn ticket(&self) -> Vec<u8> {
        store::key(["barrier", self.name, "came", &self.request.id])
    }

    fn place(&self) -> Vec<u8> {
        store::key(["barrier", self.name, "here", &self.request.id])
    }

    fn places(&self) -> Vec<u8> {
        store::below(["barrier", self.name, "here"])
    }
}

/// What the ticket of a party says.
#[derive(Serialize, Deserialize)]
struct Ticket {
    has_place: bool,
}

impl Ticket {
    fn read(key: &[u8]) -> Result<Option<(Ticket, Entry)>, Error> {
        store::get(key)?.map(|entry| Ok((entry.json()?, entry))).transpose()
    }
}

/// What the place of a party says.
#[derive(Serialize, Deserialize)]
struct Mark {
    principal: String,
    parties: usize,
}

struct Place {
    entry: Entry,
    mark: Mark,
}

impl Place {
    /// Reads all that are there, first come first.
    fn list(prefix: &[u8]) -> Result<Vec<Place>, Error> {
        let read = |entry: Entry| entry.json().map(|mark| Place { mark, entry });
        let mut places = store::list(prefix)?.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
        // Revisions are as long as one another, so they order as text.
        places.sort_by(|left, right| left.entry.stamp.created.cmp(&right.entry.stamp.created));
        Ok(places)
    }
}

althing_guest::export_behaviour!(Barrier);
