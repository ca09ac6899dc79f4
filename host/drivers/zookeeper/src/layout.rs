//! Where everything lies below the namespace's node, and what the data of a node looks like.

use althing_core::location::percent_decode;
use althing_core::{Digest, Error, Key, Kind, Result, SessionId};
use bytes::Bytes;

/// The number of bucket nodes. A key's bucket follows from its digest, so this is part of the layout.
pub(crate) const BUCKETS: u8 = 128;

/// The paths of a namespace.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: String,
}

impl Layout {
    /// Lays a namespace out below the node `root`.
    pub(crate) fn new(root: String) -> Layout {
        Layout { root }
    }

    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    pub(crate) fn format(&self) -> String {
        format!("{}/format", self.root)
    }

    pub(crate) fn buckets(&self) -> String {
        format!("{}/record", self.root)
    }

    pub(crate) fn bucket(&self, bucket: u8) -> String {
        format!("{}/record/{bucket:02x}", self.root)
    }

    pub(crate) fn record(&self, key: &Key) -> String {
        format!("{}/{}", self.bucket(bucket_of(key)), escape(key.as_bytes()))
    }

    /// The ephemeral nodes: a session lives while its node is there.
    pub(crate) fn sessions(&self) -> String {
        format!("{}/session", self.root)
    }

    pub(crate) fn session(&self, id: SessionId) -> String {
        format!("{}/session/{id}", self.root)
    }

    /// What sessions own: a node per session, which outlives it until all it owned is gone.
    pub(crate) fn estates(&self) -> String {
        format!("{}/owned", self.root)
    }

    pub(crate) fn estate(&self, id: SessionId) -> String {
        format!("{}/owned/{id}", self.root)
    }

    /// The node that says that `id` owns `key`. Named by a digest, so that its length is bounded.
    pub(crate) fn title(&self, id: SessionId, key: &Key) -> String {
        let digest = Digest::of(key.as_bytes()).to_string();
        format!("{}/owned/{id}/{}", self.root, &digest[..32])
    }

    pub(crate) fn logs(&self) -> String {
        format!("{}/log", self.root)
    }

    /// A volume of the log. ZooKeeper numbers the children of a node with 31 bits, so a log has several.
    pub(crate) fn volume(&self, volume: u32) -> String {
        format!("{}/log/{volume:08x}", self.root)
    }

    /// What a new entry of a volume is made as; ZooKeeper adds the number.
    pub(crate) fn next_entry(&self, volume: u32) -> String {
        format!("{}/log/{volume:08x}/e", self.root)
    }

    pub(crate) fn entry(&self, place: Place) -> String {
        format!("{}/log/{:08x}/e{:010}", self.root, place.volume, place.number)
    }

    /// Reads the place of an entry from its path.
    pub(crate) fn place_of(&self, path: &str) -> Option<Place> {
        let (volume, name) = path.strip_prefix(&self.root)?.strip_prefix("/log/")?.split_once('/')?;
        Some(Place { volume: volume_of(volume)?, number: number_of(name)? })
    }

    /// Reads a session's id from the path of its node.
    pub(crate) fn session_of(&self, path: &str) -> Option<SessionId> {
        path.strip_prefix(&self.root)?.strip_prefix("/session/")?.parse().ok()
    }
}

/// Where an entry stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) volume: u32,
    pub(crate) number: u32,
}

/// Reads the number of a volume from its node's name.
pub(crate) fn volume_of(name: &str) -> Option<u32> {
    u32::from_str_radix(name, 16).ok()
}

/// Reads the number of an entry from its node's name.
pub(crate) fn number_of(name: &str) -> Option<u32> {
    name.strip_prefix('e')?.parse().ok()
}

/// Returns the bucket in which a key lies.
pub(crate) fn bucket_of(key: &Key) -> u8 {
    let [.., last] = *Digest::of(key.as_bytes()).as_bytes();
    last % BUCKETS
}

/// Returns the session that a reserved key is about.
pub(crate) fn session_key(key: &Key) -> Option<SessionId> {
    let text = std::str::from_utf8(key.as_bytes()).ok()?.strip_prefix("session/")?;
    let id: SessionId = text.parse().ok()?;
    // Only the one way of writing an id is its key.
    (id.key() == *key).then_some(id)
}

/// Tells whether a key is one of the driver's own.
pub(crate) fn is_reserved(key: &Key) -> bool {
    key.as_bytes().starts_with(althing_core::check::RESERVED_PREFIX.as_bytes())
}

