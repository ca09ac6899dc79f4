//! What a host does to the process it lives in: nothing that stays. A test binary of its own, with one test, because
//! all of it is about the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::{TcpListener, TcpStream};
use std::panic;
use std::path::Path;
use std::time::Duration;

use althing::info::{JoinAsk, SessionAsk, SessionEvent};
use althing::{Althing, Bundle, Principal, Revision, Secret, SessionKey};
use althing_test_servers::{Redis, RedisOptions};
use tokio::time::{sleep, timeout};

/// Long enough for a thread to end on a loaded machine.
const SOON: Duration = Duration::from_secs(10);

/// The one thread that stays: the crate that speaks to ZooKeeper has its sockets on a thread that it starts once for
/// the whole process, whoever uses it.
const STAYS: &str = "async-io\n";

/// What the kernel says of this process: which signals are caught, ignored and blocked, and by name its threads.
#[derive(Debug, PartialEq, Eq)]
struct Footprint {
    signals: Vec<String>,
    threads: Vec<String>,
}

impl Footprint {
    fn now() -> Footprint {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let is_signals =
            |line: &&str| ["SigBlk:", "SigIgn:", "SigCgt:"].iter().any(|name| line.starts_with(name));
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        // A thread may end while it is being looked at.
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
        let names = tasks.filter_map(|task| name(task.unwrap()));
        let mut threads: Vec<_> = names.filter(|name| name != STAYS).collect();
        threads.sort();
        Footprint { signals: status.lines().filter(is_signals).map(str::to_owned).collect(), threads }
    }

    /// Waits until the process is as it was; fails, showing the difference, if it does not get there.
    async fn wait_for_the_same(&self) {
        let same = async {
            while Footprint::now() != *self {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(SOON, same).await.is_err() {
            assert_eq!(Footprint::now(), *self);
        }
    }
}

#[test]
fn a_host_leaves_the_process_as_it_found_it() {
    // The hook is one allocation, by whose address it is known again.
    let shown = panic::take_hook();
    let hook: Box<dyn Fn(&panic::PanicHookInfo<'_>) + Send + Sync> = Box::new(move |info| shown(info));
    let address = (&raw const *hook).cast::<()>();
    panic::set_hook(hook);
    let here = std::env::current_dir().unwrap();

    for runtime in
        [&mut tokio::runtime::Builder::new_current_thread(), &mut tokio::runtime::Builder::new_multi_thread()]
    {
        let runtime = runtime.enable_all().thread_keep_alive(Duration::from_millis(1)).build().unwrap();
        runtime.block_on(async {
            // Whatever a runtime starts at its first use is started now.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            sleep(Duration::from_millis(50)).await;
            let before = Footprint::now();
            live().await;
            before.wait_for_the_same().await;
            meet_tls().await;
            before.wait_for_the_same().await;
        });
    }

    assert!(rustls::crypto::CryptoProvider::get_default().is_none(), "a TLS provider was installed");
    assert!(!tracing::dispatcher::has_been_set(), "a subscriber of traces was installed");
    assert!(
        metrics::set_global_recorder(metrics::NoopRecorder).is_ok(),
        "a recorder of metrics was installed"
    );
    assert_eq!((&raw const *panic::take_hook()).cast::<()>(), address, "the panic hook was replaced");
    assert_eq!(std::env::current_dir().unwrap(), here);
}

/// Two hosts lead, one of them by a rule in WebAssembly; the first is stopped and the second dropped.
async fn live() {
    let [first, second] = ["first", "second"].map(|name| Althing::builder().name(name).allow_unsigned(true));
    let (first, second) = (first.start().await.unwrap(), second.start().await.unwrap());
    lead(&second).await;
    lead(&first).await;
    activate(&first).await;
    assert!(Footprint::now().threads.iter().any(|name| name.starts_with("althing-")));
    first.stop().await;
    drop(second);
}

async fn lead(host: &Althing) -> Revision {
    let grant = host.runtime().open_session(&Principal::Embedder, SessionAsk::default(), false).unwrap();
    let key = SessionKey { id: grant.id, secret: Secret::new(grant.secret) };
    let mut events = host.runtime().session_events(&key).unwrap();
    let ask = JoinAsk { id: "a".into(), create: true, ..JoinAsk::default() };
    host.runtime().join(&key, "web", ask).await.unwrap();
    loop {
        if let SessionEvent::Elected { hold } = events.next().await.unwrap() {
            assert!(host.runtime().holds("web", hold.term));
            return hold.term;
        }
    }
}

/// Lets a rule in WebAssembly decide. Needs `cargo xtask guests`.
async fn activate(host: &Althing) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/elect-oldest");
    let bundle = Bundle::open(&folder).unwrap().pack();
    let job = host.runtime().push(&Principal::Embedder, bundle.into()).unwrap();
    let job = host.runtime().job_done(&job.id, Duration::from_secs(60)).await.unwrap();
    assert_eq!(job.error, None);
    host.runtime().activate(&Principal::Embedder, "web", "elect-oldest", None).await.unwrap();
    let wasm = || host.runtime().decisions("web", 10).unwrap().iter().any(|made| made.policy.is_some());
    let decided = async {
        while !wasm() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, decided).await.expect("the rule was never asked");
}

/// Greets by TLS servers that speak none, and, where there is one, a Redis that does.
async fn meet_tls() {
    for (scheme, options) in [("rediss", ""), ("zookeeper", "?tls=true&timeout=500ms")] {
        let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = deaf.local_addr().unwrap().port();
        let silent = std::thread::spawn(move || drop(deaf.accept()));
        let url = format!("{scheme}://127.0.0.1:{port}/{options}");
        assert!(Althing::builder().backend(url).start().await.is_err());
        // Where nobody came in time, it waits still.
        let _ = TcpStream::connect(("127.0.0.1", port));
        silent.join().unwrap();
    }
    let options = RedisOptions { tls: true, ..RedisOptions::default() };
    let Some(server) = Redis::start(options).await else { return };
    let url = format!("rediss://127.0.0.1:{}/0?tls-ca={}", server.tls_port(), server.certificate().display());
    let host = Althing::builder().backend(url).start().await.unwrap();
    lead(&host).await;
    host.stop().await;
}
