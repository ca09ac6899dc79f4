//! The only file that speaks to redb: what lies in the file, how it is read, and how one commit is written.
//!
//! The table `althing` holds `format`, and for each namespace its counter. Each namespace has a table of records
//! and one of sessions. Keys and values are bytes in an encoding of our own, so that redb knows no types of ours.

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
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, TableError, TableHandle, WriteTransaction,
};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::{Errno, retry_on_intr};

use crate::store::{Contents, Written};

/// The layout of the file. Another number is another layout.
const FORMAT: &[u8] = b"1";
const FORMAT_KEY: &[u8] = b"format";
const META: Table<'static> = TableDefinition::new("althing");
/// What redb keeps in memory of the file. Reads are answered from the image, so it need not be much.
const CACHE_BYTES: usize = 16 << 20;

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

/// The file as redb knows it, and one namespace in it.
#[derive(Debug)]
pub(crate) struct Wire {
    path: PathBuf,
    records: String,
    sessions: String,
    counter: Vec<u8>,
    medium: Medium,
    /// `None` after a failed commit, until it is opened again.
    database: Option<Database>,
}

impl Wire {
    /// Fills a new file.
    pub(crate) fn make(file: File, path: &Path) -> Result<()> {
        let write = || -> Result<(), redb::Error> {
            let database = builder().create_with_backend(Medium::new(file))?;
            let transaction = database.begin_write()?;
            transaction.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
            transaction.commit()?;
            Ok(database.close()?)
        };
        write().map_err(|error| wrong("connect", path, error))
    }

    /// Opens a file that is locked for us, after checking every page of it and that it is ours. Nothing is written
    /// into a whole file that is not.
    pub(crate) fn open(file: File, path: &Path, namespace: &str) -> Result<Wire> {
        let mut wire = Wire {
            path: path.to_owned(),
            records: format!("records of {namespace}"),
            sessions: format!("sessions of {namespace}"),
            counter: [b"revision of ", namespace.as_bytes()].concat(),
            medium: Medium::new(file),
            database: None,
        };
        wire.guarded("connect", |wire| {
            match builder().open_read_only_with_backend(wire.medium.clone()) {
                Ok(database) => wire.check_format(&database.begin_read()?),
                // It was not closed: it has to be mended before it can be read.
                Err(DatabaseError::RepairAborted) => Ok(Ok(())),
                Err(error) => Err(error.into()),
            }
        })??;
        wire.reopen()?;
        Ok(wire)
    }

    /// Opens the file again after a commit that failed. What the disk did not keep is read from the disk, not from memory.
    pub(crate) fn reopen(&mut self) -> Result<()> {
        // A failed redb closes without writing.
        self.database = None;
        if self.medium.marks.unsynced.swap(false, Ordering::Relaxed) {
            // Where the system does not drop its copy, there is nothing better to read.
            let _ = fadvise(&*self.medium.file, 0, None, Advice::DontNeed);
        }
        let database = self.guarded("connect", |wire| {
            let database = builder().create_with_backend(wire.medium.clone())?;
            Ok(wire.check_format(&database.begin_read()?)?.map(|()| database))
        })??;
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
        self.read(|wire, transaction| wire.counted(transaction))
    }

    /// Reads all of the namespace.
    pub(crate) fn load(&self) -> Result<Contents> {
        self.read(|wire, transaction| {
            let mut contents = Contents { revision: wire.counted(transaction)?, ..Contents::default() };
            for (id, lease) in all(transaction, &wire.sessions)? {
                contents.sessions.push(decode_session(&id, &lease).ok_or_else(damaged)?);
            }
            for (key, value) in all(transaction, &wire.records)? {
                contents.records.push(decode_record(key, value).ok_or_else(damaged)?);
            }
            Ok(contents)
        })
    }

    /// Writes one commit and returns when it is on the disk. After a failure the file has to be opened again.
    pub(crate) fn write(&mut self, written: &Written) -> Result<(), Broken> {
        self.medium.marks.headed.store(false, Ordering::Relaxed);
        let marks = self.medium.marks.clone();
        let result = self.guarded("commit", |wire| {
            let Some(database) = &wire.database else { return Err(redb::Error::DatabaseClosed) };
            let transaction = database.begin_write()?;
            wire.fill(&transaction, written)?;
            // Only from here on does redb write where it looks for the newest state.
            marks.headed.store(false, Ordering::Relaxed);
            Ok(transaction.commit()?)
        });
        result.map_err(|error| {
            self.database = None;
            Broken {
                error,
                unwritten: !marks.headed.load(Ordering::Relaxed),
                unsynced: marks.unsynced.load(Ordering::Relaxed),
            }
        })
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
        let mut meta = transaction.open_table(META)?;
        meta.insert(self.counter.as_slice(), &written.revision.0.to_be_bytes()[..])?;
        Ok(())
    }

