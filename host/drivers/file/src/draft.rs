//! The next log, before it is one: written beside, synced, and put in place by a name that only one can take.
//!
//! It is begun while the log before is still written to, and follows that; so when that one is sealed, little is left to be
//! written, and whoever waits for it waits for a moment.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use althing_core::{Chance, Error, Kind, Result};

use crate::disk::{self, failed};
use crate::entry::Entry;
use crate::frame;
use crate::log::{HEADER_BYTES, Header, Log, RESERVE_BYTES};
use crate::place::Place;

/// How many names are tried.
const NAMES_MAX: u32 = 16;
const FAILED: &str = "write the next log";

/// A file that is locked while it is written, and removed when it is dropped: what was put in place has two names.
#[derive(Debug)]
pub(crate) struct Draft {
    file: File,
    path: PathBuf,
    header: Header,
    /// Up to where it is written.
    end: u64,
    /// The log before, as far as it was taken over. `None` where that was all read before the first part was written.
    followed: Option<Log>,
}

impl Draft {
    /// Begins the log of a header, whose id is chosen here.
    pub(crate) fn begin(
        operation: &'static str,
        place: &Place,
        chance: &dyn Chance,
        header: Header,
    ) -> Result<Draft> {
        for _ in 0..NAMES_MAX {
            let header = Header { id: chance.bits(), ..header };
            let path = place.draft(header.generation, header.id);
            let created = disk::create_locked(&path);
            if let Some(file) =
                created.map_err(|error| failed(operation, "make the next log", &path, error))?
            {
                return Ok(Draft { file, path, header, end: HEADER_BYTES, followed: None });
            }
        }
        Err(Error::new(Kind::Busy, operation, "what is written beside the log is swept away at once"))
    }

    /// Takes over what comes to `log` from now on.
    pub(crate) fn follow(mut self, log: Log) -> Draft {
        self.followed = Some(log);
        self
    }

    /// Tells whether it goes on from `log`.
    pub(crate) fn goes_on_from(&self, log: &Log) -> bool {
        self.header.parent == log.header.id
    }

    /// Tells whether `path` is where it is written.
    pub(crate) fn lies_at(&self, path: &Path) -> bool {
        self.path == path
    }

    /// Makes sure that `bytes` more can be written.
    pub(crate) fn make_room(&self, operation: &'static str, bytes: u64) -> Result<()> {
        let taken = disk::reserve(&self.file, self.end, bytes);
        taken.map_err(|error| failed(operation, "make room for a log", &self.path, error))
    }

    /// Writes one entry.
    pub(crate) fn write(&mut self, operation: &'static str, entry: &Entry) -> Result<()> {
        let frame = frame::frame(self.header.salt(), &entry.encode());
        let written = self.file.write_all_at(&frame, self.end);
        written.map_err(|error| failed(operation, FAILED, &self.path, error))?;
        self.end += frame.len() as u64;
        Ok(())
    }

    /// Takes over what has come to the log that it follows, up to the seal, and returns how many bytes that was there. After an
    /// error it is of no use any more.
    pub(crate) fn catch_up(&mut self, operation: &'static str) -> Result<u64> {
        let Some(mut log) = self.followed.take() else { return Ok(0) };
        let (before, size) = (log.at(), log.size(operation)?);
        let mut written = Ok(());
        log.replay(operation, size, |_, entry| {
            if written.is_ok() && entry != Entry::Seal {
                written = self.write(operation, &entry);
            }
        })?;
        let taken = log.at() - before;
        self.followed = Some(log);
        written.map(|()| taken)
    }

    /// Returns when all that was written is on the disk.
    pub(crate) fn sync(&self, operation: &'static str) -> Result<()> {
        self.file.sync_all().map_err(|error| failed(operation, FAILED, &self.path, error))
    }

    /// Takes over the rest of the log that was sealed, writes the header, and puts all of it where the log of its generation
    /// belongs. False where somebody was quicker.
    pub(crate) fn become_log(mut self, operation: &'static str, place: &Place) -> Result<bool> {
        self.catch_up(operation)?;
        self.header.parts_end = self.end;
        let headed = self.file.write_all_at(&self.header.encode(), 0);
        headed.map_err(|error| failed(operation, FAILED, &self.path, error))?;
        // Where there is no room for it now, the first commit says so.
        let _ = disk::reserve(&self.file, self.end, RESERVE_BYTES);
        self.sync(operation)?;
        let placed = self.link(place);
        placed.map_err(|error| failed(operation, FAILED, &self.path, error))
    }

    fn link(&self, place: &Place) -> io::Result<bool> {
        match fs::hard_link(&self.path, place.log(self.header.generation)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            linked => linked.map(|()| true),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What stays is swept away by the next who opens the directory.
        let _ = disk::remove(&self.path);
    }
}
