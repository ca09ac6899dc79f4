//! Text that must not be shown.

use std::fmt;

/// A credential. Prints as `***`; compares in a time that does not depend on where texts differ.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a credential.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// Returns the credential, to hand it to whoever asks for it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Tells whether `other` is the same text.
    pub fn matches(&self, other: &str) -> bool {
        let (left, right) = (self.0.as_bytes(), other.as_bytes());
        left.len() == right.len()
            && left.iter().zip(right).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_never_printed_and_matches_only_itself() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "***");
        assert!(secret.matches("hunter2"));
        assert!(!secret.matches("hunter3") && !secret.matches("hunter") && !secret.matches(""));
    }
}