/// Makes a node's name of any bytes. What does not print, `/`, `%` and a leading dot become `%XX`, nothing
/// at all becomes `%`, and `zookeeper`, which the server keeps for itself at its root, loses its first letter.
pub(crate) fn escape(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for (index, byte) in name.iter().enumerate() {
        let hidden = index == 0 && (*byte == b'.' || name == b"zookeeper");
        if byte.is_ascii_graphic() && !matches!(byte, b'/' | b'%') && !hidden {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    if text.is_empty() { "%".into() } else { text }
}

/// Reads what [`escape`] wrote. `None` for a name it never writes.
pub(crate) fn unescape(name: &str) -> Option<Vec<u8>> {
    if name == "%" {
        return Some(Vec::new());
    }
    percent_decode(name)
}

/// Makes the data of a record's node: who owns it, then its value.
pub(crate) fn record_data(owner: Option<SessionId>, value: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(17 + value.len());
    match owner {
        None => data.push(0),
        Some(SessionId(id)) => {
            data.push(1);
            data.extend_from_slice(&id.to_be_bytes());
        }
    }
    data.extend_from_slice(value);
    data
}

/// Reads what [`record_data`] made.
pub(crate) fn read_record(key: &Key, data: Bytes) -> Result<(Option<SessionId>, Bytes)> {
    match data.first() {
        Some(0) => Ok((None, data.slice(1..))),
        Some(1) if data.len() >= 17 => {
            let mut id = [0; 16];
            id.copy_from_slice(&data[1..17]);
            Ok((Some(SessionId(u128::from_be_bytes(id))), data.slice(17..)))
        }
        _ => Err(foreign("a record").with("key", key)),
    }
}

/// What lies at a session's estate: whether its end was told already, and the value of its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Estate {
    /// The cause of an end that was told; what it owned is being removed.
    pub(crate) ended: Option<althing_core::Cause>,
    pub(crate) value: Bytes,
}

impl Estate {
    pub(crate) fn data(&self) -> Vec<u8> {
        let mut data = vec![self.ended.map_or(0, crate::entry::cause_byte)];
        data.extend_from_slice(&self.value);
        data
    }

    pub(crate) fn read(data: Bytes) -> Result<Estate> {
        let ended = match data.first() {
            Some(0) => None,
            Some(byte) => Some(crate::entry::cause_of(*byte)?),
            None => return Err(foreign("an estate")),
        };
        Ok(Estate { ended, value: data.slice(1..) })
    }
}

/// What is written at a bucket: the bytes that the list of its children takes.
pub(crate) fn bucket_data(bytes: u64) -> Vec<u8> {
    bytes.to_be_bytes().to_vec()
}

/// Reads what [`bucket_data`] made.
pub(crate) fn read_bucket(data: &[u8]) -> Result<u64> {
    Ok(u64::from_be_bytes(data.try_into().map_err(|_| foreign("a bucket"))?))
}

/// The bytes that a key takes in the list of its bucket's children.
pub(crate) fn listed_bytes(key: &Key) -> u64 {
    escape(key.as_bytes()).len() as u64 + 4
}

/// Makes the error that a node of the namespace holds what this driver never writes.
pub(crate) fn foreign(what: &str) -> Error {
    Error::new(Kind::Format, "read", format!("{what} of the namespace was not written by Althing"))
        .advise("Nobody else may write below the namespace's node")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_name(bytes: &[u8], name: &str) {
        assert_eq!(escape(bytes), name);
        assert_eq!(unescape(name).as_deref(), Some(bytes));
    }

    #[test]
    fn any_bytes_are_a_name_and_come_back() {
        check_name(b"", "%");
        check_name(b"a.b", "a.b");
        check_name(b".", "%2E");
        check_name(b"..", "%2E.");
        check_name(b"a/b%", "a%2Fb%25");
        check_name(b"zookeeper", "%7Aookeeper");
        check_name(b"zookeepers", "zookeepers");
        check_name(&[0, 255, b' '], "%00%FF%20");
    }

    #[test]
    fn reads_places_and_sessions_from_paths() {
        let layout = Layout::new("/x/n".into());
        let place = Place { volume: 17, number: 4_000_000 };
        assert_eq!(layout.place_of(&layout.entry(place)), Some(place));
        assert_eq!(layout.place_of("/x/n/log/00000011"), None);
        assert_eq!(layout.session_of(&layout.session(SessionId(7))), Some(SessionId(7)));
    }

    #[test]
    fn a_record_carries_its_owner() {
        let key = Key::from("a");
        for owner in [None, Some(SessionId(u128::MAX - 1))] {
            let data = record_data(owner, b"value").into();
            assert_eq!(read_record(&key, data).unwrap(), (owner, Bytes::from_static(b"value")));
        }
        assert_eq!(read_record(&key, Bytes::new()).unwrap_err().kind(), Kind::Format);
    }

    #[test]
    fn only_the_written_form_of_an_id_is_a_session_key() {
        assert_eq!(session_key(&SessionId(7).key()), Some(SessionId(7)));
        assert_eq!(session_key(&Key::from("session/7")), None);
        assert!(is_reserved(&Key::from("session/me")) && !is_reserved(&Key::from("session")));
    }
}
