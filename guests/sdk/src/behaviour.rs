//! Behaviours: primitives of their own, such as a semaphore.
//!
//! A behaviour handles a request of a client, and keeps all its state in the [`store`](crate::store):
//!
//! ```ignore
//! use althing_guest::NoSettings;
//! use althing_guest::behaviour::{Answer, Behaviour, Error, Request};
//! use althing_guest::store::{self, Txn};
//!
//! /// Gives a name to whoever asks first, for as long as their session lives.
//! struct Claim;
//!
//! impl Behaviour for Claim {
//!     type Settings = NoSettings;
//!
//!     fn handle(request: &Request, _: &NoSettings) -> Result<Answer, Error> {
//!         let name: String = request.json()?;
//!         let key = store::key(["claim", &name]);
//!         match store::get(&key)? {
//!             Some(entry) if entry.is_owned_by(&request.session) => Answer::json("yours"),
//!             Some(_) => Ok(Answer::wait(key)),
//!             None => {
//!                 Txn::new().absent(&key).put_owned(&key, &request.id)?.commit()?;
//!                 Answer::json("yours")
//!             }
//!         }
//!     }
//! }
//!
//! althing_guest::export_behaviour!(Claim);
//! ```
//!
//! Its bundle asks for `store = ["claim/"]` below `[grants]`.

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::bindings::behaviour::exports::althing::policy::behaviour::{Answer, Request, Waiting};
pub use crate::store::Error;

/// A behaviour. Export it with [`export_behaviour!`](crate::export_behaviour).
pub trait Behaviour {
    /// Its settings: `[settings]` of policy.toml. Refuse unknown ones with `#[serde(deny_unknown_fields)]`.
    type Settings: DeserializeOwned;

    /// Tells people about the settings: a JSON object from name to sentence. Empty when there are none.
    const SCHEMA: &'static str = "";

    /// Handles a request. Called in a fresh instance each time: what shall last lies in the store. After an answer
    /// [`Answer::Wait`] it is called again with the same request and a higher `attempt`. An error goes to the client.
    fn handle(request: &Request, settings: &Self::Settings) -> Result<Answer, Error>;

    /// Tells what is wrong with settings that could be read.
    fn check(_settings: &Self::Settings) -> Result<(), String> {
        Ok(())
    }
}

impl Request {
    /// Reads the body as JSON. The error tells the client what is wrong with it.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|error| format!("the body of {:?} is not as it must be: {error}", self.operation).into())
    }
}

impl Answer {
    /// Answers the client with a value as JSON.
    pub fn json(value: impl Serialize) -> Result<Answer, Error> {
        Ok(Answer::Done(crate::store::to_json(&value)?))
    }

    /// Asks to be called again when something below `prefix` changes, for as long as the client waits.
    pub fn wait(prefix: impl Into<Vec<u8>>) -> Answer {
        Answer::wait_until(prefix, f64::INFINITY)
    }

    /// Asks to be called again when something below `prefix` changes, and at the moment `until` at the latest.
    pub fn wait_until(prefix: impl Into<Vec<u8>>, until: f64) -> Answer {
        Answer::Wait(Waiting { prefix: prefix.into(), until })
    }
}

/// Exports a type that implements [`Behaviour`](crate::behaviour::Behaviour) as the component's policy.
#[macro_export]
macro_rules! export_behaviour {
    ($policy:ty) => {
        struct AlthingExport;

        impl $crate::bindings::behaviour::exports::althing::policy::behaviour::Guest for AlthingExport {
            fn handle(
                request: $crate::behaviour::Request,
            ) -> Result<$crate::behaviour::Answer, $crate::behaviour::Error> {
                let settings = $crate::settings()?;
                <$policy as $crate::behaviour::Behaviour>::handle(&request, &settings)
            }
        }

        impl $crate::bindings::shared::exports::althing::policy::settings::Guest for AlthingExport {
            fn schema() -> String {
                <$policy as $crate::behaviour::Behaviour>::SCHEMA.into()
            }

            fn check() -> Result<(), String> {
                let settings = $crate::settings()?;
                <$policy as $crate::behaviour::Behaviour>::check(&settings)
            }
        }

        $crate::bindings::shared::export_settings!(AlthingExport with_types_in $crate::bindings::shared);
        $crate::bindings::behaviour::export_behaviour!(AlthingExport with_types_in $crate::bindings::behaviour);
    };
}
