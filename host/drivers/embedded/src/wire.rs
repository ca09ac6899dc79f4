//! The only file that speaks to redb: what lies in the file, how it is read, and how one commit is written.
//!
//! The file begins with a page of ours: a line that says what it is and in which layout, and the revision that was
//! acknowledged last, as far as that page came to the disk. Behind it lies redb, with one counter for the whole file, and
//! for each namespace a table of records and one of sessions, in an encoding of our own, so that redb knows no types of
//! ours.
//!
//! redb mends a file that was not closed by going back to the commit before, where the last one does not hold together.
//! That is right when a crash cut that commit off, and wrong when the disk damaged one that was acknowledged. The page of
//! ours tells these apart, at the cost of one write that nobody waits for. (redb's commits in two phases would mostly do so
//! too, but each takes a second fsync, and half as many fit in a second.)

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use althing_core::{Error, Key, Kind, Record, Result, Revision, SessionId, Stamp};
use bytes::Bytes;
use redb::{
    Builder, Database, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    TableError, WriteTransaction,
};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::{Errno, retry_on_intr};

use crate::settings::Settings;
use crate::store::{Contents, Written};

/// What the file begins with, up to the end of a line. Another number is another layout.
const NAME: &[u8] = b"althing embedded ";
const FORMAT: &[u8] = b"1";
/// Where the revision stands in our page: so far behind the line that no disk writes both at once.
const WITNESS_AT: u64 = 2048;
/// The size of our page.
const PAGE: u64 = 4096;
const COUNTER: Table<'static> = TableDefinition::new("counter");
const REVISION: &[u8] = b"revision";
/// What redb keeps in memory of the file. Reads are answered from the image, so it need not be much.
const CACHE_BYTES: usize = 16 << 20;

/// The size from which on a file that is mostly empty is made smaller when it is opened.
const COMPACT_FROM: u64 = 4 << 20;

/// A key and a value.
type Row = (Vec<u8>, Vec<u8>);
type Table<'a> = TableDefinition<'a, &'static [u8], &'static [u8]>;

/// A commit that failed.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) error: Error,
    /// Nothing of the commit can be in the file: it failed before redb wrote where the newest state is.
    pub(crate) unwritten: bool,
    /// The disk failed to keep what it had taken: what is read now need not be there after a crash.
    pub(crate) unsynced: bool,
}

/// The file, and one namespace in it.
#[derive(Debug)]
pub(crate) struct Wire {
    path: PathBuf,
    records: String,
    sessions: String,
    medium: Medium,
    /// `None` after a failed commit, until it is opened again.
    database: Option<Database>,
}

impl Wire {
    /// Fills a new file.
    pub(crate) fn make(file: File, settings: &Settings) -> Result<()> {
        let medium = Medium::new(file, settings);
        let write = || -> Result<(), redb::Error> {
            medium.begin()?;
            let database = builder().create_with_backend(medium)?;
            let transaction = database.begin_write()?;
            count(&transaction, Revision::ZERO)?;
            transaction.commit()?;
            Ok(database.close()?)
        };
        write().map_err(|error| wrong("connect", &settings.path, &error))
    }

    /// Opens a file that is locked for us, after checking that it is ours, and every page of it. A file that is not ours
    /// is left as it is.
    pub(crate) fn open(file: File, settings: &Settings) -> Result<Wire> {
        let mut wire = Wire {
            path: settings.path.clone(),
            records: format!("records of {}", settings.namespace),
            sessions: format!("sessions of {}", settings.namespace),
            medium: Medium::new(file, settings),
            database: None,
        };
        wire.check_format()?;
        wire.reopen()?;
        let (found, witness) = (wire.revision()?, wire.medium.witness());
        if witness.is_some_and(|witness| found < witness) {
            return Err(wrong("connect", &wire.path, &damaged("the last commits are lost")));
        }
        wire.compact()?;
        Ok(wire)
    }

