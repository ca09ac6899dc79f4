//! What a `zookeeper://` URL says, checked.

use std::time::Duration;

use althing_core::{Location, Result, Secret, limits};

use crate::layout;
use crate::tls::{self, Tls};

/// The options a URL may carry, besides `namespace`.
const OPTIONS: [&str; 7] = ["timeout", "tls", "tls-ca", "tls-cert", "tls-key", "acl", "tick"];
const PORT_DEFAULT: u16 = 2181;

/// Who may read and write what we make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody may do everything.
    Open,
    /// Only who logs in as we do.
    Creator,
    /// Everybody may read; only who logs in as we do may write.
    Read,
}

/// Where the servers are and how to speak to them.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Name and port of each server.
    pub(crate) servers: Vec<(String, u16)>,
    /// User and password, for the scheme `digest`.
    pub(crate) login: Option<(String, Secret)>,
    pub(crate) access: Access,
    pub(crate) tls: Option<Tls>,
    /// The node below which the namespace lies.
    pub(crate) root: String,
    /// How long one call may take, connecting included.
    pub(crate) timeout: Duration,
    /// The servers' tick, where the operator says it.
    pub(crate) tick: Option<Duration>,
}

impl Settings {
    /// Reads a URL. Fails with `Invalid` and a suggestion where it says something we cannot do.
    pub(crate) fn read(location: &Location) -> Result<Settings> {
        location.check_options(&OPTIONS)?;
        let servers = location.hosts.iter().map(|host| server(location, host)).collect::<Result<Vec<_>>>()?;
        if servers.is_empty() {
            return Err(location.wrong("no server").advise("Write zookeeper://host1,host2,host3"));
        }
        let login = login(location)?;
        let tls = if althing_tls::wanted(location)? { Some(tls::prepare(location, &servers)?) } else { None };
        Ok(Settings {
            servers,
            access: access(location, login.is_some())?,
            login,
            tls,
            root: root(location)?,
            // Under the deadline of a whole call, so that the answer says what this driver knows of the effect.
            timeout: location.duration("timeout")?.unwrap_or(limits::CALL_DEADLINE * 3 / 4),
            tick: location.duration("tick")?,
        })
    }

    /// Returns the servers as people write them.
    pub(crate) fn address(&self) -> String {
        let names = self.servers.iter().map(|(name, port)| match name.contains(':') {
            true => format!("[{name}]:{port}"),
            false => format!("{name}:{port}"),
        });
        names.collect::<Vec<_>>().join(",")
    }
}

fn server(location: &Location, host: &str) -> Result<(String, u16)> {
    let (name, port) = match host.rsplit_once(':') {
        // The colons of an IPv6 address stand in brackets.
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let port = match port {
        Some(port) => port.parse().map_err(|_| location.wrong(format!("{port:?} is not a port")))?,
        None => PORT_DEFAULT,
    };
    Ok((name.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

fn login(location: &Location) -> Result<Option<(String, Secret)>> {
    match (&location.user, &location.password) {
        (None, None) => Ok(None),
        (Some(user), Some(password)) => Ok(Some((user.clone(), password.clone()))),
        _ => Err(location.wrong("user and password need each other").advise("Write user:password@")),
    }
}

fn access(location: &Location, has_login: bool) -> Result<Access> {
    let access = match location.option("acl") {
        None if has_login => Access::Creator,
        None | Some("open") => Access::Open,
        Some("creator") => Access::Creator,
        Some("read") => Access::Read,
        Some(other) => {
            return Err(location
                .wrong(format!("acl is {other:?}"))
                .advise("Write acl=open, acl=creator or acl=read"));
        }
    };
    if access != Access::Open && !has_login {
        return Err(location.wrong("this acl needs a login").advise("Write user:password@ before the hosts"));
    }
    Ok(access)
}

fn root(location: &Location) -> Result<String> {
    let mut root = String::new();
    for name in location.path.split('/').filter(|name| !name.is_empty()) {
        if name == "." || name == ".." || name.chars().any(char::is_control) {
            return Err(location.wrong(format!("{name:?} cannot be a node of ZooKeeper")));
        }
        root = format!("{root}/{name}");
    }
    Ok(format!("{root}/{}", layout::escape(location.namespace().as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, address: &str, root: &str, access: Access) {
        let settings = Settings::read(&url.parse().unwrap()).unwrap();
        assert_eq!((settings.address().as_str(), settings.root.as_str()), (address, root));
        assert_eq!(settings.access, access);
    }

    #[track_caller]
    fn check_refused(url: &str, said: &str) {
        let error = Settings::read(&url.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn reads_servers_a_chroot_and_who_may_read() {
        check("zookeeper://a,b:7,[::1]", "a:2181,b:7,[::1]:2181", "/althing", Access::Open);
        check("kazoo://me:hunter2@a/x/y/?namespace=n", "a:2181", "/x/y/n", Access::Creator);
        check("zookeeper://me:hunter2@a?acl=read", "a:2181", "/althing", Access::Read);
        check("zookeeper://a?namespace=zookeeper", "a:2181", "/%7Aookeeper", Access::Open);
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        check_refused("zookeeper:", "no server");
        check_refused("zookeeper://a:http", "not a port");
        check_refused("zookeeper://a?timeuot=1s", "Did you mean timeout?");
        check_refused("zookeeper://a?acl=creator", "needs a login");
        check_refused("zookeeper://me:hunter2@a?acl=mine", "acl=open, acl=creator or acl=read");
        check_refused("zookeeper://me@a", "need each other");
        check_refused("zookeeper://a/../b", "cannot be a node");
        check_refused("zookeeper://a?tls=false&tls-ca=x", "Leave out tls=false");
        check_refused("zookeeper://a?tls-ca=/no/such/file", "/no/such/file");
    }
}
