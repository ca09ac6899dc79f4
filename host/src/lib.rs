//! Althing as a library: everything the daemon does, inside your process.
//!
//! A host owns the connection to a backend and gives groups, members and leaders on it. The rule that
//! decides who leads can be replaced while it runs, by a WebAssembly component.
//!
//! ```
//! use althing::info::{JoinAsk, SessionAsk, SessionEvent};
//! use althing::{Althing, Principal, SessionKey, Secret};
//!
//! # #[tokio::main]
//! # async fn main() -> althing::Result<()> {
//! let host = Althing::builder().backend("memory:").name("example").start().await?;
//! let runtime = host.runtime();
//! let me = Principal::Embedder;
//!
//! let grant = runtime.open_session(&me, SessionAsk::default(), false)?;
//! let session = SessionKey { id: grant.id, secret: Secret::new(grant.secret) };
//! let mut events = runtime.session_events(&session)?;
//! let ask = JoinAsk { id: "worker-1".into(), create: true, ..JoinAsk::default() };
//! runtime.join(&session, "workers", ask).await?;
//!
//! while let Some(event) = events.next().await {
//!     if let SessionEvent::Elected { hold } = event {
//!         println!("{} leads {} in term {}", hold.member, hold.group, hold.term);
//!         break;
//!     }
//! }
//! host.stop().await;
//! # Ok(())
//! # }
//! ```

pub mod backends;
mod builder;
mod config;

pub use builder::{Althing, Builder};
pub use config::Config;

pub use althing_core::{
    Capability, Choice, Digest, Effect, Error, Kind, Level, Principal, Result, Revision, Secret, clock, info,
    limits, location,
};
pub use althing_engine::{Bundle, PublicKey, SigningKey};
pub use althing_runtime::{GroupStream, Runtime, SessionKey, SessionStream, Tuning};

/// The example in the README is compiled and run with the others.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
