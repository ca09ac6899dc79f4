//! The resources of `host/fence/examples`, each beside one that looks at no token.

#[path = "../../../../host/fence/examples/http.rs"]
#[allow(dead_code, reason = "its main is not called here")]
mod http;
#[path = "../../../../host/fence/examples/redis.rs"]
#[allow(dead_code, reason = "its main is not called here")]
mod redis_example;
#[path = "../../../../host/fence/examples/sql.rs"]
#[allow(dead_code, reason = "its main is not called here")]
mod sql;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use althing_core::Revision;
use althing_fence::Stale;
use althing_fence::http::{SEEN, TOKEN, token};
use althing_fence::sql::Verdict;
use async_trait::async_trait;
use axum::routing::get;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use self::sql::Database;

/// A connection to a resource with two states, `guarded` and `open`.
#[async_trait]
pub(crate) trait Resource: Send {
    /// Writes the guarded one.
    async fn write(&mut self, state: &str, token: Revision) -> Result<(), Stale>;

    /// Writes the open one.
    async fn write_open(&mut self, state: &str);

    /// Reads both.
    async fn read(&mut self) -> [String; 2];
}

/// Connects to whatever is at `url`.
pub(crate) async fn connect(url: &str) -> Box<dyn Resource> {
    match url.split_once("://").unwrap() {
        ("redis", _) => Box::new(redis_example::open(url).await.unwrap()),
        ("http", address) => Box::new(Service(address.parse().unwrap())),
        _ => Box::new(Database::open(url).await.unwrap()),
    }
}

/// Makes the table, with both rows.
pub(crate) async fn furnish(url: &str) {
    let mut database = Database::open(url).await.unwrap();
    database.run(sql::CREATE).await.unwrap();
    database.run(&database.table().add_column()).await.unwrap();
    database.run("INSERT INTO jobs (name, state) VALUES ('guarded', ''), ('open', '')").await.unwrap();
}

/// Starts the service of the example beside one without a fence, and returns its URL.
pub(crate) async fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let state = Arc::new(Mutex::new(String::new()));
    let read = {
        let state = state.clone();
        async move || state.lock().unwrap().clone()
    };
    let write = async move |body: String| *state.lock().unwrap() = body;
    tokio::spawn(axum::serve(listener, http::service().route("/open", get(read).put(write))).into_future());
    format!("http://{address}")
}

#[async_trait]
impl Resource for Database {
    async fn write(&mut self, state: &str, token: Revision) -> Result<(), Stale> {
        match Database::write(self, "guarded", state, token).await.unwrap() {
            Verdict::Written => Ok(()),
            Verdict::Stale(stale) => Err(stale),
            Verdict::NoRow => panic!("the row has gone"),
        }
    }

    async fn write_open(&mut self, state: &str) {
        self.run(&format!("UPDATE jobs SET state = '{state}' WHERE name = 'open'")).await.unwrap();
    }

    async fn read(&mut self) -> [String; 2] {
        let states = [self.state("guarded").await, self.state("open").await];
        states.map(|state| state.unwrap().unwrap())
    }
}

#[async_trait]
impl Resource for MultiplexedConnection {
    async fn write(&mut self, state: &str, token: Revision) -> Result<(), Stale> {
        redis_example::write(self, "guarded", state, token).await.unwrap()
    }

    async fn write_open(&mut self, state: &str) {
        self.set("{open}:state", state).await.unwrap()
    }

    async fn read(&mut self) -> [String; 2] {
        self.mget(&["{guarded}:state", "{open}:state"]).await.unwrap()
    }
}

/// A service that is spoken to over connections of one request each.
struct Service(SocketAddr);

impl Service {
    async fn ask(&self, request: &str, header: &str, body: &str) -> String {
        let length = body.len();
        let lines = format!("{request} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{header}");
        let mut stream = TcpStream::connect(self.0).await.unwrap();
        let request = format!("{lines}content-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[async_trait]
impl Resource for Service {
    async fn write(&mut self, state: &str, mine: Revision) -> Result<(), Stale> {
        let answer = self.ask("PUT /guarded", &format!("{TOKEN}: {mine}\r\n"), state).await;
        if answer.starts_with("HTTP/1.1 204") {
            return Ok(());
        }
        assert!(answer.starts_with("HTTP/1.1 412"), "{answer}");
        let prefix = format!("{SEEN}: ");
        let seen = token(answer.lines().find_map(|line| line.strip_prefix(&prefix))).unwrap();
        Err(Stale { token: mine, seen })
    }

    async fn write_open(&mut self, state: &str) {
        let answer = self.ask("PUT /open", "", state).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    async fn read(&mut self) -> [String; 2] {
        let [guarded, open] = [self.ask("GET /guarded", "", "").await, self.ask("GET /open", "", "").await];
        [guarded, open].map(|answer| answer.lines().last().unwrap().to_owned())
    }
}
