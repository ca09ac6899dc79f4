//! Every fault on every link, on as many links at once as leaves one host in peace.

use std::time::Duration;

use althing_core::{Chance, SeededChance};
use anyhow::Result;

use crate::proxy::Fault::{self, HalfOpen, Refuse, Reset};
use crate::proxy::Flow::{self, BlackHole, Cut, Delay, Drip, Hold};
use crate::proxy::Proxy;
use crate::proxy::Way::{Down, Up};
use crate::stage::Stage;

/// How much longer than a lease a fault stands, so that whoever cannot do without the link loses what it holds.
pub(super) const BEYOND: Duration = Duration::from_millis(300);

const SHORT: Duration = Duration::from_millis(40);
const LONG: Duration = Duration::from_millis(400);
const TICK: Duration = Duration::from_millis(10);

/// What can befall a link, by name.
pub(super) const FAULTS: &[(&str, &[Fault])] = &[
    ("a short delay both ways", &both(Delay { least: SHORT, jitter: SHORT })),
    ("a long delay of what goes up", &[Fault::Flow(Up, Delay { least: LONG, jitter: LONG })]),
    ("a long delay of what comes down", &[Fault::Flow(Down, Delay { least: LONG, jitter: LONG })]),
    ("a cut that heals", &both(Hold)),
    ("a cut of what goes up that heals", &[Fault::Flow(Up, Hold)]),
    ("a cut of what comes down that heals", &[Fault::Flow(Down, Hold)]),
    ("a black hole both ways", &both(BlackHole)),
    ("a black hole for what goes up", &[Fault::Flow(Up, BlackHole)]),
    ("a black hole for what comes down", &[Fault::Flow(Down, BlackHole)]),
    ("a slow drip both ways", &both(Drip { bytes: 64, every: TICK })),
    ("a cut in the middle of what goes up", &[Fault::Flow(Up, Cut { after: 100 })]),
    ("a cut in the middle of what comes down", &[Fault::Flow(Down, Cut { after: 100 })]),
    ("a half-open connection that the server left", &[HalfOpen(Up)]),
    ("a half-open connection that the client left", &[HalfOpen(Down)]),
    ("a reset", &[Reset]),
    ("a reset and refused connections", &[Refuse, Reset]),
];

const fn both(flow: Flow) -> [Fault; 2] {
    [Fault::Flow(Up, flow), Fault::Flow(Down, flow)]
}

/// Where a fault can strike.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Between a host and a server.
    Link(usize),
    /// Between a member and its host.
    Door(usize),
    /// Between a server and the one that it follows now; it is one of two.
    Follower(usize),
}

/// Lets each link suffer each fault once, in an order that the seed gives to each of them. Of the links between the servers
/// of an ensemble, those over which one follows another suffer, one at a time.
pub(super) async fn round(stage: &mut Stage) -> Result<()> {
    let links = (0..stage.ground.links.len()).map(Place::Link);
    let doors = (0..stage.ground.doors.len()).map(Place::Door);
    let followers = (0..2).filter(|_| !stage.ground.routes.is_empty()).map(Place::Follower);
    let places = links.chain(doors).chain(followers);
    let mut places: Vec<_> = places.map(|place| (place, shuffled(&stage.ground.chance))).collect();
    for step in 0..stage.ground.steps_max {
        let mut struck = Vec::new();
        for (place, left) in &mut places {
            if let Some((proxy, whose)) = find(stage, *place, step)
                && let Some((name, faults)) = left.pop()
            {
                faults.iter().for_each(|fault| proxy.inject(*fault));
                struck.push(format!("{name} on {whose}"));
            }
        }
        struck.into_iter().for_each(|fault| stage.ground.fault(fault));
        stage.ground.stand(stage.ground.setting.lease + BEYOND).await;
        stage.heal().await?;
        if places.iter().all(|(_, left)| left.is_empty()) {
            break;
        }
    }
    Ok(())
}

/// Returns the proxy at a place, and its name, unless the place is spared in this step.
fn find(stage: &Stage, place: Place, step: usize) -> Option<(&Proxy, String)> {
    match place {
        Place::Link(index) => {
            let link = &stage.ground.links[index];
            (link.host != step % stage.ground.hosts.len()).then(|| (&link.proxy, link.name.clone()))
        }
        Place::Door(index) => {
            let door = &stage.ground.doors[index];
            Some((&door.proxy, door.name.clone()))
        }
        Place::Follower(number) => {
            let leader = stage.ground.server.leader().filter(|_| step % 2 == number)?;
            let mut routes = stage.ground.routes.iter().filter(|route| route.to == leader);
            let route = routes.nth(number)?;
            Some((&route.proxy, format!("server {} following {leader}", route.from)))
        }
    }
}

fn shuffled(chance: &SeededChance) -> Vec<&'static (&'static str, &'static [Fault])> {
    let mut order: Vec<_> = FAULTS.iter().map(|fault| (chance.bits(), fault)).collect();
    order.sort_by_key(|(place, _)| *place);
    order.into_iter().map(|(_, fault)| fault).collect()
}
