//! The backends of one process, each with a runtime of its own.

use std::sync::Arc;

use althing_core::location::nearest;
use althing_core::{Error, Kind, Result};

use crate::Runtime;

/// The name of the backend that was given none, which is the one that is meant where none is named.
pub const DEFAULT_BACKEND: &str = "default";

/// The runtimes of one process by the names of their backends. What is created in one backend is in no other: a group, its
/// members and its policies belong to the backend they were made in, and two groups of one name in two backends are two.
#[derive(Clone, Debug)]
pub struct Backends(Arc<[Runtime]>);

impl Backends {
    /// Takes runtimes, each of a backend of its own name. Fails with `Invalid` where there is none, or two of one name.
    pub fn new(runtimes: Vec<Runtime>) -> Result<Backends> {
        let wrong = |message: String| Err(Error::new(Kind::Invalid, "start host", message));
        if runtimes.is_empty() {
            return wrong("no backend".into());
        }
        let mut names: Vec<_> = runtimes.iter().map(Runtime::backend).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return wrong(format!("two backends are called {:?}", twice[0]));
        }
        Ok(Backends(runtimes.into()))
    }

    /// Returns the runtime of the backend of this name; where none is named, of the one that is called
    /// [`DEFAULT_BACKEND`], or of the only one. Fails with `NotFound`, and with `Invalid` where a name is needed.
    pub fn get(&self, name: Option<&str>) -> Result<&Runtime> {
        let wanted = match (name, &*self.0) {
            (None, [only]) => return Ok(only),
            (name, _) => name.unwrap_or(DEFAULT_BACKEND),
        };
        self.0.iter().find(|runtime| runtime.backend() == wanted).ok_or_else(|| match name {
            Some(name) => self.unknown(name),
            None => {
                Error::new(Kind::Invalid, "find backend", "this host has several backends, and none is named")
                    .advise(format!("Name one of: {}", self.names()))
            }
        })
    }

    /// Returns all of them, in the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = &Runtime> {
        self.0.iter()
    }

    fn unknown(&self, name: &str) -> Error {
        let error = Error::new(Kind::NotFound, "find backend", format!("no backend is called {name:?}"));
        error.advise(match nearest(name, self.iter().map(Runtime::backend)) {
            Some(meant) => format!("Did you mean {meant}?"),
            None => format!("This host has: {}", self.names()),
        })
    }

    fn names(&self) -> String {
        self.iter().map(Runtime::backend).collect::<Vec<_>>().join(" ")
    }
}

/// One backend.
impl From<Runtime> for Backends {
    fn from(runtime: Runtime) -> Self {
        Backends([runtime].into())
    }
}
