//! Clients that lock and release, several of them in a process of their own, and write down what they saw.

use std::path::PathBuf;
use std::time::Duration;

use althing_client::{Lock, Membership};
use althing_core::info::{LockAsk, LockHold, LockMode, Released, SessionEvent, Standing};
use althing_core::{Chance, Clock, Effect, Error, Kind, Result, SeededChance, SystemClock};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::history::{LockStep, Nanos, Recorder, What, now};
use crate::member::{HELD_NOTED, PAUSE, SAMPLE, client};

/// How many permits there are.
pub(crate) const PERMITS: u32 = 3;
/// The locks: what one alone takes, what is read and written, what has permits, and two that are taken together.
pub(crate) const LOCKS: [&str; 6] = ["alone-0", "alone-1", "file", "seats", "left", "right"];

/// How often a request is sent again, under the same id, whose answer was lost.
const ASK_AGAIN_MAX: u32 = 3;
/// How long one may wait to be told of a loss that shows already.
const TOLD_WITHIN: Duration = Duration::from_secs(3);

/// What a process of clients is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LockerAsk {
    /// Where its host answers.
    pub server: String,
    /// The token to show there, where it is asked for over TCP.
    pub token_file: Option<PathBuf>,
    /// The names of its clients.
    pub clients: Vec<String>,
    /// The lease of their sessions in milliseconds.
    pub ttl_ms: u64,
    /// Where everything comes from that is random.
    pub seed: u64,
    /// Where to write down what they see.
    pub folder: PathBuf,
}

/// Is these clients until the process is killed, or asked to end: then each gives back what it holds, waits for nothing any
/// more, and goes.
pub async fn be_locker(ask: LockerAsk) -> Result<()> {
    let broken = |error| Error::new(Kind::Unavailable, "listen for signals", "none are heard").because(error);
    let mut asked_to_end = signal(SignalKind::terminate()).map_err(broken)?;
    let (end, ends) = watch::channel(false);
    let mut clients = JoinSet::new();
    for (number, name) in ask.clients.iter().enumerate() {
        let one = One {
            recorder: Recorder::new(&ask.folder, name),
            name: name.clone(),
            chance: SeededChance::new(ask.seed ^ (number as u64) << 8),
            ask: ask.clone(),
            ends: ends.clone(),
        };
        clients.spawn(one.run());
    }
    asked_to_end.recv().await;
    end.send_replace(true);
    clients.join_all().await;
    Ok(())
}

/// One client.
struct One {
    ask: LockerAsk,
    name: String,
    recorder: Recorder,
    chance: SeededChance,
    ends: watch::Receiver<bool>,
}

/// What a client wants next.
struct Wish {
    names: &'static [&'static str],
    mode: LockMode,
    wait_ms: Option<u64>,
    /// It gives up waiting after this, by itself.
    gives_up: Option<Duration>,
    /// For how long it will hold what it gets.
    holds: Duration,
    /// It lets the guard go and does not wait for the release.
    drops: bool,
}

/// What can be wanted: names and mode, and how often of so many.
const WISHES: &[(&[&str], LockMode, u64)] = &[
    (&["alone-0"], LockMode::Exclusive, 5),
    (&["alone-1"], LockMode::Exclusive, 4),
    (&["file"], LockMode::Shared, 6),
    (&["file"], LockMode::Exclusive, 2),
    (&["seats"], LockMode::Permit, 6),
    (&["left", "right"], LockMode::Exclusive, 2),
    (&["right", "left"], LockMode::Exclusive, 2),
    (&["left"], LockMode::Exclusive, 1),
    (&["right"], LockMode::Shared, 1),
];

impl Wish {
    fn of(chance: &SeededChance) -> Wish {
        let upto = |most: u64| (chance.unit() * most as f64) as u64;
        let mut number = upto(WISHES.iter().map(|(_, _, times)| times).sum());
        let (names, mode, _) = WISHES
            .iter()
            .find(|(_, _, times)| {
                let found = number < *times;
                number = number.saturating_sub(*times);
                found
            })
            .unwrap_or(&WISHES[0]);
        let wait_ms = match upto(10) {
            0 => Some(0),
            1 | 2 => Some(upto(400)),
            _ => None,
        };
        // Most are short; some outlast a lease, so that whatever happens befalls a holder too.
        let holds = Duration::from_millis(match upto(50) {
            0 => 1500,
            1..6 => upto(250),
            6..20 => 0,
            _ => upto(12),
        });
        let gives_up = (upto(10) == 0).then(|| Duration::from_millis(upto(200)));
        Wish { names, mode: *mode, wait_ms, gives_up, holds, drops: upto(8) == 0 }
    }
}

