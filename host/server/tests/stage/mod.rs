//! The host that the tests here speak to.
#![allow(dead_code, reason = "each test binary needs its part of this")]

use std::path::PathBuf;
use std::sync::Arc;

use althing_client::{Address, Client};
use althing_core::{OsChance, SystemClock};
use althing_driver_memory::Memory;
use althing_engine::{Engine, EngineConfig};
use althing_runtime::{Backends, DEFAULT_BACKEND, Runtime, RuntimeConfig};
use althing_server::{Server, ServerConfig};
use futures::future::join_all;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A host in memory, and its sockets.
pub(crate) struct Host {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) runtime: Runtime,
    pub(crate) port: String,
    pub(crate) end: oneshot::Sender<()>,
    pub(crate) running: JoinHandle<()>,
}

async fn begin(backend: &str) -> Runtime {
    let driver = Arc::new(Memory::new(Arc::new(SystemClock), Arc::new(OsChance)));
    let config = RuntimeConfig {
        allow_unsigned: true,
        backend: backend.into(),
        ..RuntimeConfig::new(tokio::runtime::Handle::current())
    };
    Runtime::start(config, driver, Engine::new(EngineConfig::default()).unwrap()).await.unwrap()
}

impl Host {
    pub(crate) async fn start() -> Host {
        Host::with(&[DEFAULT_BACKEND]).await
    }

    /// Starts a host with several backends.
    pub(crate) async fn with(backends: &[&str]) -> Host {
        let folder = tempfile::tempdir().unwrap();
        let runtimes = join_all(backends.iter().map(|name| begin(name))).await;
        let runtime = runtimes[0].clone();
        let config = ServerConfig {
            socket: folder.path().join("a.sock"),
            listen: Some("127.0.0.1:0".parse().unwrap()),
            token_file: folder.path().join("token"),
            metrics: None,
        };
        let server = Server::bind(config, Backends::new(runtimes).unwrap()).await.unwrap();
        let Address::Tcp(port) = server.addresses()[1].clone() else { panic!("no port") };
        let (end, ended) = oneshot::channel();
        let running = tokio::spawn(server.run(async move { drop(ended.await) }));
        Host { folder, runtime, port, end, running }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("a.sock")
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(Address::Unix(self.socket()))
    }

    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("token")).unwrap().trim().to_owned()
    }

    /// Sends one request over the Unix socket and returns the whole answer.
    pub(crate) async fn ask(&self, request: &str) -> String {
        exchange(UnixStream::connect(self.socket()).await.unwrap(), request).await
    }

    pub(crate) async fn ask_port(&self, request: &str) -> String {
        exchange(TcpStream::connect(&self.port).await.unwrap(), request).await
    }

    #[track_caller]
    pub(crate) fn check(answer: &str, status: &str, said: &[&str]) {
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        for part in said {
            assert!(answer.contains(part), "{part:?} is not in {answer}");
        }
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

pub(crate) fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
}
