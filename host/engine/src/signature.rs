//! Who vouches for a bundle: ed25519 over its digest. Keys are one line of text in a file.

use std::fmt;
use std::str::FromStr;

use althing_core::{Chance, Digest, Error, Kind, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer as _;
use serde::{Deserialize, Serialize};

/// The file in a bundle that holds its signature.
pub const SIGNATURE_FILE: &str = "signature.toml";
/// Before the digest in what is signed, so that a signature means nothing in another place.
const PURPOSE: &[u8] = b"althing bundle 1\n";
const SECRET_PREFIX: &str = "althing-ed25519-secret:";
const PUBLIC_PREFIX: &str = "althing-ed25519:";

/// A key that signs bundles. Never printed.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// Makes a new key.
    pub fn generate(chance: &dyn Chance) -> Self {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&chance.bits().to_le_bytes());
        bytes[16..].copy_from_slice(&chance.bits().to_le_bytes());
        SigningKey(ed25519_dalek::SigningKey::from_bytes(&bytes))
    }

    /// Returns the key that checks what this one signs.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Returns the line that goes into its file. Keep that file secret.
    pub fn to_text(&self) -> String {
        format!("{SECRET_PREFIX}{}", STANDARD.encode(self.0.to_bytes()))
    }

    pub(crate) fn sign(&self, digest: &Digest) -> Signature {
        let signature = self.0.sign(&message(digest));
        Signature { key: self.public().id(), signature: STANDARD.encode(signature.to_bytes()) }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

impl FromStr for SigningKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = decode(text, SECRET_PREFIX, "signing key")?;
        Ok(SigningKey(ed25519_dalek::SigningKey::from_bytes(&bytes)))
    }
}

/// A key that checks signatures.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

impl PublicKey {
    /// Returns its short name: sixteen digits of its digest.
    pub fn id(&self) -> String {
        Digest::of(self.0.as_bytes()).to_string()[..16].to_owned()
    }

    /// Returns the line that goes into its file.
    pub fn to_text(&self) -> String {
        self.to_string()
    }

    pub(crate) fn has_signed(&self, digest: &Digest, signature: &Signature) -> bool {
        let bytes = STANDARD.decode(&signature.signature).unwrap_or_default();
        ed25519_dalek::Signature::from_slice(&bytes)
            .is_ok_and(|signature| self.0.verify_strict(&message(digest), &signature).is_ok())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC_PREFIX}{}", STANDARD.encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes = decode(text, PUBLIC_PREFIX, "public key")?;
        ed25519_dalek::VerifyingKey::from_bytes(&bytes)
            .map(PublicKey)
            .map_err(|_| no_key("public key", PUBLIC_PREFIX))
    }
}

/// What stands in `signature.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Signature {
    /// The id of the key.
    key: String,
    /// The signature, in base64.
    signature: String,
}

impl Signature {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        crate::bundle::parse_toml(text, SIGNATURE_FILE)
    }

    pub(crate) fn to_toml(&self) -> String {
        format!("key = {:?}\nsignature = {:?}\n", self.key, self.signature)
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }
}

fn message(digest: &Digest) -> Vec<u8> {
    [PURPOSE, digest.as_bytes()].concat()
}

fn decode(text: &str, prefix: &str, what: &'static str) -> Result<[u8; 32]> {
    let encoded = text.trim().strip_prefix(prefix).ok_or_else(|| no_key(what, prefix))?;
    let bytes = STANDARD.decode(encoded).map_err(|_| no_key(what, prefix))?;
    bytes.try_into().map_err(|_| no_key(what, prefix))
}

/// Does not quote the text: it may be a secret in the wrong place.
fn no_key(what: &str, prefix: &str) -> Error {
    Error::new(Kind::Invalid, "read key", format!("this is not a {what}"))
        .advise(format!("It is one line: {prefix}<base64 of 32 bytes>"))
}

#[cfg(test)]
mod tests {
    use althing_core::SeededChance;

    use super::*;

    #[test]
    fn keys_come_back_from_text_and_sign_for_one_digest_only() {
        let key = SigningKey::generate(&SeededChance::new(1));
        let again: SigningKey = format!("{}\n", key.to_text()).parse().unwrap();
        let public: PublicKey = key.public().to_text().parse().unwrap();
        let signature = again.sign(&Digest::of("a"));
        assert!(public.has_signed(&Digest::of("a"), &signature));
        assert!(!public.has_signed(&Digest::of("b"), &signature));
        let other = SigningKey::generate(&SeededChance::new(2)).public();
        assert!(!other.has_signed(&Digest::of("a"), &signature));
        assert_ne!(other.id(), public.id());
    }

    #[test]
    fn a_key_in_the_wrong_place_is_refused_and_not_quoted() {
        let key = SigningKey::generate(&SeededChance::new(1));
        let error = key.to_text().parse::<PublicKey>().unwrap_err().to_string();
        assert!(!error.contains(&STANDARD.encode(key.0.to_bytes())), "{error}");
        assert!(format!("{key:?}").len() < 40);
    }
}
