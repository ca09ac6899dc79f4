//! Names of records: any byte string is legal, and paths of names are escaped so that they nest.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The name of a record within a namespace. Any byte string up to [`limits::KEY_BYTES_MAX`] is legal.
///
/// [`limits::KEY_BYTES_MAX`]: crate::limits::KEY_BYTES_MAX
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(Bytes);

impl Key {
    /// Makes a key of these bytes, unescaped.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Key(bytes.into())
    }

    /// Makes a key of several names, such as `member/<group>/<id>`. Each name is escaped, so that no
    /// name can reach into its neighbour: `path(["a/b"])` and `path(["a", "b"])` differ.
    pub fn path<S: AsRef<[u8]>>(names: impl IntoIterator<Item = S>) -> Self {
        let mut bytes = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            if index > 0 {
                bytes.push(b'/');
            }
            escape(name.as_ref(), &mut bytes);
        }
        Key(bytes.into())
    }

    /// Makes the prefix under which everything below this path lies: the key and a `/`.
    pub fn below(&self) -> Self {
        let mut bytes = self.0.to_vec();
        bytes.push(b'/');
        Key(bytes.into())
    }

    /// Returns the names of a key that [`Key::path`] made, or `None` where an escape is broken.
    pub fn names(&self) -> Option<Vec<Vec<u8>>> {
        self.0.split(|byte| *byte == b'/').map(unescape).collect()
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Makes the key whose bytes are these and then those of `rest`.
    pub fn followed_by(&self, rest: &Key) -> Self {
        Key([self.as_bytes(), rest.as_bytes()].concat().into())
    }

    /// Returns what follows `prefix` in this key, or `None` where it does not begin with it.
    pub fn after(&self, prefix: &Key) -> Option<Self> {
        self.starts_with(prefix).then(|| Key(self.0.slice(prefix.0.len()..)))
    }

    /// Returns the first key after all that begin with this one: its last byte that can rise, raised. `None` where all keys
    /// that follow begin with it.
    pub fn end(&self) -> Option<Self> {
        let last = self.0.iter().rposition(|byte| *byte != u8::MAX)?;
        let mut bytes = self.0[..=last].to_vec();
        bytes[last] += 1;
        Some(Key(bytes.into()))
    }

    /// Tells whether this key begins with `prefix`.
    pub fn starts_with(&self, prefix: &Key) -> bool {
        self.0.starts_with(&prefix.0)
    }
}

/// Plain letters stay; `/`, `%` and whatever does not print become `%XX`. An empty name becomes `%`,
/// so that it still takes a place in the path.
fn escape(name: &[u8], out: &mut Vec<u8>) {
    if name.is_empty() {
        out.push(b'%');
    }
    for byte in name {
        if byte.is_ascii_graphic() && !matches!(byte, b'/' | b'%') {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
}

fn unescape(name: &[u8]) -> Option<Vec<u8>> {
    if name == b"%" {
        return Some(Vec::new());
    }
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    Some(out)
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Key(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_nest_whatever_the_names_hold() {
        let odd: [&[u8]; 5] = [b"", b"/", b"%2F", "\u{fc}".as_bytes(), &[0, 255]];
        for first in odd {
            for second in odd {
                let key = Key::path([first, second]);
                assert_eq!(key.names().unwrap(), vec![first.to_vec(), second.to_vec()]);
                assert!(key.starts_with(&Key::path([first]).below()));
            }
        }
        assert_ne!(Key::path(["a/b"]), Key::path(["a", "b"]));
    }

    #[track_caller]
    fn check_end(prefix: &[u8], expected: Option<&[u8]>) {
        assert_eq!(Key::new(prefix.to_vec()).end(), expected.map(|end| Key::new(end.to_vec())));
    }

    #[test]
    fn a_range_ends_before_the_first_key_that_does_not_begin_with_the_prefix() {
        check_end(b"", None);
        check_end(b"a/", Some(b"a0"));
        check_end(b"a\xff", Some(b"b"));
        check_end(b"\xff\xff", None);
    }
}
