//! How Tooz reaches the servers that a URL of ours names.

use std::path::Path;

use althing_core::Location;

/// Returns the URL by which Tooz's own driver reaches what a URL of ours names; `None` where it has no such driver. Its
/// files lie beside ours.
pub fn its_url(location: &Location) -> Option<String> {
    let user = location.user.as_deref().unwrap_or_default();
    let (hosts, path) = (location.hosts.join(","), &location.path);
    let beside = |file: &Path| Some(format!("file:///{}", file.join("tooz").display()));
    // Of `file:///x` the path is `x`, of `file:/x` it is `/x`.
    let file = Path::new(path.trim_start_matches('/'));
    Some(match location.scheme.as_str() {
        scheme @ ("redis" | "memcached" | "zookeeper") => format!("{scheme}://{hosts}"),
        "redis+sentinel" => {
            let (first, others) = location.hosts.split_first()?;
            let others = others.iter().map(|host| format!("&sentinel_fallback={host}"));
            format!("redis://{first}?sentinel={path}{}", others.collect::<String>())
        }
        "postgresql" => format!("postgresql://{user}@{hosts}?dbname={path}"),
        "mysql" => format!("mysql://{user}@{hosts}/{path}"),
        // It knows one endpoint only.
        "etcd" => format!("etcd3+http://{}", location.hosts.first()?),
        "ipc" => "ipc://".to_owned(),
        "file" => beside(file)?,
        // The nearest it has to a file of one process.
        "embedded" => beside(file.parent()?)?,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tooz_is_sent_to_the_servers_of_our_url() {
        let url = |ours: &str| its_url(&ours.parse().unwrap());
        assert_eq!(url("memory:?namespace=n"), None);
        assert_eq!(url("redis://h:1/0?namespace=n").unwrap(), "redis://h:1");
        assert_eq!(url("zookeeper://a:1,b:2/?namespace=n").unwrap(), "zookeeper://a:1,b:2");
        assert_eq!(url("etcd://a:1,b:2/?namespace=n").unwrap(), "etcd3+http://a:1");
        assert_eq!(
            url("redis+sentinel://a:1,b:2/main?namespace=n").unwrap(),
            "redis://a:1?sentinel=main&sentinel_fallback=b:2"
        );
        assert_eq!(url("postgresql://me@h:1/db?namespace=n").unwrap(), "postgresql://me@h:1?dbname=db");
        assert_eq!(url("file:///x/y?namespace=n").unwrap(), "file:///x/y/tooz");
        assert_eq!(url("embedded:///x/y.redb").unwrap(), "file:///x/tooz");
    }
}
