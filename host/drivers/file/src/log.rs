//! The log of a namespace: one file to which every process appends, and which every process reads.
//!
//! Nobody locks it. The kernel puts each write at the end in one step, so the file itself is the one order in which all
//! that happens happens, and a process that stands still in the middle of anything keeps nobody from anything. What an entry
//! comes to, whoever reads it knows; so does the one who wrote it, once he has read as far.
//!
//! A cell in the head of the file says up to where it is known to be on the disk: up to the end of some entry. It is a hint
//! that spares the others syncs of their own, and, after the machine went down, the least that must be whole.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use althing_core::{Error, Kind, Result, Revision};

use crate::disk::{self, failed};
use crate::entry::Entry;
use crate::frame::{self, Found, Salt};
use crate::place::Place;

/// The bytes before the first frame.
pub(crate) const HEADER_BYTES: u64 = 192;
const MARK: &[u8; 16] = b"althing file log";
const VERSION: u64 = 1;
/// Where the header's fields end, its check stands, and the cell.
const FIELDS_BYTES: usize = 112;
const CELL_AT: u64 = 128;
/// What is kept free for renewals and ends of sessions, so that a full disk ends none: some thousands of them.
pub(crate) const RESERVE_BYTES: u64 = 256 << 10;
/// How much room is taken at once.
const ROOM_STEP_BYTES: u64 = 256 << 10;
/// How much is read at once, unless one frame is larger.
const READ_BYTES: u64 = 4 << 20;
/// A log is begun anew when so much, and twice what it began with, stands behind its beginning.
const LONG_BYTES: u64 = 4 << 20;

/// What a log says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Rises from one file to the next.
    pub(crate) generation: u64,
    /// Stays the same from one file to the next.
    pub(crate) incarnation: u128,
    /// The file's own name, and its secret.
    pub(crate) id: u128,
    /// The id of the file whose state it goes on from.
    pub(crate) parent: u128,
    /// During which boot of the machine it is written to.
    pub(crate) boot: u128,
    /// The revision of the state with whose parts it begins.
    pub(crate) base: Revision,
    /// Where all ends that the file before told: the parts, and the entries that it was given while they were written.
    pub(crate) parts_end: u64,
}

impl Header {
    pub(crate) fn salt(&self) -> Salt {
        Salt(self.id)
    }

    /// Writes it in bytes, with a cell that says that the state is on the disk.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MARK.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        for id in [self.incarnation, self.id, self.parent, self.boot] {
            out.extend_from_slice(&id.to_le_bytes());
        }
        out.extend_from_slice(&self.base.0.to_le_bytes());
        out.extend_from_slice(&self.parts_end.to_le_bytes());
        out.extend_from_slice(&self.salt().check(b'f', &out));
        out.resize(CELL_AT as usize, 0);
        out.extend_from_slice(&cell(self.salt(), self.parts_end));
        out.resize(HEADER_BYTES as usize, 0);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Header, String> {
        let long = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let id = |at: usize| bytes.get(at..at + 16)?.try_into().ok().map(u128::from_le_bytes);
        let read = || {
            let header = Header {
                generation: long(24)?,
                incarnation: id(32)?,
                id: id(48)?,
                parent: id(64)?,
                boot: id(80)?,
                base: Revision(long(96)?),
                parts_end: long(104)?,
            };
            let check = header.salt().check(b'f', bytes.get(..FIELDS_BYTES)?);
            (bytes.get(FIELDS_BYTES..)?.starts_with(&check)).then_some(header)
        };
        if !bytes.starts_with(MARK) {
            return Err("it is no log of Althing".into());
        }
        match long(16) {
            Some(VERSION) => read().ok_or_else(|| "its head is damaged".into()),
            version => {
                Err(format!("its layout is version {}; this is {VERSION}", version.unwrap_or_default()))
            }
        }
    }
}

fn cell(salt: Salt, synced: u64) -> Vec<u8> {
    let number = synced.to_le_bytes();
    [number, salt.check(b'c', &number)].concat()
}

/// A file and how much of it is on the disk. Shared, so that a sync stops nobody who reads or appends.
#[derive(Debug)]
pub(crate) struct Tape {
    file: File,
    salt: Salt,
    synced: AtomicU64,
    /// The end of the last entry that somebody here waits for.
    awaited: AtomicU64,
    /// A sync failed: what the kernel then holds may never reach the disk.
    failed: AtomicBool,
    /// Held by whoever syncs, so that all who wait are served by the next sync.
    turn: Mutex<()>,
}

