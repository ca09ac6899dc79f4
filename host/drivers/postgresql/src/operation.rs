//! The functions of the schema that a host calls, and what it sends to them.

use bytes::Bytes;

/// One function of `sql/operations.sql`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Adopt,
    Open,
    Renew,
    Close,
    Reap,
    Commit,
    Get,
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
            Operation::List => "list",
            Operation::Changes => "watch",
        }
    }

    /// Tells whether an answer that is lost leaves something to read back. What only takes the namespace into use, or
    /// ends what is over anyway, does not.
    pub(crate) fn writes(self) -> bool {
        matches!(self, Operation::Open | Operation::Renew | Operation::Close | Operation::Commit)
    }

    /// Returns the statement that calls it.
    pub(crate) fn statement(self) -> &'static str {
        match self {
            Operation::Adopt => "select * from althing.adopt($1,$2,$3,$4,$5,$6)",
            Operation::Open => "select * from althing.open($1,$2,$3,$4,$5,$6,$7,$8)",
            Operation::Renew => "select * from althing.renew($1,$2,$3,$4,$5)",
            Operation::Close => "select * from althing.close($1,$2,$3,$4,$5)",
            Operation::Reap => "select * from althing.reap($1,$2,$3,$4)",
            Operation::Commit => "select * from althing.commit($1,$2,$3,$4,$5,$6,$7,$8,$9,$10)",
            Operation::Get => "select * from althing.get($1,$2,$3,$4,$5)",
            Operation::List => "select * from althing.list($1,$2,$3,$4,$5,$6,$7,$8,$9)",
            Operation::Changes => "select * from althing.changes($1,$2,$3,$4,$5,$6,$7,$8)",
        }
    }
}

/// What is sent in the place of a `$`.
#[derive(Clone, Debug)]
pub(crate) enum Argument {
    Flag(bool),
    Int(i32),
    Long(i64),
    Text(String),
    Bytes(Option<Bytes>),
    Longs(Vec<Option<i64>>),
    BytesList(Vec<Option<Bytes>>),
}
