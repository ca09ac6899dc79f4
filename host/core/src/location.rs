//! Backend URLs: taken apart once, with options that are checked.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::{Error, Kind, Result, Secret};

/// A backend URL: `scheme://user:password@host:port,host:port/path?option=value`, or `scheme:` alone.
///
/// Never prints its passwords, nor any other option.
#[derive(Clone)]
pub struct Location {
    /// What is before the first colon; tells which driver.
    pub scheme: String,
    /// The user name, decoded.
    pub user: Option<String>,
    /// The password, decoded.
    pub password: Option<Secret>,
    /// Hosts with their ports, in order; empty where the URL names none.
    pub hosts: Vec<String>,
    /// What follows the hosts, without the leading slash, decoded.
    pub path: String,
    options: BTreeMap<String, String>,
}

/// The namespace of a URL that names none.
pub const NAMESPACE_DEFAULT: &str = "althing";

impl Location {
    /// Fails with a suggestion when the URL carries an option outside `known`. Every driver calls this
    /// first; `namespace` is known everywhere.
    pub fn check_options(&self, known: &[&str]) -> Result<()> {
        for name in self.options.keys() {
            if name == "namespace" || known.contains(&name.as_str()) {
                continue;
            }
            let advice = match nearest(name, known.iter().copied().chain(["namespace"])) {
                Some(option) => format!("Did you mean {option}?"),
                None => format!("Options of {}: namespace {}", self.scheme, known.join(" ")),
            };
            return Err(self.wrong(format!("unknown option {name:?}")).advise(advice));
        }
        Ok(())
    }

    /// Returns an option's text.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    /// Returns an option as a time, such as `500ms`, `10s` or `2m`.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>> {
        let Some(text) = self.option(name) else { return Ok(None) };
        match parse_duration(text) {
            Some(time) => Ok(Some(time)),
            None => Err(self
                .wrong(format!("option {name} is {text:?}, which is not a time"))
                .advise("Write a number with ms, s or m, such as 500ms")),
        }
    }

    /// Returns the namespace: the option of that name, or `althing`.
    pub fn namespace(&self) -> &str {
        self.option("namespace").unwrap_or(NAMESPACE_DEFAULT)
    }

    /// Makes the error that something in this URL is wrong.
    pub fn wrong(&self, message: impl Into<String>) -> Error {
        Error::new(Kind::Invalid, "backend URL", message).with("url", self)
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self> {
        let malformed = |what: &str| {
            Error::new(Kind::Invalid, "backend URL", format!("{what} in {}", without_password(url)))
                .advise("A backend URL looks like redis://127.0.0.1:6379/0?namespace=prod, or memory:")
        };
        let (scheme, rest) = url.split_once(':').ok_or_else(|| malformed("no scheme"))?;
        if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
            return Err(malformed("malformed scheme"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
            None => ("", rest),
        };
        let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (login, None),
        };
        let text = |part: &str| decode(part).ok_or_else(|| malformed("a broken %-escape"));
        let mut options = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| malformed("an option without ="))?;
            if options.insert(text(name)?, text(value)?).is_some() {
                return Err(malformed("an option given twice"));
            }
        }
        Ok(Location {
            scheme: scheme.to_ascii_lowercase(),
            user: if user.is_empty() { None } else { Some(text(user)?) },
            password: password.map(text).transpose()?.map(Secret::new),
            hosts: hosts.split(',').filter(|host| !host.is_empty()).map(String::from).collect(),
            path: text(path)?,
            options,
        })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if !self.hosts.is_empty() {
            f.write_str("//")?;
            if let Some(user) = &self.user {
                write!(f, "{user}@")?;
            }
            write!(f, "{}/", self.hosts.join(","))?;
        }
        f.write_str(&self.path)
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self})")
    }
}

/// Reads a time written as a number with `ms`, `s`, `m` or `h`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit_at);
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * scale).ok()
}

/// Returns what was probably meant by a name that nobody knows, if one of those that are known is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (away, near) = known.into_iter().map(|known| (distance(name, known), known)).min()?;
    (away <= 1 + name.len() / 3).then_some(near)
}

fn without_password(url: &str) -> String {
    let (rest, query) = url.split_once('?').unwrap_or((url, ""));
    let mut shown =
        match rest.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?))) {
            Some((scheme, (_, rest))) => format!("{scheme}://***@{rest}"),
            None => rest.to_owned(),
        };
    for (place, pair) in query.split('&').enumerate().filter(|(_, pair)| !pair.is_empty()) {
        shown.push(if place == 0 { '?' } else { '&' });
        shown += match pair.split_once('=') {
            Some((name, _)) if name.ends_with("password") => "a password",
            _ => pair,
        };
    }
    shown
}

fn decode(text: &str) -> Option<String> {
    String::from_utf8(percent_decode(text)?).ok()
}

/// Reads text in which `%` and two hexadecimal digits stand for a byte. `None` where the digits are missing.
pub fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
        }
    }
    Some(bytes)
}

/// The number of letters to add, drop or exchange to make one text of the other.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let exchange = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = exchange.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(url: &str, said: &str) {
        let error = url
            .parse::<Location>()
            .and_then(|location| location.check_options(&["timeout", "tls-ca"]).map(|()| location))
            .and_then(|location| location.duration("timeout"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(said), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn takes_a_url_apart() {
        let location: Location = "redis://me:hunter%322@a:1,b:2/3?namespace=n&timeout=500ms".parse().unwrap();
        assert_eq!(location.user.as_deref(), Some("me"));
        assert!(location.password.as_ref().unwrap().matches("hunter22"));
        assert_eq!(location.hosts, ["a:1", "b:2"]);
        assert_eq!((location.path.as_str(), location.namespace()), ("3", "n"));
        assert_eq!(location.duration("timeout").unwrap(), Some(Duration::from_millis(500)));
        assert_eq!(location.to_string(), "redis://me@a:1,b:2/3");
        let secret: Location = "redis://h/?sentinel_password=hunter2".parse().unwrap();
        assert_eq!(format!("{secret:?}"), "Location(redis://h/)");
        let memory: Location = "memory:".parse().unwrap();
        assert_eq!((memory.scheme.as_str(), memory.namespace()), ("memory", "althing"));
    }

    #[test]
    fn refuses_what_it_does_not_know_and_suggests() {
        check_refused("redis://x:hunter2@h/?timeuot=1s", "Did you mean timeout?");
        check_refused("redis://h/?colour=red", "Options of redis: namespace timeout tls-ca");
        check_refused("redis://h/?timeout=soon", "not a time");
        check_refused("redis://x:hunter2@h/?timeout", "an option without =");
        check_refused("redis://h/%zz?sentinel_password=hunter2", "a broken %-escape");
        check_refused("redis", "no scheme");
        check_refused("redis://h/%zz", "a broken %-escape");
    }
}
