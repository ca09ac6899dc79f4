//! The scripts: one per operation, each a single step on the server.

use althing_core::limits;

/// What a script is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Adopt,
    Open,
    Renew,
    Close,
    Get,
    List,
    Commit,
    /// A commit that puts nothing.
    Delete,
    Changes,
}

/// Every operation, in the order of the enumeration.
pub(crate) const OPERATIONS: [Operation; 9] = [
    Operation::Adopt,
    Operation::Open,
    Operation::Renew,
    Operation::Close,
    Operation::Get,
    Operation::List,
    Operation::Commit,
    Operation::Delete,
    Operation::Changes,
];

impl Operation {
    /// Returns the name that errors carry.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Adopt => "connect",
            Operation::Open => "open",
            Operation::Renew => "renew",
            Operation::Close => "close",
            Operation::Get => "get",
            Operation::List => "list",
            Operation::Commit | Operation::Delete => "commit",
            Operation::Changes => "watch",
        }
    }

    /// Tells whether a lost answer leaves the caller not knowing what was written. The other operations end
    /// sessions that are due, which happens once whoever does it, and adopting twice is adopting once.
    pub(crate) fn writes(self) -> bool {
        !matches!(self, Operation::Adopt | Operation::Get | Operation::List | Operation::Changes)
    }

    /// Tells whether it makes the store larger, so that a full server has to refuse it. The others go on there: who may
    /// not renew, end and delete can never make room.
    fn grows(self) -> bool {
        matches!(self, Operation::Open | Operation::Commit)
    }

    /// Returns the script's text.
    pub(crate) fn code(self) -> String {
        let body = match self {
            Operation::Adopt => return include_str!("lua/adopt.lua").to_owned(),
            Operation::Open => include_str!("lua/open.lua"),
            Operation::Renew => include_str!("lua/renew.lua"),
            Operation::Close => include_str!("lua/close.lua"),
            Operation::Get => include_str!("lua/get.lua"),
            Operation::List => include_str!("lua/list.lua"),
            Operation::Commit | Operation::Delete => include_str!("lua/commit.lua"),
            Operation::Changes => include_str!("lua/changes.lua"),
        };
        let bounds = format!(
            "local HISTORY, HISTORY_BYTES, GROWS = {}, {}, {}\n",
            limits::HISTORY_CHANGES_MAX,
            limits::HISTORY_BYTES_MAX,
            self.grows()
        );
        [&bounds, include_str!("lua/prelude.lua"), body].concat()
    }
}

/// The names of a namespace's keys on the server, in the order in which scripts take them. One hash tag, so
/// that they would lie together in a cluster. The last one, the log, is also the channel that wakes watches.
pub(crate) fn keys(namespace: &str) -> [String; 6] {
    ["meta", "record", "name", "session", "owned", "log"].map(|part| format!("{{{namespace}}}:{part}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_stands_at_its_own_place() {
        for (index, operation) in OPERATIONS.into_iter().enumerate() {
            assert_eq!(operation as usize, index);
        }
    }
}
