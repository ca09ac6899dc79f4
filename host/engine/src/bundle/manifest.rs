//! `policy.toml`: what a bundle says of itself.

use std::time::Duration;

use althing_core::{Digest, Error, Kind, Result, limits};
use serde::{Deserialize, Serialize};

use crate::kinds::PolicyKind;

/// The file in a bundle that holds the manifest.
pub const MANIFEST_FILE: &str = "policy.toml";

/// What a bundle says of itself. Unknown fields are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The policy's name: small letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The policy's version, for people.
    pub version: String,
    /// What it decides about.
    pub kind: PolicyKind,
    /// The file of its component, beside the manifest.
    pub component: String,
    /// What the guest reads through `config`.
    #[serde(default)]
    pub settings: toml::Table,
    /// What it may do beside deciding.
    #[serde(default)]
    pub grants: Grants,
    /// What one call may use.
    #[serde(default)]
    pub limits: GuestLimits,
}

/// What a policy may do beside deciding: nothing that is not named here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grants {
    /// It may write to the log.
    #[serde(default)]
    pub log: bool,
    /// The prefixes of keys that a behaviour may read and write, such as `semaphore/`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub store: Vec<String>,
}

/// What one call may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GuestLimits {
    /// Processor time, in milliseconds.
    pub cpu_ms: u32,
    /// All memories and tables together, in MiB.
    pub memory_mib: u32,
}

impl Default for GuestLimits {
    fn default() -> Self {
        GuestLimits {
            cpu_ms: limits::GUEST_CPU_DEFAULT.as_millis() as u32,
            memory_mib: limits::GUEST_MEMORY_MIB_DEFAULT,
        }
    }
}

impl GuestLimits {
    pub(crate) fn cpu(&self) -> Duration {
        Duration::from_millis(self.cpu_ms.into())
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        (self.memory_mib as usize) << 20
    }
}

impl Manifest {
    /// Reads and checks a manifest.
    pub fn parse(text: &str) -> Result<Manifest> {
        let manifest: Manifest = super::parse_toml(text, MANIFEST_FILE)?;
        manifest.check().map_err(|error| error.with("file", MANIFEST_FILE))?;
        Ok(manifest)
    }

    fn check(&self) -> Result<()> {
        let is_plain = |text: &str, more: &str| {
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || more.contains(c);
            !text.is_empty() && text.len() <= FILE_NAME_BYTES_MAX && text.chars().all(allowed)
        };
        if !is_plain(&self.name, "-_.") {
            return Err(wrong(format!("name is {:?}", self.name))
                .advise("A name has 1 to 64 small letters, digits, `-`, `_` and `.`"));
        }
        if self.version.is_empty() || self.version.len() > FILE_NAME_BYTES_MAX {
            return Err(
                wrong("version is empty or too long").advise("A version is up to 64 bytes, such as 1.0.0")
            );
        }
        if !is_plain(&self.component, "-_.") || !self.component.ends_with(".wasm") {
            return Err(wrong(format!("component is {:?}", self.component))
                .advise("Name a file beside policy.toml that ends in .wasm"));
        }
        self.check_limits()?;
        self.check_store()?;
        super::Settings::new(&self.settings).map(drop)
    }

    fn check_limits(&self) -> Result<()> {
        let within = |name: &str, value: u32, max: u128| {
            if (1..=max).contains(&u128::from(value)) {
                return Ok(());
            }
            Err(wrong(format!("{name} is {value}")).advise(format!("It may be from 1 to {max}")))
        };
        within("cpu_ms", self.limits.cpu_ms, limits::GUEST_CPU_MAX.as_millis())?;
        within("memory_mib", self.limits.memory_mib, limits::GUEST_MEMORY_MIB_MAX.into())
    }

    fn check_store(&self) -> Result<()> {
        let (prefixes, most) = (&self.grants.store, limits::BEHAVIOUR_PREFIXES_MAX);
        if self.kind != PolicyKind::Behaviour && !prefixes.is_empty() {
            return Err(wrong(format!("[grants] store in a policy of kind {}", self.kind))
                .advise("Only behaviours reach the store; remove the line"));
        }
        if prefixes.len() > most {
            let count = prefixes.len();
            return Err(wrong(format!("[grants] store names {count} prefixes; at most {most}")));
        }
        let longest = limits::BEHAVIOUR_PREFIX_BYTES_MAX;
        let is_prefix =
            |text: &&String| text.ends_with('/') && !text.starts_with('/') && text.len() <= longest;
        match prefixes.iter().find(|prefix| !is_prefix(prefix)) {
            None => Ok(()),
            Some(other) => Err(wrong(format!("[grants] store names the prefix {other:?}")).advise(format!(
                "A prefix has up to {longest} bytes, a name first and `/` at its end, such as \"semaphore/\""
            ))),
        }
    }

    /// Returns the digest of the settings: two bundles that give their guest the same settings have the same.
    pub(crate) fn settings_digest(&self) -> Digest {
        super::Settings::new(&self.settings)
            .map_or_else(|_| Digest::of(b""), |settings| Digest::of(settings.json()))
    }
}

/// The longest name of a file in a bundle, without its folder.
pub(crate) const FILE_NAME_BYTES_MAX: usize = 64;

fn wrong(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, "open bundle", message)
}
