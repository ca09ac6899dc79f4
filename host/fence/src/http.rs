//! HTTP: a header carries the token, as `If-Match` carries a tag.
//!
//! A client writes `althing-token: 42`. A server that has seen a higher token answers `412 Precondition Failed` and names
//! it in `althing-token-seen`, so that the client knows how long it has been gone. No framework is needed:
//! a header is bytes here, and a status is a number.

use std::fmt;

use althing_core::Revision;

use crate::{Fence, Stale};

/// The header of a request that carries the token of its sender: one to twenty decimal digits.
pub const TOKEN: &str = "althing-token";

/// The header of an answer that names the highest token seen.
pub const SEEN: &str = "althing-token-seen";

/// The most digits of a token.
pub(crate) const DIGITS_MAX: usize = 20;

/// Why a request was refused. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It carries no token.
    Missing,
    /// It carries something else than one token.
    Malformed,
    /// Somebody has written by a higher token since.
    Stale(Stale),
}

impl Refused {
    /// Returns the status to answer with: 428, 400 or 412.
    pub fn status(&self) -> u16 {
        match self {
            Refused::Missing => 428,
            Refused::Malformed => 400,
            Refused::Stale(_) => 412,
        }
    }

    /// Returns the value of the header [`SEEN`] to answer with, where there is something to tell.
    pub fn seen(&self) -> Option<String> {
        match self {
            Refused::Stale(stale) => Some(stale.seen.to_string()),
            Refused::Missing | Refused::Malformed => None,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Missing => {
                write!(f, "a write needs the header `{TOKEN}`: the token of the lock or the term")
            }
            Refused::Malformed => write!(f, "`{TOKEN}` is not one token: one to twenty digits, and not zero"),
            Refused::Stale(stale) => stale.fmt(f),
        }
    }
}

impl std::error::Error for Refused {}

impl From<Stale> for Refused {
    fn from(stale: Stale) -> Self {
        Refused::Stale(stale)
    }
}

/// Reads the token of a request from all values of its header [`TOKEN`].
///
/// Several values are refused unless there is only one: whoever forwarded the request might have meant the other one.
/// Zero is no token: nobody holds by it, and a variable that was never set looks like it.
pub fn token<V: AsRef<[u8]>>(values: impl IntoIterator<Item = V>) -> Result<Revision, Refused> {
    let mut values = values.into_iter();
    let value = values.next().ok_or(Refused::Missing)?;
    if values.next().is_some() {
        return Err(Refused::Malformed);
    }
    parse(value.as_ref()).filter(|token| *token > Revision::ZERO).ok_or(Refused::Malformed)
}

/// Decides on a request: reads its token and lets it in, or says what to answer.
///
/// What was let in has to be written before another one is: see [`Fence::admit`]. Where that is one call,
/// use [`token`] and [`Fence::admit_then`].
pub fn admit<V: AsRef<[u8]>>(
    fence: &Fence,
    resource: &str,
    values: impl IntoIterator<Item = V>,
) -> Result<Revision, Refused> {
    let token = token(values)?;
    fence.admit(resource, token)?;
    Ok(token)
}

/// Reads a token as it is written anywhere: decimal digits and nothing else.
pub(crate) fn parse(text: &[u8]) -> Option<Revision> {
    if text.is_empty() || text.len() > DIGITS_MAX || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_malformed(values: &[&str]) {
        assert_eq!(token(values), Err(Refused::Malformed), "{values:?}");
    }

    #[test]
    fn a_token_is_read_with_and_without_leading_zeros() {
        assert_eq!(token(["42"]), Ok(Revision(42)));
        assert_eq!(token([Revision(42).to_string()]), Ok(Revision(42)));
        assert_eq!(token(["18446744073709551615"]), Ok(Revision(u64::MAX)));
    }

    #[test]
    fn what_is_not_one_token_is_refused() {
        for value in ["", "0", "-1", "+1", " 1", "1 ", "0x1", "1,2", "١", "18446744073709551616"] {
            check_malformed(&[value]);
        }
        check_malformed(&["000000000000000000001"]);
        check_malformed(&["1", "2"]);
        assert_eq!(token([[0xff]]), Err(Refused::Malformed));
        assert_eq!(token(None::<&str>), Err(Refused::Missing));
        assert_eq!((Refused::Missing.status(), Refused::Malformed.status()), (428, 400));
    }

    #[test]
    fn a_lower_token_is_answered_with_what_was_seen() {
        let fence = Fence::default();
        assert_eq!(admit(&fence, "a", Some("7")), Ok(Revision(7)));
        assert_eq!(admit(&fence, "a", Some("7")), Ok(Revision(7)));
        let refused = admit(&fence, "a", Some("6")).unwrap_err();
        assert_eq!((refused.status(), refused.seen().as_deref()), (412, Some("00000000000000000007")));
        assert_eq!(refused.to_string(), "token 6 is stale: somebody has written by token 7 since");
    }
}