impl One {
    async fn run(self) {
        while !*self.ends.borrow() {
            // Its session ended, or none is to be had now.
            let _ = self.stay().await;
            SystemClock.sleep(PAUSE).await;
        }
        self.recorder.note(What::Away { clients: vec![self.name.clone()] });
    }

    /// Locks and releases with one session, as long as that lasts.
    async fn stay(&self) -> Result<()> {
        // Made anew: the host may have another token after a restart.
        let client = client(&self.ask.server, self.ask.token_file.as_deref())?;
        let mut membership = Membership::open(client, Some(Duration::from_millis(self.ask.ttl_ms))).await?;
        while !*self.ends.borrow() {
            let request = self.recorder.number();
            let wish = Wish::of(&self.chance);
            if let Some(locks) = self.lock(&membership, request, &wish).await? {
                self.hold(&mut membership, request, locks, &wish).await?;
            }
        }
        membership.close().await
    }

    fn note(&self, request: u64, step: LockStep) {
        self.recorder.note(What::Lock { request, step });
    }

    /// Asks for what is wished for, again where the answer was lost.
    async fn lock(&self, membership: &Membership, request: u64, wish: &Wish) -> Result<Option<Vec<Lock>>> {
        let names: Vec<_> = wish.names.iter().map(|name| (*name).to_owned()).collect();
        let limit = (wish.mode == LockMode::Permit).then_some(PERMITS);
        let (mode, wait_ms, id) = (wish.mode, wish.wait_ms, Some(request.to_string()));
        self.note(request, LockStep::Asked { names: names.clone(), mode, limit, wait_ms });
        let ask = LockAsk { names, mode, limit, wait_ms, id, ..LockAsk::default() };
        let gives_up = async {
            match wish.gives_up {
                Some(time) => SystemClock.sleep(time).await,
                None => std::future::pending().await,
            }
        };
        let mut ends = self.ends.clone();
        let answer = tokio::select! {
            answer = ask_again(membership, &ask) => answer,
            () = gives_up => Err(Error::new(Kind::Closed, "lock", "it does not wait any longer")),
            _ = ends.wait_for(|ends| *ends) => Err(Error::new(Kind::Closed, "lock", "it ends")),
        };
        match answer {
            Ok(Some(locks)) => {
                let tokens = locks.iter().map(|lock| (lock.hold().lock.clone(), lock.token())).collect();
                self.note(request, LockStep::Granted { tokens });
                Ok(Some(locks))
            }
            Ok(None) => {
                self.note(request, LockStep::Failed { why: "others have it".into() });
                Ok(None)
            }
            Err(error) => {
                self.note(request, LockStep::Failed { why: error.to_string() });
                if error.kind() == Kind::Closed { Ok(None) } else { Err(error) }
            }
        }
    }

    /// Holds locks for a while, asks their guards all the time, and gives them back.
    async fn hold(
        &self,
        membership: &mut Membership,
        request: u64,
        locks: Vec<Lock>,
        wish: &Wish,
    ) -> Result<()> {
        let until = SystemClock.now() + wish.holds;
        let mut guards: Vec<_> = locks.into_iter().map(Guard::new).collect();
        let mut lasts = true;
        loop {
            guards.iter_mut().for_each(|guard| guard.sample(self, request));
            let is_lost = guards.iter().any(|guard| guard.is_lost);
            if is_lost || !lasts || SystemClock.now() >= until {
                break;
            }
            tokio::select! {
                event = membership.next_event() => lasts = self.hear(event, request, &mut guards),
                () = SystemClock.sleep(SAMPLE) => {}
            }
        }
        let mut outcome = Ok(());
        for place in 0..guards.len() {
            let released = self.release(request, &mut guards[place], wish.drops).await;
            if released.as_ref().is_ok_and(|released| *released != Some(Released::Released)) {
                guards[place].is_lost = true;
            }
            let all_told = |guards: &[Guard]| guards.iter().all(|guard| !guard.is_lost || guard.is_told);
            self.listen(membership, request, &mut guards, all_told).await;
            let lock = guards[place].name.clone();
            let answer = released.as_ref().ok().copied().flatten();
            self.note(request, LockStep::Released { lock, released: answer });
            outcome = outcome.and(released.map(drop));
        }
        // What is asked of a session that has ended comes to nothing.
        if lasts { outcome } else { Err(Error::new(Kind::SessionLost, "hold", "the session ended")) }
    }

