//! Hash functions, and the places they give to keys and points.
//!
//! They spread keys; nothing is kept secret or proven by them. MD5 is what Tooz uses unless told otherwise.

use std::{fmt, iter};

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Names a hash function. All who share a ring choose the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hash {
    /// 128 bits.
    #[default]
    Md5,
    /// 160 bits.
    Sha1,
    /// 256 bits.
    Sha256,
}

impl Hash {
    /// Finds the function that Python's `hashlib`, and so Tooz, knows by this name.
    pub fn named(name: &str) -> Option<Hash> {
        match name {
            "md5" => Some(Hash::Md5),
            "sha1" => Some(Hash::Sha1),
            "sha256" => Some(Hash::Sha256),
            _ => None,
        }
    }

    /// Returns where `data` lies: its digest, read as a big-endian number.
    pub fn place(self, data: &[u8]) -> Place {
        match self {
            Hash::Md5 => Place::of(&Md5::digest(data)),
            Hash::Sha1 => Place::of(&Sha1::digest(data)),
            Hash::Sha256 => Place::of(&Sha256::digest(data)),
        }
    }

    /// Returns the places of `name` written twice, three times, and so on without end.
    pub(crate) fn repeats(self, name: &[u8]) -> Box<dyn Iterator<Item = Place> + '_> {
        match self {
            Hash::Md5 => Box::new(repeats::<Md5>(name)),
            Hash::Sha1 => Box::new(repeats::<Sha1>(name)),
            Hash::Sha256 => Box::new(repeats::<Sha256>(name)),
        }
    }

    pub(crate) fn bits(self) -> u32 {
        match self {
            Hash::Md5 => 128,
            Hash::Sha1 => 160,
            Hash::Sha256 => 256,
        }
    }

    /// The number of all places; of 2^256 the 256 bits that remain, which are zero.
    pub(crate) fn size(self) -> Place {
        Place(1u128.checked_shl(self.bits() - 128).unwrap_or_default(), 0)
    }
}

/// What was hashed for one point is the beginning of what is hashed for the next.
fn repeats<D: Digest + Clone>(name: &[u8]) -> impl Iterator<Item = Place> {
    let mut row = D::new_with_prefix(name);
    iter::repeat_with(move || {
        row.update(name);
        Place::of(&row.clone().finalize())
    })
}

/// A place in the hash space: a number of as many bits as the hash function has. Is shown as Python's `hex` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u128, u128);

impl Place {
    pub(crate) const ZERO: Place = Place(0, 0);

    fn of(digest: &[u8]) -> Place {
        let push =
            |Place(high, low): Place, byte: &u8| Place(high << 8 | low >> 120, low << 8 | u128::from(*byte));
        digest.iter().fold(Place::ZERO, push)
    }

    /// Adds, modulo 2^256.
    pub(crate) fn plus(self, other: Place) -> Place {
        let (low, carry) = self.1.overflowing_add(other.1);
        Place(self.0.wrapping_add(other.0).wrapping_add(carry.into()), low)
    }

    /// Subtracts, modulo 2^256.
    pub(crate) fn minus(self, other: Place) -> Place {
        let (low, borrow) = self.1.overflowing_sub(other.1);
        Place(self.0.wrapping_sub(other.0).wrapping_sub(borrow.into()), low)
    }

    pub(crate) fn to_f64(self) -> f64 {
        self.0 as f64 * 2f64.powi(128) + self.1 as f64
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Place(0, low) => write!(f, "{low:#x}"),
            Place(high, low) => write!(f, "{high:#x}{low:032x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_shown_as_python_shows_it() {
        assert_eq!(Hash::Md5.place(b"").to_string(), "0xd41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(Hash::Sha1.place(b"").to_string(), "0xda39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(Place::of(&[0, 0, 7]).to_string(), "0x7");
    }

    #[test]
    fn a_repeat_is_hashed_as_if_it_were_written_out() {
        for hash in [Hash::Md5, Hash::Sha1, Hash::Sha256] {
            let places: Vec<_> = hash.repeats(b"node").take(3).collect();
            assert_eq!(places, [2, 3, 4].map(|times| hash.place(&b"node".repeat(times))));
        }
    }

    #[test]
    fn places_carry_and_borrow_and_wrap() {
        let (one, last) = (Place(0, 1), Place(u128::MAX, u128::MAX));
        assert_eq!(Place(0, u128::MAX).plus(one), Place(1, 0));
        assert_eq!(Place(1, 0).minus(one), Place(0, u128::MAX));
        assert_eq!((last.plus(one), Place::ZERO.minus(one)), (Place::ZERO, last));
    }
}
