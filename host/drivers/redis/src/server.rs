//! What the server says about itself: what it keeps, and whether we can use it at all.

use althing_core::{Error, Kind, Result};

use crate::reply::Reply;
use crate::settings::Endpoint;
use crate::wire::{CLUSTER, Wire};

/// A server, as far as promises hang on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// Differs after each start; empty where the server does not let us ask.
    pub(crate) run: String,
    /// It has on disk what it acknowledged: `appendonly yes` and `appendfsync always`, also while it rewrites.
    pub(crate) durable: bool,
}

impl Server {
    /// Asks the server. Fails where it is a cluster node or a replica, or may evict our records; and, where another
    /// may take over, if it does not tell which one it is.
    pub(crate) async fn examine(wire: &Wire, endpoint: &Endpoint, is_replicated: bool) -> Result<Server> {
        let (info, config) = tokio::join!(wire.ask(&["INFO"]), wire.ask(&["CONFIG", "GET", "*append*"]));
        let info = match info? {
            Some(Reply::Bytes(bytes)) => String::from_utf8_lossy(&bytes).into_owned(),
            // Not let in: then nothing is known, and nothing is promised.
            _ => String::new(),
        };
        refuse_unusable(&info, is_replicated).map_err(|error| error.with("server", endpoint))?;
        let run = field(&info, "run_id").unwrap_or_default().to_owned();
        // What is on the disk of one is not on that of the next.
        let durable = !is_replicated && config?.is_some_and(|config| is_durable(&config));
        Ok(Server { run, durable })
    }
}

fn refuse_unusable(info: &str, is_replicated: bool) -> Result<()> {
    let refuse = |kind, message: &str| Error::new(kind, "connect", message);
    if field(info, "cluster_enabled") == Some("1") {
        let error = refuse(Kind::Unsupported, CLUSTER);
        return Err(error.advise("Use a single Redis: records of one namespace must change together"));
    }
    match (field(info, "role"), is_replicated) {
        (Some("slave"), false) => {
            let error = refuse(Kind::Unavailable, "this Redis is a replica; writes go to its master");
            return Err(error.advise("Name the master in the backend URL, or its sentinels"));
        }
        (Some("slave"), true) => {
            return Err(refuse(
                Kind::Unavailable,
                "the sentinels call this Redis master, and it is a replica",
            ));
        }
        (None, true) => {
            let error = refuse(Kind::Denied, "this Redis does not let this user ask INFO");
            return Err(error.advise("Grant +info: without it nobody can tell that another server took over"));
        }
        _ => {}
    }
    let limited = field(info, "maxmemory").is_some_and(|bytes| bytes != "0");
    let policy = field(info, "maxmemory_policy").unwrap_or_default();
    // Our records carry no time to live, so only the allkeys policies would take them.
    if limited && policy.starts_with("allkeys") {
        let message = format!("this Redis throws away records when it is full ({policy})");
        return Err(refuse(Kind::Unsupported, &message).advise("Set maxmemory-policy to noeviction"));
    }
    Ok(())
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_end)
}

fn is_durable(config: &Reply) -> bool {
    let Reply::List(list) = config else { return false };
    let has = |name: &str, wanted: &str| {
        list.chunks_exact(2).any(|pair| match pair {
            [Reply::Bytes(key), Reply::Bytes(value)] => key == name && value == wanted,
            _ => false,
        })
    };
    has("appendonly", "yes") && has("appendfsync", "always") && has("no-appendfsync-on-rewrite", "no")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_refused(info: &str, kind: Option<Kind>) {
        assert_eq!(refuse_unusable(info, false).err().map(|error| error.kind()), kind, "{info}");
    }

    #[test]
    fn refuses_servers_on_which_the_contract_cannot_hold() {
        check_refused("", None);
        check_refused("cluster_enabled:0\r\nrole:master\r\n", None);
        check_refused("cluster_enabled:1\r\n", Some(Kind::Unsupported));
        check_refused("role:slave\r\n", Some(Kind::Unavailable));
        check_refused("maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n", None);
        check_refused("maxmemory:10\r\nmaxmemory_policy:allkeys-lru\r\n", Some(Kind::Unsupported));
        check_refused("maxmemory:10\r\nmaxmemory_policy:noeviction\r\n", None);
    }

    #[test]
    fn wants_to_know_which_server_took_over() {
        let refusal = |info| refuse_unusable(info, true).err().map(|error| error.kind());
        assert_eq!(refusal("role:master\r\n"), None);
        assert_eq!(refusal("role:slave\r\n"), Some(Kind::Unavailable));
        assert_eq!(refusal(""), Some(Kind::Denied));
    }

    #[track_caller]
    fn check_durable(words: &[&'static str], expected: bool) {
        let list = words.iter().map(|word| Reply::Bytes((*word).into())).collect();
        assert_eq!(is_durable(&Reply::List(list)), expected, "{words:?}");
    }

    #[test]
    fn trusts_the_disk_only_when_every_write_goes_there_first() {
        let config =
            |only, fsync, skip| ["appendonly", only, "appendfsync", fsync, "no-appendfsync-on-rewrite", skip];
        check_durable(&config("yes", "always", "no"), true);
        check_durable(&config("yes", "everysec", "no"), false);
        check_durable(&config("no", "always", "no"), false);
        check_durable(&config("yes", "always", "yes"), false);
        check_durable(&[], false);
    }
}
