//! The next log, before it is one: written beside, synced, and put in place by a name that only one can take.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use althing_core::{Chance, Error, Kind, Result};

use crate::disk::{self, failed};
use crate::frame;
use crate::image::Image;
use crate::log::{HEADER_BYTES, Header, RESERVE_BYTES};
use crate::place::Place;

/// How many names are tried.
const NAMES_MAX: u32 = 16;

/// A file that is locked while it is written, and removed when it is dropped: what was put in place has two names.
#[derive(Debug)]
pub(crate) struct Draft {
    file: File,
    path: PathBuf,
}

impl Draft {
    /// Begins one with room for `bytes`.
    pub(crate) fn begin(
        operation: &'static str,
        place: &Place,
        chance: &dyn Chance,
        bytes: u64,
    ) -> Result<Draft> {
        for _ in 0..NAMES_MAX {
            let path = place.draft(chance.bits());
            let create = || {
                let Some(file) = disk::create_locked(&path)? else { return Ok(None) };
                let draft = Draft { file, path: path.clone() };
                disk::reserve(&draft.file, 0, HEADER_BYTES + bytes)?;
                Ok(Some(draft))
            };
            let draft: io::Result<Option<Draft>> = create();
            if let Some(draft) =
                draft.map_err(|error| failed(operation, "make room for a log", &path, error))?
            {
                return Ok(draft);
            }
        }
        Err(Error::new(Kind::Busy, operation, "what is written beside the log is swept away at once"))
    }

    /// Writes a state and the header that goes with it, and puts all of it where the log of that generation belongs. False
    /// where somebody was quicker.
    pub(crate) fn become_log(
        self,
        operation: &'static str,
        place: &Place,
        header: Header,
        image: &Image,
        ended: bool,
    ) -> Result<bool> {
        let placed = self.write(header, image, ended).and_then(|()| self.link(place, header.generation));
        placed.map_err(|error| failed(operation, "write the next log", &self.path, error))
    }

    fn write(&self, mut header: Header, image: &Image, ended: bool) -> io::Result<()> {
        let (mut at, mut result) = (HEADER_BYTES, Ok(()));
        image.parts(ended, |part| {
            let frame = frame::frame(header.salt(), &part.encode());
            if result.is_ok() {
                result = self.file.write_all_at(&frame, at);
            }
            at += frame.len() as u64;
        });
        result?;
        header.parts_end = at;
        self.file.write_all_at(&header.encode(), 0)?;
        // Where there is no room for it now, the first commit says so.
        let _ = disk::reserve(&self.file, at, RESERVE_BYTES);
        self.file.sync_all()
    }

    fn link(&self, place: &Place, generation: u64) -> io::Result<bool> {
        match fs::hard_link(&self.path, place.log(generation)) {
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
