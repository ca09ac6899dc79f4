//! Althing as a library: everything the daemon does, inside your process.
//!
//! A host owns the connection to a backend and gives groups, members and leaders on it. The rule that
//! decides who leads can be replaced while it runs, by a WebAssembly component.
//!
//! # A service that acts only while it leads
//!
//! It joins a group, waits until it is elected, works in small steps while [`Runtime::holds`] says so, and leaves.
//! `examples/embed.rs` is the same with signals and a backend of your choice.
//!
//! ```
//! use althing::info::{JoinAsk, SessionAsk, SessionEvent};
//! use althing::{Althing, Principal, Revision, Secret, SessionKey};
//!
//! /// Stands for what only a leader may write. It keeps the highest term it saw and refuses lower ones.
//! #[derive(Default)]
//! struct Ledger(Revision, Vec<String>);
//!
//! impl Ledger {
//!     fn write(&mut self, term: Revision, line: &str) {
//!         if term >= self.0 {
//!             self.0 = term;
//!             self.1.push(line.to_owned());
//!         }
//!     }
//! }
//!
//! // Any runtime will do: what must not wait runs on threads of the host's own.
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> althing::Result<()> {
//!     let host = Althing::builder().backend("memory:").name("shop-1").start().await?;
//!     let runtime = host.runtime();
//!
//!     // `false`: this caller asks `holds`, so nobody has to wait until it has read a message.
//!     let grant = runtime.open_session(&Principal::Embedder, SessionAsk::default(), false)?;
//!     let session = SessionKey { id: grant.id, secret: Secret::new(grant.secret) };
//!     let mut events = runtime.session_events(&session)?;
//!     let ask = JoinAsk { id: "shop-1".into(), create: true, ..JoinAsk::default() };
//!     runtime.join(&session, "shop", ask).await?;
//!
//!     let mut ledger = Ledger::default();
//!     while let Some(event) = events.next().await {
//!         let SessionEvent::Elected { hold } = event else { continue };
//!         // No round trip: ask before every step. A step that was begun in time and arrives late is refused by
//!         // its term.
//!         while runtime.holds("shop", hold.term) && ledger.1.len() < 3 {
//!             ledger.write(hold.term, "sold");
//!         }
//!         break;
//!     }
//!     assert_eq!(ledger.1.len(), 3);
//!
//!     // Leave in good order. Dropping the host instead is safe too, but then others wait for its lease to run out.
//!     host.stop().await;
//!     Ok(())
//! }
//! ```
//!
//! # What a host does to your process
//!
//! It installs nothing that is shared by the process: no signal handler (see [`Builder::catch_signals`]), no default
//! TLS provider, no tracing subscriber, no metrics recorder, no panic hook. One exception: MySQL's client asks the
//! process for its TLS provider, so a `mysql:` backend with `tls=true` makes aws-lc-rs the default where there is none;
//! install yours before. A host traces and counts by the facades
//! `tracing` and `metrics`: what you install hears it. Several hosts in one process share nothing.
//!
//! Its tasks run on the runtime on which it was started. The sockets of the backend, the renewals of its lease and the
//! rules in WebAssembly have threads of their own, called `althing-…`. They end with the host: after [`Althing::stop`],
//! or a drop, as soon as the last clone of its [`Runtime`] and the last of its streams is dropped too. Calls that are under way
//! then fail or succeed, and what they wrote for a session is gone with it; streams end. One exception: the crate that
//! speaks to ZooKeeper starts one thread for the whole process, `async-io`, which stays.

pub mod backends;
mod builder;
mod config;

pub use builder::{Althing, Builder};
pub use config::Config;

pub use althing_core::{
    Capability, Choice, Digest, Effect, Error, Kind, Level, Principal, Requirement, Result, Revision, Secret,
    clock, info, limits, location,
};
pub use althing_engine::{Bundle, PublicKey, SigningKey};
pub use althing_runtime::{
    Backends, DEFAULT_BACKEND, GroupStream, Runtime, SessionKey, SessionStream, Tuning,
};

/// The example in the README is compiled and run with the others.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
