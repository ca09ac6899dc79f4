//! The first step of the road: what may not come in is refused before anything is allocated for it.

use std::collections::{BTreeMap, BTreeSet};

use althing_core::info::{LockAsk, LockMode};
use althing_core::{Error, Kind, Result, limits};
use serde_json::Value;

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

/// Checks what a request for locks asks, and returns the names in the order in which they are taken.
pub(crate) fn lock(ask: &LockAsk) -> Result<Vec<String>> {
    let invalid =
        |message: String, advice: &str| Err(Error::new(Kind::Invalid, "lock", message).advise(advice));
    for each in &ask.names {
        name("lock", each)?;
    }
    let names: Vec<_> = ask.names.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    if names.is_empty() || ask.names.len() > limits::LOCK_NAMES_MAX || names.len() < ask.names.len() {
        let message = format!("{} names, {} of them different", ask.names.len(), names.len());
        let advice = format!("Give from one to {} different names", limits::LOCK_NAMES_MAX);
        return invalid(message, &advice);
    }
    let most = limits::LOCK_PARTIES_MAX as u32;
    match (ask.mode, ask.limit) {
        (LockMode::Permit, Some(limit)) if (1..=most).contains(&limit) => {}
        (LockMode::Permit, limit) => {
            let limit = limit.map_or("no limit".to_owned(), |limit| format!("a limit of {limit}"));
            return invalid(format!("{limit} of permits"), &format!("Say how many there are: 1 to {most}"));
        }
        (_, Some(_)) => {
            return invalid("a limit, and no permits".into(), "Leave it out, or ask for a permit");
        }
        (_, None) => {}
    }
    for (what, text) in [("id", &ask.id), ("label", &ask.label)] {
        let Some(text) = text else { continue };
        if text.len() > limits::LOCK_LABEL_BYTES_MAX || text.chars().any(char::is_control) {
            let most = limits::LOCK_LABEL_BYTES_MAX;
            let advice = format!("Use at most {most} bytes and no control characters");
            return invalid(
                format!("an {what} of {} bytes, or with control characters", text.len()),
                &advice,
            );
        }
    }
    Ok(names)
}

/// Checks what a member says it can do.
pub(crate) fn capabilities(capabilities: &Value) -> Result<()> {
    let too_large = |what: &str| {
        Error::new(Kind::TooLarge, "admit", format!("the member's capabilities are too {what}"))
            .with("bytes_max", limits::CAPABILITIES_BYTES_MAX)
            .with("depth_max", limits::CAPABILITIES_DEPTH_MAX)
            .advise("Keep large values elsewhere and name them here")
    };
    if is_deeper(capabilities, limits::CAPABILITIES_DEPTH_MAX) {
        return Err(too_large("deep"));
    }
    if capabilities.to_string().len() > limits::CAPABILITIES_BYTES_MAX {
        return Err(too_large("large"));
    }
    Ok(())
}

/// Tells whether values lie deeper in one another than that. It looks no deeper.
fn is_deeper(value: &Value, depth: usize) -> bool {
    let deeper = |value: &Value| depth == 0 || is_deeper(value, depth - 1);
    match value {
        Value::Array(values) => values.iter().any(deeper),
        Value::Object(fields) => fields.values().any(deeper),
        _ => false,
    }
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
        let nested = |depth| (0..depth).fold(Value::Null, |value, _| Value::Array(vec![value]));
        assert!(capabilities(&nested(limits::CAPABILITIES_DEPTH_MAX)).is_ok());
        let deep = nested(limits::CAPABILITIES_DEPTH_MAX + 1);
        let large = Value::String("x".repeat(limits::CAPABILITIES_BYTES_MAX - 1));
        for capable in [deep, large] {
            assert_eq!(capabilities(&capable).unwrap_err().kind(), Kind::TooLarge);
        }
    }

    #[test]
    fn a_request_for_locks_says_what_can_be_done() {
        let names = |names: &[&str]| LockAsk {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..LockAsk::default()
        };
        assert_eq!(lock(&names(&["b", "a", "B"])).unwrap(), ["B", "a", "b"]);
        let permits = |limit| LockAsk { mode: LockMode::Permit, limit, ..names(&["a"]) };
        assert!(lock(&permits(Some(1))).is_ok());
        let label = |label: &str| LockAsk { label: Some(label.into()), ..names(&["a"]) };
        assert!(lock(&label("\u{1F980} 1")).is_ok());
        let refused = [
            names(&[]),
            names(&["a", "a"]),
            names(&["a"; limits::LOCK_NAMES_MAX + 1]),
            permits(None),
            permits(Some(0)),
            permits(Some(limits::LOCK_PARTIES_MAX as u32 + 1)),
            LockAsk { limit: Some(2), ..names(&["a"]) },
            label("\n"),
            LockAsk { id: Some("x".repeat(limits::LOCK_LABEL_BYTES_MAX + 1)), ..names(&["a"]) },
        ];
        for ask in refused {
            assert_eq!(lock(&ask).unwrap_err().kind(), Kind::Invalid, "{ask:?}");
        }
    }
}
