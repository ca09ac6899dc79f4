//! What an `embedded:///path` URL says, checked.

use std::path::PathBuf;
use std::time::Duration;

use althing_core::{Location, Result, limits};

/// The options a URL may carry, besides `namespace`.
const OPTIONS: [&str; 1] = ["timeout"];
const EXAMPLE: &str = "Write embedded:///var/lib/althing/store.redb, with three slashes and the whole path";

/// Which file, and how long a call may take.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) path: PathBuf,
    pub(crate) namespace: String,
    pub(crate) timeout: Duration,
    #[cfg(test)]
    pub(crate) faults: crate::wire::Faults,
}

impl Settings {
    /// Reads a URL. Fails with `Invalid` and a suggestion where it says something we cannot do.
    pub(crate) fn read(location: &Location) -> Result<Settings> {
        location.check_options(&OPTIONS)?;
        if !location.hosts.is_empty() || location.user.is_some() {
            return Err(location.wrong("a host where a file is expected").advise(EXAMPLE));
        }
        let path = location.path.trim_start_matches('/');
        if path.is_empty() || path.ends_with('/') || path.contains('\0') {
            return Err(location.wrong("no name of a file").advise(EXAMPLE));
        }
        Ok(Settings {
            path: PathBuf::from(format!("/{path}")),
            namespace: location.namespace().to_owned(),
            // Under the deadline of a whole call, so that the answer says what this driver knows of the effect.
            timeout: location.duration("timeout")?.unwrap_or(limits::CALL_DEADLINE * 3 / 4),
            #[cfg(test)]
            faults: crate::wire::Faults::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, path: &str) {
        assert_eq!(Settings::read(&url.parse().unwrap()).unwrap().path, PathBuf::from(path));
    }

    #[track_caller]
    fn check_refused(url: &str, said: &str) {
        let error = Settings::read(&url.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }

    #[test]
    fn reads_a_whole_path() {
        check("embedded:///var/lib/a.redb?namespace=n&timeout=1s", "/var/lib/a.redb");
        check("embedded:/a%20b", "/a b");
    }

    #[test]
    fn refuses_what_names_no_file() {
        check_refused("embedded://var/lib/a.redb", "three slashes");
        check_refused("embedded:", "no name of a file");
        check_refused("embedded:///var/lib/", "no name of a file");
        check_refused("embedded:///a%00b", "no name of a file");
        check_refused("embedded:///a?timeuot=1s", "Did you mean timeout?");
    }
}
