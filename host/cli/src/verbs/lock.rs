//! `althing lock`.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::time::Duration;

use althing::clock::{Clock, SystemClock};
use althing::info::{
    BreakAsk, LockAsk, LockBroken, LockHolder, LockInfo, LockMode, LockParty, LockSummary, LockWaiter,
};
use althing::{Error, Kind, Requirement, Result, Revision, limits};
use althing_client::Membership;
use clap::{Args, Subcommand};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::ask::{Host, duration};
use crate::exit::signals;
use crate::table::{Table, moment, plain, word};

/// Run a command while holding a lock; list, show and break locks
///
/// The command finds the lock's name in ALTHING_LOCK and its fencing token, a number that rises with every holder, in
/// ALTHING_LOCK_TOKEN. It is stopped when the lock is lost or broken: by SIGTERM, and by SIGKILL if it goes on.
#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "The exit code is that of the command, 128 and more if a signal ended it; 4 if others held the lock for longer\nthan was waited, and 5 if it was lost."
)]
pub(crate) struct Lock {
    #[command(subcommand)]
    verb: Option<LockVerb>,

    #[command(flatten)]
    run: Option<Run>,
}

#[derive(Subcommand)]
enum LockVerb {
    /// List the locks that somebody holds or waits for
    List,
    /// Show who holds a lock and who waits
    Show {
        /// Its name
        lock: String,
    },
    /// Ask whoever holds a lock to stop, so that the next one can have it
    Break {
        /// Its name
        lock: String,

        /// Only whoever holds it by this token
        #[arg(long, value_name = "TOKEN")]
        token: Option<Revision>,

        /// Do not wait for the holder's word: it may go on to believe that it holds the lock
        #[arg(long)]
        force: bool,
    },
}

#[derive(Args)]
struct Run {
    /// The lock's name
    #[arg(required = true)]
    lock: String,

    /// Hold it together with others that share it, and with nobody who wants it alone
    #[arg(long, conflicts_with = "permits")]
    shared: bool,

    /// Take one of so many permits
    #[arg(long, value_name = "N")]
    permits: Option<u32>,

    /// Give up when others hold it for longer [default: wait for ever]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    wait: Option<Duration>,

    /// What others see beside the holder
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

    /// Refuse a backend that promises less: a level and features such as L1,across-hosts
    #[arg(long, value_name = "PROMISES", default_value_t, hide_default_value = true)]
    require: Requirement,

    /// Lose the lock when this process was not heard of for so long. The host sees the death of a process at
    /// once; this is for a process that is stopped or cut off
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = ttl_default())]
    ttl: Duration,

    /// How long a command that is to stop may go on before it is killed
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2s")]
    grace: Duration,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

impl Lock {
    pub(super) async fn run(self, host: &Host) -> Result<ExitCode> {
        let shown = match (self.verb, self.run) {
            (None, Some(run)) => return run.run(host).await,
            (None, None) => {
                let error = Error::new(Kind::Invalid, "lock", "no lock is named");
                Err(error.advise("See althing lock --help"))
            }
            (Some(LockVerb::List), _) => {
                let table = Table::new(["LOCK", "MODE", "HOLDERS", "WAITERS"]);
                host.show_list(&host.client()?.locks().await?, "no locks", table, |table, lock| {
                    let [holders, waiters] = [lock.holders, lock.waiters].map(|count| count.to_string());
                    table.row([lock.name.clone(), mode_of(lock), holders, waiters]);
                })
            }
            (Some(LockVerb::Show { lock }), _) => host.show(&host.client()?.lock_info(&lock).await?, lines),
            (Some(LockVerb::Break { lock, token, force }), _) => {
                let ask = BreakAsk { token, force };
                host.show(&host.client()?.break_lock(&lock, &ask).await?, broken)
            }
        };
        shown.map(|()| ExitCode::SUCCESS)
    }
}

