//! The Rust client of a host: addresses, one method per route, event streams, and the guards of a member and of a lock.
//!
//! [`Client`] speaks HTTP/1.1 over a Unix socket or loopback TCP. [`Membership`] is what a service uses
//! that wants to join a group and know whether it leads, or to lock a name and know whether it holds it.

mod address;
mod client;
mod connection;
mod events;
mod failure;
mod held;
mod lock;
mod membership;
mod partition;
pub mod waist;
pub mod wire;

pub use address::{Address, default_socket};
pub use client::Client;
pub use events::EventStream;
pub use failure::told;
pub use held::deadline;
pub use lock::Lock;
pub use membership::Membership;
pub use partition::Partition;
pub use wire::SessionKey;
