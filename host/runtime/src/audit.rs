//! Every decision and every call of a behaviour is kept: the last ones in memory, all of them as JSON lines where there is
//! a state directory. So is every lock that somebody broke.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};

use althing_core::info::{BehaviourCall, Decision, LockBreak};
use althing_core::{Digest, Error, Kind, Result, limits};
use serde::Serialize;
use tracing::warn;

/// The record of decisions and calls.
#[derive(Debug)]
pub(crate) struct Audit {
    kept: Mutex<HashMap<String, VecDeque<Decision>>>,
    calls: Mutex<HashMap<String, VecDeque<BehaviourCall>>>,
    file: Option<SyncSender<Entry>>,
}

/// What is on its way to the disk.
#[derive(Debug)]
enum Entry {
    /// A decision with the bytes of its view.
    Decision(Box<Decision>, Vec<u8>),
    Call(Box<BehaviourCall>),
    Break(LockBreak),
}

/// One line of the file: a view the first time it is met, then decisions that name it; a call; or a lock that was broken.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Line<'a> {
    View { digest: Digest, bytes: &'a str },
    Decision(&'a Decision),
    Call(&'a BehaviourCall),
    Break(&'a LockBreak),
}

/// How many decisions may wait for the disk.
const WAITING_MAX: usize = 4096;

impl Audit {
    /// Begins a record; on disk as `decisions.jsonl` in `state`, turned over at
    /// [`limits::AUDIT_FILE_BYTES_MAX`].
    pub(crate) fn begin(state: Option<PathBuf>) -> Result<Audit> {
        let file = match state {
            None => None,
            Some(state) => {
                let path = state.join("decisions.jsonl");
                let journal = Journal::open(path.clone()).map_err(|error| {
                    Error::new(Kind::Invalid, "state directory", "decisions cannot be recorded")
                        .with("file", path.display())
                        .because(error)
                })?;
                let (sender, receiver) = sync_channel(WAITING_MAX);
                let writer = std::thread::Builder::new().name("althing-audit".into());
                writer.spawn(move || journal.run(&receiver)).map_err(|error| {
                    Error::new(Kind::Internal, "state directory", "no thread for the record").because(error)
                })?;
                Some(sender)
            }
        };
        Ok(Audit { kept: Mutex::default(), calls: Mutex::default(), file })
    }

    /// Keeps a decision and the bytes of the view it was made from.
    pub(crate) fn keep(&self, decision: Decision, view: Vec<u8>) {
        self.write_down(|| Entry::Decision(Box::new(decision.clone()), view));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = kept.entry(decision.group.clone()).or_default();
        if ring.len() == limits::DECISIONS_KEPT_MAX {
            ring.pop_front();
        }
        ring.push_back(decision);
    }

    /// Returns the last decisions of a group, newest first.
    pub(crate) fn last(&self, group: &str, limit: usize) -> Vec<Decision> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(group).into_iter().flat_map(|ring| ring.iter().rev().take(limit).cloned()).collect()
    }

    /// Keeps what came of a call, and counts it.
    pub(crate) fn keep_call(&self, call: BehaviourCall) {
        let behaviour = call.behaviour.clone();
        let outcome = serde_json::to_value(call.outcome).unwrap_or_default();
        let outcome = outcome.as_str().unwrap_or_default().to_owned();
        metrics::counter!(
            "althing_behaviour_calls_total", "behaviour" => behaviour.clone(), "outcome" => outcome
        )
        .increment(1);
        metrics::counter!("althing_behaviour_microseconds_total", "behaviour" => behaviour.clone())
            .increment((call.took_ms * 1000.0) as u64);
        self.write_down(|| Entry::Call(Box::new(call.clone())));
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = calls.entry(behaviour).or_default();
        if ring.len() == limits::BEHAVIOUR_CALLS_KEPT_MAX {
            ring.pop_front();
        }
        ring.push_back(call);
    }

    /// Returns the last calls of a behaviour, newest first.
    pub(crate) fn last_calls(&self, behaviour: &str) -> Vec<BehaviourCall> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.get(behaviour).into_iter().flat_map(|ring| ring.iter().rev().cloned()).collect()
    }

    /// Forgets the calls of behaviours that were removed.
    pub(crate) fn keep_calls_of(&self, exists: impl Fn(&str) -> bool) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).retain(|behaviour, _| exists(behaviour));
    }

    /// Keeps that a lock was broken, and says so in the log: it is rare, and somebody will ask.
    pub(crate) fn keep_break(&self, broken: LockBreak) {
        let (lock, by, force) = (&broken.lock, &broken.by, broken.force);
        warn!(lock, by, force, holders = broken.holders.len(), "a lock is broken");
        metrics::counter!("althing_locks_broken_total").increment(1);
        self.write_down(|| Entry::Break(broken.clone()));
    }

    fn write_down(&self, entry: impl FnOnce() -> Entry) {
        if let Some(file) = &self.file
            && let Err(TrySendError::Full(_)) = file.try_send(entry())
        {
            metrics::counter!("althing_decisions_unrecorded_total").increment(1);
            warn!("the disk does not keep up: a decision or a call is not recorded there");
        }
    }

    /// Forgets a deleted group.
    pub(crate) fn forget(&self, group: &str) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(group);
    }
}

/// The file, and the views already in it.
struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
    views: HashSet<Digest>,
}

impl Journal {
    fn open(path: PathBuf) -> io::Result<Journal> {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Journal { path, file, bytes, views: HashSet::new() })
    }

    fn run(mut self, entries: &Receiver<Entry>) {
        while let Ok(entry) = entries.recv() {
            if let Err(error) = self.write(&entry) {
                metrics::counter!("althing_decisions_unrecorded_total").increment(1);
                warn!(file = %self.path.display(), %error, "a decision is not recorded");
            }
        }
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        if self.bytes > limits::AUDIT_FILE_BYTES_MAX {
            fs::rename(&self.path, self.path.with_extension("1.jsonl"))?;
            *self = Journal::open(self.path.clone())?;
        }
        let mut lines = Vec::new();
        match entry {
            Entry::Decision(decision, view) => {
                if self.views.insert(decision.view) {
                    let bytes = String::from_utf8_lossy(view);
                    line(&mut lines, &Line::View { digest: decision.view, bytes: &bytes })?;
                }
                line(&mut lines, &Line::Decision(decision))?;
            }
            Entry::Call(call) => line(&mut lines, &Line::Call(call))?,
            Entry::Break(broken) => line(&mut lines, &Line::Break(broken))?,
        }
        if self.views.len() > WAITING_MAX {
            self.views.clear();
        }
        self.bytes += lines.len() as u64;
        self.file.write_all(&lines)
    }
}

fn line(lines: &mut Vec<u8>, line: &Line<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *lines, line)?;
    lines.push(b'\n');
    Ok(())
}
