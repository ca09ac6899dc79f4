//! The procedures of the schema that a host calls, and what it sends to them.

use bytes::Bytes;

/// One procedure of `sql/operations.sql`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Adopt,
    Open,
    Renew,
    Close,
    Reap,
    Commit,
    Get,
    Look,
    List,
    Changes,
}

impl Operation {
    /// Returns what errors call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Adopt => "connect",
            Operation::Open => "open",
            Operation::Renew => "renew",
            Operation::Close => "close",
            Operation::Reap => "reap",
            Operation::Commit => "commit",
            Operation::Get => "get",
            Operation::Look | Operation::Changes => "watch",
            Operation::List => "list",
        }
    }

    /// Tells whether an answer that is lost leaves something to read back. What only takes the namespace into use, or
    /// ends what is over anyway, does not.
    pub(crate) fn writes(self) -> bool {
        matches!(self, Operation::Open | Operation::Renew | Operation::Close | Operation::Commit)
    }

    /// Tells whether it waits for whoever holds the namespace.
    pub(crate) fn locks(self) -> bool {
        matches!(self, Operation::Open | Operation::Close | Operation::Reap | Operation::Commit)
    }

    /// Returns the statement that calls it.
    pub(crate) fn statement(self) -> &'static str {
        match self {
            Operation::Adopt => "call althing_adopt(?,?,?,?,?)",
            Operation::Open => "call althing_open(?,?,?,?,?,?,?)",
            Operation::Renew => "call althing_renew(?,?,?,?)",
            Operation::Close => "call althing_close(?,?,?,?)",
            Operation::Reap => "call althing_reap(?,?,?)",
            Operation::Commit => "call althing_commit(?,?,?,?,?)",
            Operation::Get => "call althing_get(?,?,?,?)",
            Operation::Look => "call althing_look(?,?,?)",
            Operation::List => "call althing_list(?,?,?,?,?,?,?,?)",
            Operation::Changes => "call althing_changes(?,?,?,?,?,?,?)",
        }
    }
}

/// What is sent in the place of a `?`.
#[derive(Clone, Debug)]
pub(crate) enum Argument {
    Long(i64),
    Bytes(Option<Bytes>),
}

impl Argument {
    pub(crate) fn bytes(bytes: impl Into<Bytes>) -> Argument {
        Argument::Bytes(Some(bytes.into()))
    }

    /// Returns how many bytes it is, about.
    pub(crate) fn size(&self) -> usize {
        match self {
            Argument::Bytes(Some(bytes)) => bytes.len() + 16,
            _ => 16,
        }
    }
}
