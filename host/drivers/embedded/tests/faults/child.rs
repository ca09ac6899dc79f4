//! This test as another process: what it does there, and how it is held here.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use althing_core::{BootTime, Change, Clock, Delta, Driver, Key, Revision, SessionId, SystemClock, Txn};
use althing_driver_embedded::Embedded;
use rustix::process::{Pid, Signal, kill_process};

use crate::{BEAT, LEASE, PATIENCE, open};

/// Names the role of a child in its environment.
pub(crate) const ROLE: &str = "ALTHING_TEST_ROLE";
const FILE: &str = "ALTHING_TEST_FILE";
const WRITERS: usize = 8;

/// A process that has a file. Dropping it kills it and waits until it is gone.
pub(crate) struct Child {
    process: std::process::Child,
    lines: Receiver<String>,
    acknowledged: Vec<BootTime>,
}

impl Child {
    pub(crate) fn start(role: &str, file: &Path) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(ROLE, role).env(FILE, file).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            // A kill may have cut off the last line.
            while output.read_line(&mut line).is_ok()
                && line.ends_with('\n')
                && sender.send(line.clone()).is_ok()
            {
                line.clear();
            }
        });
        Child { process, lines, acknowledged: Vec::new() }
    }

    /// Waits for its next line. Times at which it sent renewals that were acknowledged are kept aside.
    pub(crate) fn line(&mut self) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect("the child tells something");
            let line = line.trim_end();
            match line.strip_prefix("sent ") {
                Some(ms) => {
                    self.acknowledged.push(BootTime::new(Duration::from_millis(ms.parse().unwrap())));
                }
                None => return line.to_owned(),
            }
        }
    }

    /// Waits for a line that is as asked.
    pub(crate) fn until(&mut self, is_it: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.line();
            if is_it(&line) {
                return line;
            }
        }
    }

    /// Waits until it tells of a session that it opened.
    pub(crate) fn session(&mut self) -> SessionId {
        let line = self.until(|line| line.starts_with("session "));
        line["session ".len()..].parse().unwrap()
    }

    /// Returns when it sent those renewals that were acknowledged.
    pub(crate) fn acknowledged(&self) -> &[BootTime] {
        &self.acknowledged
    }

    /// Kills it with SIGKILL, waits until it is gone, and returns the whole lines it wrote that nobody has read.
    pub(crate) fn kill(&mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.lines.iter().map(|line| line.trim_end().to_owned()).collect()
    }

    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Is the child: opens the file and does what its role says until it is killed.
pub(crate) fn play(role: &str) -> ExitCode {
    let file = std::env::var_os(FILE).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let driver = open(Path::new(&file)).await.unwrap();
        match role {
            "writer" => write(&driver).await,
            "holder" => hold(&driver).await,
            other => panic!("no role is called {other}"),
        }
    });
    ExitCode::SUCCESS
}

/// Tells something in one write, so that a kill leaves whole lines.
fn tell(line: &str) {
    std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Counts in some records at once, and tells each count when it is acknowledged.
async fn write(driver: &Embedded) {
    let writers = (0..WRITERS).map(|writer| {
        let driver = driver.clone();
        tokio::spawn(async move {
            let key = format!("writer-{writer}");
            let former = driver.get(&key.as_str().into()).await.unwrap();
            let former =
                former.map_or(0, |record| std::str::from_utf8(&record.value).unwrap().parse().unwrap());
            for count in former + 1_u64.. {
                let txn = Txn::new().put(key.as_str().into(), count.to_string());
                let revision = driver.commit(txn).await.unwrap().revision;
                tell(&format!("{key} {count} {revision}"));
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

/// Opens two sessions, each with a record, renews them, and tells what becomes of them.
async fn hold(driver: &Embedded) {
    for name in ["mine", "kept"] {
        let session = driver.open(LEASE).await.unwrap();
        assert_eq!(session.lease_min, LEASE);
        driver.commit(Txn::new().put_owned(name.into(), "1", session.id)).await.unwrap();
        tell(&format!("session {}", session.id));
        tokio::spawn(renew(driver.clone(), session.id));
    }
    let mut watch = driver.watch(&Key::default(), Revision::ZERO).await.unwrap();
    loop {
        let Delta::Changes { changes, .. } = watch.next().await.unwrap() else { continue };
        for change in changes {
            if let Change::Deleted { key, cause, .. } = change {
                tell(&format!("gone {key} {cause:?}"));
            }
        }
    }
}

async fn renew(driver: Embedded, session: SessionId) {
    for times in 1.. {
        let sent = SystemClock.now();
        match driver.renew(session).await {
            Ok(lease) => assert_eq!(lease.min, LEASE),
            Err(error) => return tell(&format!("lost {session} {}", error.kind())),
        }
        tell(&format!("sent {}", sent.as_duration().as_millis()));
        tell(&format!("renewed {times}"));
        SystemClock.sleep(BEAT).await;
    }
}
