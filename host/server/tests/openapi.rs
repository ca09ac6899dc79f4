//! The document of the surface: it is sound, it names every route and no other, and what a host answers is what it says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod stage;

use std::collections::BTreeSet;
use std::path::Path;

use althing_engine::Bundle;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::stage::Host;

const METHODS: &[&str] = &["get", "put", "post", "delete", "patch"];

struct Answered {
    status: u16,
    content_type: String,
    body: String,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Sends one request, with the header of a session unless that is empty. Of an event stream it reads the first event.
async fn ask(host: &Host, method: &str, path: &str, session: &str, body: &[u8]) -> Answered {
    let mut stream = UnixStream::connect(host.socket()).await.unwrap();
    let header = if session.is_empty() { String::new() } else { format!("althing-session: {session}\r\n") };
    let head = format!(
        "{} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}content-length: {}\r\n\r\n",
        method.to_uppercase(),
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let length = stream.read(&mut chunk).await.unwrap();
        bytes.extend_from_slice(&chunk[..length]);
        let seen = String::from_utf8_lossy(&bytes);
        if length == 0 || seen.split_once("data: ").is_some_and(|(_, data)| data.contains("\n\n")) {
            return parsed(&seen);
        }
    }
}

fn parsed(answer: &str) -> Answered {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let content_type = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    let event = body.split_once("data: ").and_then(|(_, data)| data.split_once("\n\n"));
    Answered {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        content_type: content_type.split(';').next().unwrap().to_owned(),
        body: event.map_or(body, |(event, _)| event).to_owned(),
    }
}

/// The document, and which of its operations were answered.
struct Document {
    value: Value,
    answered: BTreeSet<(String, String)>,
}

impl Document {
    async fn of(host: &Host) -> Document {
        let answer = ask(host, "get", "/v1/openapi.json", "", b"").await;
        assert_eq!((answer.status, answer.content_type.as_str()), (200, "application/json"));
        Document { value: answer.json(), answered: BTreeSet::new() }
    }

    fn paths(&self) -> &Map<String, Value> {
        self.value["paths"].as_object().unwrap()
    }

    /// Returns every method of every path, with its operation.
    fn operations<'a>(&'a self) -> Vec<(&'a str, &'a str, &'a Value)> {
        let methods = |(path, methods): (&'a String, &'a Value)| {
            let methods = methods.as_object().unwrap().iter();
            methods.map(|(method, operation)| (path.as_str(), method.as_str(), operation))
        };
        self.paths().iter().flat_map(methods).collect()
    }

    /// Returns what is found where a reference points.
    fn followed<'a>(&'a self, value: &'a Value) -> &'a Value {
        let Some(target) = value["$ref"].as_str() else { return value };
        let place = target.strip_prefix('#').unwrap();
        self.value.pointer(place).unwrap_or_else(|| panic!("{target} is not there"))
    }

    /// Fails unless `value` is what `schema` of this document describes.
    #[track_caller]
    fn check(&self, schema: &Value, value: &Value) {
        let whole = json!({ "allOf": [schema], "components": self.value["components"] });
        let validator = jsonschema::draft202012::new(&whole).unwrap();
        let wrong: Vec<_> = validator.iter_errors(value).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{wrong:?} in {value} by {schema}");
    }

    /// Fails unless the operation describes this answer.
    #[track_caller]
    fn check_answer(&mut self, method: &str, path: &str, answer: &Answered) {
        let operation = &self.value["paths"][path][method];
        assert!(operation.is_object(), "{method} {path} is not in the document");
        let responses = &operation["responses"];
        let described = responses.get(answer.status.to_string()).unwrap_or(&responses["default"]);
        match self.followed(described).get("content") {
            None => assert_eq!(answer.body, "", "{method} {path}"),
            Some(content) => {
                let schema = &content[answer.content_type.as_str()]["schema"];
                assert!(!schema.is_null(), "{method} {path} answers {:?}", answer.content_type);
                match answer.content_type.as_str() {
                    "application/json" => self.check(schema, &answer.json()),
                    "text/event-stream" => {
                        let data = &schema["contentSchema"]["properties"]["data"]["contentSchema"];
                        self.check(data, &answer.json());
                    }
                    _ => self.check(schema, &json!(answer.body)),
                }
            }
        }
        self.answered.insert((method.to_owned(), path.to_owned()));
    }

