//! How many requests a lock and a join cost, counted between who asks and who answers.

use std::convert::identity;

use althing_test_servers::Server;
use anyhow::Result;

use crate::backends::Sides;
use crate::figure::Count;
use crate::locks::Lock;
use crate::tooz::Tooz;
use crate::trips::Trips;

/// How often they are counted. The one in the middle is told: now and then something else is asked meanwhile.
const ROUNDS: usize = 20;
/// A join of Tooz takes a second.
const JOINS: usize = 5;
const UNCOUNTED: &str = "Tooz: not counted";

impl Sides<'_> {
    /// Counts the round trips of an acquire, among them those by which the host's watch reads of it, where they go by ports
    /// that can be listened at.
    pub(crate) async fn count_acquires(&mut self) -> Result<()> {
        // Over HTTP/2 an etcd is also answered when it asks how the connection does.
        if self.is_hidden() || matches!(self.server, Server::Etcd(_)) {
            return Ok(());
        }
        let trips = Trips::before(&self.server.ports()).await?;
        let url = self.server.url_by(trips.ports(), "trips");
        let lock = Lock::of(&url, self.io).await?;
        let mut ours = Vec::new();
        for _ in 0..ROUNDS {
            let before = trips.made();
            let held = lock.acquire().await?;
            ours.push(trips.made() - before);
            lock.release(held).await?;
        }
        lock.stop().await;
        let theirs = self.of_tooz(["acquire", "release"], "Tooz acquire", ROUNDS).await?;
        self.count("round trips of an acquire and its watch", ours, theirs);
        Ok(())
    }

    /// Counts the requests of a join that makes its group: of our driver to its host, which is one, and of Tooz to its
    /// server.
    pub(crate) async fn count_joins(&mut self) -> Result<()> {
        let Some(ours) = self.ours().await? else { return Ok(()) };
        let socket = ours.host.socket().to_owned();
        let relay = socket.with_file_name("counted.sock");
        let trips = Trips::before_socket(&socket, &relay)?;
        let mut driver = Tooz::with_ours(self.plan.python.as_deref(), althing_tooz::url(&relay))?;
        let counted = each(&mut driver, &trips, ["create", "remove"], JOINS).await;
        driver.stop().await;
        let name = self.backend.name();
        let is_one = counted.as_ref().is_ok_and(|counts| median(counts) == Some(1));
        self.report.check(is_one, || format!("{name}: the requests of joins that make a group: {counted:?}"));
        let theirs = match self.is_hidden() {
            true => (Vec::new(), self.tooz.take("join-create", 1).await.map_or_else(identity, |_| UNCOUNTED)),
            false => self.of_tooz(["create", "remove"], "Tooz join_group_create", JOINS).await?,
        };
        self.count("requests of a join that makes its group", counted.unwrap_or_default(), theirs);
        Ok(())
    }

    /// Tells whether nobody can listen between a client and the server: there is no port, or sentinels say where the server
    /// is, past whoever listens.
    fn is_hidden(&self) -> bool {
        matches!(self.server, Server::Sentinel(_)) || self.server.ports().is_empty()
    }

    /// Counts what Tooz asks its server for the first of two figures, the second of which undoes it.
    async fn of_tooz(
        &self,
        figures: [&str; 2],
        name: &'static str,
        rounds: usize,
    ) -> Result<(Vec<u64>, &'static str)> {
        let trips = Trips::before(&self.server.ports()).await?;
        let url = self.server.url_by(trips.ports(), "trips");
        let mut tooz = Tooz::start(self.plan.python.as_deref(), &url)?;
        let counted = each(&mut tooz, &trips, figures, rounds).await;
        tooz.stop().await;
        Ok(counted.map_or_else(|why| (Vec::new(), why), |counts| (counts, name)))
    }

    fn count(&mut self, what: &str, ours: Vec<u64>, (theirs, floor_name): (Vec<u64>, &'static str)) {
        let [value, floor] =
            [ours, theirs].map(|counts| median(&counts).map_or(f64::NAN, |count| count as f64));
        let name = format!("{what}, {}", self.backend.name());
        self.report.count(Count { name, value, unit: "", floor_name, floor });
    }
}

/// Counts the first of two figures each time, and not the second.
async fn each(
    tooz: &mut Tooz,
    trips: &Trips,
    [counted, undone]: [&str; 2],
    rounds: usize,
) -> Result<Vec<u64>, &'static str> {
    let mut counts = Vec::new();
    // It connects when it is first asked.
    tooz.take("beat", 1).await?;
    for _ in 0..rounds {
        let before = trips.made();
        tooz.take(counted, 1).await?;
        counts.push(trips.made() - before);
        tooz.take(undone, 1).await?;
    }
    Ok(counts)
}

/// Returns the one in the middle.
fn median(counts: &[u64]) -> Option<u64> {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}
