//! Redis: one script compares the token, remembers it and runs the command that writes.
//!
//! `EVAL script 2 orders:token orders:state 42 SET orders:state paid` writes unless somebody has written by a token above 42.
//! The first key holds the highest token; after it come the keys of the command. The first argument is the token; after it comes
//! the command, any one that a script may run. The answer is that of the command, or the error
//! `STALE 00000000000000000043`, which no client takes for a success.
//!
//! - Keep the key of the token as long as the data: without an expiry, and not where `maxmemory-policy allkeys-…` may
//!   throw it away. It is only as durable as the data are: after a fail-over that lost writes, a lost token is let in again.
//! - In a cluster both keys need one hash tag: `{orders}:token`, `{orders}:state`.

use althing_core::Revision;

use crate::Stale;
use crate::http::parse;

/// The script. Tokens are compared as text of twenty digits: Lua's numbers are exact up to 2^53 only.
pub const SCRIPT: &str = include_str!("fenced.lua");

/// The first word of the error that a refused write is answered with.
pub const STALE: &str = "STALE";

/// Reads the refusal from the text of an error, as any client shows it. `None` where it is another error.
pub fn stale(token: Revision, error: &str) -> Option<Stale> {
    let mut words =
        error.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.find(|word| *word == STALE)?;
    Some(Stale { token, seen: parse(words.next()?.as_bytes())? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_other_errors() {
        let told = Some(Stale { token: Revision(1), seen: Revision(43) });
        assert_eq!(stale(Revision(1), "STALE 00000000000000000043"), told);
        assert_eq!(stale(Revision(1), "\"STALE\": 00000000000000000043"), told);
        assert_eq!(stale(Revision(1), "-STALE 00000000000000000043 script: 7c, on @user_script:3."), told);
        for other in ["", "STALE", "STALE data", "WRONGTYPE 7", "ERR a token is one to twenty digits"] {
            assert_eq!(stale(Revision(1), other), None, "{other:?}");
        }
    }
}