impl Run {
    async fn run(self, host: &Host) -> Result<ExitCode> {
        let (mut terminated, mut interrupted) = signals()?;
        let session = Membership::open(host.client()?, Some(self.ttl)).await?;
        let ask = self.ask();
        let granted = tokio::select! {
            granted = session.lock(&ask) => granted?,
            _ = terminated.recv() => return Err(interruption()),
            _ = interrupted.recv() => return Err(interruption()),
        };
        let lock = granted.and_then(|mut locks| locks.pop()).ok_or_else(|| self.taken())?;
        let mut child = self.start(lock.token())?;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.map_err(unwaited)?,
                () = lock.lost() => {
                    self.stop(&mut child).await?;
                    // Only now may the next one have it, if it was asked for.
                    drop(lock);
                    session.close().await?;
                    return Err(lost(&self.lock));
                }
                _ = terminated.recv() => signal(&child, Signal::TERM),
                // A terminal sends it to the command as well.
                _ = interrupted.recv() => if !std::io::stdin().is_terminal() { signal(&child, Signal::INT) },
            }
        };
        lock.release().await?;
        session.close().await?;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
        Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
    }

    fn ask(&self) -> LockAsk {
        let mode = match (self.shared, self.permits) {
            (true, _) => LockMode::Shared,
            (false, Some(_)) => LockMode::Permit,
            (false, None) => LockMode::Exclusive,
        };
        LockAsk {
            names: vec![self.lock.clone()],
            mode,
            limit: self.permits,
            wait_ms: self.wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            id: None,
            label: self.label.clone(),
            require: self.require,
        }
    }

    fn taken(&self) -> Error {
        let waited = self.wait.unwrap_or_default();
        Error::new(Kind::Conflict, "lock", format!("others held the lock for longer than {waited:?}"))
            .with("lock", &self.lock)
            .advise("althing lock show tells who; --wait says how long to wait")
    }

    fn start(&self, token: Revision) -> Result<Child> {
        let mut command = self.command.iter();
        let program = command.next().map(OsString::as_os_str).unwrap_or_default();
        Command::new(program)
            .args(command)
            .env("ALTHING_LOCK", &self.lock)
            .env("ALTHING_LOCK_TOKEN", token.0.to_string())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                let message = format!("{} cannot be started", program.to_string_lossy());
                Error::new(Kind::Invalid, "lock", message).because(error)
            })
    }

    /// Asks the command to stop, and kills it when it goes on.
    async fn stop(&self, child: &mut Child) -> Result<()> {
        signal(child, Signal::TERM);
        tokio::select! {
            status = child.wait() => status.map(drop).map_err(unwaited),
            () = SystemClock.sleep(self.grace) => child.kill().await.map_err(unwaited),
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if let Some(pid) = pid {
        // It may just have ended.
        let _ = kill_process(pid, signal);
    }
}

fn unwaited(error: std::io::Error) -> Error {
    Error::new(Kind::Internal, "lock", "the command cannot be waited for").because(error)
}

fn lost(lock: &str) -> Error {
    Error::new(Kind::SessionLost, "lock", "the lock was lost or broken, and the command was stopped")
        .with("lock", lock)
}

fn interruption() -> Error {
    Error::new(Kind::Closed, "lock", "it was interrupted while it waited")
}

fn mode_of(lock: &LockSummary) -> String {
    lock.limit.map_or_else(|| word(&lock.mode), |limit| format!("permit of {limit}"))
}

/// Describes a lock to people.
fn lines(lock: &LockInfo) -> Vec<String> {
    let mut lines = vec![format!("lock     {}", plain(&lock.name))];
    lines.extend(lock.limit.map(|limit| format!("permits  {limit}")));
    if lock.holders.is_empty() && lock.waiters.is_empty() {
        lines.push("nobody holds it".into());
    }
    lines.extend(holders(&lock.holders));
    lines.extend(waiters(&lock.waiters));
    lines
}

fn holders(holders: &[LockHolder]) -> Vec<String> {
    let mut table = Table::new(["TOKEN", "STATE", "HOLDER", "MODE", "SINCE", "HOST", "SESSION", "LABEL"]);
    for holder in holders {
        let state = if holder.breaking { "stopping" } else { "held" };
        let [who, mode, since, host, session, label] = party(&holder.party);
        table.row([holder.token.0.to_string(), state.into(), who, mode, since, host, session, label]);
    }
    super::group::spaced(&table)
}

fn waiters(waiters: &[LockWaiter]) -> Vec<String> {
    let mut table = Table::new(["PLACE", "WAITER", "MODE", "SINCE", "HOST", "SESSION", "LABEL"]);
    for waiter in waiters {
        let [who, mode, since, host, session, label] = party(&waiter.party);
        table.row([waiter.position.to_string(), who, mode, since, host, session, label]);
    }
    super::group::spaced(&table)
}

fn party(party: &LockParty) -> [String; 6] {
    let LockParty { mode, principal, label, host, session, since_ms } = party.clone();
    [principal, word(&mode), moment(since_ms), host, session, label.unwrap_or_default()]
}

fn broken(outcome: &LockBroken) -> Vec<String> {
    let told = |tokens: &[Revision], words: &str| {
        tokens.iter().map(|token| format!("token {} {words}", token.0)).collect::<Vec<_>>()
    };
    if outcome.broken.is_empty() && outcome.asked.is_empty() {
        return vec!["nobody holds it".into()];
    }
    let mut lines = told(&outcome.broken, "is broken");
    lines.extend(told(&outcome.asked, "was asked to stop, and stops at the latest when its lease ends"));
    lines
}

fn ttl_default() -> String {
    format!("{:?}", limits::CLIENT_TTL_DEFAULT)
}
