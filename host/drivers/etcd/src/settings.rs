//! What an `etcd://` URL says, checked.

use std::time::Duration;

use althing_core::{Location, Result, Secret, limits};

use crate::line::Tls;

/// The options a URL may carry, besides `namespace`.
const OPTIONS: [&str; 5] = ["timeout", "tls", "tls-ca", "tls-cert", "tls-key"];
const PORT_DEFAULT: u16 = 2379;

/// A member of the cluster, and how to greet it.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Option<Tls>,
}

/// Where the servers are and how to speak to them.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) servers: Vec<Server>,
    pub(crate) login: Option<(String, Secret)>,
    pub(crate) namespace: String,
    /// How long one call may take, connecting included.
    pub(crate) timeout: Duration,
}

impl Settings {
    /// Reads a URL. Fails with `Invalid` and a suggestion where it says something we cannot do.
    pub(crate) fn read(location: &Location) -> Result<Settings> {
        location.check_options(&OPTIONS)?;
        if !location.path.is_empty() {
            let message = format!("etcd knows no path such as {:?}", location.path);
            return Err(location.wrong(message).advise("Say namespace=… to keep things apart"));
        }
        let with_tls = wants_tls(location)?;
        let server = |host: &String| server(location, host, with_tls);
        let servers = location.hosts.iter().map(server).collect::<Result<Vec<_>>>()?;
        if servers.is_empty() {
            return Err(location.wrong("no server").advise("Write etcd://host1:2379,host2:2379"));
        }
        let login = match (&location.user, &location.password) {
            (None, None) => None,
            (Some(user), Some(password)) => Some((user.clone(), password.clone())),
            _ => {
                let error = location.wrong("user and password need each other");
                return Err(error.advise("Write user:password@ before the hosts"));
            }
        };
        Ok(Settings {
            servers,
            login,
            namespace: location.namespace().to_owned(),
            // Under the deadline of a whole call, so that the answer says what this driver knows of the effect.
            timeout: location.duration("timeout")?.unwrap_or(limits::CALL_DEADLINE * 3 / 4),
        })
    }

    /// Returns the servers as people write them.
    pub(crate) fn address(&self) -> String {
        self.servers.iter().map(Server::address).collect::<Vec<_>>().join(",")
    }
}

impl Server {
    /// Returns the address as people write it.
    pub(crate) fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Returns what to look at where the server accepts a connection and ends it.
    pub(crate) fn hint(&self) -> &'static str {
        match self.tls {
            Some(_) => {
                "Look at tls-cert and tls-key in the backend URL: etcd may ask for a certificate it knows"
            }
            None => "Name etcd's port for clients; if it speaks TLS, write tls=true in the backend URL",
        }
    }
}

fn server(location: &Location, host: &str, with_tls: bool) -> Result<Server> {
    let (name, port) = match host.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| location.wrong(format!("{port:?} is not a port")))?,
        None => PORT_DEFAULT,
    };
    let host = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    let tls = if with_tls { Some(Tls::prepare(location, &host)?) } else { None };
    Ok(Server { host, port, tls })
}

fn wants_tls(location: &Location) -> Result<bool> {
    let implied = althing_tls::implied_by(location).is_some();
    match location.option("tls") {
        None => Ok(implied),
        Some("true") => Ok(true),
        Some("false") if !implied => Ok(false),
        Some("false") => Err(location.wrong("tls=false with a certificate").advise("Leave out tls=false")),
        Some(other) => Err(location.wrong(format!("tls is {other:?}")).advise("Write tls=true or tls=false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hosts_with_and_without_ports() {
        let settings = Settings::read(&"etcd://a,b:7,[::1]:8/?namespace=n".parse().unwrap()).unwrap();
        assert_eq!(settings.address(), "a:2379,b:7,[::1]:8");
        assert_eq!((settings.namespace.as_str(), settings.login.is_none()), ("n", true));
    }

    #[track_caller]
    fn check_refused(url: &str, said: &str) {
        let error = Settings::read(&url.parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }

    #[test]
    fn says_what_is_wrong_with_a_url() {
        check_refused("etcd:", "no server");
        check_refused("etcd://h/prod", "namespace=");
        check_refused("etcd://h:x/", "\"x\" is not a port");
        check_refused("etcd://root@h/", "user:password@");
        check_refused("etcd://h/?tls=yes", "tls=true");
        check_refused("etcd://h/?tls=false&tls-ca=/a", "Leave out tls=false");
        check_refused("etcd://h/?timeuot=1s", "Did you mean timeout?");
    }
}