    fn counted(&self, transaction: &ReadTransaction) -> Result<Revision, redb::Error> {
        let found = transaction.open_table(META)?.get(self.counter.as_slice())?;
        let Some(found) = found else { return Ok(Revision::ZERO) };
        Ok(Revision(u64::from_be_bytes(found.value().try_into().map_err(|_| damaged())?)))
    }

    fn read<T>(&self, work: impl FnOnce(&Wire, &ReadTransaction) -> Result<T, redb::Error>) -> Result<T> {
        self.guarded("connect", |wire| {
            let Some(database) = &wire.database else { return Err(redb::Error::DatabaseClosed) };
            work(wire, &database.begin_read()?)
        })
    }

    /// Tells whether the file is ours: the outer error says that it cannot be read.
    fn check_format(&self, transaction: &ReadTransaction) -> Result<Result<()>, redb::Error> {
        let found = match transaction.open_table(META) {
            Ok(meta) => meta.get(FORMAT_KEY)?.map(|value| value.value().to_vec()),
            Err(TableError::Storage(error)) => return Err(error.into()),
            Err(_) => None,
        };
        let message = match found.as_deref() {
            Some(FORMAT) => return Ok(Ok(())),
            Some(other) => format!("the file has layout version {}, not 1", other.escape_ascii()),
            None => {
                let count = transaction.list_tables()?.filter(|table| !table.name().is_empty()).count();
                format!("the file is of redb, but of something else, with {count} tables")
            }
        };
        let advice = "Name another file, or use the version that wrote it";
        Ok(Err(Error::new(Kind::Format, "connect", message).with("file", self.path.display()).advise(advice)))
    }

    /// Does `work` with redb. A file that makes redb panic is damaged: it is not ours to fall over it.
    fn guarded<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Wire) -> Result<T, redb::Error>,
    ) -> Result<T> {
        let done = catch_unwind(AssertUnwindSafe(|| work(self)));
        done.unwrap_or_else(|_| Err(damaged())).map_err(|error| wrong(operation, &self.path, error))
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

fn all(transaction: &ReadTransaction, name: &str) -> Result<Vec<(Vec<u8>, Vec<u8>)>, redb::Error> {
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

fn damaged() -> redb::Error {
    redb::Error::Corrupted("it holds what no version writes".into())
}

/// Makes our error of one of redb's. The causes are told as text, because one failure answers many calls.
fn wrong(operation: &'static str, path: &Path, error: redb::Error) -> Error {
    let (kind, message, advice) = explain(&error);
    Error::new(kind, operation, format!("{message}: {error}")).with("file", path.display()).advise(advice)
}

fn explain(error: &redb::Error) -> (Kind, &'static str, &'static str) {
    use redb::Error as E;
    const RESTORE: &str = "Restore it from a copy, or move it away to begin with nothing";
    match error {
        E::Corrupted(_) => (Kind::Format, "the file is damaged", RESTORE),
        E::UpgradeRequired(_) => (
            Kind::Format,
            "another version of redb wrote the file",
            "Use the version of Althing that wrote it",
        ),
        E::TableTypeMismatch { .. }
        | E::TableIsMultimap(_)
        | E::TableIsNotMultimap(_)
        | E::TypeDefinitionChanged { .. }
        | E::TableDoesNotExist(_) => (Kind::Format, "the file holds another layout", "Name another file"),
        E::Io(error) => match error.kind() {
            io::ErrorKind::InvalidData => {
                (Kind::Format, "the file is not one of ours", "Name another file; this one was left as it is")
            }
            io::ErrorKind::UnexpectedEof => (Kind::Format, "the file is cut short", RESTORE),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                (Kind::Unavailable, "no room left on the disk", "Make room; it goes on by itself then")
            }
            _ => (Kind::Unavailable, "the disk failed", "Look after the disk"),
        },
        // Everything else is of a redb that a failure has closed, or means that we use it wrongly.
        _ => (Kind::Unavailable, "redb refused", "See the log of this host"),
    }
}

/// The file under redb. Room is taken before it is written to, so that a full disk refuses a commit before its first
/// byte. The lock on the file is ours and outlives redb, which is opened again after a failure: it takes none.
#[derive(Clone, Debug)]
struct Medium {
    file: Arc<File>,
    marks: Arc<Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    /// The header was written, or its writing was tried.
    headed: AtomicBool,
    /// The disk failed to keep what it had taken.
    unsynced: AtomicBool,
    #[cfg(test)]
    fails: AtomicBool,
}

impl Medium {
    fn new(file: File) -> Medium {
        Medium { file: Arc::new(file), marks: Arc::default() }
    }
}

impl StorageBackend for Medium {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let now = self.len()?;
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
        if self.marks.fails.swap(false, Ordering::Relaxed) {
            self.marks.unsynced.store(true, Ordering::Relaxed);
            return Err(io::Error::other("a test fails it"));
        }
        let synced = self.file.sync_data();
        self.marks.unsynced.fetch_or(synced.is_err(), Ordering::Relaxed);
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset == 0 {
            self.marks.headed.store(true, Ordering::Relaxed);
        }
        self.file.write_all_at(data, offset)
    }
}
