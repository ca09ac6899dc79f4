//! The first step of the road: what may not come in is refused before anything is allocated for it.

use std::collections::BTreeMap;

use althing_core::{Error, Kind, Result, limits};

/// Checks the name of a group, a member or a policy. Any Unicode text up to the limit is legal.
pub(crate) fn name(what: &'static str, name: &str) -> Result<()> {
    if name.len() > limits::NAME_BYTES_MAX {
        return Err(Error::new(Kind::TooLarge, "admit", format!("the name of the {what} is too long"))
            .with("bytes", name.len())
            .with("bytes_max", limits::NAME_BYTES_MAX)
            .advise("Shorten it"));
    }
    Ok(())
}

/// Checks what a member says of itself.
pub(crate) fn metadata(metadata: &BTreeMap<String, String>) -> Result<()> {
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if metadata.len() > limits::METADATA_ENTRIES_MAX || bytes > limits::METADATA_BYTES_MAX {
        return Err(Error::new(Kind::TooLarge, "admit", "the member's metadata is too large")
            .with("entries", metadata.len())
            .with("entries_max", limits::METADATA_ENTRIES_MAX)
            .with("bytes", bytes)
            .with("bytes_max", limits::METADATA_BYTES_MAX)
            .advise("Keep large values elsewhere and name them here"));
    }
    Ok(())
}

/// Checks the size of a packed bundle.
pub(crate) fn bundle(bytes: &[u8]) -> Result<()> {
    if bytes.len() > limits::BUNDLE_BYTES_MAX {
        return Err(Error::new(Kind::TooLarge, "push", "the bundle is too large")
            .with("bytes", bytes.len())
            .with("bytes_max", limits::BUNDLE_BYTES_MAX)
            .advise("Build the component for release and strip it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_too_large_and_nothing_else() {
        assert!(name("group", "").is_ok() && name("group", "a/\u{0}\u{1F980}").is_ok());
        assert!(name("group", &"x".repeat(limits::NAME_BYTES_MAX)).is_ok());
        assert_eq!(
            name("group", &"x".repeat(limits::NAME_BYTES_MAX + 1)).unwrap_err().kind(),
            Kind::TooLarge
        );
        let many = (0..=limits::METADATA_ENTRIES_MAX).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(metadata(&many).unwrap_err().kind(), Kind::TooLarge);
        let large = BTreeMap::from([("k".to_owned(), "v".repeat(limits::METADATA_BYTES_MAX))]);
        assert_eq!(metadata(&large).unwrap_err().kind(), Kind::TooLarge);
    }
}
