//! The links between the servers of an ensemble.

use althing_test_servers::{EnsemblePlan, VOTERS};

use crate::proxy::Proxy;

/// A link between two servers: `from` follows `to` over it when `to` leads.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) proxy: Proxy,
}

/// Puts a proxy between each two servers, for what the one tells the other when it follows it.
pub(crate) fn route(plan: &mut EnsemblePlan, seed: u64) -> Vec<Route> {
    let mut routes = Vec::new();
    for from in 0..VOTERS {
        for to in (0..VOTERS).filter(|to| *to != from) {
            let [quorum, vote] = plan.peer_ports(to);
            let proxy = Proxy::start(quorum, seed ^ ((from * VOTERS + to) as u64) << 48);
            plan.route(from, to, [proxy.port(), vote]);
            routes.push(Route { from, to, proxy });
        }
    }
    routes
}
