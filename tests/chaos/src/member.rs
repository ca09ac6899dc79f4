//! A member as a process of its own: it joins, asks itself again and again whether it leads, and writes down what it saw.

use std::path::{Path, PathBuf};
use std::time::Duration;

use althing_client::{Address, Client, Membership};
use althing_core::info::{JoinAsk, SessionEvent};
use althing_core::{Clock, Error, Kind, Result, Revision, Secret, SystemClock};
use serde::{Deserialize, Serialize};

use crate::history::{Ask, Nanos, Recorder, What, now};

/// How often a member asks itself whether it leads.
pub(crate) const SAMPLE: Duration = Duration::from_millis(2);
/// How much of a long hold is lost at most when the member is killed.
pub(crate) const HELD_NOTED: Nanos = 20_000_000;
/// The pause before a member tries to join again.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);
/// How long a member waits for an answer.
const ANSWER: Duration = Duration::from_secs(2);

/// What a member is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberAsk {
    /// Where its host answers.
    pub server: String,
    /// The token to show there, where it is asked for over TCP.
    pub token_file: Option<PathBuf>,
    /// The group to join.
    pub group: String,
    /// Its id.
    pub id: String,
    /// The lease of its session in milliseconds.
    pub ttl_ms: u64,
    /// It leaves after so many milliseconds, and joins again; it stays where there are none.
    pub stays_ms: Option<u64>,
    /// Where to write down what it sees.
    pub folder: PathBuf,
}

/// Is a member until the process is killed: joins, and joins again whenever that ends.
pub async fn be_member(ask: MemberAsk) -> Result<()> {
    let recorder = Recorder::new(&ask.folder, &ask.id);
    let mut resume = None;
    loop {
        match stay(&ask, &recorder, resume.take()).await {
            Ok(key) => resume = key,
            Err(error) if error.kind() == Kind::Invalid => return Err(error),
            // The host is away, or it still takes a former stay for live.
            Err(_) => {}
        }
        SystemClock.sleep(PAUSE).await;
    }
}

/// Joins and stays as long as that lasts. Returns the key by which the next stay supersedes this one.
async fn stay(ask: &MemberAsk, recorder: &Recorder, resume: Option<String>) -> Result<Option<String>> {
    // Made anew: the host may have another token after a restart.
    let client = client(&ask.server, ask.token_file.as_deref())?;
    let mut membership = Membership::open(client, Some(Duration::from_millis(ask.ttl_ms))).await?;
    let join = Ask::Join { group: ask.group.clone(), member: ask.id.clone() };
    let asked = JoinAsk { id: ask.id.clone(), create: true, resume, ..JoinAsk::default() };
    let joined = recorder.operation(join, membership.join(&ask.group, &asked)).await?;
    let mut stay = Stay::new(recorder, &ask.group, &ask.id);
    stay.is_in(joined.member.incarnation);
    let leaves = ask.stays_ms.map(|ms| SystemClock.now() + Duration::from_millis(ms));
    while leaves.is_none_or(|moment| SystemClock.now() < moment) {
        let before = now();
        stay.sample(before, membership.term(&ask.group));
        tokio::select! {
            event = membership.next_event() => if !event.is_some_and(|event| stay.hear(&event)) { break },
            () = SystemClock.sleep(SAMPLE) => {}
        }
    }
    stay.note_held();
    if leaves.is_some() {
        // If that does not get through, the session goes with this value, and the member with it.
        let _ = membership.leave(&ask.group, &ask.id).await;
    }
    stay.is_gone();
    Ok(Some(joined.resume))
}

/// Returns a client of the host that answers at `server`, which may ask for a token.
pub(crate) fn client(server: &str, token_file: Option<&Path>) -> Result<Client> {
    let address: Address = server.parse()?;
    let Some(file) = token_file else { return Ok(Client::new(address).within(ANSWER)) };
    let token = std::fs::read_to_string(file)
        .map_err(|error| Error::new(Kind::Unavailable, "read token", "there is none yet").because(error))?;
    Ok(Client::with_token(address, Secret::new(token.trim())).within(ANSWER))
}

/// What a member knows of its stay.
#[derive(Debug)]
pub(crate) struct Stay<'a> {
    recorder: &'a Recorder,
    group: &'a str,
    id: &'a str,
    /// The term it leads in, after the first yes since this was last written down, and before the latest one.
    held: Option<(Revision, Nanos, Nanos)>,
}

impl<'a> Stay<'a> {
    pub(crate) fn new(recorder: &'a Recorder, group: &'a str, id: &'a str) -> Self {
        Stay { recorder, group, id, held: None }
    }

    /// Takes in an answer to the question whether it leads, asked right after `before`.
    pub(crate) fn sample(&mut self, before: Nanos, term: Option<Revision>) {
        let after = now();
        match (&mut self.held, term) {
            (None, None) => {}
            (Some((held, from, until)), Some(term)) if *held == term => {
                *until = before;
                if until.saturating_sub(*from) > HELD_NOTED {
                    self.note_held();
                    self.held = Some((term, after, before));
                }
            }
            (_, term) => {
                self.note_held();
                self.held = term.map(|term| (term, after, before));
            }
        }
    }

    pub(crate) fn note_held(&mut self) {
        if let Some((term, from, until)) = self.held.take() {
            let (group, member) = self.names();
            self.recorder.note(What::Held { group, member, term, from, until });
        }
    }

    /// Writes an event down. Returns whether the stay goes on.
    pub(crate) fn hear(&mut self, event: &SessionEvent) -> bool {
        let (group, member) = self.names();
        match event {
            SessionEvent::Elected { hold } => {
                self.recorder.note(What::TermBegan { group, member, term: hold.term });
            }
            SessionEvent::Stop { hold } | SessionEvent::Lost { hold } => {
                self.recorder.note(What::TermEnded { group, member, term: hold.term });
            }
            SessionEvent::Rejoined { incarnation, .. } => self.is_in(incarnation.clone()),
            SessionEvent::Removed { .. } | SessionEvent::Ended { .. } => return false,
            SessionEvent::Standing { .. } | SessionEvent::LockStop { .. } | SessionEvent::LockLost { .. } => {
            }
        }
        true
    }

    pub(crate) fn is_in(&self, incarnation: String) {
        let (group, member) = self.names();
        self.recorder.note(What::Joined { group, member, incarnation });
    }

    pub(crate) fn is_gone(&self) {
        let (group, member) = self.names();
        self.recorder.note(What::Gone { group, member });
    }

    fn names(&self) -> (String, String) {
        (self.group.to_owned(), self.id.to_owned())
    }
}
