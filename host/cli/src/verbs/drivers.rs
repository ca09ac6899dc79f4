//! `althing drivers`.

use althing::backends::{self, BACKENDS, Backend};
use althing::info::BackendInfo;
use althing::{Capability, Error, Kind, Result};
use serde::Serialize;

use crate::ask::Host;
use crate::print;
use crate::table::{Table, word};

/// List the backends, and what each promises
#[derive(clap::Args)]
pub(crate) struct Drivers {
    /// Ask the host what the backend it uses promises, as it is configured
    #[arg(long)]
    in_use: bool,

    /// Print the SQL that hosts would run to create what they need in such a database, for one where they must not
    #[arg(long, value_name = "BACKEND", conflicts_with = "in_use")]
    schema: Option<String>,
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
        if let Some(scheme) = &self.schema {
            return print_schema(scheme);
        }
        if self.in_use {
            let backends = host.client()?.drivers().await?;
            return host.show(&backends, |all| all.iter().flat_map(promises).collect());
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

fn print_schema(scheme: &str) -> Result<()> {
    let Some(schema) = backends::named(scheme)?.schema else {
        let with: Vec<_> =
            BACKENDS.iter().filter(|row| row.schema.is_some()).map(|row| row.schemes[0]).collect();
        let error = Error::new(Kind::Invalid, "print schema", format!("{scheme} needs no schema"));
        return Err(error.advise(format!("There is one for: {}", with.join(" "))));
    };
    print::bytes(schema().as_bytes())
}

fn row(backend: &Backend) -> Row {
    let Backend { schemes, about, example, capability, .. } = *backend;
    Row { schemes, about, example, capability: capability.map(|capability| capability()) }
}

fn promises(info: &BackendInfo) -> Vec<String> {
    let yes = |is: bool| if is { "yes" } else { "no" };
    let of = &info.capability;
    vec![
        format!("name                      {}", info.name),
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
