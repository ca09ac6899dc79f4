//! The backends' own clients, used as a service would use them: what our figures stand beside.

use std::time::Duration;

use althing_core::Location;
use anyhow::{Context, Result};
use futures::StreamExt;
use redis::aio::{MultiplexedConnection, PubSubStream};
use zookeeper_client::{Acls, AddWatchMode, Client, CreateMode, CreateOptions, PersistentWatcher};

use crate::host::PATIENCE;
use crate::rounds::{Round, timed};

const VALUE: [u8; 100] = [b'x'; 100];
const CHANNEL: &str = "{bench}:raw";
const OPEN: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());

/// Returns the servers of a backend's URL, as `host:port,host:port`.
pub(crate) fn servers(url: &str) -> Result<String> {
    let location: Location = url.parse()?;
    Ok(location.hosts.join(","))
}

/// A message published on one connection and received on another.
pub(crate) struct RedisNotice {
    writer: MultiplexedConnection,
    messages: PubSubStream,
}

impl RedisNotice {
    pub(crate) async fn new(server: &str) -> Result<RedisNotice> {
        let client = redis::Client::open(format!("redis://{server}/0"))?;
        let mut subscriber = client.get_async_pubsub().await?;
        subscriber.subscribe(CHANNEL).await?;
        let writer = client.get_multiplexed_async_connection().await?;
        Ok(RedisNotice { writer, messages: subscriber.into_on_message() })
    }

    pub(crate) async fn turn(&mut self) -> Result<()> {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(CHANNEL).arg(&VALUE[..]);
        let (sent, message) =
            tokio::join!(publish.query_async::<u32>(&mut self.writer), self.messages.next());
        sent?;
        message.context("the subscription ended").map(drop)
    }
}

/// Connects to an ensemble, given as `host:port,host:port`.
async fn zookeeper(cluster: &str) -> Result<Client> {
    let connector = Client::connector().with_session_timeout(Duration::from_secs(10));
    Ok(tokio::time::timeout(PATIENCE, connector.connect(cluster)).await??)
}

/// A node written on one session, and seen to change on another.
pub(crate) struct ZooKeeperNotice {
    writer: Client,
    watcher: PersistentWatcher,
    // With its last handle a client ends its session, and the watch with it.
    _reader: Client,
}

impl ZooKeeperNotice {
    pub(crate) async fn new(cluster: &str) -> Result<ZooKeeperNotice> {
        let (writer, reader) = (zookeeper(cluster).await?, zookeeper(cluster).await?);
        writer.create("/raw-notice", &VALUE, &OPEN).await?;
        let watcher = reader.watch("/raw-notice", AddWatchMode::Persistent).await?;
        Ok(ZooKeeperNotice { writer, watcher, _reader: reader })
    }

    pub(crate) async fn turn(&mut self) -> Result<()> {
        let (written, _) =
            tokio::join!(self.writer.set_data("/raw-notice", &VALUE, None), self.watcher.changed());
        Ok(written.map(drop)?)
    }
}

/// What a commit of one record is on ZooKeeper, by the raw client: the same writes in one multi, without the reads and
/// the checks around them.
pub(crate) struct ZooKeeperMulti(Client);

impl ZooKeeperMulti {
    pub(crate) async fn new(cluster: &str) -> Result<ZooKeeperMulti> {
        let client = zookeeper(cluster).await?;
        for path in ["/raw-commit", "/raw-commit/record", "/raw-commit/log"] {
            client.create(path, &VALUE, &OPEN).await?;
        }
        Ok(ZooKeeperMulti(client))
    }

    pub(crate) async fn commit(&self) -> Result<()> {
        let entry = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
        let mut multi = self.0.new_multi_writer();
        multi.add_set_data("/raw-commit", &VALUE, None)?;
        multi.add_set_data("/raw-commit/record", &VALUE, None)?;
        multi.add_create("/raw-commit/log/e", &VALUE, &entry)?;
        multi.commit().await.map(drop).context("a raw multi")
    }

    /// The least a durable write costs: one node, no transaction.
    pub(crate) async fn set(&self) -> Result<()> {
        Ok(self.0.set_data("/raw-commit/record", &VALUE, None).await.map(drop)?)
    }
}

/// A key made where there is none, and removed again: the least that a lock which nobody else wants can cost.
pub(crate) enum FreeLock {
    Redis(MultiplexedConnection),
    ZooKeeper(Client),
}

impl FreeLock {
    /// Connects to the servers of a backend's URL; `None` where the raw client was not taught this.
    pub(crate) async fn of(url: &str) -> Result<Option<FreeLock>> {
        let location: Location = url.parse()?;
        Ok(Some(match location.scheme.as_str() {
            "redis" => {
                let client = redis::Client::open(format!("redis://{}/0", servers(url)?))?;
                FreeLock::Redis(client.get_multiplexed_async_connection().await?)
            }
            "zookeeper" => FreeLock::ZooKeeper(zookeeper(&servers(url)?).await?),
            _ => return Ok(None),
        }))
    }

    async fn take_and_release(&mut self) -> Result<()> {
        match self {
            FreeLock::Redis(connection) => {
                let (mut set, mut delete) = (redis::cmd("SET"), redis::cmd("DEL"));
                set.arg("raw-lock").arg(&VALUE[..]).arg("NX").arg("PX").arg(30_000);
                set.query_async::<()>(connection).await?;
                delete.arg("raw-lock").query_async::<()>(connection).await?;
            }
            FreeLock::ZooKeeper(client) => {
                let owned = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
                client.create("/raw-lock", &VALUE, &owned).await?;
                client.delete("/raw-lock", None).await?;
            }
        }
        Ok(())
    }
}

impl Round for FreeLock {
    fn name(&self) -> &'static str {
        match self {
            FreeLock::Redis(_) => "raw SET NX, DEL",
            FreeLock::ZooKeeper(_) => "raw create, delete",
        }
    }

    async fn round(&mut self) -> Result<Duration> {
        timed(self.take_and_release()).await
    }
}
