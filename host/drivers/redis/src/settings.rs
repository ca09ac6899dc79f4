//! What a `redis://` URL says, checked.

use std::time::Duration;

use althing_core::{Location, Result, Secret, limits};

use crate::tls::{self, Tls};

/// The options a URL may carry, besides `namespace`.
const OPTIONS: [&str; 4] = ["timeout", "tls-ca", "tls-cert", "tls-key"];
const PORT_DEFAULT: u16 = 6379;

/// Where the server is and how to speak to it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) database: u16,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) tls: Option<Tls>,
    pub(crate) namespace: String,
    /// How long one call may take, connecting included.
    pub(crate) timeout: Duration,
}

impl Settings {
    /// Reads a URL. Fails with `Invalid` and a suggestion where it says something we cannot do.
    pub(crate) fn read(location: &Location) -> Result<Settings> {
        location.check_options(&OPTIONS)?;
        let (host, port) = address(location)?;
        let database = match location.path.as_str() {
            "" => 0,
            number => number.parse().map_err(|_| {
                location.wrong(format!("{number:?} is not the number of a database")).advise("Write /0")
            })?,
        };
        let tls = match location.scheme.as_str() {
            "rediss" => Some(tls::prepare(location, &host)?),
            _ => {
                refuse_tls_options(location)?;
                None
            }
        };
        Ok(Settings {
            host,
            port,
            database,
            user: location.user.clone(),
            password: location.password.clone(),
            tls,
            namespace: location.namespace().to_owned(),
            // Under the deadline of a whole call, so that the answer says what this driver knows of the effect.
            timeout: location.duration("timeout")?.unwrap_or(limits::CALL_DEADLINE * 3 / 4),
        })
    }

    /// Returns the address as people write it.
    pub(crate) fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

fn address(location: &Location) -> Result<(String, u16)> {
    let [host] = location.hosts.as_slice() else {
        let message = match location.hosts.len() {
            0 => "no server".to_owned(),
            count => format!("{count} servers"),
        };
        return Err(location.wrong(message).advise(
            "Name exactly one server: this driver speaks to a single Redis, not to Sentinel or Cluster",
        ));
    };
    let (name, port) = match host.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host.as_str(), None),
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| location.wrong(format!("{port:?} is not a port")))?,
        None => PORT_DEFAULT,
    };
    Ok((name.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

fn refuse_tls_options(location: &Location) -> Result<()> {
    match althing_tls::implied_by(location) {
        Some(name) => Err(location.wrong(format!("{name} without TLS")).advise("Write rediss://")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, address: &str, database: u16) {
        let settings = Settings::read(&url.parse().unwrap()).unwrap();
        assert_eq!((settings.address().as_str(), settings.database), (address, database));
    }

    #[track_caller]
    fn check_refused(url: &str, said: &str) {
        let error = Settings::read(&url.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }

    #[test]
    fn reads_a_server_and_a_database() {
        check("redis://a", "a:6379", 0);
        check("redis://me:secret@a:7/3", "a:7", 3);
        check("redis://[::1]:7/", "[::1]:7", 0);
        check("redis://[::1]", "[::1]:6379", 0);
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        check_refused("redis:", "no server");
        check_refused("redis://a,b", "not to Sentinel or Cluster");
        check_refused("redis://a/zero", "not the number of a database");
        check_refused("redis://a:http", "not a port");
        check_refused("redis://a?timeuot=1s", "Did you mean timeout?");
        check_refused("redis://a?tls-ca=x", "Write rediss://");
        check_refused("rediss://a?tls-ca=/no/such/file", "/no/such/file");
    }
}
