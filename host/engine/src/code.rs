//! Components, compiled and linked for their kind.

use althing_core::{Error, Kind, Result};
use wasmtime::component::{Component, Instance};
use wasmtime::{Engine, Store};

use crate::bindings::settings::{Configured, ConfiguredPre};
use crate::kinds::behaviour::Primitive;
use crate::kinds::election::Rule;
use crate::kinds::{Links, PolicyKind};
use crate::store::Call;
use crate::words;

/// A component, compiled and linked.
pub(crate) struct Code {
    pub(crate) guest: Guest,
    settings: ConfiguredPre<Call>,
    /// Whether it can ask for randomness, so that a view needs a digest.
    pub(crate) wants_random: bool,
}

/// What a component is asked, by its kind.
#[derive(Clone)]
pub(crate) enum Guest {
    Election(Rule),
    Behaviour(Primitive),
}

impl Guest {
    fn check_types(&self, store: &mut Store<Call>, instance: &Instance) -> wasmtime::Result<()> {
        match self {
            Guest::Election(_) => Rule::check_types(store, instance),
            Guest::Behaviour(_) => Primitive::check_types(store, instance),
        }
    }
}

/// Why a guest that can be linked is no policy, in its own words or in wasmtime's.
pub(crate) enum Unfit {
    /// What it exports is of other types.
    World(String),
    /// It refuses its settings.
    Settings(String),
}

impl Code {
    /// Links `component`. `Denied` when it imports what it is not given, `Invalid` when it is of another world.
    pub(crate) fn link(engine: &Engine, component: &Component, links: Links) -> Result<Code> {
        let linker = links.linker(engine).map_err(|error| {
            Error::new(Kind::Internal, "load policy", "the host functions do not fit the interfaces")
                .because(error)
        })?;
        let kind = component.component_type();
        let names =
            kind.imports(engine).map(|(name, _)| name).chain(kind.exports(engine).map(|(name, _)| name));
        refuse_other_versions(names)?;
        let linked = linker.instantiate_pre(component).map_err(|error| {
            Error::new(Kind::Denied, "load policy", "the component imports what it is not given")
                .because(words::of_error(&error))
                .advise(links.kind.imports())
        })?;
        let of_other_world = |error: wasmtime::Error| other_world(links.kind, words::of_error(&error));
        let guest = match links.kind {
            PolicyKind::Election => Rule::new(linked.clone()).map(Guest::Election),
            PolicyKind::Behaviour => Primitive::new(linked.clone()).map(Guest::Behaviour),
        };
        let guest = guest.map_err(of_other_world)?;
        let settings = ConfiguredPre::new(linked).map_err(of_other_world)?;
        let is_random =
            |name: &str| name.starts_with("althing:policy/random@") || name.starts_with("wasi:random/");
        let wants_random = kind.imports(engine).any(|(name, _)| is_random(name));
        Ok(Code { guest, settings, wants_random })
    }

    /// Asks the guest whether it can work with its settings, and what settings it takes.
    pub(crate) async fn check(&self, mut store: Store<Call>) -> wasmtime::Result<Result<String, Unfit>> {
        let instance = self.settings.instance_pre().instantiate_async(&mut store).await?;
        // Linking saw that everything is exported; only an instance tells of what type it is.
        let typed = self
            .guest
            .check_types(&mut store, &instance)
            .and_then(|()| Configured::new(&mut store, &instance));
        let guest = match typed {
            Ok(guest) => guest,
            Err(error) => return Ok(Err(Unfit::World(words::of_error(&error)))),
        };
        let settings = guest.althing_policy_settings();
        let checked = settings.call_check(&mut store).await?;
        let schema = settings.call_schema(&mut store).await?;
        Ok(checked.map(|()| schema).map_err(Unfit::Settings))
    }
}

/// Says that a component is not what its bundle says it is.
pub(crate) fn other_world(kind: PolicyKind, why: String) -> Error {
    let world = kind.world();
    Error::new(Kind::Invalid, "load policy", format!("the component is not built for world {world}"))
        .because(why)
        .advise(format!("Build it for the world {world} of althing:policy@0.1.0"))
}

/// Refuses a component of which an interface of ours has a version that this host knows nothing of.
fn refuse_other_versions<'a>(names: impl Iterator<Item = &'a str>) -> Result<()> {
    let version =
        |name: &'a str| name.strip_prefix("althing:policy/")?.split_once('@').map(|(_, version)| version);
    match names.filter_map(version).find(|version| !version.starts_with("0.1.")) {
        None => Ok(()),
        Some(version) => {
            let message = format!("the component is built for althing:policy@{version}; this host has 0.1.0");
            Err(Error::new(Kind::Invalid, "load policy", message)
                .advise("Build it with the interfaces of this host, or bring the host up to date"))
        }
    }
}
