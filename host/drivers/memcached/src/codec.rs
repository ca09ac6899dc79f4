//! Numbers and byte strings in a row, behind a line that says whose item this is. Nothing read is taken on trust.

use althing_core::{Cause, Error, Key, Kind, Result, Revision, SessionId, Stamp};
use bytes::Bytes;

/// What every item of ours begins with; then the layout version, a letter for what it is, and a line feed.
const MARK: &[u8] = b"althing ";
/// The layout of the items. Another number is another layout.
const VERSION: &[u8] = b"1";
/// What of a foreign item is shown.
const SHOWN_BYTES_MAX: usize = 32;

/// What an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Epoch,
    Root,
    Leaf,
    Segment,
    Value,
    Session,
}

impl Sort {
    fn letter(self) -> u8 {
        match self {
            Sort::Epoch => b'E',
            Sort::Root => b'R',
            Sort::Leaf => b'L',
            Sort::Segment => b'G',
            Sort::Value => b'V',
            Sort::Session => b'S',
        }
    }
}

/// An item being written.
#[derive(Debug)]
pub(crate) struct Output(Vec<u8>);

impl Output {
    pub(crate) fn new(sort: Sort) -> Self {
        Output([MARK, VERSION, b" ", &[sort.letter()], b"\n"].concat())
    }

    pub(crate) fn done(self) -> Bytes {
        self.0.into()
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(crate) fn short(&mut self, number: u32) {
        self.raw(&number.to_be_bytes());
    }

    pub(crate) fn count(&mut self, count: usize) {
        self.short(count as u32);
    }

    pub(crate) fn long(&mut self, number: u64) {
        self.raw(&number.to_be_bytes());
    }

    pub(crate) fn id(&mut self, id: u128) {
        self.raw(&id.to_be_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    pub(crate) fn session(&mut self, session: Option<SessionId>) {
        match session {
            None => self.byte(0),
            Some(id) => {
                self.byte(1);
                self.id(id.0);
            }
        }
    }

    pub(crate) fn stamp(&mut self, stamp: Stamp) {
        self.long(stamp.created.0);
        self.long(stamp.modified.0);
    }

    pub(crate) fn cause(&mut self, cause: Cause) {
        self.byte(match cause {
            Cause::Deleted => b'd',
            Cause::Closed => b'c',
            Cause::Expired => b'e',
        });
    }
}

/// An item being read, from front to back. `None` is something we do not write.
#[derive(Debug)]
pub(crate) struct Input(Bytes);

impl Input {
    /// Begins to read `item`. Fails with `Format` where it is not ours, or of another layout.
    pub(crate) fn open(sort: Sort, item: &Bytes) -> Result<Input> {
        let Some(rest) = item.strip_prefix(MARK) else { return Err(foreign(item)) };
        let version = rest.split(|byte| *byte == b' ').next().unwrap_or_default();
        if version != VERSION {
            let found = version[..version.len().min(SHOWN_BYTES_MAX)].escape_ascii();
            let expected = VERSION.escape_ascii();
            let message = format!("the namespace holds layout version {found}, not {expected}");
            let advice = "Choose another namespace, or a host of the version that wrote it";
            return Err(Error::new(Kind::Format, "read", message).advise(advice));
        }
        match &rest[VERSION.len()..] {
            [b' ', letter, b'\n', ..] if *letter == sort.letter() => {
                Ok(Input(item.slice(MARK.len() + VERSION.len() + 3..)))
            }
            _ => Err(foreign(item)),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn rest(self) -> Bytes {
        self.0
    }

    fn take(&mut self, length: usize) -> Option<Bytes> {
        (length <= self.0.len()).then(|| self.0.split_to(length))
    }

    fn array<const LENGTH: usize>(&mut self) -> Option<[u8; LENGTH]> {
        self.take(LENGTH)?.as_ref().try_into().ok()
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn short(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn long(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn id(&mut self) -> Option<u128> {
        self.array().map(u128::from_be_bytes)
    }

    pub(crate) fn bytes(&mut self) -> Option<Bytes> {
        let length = self.short()?;
        self.take(length as usize)
    }

    pub(crate) fn key(&mut self) -> Option<Key> {
        self.bytes().map(Key::new)
    }

    pub(crate) fn session(&mut self) -> Option<Option<SessionId>> {
        match self.byte()? {
            0 => Some(None),
            1 => self.id().map(|id| Some(SessionId(id))),
            _ => None,
        }
    }

    pub(crate) fn stamp(&mut self) -> Option<Stamp> {
        Some(Stamp { created: Revision(self.long()?), modified: Revision(self.long()?) })
    }

    pub(crate) fn cause(&mut self) -> Option<Cause> {
        match self.byte()? {
            b'd' => Some(Cause::Deleted),
            b'c' => Some(Cause::Closed),
            b'e' => Some(Cause::Expired),
            _ => None,
        }
    }
}

/// Makes the error that an item under a key of ours is not what we write there.
pub(crate) fn foreign(item: &[u8]) -> Error {
    let start = item[..item.len().min(SHOWN_BYTES_MAX)].escape_ascii();
    Error::new(Kind::Format, "read", "an item that Althing did not write").with("starts", start).advise(
        "Choose another namespace, or remove what writes there; a flush_all makes the namespace empty",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(item: &'static [u8], said: &str) {
        let error = Input::open(Sort::Root, &Bytes::from_static(item)).unwrap_err();
        assert!(error.kind() == Kind::Format && error.to_string().contains(said), "{error}");
    }

    #[test]
    fn refuses_what_is_not_ours() {
        check_refused(b"", "did not write");
        check_refused(b"hello", "did not write");
        check_refused(b"althing 1", "did not write");
        check_refused(b"althing 1 L\n", "did not write");
        check_refused(b"althing 2 R\n", "layout version 2");
    }

    #[test]
    fn reads_what_it_wrote_and_nothing_beyond() {
        let stamp = Stamp { created: Revision(3), modified: Revision(7) };
        let mut output = Output::new(Sort::Leaf);
        output.bytes(b"k");
        output.session(Some(SessionId(9)));
        output.session(None);
        output.stamp(stamp);
        let mut input = Input::open(Sort::Leaf, &output.done()).unwrap();
        assert_eq!(input.key(), Some("k".into()));
        assert_eq!((input.session(), input.session()), (Some(Some(SessionId(9))), Some(None)));
        assert_eq!((input.stamp(), input.byte(), input.bytes()), (Some(stamp), None, None));
    }
}
