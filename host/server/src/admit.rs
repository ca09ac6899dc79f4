//! Who asks: the kernel says it on a Unix socket, a token says it on TCP.

use std::net::IpAddr;
use std::sync::Arc;

use althing_core::{Error, Kind, Principal, Result, Secret};
use hyper::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use hyper::{HeaderMap, Request};

/// The name of the one token there is.
const TOKEN_NAME: &str = "operator";

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// A process of this machine, with its user id.
    Unix(u32),
    /// Somebody who has to show this token.
    Tcp(Arc<Secret>),
}

/// Establishes who makes a request. Fails with `Denied`.
///
/// A browser on this machine can be made to send requests to loopback ports by any page it shows. Such
/// a request carries an `Origin`, or, after DNS was bent, a foreign `Host`.
pub(crate) fn principal<B>(peer: &Peer, request: &Request<B>) -> Result<Principal> {
    let token = match peer {
        Peer::Unix(uid) => return Ok(Principal::Uid(*uid)),
        Peer::Tcp(token) => token,
    };
    let headers = request.headers();
    if headers.contains_key(ORIGIN) {
        return Err(denied("a request with an Origin header, as a web page sends it")
            .advise("Use a client that is no browser"));
    }
    let host = text(headers, HOST).or(request.uri().authority().map(|authority| authority.as_str()));
    if !host.is_some_and(is_loopback) {
        return Err(denied("a request with a Host header that is not of this machine")
            .advise("Address the host as 127.0.0.1, [::1] or localhost"));
    }
    let shown = text(headers, AUTHORIZATION).and_then(|text| text.strip_prefix("Bearer "));
    match shown {
        Some(shown) if token.matches(shown) => Ok(Principal::Token(TOKEN_NAME.into())),
        Some(_) => {
            Err(denied("a wrong bearer token").advise("See the token file named when the host started"))
        }
        None => Err(denied("no bearer token").advise("Name the host's token file with --token-file")),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(address, _)| address),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn denied(message: &str) -> Error {
    Error::new(Kind::Denied, "admit", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(headers: &[(&str, &str)], expected: &str) {
        let mut request = Request::builder().uri("/v1/host");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let peer = Peer::Tcp(Arc::new(Secret::new("sesame")));
        let said = match principal(&peer, &request.body(()).unwrap()) {
            Ok(principal) => principal.to_string(),
            Err(error) => error.message().to_owned(),
        };
        assert!(said.contains(expected), "{said}");
    }

    const SESAME: (&str, &str) = ("authorization", "Bearer sesame");

    #[test]
    fn a_port_opens_to_the_token_alone() {
        check(&[("host", "127.0.0.1:4001"), SESAME], "token:operator");
        check(&[("host", "[::1]:4001"), SESAME], "token:operator");
        check(&[("host", "LOCALHOST"), SESAME], "token:operator");
        check(&[("host", "127.0.0.1:4001")], "no bearer token");
        check(&[("host", "127.0.0.1:4001"), ("authorization", "Bearer open")], "wrong bearer token");
        check(&[("host", "127.0.0.1:4001"), ("authorization", "Basic sesame")], "no bearer token");
    }

    #[test]
    fn a_web_page_is_refused_even_with_the_token() {
        check(&[("host", "127.0.0.1:4001"), ("origin", "http://evil.example"), SESAME], "Origin");
        check(&[("host", "evil.example:4001"), SESAME], "Host");
        check(&[("host", "127.0.0.1.evil.example"), SESAME], "Host");
        check(&[SESAME], "Host");
    }
}
