//! `althing serve`.

use std::collections::HashSet;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use althing::{Althing, Config, Error, Kind, PublicKey, Result, limits};
use althing_client::default_socket;
use althing_server::{MetricsPage, Server, ServerConfig};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::ask::{Host, duration, read};
use crate::exit::signals;
use crate::print;

/// Run a host. Without options: in memory, on a Unix socket. Prints one line `ready …` when it answers
#[derive(clap::Args)]
pub(crate) struct Serve {
    /// The backend, such as redis://127.0.0.1:6379/0?namespace=prod; see `althing drivers` [default: memory:]. For
    /// several, repeat it with names: locks=etcd://127.0.0.1. Requests then name one with --on
    #[arg(long, value_name = "[NAME=]URL", value_parser = named_url)]
    backend: Vec<(Option<String>, String)>,

    /// Listen on this TCP address too, such as 127.0.0.1:4001; port 0 takes a free one. Needs a token then
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Listen on this Unix socket
    #[arg(long, value_name = "PATH", help = format!("Listen on this Unix socket [default: {}]", default_socket().display()))]
    socket: Option<PathBuf>,

    /// Keep the host's identity, decisions, bundles and the token here
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,

    /// Read a configuration file: TOML with the names of these options; options given here prevail
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The host's name, for people [default: that of the machine]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// The lease to ask of the backend: how long a host that died goes on counting
    #[arg(long, value_name = "TIME", value_parser = duration, help = lease_help())]
    lease: Option<Duration>,

    /// Run bundles signed by the key in this file; repeat it for more keys
    #[arg(long, value_name = "FILE")]
    trust: Vec<PathBuf>,

    /// Run bundles without a trusted signature too
    #[arg(long)]
    allow_unsigned: bool,
}

fn lease_help() -> String {
    format!(
        "The lease to ask of the backend: how long a host that died goes on counting [default: {:?}, from {:?} to {:?}]",
        limits::LEASE_DEFAULT,
        limits::LEASE_MIN,
        limits::LEASE_MAX
    )
}

impl Serve {
    pub(super) async fn run(self, host: &Host) -> Result<()> {
        log();
        let (mut terminated, mut interrupted) = signals()?;
        let config = self.config()?;
        let metrics = metrics()?;
        let server = sockets(&config, metrics);
        let althing = start(config).await?;
        // Whatever happens from here on, the host leaves in good order.
        let server = match Server::bind(server.clone(), althing.backends().clone()).await {
            Ok(bound) => bound,
            Err(error) => {
                althing.stop().await;
                return Err(error);
            }
        };
        let told = ready(host, &server);
        if told.is_ok() {
            let shutdown = async {
                tokio::select! {
                    _ = terminated.recv() => {}
                    _ = interrupted.recv() => {}
                }
                tracing::info!("ending");
            };
            server.run(shutdown).await;
        }
        althing.stop().await;
        told
    }

    /// Puts the options over what the configuration file says.
    fn config(self) -> Result<Config> {
        let mut file = self.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
        let mut names = HashSet::new();
        for (name, url) in self.backend {
            if !names.insert(name.clone()) {
                return Err(twice(name.as_deref()));
            }
            match name {
                None => file.backend = Some(url),
                Some(name) => drop(file.backends.insert(name, url)),
            }
        }
        Ok(Config {
            backend: file.backend,
            backends: file.backends,
            listen: self.listen.or(file.listen),
            socket: self.socket.or(file.socket),
            state: self.state.or(file.state),
            lease: self.lease.or(file.lease),
            name: self.name.or(file.name),
            trust: [file.trust, self.trust].concat(),
            allow_unsigned: self.allow_unsigned || file.allow_unsigned,
        })
    }
}

async fn start(config: Config) -> Result<Althing> {
    // This process is a host and nothing else.
    let mut builder = Althing::builder().catch_signals(true).allow_unsigned(config.allow_unsigned);
    if let Some(url) = config.backend {
        builder = builder.backend(url);
    }
    for (name, url) in config.backends {
        builder = builder.named_backend(name, url);
    }
    if let Some(folder) = config.state {
        builder = builder.state(folder);
    }
    if let Some(lease) = config.lease {
        builder = builder.lease(lease);
    }
    if let Some(name) = config.name {
        builder = builder.name(name);
    }
    for file in &config.trust {
        builder = builder.trust(public_key(file)?);
    }
    builder.start().await
}

/// Reads the URL of a backend, with its name before it or not.
fn named_url(text: &str) -> Result<(Option<String>, String), String> {
    match text.split_once('=') {
        Some((name, url)) if !name.contains(':') => Ok((Some(name.into()), url.into())),
        _ => Ok((None, text.into())),
    }
}

fn twice(name: Option<&str>) -> Error {
    let message = match name {
        None => "two backends without a name".into(),
        Some(name) => format!("two backends are called {name:?}"),
    };
    Error::new(Kind::Invalid, "start host", message)
        .advise("Give each a name of its own, as in --backend locks=URL")
}

fn public_key(file: &Path) -> Result<PublicKey> {
    read(file)?.parse().map_err(|error: Error| error.with("file", file.display()))
}

/// The token lies in the state directory, or beside the socket where there is none.
fn sockets(config: &Config, metrics: MetricsPage) -> ServerConfig {
    let socket = config.socket.clone().unwrap_or_else(default_socket);
    let token_file = match &config.state {
        Some(folder) => folder.join("token"),
        None => {
            let mut beside = socket.as_os_str().to_owned();
            beside.push(".token");
            beside.into()
        }
    };
    ServerConfig { socket, listen: config.listen, token_file, metrics: Some(metrics) }
}

fn ready(host: &Host, server: &Server) -> Result<()> {
    let addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
    let token_file = server.token_file();
    if host.json {
        return print::json(&json!({ "ready": addresses, "token_file": token_file }));
    }
    let token = token_file.map_or(String::new(), |file| format!(" token-file={}", file.display()));
    print::line(&format!("ready {}{token}", addresses.join(" ")))
}

fn metrics() -> Result<MetricsPage> {
    let handle = PrometheusBuilder::new().install_recorder().map_err(|error| {
        Error::new(Kind::Internal, "start", "metrics cannot be recorded").because(error.to_string())
    })?;
    Ok(Arc::new(move || {
        handle.run_upkeep();
        handle.render()
    }))
}

/// Sends what is traced to standard error, as `ALTHING_LOG`, else `RUST_LOG`, says.
fn log() {
    let directives = std::env::var("ALTHING_LOG").or_else(|_| std::env::var("RUST_LOG"));
    let filter = EnvFilter::new(directives.unwrap_or_else(|_| "info".into()));
    let colour = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).init();
}