impl Tape {
    /// Tells whether everything up to `end` is known to be on the disk.
    pub(crate) fn is_settled(&self, end: u64) -> bool {
        self.synced.load(Ordering::Relaxed) >= end || self.read_cell() >= end
    }

    /// Returns when everything up to `end`, where an entry ends, is on the disk.
    pub(crate) fn settle(&self, end: u64) -> io::Result<()> {
        self.awaited.fetch_max(end, Ordering::Relaxed);
        if self.is_settled(end) {
            return Ok(());
        }
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_settled(end) {
            return Ok(());
        }
        let (whole, awaited) = (self.file.metadata()?.len(), self.awaited.load(Ordering::Relaxed));
        if self.failed.load(Ordering::Relaxed) {
            return Err(io::Error::other("the disk failed to keep what was written before"));
        }
        self.file.sync_data().inspect_err(|_| self.failed.store(true, Ordering::Relaxed))?;
        self.synced.fetch_max(whole, Ordering::Relaxed);
        // Never the whole length: another thread may stand in the middle of an entry there, which then was not promised to
        // be whole after a loss of power. Two who do this at once may leave the lower number: then somebody syncs once more.
        self.file.write_all_at(&cell(self.salt, awaited), CELL_AT)
    }

    /// Reads up to where some process has synced. A cell that is just being written counts as nothing new.
    fn read_cell(&self) -> u64 {
        let mut bytes = [0; 16];
        if self.file.read_exact_at(&mut bytes, CELL_AT).is_ok() {
            let synced = u64::from_le_bytes(bytes[..8].try_into().unwrap_or_default());
            if cell(self.salt, synced) == bytes {
                self.synced.fetch_max(synced, Ordering::Relaxed);
            }
        }
        self.synced.load(Ordering::Relaxed)
    }
}

/// A log, and how far it was read.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) header: Header,
    pub(crate) tape: Arc<Tape>,
    pub(crate) path: PathBuf,
    pen: File,
    /// Up to where it was read.
    at: u64,
    /// What is behind this does not count.
    pub(crate) sealed: bool,
    /// The machine was started anew since anybody wrote to it.
    pub(crate) is_former: bool,
    /// Up to where there is room.
    room: u64,
}

