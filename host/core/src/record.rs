//! What a backend holds and how it is changed: records, guarded transactions, deltas.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Key, Kind};

/// A point in the order of a namespace's commits. Rises with every commit; 0 is before the first.
///
/// Shown as twenty digits, so that it orders as text too: that form is what guests and clients see.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("pattern" = "^[0-9]{1,20}$"))
)]
pub struct Revision(#[cfg_attr(feature = "schema", schemars(with = "String"))] pub u64);

impl Revision {
    /// Before the first commit. A watch from here begins with a snapshot.
    pub const ZERO: Revision = Revision(0);
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:020}", self.0)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl FromStr for Revision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.parse().map(Revision).map_err(|_| {
            Error::new(Kind::Invalid, "parse", format!("{text:?} is not a revision"))
                .advise("A revision is a decimal number")
        })
    }
}

impl Serialize for Revision {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Revision {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The name of a session. Chosen at random by the driver and never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(extend("pattern" = "^[0-9a-f]{32}$"))
)]
pub struct SessionId(#[cfg_attr(feature = "schema", schemars(with = "String"))] pub u128);

impl SessionId {
    /// Returns the reserved key at which the backend keeps the record of this session.
    pub fn key(&self) -> Key {
        Key::path(["session", &self.to_string()])
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for SessionId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        u128::from_str_radix(text, 16).map(SessionId).map_err(|_| {
            Error::new(Kind::Invalid, "parse", format!("{text:?} is not a session id"))
                .advise("A session id is 32 hexadecimal digits")
        })
    }
}

impl Serialize for SessionId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// When this incarnation of a record began and when it was last written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// The commit that began this incarnation: made it, or took it over from another session.
    pub created: Revision,
    /// The commit that wrote it last.
    pub modified: Revision,
}

/// A named value, the session that owns it, and its stamp.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub key: Key,
    /// Its value; may be empty.
    pub value: Bytes,
    /// The session whose end removes it; `None` stays until it is deleted.
    pub session: Option<SessionId>,
    /// Its place in the order of commits.
    pub stamp: Stamp,
}

/// What must hold for a transaction to be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    /// No record has this key.
    Absent(Key),
    /// The record at this key carries exactly this stamp: same incarnation, not written since.
    Unchanged(Key, Stamp),
}

impl Guard {
    /// Returns the key this guard is about.
    pub fn key(&self) -> &Key {
        match self {
            Guard::Absent(key) | Guard::Unchanged(key, _) => key,
        }
    }

    /// Makes the guard that nothing was written at `key` since it was read as `record`.
    pub fn since(key: &Key, record: Option<&Record>) -> Self {
        match record {
            Some(record) => Guard::Unchanged(key.clone(), record.stamp),
            None => Guard::Absent(key.clone()),
        }
    }
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Write {
    /// Makes or replaces a record.
    Put {
        /// Its name.
        key: Key,
        /// Its new value.
        value: Bytes,
        /// Its owner; the commit fails with [`Kind::SessionLost`] when that session has ended.
        session: Option<SessionId>,
    },
    /// Removes a record; removing an absent one succeeds.
    Delete(Key),
}

impl Write {
    /// Returns the key this write changes.
    pub fn key(&self) -> &Key {
        match self {
            Write::Put { key, .. } | Write::Delete(key) => key,
        }
    }
}

/// Guards and the writes that happen together when all of them hold. A key is written at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// All must hold.
    pub guards: Vec<Guard>,
    /// All happen at one revision, or none.
    pub writes: Vec<Write>,
}

impl Txn {
    /// Makes an empty transaction.
    pub fn new() -> Self {
        Txn::default()
    }

    /// Adds a guard.
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// Adds a write of a record that stays until it is deleted.
    #[must_use]
    pub fn put(mut self, key: Key, value: impl Into<Bytes>) -> Self {
        self.writes.push(Write::Put { key, value: value.into(), session: None });
        self
    }

    /// Adds a write of a record that goes with `session`.
    #[must_use]
    pub fn put_owned(mut self, key: Key, value: impl Into<Bytes>, session: SessionId) -> Self {
        self.writes.push(Write::Put { key, value: value.into(), session: Some(session) });
        self
    }

    /// Adds a removal.
    #[must_use]
    pub fn delete(mut self, key: Key) -> Self {
        self.writes.push(Write::Delete(key));
        self
    }
}

/// A transaction that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The revision at which all writes happened.
    pub revision: Revision,
    /// One per write, in their order: the new stamp of a put, the last stamp of what a delete removed.
    /// A delete that found nothing has the stamp of the commit itself.
    pub stamps: Vec<Stamp>,
}

/// One page of a listing, in the order of the keys' bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The records.
    pub records: Vec<Record>,
    /// Where to go on: pass it as `after`. `None` ends the listing.
    pub next: Option<Key>,
    /// The revision this page was read at. Watch from the first page's to miss nothing.
    pub revision: Revision,
}

/// Why a record is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A transaction deleted it.
    Deleted,
    /// Its session was closed.
    Closed,
    /// Its session's lease ran out.
    Expired,
}

/// What happened to one record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It was made or written.
    Put(Record),
    /// It is gone.
    Deleted {
        /// Its name.
        key: Key,
        /// The stamp it had.
        last: Stamp,
        /// The revision at which it went.
        revision: Revision,
        /// Why.
        cause: Cause,
    },
}

impl Change {
    /// Returns the key that changed.
    pub fn key(&self) -> &Key {
        match self {
            Change::Put(record) => &record.key,
            Change::Deleted { key, .. } => key,
        }
    }

    /// Returns the revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Change::Put(record) => record.stamp.modified,
            Change::Deleted { revision, .. } => *revision,
        }
    }
}

/// What a watch yields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delta {
    /// Everything that changed in commits after the last delta, up to `revision`, in order.
    Changes {
        /// The changes, ordered by revision.
        changes: Vec<Change>,
        /// The revision the watcher has now seen.
        revision: Revision,
    },
    /// Changes were missed, or the watch has just begun: this is all there is below the prefix now.
    Resync {
        /// All records below the prefix, in the order of their keys.
        records: Vec<Record>,
        /// The revision of this snapshot.
        revision: Revision,
    },
}
