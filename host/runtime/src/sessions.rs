//! Client sessions: the host's own, many of them on its one session in the backend.
//!
//! A client believes in what it holds until a deadline that it computes from the moment it *sent* its last renewal;
//! the host remembers the latest such deadline it may have caused, so that it knows from when on a
//! client that does not answer has surely stopped.

mod locks;
mod records;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use althing_core::info::{Hold, JoinAsk, Renewal, SessionAsk, SessionEvent, SessionGrant, Standing};
use althing_core::{
    BootTime, Chance, Clock, Digest, Error, Key, Kind, Principal, Result, Revision, Secret, SessionId, limits,
};
use tokio::sync::{Mutex as Turn, Notify, broadcast};
use tokio_util::sync::CancellationToken;

pub(crate) use locks::LeftLock;
use locks::LocalLock;
pub(crate) use records::{Caller, OwnedRecord};

/// Names a client session and proves that it is the caller's.
#[derive(Clone, Debug)]
pub struct SessionKey {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: Secret,
}

/// A lease that no process outlives.
const AS_LONG_AS_THE_HOST: Duration = Duration::from_secs(u32::MAX as u64);

/// All client sessions of this host.
#[derive(Debug)]
pub(crate) struct Sessions {
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    table: Mutex<Table>,
    /// Rung when something that was held no longer is.
    released: Notify,
}

#[derive(Debug, Default)]
struct Table {
    clients: HashMap<String, Client>,
    /// The session of each member, by group and id.
    owners: HashMap<(String, String), String>,
    /// The session that holds each group's leadership.
    holders: HashMap<String, String>,
    /// The session of each record that goes with its session.
    record_owners: HashMap<Key, String>,
    /// Calls of behaviours under way, of all sessions.
    calls: usize,
    /// Requests for locks under way, of all sessions.
    locking: usize,
}

/// One client session.
#[derive(Debug)]
struct Client {
    secret: Secret,
    by: Principal,
    ttl: Duration,
    drop_on_disconnect: bool,
    /// It learns of a loss only by a message; one inside this process asks.
    remote: bool,
    deadline: BootTime,
    /// Until when it may believe in what it was told it holds.
    believes_until: BootTime,
    members: BTreeMap<(String, String), LocalMember>,
    holds: BTreeMap<String, LocalHold>,
    /// What it has locked, by the party that stands for it in the backend.
    locks: BTreeMap<String, LocalLock>,
    /// The last locks it lost: their names and tokens.
    lost_locks: VecDeque<(String, Revision)>,
    /// What behaviours wrote for this session, and goes with it.
    records: BTreeMap<Key, OwnedRecord>,
    /// When the records were last compared with the store.
    compared: Option<BootTime>,
    /// Calls of behaviours under way.
    calls: usize,
    /// Requests for locks under way.
    locking: usize,
    ended: CancellationToken,
    events: broadcast::Sender<SessionEvent>,
}

/// What a session that ended leaves to be removed from the store.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub members: Vec<Placed>,
    pub records: Vec<(Key, OwnedRecord)>,
    pub locks: Vec<LeftLock>,
}

/// A member that joined through a client session.
#[derive(Clone, Debug)]
pub(crate) struct LocalMember {
    pub incarnation: String,
    /// What it joins again with after a loss.
    pub ask: JoinAsk,
    pub resume: String,
    /// The host's session in which this stay began; `None` before.
    pub anchor: Option<SessionId>,
    /// Held by whoever changes the member or joins it again: no change is lost between two stays.
    pub turn: Arc<Turn<()>>,
}

#[derive(Clone, Debug)]
struct LocalHold {
    hold: Hold,
    stopping: bool,
}

/// Where a member of this host lives: its client session, and what joined.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub session: String,
    pub group: String,
    pub member: LocalMember,
}

