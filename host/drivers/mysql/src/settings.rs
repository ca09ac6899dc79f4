//! What a `mysql://` URL says, checked.

use std::time::Duration;

use althing_core::{Location, Result, Secret, limits};

use crate::tls::{self, Tls};

/// The options a URL may carry, besides `namespace`.
const OPTIONS: [&str; 8] =
    ["timeout", "poll-min", "poll-max", "schema", "tls", "tls-ca", "tls-cert", "tls-key"];
const PORT_DEFAULT: u16 = 3306;
/// The longest namespace, in bytes.
const NAMESPACE_BYTES_MAX: usize = 512;
/// The pause between two looks for news: the shortest while something happens, the longest while nothing does.
const POLL_MIN: Duration = Duration::from_millis(10);
const POLL_MAX: Duration = Duration::from_millis(250);
/// What they may be set to.
const POLL_BOUNDS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(10));

const ADVICE: &str = "Write mysql://user:password@host/database";

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
    /// The shortest and the longest pause between two looks for news.
    pub(crate) poll: (Duration, Duration),
    /// Makes the schema where it is missing.
    pub(crate) creates: bool,
}

impl Settings {
    /// Reads a URL. Fails with `Invalid` and a suggestion where it says something we cannot do.
    pub(crate) fn read(location: &Location) -> Result<Settings> {
        location.check_options(&OPTIONS)?;
        let (host, port) = address(location)?;
        let Some(user) = location.user.clone() else {
            return Err(location.wrong("no user").advise(ADVICE));
        };
        let database = location.path.clone();
        if database.is_empty() {
            return Err(location.wrong("no database").advise(ADVICE));
        }
        let namespace = location.namespace().to_owned();
        if namespace.len() > NAMESPACE_BYTES_MAX {
            let message = format!("a namespace of {} bytes; at most {NAMESPACE_BYTES_MAX}", namespace.len());
            return Err(location.wrong(message).advise("Choose a shorter one"));
        }
        let tls = if althing_tls::wanted(location)? { Some(tls::prepare(location, &host)?) } else { None };
        Ok(Settings {
            host,
            port,
            database,
            user,
            password: location.password.clone(),
            tls,
            namespace,
            // Under the deadline of a whole call, so that the answer says what this driver knows of the effect.
            timeout: location.duration("timeout")?.unwrap_or(limits::CALL_DEADLINE * 3 / 4),
            poll: poll(location)?,
            creates: creates(location)?,
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

fn poll(location: &Location) -> Result<(Duration, Duration)> {
    let longest = location.duration("poll-max")?;
    let shortest = location.duration("poll-min")?;
    // Whoever bounds one of them need not know the default of the other.
    let min = shortest.unwrap_or(POLL_MIN.min(longest.unwrap_or(POLL_MIN)));
    let max = longest.unwrap_or(POLL_MAX.max(min));
    if min < POLL_BOUNDS.0 || max > POLL_BOUNDS.1 || min > max {
        let (least, most) = POLL_BOUNDS;
        return Err(location
            .wrong(format!("poll-min is {min:?} and poll-max {max:?}"))
            .advise(format!("Write {least:?} <= poll-min <= poll-max <= {most:?}")));
    }
    Ok((min, max))
}

fn creates(location: &Location) -> Result<bool> {
    match location.option("schema") {
        None | Some("create") => Ok(true),
        Some("given") => Ok(false),
        Some(other) => {
            Err(location.wrong(format!("schema is {other:?}")).advise("Write schema=given or schema=create"))
        }
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
    fn check_poll(options: &str, min: u64, max: u64) {
        let poll = read(&format!("mysql://me@a/b?{options}")).poll;
        assert_eq!(poll, (Duration::from_millis(min), Duration::from_millis(max)));
    }

    #[track_caller]
    fn check_refused(url: &str, said: &str) {
        let error = Settings::read(&url.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }

    #[test]
    fn reads_a_server_a_user_and_a_database() {
        check("mysql://me@a/jobs", "a:3306", "me", "jobs");
        check("mariadb://me:secret@a:7/jobs", "a:7", "me", "jobs");
        check("mysql://me@[::1]:7/jobs", "[::1]:7", "me", "jobs");
    }

    #[test]
    fn creates_unless_told_otherwise() {
        assert!(read("mysql://me@a/b").creates && read("mysql://me@a/b").tls.is_none());
        assert!(!read("mysql://me@a/b?schema=given").creates);
    }

    #[test]
    fn bounds_how_often_it_looks() {
        check_poll("", 10, 250);
        check_poll("poll-min=400ms", 400, 400);
        check_poll("poll-max=5ms", 5, 5);
        check_poll("poll-min=20ms&poll-max=2s", 20, 2000);
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        check_refused("mysql:", "no server");
        check_refused("mysql://me@a,b/c", "Name exactly one");
        check_refused("mysql://a/jobs", "no user");
        check_refused("mysql://me@a", "no database");
        check_refused("mysql://me@a:sql/b", "not a port");
        check_refused("mysql://me@a/b?timeuot=1s", "Did you mean timeout?");
        check_refused("mysql://me@a/b?ssl-mode=required", "Options of mysql");
        check_refused("mysql://me@a/b?poll-min=0ms", "1ms <= poll-min");
        check_refused("mysql://me@a/b?poll-min=1s&poll-max=10ms", "poll-min <= poll-max");
        check_refused("mysql://me@a/b?schema=made", "Write schema=given or schema=create");
        check_refused("mysql://me@a/b?schema=given&tls=on", "Write tls=true or tls=false");
        check_refused("mysql://me@a/b?tls=false&tls-ca=x", "Leave out tls=false");
        check_refused("mysql://me@a/b?tls-ca=/no/such/file", "/no/such/file");
        check_refused(&format!("mysql://me@a/b?namespace={}", "n".repeat(513)), "at most 512");
    }
}
