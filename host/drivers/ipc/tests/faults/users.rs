//! Users: one poses as the daemon of another, and some ask a daemon that is not theirs. Only root can play them.

use std::fs::{Permissions, create_dir, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use althing_client::waist::Greeting;
use althing_client::{Address, Client};
use althing_core::{Driver, OsChance, Result, SystemClock};
use althing_driver_memory::Memory;
use althing_test_servers::ready_to;
use tokio::net::UnixListener;

use crate::daemon::{Daemon, connect};
use crate::peer::{Process, say};
use crate::put;
use crate::strangers::black_hole;

/// Says what a process of ours does.
const ROLE: &str = "ALTHING_TEST_IPC_ROLE";
/// Who runs it, always in this group: users whom no machine has.
const OWN: u32 = 61_001;
const OTHER: u32 = 61_002;
const GROUP: u32 = 61_000;

fn command_as(command: &mut tokio::process::Command, uid: u32) -> &mut tokio::process::Command {
    command.uid(uid).gid(GROUP).env_remove("XDG_RUNTIME_DIR")
}

/// Makes a folder in which everybody may write, where this user can be others.
async fn temporary() -> Option<tempfile::TempDir> {
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    let output = command_as(command.arg("--list"), OWN).output().await;
    let works = rustix::process::geteuid().is_root() && output.is_ok_and(|output| output.status.success());
    if !ready_to("run this as another user", works) {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
    Some(folder)
}

/// Starts a process that plays a role, and returns it with what it says first.
async fn play(uid: u32, temporary: &Path, role: &str) -> (Process, String) {
    let mut process = Process::start(|command| {
        command_as(command, uid).env("TMPDIR", temporary).env(ROLE, role);
    });
    let said = process.line().await;
    (process, said)
}

/// Plays the role for which this process was started, if for one.
pub(crate) fn work() -> Option<ExitCode> {
    let role = std::env::var(ROLE).ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match role.split_once(' ').unwrap_or((&role, "")) {
            ("pose", socket) => pose(socket.into()).await,
            ("serve", _) => serve().await,
            ("share", url) => tell(connect(url).await),
            ("ask", "") => tell(Client::new(Address::default()).host().await),
            ("ask", address) => tell(Client::new(address.parse().unwrap()).host().await),
            (role, _) => panic!("nobody plays {role:?}"),
        }
    });
    Some(ExitCode::SUCCESS)
}

fn tell<T>(outcome: Result<T>) {
    say(&outcome.map_or_else(|error| format!("{error:?}"), |_| "welcome".into()));
}

/// Says to whoever connects what a host would say first.
async fn pose(socket: PathBuf) {
    let folder = socket.parent().unwrap();
    create_dir(folder).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    for path in [folder, &socket] {
        set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    let memory = Memory::new(std::sync::Arc::new(SystemClock), std::sync::Arc::new(OsChance));
    let greeting = Greeting { capability: memory.capability() };
    say("ready");
    black_hole(listener, greeting).await;
}

/// Is a daemon that the group of its user may ask.
async fn serve() {
    let daemon = Daemon::on_memory().await;
    let socket = daemon.socket();
    set_permissions(socket.parent().unwrap(), Permissions::from_mode(0o750)).unwrap();
    say(socket.to_str().unwrap());
    std::future::pending().await
}

pub(crate) async fn a_stranger_at_the_place_of_our_daemon_is_not_believed() {
    let Some(temporary) = temporary().await else { return };
    let socket = temporary.path().join(format!("althing-{OWN}/althing.sock"));
    let (_stranger, _) = play(OTHER, temporary.path(), &format!("pose {}", socket.display())).await;
    for role in ["share ipc:", "ask", &format!("share ipc://{}", socket.display())] {
        let (_, said) = play(OWN, temporary.path(), role).await;
        assert!(said.starts_with("[denied]"), "{role}: {said}");
        let place = format!("uid {OTHER} answers at unix:{}", socket.display());
        for part in [&place, &format!("own uid {OWN}"), "may only pose as a host"] {
            assert!(said.contains(part), "{role}: {part:?} is not in {said}");
        }
    }
    // Root may ask whomever it wants, also one who says no more than his name.
    connect(&format!("ipc://{}", socket.display())).await.unwrap();
}

pub(crate) async fn who_may_ask_the_daemon_of_another_user_still_may() {
    let Some(temporary) = temporary().await else { return };
    let (_daemon, socket) = play(OTHER, temporary.path(), "serve").await;
    for (uid, role, expected) in [
        (OTHER, format!("share ipc://{socket}"), "welcome"),
        (OTHER, format!("ask unix:{socket}"), "welcome"),
        (OWN, format!("ask unix:{socket}"), "welcome"),
        (OWN, format!("share ipc://{socket}"), "[denied]"),
    ] {
        let (_, said) = play(uid, temporary.path(), &role).await;
        assert!(said.starts_with(expected), "{role} as {uid}: {said}");
    }
    put(&connect(&format!("ipc://{socket}")).await.unwrap(), "a").await.unwrap();
    Client::new(Address::Unix(socket.into())).host().await.unwrap();
}
