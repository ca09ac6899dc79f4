//! What a `file:` URL says, checked.

use std::path::PathBuf;
use std::time::Duration;

use althing_core::{Location, Result, limits};

/// The options a URL may carry, besides `namespace`.
const OPTIONS: [&str; 1] = ["timeout"];
/// The longest namespace, in bytes: escaped, it is the name of a folder, of which Linux allows 255 bytes.
const NAMESPACE_BYTES_MAX: usize = 80;

/// Where the directory is.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The directory, from the root.
    pub(crate) directory: PathBuf,
    pub(crate) namespace: String,
    /// How long one call may take.
    pub(crate) timeout: Duration,
}

impl Settings {
    /// Reads a URL. Fails with `Invalid` and a suggestion where it says something we cannot do.
    pub(crate) fn read(location: &Location) -> Result<Settings> {
        location.check_options(&OPTIONS)?;
        if let Some(host) = location.hosts.first() {
            let message = format!("{host:?} stands where a server is named");
            return Err(location
                .wrong(message)
                .advise("Write three slashes: file:///var/lib/althing/shared"));
        }
        if location.user.is_some() || location.password.is_some() {
            return Err(location.wrong("a directory has no users").advise("Its rights say who may use it"));
        }
        let path = location.path.trim_matches('/');
        if path.is_empty() || path.contains('\0') {
            return Err(location.wrong("no directory").advise("Write file:///var/lib/althing/shared"));
        }
        let namespace = location.namespace().to_owned();
        if namespace.is_empty() || namespace.len() > NAMESPACE_BYTES_MAX {
            let message =
                format!("a namespace of {} bytes; 1 to {NAMESPACE_BYTES_MAX} are allowed", namespace.len());
            return Err(location.wrong(message).advise("Choose another one"));
        }
        Ok(Settings {
            directory: PathBuf::from(format!("/{path}")),
            namespace,
            // Under the deadline of a whole call, so that the answer says what this driver knows of the effect.
            timeout: location.duration("timeout")?.unwrap_or(limits::CALL_DEADLINE * 3 / 4),
        })
    }

    /// Returns the name of the namespace's folder: letters, digits, `-` and `_` stay, so that no name is special.
    pub(crate) fn folder_name(&self) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let escape =
            |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
        // The prefix keeps it apart from everything else in the directory.
        format!("ns-{}", self.namespace.bytes().map(escape).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, directory: &str, folder: &str) {
        let settings = Settings::read(&url.parse().unwrap()).unwrap();
        assert_eq!(settings.directory, PathBuf::from(directory));
        assert_eq!(settings.folder_name(), folder);
    }

    #[track_caller]
    fn check_refused(url: &str, said: &str) {
        let error = Settings::read(&url.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains(said) && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn reads_a_directory_and_keeps_namespaces_apart() {
        check("file:///var/lib/a", "/var/lib/a", "ns-althing");
        check("file:///var/lib/a%20b/?namespace=prod-1", "/var/lib/a b", "ns-prod-1");
        check("file:///x?namespace=a/b", "/x", "ns-a%2Fb");
        check("file:///x?namespace=..", "/x", "ns-%2E%2E");
        check(&format!("file:///x?namespace={}", "/".repeat(80)), "/x", &format!("ns-{}", "%2F".repeat(80)));
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        check_refused("file:", "no directory");
        check_refused("file:///", "no directory");
        check_refused("file://var/lib", "three slashes");
        check_refused("file://me:hunter2@/var", "no users");
        check_refused("file:///x?timeuot=1s", "Did you mean timeout?");
        check_refused("file:///x?namespace=", "1 to 80");
        check_refused(&format!("file:///x?namespace={}", "n".repeat(81)), "1 to 80");
    }
}
