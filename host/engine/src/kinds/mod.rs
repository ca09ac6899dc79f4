//! The kinds of policy. A kind is a file here, a `.wit`, and a row of [`PolicyKind::SERVED`].

pub(crate) mod behaviour;
pub(crate) mod election;

use std::fmt;

use serde::{Deserialize, Serialize};
use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};

use crate::bindings::behaviour::althing::policy::store;
use crate::bindings::election::althing::policy::{clock, config, log, random, types};
use crate::bundle::Manifest;
use crate::store::Call;

/// What a policy decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PolicyKind {
    /// Who shall lead a group.
    Election,
    /// A primitive of its own, such as a semaphore.
    Behaviour,
}

impl PolicyKind {
    /// The kinds this host runs.
    pub const SERVED: [(PolicyKind, &'static str); 2] =
        [(PolicyKind::Election, "election"), (PolicyKind::Behaviour, "behaviour")];

    /// Returns the world its components are built for.
    pub(crate) fn world(self) -> &'static str {
        match self {
            PolicyKind::Election => "election-policy",
            PolicyKind::Behaviour => "behaviour-policy",
        }
    }

    /// Tells in words what its components may import.
    pub(crate) fn imports(self) -> &'static str {
        match self {
            PolicyKind::Election => {
                "An election rule may import config, clock and random of althing:policy, log where [grants] of \
                 policy.toml says `log = true`, and WASI 0.2"
            }
            PolicyKind::Behaviour => {
                "A behaviour may import config, clock and random of althing:policy, log where [grants] of policy.toml \
                 says `log = true`, store where it names prefixes such as `store = [\"semaphore/\"]`, and WASI 0.2"
            }
        }
    }
}

/// What components are linked with: by their kind, and by what they are granted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Links {
    pub(crate) kind: PolicyKind,
    log: bool,
    store: bool,
}

impl Links {
    /// Returns what a component of this bundle is linked with.
    pub(crate) fn of(manifest: &Manifest) -> Self {
        let grants = &manifest.grants;
        let store = manifest.kind == PolicyKind::Behaviour && !grants.store.is_empty();
        Links { kind: manifest.kind, log: grants.log, store }
    }

    /// Makes the linker. What it holds is all that a component may import.
    pub(crate) fn linker(&self, engine: &Engine) -> wasmtime::Result<Linker<Call>> {
        let mut linker = Linker::new(engine);
        types::add_to_linker::<_, HasSelf<Call>>(&mut linker, |call| call)?;
        config::add_to_linker::<_, HasSelf<Call>>(&mut linker, |call| call)?;
        clock::add_to_linker::<_, HasSelf<Call>>(&mut linker, |call| call)?;
        random::add_to_linker::<_, HasSelf<Call>>(&mut linker, |call| call)?;
        if self.log {
            log::add_to_linker::<_, HasSelf<Call>>(&mut linker, |call| call)?;
        }
        if self.store {
            store::add_to_linker::<_, HasSelf<Call>>(&mut linker, |call| call)?;
        }
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        Ok(linker)
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = PolicyKind::SERVED.iter().find(|(kind, _)| kind == self);
        f.write_str(row.map_or("", |(_, name)| name))
    }
}

impl From<PolicyKind> for String {
    fn from(kind: PolicyKind) -> String {
        kind.to_string()
    }
}

impl TryFrom<String> for PolicyKind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let row = PolicyKind::SERVED.iter().find(|(_, name)| *name == text);
        row.map(|(kind, _)| *kind).ok_or_else(|| {
            let served: Vec<_> = PolicyKind::SERVED.iter().map(|(_, name)| *name).collect();
            format!("this host runs no policies of kind {text:?}; it runs: {}", served.join(", "))
        })
    }
}
