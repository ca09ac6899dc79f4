//! What a resource does so that a holder who was overtaken writes nothing more.
//!
//! Whoever holds a lock or leads a group may be stopped between its last look at `is_held` and its write: by the
//! scheduler, a debugger, a page that comes from disk. Meanwhile its lease runs out, the next one holds and writes, and
//! then the old write arrives. No lock can prevent that; the resource can, because the token of each holder is higher
//! than that of every holder before: it remembers the highest token by which somebody wrote, and refuses a lower one.
//!
//! The rule, for every resource:
//! - Each write carries the token by which its writer holds. Without one it is refused.
//! - The token is compared, remembered and the data written *in one step*. Whoever compares first and writes later has only
//!   moved the gap.
//! - An equal token is let in: one holder writes many times. So are all who share a lock or have permits of it, who
//!   have the same one: fencing tells holders apart that follow one another, not those that were let in together.
//! - What was seen is kept as long as the data, on the same disk.
//! - All writers of a resource use tokens of the same lock, or the terms of the same group.
//! - A token says who came later, not who may write: that is asked by other means. Whoever makes one up locks out the others.
//!
//! What is here does no I/O:
//! - [`Mark`]: one resource, to be kept in the same record as its data;
//! - [`Fence`]: many resources by name, for the threads of one process;
//! - [`sql`]: statements for PostgreSQL, MySQL and MariaDB;
//! - [`redis`]: a script for Redis;
//! - [`http`]: the header that carries a token, and what a server answers.
//!
//! ```
//! use althing_core::Revision;
//! use althing_fence::Fence;
//!
//! let fence = Fence::default();
//! assert!(fence.admit("orders", Revision(7)).is_ok());
//! assert!(fence.admit("orders", Revision(7)).is_ok(), "the same holder writes again");
//! assert!(fence.admit("orders", Revision(9)).is_ok());
//! let stale = fence.admit("orders", Revision(7)).unwrap_err();
//! assert_eq!(stale.seen, Revision(9));
//! ```

mod fence;
pub mod http;
mod mark;
pub mod redis;
pub mod sql;

pub use fence::{Fence, Seen};
pub use mark::{Mark, Stale};
