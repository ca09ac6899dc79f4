//! What is put around a value that a behaviour writes: whose it is, and which request wrote it.
//!
//! In the backend an owned record belongs to the session of the host. The envelope keeps the session of the client for
//! which it was written, so that a behaviour on any host sees that one.

use althing_core::{Error, Key, Kind, Record, Result};
use althing_engine::Entry;
use bytes::{BufMut, Bytes, BytesMut};

/// The first byte of every envelope written here.
const LAYOUT: u8 = 1;
/// The bytes before the value.
pub(crate) const ENVELOPE_BYTES: usize = 1 + 16 + 16;
/// What the keys of behaviours lie below.
const DATA: &[u8] = b"data/";

/// A value with its envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    /// The client session whose end removes the record.
    pub owner: Option<u128>,
    /// The request that wrote it.
    pub request: u128,
    pub value: Bytes,
}

impl Envelope {
    pub(crate) fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(ENVELOPE_BYTES + self.value.len());
        bytes.put_u8(LAYOUT);
        bytes.put_u128(self.owner.unwrap_or(0));
        bytes.put_u128(self.request);
        bytes.put_slice(&self.value);
        bytes.freeze()
    }

    pub(crate) fn decode(record: &Record) -> Result<Envelope> {
        let bytes = &record.value;
        let number = |at: usize| {
            let digits = bytes.get(at..at + 16)?.try_into().ok()?;
            Some(u128::from_be_bytes(digits))
        };
        match (bytes.first(), number(1), number(17)) {
            (Some(&LAYOUT), Some(owner), Some(request)) => Ok(Envelope {
                owner: (owner != 0).then_some(owner),
                request,
                value: bytes.slice(ENVELOPE_BYTES..),
            }),
            _ => Err(Error::new(Kind::Format, "read", "a record was not written by a behaviour")
                .with("key", &record.key)
                .advise(
                    "Another program, or a newer Althing, writes below data/; use a namespace of its own",
                )),
        }
    }
}

/// Returns where what a behaviour calls `key` lies in the namespace.
pub(crate) fn data_key(key: &[u8]) -> Key {
    Key::new([DATA, key].concat())
}

/// Returns what a behaviour calls a key of the namespace.
pub(crate) fn own_key(key: &Key) -> Option<Bytes> {
    key.as_bytes().strip_prefix(DATA).map(Bytes::copy_from_slice)
}

/// Shows a record to a behaviour.
pub(crate) fn entry(record: &Record) -> Result<Entry> {
    let Envelope { owner, value, .. } = Envelope::decode(record)?;
    let session = owner.filter(|_| record.session.is_some()).map(|owner| format!("{owner:032x}"));
    Ok(Entry { key: own_key(&record.key).unwrap_or_default(), value, session, stamp: record.stamp })
}

#[cfg(test)]
mod tests {
    use althing_core::{SessionId, Stamp};

    use super::*;

    fn record(value: Bytes, session: Option<SessionId>) -> Record {
        Record {
            key: data_key(b"semaphore/\xff"),
            value,
            session,
            stamp: Stamp { created: Default::default(), modified: Default::default() },
        }
    }

    #[test]
    fn a_behaviour_sees_its_own_key_and_value_and_the_session_of_the_client() {
        let envelope = Envelope { owner: Some(7), request: 9, value: Bytes::from_static(b"v") };
        let record = record(envelope.encode(), Some(SessionId(1)));
        assert_eq!(record.key.as_bytes(), b"data/semaphore/\xff");
        assert_eq!(Envelope::decode(&record).unwrap(), envelope);
        let entry = entry(&record).unwrap();
        assert_eq!((&entry.key[..], &entry.value[..]), (&b"semaphore/\xff"[..], &b"v"[..]));
        assert_eq!(entry.session.as_deref(), Some("00000000000000000000000000000007"));
    }

    #[test]
    fn what_others_wrote_is_an_error_and_no_panic() {
        for foreign in [&b""[..], &[LAYOUT], &[LAYOUT; ENVELOPE_BYTES - 1], &[9; 64]] {
            let error = entry(&record(Bytes::copy_from_slice(foreign), None)).unwrap_err();
            assert_eq!(error.kind(), Kind::Format, "{foreign:?}");
        }
    }
}
