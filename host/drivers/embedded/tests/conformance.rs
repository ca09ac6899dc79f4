//! The embedded driver does what every driver must do, also over a death of the process that has the file.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use althing_conformance::{Subject, main as run, trials};
use althing_core::{
    Capability, Clock, Committed, Delta, Driver, Error, Key, Kind, Lease, OsChance, Page, Record, Result,
    Revision, Session, SessionId, SystemClock, Txn, Watch,
};
use althing_driver_embedded::{Embedded, capability};
use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::RwLock;

/// The namespace and who has its file now; `None` before the first connection and while it is taken over.
type Owner = Arc<RwLock<Option<(String, Embedded)>>>;

/// A file of one case. Its connections are parts of one process.
struct OnFile {
    folder: TempDir,
    owner: Owner,
    /// How often it was taken over.
    turns: AtomicU32,
}

impl OnFile {
    fn start() -> Result<OnFile> {
        let folder = tempfile::tempdir()
            .map_err(|error| Error::new(Kind::Internal, "start", "no folder").because(error))?;
        Ok(OnFile { folder, owner: Arc::default(), turns: AtomicU32::new(0) })
    }

    fn file(&self, turn: u32) -> PathBuf {
        self.folder.path().join(format!("store-{turn}.redb"))
    }

    async fn open(&self, namespace: &str) -> Result<Embedded> {
        let url = format!(
            "embedded://{}?namespace={namespace}&timeout=10s",
            self.file(self.turns.load(Relaxed)).display()
        );
        Embedded::connect(&url.parse()?, Arc::new(SystemClock), Arc::new(OsChance)).await
    }
}

#[async_trait]
impl Subject for OnFile {
    async fn connect(&self, namespace: &str) -> Result<Arc<dyn Driver>> {
        let mut owner = self.owner.write().await;
        if owner.is_none() {
            *owner = Some((namespace.to_owned(), self.open(namespace).await?));
        }
        Ok(Arc::new(Connection(self.owner.clone())))
    }

    async fn pass(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    /// Goes on with the file as a process that was killed now would have left it.
    async fn restart(&self) -> bool {
        let mut owner = self.owner.write().await;
        let Some((namespace, killed)) = owner.take() else { return false };
        let turn = self.turns.load(Relaxed);
        if std::fs::copy(self.file(turn), self.file(turn + 1)).is_err() {
            return false;
        }
        drop(killed);
        self.turns.store(turn + 1, Relaxed);
        let Ok(next) = self.open(&namespace).await else { return false };
        *owner = Some((namespace, next));
        true
    }
}

/// A client of whoever has the file now.
#[derive(Debug)]
struct Connection(Owner);

impl Connection {
    async fn now(&self) -> Result<Embedded> {
        let owner = self.0.read().await;
        let nobody = || Error::new(Kind::Unavailable, "connect", "nobody has the file");
        owner.as_ref().map(|(_, embedded)| embedded.clone()).ok_or_else(nobody)
    }
}

#[async_trait]
impl Driver for Connection {
    fn capability(&self) -> Capability {
        capability()
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        self.now().await?.open(ask).await
    }

    async fn renew(&self, session: SessionId) -> Result<Lease> {
        self.now().await?.renew(session).await
    }

    async fn close(&self, session: SessionId) -> Result<()> {
        self.now().await?.close(session).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.now().await?.get(key).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<Page> {
        self.now().await?.list(prefix, after, limit).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        self.now().await?.commit(txn).await
    }

    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>> {
        let inner = self.now().await?.watch(prefix, from).await?;
        let connection = Connection(self.0.clone());
        Ok(Box::new(Following { connection, inner, prefix: prefix.clone(), seen: from }))
    }
}

/// A watch that goes on from where it was when somebody else has the file.
#[derive(Debug)]
struct Following {
    connection: Connection,
    inner: Box<dyn Watch>,
    prefix: Key,
    seen: Revision,
}

#[async_trait]
impl Watch for Following {
    async fn next(&mut self) -> Result<Delta> {
        let delta = match self.inner.next().await {
            Err(error) if error.kind() == Kind::Closed => {
                self.inner = self.connection.now().await?.watch(&self.prefix, self.seen).await?;
                self.inner.next().await?
            }
            delta => delta?,
        };
        match &delta {
            Delta::Changes { revision, .. } | Delta::Resync { revision, .. } => self.seen = *revision,
        }
        Ok(delta)
    }
}

fn main() -> ExitCode {
    run(trials("embedded", || async { OnFile::start() }))
}
