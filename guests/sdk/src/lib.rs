//! Write Althing policies in Rust.
//!
//! An election rule is a type with one function, and one line that exports it:
//!
//! ```ignore
//! use althing_guest::election::{Election, Verdict, View};
//!
//! struct Oldest;
//!
//! impl Election for Oldest {
//!     type Settings = althing_guest::NoSettings;
//!
//!     fn elect(view: &View, _: &Self::Settings) -> Result<Verdict, String> {
//!         let Some(oldest) = view.live().next() else { return Ok(Verdict::keep("nobody is alive")) };
//!         Ok(Verdict::elect([oldest], "the oldest live member"))
//!     }
//! }
//!
//! althing_guest::export_election!(Oldest);
//! ```
//!
//! A behaviour is one too: see [`behaviour`].
//!
//! Build it as a `cdylib` for `wasm32-unknown-unknown` with `wasm-component-ld` as the linker.

pub mod behaviour;
#[doc(hidden)]
pub mod bindings;
pub mod election;
pub mod log;
#[cfg(target_arch = "wasm32")]
mod memory;
pub mod store;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The settings of a policy that takes none: any setting is refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

/// Reads the settings of this policy. The error says which setting is wrong, for people.
pub fn settings<S: DeserializeOwned>() -> Result<S, String> {
    serde_json::from_str(&bindings::shared::althing::policy::config::settings())
        .map_err(|error| error.to_string())
}

/// Returns the next random bytes of this call; the same view gives the same bytes.
pub fn random(count: u32) -> Vec<u8> {
    bindings::shared::althing::policy::random::bytes(count)
}
