//! What a URL of this driver says, checked.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use althing_core::{Location, Result, Secret, limits};

use crate::sentinel::Sentinels;
use crate::tls::Tls;

/// The options a URL may carry, besides `namespace`.
const OPTIONS: [&str; 4] = ["timeout", "tls-ca", "tls-cert", "tls-key"];
const OPTIONS_UNIX: [&str; 2] = ["timeout", "db"];
const OPTIONS_SENTINEL: [&str; 6] =
    ["timeout", "sentinel_username", "sentinel_password", "tls-ca", "tls-cert", "tls-key"];
const PORT_DEFAULT: u16 = 6379;
const PORT_SENTINEL_DEFAULT: u16 = 26379;
/// The most sentinels a URL names.
const SENTINELS_MAX: usize = 16;

/// How to find the server, and what to do there.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) way: Way,
    pub(crate) login: Login,
    pub(crate) tls: Option<Tls>,
    pub(crate) namespace: String,
    /// How long one call may take, connecting included.
    pub(crate) timeout: Duration,
}

/// How to find the server.
#[derive(Debug)]
pub(crate) enum Way {
    /// It is always the same.
    Direct(Endpoint),
    /// Sentinels know which it is.
    Sentinels(Sentinels),
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// Who we are to a server, and which of its databases we use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Login {
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) database: u16,
}

/// All that is needed to speak to a server.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) endpoint: Endpoint,
    pub(crate) login: Login,
    pub(crate) tls: Option<Tls>,
}

impl Settings {
    /// Reads a URL. Fails with `Invalid` and a suggestion where it says something we cannot do.
    pub(crate) fn read(location: &Location) -> Result<Settings> {
        let mut tls = None;
        let (way, database) = match location.scheme.as_str() {
            "redis+unix" => {
                location.check_options(&OPTIONS_UNIX)?;
                (Way::Direct(socket(location)?), location.option("db").unwrap_or_default())
            }
            scheme if scheme.ends_with("+sentinel") => {
                location.check_options(&OPTIONS_SENTINEL)?;
                tls = Tls::read(location)?;
                let (master, database) = location.path.split_once('/').unwrap_or((&location.path, ""));
                (sentinels(location, master, tls.as_ref())?, database)
            }
            _ => {
                location.check_options(&OPTIONS)?;
                tls = Tls::read(location)?;
                (Way::Direct(server(location, tls.as_ref())?), location.path.as_str())
            }
        };
        Ok(Settings {
            way,
            login: Login {
                user: location.user.clone(),
                password: location.password.clone(),
                database: read_database(location, database)?,
            },
            tls,
            namespace: location.namespace().to_owned(),
            // Under the deadline of a whole call, so that the answer says what this driver knows of the effect.
            timeout: location.duration("timeout")?.unwrap_or(limits::CALL_DEADLINE * 3 / 4),
        })
    }

    /// Returns all that is needed to use the server at `endpoint`.
    pub(crate) fn target(&self, endpoint: Endpoint) -> Target {
        Target { endpoint, login: self.login.clone(), tls: self.tls.clone() }
    }

    /// Tells whether another server may take over, which lacks what was not yet replicated.
    pub(crate) fn is_replicated(&self) -> bool {
        matches!(self.way, Way::Sentinels(_))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Direct(endpoint) => endpoint.fmt(f),
            Way::Sentinels(sentinels) => sentinels.fmt(f),
        }
    }
}

impl fmt::Display for Endpoint {
    /// Writes the address as people write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
            Endpoint::Unix(file) => file.display().fmt(f),
        }
    }
}

/// Returns the addresses of servers as people write them.
pub(crate) fn addresses(targets: &[Target]) -> String {
    targets.iter().map(|target| target.endpoint.to_string()).collect::<Vec<_>>().join(",")
}

fn server(location: &Location, tls: Option<&Tls>) -> Result<Endpoint> {
    let [host] = location.hosts.as_slice() else {
        let message = match location.hosts.len() {
            0 => "no server".to_owned(),
            count => format!("{count} servers"),
        };
        return Err(location
            .wrong(message)
            .advise("Name exactly one server, or the sentinels of one with redis+sentinel://"));
    };
    tcp(location, host, PORT_DEFAULT, tls)
}