    /// Gives back what a file has grown by and does not need any more, where that is most of it.
    fn compact(&mut self) -> Result<()> {
        let Some(database) = &mut self.database else { return Ok(()) };
        let needed = database.begin_write().map_err(redb::Error::from).and_then(|transaction| {
            let stats = transaction.stats()?;
            Ok(stats.allocated_pages() * stats.page_size() as u64)
        });
        let needed = needed.map_err(|error| wrong("connect", &self.path, &error))?;
        let size = self.medium.len().map_err(|error| wrong("connect", &self.path, &error.into()))?;
        if size < COMPACT_FROM || needed > size / 4 {
            return Ok(());
        }
        match database.compact() {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, "the file keeps its size: it cannot be compacted now");
                self.reopen()
            }
        }
    }

    /// Opens the file again after a commit that failed. What the disk did not keep is read from the disk, not from memory.
    pub(crate) fn reopen(&mut self) -> Result<()> {
        // A failed redb closes without writing.
        self.database = None;
        if self.medium.marks.unsynced.swap(false, Ordering::Relaxed) {
            // Where the system does not drop its copy, there is nothing better to read.
            let _ = fadvise(&*self.medium.file, 0, None, Advice::DontNeed);
        }
        let open = |wire: &Wire| Ok(builder().create_with_backend(wire.medium.clone())?);
        let database = self.guarded("connect", open)?;
        // Whoever had the file may have died before its last commit was on the disk; what is shown has to be there.
        self.medium.sync_data().map_err(|error| wrong("connect", &self.path, &error.into()))?;
        self.database = Some(database);
        Ok(())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.database.is_some()
    }

    /// Closes the file until it is opened again. It stays ours.
    pub(crate) fn close(&mut self) {
        self.database = None;
    }

    /// Reads the counter.
    pub(crate) fn revision(&self) -> Result<Revision> {
        self.read(|_, transaction| counted(transaction))
    }

    /// Reads all of the namespace.
    pub(crate) fn load(&self) -> Result<Contents> {
        self.read(|wire, transaction| {
            let mut contents = Contents { revision: counted(transaction)?, ..Contents::default() };
            let mut known = BTreeSet::new();
            for (id, lease) in all(transaction, &wire.sessions)? {
                let session = decode_session(&id, &lease).ok_or_else(unknown)?;
                known.insert(session.0);
                contents.sessions.push(session);
            }
            for (key, value) in all(transaction, &wire.records)? {
                let record = decode_record(key, value).ok_or_else(unknown)?;
                if record.session.is_some_and(|id| !known.contains(&id)) {
                    return Err(damaged("a record of a session that is not there"));
                }
                contents.records.push(record);
            }
            Ok(contents)
        })
    }

    /// Writes one commit and returns when it is on the disk. After a failure the file has to be opened again.
    pub(crate) fn write(&mut self, written: &Written) -> Result<(), Broken> {
        let marks = self.medium.marks.clone();
        let result = self.guarded("commit", |wire| {
            let Some(database) = &wire.database else { return Err(redb::Error::DatabaseClosed) };
            let transaction = database.begin_write()?;
            wire.fill(&transaction, written)?;
            // Only from here on does redb write where it looks for the newest state.
            marks.headed.store(false, Ordering::Relaxed);
            marks.committing.store(true, Ordering::Relaxed);
            Ok(transaction.commit()?)
        });
        let committing = marks.committing.swap(false, Ordering::Relaxed);
        if let Err(error) = result {
            self.database = None;
            let unwritten = !committing || !marks.headed.load(Ordering::Relaxed);
            return Err(Broken { error, unwritten, unsynced: marks.unsynced.load(Ordering::Relaxed) });
        }
        self.medium.testify(written.revision);
        Ok(())
    }

    fn fill(&self, transaction: &WriteTransaction, written: &Written) -> Result<(), redb::Error> {
        let mut sessions = transaction.open_table(table(&self.sessions))?;
        for (id, lease) in &written.sessions {
            let id = id.0.to_be_bytes();
            match lease {
                Some(lease) => sessions.insert(&id[..], &nanoseconds(*lease).to_be_bytes()[..])?,
                None => sessions.remove(&id[..])?,
            };
        }
        let mut records = transaction.open_table(table(&self.records))?;
        for (key, record) in &written.records {
            match record {
                Some(record) => records.insert(key.as_bytes(), encode_record(record).as_slice())?,
                None => records.remove(key.as_bytes())?,
            };
        }
        count(transaction, written.revision)
    }

    fn read<T>(&self, work: impl FnOnce(&Wire, &ReadTransaction) -> Result<T, redb::Error>) -> Result<T> {
        self.guarded("connect", |wire| {
            let Some(database) = &wire.database else { return Err(redb::Error::DatabaseClosed) };
            work(wire, &database.begin_read()?)
        })
    }

    fn check_format(&self) -> Result<()> {
        let line = self.medium.line().map_err(|error| wrong("connect", &self.path, &error.into()))?;
        let message = match line.strip_prefix(NAME) {
            Some(FORMAT) => return Ok(()),
            Some(other) => format!("the file has layout version {}, not 1", other.escape_ascii()),
            None => "the file is not one of ours".to_owned(),
        };
        Err(Error::new(Kind::Format, "connect", message)
            .with("file", self.path.display())
            .advise("Name another file, or use the version that wrote it; it was left as it is"))
    }

    /// Does `work` with redb. A file that makes redb panic is damaged: the host must not fall over it.
    fn guarded<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Wire) -> Result<T, redb::Error>,
    ) -> Result<T> {
        let done = catch_unwind(AssertUnwindSafe(|| work(self)));
        done.unwrap_or_else(|_| Err(unknown())).map_err(|error| wrong(operation, &self.path, &error))
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    // We read all of it anyway.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

fn table(name: &str) -> Table<'_> {
    TableDefinition::new(name)
}

