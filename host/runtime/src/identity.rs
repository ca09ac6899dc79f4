//! Who this host is: an id that survives restarts, and the sessions of former runs that must end first.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use althing_core::{Chance, Error, Kind, Result, SessionId};
use serde::{Deserialize, Serialize};

/// This host, and this run of it.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Kept in the state directory; a fresh one where there is none.
    pub id: String,
    /// For people.
    pub name: String,
    /// Names this run.
    pub incarnation: String,
    kept: Option<(PathBuf, Mutex<Option<Lock>>)>,
}

/// The lock of the state directory, held as long as the host runs: two hosts with one identity would end each other's
/// sessions.
type Lock = File;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    id: String,
    #[serde(default)]
    sessions: Vec<SessionId>,
}

impl Identity {
    /// Reads who this host is, or makes it up. Returns the sessions of former runs too.
    pub(crate) fn load(
        name: &str,
        state: Option<&Path>,
        chance: &dyn Chance,
    ) -> Result<(Identity, Vec<SessionId>)> {
        let kept = match state {
            Some(state) => Some((state.join("host.json"), Mutex::new(Some(take(state)?)))),
            None => None,
        };
        let Kept { id, sessions } = match &kept {
            Some((file, _)) if file.exists() => read(file)?,
            _ => Kept { id: format!("{:016x}", chance.bits() as u64), sessions: Vec::new() },
        };
        let incarnation = format!("{:032x}", chance.bits());
        let identity = Identity { id, name: name.to_owned(), incarnation, kept };
        identity.keep(&sessions)?;
        Ok((identity, sessions))
    }

    /// Leaves the state directory to another host. Nothing is written there any more.
    pub(crate) fn leave(&self) {
        if let Some((_, lock)) = &self.kept {
            drop(lock.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }

    /// Writes down the sessions that a later run must end.
    pub(crate) fn keep(&self, sessions: &[SessionId]) -> Result<()> {
        let Some((file, lock)) = &self.kept else { return Ok(()) };
        let lock = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            return Ok(());
        }
        let kept = Kept { id: self.id.clone(), sessions: sessions.to_vec() };
        let text = serde_json::to_vec(&kept).map_err(|error| wrong(file, "cannot be written", error))?;
        let fresh = file.with_extension("new");
        let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, file));
        written.map_err(|error| wrong(file, "cannot be written", error))
    }
}

/// Makes the state directory, readable by nobody else, and takes it for this process.
fn take(state: &Path) -> Result<Lock> {
    let file = state.join("lock");
    let made = DirBuilder::new().recursive(true).mode(0o700).create(state);
    let lock = made.and_then(|()| File::options().create(true).append(true).open(&file));
    let lock = lock.map_err(|error| wrong(&file, "cannot be written", error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(Error::new(Kind::Busy, "state directory", "another host runs with this state directory")
                .with("folder", state.display())
                .advise("Give each host a state directory of its own"))
        }
        Err(TryLockError::Error(error)) => Err(wrong(&file, "cannot be locked", error)),
    }
}

fn read(file: &Path) -> Result<Kept> {
    let text = fs::read(file).map_err(|error| wrong(file, "cannot be read", error))?;
    serde_json::from_slice(&text).map_err(|error| wrong(file, "is not the identity of a host", error))
}

fn wrong(file: &Path, what: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(Kind::Invalid, "state directory", format!("the file {what}"))
        .with("file", file.display())
        .advise("Repair it, remove it (the host then gets a new id), or choose another state directory")
        .because(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use althing_core::SeededChance;

    #[test]
    fn an_identity_survives_a_restart_and_serves_one_host_at_a_time() {
        let state = tempfile::tempdir().unwrap();
        let chance = SeededChance::new(1);
        let load = || Identity::load("north", Some(state.path()), &chance);
        let (first, former) = load().unwrap();
        assert_eq!(former, []);
        first.keep(&[SessionId(7)]).unwrap();
        assert_eq!(load().unwrap_err().kind(), Kind::Busy);
        let id = first.id.clone();
        first.leave();
        first.keep(&[]).unwrap();
        let (again, former) = load().unwrap();
        assert_eq!((again.id, former), (id, vec![SessionId(7)]));
    }
}
