//! What a `postgresql://` URL says, checked.

use std::time::Duration;

use althing_core::{Location, Result, Secret, limits};

use crate::tls::{self, Tls};

/// The options a URL may carry, besides `namespace`.
const OPTIONS: [&str; 7] = ["timeout", "listen", "schema", "tls", "tls-ca", "tls-cert", "tls-key"];
const PORT_DEFAULT: u16 = 5432;

/// Where the server is and how to speak to it.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) database: String,
    pub(crate) user: String,
    pub(crate) password: Option<Secret>,
    pub(crate) tls: Option<Tls>,
    pub(crate) namespace: String,
    /// How long one call may take, connecting included.
    pub(crate) timeout: Duration,
    /// Lets the server wake the watches; else they only look by themselves.
    pub(crate) listen: bool,
    /// Makes the schema where it is missing.
    pub(crate) creates: bool,
}

impl Settings {
    /// Reads a URL. Fails with `Invalid` and a suggestion where it says something we cannot do.
    pub(crate) fn read(location: &Location) -> Result<Settings> {
        location.check_options(&OPTIONS)?;
        let (host, port) = address(location)?;
        let Some(user) = location.user.clone() else {
            return Err(location.wrong("no user").advise("Write postgresql://user:password@host/database"));
        };
        let database = if location.path.is_empty() { user.clone() } else { location.path.clone() };
        for (what, text) in [("user", &user), ("database", &database)] {
            if text.contains('\0') {
                return Err(location.wrong(format!("a zero byte in the name of the {what}")));
            }
        }
        let tls = if althing_tls::wanted(location)? { Some(tls::prepare(location, &host)?) } else { None };
        Ok(Settings {
            host,
            port,
            database,
            user,
            password: location.password.clone(),
            tls,
            namespace: location.namespace().to_owned(),
            // Under the deadline of a whole call, so that the answer says what this driver knows of the effect.
            timeout: location.duration("timeout")?.unwrap_or(limits::CALL_DEADLINE * 3 / 4),
            listen: choice(location, "listen", "false", "true")?,
            creates: choice(location, "schema", "given", "create")?,
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
        return Err(location
            .wrong(message)
            .advise("Name exactly one: the primary, or an address that leads to whichever is the primary"));
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

/// Reads an option of two values; without it, the second. Tells whether it is the second.
fn choice(location: &Location, name: &str, first: &str, second: &str) -> Result<bool> {
    match location.option(name) {
        None => Ok(true),
        Some(value) if value == second => Ok(true),
        Some(value) if value == first => Ok(false),
        Some(other) => Err(location
            .wrong(format!("{name} is {other:?}"))
            .advise(format!("Write {name}={first} or {name}={second}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn read(url: &str) -> Settings {
        Settings::read(&url.parse().unwrap()).unwrap()
    }

    #[track_caller]
    fn check(url: &str, address: &str, user: &str, database: &str) {
        let settings = read(url);
        assert_eq!(
            (settings.address().as_str(), settings.user.as_str(), settings.database.as_str()),
            (address, user, database)
        );
    }

    #[track_caller]
    fn check_refused(url: &str, said: &str) {
        let error = Settings::read(&url.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }

    #[test]
    fn reads_a_server_a_user_and_a_database() {
        check("postgresql://me@a", "a:5432", "me", "me");
        check("postgres://me:secret@a:7/jobs", "a:7", "me", "jobs");
        check("postgresql://me@[::1]:7/", "[::1]:7", "me", "me");
    }

    #[test]
    fn listens_and_creates_unless_told_otherwise() {
        let settings = read("postgresql://me@a");
        assert!(settings.listen && settings.creates && settings.tls.is_none());
        let settings = read("postgresql://me@a?listen=false&schema=given");
        assert!(!settings.listen && !settings.creates);
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        check_refused("postgresql:", "no server");
        check_refused("postgresql://me@a,b", "Name exactly one");
        check_refused("postgresql://a/jobs", "no user");
        check_refused("postgresql://me@a/%00", "a zero byte");
        check_refused("postgresql://me@a:sql", "not a port");
        check_refused("postgresql://me@a?timeuot=1s", "Did you mean timeout?");
        check_refused("postgresql://me@a?sslmode=require", "Options of postgresql");
        check_refused("postgresql://me@a?listen=no", "Write listen=false or listen=true");
        check_refused("postgresql://me@a?schema=given&tls=on", "Write tls=true or tls=false");
        check_refused("postgresql://me@a?tls=false&tls-ca=x", "Leave out tls=false");
        check_refused("postgresql://me@a?tls-ca=/no/such/file", "/no/such/file");
    }
}