fn socket(location: &Location) -> Result<Endpoint> {
    if !location.hosts.is_empty() || location.path.is_empty() {
        let wrong = location.wrong("no path of a socket");
        return Err(wrong.advise("Write three slashes, as in redis+unix:///run/redis.sock?db=0"));
    }
    // A URL drops the slash that begins its path.
    Ok(Endpoint::Unix(PathBuf::from("/").join(&location.path)))
}

fn sentinels(location: &Location, master: &str, tls: Option<&Tls>) -> Result<Way> {
    const EXAMPLE: &str = "Write redis+sentinel://host1,host2,host3/name-of-the-master/database";
    if !(1..=SENTINELS_MAX).contains(&location.hosts.len()) {
        let message = format!("{} sentinels", location.hosts.len());
        return Err(location.wrong(message).advise(EXAMPLE));
    }
    if master.is_empty() {
        return Err(location.wrong("no name of a master").advise(EXAMPLE));
    }
    let login = Login {
        user: location.option("sentinel_username").map(String::from),
        password: location.option("sentinel_password").map(Secret::new),
        database: 0,
    };
    let target = |host: &String| {
        let endpoint = tcp(location, host, PORT_SENTINEL_DEFAULT, tls)?;
        Ok(Target { endpoint, login: login.clone(), tls: tls.cloned() })
    };
    let targets = location.hosts.iter().map(target).collect::<Result<_>>()?;
    Ok(Way::Sentinels(Sentinels::new(targets, master.to_owned())))
}

fn tcp(location: &Location, host: &str, port_default: u16, tls: Option<&Tls>) -> Result<Endpoint> {
    let (name, port) = match host.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| location.wrong(format!("{port:?} is not a port")))?,
        None => port_default,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if tls.is_some() {
        althing_tls::server_name(location, name)?;
    }
    Ok(Endpoint::Tcp { host: name.to_owned(), port })
}

fn read_database(location: &Location, text: &str) -> Result<u16> {
    if text.is_empty() {
        return Ok(0);
    }
    let advice = if location.scheme == "redis+unix" { "Write db=0" } else { "Write /0" };
    text.parse()
        .map_err(|_| location.wrong(format!("{text:?} is not the number of a database")).advise(advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, way: &str, database: u16) {
        let settings = Settings::read(&url.parse().unwrap()).unwrap();
        assert_eq!((settings.way.to_string().as_str(), settings.login.database), (way, database));
        assert!(!format!("{settings:?}").contains("secret"), "{settings:?}");
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
        check("redis+unix:///run/redis.sock", "/run/redis.sock", 0);
        check("redis+unix:/run/redis.sock", "/run/redis.sock", 0);
        check("redis+unix://me:secret@/run/redis.sock?db=4", "/run/redis.sock", 4);
    }

    #[test]
    fn reads_sentinels_and_what_they_call_the_master() {
        check("redis+sentinel://a,b:7/m", "m by the sentinels a:26379,b:7", 0);
        check("redis+sentinel://me:secret@a/m/3?sentinel_password=secret", "m by the sentinels a:26379", 3);
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        check_refused("redis:", "no server");
        check_refused("redis://a,b", "redis+sentinel://");
        check_refused("redis://a/zero", "not the number of a database");
        check_refused("redis://a:http", "not a port");
        check_refused("redis://a?timeuot=1s", "Did you mean timeout?");
        check_refused("redis://a?tls-ca=x", "Write rediss://");
        check_refused("rediss://a?tls-ca=/no/such/file", "/no/such/file");
        check_refused("redis+unix:", "three slashes");
        check_refused("redis+unix://run/redis.sock", "three slashes");
        check_refused("redis+unix:///run/redis.sock?db=x", "Write db=0");
        check_refused("redis+sentinel://a,b", "no name of a master");
        check_refused("redis+sentinel:/m", "0 sentinels");
        check_refused("redis+sentinel://a/m/n", "not the number of a database");
        check_refused("redis+sentinel://a/m?tls-ca=x", "Write rediss+sentinel://");
    }
}
