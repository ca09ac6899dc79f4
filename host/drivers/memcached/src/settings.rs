//! What a `memcached://` URL says, checked.

use std::time::Duration;

use althing_core::{Location, Result, limits};

/// The options a URL may carry, besides `namespace`.
const OPTIONS: [&str; 1] = ["timeout"];
const PORT_DEFAULT: u16 = 11211;
/// The longest namespace, in bytes: it is part of a key, of which memcached allows 250 bytes after escaping.
const NAMESPACE_BYTES_MAX: usize = 128;

/// Where the server is and how to speak to it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Host and port, as people write them.
    pub(crate) address: String,
    pub(crate) namespace: String,
    /// How long one call may take, connecting included.
    pub(crate) timeout: Duration,
}

impl Settings {
    /// Reads a URL. Fails with `Invalid` and a suggestion where it says something we cannot do.
    pub(crate) fn read(location: &Location) -> Result<Settings> {
        refuse_secrets(location)?;
        location.check_options(&OPTIONS)?;
        if !location.path.is_empty() {
            let message = format!("memcached has nothing that {:?} could name", location.path);
            return Err(location.wrong(message).advise("Use ?namespace= to keep fleets apart"));
        }
        let namespace = location.namespace().to_owned();
        if namespace.len() > NAMESPACE_BYTES_MAX {
            let message = format!("a namespace of {} bytes; at most {NAMESPACE_BYTES_MAX}", namespace.len());
            return Err(location.wrong(message).advise("Choose a shorter one"));
        }
        Ok(Settings {
            address: address(location)?,
            namespace,
            // Under the deadline of a whole call, so that the answer says what this driver knows of the effect.
            timeout: location.duration("timeout")?.unwrap_or(limits::CALL_DEADLINE * 3 / 4),
        })
    }
}

/// The client speaks plain TCP and does not log in: whoever asks for more is told, not ignored.
fn refuse_secrets(location: &Location) -> Result<()> {
    let advice = "Keep memcached on a trusted network, or choose another backend";
    if location.user.is_some() || location.password.is_some() {
        let message = "this driver cannot log in to memcached with user and password";
        return Err(location.wrong(message).advise(advice));
    }
    let tls =
        ["tls", "tls-ca", "tls-cert", "tls-key"].into_iter().find(|name| location.option(name).is_some());
    match tls {
        Some(name) => {
            Err(location.wrong(format!("{name}: this driver speaks no TLS to memcached")).advise(advice))
        }
        None => Ok(()),
    }
}

fn address(location: &Location) -> Result<String> {
    let [host] = location.hosts.as_slice() else {
        let message = match location.hosts.len() {
            0 => "no server".to_owned(),
            count => format!("{count} servers"),
        };
        let advice = "Name exactly one server: several memcached know nothing of each other";
        return Err(location.wrong(message).advise(advice));
    };
    match host.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((_, port)) if !port.ends_with(']') => match port.parse::<u16>() {
            Ok(_) => Ok(host.clone()),
            Err(_) => Err(location.wrong(format!("{port:?} is not a port"))),
        },
        _ => Ok(format!("{host}:{PORT_DEFAULT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, address: &str) {
        assert_eq!(Settings::read(&url.parse().unwrap()).unwrap().address, address);
    }

    #[track_caller]
    fn check_refused(url: &str, said: &str) {
        let error = Settings::read(&url.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains(said) && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn reads_a_server() {
        check("memcached://a", "a:11211");
        check("memcached://a:7/?namespace=n", "a:7");
        check("memcached://[::1]", "[::1]:11211");
        check("memcached://[::1]:7", "[::1]:7");
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        check_refused("memcached:", "no server");
        check_refused("memcached://a,b", "know nothing of each other");
        check_refused("memcached://a/0", "Use ?namespace=");
        check_refused("memcached://a:http", "not a port");
        check_refused("memcached://a?timeuot=1s", "Did you mean timeout?");
        check_refused("memcached://me@a", "cannot log in");
        check_refused("memcached://me:hunter2@a", "cannot log in");
        check_refused("memcached://a?tls=true", "speaks no TLS");
        check_refused("memcached://a?tls-ca=x", "speaks no TLS");
        check_refused(&format!("memcached://a?namespace={}", "n".repeat(129)), "at most 128");
    }
}
