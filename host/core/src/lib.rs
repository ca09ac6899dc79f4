//! What every other package of Althing agrees on: values, the [`Driver`] trait, errors, time, limits and layers.
//!
//! Nothing here knows a backend, a policy engine or a network. A driver implements eight methods
//! ([`Driver`]) over [`Record`]s in a namespace; everything above it (groups, leaders, bindings) is
//! written once against that trait.

pub mod capability;
pub mod check;
pub mod clock;
pub mod digest;
pub mod driver;
pub mod error;
pub mod ground;
pub mod history;
pub mod info;
pub mod key;
pub mod layers;
pub mod limits;
pub mod location;
pub mod principal;
pub mod record;
pub mod secret;
pub mod view;

pub use capability::{Capability, Expiry, Level, Order, Requirement, WatchMode};
pub use clock::{BootTime, Chance, Clock, ManualClock, OsChance, SeededChance, SystemClock};
pub use digest::Digest;
pub use driver::{Driver, Lease, Session, Watch};
pub use error::{Effect, Error, Kind, Result};
pub use ground::Ground;
pub use history::History;
pub use key::Key;
pub use location::Location;
pub use principal::Principal;
pub use record::{
    Cause, Change, Committed, Delta, Guard, Page, Record, Revision, SessionId, Stamp, Txn, Write,
};
pub use secret::Secret;
pub use view::{Choice, ElectionView, LeaderView, Liveness, MemberView, Verdict};