fn count(transaction: &WriteTransaction, revision: Revision) -> Result<(), redb::Error> {
    transaction.open_table(COUNTER)?.insert(REVISION, &revision.0.to_be_bytes()[..])?;
    Ok(())
}

fn counted(transaction: &ReadTransaction) -> Result<Revision, redb::Error> {
    let found = transaction.open_table(COUNTER)?.get(REVISION)?.ok_or_else(unknown)?;
    Ok(Revision(u64::from_be_bytes(found.value().try_into().map_err(|_| unknown())?)))
}

fn all(transaction: &ReadTransaction, name: &str) -> Result<Vec<Row>, redb::Error> {
    let table = match transaction.open_table(table(name)) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut rows = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        rows.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok(rows)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn decode_session(id: &[u8], lease: &[u8]) -> Option<(SessionId, Duration)> {
    let id = SessionId(u128::from_be_bytes(id.try_into().ok()?));
    Some((id, Duration::from_nanos(u64::from_be_bytes(lease.try_into().ok()?))))
}

/// Two revisions, whether a session follows, the session, the value.
fn encode_record(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(33 + record.value.len());
    bytes.extend_from_slice(&record.stamp.created.0.to_be_bytes());
    bytes.extend_from_slice(&record.stamp.modified.0.to_be_bytes());
    bytes.push(record.session.is_some().into());
    if let Some(id) = record.session {
        bytes.extend_from_slice(&id.0.to_be_bytes());
    }
    bytes.extend_from_slice(&record.value);
    bytes
}

fn decode_record(key: Vec<u8>, bytes: Vec<u8>) -> Option<Record> {
    let (created, rest) = bytes.split_first_chunk()?;
    let (modified, rest) = rest.split_first_chunk()?;
    let (owned, rest) = rest.split_first()?;
    let (session, rest) = match owned {
        0 => (None, rest),
        1 => {
            let (id, rest) = rest.split_first_chunk()?;
            (Some(SessionId(u128::from_be_bytes(*id))), rest)
        }
        _ => return None,
    };
    let stamp = Stamp {
        created: Revision(u64::from_be_bytes(*created)),
        modified: Revision(u64::from_be_bytes(*modified)),
    };
    let start = bytes.len() - rest.len();
    Some(Record { key: Key::new(key), value: Bytes::from(bytes).slice(start..), session, stamp })
}

fn unknown() -> redb::Error {
    damaged("it holds what no version writes")
}

fn damaged(what: &str) -> redb::Error {
    redb::Error::Corrupted(what.to_owned())
}

/// Makes our error of one of redb's. The cause is told as text, because one failure answers many calls.
fn wrong(operation: &'static str, path: &Path, error: &redb::Error) -> Error {
    let (kind, message, advice) = explain(error);
    Error::new(kind, operation, format!("{message}: {error}")).with("file", path.display()).advise(advice)
}

fn explain(error: &redb::Error) -> (Kind, &'static str, &'static str) {
    use redb::Error as E;
    const RESTORE: &str = "Restore it from a copy, or move it away to begin with nothing";
    const DAMAGED: (Kind, &str, &str) = (Kind::Format, "the file is damaged", RESTORE);
    match error {
        E::Corrupted(_)
        | E::UpgradeRequired(_)
        | E::TableTypeMismatch { .. }
        | E::TableIsMultimap(_)
        | E::TableIsNotMultimap(_)
        | E::TypeDefinitionChanged { .. }
        | E::TableDoesNotExist(_) => DAMAGED,
        E::Io(error) => match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => DAMAGED,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                (Kind::Unavailable, "no room left on the disk", "Make room; it goes on by itself then")
            }
            _ => (Kind::Unavailable, "the disk failed", "Look after the disk"),
        },
        // Everything else is of a redb that a failure has closed, or means that we use it wrongly.
        _ => (Kind::Unavailable, "redb refused", "See the log of this host"),
    }
}

/// The file, and what redb sees of it: all behind our page. Room is taken before it is written to, so that a full disk
/// refuses a commit before its first byte. The lock on the file is ours and outlives redb, which is opened again after a
/// failure: it takes none.
#[derive(Clone, Debug)]
struct Medium {
    file: Arc<File>,
    marks: Arc<Marks>,
    #[cfg(test)]
    faults: Faults,
}

#[derive(Debug, Default)]
struct Marks {
    /// redb was told to make a commit the newest state.
    committing: AtomicBool,
    /// redb wrote where it looks for the newest state, or tried to.
    headed: AtomicBool,
    /// The disk failed to keep what it had taken.
    unsynced: AtomicBool,
}

