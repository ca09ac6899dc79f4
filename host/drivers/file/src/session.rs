//! The files of sessions: each is locked by the process that opened the session, for as long as that lives.

use std::fs::File;

use althing_core::{Result, SessionId};

use crate::disk::{self, failed};
use crate::place::Place;

/// The lock of a session of ours. Dropping it tells the others that we are gone.
#[derive(Debug)]
pub(crate) struct Held {
    _file: File,
}

/// Makes the file of a session and locks it. `None` where another name has to be taken.
pub(crate) fn hold(place: &Place, id: SessionId) -> Result<Option<Held>> {
    let path = place.session(id);
    let file = disk::create_locked(&path);
    let file = file.map_err(|error| failed("open", "lock the session's file", &path, error))?;
    Ok(file.map(|file| Held { _file: file }))
}

/// Tells whether the process that opened a session that lives in the log is surely gone: its lock is free, or its file was
/// swept away, which is done to free ones only. A file that cannot be opened says nothing: then the deadline decides.
pub(crate) fn is_orphaned(place: &Place, id: SessionId) -> bool {
    match disk::found(File::open(place.session(id))) {
        Ok(Some(file)) => disk::lock_shared(&file).unwrap_or_default(),
        Ok(None) => true,
        Err(_) => false,
    }
}

/// Removes the file of a session that has ended.
pub(crate) fn forget(place: &Place, id: SessionId) {
    // What stays is swept away by the next who opens the directory.
    let _ = disk::remove(&place.session(id));
}
