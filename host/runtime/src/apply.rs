//! The last step of the road: a transaction guarded by the records it was made from, and what to do when
//! nobody can tell whether it landed.

use althing_core::{Committed, Effect, Error, Guard, Key, Kind, Record, Result, Revision, Txn, limits};
use serde::Serialize;

use crate::Host;
use crate::layout::{
    BehaviourRecord, Bound, GroupRecord, LAYOUT, behaviour_key, behaviour_of, encode, group_key, group_of,
};

/// A record of one name, written only under the guard it was read with.
pub(crate) trait Kept: Serialize + Clone {
    fn key(name: &str) -> Key;
    fn read(record: &Record) -> Result<Self>;
    /// Returns what stands for a record that is not there; an error where it has to be made first.
    fn absent(name: &str) -> Result<Self>;
    fn nonce(&mut self) -> &mut String;
}

/// One to which policies are bound.
pub(crate) trait Named: Kept {
    fn bound(&mut self) -> &mut Bound;
}

impl Kept for GroupRecord {
    fn key(name: &str) -> Key {
        group_key(name)
    }

    fn read(record: &Record) -> Result<Self> {
        group_of(record)
    }

    fn absent(name: &str) -> Result<Self> {
        Err(no_group(name))
    }

    fn nonce(&mut self) -> &mut String {
        &mut self.nonce
    }
}

impl Named for GroupRecord {
    fn bound(&mut self) -> &mut Bound {
        &mut self.bound
    }
}

impl Kept for BehaviourRecord {
    fn key(name: &str) -> Key {
        behaviour_key(name)
    }

    fn read(record: &Record) -> Result<Self> {
        behaviour_of(record)
    }

    fn absent(_: &str) -> Result<Self> {
        Ok(BehaviourRecord { layout: LAYOUT, ..BehaviourRecord::default() })
    }

    fn nonce(&mut self) -> &mut String {
        &mut self.nonce
    }
}

impl Named for BehaviourRecord {
    fn bound(&mut self) -> &mut Bound {
        &mut self.bound
    }
}

/// A record as it was read, with what guards a write that is made from it.
#[derive(Clone, Debug)]
pub(crate) struct Read<R = GroupRecord> {
    pub record: R,
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
    /// Reads a record from the store, whatever this host has seen of it.
    pub(crate) async fn read<R: Kept>(&self, name: &str) -> Result<Read<R>> {
        let key = R::key(name);
        match self.driver.get(&key).await? {
            Some(record) => read_of(&record),
            None => {
                Ok(Read { record: R::absent(name)?, guard: Guard::Absent(key), modified: Revision::ZERO })
            }
        }
    }

    /// Reads a group's record from the store.
    pub(crate) async fn read_group(&self, name: &str) -> Result<Read> {
        self.read(name).await
    }

    /// Returns a group's record as this host has seen it: good enough to build a guarded write on.
    pub(crate) fn seen_group(&self, name: &str) -> Option<Read> {
        let group = self.mirror.group(name)?;
        let (record, stamp) = group.record.as_ref()?;
        let guard = Guard::Unchanged(group_key(name), *stamp);
        Some(Read { record: record.clone(), guard, modified: stamp.modified })
    }

    /// Writes a record under the guard it was read with, plus whatever else `txn` holds.
    pub(crate) async fn write<R: Kept>(
        &self,
        name: &str,
        guard: Guard,
        mut record: R,
        txn: Txn,
    ) -> Result<Applied> {
        let nonce = self.nonce();
        record.nonce().clone_from(&nonce);
        let is_new = matches!(guard, Guard::Absent(_));
        let txn = txn.guard(guard).put(R::key(name), encode(&record));
        match self.commit(txn).await {
            Ok(committed) => Ok(Applied::At(committed.revision)),
            Err(error) if error.kind() == Kind::Conflict => Ok(Applied::Conflict),
            Err(error) if error.effect() == Effect::Unknown => {
                self.find_write::<R>(name, &nonce, is_new, error).await
            }
            Err(error) => Err(error),
        }
    }

    /// Finds out whether a write of unknown effect landed: its nonce is there, or it is not. What cannot be read stays
    /// unknown, whatever the failed reading says of itself.
    async fn find_write<R: Kept>(
        &self,
        name: &str,
        nonce: &str,
        is_new: bool,
        error: Error,
    ) -> Result<Applied> {
        let Ok(found) = self.driver.get(&R::key(name)).await else { return Err(error) };
        let Some(record) = found else {
            // What was to be made new may be on its way still: nothing has changed that it would meet.
            return if is_new { Err(error) } else { Ok(Applied::Conflict) };
        };
        if let Ok(mut read) = read_of::<R>(&record)
            && read.record.nonce() == nonce
        {
            return Ok(Applied::At(read.modified));
        }
        // Overwritten, or never written; a write still on its way meets a changed record only if somebody
        // wrote meanwhile. Whoever asked looks again before it acts.
        Err(error)
    }

    /// Changes a record: reads it, lets `change` make the new one, writes it, and does so again from a fresh read
    /// as long as others write first. `change` returns `None` when there is nothing to do.
    pub(crate) async fn change<R: Kept>(
        &self,
        name: &str,
        mut change: impl FnMut(&Read<R>) -> Result<Option<R>>,
    ) -> Result<Option<Revision>> {
        for _ in 0..limits::CONFLICT_TRIES {
            let read = self.read(name).await?;
            let Some(record) = change(&read)? else { return Ok(None) };
            if let Applied::At(revision) = self.write(name, read.guard, record, Txn::new()).await? {
                self.settle(revision).await;
                return Ok(Some(revision));
            }
        }
        Err(contended(name))
    }

    /// Commits. Where the backend says that this host's session has ended, it is looked after at once.
    pub(crate) async fn commit(&self, txn: Txn) -> Result<Committed> {
        let outcome = self.driver.commit(txn).await;
        if outcome.as_ref().is_err_and(|error| error.kind() == Kind::SessionLost) {
            self.anchor.doubt();
        }
        outcome
    }

    /// Commits, and when nobody can tell whether that landed, asks `landed`.
    pub(crate) async fn commit_known(
        &self,
        txn: Txn,
        landed: impl AsyncFnOnce() -> Result<Option<Revision>>,
    ) -> Result<Applied> {
        match self.commit(txn).await {
            Ok(Committed { revision, .. }) => Ok(Applied::At(revision)),
            Err(error) if error.kind() == Kind::Conflict => Ok(Applied::Conflict),
            Err(error) if error.effect() == Effect::Unknown => match landed().await {
                Ok(Some(revision)) => Ok(Applied::At(revision)),
                Ok(None) | Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Waits until this host sees what was committed at `revision`, so that its next answer includes it.
    pub(crate) async fn settle(&self, revision: Revision) {
        tokio::select! {
            () = self.ended.cancelled() => {}
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
        .with("name", name)
        .with("tries", limits::CONFLICT_TRIES)
        .advise("Try again")
}

fn read_of<R: Kept>(record: &Record) -> Result<Read<R>> {
    let guard = Guard::Unchanged(record.key.clone(), record.stamp);
    Ok(Read { record: R::read(record)?, guard, modified: record.stamp.modified })
}
