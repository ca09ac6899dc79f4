//! The highest token that one resource has seen.

use std::fmt;

use althing_core::{Error, Kind, Revision};
use serde::{Deserialize, Serialize};

/// The highest token by which somebody wrote to a resource; [`Revision::ZERO`] before anybody did.
///
/// For a resource that locks and stores its own data: keep the mark in the same record, and call
/// [`admit`](Self::admit) under the same lock and in the same transaction as the write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mark(Revision);

impl Mark {
    /// Lets a token in that is as high as all before, and remembers it. Refuses a lower one and changes nothing.
    pub fn admit(&mut self, token: Revision) -> Result<(), Stale> {
        if token < self.0 {
            return Err(Stale { token, seen: self.0 });
        }
        self.0 = token;
        Ok(())
    }

    /// Returns the highest token that was let in.
    pub fn seen(self) -> Revision {
        self.0
    }
}

impl From<Revision> for Mark {
    fn from(seen: Revision) -> Self {
        Mark(seen)
    }
}

/// A write was refused, and did nothing: somebody has written by a higher token since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The token of the refused write.
    pub token: Revision,
    /// The highest token that the resource has seen.
    pub seen: Revision,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stale { token, seen } = self;
        write!(f, "token {} is stale: somebody has written by token {} since", token.0, seen.0)
    }
}

impl std::error::Error for Stale {}

impl From<Stale> for Error {
    fn from(stale: Stale) -> Self {
        Error::new(Kind::Conflict, "write", stale.to_string())
            .advise("The lock was lost. Stop, and lock it again before the next write")
    }
}

#[cfg(test)]
mod tests {
    use althing_core::Effect;

    use super::*;

    #[test]
    fn equal_and_higher_tokens_are_let_in_and_a_lower_one_changes_nothing() {
        let mut mark = Mark::default();
        for token in [3, 3, 8, 8] {
            assert_eq!(mark.admit(Revision(token)), Ok(()));
        }
        assert_eq!(mark.admit(Revision(7)), Err(Stale { token: Revision(7), seen: Revision(8) }));
        assert_eq!(mark.seen(), Revision(8));
    }

    #[test]
    fn it_is_stored_as_the_token_itself() {
        let stored = serde_json::to_string(&Mark::from(Revision(8))).unwrap();
        assert_eq!(stored, "\"00000000000000000008\"");
        assert_eq!(serde_json::from_str::<Mark>(&stored).unwrap(), Mark::from(Revision(8)));
    }

    #[test]
    fn a_stale_write_is_a_conflict_without_effect() {
        let error = Error::from(Stale { token: Revision(7), seen: Revision(8) });
        assert_eq!((error.kind(), error.effect()), (Kind::Conflict, Effect::None));
        assert!(error.to_string().contains("token 7 is stale"), "{error}");
    }
}
