//! The records a behaviour reaches: what the host serves, and how it fails.

use std::fmt;

use althing_core::{Revision, Stamp};
use async_trait::async_trait;
use bytes::Bytes;

/// The records a behaviour reaches, on behalf of one request. The engine asks only for keys within the grants, and counts the
/// calls; whoever implements this gives the records their owner.
#[async_trait]
pub trait Records: Send + Sync + fmt::Debug {
    /// Reads one record.
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, RecordsError>;
    /// Lists the records whose keys begin with `prefix`, in byte order, after `after`, at most `limit`.
    async fn list(&self, prefix: &[u8], after: Option<&[u8]>, limit: u32) -> Result<EntryPage, RecordsError>;
    /// Writes all of `writes` at one revision if all of `guards` hold, else nothing.
    async fn commit(
        &self,
        guards: Vec<EntryGuard>,
        writes: Vec<EntryWrite>,
    ) -> Result<Revision, RecordsError>;
}

/// A record as a behaviour sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name, as the behaviour knows it.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The client session whose end removes it.
    pub session: Option<String>,
    /// Its place in the order of commits.
    pub stamp: Stamp,
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPage {
    /// The records.
    pub entries: Vec<Entry>,
    /// Where to go on.
    pub next: Option<Bytes>,
    /// The revision the page was read at.
    pub revision: Revision,
}

/// What must hold for a behaviour's transaction to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryGuard {
    /// No record has this key.
    Absent(Bytes),
    /// The record carries exactly this stamp.
    Unchanged(Bytes, Stamp),
}

/// One change of a behaviour's transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryWrite {
    /// Makes or replaces a record.
    Put {
        /// Its name.
        key: Bytes,
        /// Its value.
        value: Bytes,
        /// It goes when the session of whoever made the request ends.
        owned: bool,
    },
    /// Removes a record.
    Delete(Bytes),
}

/// Why an operation on the store failed, as the interface `store` tells it, or why a behaviour gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordsError {
    /// The guard on this key did not hold. Nothing was written.
    Conflict(Bytes),
    /// The session of whoever made the request has ended. Nothing was written.
    SessionLost,
    /// Not within the grants. Nothing was written.
    Denied(String),
    /// A stated limit was passed. Nothing was written.
    TooLarge(String),
    /// The backend does not answer now. Nothing was written.
    Unavailable(String),
    /// It may have been written.
    Unknown(String),
    /// Anything else, such as a behaviour's own refusal.
    Other(String),
}

impl fmt::Display for RecordsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordsError::Conflict(key) => write!(f, "conflict on {:?}", String::from_utf8_lossy(key)),
            RecordsError::SessionLost => f.write_str("the session has ended"),
            RecordsError::Denied(text) => write!(f, "denied: {text}"),
            RecordsError::TooLarge(text) => write!(f, "too large: {text}"),
            RecordsError::Unavailable(text) => write!(f, "unavailable: {text}"),
            RecordsError::Unknown(text) => write!(f, "it may have been written: {text}"),
            RecordsError::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for RecordsError {}
