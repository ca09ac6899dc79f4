//! What is measured on every backend: something of ours that is done once more in each round.

use std::sync::Arc;
use std::time::Duration;

use althing_core::info::Event;
use althing_core::{Clock, Driver, Key, Revision, SystemClock, Watch, limits};
use althing_runtime::{GroupStream, Runtime, SessionKey};
use anyhow::{Result, bail, ensure};
use tokio::runtime::Handle;

use crate::{change, host};

/// Something done once more in each round, and timed.
pub(crate) trait Round: Send {
    /// Says what it is, as a floor.
    fn name(&self) -> &'static str;

    /// Does it, and returns how long it took.
    fn round(&mut self) -> impl Future<Output = Result<Duration>> + Send;
}

impl<R: Round> Round for &mut R {
    fn name(&self) -> &'static str {
        R::name(self)
    }

    fn round(&mut self) -> impl Future<Output = Result<Duration>> + Send {
        R::round(self)
    }
}

/// Returns how long `work` took, unless it failed.
pub(crate) async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<Duration> {
    let begin = SystemClock.now();
    work.await?;
    Ok(SystemClock.now().since(begin))
}

/// A host with a group of members that stay.
pub(crate) struct Group {
    host: Runtime,
    session: SessionKey,
    size: usize,
}

/// The name of that group.
const GROUP: &str = "bench";

impl Group {
    /// Starts a host on a namespace of its own, and waits until its members see who leads them.
    pub(crate) async fn of(url: &str, size: usize, io: &Handle) -> Result<Group> {
        let driver = host::stacked(host::connect(url, io).await?, io);
        let host = host::start(driver, limits::LEASE_DEFAULT, io).await?;
        let session = host::session(&host)?;
        for index in 0..size {
            host::join(&host, &session, GROUP, index).await?;
        }
        let led =
            || host.group(GROUP).is_ok_and(|group| group.members.len() == size && group.leader.is_some());
        host::eventually("the group has its members and a leader", led).await?;
        Ok(Group { host, session, size })
    }

    /// Ends the host.
    pub(crate) async fn stop(&self) {
        self.host.stop().await;
    }

    async fn join(&self) -> Result<()> {
        Ok(host::join(&self.host, &self.session, GROUP, self.size).await?)
    }

    async fn leave(&self) -> Result<()> {
        Ok(self.host.leave(&self.session, GROUP, &format!("member-{}", self.size)).await?)
    }
}

/// One more member that joins the group and leaves it.
pub(crate) struct Guest<'a>(pub(crate) &'a Group);

impl Round for Guest<'_> {
    fn name(&self) -> &'static str {
        "join and leave"
    }

    async fn round(&mut self) -> Result<Duration> {
        timed(async {
            self.0.join().await?;
            self.0.leave().await
        })
        .await
    }
}

/// The members as the host knows them: no request.
pub(crate) struct Known<'a>(pub(crate) &'a Group);

impl Round for Known<'_> {
    fn name(&self) -> &'static str {
        "members, the host's image"
    }

    async fn round(&mut self) -> Result<Duration> {
        let Group { host, size, .. } = self.0;
        timed(async {
            let known = host.group(GROUP)?.members.len();
            ensure!(known == *size, "the host knows {known} members of {size}");
            Ok(())
        })
        .await
    }
}

/// The members as the backend has them: their records, listed through all layers.
pub(crate) struct Listed<'a>(pub(crate) &'a Group);

impl Round for Listed<'_> {
    fn name(&self) -> &'static str {
        "members, listed in the backend"
    }

    async fn round(&mut self) -> Result<Duration> {
        let Group { host, size, .. } = self.0;
        let (driver, members) = (host.driver(), Key::path(["fleet", "member", GROUP]).below());
        timed(async {
            let listed = driver.list(&members, None, 0).await?.records.len();
            ensure!(listed == *size, "the backend lists {listed} members of {size}");
            Ok(())
        })
        .await
    }
}

/// A write on one connection, and a watch on another that tells of it.
pub(crate) struct Told {
    writer: Arc<dyn Driver>,
    watch: Box<dyn Watch>,
}

impl Told {
    /// Connects twice with all layers, or once where nobody else can reach the backend.
    pub(crate) async fn of(url: &str, is_within_a_host: bool, io: &Handle) -> Result<Told> {
        let writer = host::stacked(host::connect(url, io).await?, io);
        let watcher = match is_within_a_host {
            true => writer.clone(),
            false => host::stacked(host::connect(url, io).await?, io),
        };
        let mut watch = watcher.watch(&Key::path(["bench"]).below(), Revision::ZERO).await?;
        watch.next().await?;
        Ok(Told { writer, watch })
    }
}

impl Round for Told {
    fn name(&self) -> &'static str {
        "change → watch"
    }

    async fn round(&mut self) -> Result<Duration> {
        change::change(&*self.writer, &mut *self.watch).await
    }
}

/// A member that joins on one host, and another host that is told of it.
pub(crate) struct Heard {
    near: Group,
    far: Runtime,
    told: GroupStream,
}

impl Heard {
    /// Starts two hosts, or two parts of one where nobody else can reach the backend. One member stays.
    pub(crate) async fn of(url: &str, is_within_a_host: bool, io: &Handle) -> Result<Heard> {
        let near = Group::of(url, 1, io).await?;
        let driver = match is_within_a_host {
            true => near.host.driver().clone(),
            false => host::stacked(host::connect(url, io).await?, io),
        };
        let far = host::start(driver, limits::LEASE_DEFAULT, io).await?;
        host::eventually("the other host sees the group", || far.group(GROUP).is_ok()).await?;
        let told = far.watch_group(GROUP)?;
        Ok(Heard { near, far, told })
    }

    /// Ends both hosts.
    pub(crate) async fn stop(&self) {
        self.near.stop().await;
        self.far.stop().await;
    }
}

impl Round for Heard {
    fn name(&self) -> &'static str {
        "join → another host told"
    }

    async fn round(&mut self) -> Result<Duration> {
        let begin = SystemClock.now();
        let joined = async |told: &mut GroupStream| loop {
            match told.next().await {
                Some(Event::Joined { .. }) => return Ok(SystemClock.now()),
                Some(_) => {}
                None => bail!("the host ended"),
            }
        };
        let (join, heard) = tokio::join!(self.near.join(), joined(&mut self.told));
        join?;
        self.near.leave().await?;
        Ok(heard?.since(begin))
    }
}
