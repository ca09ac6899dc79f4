//! What clients saw: entries of many processes on one clock, merged by time.
//!
//! Everybody who sees something writes it down by a [`Recorder`] of his own: one file of JSON lines, a line per entry,
//! each written at once. A process that is killed loses nothing that it has written down.

mod locks;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use althing_core::info::{Event, GroupInfo, LockSummary};
use althing_core::{BootTime, Clock, Effect, Error, Revision, SystemClock};
use serde::{Deserialize, Serialize};

pub use locks::LockStep;

/// A moment in nanoseconds on the boot clock, which all processes of a machine share.
pub type Nanos = u64;

/// Returns the moment now.
pub fn now() -> Nanos {
    nanos(SystemClock.now())
}

/// Returns a moment in nanoseconds.
pub fn nanos(moment: BootTime) -> Nanos {
    moment.as_duration().as_nanos() as Nanos
}

/// What somebody saw, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was written down: right after it was seen.
    pub at: Nanos,
    /// Who saw it.
    pub by: String,
    /// What it was.
    #[serde(flatten)]
    pub what: What,
}

/// What can be seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum What {
    /// An operation is about to be asked for. Its number is unique to who asks.
    Began {
        /// Its number.
        operation: u64,
        /// What is asked for.
        ask: Ask,
    },
    /// The answer to an operation. One that was never answered may have been done.
    Ended {
        /// Its number.
        operation: u64,
        /// What came of it.
        outcome: Outcome,
    },
    /// A member knows that it is in.
    Joined {
        /// The group.
        group: String,
        /// The member's id.
        member: String,
        /// Names this stay.
        incarnation: String,
    },
    /// A member is out: it left, it was told so, or its process was killed.
    Gone {
        /// The group.
        group: String,
        /// The member's id.
        member: String,
    },
    /// A member was told that it leads.
    TermBegan {
        /// The group.
        group: String,
        /// The member's id.
        member: String,
        /// The token.
        term: Revision,
    },
    /// A member was told that it no longer leads.
    TermEnded {
        /// The group.
        group: String,
        /// The member's id.
        member: String,
        /// The token.
        term: Revision,
    },
    /// A holder asked itself again and again whether it leads, and the answer was always yes. It asked at `from` at the
    /// latest for the first time, and at `until` at the earliest for the last.
    Held {
        /// The group.
        group: String,
        /// The member's id.
        member: String,
        /// The token.
        term: Revision,
        /// After the first yes.
        from: Nanos,
        /// Before the last yes.
        until: Nanos,
    },
    /// A subscriber was told of an event. Each stream has a subscriber of its own, and begins with a snapshot.
    Watched {
        /// The group.
        group: String,
        /// The event.
        event: Event,
    },
    /// A fault began.
    Fault {
        /// What was done to whom.
        fault: String,
    },
    /// All faults are over. Within this time every group that has a member must have a leader.
    Healed {
        /// The time.
        within: Nanos,
    },
    /// All is quiet, and this is how a host shows it.
    Final {
        /// The names of all groups.
        groups: Vec<String>,
        /// The group that is looked at.
        group: GroupInfo,
        /// For how long one who is gone may still be shown.
        lease: Nanos,
    },
    /// Something happened with a request for locks.
    Lock {
        /// Its number, unique to who asks. It is asked again under the same one where an answer is lost.
        request: u64,
        /// What happened.
        #[serde(flatten)]
        step: LockStep,
    },
    /// These clients are gone: they ended, or their process was killed.
    Away {
        /// Their names.
        clients: Vec<String>,
    },
    /// All who locked something are gone, and this is what a host shows of locks, and what lies in the store.
    LocksLeft {
        /// When the last of them went.
        since: Nanos,
        /// For how long something of them may still be there.
        within: Nanos,
        /// What the host shows.
        shown: Vec<LockSummary>,
        /// The keys of what lies in the store, where one can look into it.
        records: Vec<String>,
    },
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// A group of a name that nobody else uses.
    Create(String),
    /// The end of a group.
    Delete(String),
    /// To be a member.
    Join {
        /// The group.
        group: String,
        /// The member's id.
        member: String,
    },
}

/// What came of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was refused, and nothing was written.
    Refused,
    /// It failed, and may have been done.
    Unknown,
}

impl Outcome {
    /// Returns what an answer says.
    pub fn of<T>(answer: &Result<T, Error>) -> Outcome {
        match answer {
            Ok(_) => Outcome::Done,
            Err(error) if error.effect() == Effect::None => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        }
    }
}

/// Writes down what one sees.
#[derive(Debug)]
pub struct Recorder {
    by: String,
    file: Mutex<File>,
    operations: AtomicU64,
}

impl Recorder {
    /// Begins a file in `folder`, or goes on with the one that `by` has begun there.
    pub fn new(folder: &Path, by: &str) -> Recorder {
        let path = folder.join(format!("{by}.jsonl"));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = Mutex::new(file.unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        // Numbers of a former run of the same name must not come again.
        Recorder { by: by.to_owned(), file, operations: AtomicU64::new(now()) }
    }

    /// Writes an entry down.
    pub fn note(&self, what: What) {
        self.note_at(now(), what);
    }

    /// Writes down what was seen at `at`.
    pub fn note_at(&self, at: Nanos, what: What) {
        let entry = Entry { at, by: self.by.clone(), what };
        let mut line = serde_json::to_vec(&entry).expect("an entry can be written as JSON");
        line.push(b'\n');
        // At once and as a whole: this process may be killed at any moment.
        self.file
            .lock()
            .expect("nobody panics with it")
            .write_all(&line)
            .expect("the history can be written");
    }

    /// Returns a number that none of its operations has had.
    pub fn number(&self) -> u64 {
        self.operations.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes down an operation: that it was asked for, and what came of it.
    pub async fn operation<T>(
        &self,
        ask: Ask,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let operation = self.number();
        self.note(What::Began { operation, ask });
        let answer = answer.await;
        self.note(What::Ended { operation, outcome: Outcome::of(&answer) });
        answer
    }
}

/// All that was seen, in the order of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    entries: Vec<Entry>,
}

impl History {
    /// Puts entries in the order of time.
    pub fn new(mut entries: Vec<Entry>) -> History {
        entries.sort_by_key(|entry| entry.at);
        History { entries }
    }

    /// Reads all files of a folder. A line that has no end was being written when its process was killed.
    pub fn read(folder: &Path) -> History {
        let files = std::fs::read_dir(folder).expect("the folder of the history can be read");
        let mut files: Vec<PathBuf> = files.map(|file| file.expect("a file is listed").path()).collect();
        files.retain(|file| file.extension().is_some_and(|ending| ending == "jsonl"));
        files.sort();
        History::new(files.iter().flat_map(|file| read_file(file)).collect())
    }

    /// Returns the entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

fn read_file(file: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(file).expect("a history can be read");
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let entry = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}: {line}", file.display()))
    };
    whole.map(entry).collect()
}
