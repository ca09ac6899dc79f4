//! The files of sessions: each is locked by the process that opened the session, for as long as that lives.

use std::fs::File;
use std::io;

use althing_core::{Error, Kind, Result, SessionId};

use crate::disk::{self, failed};
use crate::place::Place;

/// The lock of a session of ours. Dropping it tells the others that we are gone.
#[derive(Debug)]
pub(crate) struct Held {
    _file: File,
}

/// Makes the file of a session and locks it.
pub(crate) fn hold(place: &Place, id: SessionId) -> Result<Held> {
    let path = place.session(id);
    let lock = || {
        let file = disk::create(&path)?;
        // Whoever sweeps may have had it in his hands before it was locked.
        Ok((disk::lock(&file)? && disk::lies_at(&file, &path)?).then_some(Held { _file: file }))
    };
    let held: io::Result<Option<Held>> = lock();
    held.map_err(|error| failed("open", "lock the session's file", &path, error))?.ok_or_else(|| {
        Error::new(Kind::Unavailable, "open", "the session's file was swept away").with("session", id)
    })
}

/// Tells whether the process that opened the session is surely gone. A file that is missing or cannot be opened says nothing:
/// then the deadline decides.
pub(crate) fn is_orphaned(place: &Place, id: SessionId) -> bool {
    let file = File::open(place.session(id));
    file.is_ok_and(|file| disk::lock_shared(&file).unwrap_or_default())
}

/// Removes the file of a session that has ended.
pub(crate) fn forget(place: &Place, id: SessionId) {
    // What stays is swept away by the next who opens the directory.
    let _ = disk::remove(&place.session(id));
}
