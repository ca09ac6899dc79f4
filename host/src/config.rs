//! The configuration file of a host.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use althing_core::location::{nearest, parse_duration};
use althing_core::{Error, Kind, Result};
use serde::{Deserialize, Deserializer};

/// What a configuration file says, each key as the option of `althing serve` of that name. What it leaves
/// out keeps its default. Relative paths count from the folder of the file.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The URL of the backend; of several, of the one that is meant where none is named.
    pub backend: Option<String>,
    /// The URLs of further backends by their names.
    pub backends: BTreeMap<String, String>,
    /// The TCP address to listen on.
    pub listen: Option<SocketAddr>,
    /// The Unix socket to listen on.
    pub socket: Option<PathBuf>,
    /// The state directory.
    pub state: Option<PathBuf>,
    /// The lease to ask of the backend, such as `"10s"`.
    #[serde(deserialize_with = "duration")]
    pub lease: Option<Duration>,
    /// The host's name, for people.
    pub name: Option<String>,
    /// Files with the public keys of those whose bundles are run.
    pub trust: Vec<PathBuf>,
    /// Whether bundles without a trusted signature are run.
    pub allow_unsigned: bool,
}

impl fmt::Debug for Config {
    /// Leaves out the URLs of the backends, in which passwords may be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("backends", &self.backends.keys())
            .field("listen", &self.listen)
            .field("socket", &self.socket)
            .field("state", &self.state)
            .field("lease", &self.lease)
            .field("name", &self.name)
            .field("trust", &self.trust)
            .field("allow_unsigned", &self.allow_unsigned)
            .finish_non_exhaustive()
    }
}

const KEYS: &[&str] =
    &["backend", "backends", "listen", "socket", "state", "lease", "name", "trust", "allow_unsigned"];

impl Config {
    /// Reads a file. Fails with the line where it is wrong, and a suggestion for a key that nobody knows.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).map_err(|error| {
            let kind =
                if error.kind() == std::io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Invalid };
            Error::new(kind, "read configuration", "the file cannot be read")
                .with("file", file.display())
                .because(error)
        })?;
        let config = Self::parse(&text).map_err(|error| error.with("file", file.display()))?;
        Ok(config.below(file.parent().unwrap_or(Path::new(""))))
    }

    fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            let told = Error::new(Kind::Invalid, "read configuration", error.message()).with("line", line);
            let meant = unknown_key(error.message()).and_then(|name| nearest(name, KEYS.iter().copied()));
            match meant {
                Some(key) => told.advise(format!("Did you mean {key}?")),
                None => told,
            }
        })
    }

    fn below(mut self, folder: &Path) -> Self {
        for path in self.socket.iter_mut().chain(&mut self.state).chain(&mut self.trust) {
            *path = folder.join(&*path);
        }
        self
    }
}

/// Returns the key that a message of serde calls unknown.
fn unknown_key(message: &str) -> Option<&str> {
    let (name, _) = message.strip_prefix("unknown field `")?.split_once('`')?;
    Some(name)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = || serde::de::Error::custom(format!("{text:?} is not a time such as 10s or 500ms"));
    parse_duration(&text).map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(text: &str, said: &str) {
        let error = Config::parse(text).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }

    #[test]
    fn reads_every_key() {
        let text = r#"
            backend = "redis://127.0.0.1:6379/0"
            listen = "127.0.0.1:4001"
            socket = "a.sock"
            state = "/var/lib/althing"
            lease = "500ms"
            name = "north"
            trust = ["ops.pub"]
            allow_unsigned = true
            [backends]
            locks = "etcd://e1,e2,e3/?namespace=prod"
        "#;
        let config = Config::parse(text).unwrap().below(Path::new("/etc/althing"));
        assert_eq!(config.socket, Some("/etc/althing/a.sock".into()));
        assert_eq!(config.state, Some("/var/lib/althing".into()));
        assert_eq!(config.trust, [PathBuf::from("/etc/althing/ops.pub")]);
        assert_eq!(config.lease, Some(Duration::from_millis(500)));
        assert_eq!(config.backends["locks"], "etcd://e1,e2,e3/?namespace=prod");
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn says_the_line_and_what_was_probably_meant() {
        check_refused("name = \"x\"\nbackedn = \"memory:\"", "(line=2)");
        check_refused("name = \"x\"\nbackedn = \"memory:\"", "Did you mean backend?");
        check_refused("lease = \"soon\"", "\"soon\" is not a time such as 10s or 500ms (line=1)");
        check_refused("\n\nlisten = \"everywhere\"", "(line=3)");
        check_refused("name", "(line=1)");
    }
}
