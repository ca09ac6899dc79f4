//! How long it takes until a service hears that its server died, or hangs.

use std::time::Duration;

use althing_test_servers::{Backend, Server};
use althing_tooz::Host;
use anyhow::Result;

use crate::backends::{Plan, TICK};
use crate::figure::{Figure, Goal, Report, Series};
use crate::tooz::Tooz;

/// How often our driver is asked. Tooz is asked once: of a Redis that died it tells after a minute.
const ROUNDS: usize = 5;
/// What Tooz calls by this name is memory of one machine.
const SERVERLESS: &str = "Tooz: no server";
/// As `tooz_peer.py` tells the coordinator, and a moment to say so.
const DEADLINE: Goal = Goal::P99(Duration::from_millis(2100));

/// What becomes of a server.
#[derive(Clone, Copy)]
enum Fault {
    /// It is killed: nobody listens where it was.
    Dies,
    /// It is stopped: it accepts, and answers nothing.
    Hangs,
}

/// Lets a server of its own die below a host, and another one hang, and times how long our driver takes to say so. Beside it
/// stands Tooz without a host. A backend that is no server does neither.
pub(crate) async fn measure(plan: &Plan, backend: Backend, report: &mut Report) -> Result<()> {
    lose(plan, backend, Fault::Dies, report).await?;
    // Sentinels replace a master that hangs.
    match backend {
        Backend::Sentinel => Ok(()),
        _ => lose(plan, backend, Fault::Hangs, report).await,
    }
}

async fn lose(plan: &Plan, backend: Backend, fault: Fault, report: &mut Report) -> Result<()> {
    let python = plan.python.as_deref();
    let server = Server::start(backend, TICK).await.filter(|server| server.pid().is_some());
    let (Some(server), Some(_)) = (server, python) else { return Ok(()) };
    let url = server.url("dead");
    let host = Host::start(&url, &[]).await?;
    let mut driver = Tooz::with_ours(python, host.url())?;
    let mut tooz = match backend {
        Backend::Ipc => Tooz::Absent(SERVERLESS),
        _ => Tooz::start(python, &url)?,
    };
    let (what, hanging) = fault.play(server).await;
    let name = format!("{what} → told, from Python, {}", backend.name());
    // Ours first: a while later the host knows.
    let taken = driver.take("dead", ROUNDS).await;
    let (floor_name, floor) = match tooz.take("dead, by any error", 1).await {
        Ok(series) => ("Tooz start", series),
        Err(why) => (why, Series::default()),
    };
    match taken {
        Ok(taken) => report.figure(Figure { name, taken, floor_name, floor, goal: Some(DEADLINE) }),
        Err(_) => report.check(false, || format!("{name}: it failed")),
    }
    driver.stop().await;
    tooz.stop().await;
    drop(hanging);
    host.stop().await
}

impl Fault {
    /// Plays it. Returns what it is called, and the server if that is still there.
    async fn play(self, mut server: Server) -> (&'static str, Option<Server>) {
        match self {
            Fault::Dies => ("server died", None),
            Fault::Hangs => {
                server.pause().await;
                ("server hangs", Some(server))
            }
        }
    }
}