    /// Sends a request, and fails unless body, status and answer are as the document says.
    async fn ask(
        &mut self,
        host: &Host,
        (method, path): (&str, &str),
        names: &[&str],
        session: &str,
        body: Value,
    ) -> Answered {
        let mut names = names.iter();
        let place = |part: &str| {
            if part.starts_with('{') { (*names.next().unwrap()).to_owned() } else { part.to_owned() }
        };
        let filled = path.split('/').map(place).collect::<Vec<_>>().join("/");
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let answer = ask(host, method, &filled, session, &bytes).await;
        if answer.status < 300 && !body.is_null() {
            let asked =
                &self.value["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"];
            self.check(asked, &body);
        }
        self.check_answer(method, path, &answer);
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_sound() {
    let host = Host::start().await;
    let document = Document::of(&host).await;
    assert_eq!(document.value["openapi"], "3.1.0");
    let references = references(&document.value);
    assert!(references.len() > 20);
    for target in references {
        document.followed(&json!({ "$ref": target }));
    }
    for (name, schema) in document.value["components"]["schemas"].as_object().unwrap() {
        assert!(jsonschema::meta::is_valid(schema), "{name} is no schema: {schema}");
        assert!(!schema.to_string().contains("[`"), "{name} has a link for rustdoc: {schema}");
    }
    let mut ids = BTreeSet::new();
    for (path, method, operation) in document.operations() {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id), "{id} is there twice");
        assert!(id.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{id}");
        assert!(!operation["summary"].as_str().unwrap().is_empty());
        assert!(operation["responses"].as_object().unwrap().len() >= 2, "{method} {path} only fails");
        let parameters = operation["parameters"].as_array().unwrap();
        assert!(parameters.iter().all(|parameter| parameter["description"].is_string()), "{method} {path}");
        let told: Vec<_> = parameters.iter().filter(|parameter| parameter["in"] == "path").collect();
        let places: Vec<_> = path.split('/').filter(|part| part.starts_with('{')).collect();
        let told: Vec<_> =
            told.iter().map(|place| format!("{{{}}}", place["name"].as_str().unwrap())).collect();
        assert_eq!(told, places);
    }
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_names_every_route_and_no_other() {
    let host = Host::start().await;
    let document = Document::of(&host).await;
    let advice = ask(&host, "get", "/nowhere", "", b"").await.json()["advice"].as_str().unwrap().to_owned();
    let known: BTreeSet<_> = advice.strip_prefix("There are ").unwrap().split(' ').collect();
    assert_eq!(known, document.paths().keys().map(String::as_str).collect());
    for (path, methods) in document.paths() {
        for method in METHODS {
            let answer = ask(&host, method, &path.replace(['{', '}'], ""), "", b"").await;
            let is_refused = answer.body.contains(" is not for ");
            assert_ne!(methods.get(method).is_some(), is_refused, "{method} {path}: {}", answer.body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_error_is_in_the_document_with_its_status() {
    let host = Host::start().await;
    let document = Document::of(&host).await;
    let about = document.value["components"]["responses"]["Failure"]["description"].as_str().unwrap();
    let kinds = document.value["components"]["schemas"]["Kind"]["oneOf"].as_array().unwrap();
    assert_eq!(kinds.len(), about.split(", ").count());
    for said in ["invalid 400", "denied 403", "not-found 404", "session-lost 410", "busy 429", "internal 500"]
    {
        assert!(about.contains(said), "{about}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_answers_what_the_document_says() {
    let host = Host::start().await;
    let mut document = Document::of(&host).await;
    let none = Value::Null;
    for path in
        ["/healthz", "/metrics", "/v1/openapi.json", "/v1/host", "/v1/drivers", "/v1/groups", "/v1/policies"]
    {
        document.ask(&host, ("get", path), &[], "", none.clone()).await;
    }
    // Without a header that asks for the upgrade: what follows one is no HTTP.
    let refused = document.ask(&host, ("post", "/v1/waist"), &[], "", none.clone()).await;
    assert!(refused.status == 400 && refused.body.contains("althing-waist/1"), "{}", refused.body);
    let session = sessions_and_groups(&host, &mut document).await;
    locks(&host, &mut document, &session).await;
    policies(&host, &mut document).await;
    behaviours(&host, &mut document, &session).await;
    members(&host, &mut document, &session).await;
    endings(&host, &mut document, &session).await;
    let all: BTreeSet<_> = document
        .operations()
        .iter()
        .map(|(path, method, _)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    let unasked: Vec<_> = all.difference(&document.answered).collect();
    assert!(unasked.is_empty(), "add a request for {unasked:?}");
}

/// Opens a session, joins a group, leads it. Returns what shows the session.
async fn sessions_and_groups(host: &Host, document: &mut Document) -> String {
    let none = Value::Null;
    let grant =
        document.ask(host, ("post", "/v1/sessions"), &[], "", json!({ "ttl_ms": 60000 })).await.json();
    let id = grant["id"].as_str().unwrap();
    let session = format!("{id}.{}", grant["secret"].as_str().unwrap());
    document.ask(host, ("post", "/v1/sessions/{session}/renew"), &[id], &session, none.clone()).await;
    document.ask(host, ("get", "/v1/sessions/{session}"), &[id], &session, none.clone()).await;
    document.ask(host, ("get", "/v1/sessions/{session}/events"), &[id], &session, none.clone()).await;
    let created = document.ask(host, ("post", "/v1/groups"), &[], "", json!({ "name": "web" })).await;
    assert_eq!(created.status, 201);
    let again = document.ask(host, ("post", "/v1/groups"), &[], "", json!({ "name": "web" })).await;
    assert_eq!(again.status, 409);
    let mut events = host.runtime.watch_group("web").unwrap();
    let member = json!({ "id": "a", "metadata": { "weight": "1" } });
    let joined = document.ask(host, ("post", "/v1/groups/{group}/members"), &["web"], &session, member).await;
    assert_eq!(joined.status, 201);
    while host.runtime.group("web").unwrap().leader.is_none() {
        events.next().await.unwrap();
    }
    for path in ["", "/events", "/leader", "/decisions"] {
        let path = format!("/v1/groups/{{group}}{path}");
        let answer = document.ask(host, ("get", &path), &["web"], "", none.clone()).await;
        assert_eq!(answer.status, 200);
    }
    partition(host, document, &session).await;
    document.ask(host, ("get", "/v1/groups"), &[], "", none.clone()).await;
    let stopped = json!({ "group": "web", "term": "1" });
    document.ask(host, ("post", "/v1/sessions/{session}/stopped"), &[id], &session, stopped).await;
    session
}

/// Shares objects among the members of the group.
async fn partition(host: &Host, document: &mut Document, session: &str) {
    let path = "/v1/groups/{group}/partition";
    assert_eq!(document.ask(host, ("get", path), &["web"], "", Value::Null).await.status, 404);
    let made = document.ask(host, ("put", path), &["web"], "", json!({})).await.json();
    assert_eq!((&made["version"], &made["members"][0]["id"]), (&json!(1), &json!("a")));
    assert_eq!(document.ask(host, ("get", path), &["web"], "", Value::Null).await.json(), made);
    let objects = json!({ "objects": ["x", "y"], "replicas": 2 });
    let owners =
        document.ask(host, ("post", "/v1/groups/{group}/owners"), &["web"], "", objects).await.json();
    assert_eq!(owners["objects"][1], json!({ "object": "y", "owner": "a", "owners": ["a"] }));
    let settled = ("post", "/v1/groups/{group}/members/{member}/settled");
    let word = json!({ "version": 1 });
    assert_eq!(document.ask(host, settled, &["web", "a"], session, word).await.json(), made);
}

/// Locks, shows, breaks, and releases what was broken.
async fn locks(host: &Host, document: &mut Document, session: &str) {
    let none = Value::Null;
    let names = json!({ "names": ["db"], "wait_ms": 0, "label": "a test" });
    let answer = document.ask(host, ("post", "/v1/locks"), &[], session, names.clone()).await.json();
    let hold = &answer["locks"][0];
    assert_eq!((&answer["granted"], &hold["lock"]), (&json!(true), &json!("db")));
    let taken = document.ask(host, ("post", "/v1/locks"), &[], session, names).await.json();
    assert_eq!(taken, json!({ "granted": false, "locks": [] }));
    let wrong = json!({ "names": ["db", "db"] });
    assert_eq!(document.ask(host, ("post", "/v1/locks"), &[], session, wrong).await.status, 400);
    let listed = document.ask(host, ("get", "/v1/locks"), &[], "", none.clone()).await.json();
    assert_eq!((&listed[0]["name"], &listed[0]["holders"]), (&json!("db"), &json!(1)));
    let shown = document.ask(host, ("get", "/v1/locks/{lock}"), &["db"], "", none).await.json();
    assert_eq!(
        (&shown["holders"][0]["token"], &shown["holders"][0]["label"]),
        (&hold["token"], &json!("a test"))
    );
    let force = json!({ "force": true });
    let broken = document.ask(host, ("post", "/v1/locks/{lock}/break"), &["db"], "", force).await.json();
    assert_eq!(broken, json!({ "broken": [hold["token"]], "asked": [] }));
    let release = json!({ "token": hold["token"] });
    let release = document.ask(host, ("post", "/v1/locks/{lock}/release"), &["db"], session, release).await;
    assert_eq!(release.json(), json!("lost"));
}

/// Uploads a shipped policy. Needs `cargo xtask guests`.
async fn push(host: &Host, document: &mut Document, name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies").join(name);
    let bundle = Bundle::open(&folder).unwrap().pack();
    let pushed = ask(host, "post", "/v1/policies", "", &bundle).await;
    assert_eq!(pushed.status, 202);
    document.check_answer("post", "/v1/policies", &pushed);
    let id = pushed.json()["id"].as_str().unwrap().to_owned();
    let job = ask(host, "get", &format!("/v1/jobs/{id}?wait_ms=60000"), "", b"").await;
    document.check_answer("get", "/v1/jobs/{job}", &job);
    assert_eq!((&job.json()["done"], &job.json()["error"]), (&json!(true), &Value::Null));
}

async fn policies(host: &Host, document: &mut Document) {
    let none = Value::Null;
    push(host, document, "elect-oldest").await;
    document.ask(host, ("get", "/v1/policies"), &[], "", none.clone()).await;
    document.ask(host, ("get", "/v1/policies/{policy}"), &["elect-oldest"], "", none.clone()).await;
    let ask = json!({ "policy": "elect-oldest" });
    let bound = document.ask(host, ("put", "/v1/groups/{group}/policy"), &["web"], "", ask).await;
    assert_eq!(bound.status, 200);
    let decisions =
        document.ask(host, ("get", "/v1/groups/{group}/decisions"), &["web"], "", none.clone()).await;
    assert_ne!(decisions.json(), json!([]));
    document.ask(host, ("post", "/v1/groups/{group}/rollback"), &["web"], "", none).await;
}

async fn behaviours(host: &Host, document: &mut Document, session: &str) {
    let none = Value::Null;
    let path = "/v1/behaviours/{behaviour}";
    let names = &["semaphore"];
    push(host, document, "semaphore").await;
    let bind = json!({ "policy": "semaphore" });
    let bound = document.ask(host, ("put", &format!("{path}/policy")), names, "", bind).await;
    assert_eq!(bound.status, 200);
    let asked = "/v1/behaviours/semaphore?operation=show&timeout_ms=10000";
    let answer = ask(host, "post", asked, session, br#"{"name": "db"}"#).await;
    assert_eq!((answer.status, answer.content_type.as_str()), (200, "application/octet-stream"));
    document.check_answer("post", path, &answer);
    document.ask(host, ("get", "/v1/behaviours"), &[], "", none.clone()).await;
    let shown = document.ask(host, ("get", path), names, "", none.clone()).await;
    assert_ne!(shown.json()["calls"], json!([]));
    document.ask(host, ("post", &format!("{path}/rollback")), names, "", none.clone()).await;
    assert_eq!(document.ask(host, ("delete", path), names, "", none).await.status, 204);
}

/// Changes and shows the member that leads, and lets another one go.
async fn members(host: &Host, document: &mut Document, session: &str) {
    let none = Value::Null;
    let one = "/v1/groups/{group}/members/{member}";
    let change = json!({ "metadata": { "zone": "north" }, "capabilities": [1], "candidate": true });
    let changed = document.ask(host, ("patch", one), &["web", "a"], session, change).await;
    assert_eq!((changed.status, &changed.json()["capabilities"]), (200, &json!([1])));
    let shown = document.ask(host, ("get", one), &["web", "a"], "", none.clone()).await;
    assert_eq!(shown.json(), changed.json());
    let empty = document.ask(host, ("patch", one), &["web", "a"], session, json!({})).await;
    assert_eq!(empty.json(), changed.json());
    assert_eq!(document.ask(host, ("get", one), &["web", "z"], "", none.clone()).await.status, 404);
    let join = json!({ "id": "b", "candidate": false, "capabilities": { "base64": "AA==" } });
    document.ask(host, ("post", "/v1/groups/{group}/members"), &["web"], session, join).await;
    let all = document.ask(host, ("get", "/v1/groups/{group}/members"), &["web"], "", none.clone()).await;
    assert_eq!(all.json().as_array().unwrap().len(), 2);
    let evict = format!("{one}/evict");
    let evicted = document.ask(host, ("post", &evict), &["web", "b"], "", none).await;
    assert_eq!(evicted.json(), "evicted");
}

async fn endings(host: &Host, document: &mut Document, session: &str) {
    let none = Value::Null;
    let (id, _) = session.split_once('.').unwrap();
    document.ask(host, ("post", "/v1/groups/{group}/stand-down"), &["web"], "", none.clone()).await;
    let member = ("delete", "/v1/groups/{group}/members/{member}");
    assert_eq!(document.ask(host, member, &["web", "a"], session, none.clone()).await.status, 204);
    let group = ("delete", "/v1/groups/{group}");
    assert_eq!(document.ask(host, group, &["web"], "", none.clone()).await.status, 204);
    assert_eq!(document.ask(host, group, &["web"], "", none.clone()).await.status, 404);
    let end = ("delete", "/v1/sessions/{session}");
    assert_eq!(document.ask(host, end, &[id], "", none.clone()).await.status, 403);
    assert_eq!(document.ask(host, end, &[id], session, none).await.status, 204);
}