impl Medium {
    #[cfg_attr(not(test), expect(unused_variables, reason = "only tests make a disk fail"))]
    fn new(file: File, settings: &Settings) -> Medium {
        Medium {
            file: Arc::new(file),
            marks: Arc::default(),
            #[cfg(test)]
            faults: settings.faults.clone(),
        }
    }

    /// Writes our page into an empty file.
    fn begin(&self) -> io::Result<()> {
        self.set_len(0)?;
        self.file.write_all_at(&[NAME, FORMAT, b"\n"].concat(), 0)
    }

    /// Reads the line that says what the file is, or the beginning of what has none.
    fn line(&self) -> io::Result<Vec<u8>> {
        let mut bytes = [0; NAME.len() + 16];
        let read = self.file.read_at(&mut bytes, 0)?;
        let mut lines = bytes[..read].splitn(2, |byte| *byte == b'\n');
        Ok(lines.next().unwrap_or_default().to_vec())
    }

    /// Notes that `revision` is durable. This comes to the disk with the next commit, and says then what no crash undoes.
    fn testify(&self, revision: Revision) {
        let (plain, turned) = (revision.0.to_be_bytes(), (!revision.0).to_be_bytes());
        // Without it, damage after a crash may go unnoticed; that is no reason to refuse what is durable.
        let _ = self.file.write_all_at(&[plain, turned].concat(), WITNESS_AT);
    }

    /// Reads what [`Medium::testify`] wrote, if it is whole.
    fn witness(&self) -> Option<Revision> {
        let (mut plain, mut turned) = ([0; 8], [0; 8]);
        self.file.read_exact_at(&mut plain, WITNESS_AT).ok()?;
        self.file.read_exact_at(&mut turned, WITNESS_AT + 8).ok()?;
        let (plain, turned) = (u64::from_be_bytes(plain), u64::from_be_bytes(turned));
        (plain == !turned).then_some(Revision(plain))
    }
}

impl StorageBackend for Medium {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len().saturating_sub(PAGE))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset.saturating_add(PAGE))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let (now, len) = (self.file.metadata()?.len(), len.saturating_add(PAGE));
        if len <= now {
            return self.file.set_len(len);
        }
        let take = || fallocate(&*self.file, FallocateFlags::empty(), now, len - now);
        match retry_on_intr(take) {
            Ok(()) => Ok(()),
            // This file system takes room only when it is written to.
            Err(Errno::OPNOTSUPP) => self.file.set_len(len),
            Err(error) => {
                // What was taken of it is given back.
                self.file.set_len(now)?;
                Err(error.into())
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        #[cfg(test)]
        let synced = self.faults.strike(&self.marks).and_then(|()| self.file.sync_data());
        #[cfg(not(test))]
        let synced = self.file.sync_data();
        self.marks.unsynced.fetch_or(synced.is_err(), Ordering::Relaxed);
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset == 0 {
            self.marks.headed.store(true, Ordering::Relaxed);
        }
        self.file.write_all_at(data, offset.saturating_add(PAGE))
    }
}

/// What a test does to the disk of one driver.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Arc<FaultsInner>);

#[cfg(test)]
#[derive(Debug, Default)]
struct FaultsInner {
    fails: AtomicBool,
    fails_opening: AtomicBool,
    stuck: std::sync::Mutex<bool>,
    freed: std::sync::Condvar,
    waits: AtomicBool,
}

#[cfg(test)]
impl Faults {
    /// Fails the next fsync of a commit, which has written all by then.
    pub(crate) fn fail(&self) {
        self.0.fails.store(true, Ordering::Relaxed);
    }

    /// Fails the next fsync with which the file is opened again.
    pub(crate) fn fail_opening(&self) {
        self.0.fails_opening.store(true, Ordering::Relaxed);
    }

    /// Keeps every fsync waiting from now on, or lets them go on.
    pub(crate) fn stick(&self, stuck: bool) {
        *self.0.stuck.lock().unwrap() = stuck;
        self.0.freed.notify_all();
    }

    /// Tells whether an fsync waits.
    pub(crate) fn is_stuck(&self) -> bool {
        self.0.waits.load(Ordering::Relaxed)
    }

    fn strike(&self, marks: &Marks) -> io::Result<()> {
        let mut stuck = self.0.stuck.lock().unwrap();
        while *stuck {
            self.0.waits.store(true, Ordering::Relaxed);
            stuck = self.0.freed.wait(stuck).unwrap();
        }
        self.0.waits.store(false, Ordering::Relaxed);
        let committing = marks.committing.load(Ordering::Relaxed);
        let fails = if committing { &self.0.fails } else { &self.0.fails_opening };
        if fails.swap(false, Ordering::Relaxed) { Err(io::Error::other("a test fails it")) } else { Ok(()) }
    }
}