impl Log {
    /// Opens the log of a generation, `None` where there is none.
    pub(crate) fn open(operation: &'static str, place: &Place, generation: u64) -> Result<Option<Log>> {
        let path = place.log(generation);
        let opened = || Ok(disk::open(&path)?.zip(disk::open_to_append(&path)?));
        let files: io::Result<_> = opened();
        let Some((file, pen)) = files.map_err(|error| failed(operation, "open", &path, error))? else {
            return Ok(None);
        };
        let mut bytes = vec![0; HEADER_BYTES as usize];
        let header = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => Header::decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err("it is cut short".into()),
            Err(error) => return Err(failed(operation, "read", &path, error)),
        };
        let header = header.map_err(|what| {
            Error::new(Kind::Format, operation, format!("cannot use the log: {what}"))
                .with("path", path.display())
                .advise(DAMAGE_ADVICE)
        })?;
        let tape = Tape {
            salt: header.salt(),
            file,
            synced: AtomicU64::new(0),
            awaited: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            turn: Mutex::default(),
        };
        let tape = Arc::new(tape);
        let is_former = header.boot != place.boot;
        Ok(Some(Log { header, tape, path, pen, at: HEADER_BYTES, sealed: false, is_former, room: 0 }))
    }

    /// Reads it a second time, by itself, from where it is read here.
    pub(crate) fn second_reader(&self, operation: &'static str) -> Result<Log> {
        let pen = self.pen.try_clone().map_err(|error| failed(operation, "open", &self.path, error))?;
        Ok(Log { tape: self.tape.clone(), path: self.path.clone(), pen, ..*self })
    }

    /// Passes over the state it begins with: whoever comes from the file before knows it.
    pub(crate) fn skip_parts(&mut self) {
        self.at = self.header.parts_end;
    }

    /// Returns how long the file is.
    pub(crate) fn size(&self, operation: &'static str) -> Result<u64> {
        let size = self.tape.file.metadata().map(|metadata| metadata.size());
        size.map_err(|error| failed(operation, "read", &self.path, error))
    }

    /// Tells whether this file is the one that others find.
    pub(crate) fn is_in_place(&self, operation: &'static str) -> Result<bool> {
        disk::lies_at(&self.tape.file, &self.path)
            .map_err(|error| failed(operation, "look at", &self.path, error))
    }

    /// Tells how many times it has grown as much as a log may before it is begun anew.
    pub(crate) fn excess(&self) -> u64 {
        if self.tape.failed.load(Ordering::Relaxed) {
            return u64::MAX;
        }
        let beginning = self.header.parts_end - HEADER_BYTES;
        self.at.saturating_sub(self.header.parts_end) / LONG_BYTES.max(2 * beginning)
    }

    /// Returns where it was read up to.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Reads the whole entries up to `size` and hands each to `each`, with the place where it ends. Stops behind a seal. Fails
    /// with `Format` where the log is damaged, or has an entry that this version does not know. Over what a killed process
    /// left half written it goes on.
    pub(crate) fn replay(
        &mut self,
        operation: &'static str,
        size: u64,
        mut each: impl FnMut(u64, Entry),
    ) -> Result<()> {
        let mut most = READ_BYTES;
        while self.at < size && !self.sealed {
            let count = most.min(size - self.at);
            let mut bytes = vec![0; count as usize];
            let read = self.tape.file.read_exact_at(&mut bytes, self.at);
            read.map_err(|error| failed(operation, "read", &self.path, error))?;
            let before = self.at;
            self.replay_bytes(operation, &bytes, &mut each)?;
            if self.at == before && count == size - self.at {
                // The rest is not whole yet, or was left by somebody who was killed.
                return Ok(());
            }
            most = if self.at == before { most.saturating_mul(4) } else { READ_BYTES };
        }
        Ok(())
    }

    fn replay_bytes(
        &mut self,
        operation: &'static str,
        mut bytes: &[u8],
        each: &mut impl FnMut(u64, Entry),
    ) -> Result<()> {
        while !bytes.is_empty() && !self.sealed {
            let length = match frame::next(self.header.salt(), bytes) {
                Found::More => return Ok(()),
                // What the machine had not written when it went down: it was promised to nobody.
                Found::Damaged if self.is_former && !self.tape.is_settled(self.at + 1) => {
                    self.sealed = true;
                    return Ok(());
                }
                Found::Damaged => return Err(self.damaged(operation, "is damaged")),
                Found::Torn(length) => length,
                Found::Frame { body, length } => {
                    let entry = Entry::decode(body);
                    let entry =
                        entry.ok_or_else(|| self.damaged(operation, "has an entry of a newer version"))?;
                    self.sealed = entry == Entry::Seal;
                    each(self.at + length as u64, entry);
                    length
                }
            };
            self.at += length as u64;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn damaged(&self, operation: &'static str, what: &str) -> Error {
        Error::new(Kind::Format, operation, format!("the log {what} at byte {}", self.at))
            .with("path", self.path.display())
            .advise(DAMAGE_ADVICE)
    }

    /// Makes sure that `bytes` can be written, and after them what is kept for sessions.
    pub(crate) fn make_room(&mut self, operation: &'static str, bytes: u64) -> Result<()> {
        let needed = bytes + RESERVE_BYTES;
        if self.at + needed <= self.room {
            return Ok(());
        }
        let file = &self.tape.file;
        let ample = disk::reserve(file, self.at, needed + ROOM_STEP_BYTES).map(|()| ROOM_STEP_BYTES);
        let taken = ample.or_else(|_| disk::reserve(file, self.at, needed).map(|()| 0));
        let extra = taken.map_err(|error| failed(operation, "keep room in the log", &self.path, error))?;
        self.room = self.at + needed + extra;
        Ok(())
    }

    /// Writes a frame of `body` at the end, and returns where it ends. On an error it does not count, and never will.
    pub(crate) fn append(&mut self, operation: &'static str, body: &[u8]) -> Result<u64> {
        let frame = frame::frame(self.header.salt(), body);
        let written = self.pen.write(&frame).and_then(|count| match count == frame.len() {
            true => self.pen.stream_position(),
            // What was written is passed over by whoever reads.
            false => Err(io::ErrorKind::StorageFull.into()),
        });
        written.map_err(|error| failed(operation, "write to the log", &self.path, error))
    }
}

const DAMAGE_ADVICE: &str = "Nothing was cut off. Stop the hosts and put the directory back from a copy, or move it away to begin anew";
