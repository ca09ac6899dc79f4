//! How entries stand in the log: one after the other, each with its length and its checks.
//!
//! Many processes append, each entry by one write at the end of the file, which the kernel does in one step. A process that is
//! killed in the middle of a write leaves the beginning of a frame; the next process writes right behind it. So whoever
//! reads must tell such a torn frame, over which he goes on, from a damaged one, over which nobody may go on. He can: a
//! torn frame is shorter than it says, or than its head; a damaged one is as long as it says.
//!
//! The checks are keyed with the secret of the file, so that nothing a client writes as a value can pass for a frame.

use sha2::{Digest, Sha256};

/// Mark, length of the body, check of the body, check of the head.
const HEAD: usize = 4 + 4 + CHECK + CHECK;
const CHECK: usize = 8;
const MARK: [u8; 4] = *b"\xA7ent";
/// The longest body. The largest transaction there can be fits with room to spare.
const BODY_BYTES_MAX: usize = 128 << 20;

/// The secret of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Salt(pub(crate) u128);

impl Salt {
    /// Returns what only those who know the secret can compute of these bytes.
    pub(crate) fn check(self, sort: u8, bytes: &[u8]) -> [u8; CHECK] {
        let digest =
            Sha256::new().chain_update(self.0.to_le_bytes()).chain_update([sort]).chain_update(bytes);
        let mut check = [0; CHECK];
        check.copy_from_slice(&digest.finalize()[..CHECK]);
        check
    }
}

/// Makes a frame of a body.
pub(crate) fn frame(salt: Salt, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + body.len());
    frame.extend_from_slice(&MARK);
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&salt.check(b'b', body));
    let check = salt.check(b'h', &frame);
    frame.extend_from_slice(&check);
    frame.extend_from_slice(body);
    frame
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// A whole frame of this length.
    Frame { body: &'a [u8], length: usize },
    /// What somebody who was killed left behind; the next frame begins after so many bytes.
    Torn(usize),
    /// A frame that was whole once.
    Damaged,
    /// Nothing that can be judged before there are more bytes.
    More,
}

/// Looks at the beginning of `bytes`.
pub(crate) fn next(salt: Salt, bytes: &[u8]) -> Found<'_> {
    let Some((length, check)) = head(salt, bytes) else {
        return match next_head(salt, bytes, HEAD) {
            // Less than a head, and then the next frame: torn within its head.
            Some(at) if at < HEAD => Found::Torn(at),
            Some(_) => Found::Damaged,
            // Perhaps a torn head, and behind it one that is just being written.
            None if bytes.len() < 2 * HEAD => Found::More,
            // A head that never was one, and no other: nothing that was acknowledged begins like this.
            None => Found::Damaged,
        };
    };
    match bytes.get(HEAD..length) {
        Some(body) if salt.check(b'b', body) == check => Found::Frame { body, length },
        Some(_) => match next_head(salt, bytes, length) {
            Some(at) if at < length => Found::Torn(at),
            _ => Found::Damaged,
        },
        None => next_head(salt, bytes, length).map_or(Found::More, Found::Torn),
    }
}

/// Reads the head at the beginning of `bytes`: the length of the whole frame and the check of its body.
fn head(salt: Salt, bytes: &[u8]) -> Option<(usize, [u8; CHECK])> {
    let (head, check) = bytes.get(..HEAD)?.split_at(HEAD - CHECK);
    if head[..4] != MARK || salt.check(b'h', head) != check {
        return None;
    }
    let length = u32::from_le_bytes(head[4..8].try_into().ok()?) as usize;
    let body_check = head[8..].try_into().ok()?;
    (length <= BODY_BYTES_MAX).then_some((HEAD + length, body_check))
}

/// Finds where the next frame begins, after the first byte and up to `most`.
fn next_head(salt: Salt, bytes: &[u8], most: usize) -> Option<usize> {
    let starts = 1..=most.min(bytes.len().saturating_sub(HEAD));
    starts.into_iter().find(|at| bytes[*at..].starts_with(&MARK) && head(salt, &bytes[*at..]).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = Salt(7);

    fn row(bodies: &[&[u8]]) -> Vec<u8> {
        bodies.iter().flat_map(|body| frame(SALT, body)).collect()
    }

    #[test]
    fn reads_what_it_wrote_one_after_the_other() {
        let bytes = row(&[b"one", b"", b"three"]);
        let (mut at, mut bodies) = (0, Vec::new());
        while at < bytes.len() {
            let Found::Frame { body, length } = next(SALT, &bytes[at..]) else { panic!("at {at}") };
            bodies.push(body);
            at += length;
        }
        assert_eq!(bodies, [&b"one"[..], b"", b"three"]);
        assert_eq!(next(Salt(8), &bytes), Found::Damaged, "another log's frame is none of ours");
    }

    #[test]
    fn waits_for_the_rest_of_a_frame_wherever_it_ends() {
        let bytes = row(&[b"a body"]);
        for length in 0..bytes.len() {
            assert_eq!(next(SALT, &bytes[..length]), Found::More, "{length} bytes");
        }
    }

    #[test]
    fn goes_on_behind_a_frame_that_was_torn_wherever_that_was() {
        let torn = row(&[b"a body that is longer than what comes behind it"]);
        for length in 1..torn.len() {
            let bytes = [&torn[..length], &row(&[b"x"])].concat();
            assert_eq!(next(SALT, &bytes), Found::Torn(length));
            // Two torn in a row: the first ends where the head of the second stands.
            if length >= HEAD {
                let bytes = [&torn[..length], &torn[..length], &row(&[b"x"])].concat();
                assert_eq!(next(SALT, &bytes), Found::Torn(length));
            }
        }
    }

    #[test]
    fn tells_every_flipped_bit_of_a_frame_with_something_behind_it() {
        let good = row(&[b"a body", b"the next one"]);
        let first = row(&[b"a body"]).len();
        for bit in 0..first * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(next(SALT, &bytes), Found::Damaged, "bit {bit}");
        }
    }

    #[test]
    fn takes_no_frame_out_of_a_value() {
        let inner = frame(Salt(0), b"forged");
        let outer = row(&[&inner]);
        let bytes = [&outer[..HEAD + inner.len() - 1], &row(&[b"x"])].concat();
        assert_eq!(next(SALT, &bytes), Found::Torn(HEAD + inner.len() - 1));
    }
}
