//! A process that uses a directory: this test binary, started once more with a part to play. It tells what it does line by
//! line, and can be killed, stopped and let go on.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use althing_core::{
    Chance, Clock, Delta, Driver, Error, Guard, Key, Kind, OsChance, Result, Revision, Session, SystemClock,
    Txn,
};
use althing_driver_file::Directory;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::stage::{PATIENCE, connect, put};

const PART: &str = "ALTHING_FILE_PART";
const URL: &str = "ALTHING_FILE_URL";

/// A process that plays a part. Dropping it kills it.
pub(crate) struct Member {
    child: Child,
    lines: UnboundedReceiver<String>,
}

impl Member {
    pub(crate) fn start(part: &str, url: &str) -> Member {
        Member::start_in(&[], part, url)
    }

    /// Starts one by a program that changes what it sees, such as `unshare`, and then becomes it.
    pub(crate) fn start_in(wrapper: &[&str], part: &str, url: &str) -> Member {
        let binary = std::env::current_exe().unwrap().display().to_string();
        let words: Vec<&str> = wrapper.iter().copied().chain([binary.as_str()]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env(PART, part).env(URL, url).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = unbounded_channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            // A line that was cut by a kill was not said.
            for line in output.lines().map_while(|line| line.ok()) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Member { child, lines }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next line; `None` when it has ended.
    pub(crate) async fn line(&mut self) -> Option<String> {
        tokio::time::timeout(PATIENCE, self.lines.recv()).await.expect("the process goes on")
    }

    /// Waits until it says `word`, and returns what stands behind that.
    pub(crate) async fn says(&mut self, word: &str) -> String {
        let mut passed = Vec::new();
        while let Some(line) = self.line().await {
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
            passed.push(line);
        }
        panic!("it ended before it said {word:?}; it said {passed:?}");
    }

    /// Returns all it says until it ends.
    pub(crate) async fn rest(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.line().await {
            lines.push(line);
        }
        lines
    }

    /// Returns what it has said by now.
    pub(crate) fn said(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.lines.try_recv().ok()).collect()
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    pub(crate) fn stop(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    pub(crate) fn go_on(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Plays the part that this process was started for, if it was.
pub(crate) fn play() -> Option<ExitCode> {
    let (part, url) = (std::env::var(PART).ok()?, std::env::var(URL).ok()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let played = runtime.block_on(async {
        let driver = connect(&url).await?;
        match part.as_str() {
            "writer" => write(&driver).await,
            "racer" => race(&driver).await,
            "counter" => count(&driver).await,
            "watcher" => watch(&driver).await,
            "reader" => read(&driver).await,
            lease => hold(&driver, Duration::from_millis(lease.parse().unwrap())).await,
        }
    });
    if let Err(error) = played {
        say(format!("error {error}"));
    }
    Some(ExitCode::SUCCESS)
}

fn say(line: String) {
    // Written at once and whole. Nobody may listen any more.
    let _ = std::io::stdout().lock().write_all(format!("{line}\n").as_bytes());
}

fn me(what: &str) -> Key {
    format!("{what}/{}", std::process::id()).as_str().into()
}

async fn begin(driver: &Directory, lease: Duration) -> Result<Session> {
    let session = driver.open(lease).await?;
    driver.commit(Txn::new().put_owned(me("alive"), "1", session.id)).await?;
    say(format!("ready {}", session.id));
    Ok(session)
}

/// Writes new keys with values of all sizes, over and over the same few, and says which were acknowledged.
async fn write(driver: &Directory) -> Result<()> {
    begin(driver, Duration::from_secs(60)).await?;
    for number in 0u64.. {
        let length = (OsChance.bits() as usize) % 40_000;
        let mut value = number.to_le_bytes().to_vec();
        value.resize(8 + length, number as u8);
        let (key, last) = (format!("w/{}/{}", std::process::id(), number % 4), me("last"));
        let txn = Txn::new().put(key.as_str().into(), value).put(last, number.to_string());
        let revision = driver.commit(txn).await?.revision;
        say(format!("ack {number} {}", revision.0));
    }
    Ok(())
}

/// Takes part in races that only one may win.
async fn race(driver: &Directory) -> Result<()> {
    for round in 0..150 {
        let key = Key::from(format!("race/{round}").as_str());
        let txn = Txn::new().guard(Guard::Absent(key.clone())).put(key, std::process::id().to_string());
        match driver.commit(txn).await {
            Ok(committed) => say(format!("won {round} {}", committed.revision.0)),
            Err(error) if error.kind() == Kind::Conflict => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Adds one to a number, a hundred times.
async fn count(driver: &Directory) -> Result<()> {
    for _ in 0..100 {
        while !add_one(driver).await? {}
    }
    Ok(())
}

async fn add_one(driver: &Directory) -> Result<bool> {
    let (key, record) = (Key::from("count"), driver.get(&"count".into()).await?);
    let number =
        record.as_ref().map_or(0, |record| String::from_utf8_lossy(&record.value).parse::<u32>().unwrap());
    let txn = Txn::new().guard(Guard::since(&key, record.as_ref())).put(key, (number + 1).to_string());
    match driver.commit(txn).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == Kind::Conflict => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says what it is told, change by change.
async fn watch(driver: &Directory) -> Result<()> {
    let mut watch = driver.watch(&"told/".into(), Revision::ZERO).await?;
    loop {
        match watch.next().await? {
            Delta::Resync { .. } => say("ready".into()),
            Delta::Changes { changes, .. } => {
                changes.iter().for_each(|change| say(format!("told {}", change.key())));
            }
        }
    }
}

/// Says what is there, and writes one thing more.
async fn read(driver: &Directory) -> Result<()> {
    let page = driver.list(&Key::default(), None, 0).await?;
    for record in page.records {
        let value: Vec<u8> = record.value.iter().take(8).copied().collect();
        let number = <[u8; 8]>::try_from(value).map(u64::from_le_bytes).unwrap_or_default();
        say(format!("record {} {number} {}", record.key, record.stamp.modified.0));
    }
    let revision = put(driver, "more", "1").await?;
    say(format!("wrote {}", revision.0));
    Ok(())
}

/// Holds a session by renewals, and says when it is lost.
async fn hold(driver: &Directory, lease: Duration) -> Result<()> {
    let session = begin(driver, lease).await?;
    loop {
        SystemClock.sleep(lease / 3).await;
        match driver.renew(session.id).await {
            Ok(_) => say("renewed".into()),
            Err(error) if error.kind() == Kind::SessionLost => break,
            Err(error) => return Err(error),
        }
    }
    let owned: Result<_, Error> = driver.commit(Txn::new().put_owned(me("alive"), "2", session.id)).await;
    say(format!("lost {:?}", owned.map_err(|error| error.kind()).err()));
    Ok(())
}
