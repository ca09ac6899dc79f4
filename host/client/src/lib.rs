//! The Rust client of a host: addresses, one method per route, event streams, and the guard of a member.
//!
//! [`Client`] speaks HTTP/1.1 over a Unix socket or loopback TCP. [`Membership`] is what a service uses
//! that wants to join a group and know whether it leads.

mod address;
mod client;
mod connection;
mod events;
mod failure;
mod held;
mod membership;
pub mod waist;
pub mod wire;

pub use address::{Address, default_socket};
pub use client::Client;
pub use events::EventStream;
pub use failure::told;
pub use held::deadline;
pub use membership::Membership;
pub use wire::SessionKey;