    /// Gives a lock back. Returns what came of it, where that is waited for.
    async fn release(&self, request: u64, guard: &mut Guard, drops: bool) -> Result<Option<Released>> {
        guard.sample(self, request);
        guard.note_held(self, request);
        let sure = !guard.is_lost;
        self.note(request, LockStep::Releasing { lock: guard.name.clone(), sure });
        match guard.lock.take() {
            Some(lock) if !drops => lock.release().await.map(Some),
            _ => Ok(Some(Released::Released)),
        }
    }

    /// Listens until enough was told, or the session has ended, or it takes too long.
    async fn listen(
        &self,
        membership: &mut Membership,
        request: u64,
        guards: &mut [Guard],
        is_enough: impl Fn(&[Guard]) -> bool,
    ) {
        let listening = async {
            while !is_enough(guards) {
                let event = membership.next_event().await;
                if !self.hear(event, request, guards) {
                    return;
                }
            }
        };
        // Where it was not told in time, the checker says so.
        let _ = timeout(TOLD_WITHIN, listening).await;
    }

    /// Writes down what is said of locks of this request. Returns whether the session lasts.
    fn hear(&self, event: Option<SessionEvent>, request: u64, guards: &mut [Guard]) -> bool {
        let lasts = !matches!(event, Some(SessionEvent::Ended { .. }) | None);
        let (concerns, why): (Option<LockHold>, _) = match event {
            Some(SessionEvent::LockStop { lock }) => (Some(lock), "it is to stop".to_owned()),
            Some(SessionEvent::LockLost { lock, reason }) => (Some(lock), reason),
            Some(SessionEvent::Standing { standing: Standing::Lost, .. }) => {
                (None, "the lease ran out".into())
            }
            Some(SessionEvent::Ended { .. }) | None => (None, "the session ended".into()),
            Some(_) => return true,
        };
        let is_meant = |guard: &&mut Guard| {
            concerns.as_ref().is_none_or(|lock| lock.id == request.to_string() && lock.lock == guard.name)
        };
        for guard in guards.iter_mut().filter(is_meant) {
            guard.is_told = true;
            self.note(request, LockStep::Told { lock: guard.name.clone(), why: why.clone() });
        }
        lasts
    }
}

/// Asks for locks, and again under the same id where nobody can tell what came of it.
async fn ask_again(membership: &Membership, ask: &LockAsk) -> Result<Option<Vec<Lock>>> {
    let mut times = 0;
    loop {
        match membership.lock(ask).await {
            Err(error) if error.effect() == Effect::Unknown && times < ASK_AGAIN_MAX => times += 1,
            answer => return answer,
        }
        SystemClock.sleep(SAMPLE).await;
    }
}

/// A lock that was granted, and what its guard said.
struct Guard {
    name: String,
    /// Until it is released.
    lock: Option<Lock>,
    /// After the first yes since this was last written down, and before the latest one.
    sure: Option<(Nanos, Nanos)>,
    is_lost: bool,
    is_told: bool,
}

impl Guard {
    fn new(lock: Lock) -> Guard {
        let name = lock.hold().lock.clone();
        Guard { name, lock: Some(lock), sure: None, is_lost: false, is_told: false }
    }

    /// Asks whether it is held.
    fn sample(&mut self, one: &One, request: u64) {
        let before = now();
        let Some(lock) = &self.lock else { return };
        let is_held = lock.is_held();
        let after = now();
        if !is_held {
            self.note_held(one, request);
            if !self.is_lost {
                self.is_lost = true;
                one.note(request, LockStep::Lost { lock: self.name.clone() });
            }
            return;
        }
        let (from, _) = *self.sure.get_or_insert((after, before));
        self.sure = Some((from, before));
        if before.saturating_sub(from) > HELD_NOTED {
            self.note_held(one, request);
            self.sure = Some((after, before));
        }
    }

    fn note_held(&mut self, one: &One, request: u64) {
        if let Some((from, until)) = self.sure.take() {
            one.note(request, LockStep::Held { lock: self.name.clone(), from, until });
        }
    }
}