impl Sessions {
    pub(crate) fn new(clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Self {
        Sessions { clock, chance, table: Mutex::default(), released: Notify::new() }
    }

    /// Opens a session. `left` is what remains of the host's own lease.
    pub(crate) fn open(
        &self,
        by: &Principal,
        ask: &SessionAsk,
        remote: bool,
        left: Duration,
    ) -> Result<SessionGrant> {
        let ttl = lease(ask.ttl_ms, remote)?;
        let mut table = self.table();
        if table.clients.len() >= limits::CLIENT_SESSIONS_MAX {
            return Err(Error::new(Kind::Busy, "open session", "this host has as many sessions as it can")
                .with("sessions_max", limits::CLIENT_SESSIONS_MAX)
                .advise("Use another host of the fleet, or several members on one session"));
        }
        let id = format!("{:032x}", self.chance.bits());
        let secret = format!("{:032x}{:032x}", self.chance.bits(), self.chance.bits());
        let now = self.clock.now();
        let mut client = Client {
            secret: Secret::new(secret.clone()),
            by: by.clone(),
            ttl,
            drop_on_disconnect: ask.drop_on_disconnect,
            remote,
            deadline: now + ttl,
            believes_until: now,
            members: BTreeMap::new(),
            holds: BTreeMap::new(),
            locks: BTreeMap::new(),
            lost_locks: VecDeque::new(),
            records: BTreeMap::new(),
            compared: None,
            calls: 0,
            locking: 0,
            ended: CancellationToken::new(),
            events: broadcast::Sender::new(limits::SUBSCRIBER_EVENTS_MAX),
        };
        let renewal = client.renew(now, left);
        table.clients.insert(id.clone(), client);
        Ok(SessionGrant { id, secret, ttl_ms: ttl.as_millis() as u64, renewal })
    }

    /// Renews a session: counts from now, and tells for how long the client may believe in what it holds.
    pub(crate) fn renew(&self, key: &SessionKey, left: Duration) -> Result<Renewal> {
        let now = self.clock.now();
        self.with(key, |client| client.renew(now, left))
    }

    /// Tells what a session holds and for how long the client may believe in that, without renewing it.
    pub(crate) fn look(&self, key: &SessionKey, left: Duration) -> Result<Renewal> {
        let now = self.clock.now();
        self.with(key, |client| client.grant(now, left))
    }

    /// Checks the secret and returns who opened the session.
    pub(crate) fn check(&self, key: &SessionKey) -> Result<Principal> {
        self.with(key, |client| client.by.clone())
    }

    /// Waits until the session's lease ran out or it was ended.
    pub(crate) async fn expired(&self, id: &str) {
        loop {
            let Some(deadline) = self.table().clients.get(id).map(|client| client.deadline) else { return };
            if self.clock.now() >= deadline {
                return;
            }
            self.clock.sleep_until(deadline).await;
        }
    }

    /// Takes a session away and returns what it leaves: the members that joined through it, the records it owns and
    /// the locks it holds.
    pub(crate) fn remove(&self, id: &str, reason: &str) -> Left {
        let mut table = self.table();
        let Some(mut client) = table.clients.remove(id) else { return Left::default() };
        table.calls -= client.calls;
        table.locking -= client.locking;
        client.records.keys().for_each(|key| drop(table.record_owners.remove(key)));
        client.members.keys().for_each(|key| drop(table.owners.remove(key)));
        client.holds.keys().for_each(|group| drop(table.holders.remove(group)));
        drop(table);
        self.released.notify_waiters();
        client.ended.cancel();
        client.tell(SessionEvent::Ended { reason: reason.to_owned() });
        Left {
            members: client.placed(id),
            locks: client.left_locks(),
            records: std::mem::take(&mut client.records).into_iter().collect(),
        }
    }

    /// Takes all sessions away: the host ends.
    pub(crate) fn remove_all(&self, reason: &str) {
        let ids: Vec<String> = self.table().clients.keys().cloned().collect();
        ids.iter().for_each(|id| drop(self.remove(id, reason)));
    }

    /// Subscribes to a session's events; what it holds now is sent ahead.
    pub(crate) fn subscribe(
        &self,
        key: &SessionKey,
        standing: Standing,
    ) -> Result<(SessionEvent, broadcast::Receiver<SessionEvent>)> {
        self.with(key, |client| (client.standing(standing), client.events.subscribe()))
    }

    /// Returns what a session holds now, as an event.
    pub(crate) fn standing(&self, id: &str, standing: Standing) -> Option<SessionEvent> {
        self.table().clients.get(id).map(|client| client.standing(standing))
    }

    /// Tells whether the session ends when its event stream closes.
    pub(crate) fn drops_on_disconnect(&self, id: &str) -> bool {
        self.table().clients.get(id).is_some_and(|client| client.drop_on_disconnect)
    }

    /// Remembers a member that joined. Fails when the session ended meanwhile.
    pub(crate) fn place(&self, id: &str, group: &str, member: LocalMember) -> Result<()> {
        let mut table = self.table();
        let client = table.clients.get_mut(id).ok_or_else(|| ended("join"))?;
        let key = (group.to_owned(), member.ask.id.clone());
        client.members.insert(key.clone(), member);
        table.owners.insert(key, id.to_owned());
        Ok(())
    }

    /// Tells whether this stay is one of this host's: it has joined, and is not about to leave.
    pub(crate) fn is_placed(&self, group: &str, member: &str, incarnation: &str) -> bool {
        let key = (group.to_owned(), member.to_owned());
        let table = self.table();
        let owner = table.owners.get(&key).and_then(|id| table.clients.get(id));
        owner
            .and_then(|client| client.members.get(&key))
            .is_some_and(|member| member.incarnation == incarnation)
    }

    /// Fails when a session may not take one more member.
    pub(crate) fn room(&self, key: &SessionKey) -> Result<()> {
        let members = self.with(key, |client| client.members.len())?;
        if members < limits::SESSION_MEMBERS_MAX {
            return Ok(());
        }
        Err(Error::new(Kind::TooLarge, "join", "this session has as many members as it can")
            .with("members_max", limits::SESSION_MEMBERS_MAX)
            .advise("Open another session"))
    }

    /// Returns a member that joined through this session.
    pub(crate) fn placed(&self, id: &str, group: &str, member: &str) -> Option<LocalMember> {
        self.table().clients.get(id)?.members.get(&(group.to_owned(), member.to_owned())).cloned()
    }

    /// Returns a member of whichever session it joined through, if it is still in this stay.
    pub(crate) fn find(&self, group: &str, member: &str, incarnation: &str) -> Option<Placed> {
        let session = self.table().owners.get(&(group.to_owned(), member.to_owned())).cloned()?;
        let member = self.placed(&session, group, member)?;
        (member.incarnation == incarnation).then(|| Placed { session, group: group.to_owned(), member })
    }

    /// Tells whether members of a group joined through this host and have not left, as far as it knows.
    pub(crate) fn is_home(&self, group: &str) -> bool {
        self.table().owners.keys().any(|(home, _)| home == group)
    }

    /// Remembers what a member joins again with, if it is still in this stay.
    pub(crate) fn amend(&self, placed: &Placed, change: impl FnOnce(&mut JoinAsk)) {
        let key = (placed.group.clone(), placed.member.ask.id.clone());
        let mut table = self.table();
        let members = table.clients.get_mut(&placed.session).map(|client| &mut client.members);
        let member = members.and_then(|members| members.get_mut(&key));
        if let Some(member) = member.filter(|member| member.incarnation == placed.member.incarnation) {
            change(&mut member.ask);
        }
    }

    /// Forgets a member, if this stay is still the one remembered.
    pub(crate) fn displace(&self, id: &str, group: &str, member: &str, incarnation: &str) {
        let key = (group.to_owned(), member.to_owned());
        let mut table = self.table();
        let Some(client) = table.clients.get_mut(id) else { return };
        if client.members.get(&key).is_none_or(|local| local.incarnation != incarnation) {
            return;
        }
        client.members.remove(&key);
        let held = client.holds.get(group).filter(|local| local.hold.member == member);
        let term = held.map(|local| local.hold.term);
        table.owners.remove(&key);
        drop(table);
        if let Some(term) = term {
            self.lose(group, term);
        }
    }

    /// Returns all members of all sessions.
    pub(crate) fn all_placed(&self) -> Vec<Placed> {
        self.table().clients.iter().flat_map(|(id, client)| client.placed(id)).collect()
    }

    /// Returns how many sessions and members there are.
    pub(crate) fn count(&self) -> (usize, usize) {
        let table = self.table();
        (table.clients.len(), table.owners.len())
    }

    /// Tells one session something.
    pub(crate) fn tell(&self, id: &str, event: SessionEvent) {
        if let Some(client) = self.table().clients.get(id) {
            client.tell(event);
        }
    }

    /// Tells every session the standing of the host's lease; a lost one takes all that is held along. Returns the locks
    /// that are held no longer.
    pub(crate) fn stand(&self, standing: Standing) -> Vec<LeftLock> {
        let mut left = Vec::new();
        let mut table = self.table();
        if standing == Standing::Lost {
            table.holders.clear();
        }
        for client in table.clients.values_mut() {
            if standing == Standing::Lost {
                for local in std::mem::take(&mut client.holds).into_values() {
                    client.tell(SessionEvent::Lost { hold: local.hold });
                }
                left.extend(client.lose_locks("the host has lost its lease in the backend"));
            }
            let event = client.standing(standing);
            client.tell(event);
        }
        drop(table);
        self.released.notify_waiters();
        left
    }

    /// Begins a term for a member of this host. Returns whether the member is still here.
    pub(crate) fn begin_hold(&self, hold: Hold, incarnation: &str) -> bool {
        let key = (hold.group.clone(), hold.member.clone());
        let mut table = self.table();
        let Some(id) = table.owners.get(&key).cloned() else { return false };
        let Some(client) = table.clients.get_mut(&id) else { return false };
        if client.members.get(&key).is_none_or(|member| member.incarnation != incarnation) {
            return false;
        }
        client.tell(SessionEvent::Elected { hold: hold.clone() });
        client.holds.insert(hold.group.clone(), LocalHold { hold: hold.clone(), stopping: false });
        table.holders.insert(hold.group, id);
        true
    }

    /// Tells whether a member of this host holds this term and was not asked to stop.
    pub(crate) fn holds(&self, group: &str, term: Revision) -> bool {
        self.table().hold(group, term).is_some_and(|local| !local.stopping)
    }

    /// Ends a hold without waiting for anybody: the store has already moved on, or the holder has stopped.
    pub(crate) fn lose(&self, group: &str, term: Revision) {
        self.table().end_hold(group, term);
        self.released.notify_waiters();
    }

    /// Asks the holder to stop, and returns once it has: it confirmed, its belief ran out, or it is gone.
    pub(crate) async fn stop(&self, group: &str, term: Revision) {
        let Some(until) = self.table().begin_stop(group, term) else { return };
        loop {
            let released = self.released.notified();
            if self.table().hold(group, term).is_none() {
                return;
            }
            tokio::select! {
                () = released => {}
                () = self.clock.sleep_until(until) => return self.lose(group, term),
            }
        }
    }

    /// Takes the client's word that it stopped. Confirming twice, or what is no longer held, is fine.
    pub(crate) fn confirm(&self, key: &SessionKey, group: &str, term: Revision) -> Result<()> {
        let stopping = self.with(key, |client| {
            client.holds.get(group).is_some_and(|local| local.hold.term == term && local.stopping)
        })?;
        if stopping {
            self.lose(group, term);
        }
        Ok(())
    }

    fn with<T>(&self, key: &SessionKey, act: impl FnOnce(&mut Client) -> T) -> Result<T> {
        self.table().client(key).map(act)
    }

    /// A panic while the table was locked is a bug, but no reason to stop renewing everybody's sessions.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the lease to grant. A session inside this process that asks for none lasts as long as the host.
fn lease(ask_ms: Option<u64>, remote: bool) -> Result<Duration> {
    let Some(ask) = ask_ms.map(Duration::from_millis) else {
        return Ok(if remote { limits::CLIENT_TTL_DEFAULT } else { AS_LONG_AS_THE_HOST });
    };
    if ask < limits::CLIENT_TTL_MIN || ask > limits::CLIENT_TTL_MAX {
        return Err(Error::new(Kind::Invalid, "open session", format!("a lease of {ask:?} is not granted"))
            .advise(format!("Ask for {:?} to {:?}", limits::CLIENT_TTL_MIN, limits::CLIENT_TTL_MAX)));
    }
    Ok(ask)
}

fn ended(operation: &'static str) -> Error {
    Error::new(Kind::SessionLost, operation, "there is no such session on this host, or it has ended")
        .advise("Open a new session and join again")
}

impl Table {
    /// Returns a client that proves to be who it says.
    fn client(&mut self, key: &SessionKey) -> Result<&mut Client> {
        let client = self.clients.get_mut(&key.id).ok_or_else(|| ended("session"))?;
        if client.secret.matches(key.secret.expose()) {
            return Ok(client);
        }
        Err(Error::new(Kind::Denied, "session", "the secret is not that of this session")
            .with("session", &key.id))
    }

    fn hold(&self, group: &str, term: Revision) -> Option<&LocalHold> {
        let client = self.clients.get(self.holders.get(group)?)?;
        client.holds.get(group).filter(|local| local.hold.term == term)
    }

    fn end_hold(&mut self, group: &str, term: Revision) {
        if self.hold(group, term).is_none() {
            return;
        }
        let Some(client) = self.holders.remove(group).and_then(|id| self.clients.get_mut(&id)) else {
            return;
        };
        if let Some(local) = client.holds.remove(group) {
            client.tell(SessionEvent::Lost { hold: local.hold });
        }
    }

    /// Marks a hold as stopping and returns until when its client may believe in it. A client inside this
    /// process asks before it acts, so its hold ends at once.
    fn begin_stop(&mut self, group: &str, term: Revision) -> Option<BootTime> {
        self.hold(group, term)?;
        let client = self.clients.get_mut(self.holders.get(group)?)?;
        if !client.remote {
            self.end_hold(group, term);
            return None;
        }
        let local = client.holds.get_mut(group)?;
        local.stopping = true;
        let hold = local.hold.clone();
        client.tell(SessionEvent::Stop { hold });
        Some(client.believes_until)
    }
}

impl Client {
    fn renew(&mut self, now: BootTime, left: Duration) -> Renewal {
        self.deadline = now + self.ttl;
        self.grant(now, left)
    }

    fn grant(&mut self, now: BootTime, left: Duration) -> Renewal {
        let remaining = self.deadline.since(now).min(left);
        // Also without a hold: one that is won later is believed in until this deadline.
        self.believes_until = self.believes_until.max(now + remaining);
        Renewal {
            remaining_ms: remaining.as_secs_f64() * 1000.0,
            holds: self.holds(),
            locks: self.locks().collect(),
        }
    }

    fn holds(&self) -> Vec<Hold> {
        self.holds.values().filter(|local| !local.stopping).map(|local| local.hold.clone()).collect()
    }

    fn standing(&self, standing: Standing) -> SessionEvent {
        SessionEvent::Standing { standing, holds: self.holds(), locks: self.locks().collect() }
    }

    fn tell(&self, event: SessionEvent) {
        // Nobody listening is no error: the next renewal says the same.
        let _ = self.events.send(event);
    }

    fn placed(&self, session: &str) -> Vec<Placed> {
        self.members
            .iter()
            .map(|((group, _), member)| Placed {
                session: session.to_owned(),
                group: group.clone(),
                member: member.clone(),
            })
            .collect()
    }
}

/// Returns the digest under which a resume key is recorded.
pub(crate) fn resume_digest(key: &str) -> Digest {
    Digest::of(key)
}
