//! The last step of the road: a transaction guarded by the records it was made from, and what to do when
//! nobody can tell whether it landed.

use althing_core::{Committed, Effect, Error, Guard, Kind, Record, Result, Revision, Txn, limits};

use crate::Host;
use crate::layout::{GroupRecord, encode, group_key, group_of};

/// A group's record as it was read, with what guards a write that is made from it.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub record: GroupRecord,
    pub guard: Guard,
    pub modified: Revision,
}

/// What came of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// It was written at this revision.
    At(Revision),
    /// Somebody else wrote first.
    Conflict,
}

impl Host {
    /// Reads a group's record from the store, whatever this host has seen of it.
    pub(crate) async fn read_group(&self, name: &str) -> Result<Read> {
        match self.driver.get(&group_key(name)).await? {
            Some(record) => read_of(&record),
            None => Err(no_group(name)),
        }
    }

    /// Returns a group's record as this host has seen it: good enough to build a guarded write on.
    pub(crate) fn seen_group(&self, name: &str) -> Option<Read> {
        let group = self.mirror.group(name)?;
        let (record, stamp) = group.record.as_ref()?;
        let guard = Guard::Unchanged(group_key(name), *stamp);
        Some(Read { record: record.clone(), guard, modified: stamp.modified })
    }

    /// Writes a group's record under the guard it was read with, plus whatever else `txn` holds.
    pub(crate) async fn write_group(
        &self,
        name: &str,
        guard: Guard,
        mut record: GroupRecord,
        txn: Txn,
    ) -> Result<Applied> {
        record.nonce = self.nonce();
        let txn = txn.guard(guard).put(group_key(name), encode(&record));
        match self.driver.commit(txn).await {
            Ok(committed) => Ok(Applied::At(committed.revision)),
            Err(error) if error.kind() == Kind::Conflict => Ok(Applied::Conflict),
            Err(error) if error.effect() == Effect::Unknown => {
                self.find_write(name, &record.nonce, error).await
            }
            Err(error) => Err(error),
        }
    }

    /// Finds out whether a write of unknown effect landed: its nonce is there, or it is not.
    async fn find_write(&self, name: &str, nonce: &str, error: Error) -> Result<Applied> {
        let Some(record) = self.driver.get(&group_key(name)).await? else { return Ok(Applied::Conflict) };
        let read = read_of(&record)?;
        if read.record.nonce == nonce {
            return Ok(Applied::At(read.modified));
        }
        // Overwritten, or never written; a write still on its way meets a changed record only if somebody
        // wrote meanwhile. Whoever asked looks again before it acts.
        Err(error)
    }

    /// Changes a group's record: reads it, lets `change` make the new one, writes it, and does so again from a
    /// fresh read as long as others write first. `change` returns `None` when there is nothing to do.
    pub(crate) async fn change_group(
        &self,
        name: &str,
        mut change: impl FnMut(&Read) -> Result<Option<GroupRecord>>,
    ) -> Result<Option<Revision>> {
        for _ in 0..limits::CONFLICT_TRIES {
            let read = self.read_group(name).await?;
            let Some(record) = change(&read)? else { return Ok(None) };
            if let Applied::At(revision) = self.write_group(name, read.guard, record, Txn::new()).await? {
                self.settle(revision).await;
                return Ok(Some(revision));
            }
        }
        Err(contended(name))
    }

    /// Commits, and when nobody can tell whether that landed, asks `landed`.
    pub(crate) async fn commit_known(
        &self,
        txn: Txn,
        landed: impl AsyncFnOnce() -> Result<Option<Revision>>,
    ) -> Result<Applied> {
        match self.driver.commit(txn).await {
            Ok(Committed { revision, .. }) => Ok(Applied::At(revision)),
            Err(error) if error.kind() == Kind::Conflict => Ok(Applied::Conflict),
            Err(error) if error.effect() == Effect::Unknown => match landed().await? {
                Some(revision) => Ok(Applied::At(revision)),
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Waits until this host sees what was committed at `revision`, so that its next answer includes it.
    pub(crate) async fn settle(&self, revision: Revision) {
        tokio::select! {
            () = self.mirror.reach(revision) => {}
            () = self.clock.sleep(limits::CALL_DEADLINE) => {}
        }
    }
}

pub(crate) fn no_group(name: &str) -> Error {
    Error::new(Kind::NotFound, "group", "there is no such group")
        .with("group", name)
        .advise("Create it first, or join with create")
}

pub(crate) fn contended(name: &str) -> Error {
    Error::new(Kind::Conflict, "commit", "others kept writing first")
        .with("group", name)
        .with("tries", limits::CONFLICT_TRIES)
        .advise("Try again")
}

fn read_of(record: &Record) -> Result<Read> {
    let guard = Guard::Unchanged(record.key.clone(), record.stamp);
    Ok(Read { record: group_of(record)?, guard, modified: record.stamp.modified })
}
