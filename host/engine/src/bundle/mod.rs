//! What an operator uploads: `policy.toml`, a component, cases and a README, in a folder or packed into one file.

mod behaviour_case;
mod case;
mod manifest;
mod pack;
mod settings;

use std::collections::BTreeMap;
use std::path::Path;

use althing_core::{Digest, Error, Kind, Result};
use bytes::Bytes;
use serde::de::DeserializeOwned;

pub use behaviour_case::{BehaviourCase, BehaviourExpectation, CaseRecord, CaseRequest, Content, Outcome};
pub use case::{Case, ElectionCase, Expectation};
pub use manifest::{Grants, GuestLimits, MANIFEST_FILE, Manifest};
pub(crate) use settings::Settings;

use crate::signature::{PublicKey, SIGNATURE_FILE, Signature, SigningKey};

/// A bundle: checked in its form, and named by a digest over everything in it but its signature.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Its component, not compiled.
    pub component: Bytes,
    /// Its cases, in the order of their names.
    pub cases: Vec<Case>,
    /// What it tells people; may be empty.
    pub readme: String,
    signature: Option<Signature>,
    files: BTreeMap<String, Bytes>,
    digest: Digest,
    component_digest: Digest,
}

impl Bundle {
    /// Reads a bundle from its folder, or from the file it was packed into. Other files of the folder are left alone.
    pub fn open(path: &Path) -> Result<Bundle> {
        pack::read(path).and_then(Bundle::from_files).map_err(|error| error.with("bundle", path.display()))
    }

    /// Reads a bundle that was packed.
    pub fn unpack(bytes: &[u8]) -> Result<Bundle> {
        pack::unpack(bytes).and_then(Bundle::from_files)
    }

    /// Packs it into one file, with its signature if it has one. The same bundle gives the same bytes.
    pub fn pack(&self) -> Vec<u8> {
        let mut files = self.files.clone();
        if let Some(text) = self.signature_toml() {
            files.insert(SIGNATURE_FILE.into(), text.into());
        }
        pack::pack(&files)
    }

    /// Returns what names it: the digest of its packed content without the signature.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Returns the digest of its settings.
    pub fn settings_digest(&self) -> Digest {
        self.manifest.settings_digest()
    }

    /// Returns the digest of its component.
    pub fn component_digest(&self) -> Digest {
        self.component_digest
    }

    /// Signs it. A former signature is replaced.
    pub fn sign(&mut self, key: &SigningKey) {
        self.signature = Some(key.sign(&self.digest));
    }

    /// Returns what stands in `signature.toml` beside its manifest, if it is signed.
    pub fn signature_toml(&self) -> Option<String> {
        self.signature.as_ref().map(Signature::to_toml)
    }

    /// Returns the id of the key that it claims to be signed by. Only [`Bundle::verify`] tells whether that is so.
    pub fn signed_by(&self) -> Option<&str> {
        self.signature.as_ref().map(Signature::key)
    }

    /// Checks its signature, and returns the id of the trusted key that made it. `Denied` when it is unsigned, signed by
    /// a key that is not trusted, or changed since.
    pub fn verify(&self, trusted: &[PublicKey]) -> Result<String> {
        let denied = |message: String| {
            Error::new(Kind::Denied, "verify bundle", message).with("policy", &self.manifest.name)
        };
        let Some(signature) = &self.signature else {
            return Err(denied("the bundle is not signed".into())
                .advise("Sign it with `althing policy sign`, or tell the host --allow-unsigned"));
        };
        let Some(key) = trusted.iter().find(|key| key.id() == signature.key()) else {
            return Err(denied(format!(
                "the bundle is signed by key {}, which is not trusted",
                signature.key()
            ))
            .advise("Give the host the public key with --trust"));
        };
        if !key.has_signed(&self.digest, signature) {
            return Err(denied(format!("the signature by key {} is not for this content", key.id()))
                .advise("The bundle was changed after it was signed: sign it again"));
        }
        Ok(key.id())
    }

    fn from_files(mut files: BTreeMap<String, Bytes>) -> Result<Bundle> {
        let signature = files.remove(SIGNATURE_FILE);
        let signature = signature.map(|bytes| Signature::parse(text(SIGNATURE_FILE, &bytes)?)).transpose()?;
        let manifest = Manifest::parse(text(MANIFEST_FILE, required(&files, MANIFEST_FILE)?)?)?;
        let component = required(&files, &manifest.component)?.clone();
        let is_ours = |name: &str| {
            name == MANIFEST_FILE || name == README_FILE || name == manifest.component || is_case(name)
        };
        if let Some(other) = files.keys().find(|name| !is_ours(name)) {
            return Err(wrong(format!("{other:?} is no part of a bundle")).advise(
                "A bundle holds policy.toml, the component it names, cases/*.toml, README.md and signature.toml",
            ));
        }
        let cases = files.iter().filter(|(name, _)| is_case(name));
        let cases = cases
            .map(|(name, bytes)| Case::parse(manifest.kind, name, text(name, bytes)?))
            .collect::<Result<_>>()?;
        let readme = files.get(README_FILE).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        Ok(Bundle {
            digest: Digest::of(pack::pack(&files)),
            component_digest: Digest::of(&component),
            readme: readme.unwrap_or_default(),
            manifest,
            component,
            cases,
            signature,
            files,
        })
    }
}

const README_FILE: &str = "README.md";

/// Tells whether a file of this name is a case.
fn is_case(name: &str) -> bool {
    name.strip_prefix("cases/").is_some_and(|rest| rest.ends_with(".toml") && !rest.contains('/'))
}

fn required<'a>(files: &'a BTreeMap<String, Bytes>, name: &str) -> Result<&'a Bytes> {
    files.get(name).ok_or_else(|| {
        let error = Error::new(Kind::NotFound, "open bundle", format!("{name} is missing"));
        if name.ends_with(".wasm") {
            error.advise("Build the guest first; here `cargo xtask guests` does")
        } else {
            error
        }
    })
}

fn text<'a>(file: &str, bytes: &'a Bytes) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8 text").with("file", file))
}

/// Reads a TOML file of a bundle; the error says in which line it is wrong.
pub(crate) fn parse_toml<T: DeserializeOwned>(content: &str, file: &str) -> Result<T> {
    toml::from_str(content).map_err(|error| {
        let wrong = wrong(error.message().trim()).with("file", file);
        match error.span() {
            Some(span) => {
                let before = content.get(..span.start).unwrap_or_default();
                wrong.with("line", before.matches('\n').count() + 1)
            }
            None => wrong,
        }
    })
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, "open bundle", message)
}
