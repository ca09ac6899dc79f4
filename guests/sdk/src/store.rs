//! The store of a behaviour. Needs `store = ["name/"]` below `[grants]`.
//!
//! Read with [`get`] and [`list`], and write with a [`Txn`] guarded by what was read. On [`Error::Conflict`] read again; after
//! [`Error::Unknown`] read to find out whether it was written.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::behaviour::althing::policy::store as wit;
pub use crate::bindings::behaviour::althing::policy::store::{Entry, Error, Stamp};

/// The most keys that a transaction guards and writes.
pub const TXN_KEYS_MAX: usize = 60;

/// Makes a key of names, such as `semaphore/<name>/permit`. Each is escaped, so that no name reaches into its neighbour.
pub fn key<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let escaped: Vec<_> = names.into_iter().map(escape).collect();
    escaped.join("/").into_bytes()
}

/// Makes the prefix under which everything below a path of names lies.
pub fn below<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
    let mut prefix = key(names);
    prefix.push(b'/');
    prefix
}

/// Escapes as the host does: letters that print stay, all else becomes `%XX`, and nothing becomes `%`.
fn escape(name: &str) -> String {
    if name.is_empty() {
        return "%".into();
    }
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_graphic() && byte != b'/' && byte != b'%' {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// Reads one record.
pub fn get(key: &[u8]) -> Result<Option<Entry>, Error> {
    wit::get(key)
}

/// Reads all records below a prefix, in the order of their keys, page by page.
pub fn list(prefix: &[u8]) -> Result<Vec<Entry>, Error> {
    let mut page = wit::list(prefix, None, 0)?;
    let mut entries = page.entries;
    while let Some(after) = page.next {
        page = wit::list(prefix, Some(&after), 0)?;
        entries.append(&mut page.entries);
    }
    Ok(entries)
}

impl Entry {
    /// Reads the value as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.value).map_err(|error| {
            format!("the record {:?} is not as it must be: {error}", String::from_utf8_lossy(&self.key))
                .into()
        })
    }

    /// Tells whether it goes when this session ends.
    pub fn is_owned_by(&self, session: &str) -> bool {
        self.session.as_deref() == Some(session)
    }
}

/// A transaction: all of its writes happen at one revision if all of its guards hold, else none.
#[derive(Debug, Default)]
#[must_use]
pub struct Txn {
    guards: Vec<wit::Guard>,
    writes: Vec<wit::Write>,
}

impl Txn {
    /// Makes an empty transaction.
    pub fn new() -> Self {
        Txn::default()
    }

    /// Guards that no record has this key.
    pub fn absent(mut self, key: &[u8]) -> Self {
        self.guards.push(wit::Guard::Absent(key.to_vec()));
        self
    }

    /// Guards that the record is as it was read: the same incarnation, not written since.
    pub fn unchanged(mut self, entry: &Entry) -> Self {
        self.guards.push(wit::Guard::Unchanged((entry.key.clone(), entry.stamp.clone())));
        self
    }

    /// Writes a value, as JSON, that stays until it is deleted.
    pub fn put(self, key: &[u8], value: &impl Serialize) -> Result<Self, Error> {
        self.write(key, value, false)
    }

    /// Writes a value, as JSON, that goes when the session of whoever asks ends.
    pub fn put_owned(self, key: &[u8], value: &impl Serialize) -> Result<Self, Error> {
        self.write(key, value, true)
    }

    /// Removes a record.
    pub fn delete(mut self, key: &[u8]) -> Self {
        self.writes.push(wit::Write::Delete(key.to_vec()));
        self
    }

    /// Removes a record if it is as it was read.
    pub fn take(self, entry: &Entry) -> Self {
        self.unchanged(entry).delete(&entry.key)
    }

    /// Tells whether it neither guards nor writes anything.
    pub fn is_empty(&self) -> bool {
        self.guards.is_empty() && self.writes.is_empty()
    }

    /// Commits it. Returns the revision, which is the fencing token of whatever the commit began.
    pub fn commit(self) -> Result<String, Error> {
        wit::commit(&self.guards, &self.writes)
    }

    fn write(mut self, key: &[u8], value: &impl Serialize, owned_by_caller: bool) -> Result<Self, Error> {
        let put = wit::Put { key: key.to_vec(), value: to_json(value)?, owned_by_caller };
        self.writes.push(wit::Write::Put(put));
        Ok(self)
    }
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Error::Other(text)
    }
}

impl From<&str> for Error {
    fn from(text: &str) -> Self {
        Error::Other(text.into())
    }
}

pub(crate) fn to_json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| format!("this is no JSON: {error}").into())
}
