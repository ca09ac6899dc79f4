//! `althing drivers`.

use althing::backends::{BACKENDS, Backend};
use althing::{Capability, Result};
use serde::Serialize;

use crate::ask::Host;
use crate::table::{Table, word};

/// List the backends, and what each promises
#[derive(clap::Args)]
pub(crate) struct Drivers {
    /// Ask the host what the backend it uses promises, as it is configured
    #[arg(long)]
    in_use: bool,
}

#[derive(Serialize)]
struct Row {
    schemes: &'static [&'static str],
    about: &'static str,
    example: &'static str,
    capability: Option<Capability>,
}

impl Drivers {
    pub(super) async fn run(self, host: &Host) -> Result<()> {
        if self.in_use {
            let capabilities = host.client()?.drivers().await?;
            return host.show(&capabilities, |all| all.iter().flat_map(promises).collect());
        }
        let rows: Vec<_> = BACKENDS.iter().map(row).collect();
        let table = Table::new(["BACKEND", "LEVEL", "SMALLEST LEASE", "WHAT IT IS", "EXAMPLE"]);
        host.show_list(&rows, "no backends", table, |table, row| {
            let promise =
                |show: fn(&Capability) -> String| row.capability.as_ref().map(show).unwrap_or_default();
            let level = promise(|capability| format!("{:?}", capability.level));
            let lease = promise(|capability| format!("{:?}", capability.lease_min));
            table.row([row.schemes.join(" "), level, lease, row.about.into(), row.example.into()]);
        })
    }
}

fn row(backend: &Backend) -> Row {
    let Backend { schemes, about, example, capability, .. } = *backend;
    Row { schemes, about, example, capability: capability.map(|capability| capability()) }
}

fn promises(of: &Capability) -> Vec<String> {
    let yes = |is: bool| if is { "yes" } else { "no" };
    vec![
        format!("backend                   {}", of.backend),
        format!("level                     {:?}", of.level),
        format!("linearizable reads        {}", yes(of.linearizable_reads)),
        format!("across hosts              {}", yes(of.across_hosts)),
        format!("watch                     {}", word(&of.watch)),
        format!("revisions ordered within  {}", word(&of.order)),
        format!("sessions expired by       {}", word(&of.expiry)),
        format!("token survives restart    {}", yes(of.token_survives_restart)),
        format!("token survives fail-over  {}", yes(of.token_survives_failover)),
        format!("keys per transaction      {}", of.txn_keys_max),
        format!("largest value             {} bytes", of.value_bytes_max),
        format!("longest key               {} bytes", of.key_bytes_max),
        format!("smallest lease            {:?}", of.lease_min),
        format!("requests per renewal      {}", of.beat_requests),
    ]
}
