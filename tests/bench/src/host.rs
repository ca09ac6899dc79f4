//! A host in this process, and clients of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use althing::backends;
use althing_core::info::{JoinAsk, SessionAsk};
use althing_core::{Clock, Driver, Location, OsChance, Principal, Result, Secret, SystemClock, layers};
use althing_engine::{Bundle, Engine, EngineConfig};
use althing_runtime::{Runtime, RuntimeConfig, SessionKey};
use anyhow::{Context, ensure};
use bytes::Bytes;
use tokio::runtime::Handle;

/// The longest anything is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Connects to the backend of a URL on `io`, without layers.
pub(crate) async fn connect(url: &str, io: &Handle) -> anyhow::Result<Arc<dyn Driver>> {
    let location: Location = url.parse()?;
    Ok(io.spawn(backends::connect(location, Arc::new(SystemClock), Arc::new(OsChance))).await??)
}

/// Wraps a driver as a host does.
pub(crate) fn stacked(driver: Arc<dyn Driver>, io: &Handle) -> Arc<dyn Driver> {
    layers::stack(driver, Arc::new(SystemClock), Arc::new(OsChance), io.clone())
}

/// Starts a host on a driver that is stacked already.
pub(crate) async fn start(driver: Arc<dyn Driver>, lease: Duration, io: &Handle) -> Result<Runtime> {
    let config = RuntimeConfig { lease, allow_unsigned: true, ..RuntimeConfig::new(io.clone()) };
    Runtime::start(config, driver, Engine::new(EngineConfig::default())?).await
}

/// Opens a session that outlasts the run.
pub(crate) fn session(host: &Runtime) -> Result<SessionKey> {
    let ask = SessionAsk { ttl_ms: Some(3_600_000), ..SessionAsk::default() };
    let grant = host.open_session(&Principal::Embedder, ask, false)?;
    Ok(SessionKey { id: grant.id, secret: Secret::new(grant.secret) })
}

/// Joins with the metadata that the shipped rules read.
pub(crate) async fn join(host: &Runtime, session: &SessionKey, group: &str, index: usize) -> Result<()> {
    let metadata = [("weight", index % 7), ("zone", index % 3)];
    let ask = JoinAsk {
        id: format!("member-{index}"),
        metadata: metadata.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect(),
        create: true,
        ..JoinAsk::default()
    };
    host.join(session, group, ask).await.map(drop)
}

/// Opens a shipped policy.
pub(crate) fn shipped(name: &str) -> Result<Bundle> {
    Bundle::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../policies").join(name))
}

/// Pushes a shipped policy.
pub(crate) async fn push(host: &Runtime, name: &str) -> anyhow::Result<()> {
    let job = host.push(&Principal::Embedder, Bytes::from(shipped(name)?.pack()))?;
    let job = host.job_done(&job.id, PATIENCE).await?;
    ensure!(job.done && job.error.is_none(), "{name} was not pushed: {job:?}");
    Ok(())
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
    let waiting = async {
        while !condition() {
            SystemClock.sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.with_context(|| format!("never: {what}"))
}
