//! The table of backends. A new one is a folder below `drivers/` and a row here.

use std::sync::Arc;

use althing_core::location::nearest;
use althing_core::{Capability, Chance, Clock, Driver, Error, Kind, Location, OsChance, Result, SystemClock};
use althing_driver_embedded::Embedded;
use althing_driver_etcd::Etcd;
use althing_driver_file::Directory;
use althing_driver_ipc::Ipc;
use althing_driver_memcached::Memcached;
use althing_driver_memory::Memory;
use althing_driver_mysql::Mysql;
use althing_driver_postgresql::Postgresql;
use althing_driver_redis::Redis;
use althing_driver_zookeeper::ZooKeeper;
use futures::future::BoxFuture;

/// A kind of backend.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// What its URLs begin with.
    pub schemes: &'static [&'static str],
    /// What it is, in a few words.
    pub about: &'static str,
    /// A URL to begin with.
    pub example: &'static str,
    /// Says what it promises; `None` where that depends on how its server is configured, and is known
    /// only once connected.
    pub capability: Option<fn() -> Capability>,
    /// Writes what its hosts would create in a database, for whoever creates that by hand.
    pub schema: Option<fn() -> String>,
    connect: Connect,
}

type Connect = fn(Location, Arc<dyn Clock>, Arc<dyn Chance>) -> BoxFuture<'static, Result<Arc<dyn Driver>>>;

/// Connects by a driver's own function.
macro_rules! by {
    ($driver:ty) => {
        |location, clock, chance| {
            Box::pin(async move {
                Ok(Arc::new(<$driver>::connect(&location, clock, chance).await?) as Arc<dyn Driver>)
            })
        }
    };
}

/// All backends of this build.
pub const BACKENDS: &[Backend] = &[
    Backend {
        // Tooz had an in-process stand-in for ZooKeeper of that name; who shares it through the daemon shares this.
        schemes: &["memory", "zake"],
        about: "this process alone; nothing outlives it",
        example: "memory:",
        capability: Some(|| Memory::new(Arc::new(SystemClock), Arc::new(OsChance)).capability()),
        schema: None,
        connect: |location, clock, chance| {
            Box::pin(
                async move { Ok(Arc::new(Memory::connect(&location, clock, chance)?) as Arc<dyn Driver>) },
            )
        },
    },
    Backend {
        schemes: &["embedded"],
        about: "one file of this process, without any server; L1",
        example: "embedded:///var/lib/althing/store.redb?namespace=prod",
        capability: Some(althing_driver_embedded::capability),
        schema: None,
        connect: by!(Embedded),
    },
    Backend {
        schemes: &["file"],
        about: "a directory that processes of this machine share; L1",
        example: "file:///var/lib/althing/shared?namespace=prod",
        capability: Some(althing_driver_file::capability),
        schema: None,
        connect: by!(Directory),
    },
    Backend {
        schemes: &["ipc"],
        about: "the backend of this machine's daemon, through its socket, with the guarantees of that",
        example: "ipc:?namespace=prod",
        capability: None,
        schema: None,
        connect: by!(Ipc),
    },
    Backend {
        schemes: &["redis", "rediss"],
        about: "one Redis server; L1 if it writes every commit to disk, else L0",
        example: "redis://127.0.0.1:6379/0?namespace=prod",
        capability: None,
        schema: None,
        connect: by!(Redis),
    },
    Backend {
        schemes: &["redis+unix"],
        about: "one Redis server by its Unix socket; as above",
        example: "redis+unix:///run/redis.sock?db=0&namespace=prod",
        capability: None,
        schema: None,
        connect: by!(Redis),
    },
    Backend {
        schemes: &["redis+sentinel", "rediss+sentinel"],
        about: "a Redis that sentinels watch over: L0, and every fail-over is told",
        example: "redis+sentinel://s1,s2,s3/main/0?namespace=prod",
        capability: None,
        schema: None,
        connect: by!(Redis),
    },
    Backend {
        schemes: &["memcached"],
        about: "one memcached, a cache that may lose everything: L0, and every loss is told",
        example: "memcached://127.0.0.1:11211/?namespace=prod",
        capability: Some(althing_driver_memcached::capability),
        schema: None,
        connect: by!(Memcached),
    },
    Backend {
        schemes: &["postgresql", "postgres"],
        about: "one PostgreSQL server; L1 if it writes to disk what it acknowledges, else L0",
        example: "postgresql://user:password@127.0.0.1/database?namespace=prod",
        capability: None,
        schema: Some(althing_driver_postgresql::schema),
        connect: by!(Postgresql),
    },
    Backend {
        schemes: &["mysql", "mariadb"],
        about: "one MySQL or MariaDB server; L1 if it writes to disk what it acknowledges, else L0",
        example: "mysql://user:password@127.0.0.1/database?namespace=prod",
        capability: None,
        schema: Some(althing_driver_mysql::schema),
        connect: by!(Mysql),
    },
    Backend {
        schemes: &["etcd"],
        about: "an etcd cluster; L2 with three voting members or more, else L1",
        example: "etcd://etcd1,etcd2,etcd3/?namespace=prod",
        capability: None,
        schema: None,
        connect: by!(Etcd),
    },
    Backend {
        schemes: &["zookeeper", "kazoo"],
        about: "a ZooKeeper ensemble; L2 with three voting servers or more, else L1",
        example: "zookeeper://zk1,zk2,zk3/?namespace=prod",
        capability: None,
        schema: None,
        connect: by!(ZooKeeper),
    },
];

/// Connects to the backend of a URL, and to nothing else: the layers that retry and check are not on it. Fails with
/// `Invalid` and a suggestion where no row has its scheme.
pub async fn connect(
    location: Location,
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
) -> Result<Arc<dyn Driver>> {
    (named(&location.scheme)?.connect)(location, clock, chance).await
}

/// Finds the row of a scheme. Fails with `Invalid` and a suggestion where there is none.
pub fn named(scheme: &str) -> Result<&'static Backend> {
    BACKENDS.iter().find(|backend| backend.schemes.contains(&scheme)).ok_or_else(|| {
        let schemes = || BACKENDS.iter().flat_map(|backend| backend.schemes.iter().copied());
        let advice = match nearest(scheme, schemes()) {
            Some(scheme) => format!("Did you mean {scheme}:?"),
            None => format!("Backends of this build: {}", schemes().collect::<Vec<_>>().join(" ")),
        };
        Error::new(Kind::Invalid, "find backend", format!("no backend is called {scheme:?}")).advise(advice)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check_refused(url: &str, said: &str) {
        let location = url.parse().unwrap();
        let error = connect(location, Arc::new(SystemClock), Arc::new(OsChance)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(error.to_string().contains(said), "{error}");
    }

    #[tokio::test]
    async fn suggests_the_backend_that_was_meant() {
        check_refused("redsi://127.0.0.1", "Did you mean redis:?").await;
        check_refused(
            "zanzibar://127.0.0.1",
            "Backends of this build: memory zake embedded file ipc redis rediss",
        )
        .await;
        check_refused("memory:?colour=red", "unknown option \"colour\"").await;
    }

    #[test]
    fn every_example_has_a_scheme_of_its_row_and_no_scheme_is_claimed_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for backend in BACKENDS {
            let location: Location = backend.example.parse().unwrap();
            assert!(backend.schemes.contains(&location.scheme.as_str()), "{}", backend.example);
            assert!(backend.schemes.iter().all(|scheme| seen.insert(*scheme)), "{:?}", backend.schemes);
        }
    }
}
