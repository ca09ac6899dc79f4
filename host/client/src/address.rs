//! Where a host answers.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use althing_core::{Error, Kind, Result};

/// Where a host answers: `unix:PATH` or `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port, written `host:port`.
    Tcp(String),
}

/// What the socket is called in its folder.
const NAME: &str = "althing.sock";

/// Returns the socket at which a host answers where nobody says otherwise: `althing.sock` in
/// `$XDG_RUNTIME_DIR`, else in `/run` for root, else in a folder of this user below the temporary folder.
pub fn default_socket() -> PathBuf {
    if let Some(folder) = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()) {
        return PathBuf::from(folder).join(NAME);
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run").join(NAME);
    }
    temporary_socket()
}

fn temporary_socket() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    std::env::temp_dir().join(format!("althing-{uid}")).join(NAME)
}

impl Address {
    /// Tells whether this is the socket below the temporary folder, whose own folder anybody may have made before us.
    pub(crate) fn is_open_to_anybody(&self) -> bool {
        matches!(self, Address::Unix(path) if *path == temporary_socket())
    }
}

impl Default for Address {
    fn default() -> Self {
        Address::Unix(default_socket())
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err(wrong(text, "no path"))
            } else {
                Ok(Address::Unix(path.into()))
            };
        }
        if text.starts_with("https://") {
            return Err(wrong(text, "a host does not speak TLS yet"));
        }
        let Some(authority) = text.strip_prefix("http://") else {
            return Err(wrong(text, "neither unix: nor http://"));
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.contains(['/', '@', '?', '#']) {
            return Err(wrong(text, "more than host and port"));
        }
        match authority.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
                Ok(Address::Tcp(authority.to_owned()))
            }
            _ => Err(wrong(text, "no port")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(authority) => write!(f, "http://{authority}"),
        }
    }
}

fn wrong(text: &str, what: &str) -> Error {
    let advice = if text.starts_with(['/', '.']) {
        format!("Did you mean unix:{text}?")
    } else {
        "Write unix:/run/althing.sock or http://127.0.0.1:4001".into()
    };
    Error::new(Kind::Invalid, "address", format!("{what} in {text:?}")).advise(advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let said = match text.parse::<Address>() {
            Ok(address) => address.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn takes_sockets_and_ports() {
        check("unix:/run/a.sock", "unix:/run/a.sock");
        check("unix:///run/a.sock", "unix:/run/a.sock");
        check("http://127.0.0.1:80/", "http://127.0.0.1:80");
        check("http://[::1]:4001", "http://[::1]:4001");
    }

    #[test]
    fn says_what_is_wrong_and_what_to_write() {
        const WRITE: &str = "Write unix:/run/althing.sock or http://127.0.0.1:4001";
        check(
            "/run/a.sock",
            "address: neither unix: nor http:// in \"/run/a.sock\". Did you mean unix:/run/a.sock?",
        );
        check("unix:", &format!("address: no path in \"unix:\". {WRITE}"));
        check("http://localhost", &format!("address: no port in \"http://localhost\". {WRITE}"));
        check("http://h:70000", &format!("address: no port in \"http://h:70000\". {WRITE}"));
        check("http://h:1/v1", &format!("address: more than host and port in \"http://h:1/v1\". {WRITE}"));
        check("https://h:1", &format!("address: a host does not speak TLS yet in \"https://h:1\". {WRITE}"));
        check("", &format!("address: neither unix: nor http:// in \"\". {WRITE}"));
    }
}
