//! What an `ipc:` URL says, checked.

use std::path::PathBuf;
use std::time::Duration;

use althing_client::default_socket;
use althing_client::waist::Place;
use althing_core::{Location, Result, limits};

/// The options a URL may carry, besides `namespace`.
const OPTIONS: [&str; 2] = ["backend", "timeout"];

/// Which host, and which part of it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) place: Place,
    /// How long one call may take, connecting included.
    pub(crate) timeout: Duration,
}

impl Settings {
    /// Reads a URL. Fails with `Invalid` and a suggestion where it says something we cannot do.
    pub(crate) fn read(location: &Location) -> Result<Settings> {
        location.check_options(&OPTIONS)?;
        if let Some(host) = location.hosts.first() {
            let message = format!("{host:?} where no host may be: this is a socket of this machine");
            let path = &location.path;
            return Err(location.wrong(message).advise(format!("Did you mean ipc:///{host}/{path}?")));
        }
        if location.user.is_some() || location.password.is_some() {
            let advice = "Leave them out: the kernel tells who we are";
            return Err(location.wrong("a user or a password").advise(advice));
        }
        let option = |name| match location.option(name) {
            Some("") => Err(location.wrong(format!("option {name} is empty"))),
            option => Ok(option.map(String::from)),
        };
        let socket = match location.path.as_str() {
            "" => default_socket(),
            // The slash that begins it is also the one that ends the hosts, of which there are none.
            path => PathBuf::from("/").join(path),
        };
        Ok(Settings {
            place: Place { socket, namespace: option("namespace")?, backend: option("backend")? },
            // Under the deadline of a whole call, so that the answer says what this driver knows of the effect.
            timeout: location.duration("timeout")?.unwrap_or(limits::CALL_DEADLINE * 3 / 4),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, socket: &str, namespace: Option<&str>, backend: Option<&str>) {
        let place = Settings::read(&url.parse().unwrap()).unwrap().place;
        let found = (place.socket, place.namespace.as_deref(), place.backend.as_deref());
        assert_eq!(found, (socket.into(), namespace, backend));
    }

    #[track_caller]
    fn check_refused(url: &str, said: &str) {
        let error = Settings::read(&url.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn takes_a_socket_and_what_part_of_it() {
        check("ipc:///run/a/b.sock", "/run/a/b.sock", None, None);
        check("ipc:/run/a.sock?namespace=prod&backend=disk", "/run/a.sock", Some("prod"), Some("disk"));
        check("ipc:", default_socket().to_str().unwrap(), None, None);
    }

    #[test]
    fn refuses_what_is_no_socket_of_this_machine() {
        check_refused("ipc://run/althing.sock", "Did you mean ipc:///run/althing.sock?");
        check_refused("ipc://me:hunter2@/run/althing.sock", "the kernel tells who we are");
        check_refused("ipc:?namespcae=a", "Did you mean namespace?");
        check_refused("ipc:?namespace=", "option namespace is empty");
        check_refused("ipc:?timeout=soon", "not a time");
    }
}
