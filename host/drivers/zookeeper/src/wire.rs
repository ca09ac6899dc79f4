//! One ZooKeeper session of the client, and every error of it by name. The only file that knows the client crate.

use std::fmt;
use std::time::Duration;

use althing_core::{Error, Kind, Result, Revision};
use bytes::Bytes;
use futures::FutureExt;
use zookeeper_client::{
    Acl, Acls, AddWatchMode, AuthId, Client, CreateMode, Error as ClientError, EventType, MultiReadResult,
    MultiWriteError, MultiWriteResult, Permission, PersistentWatcher, SessionState, Stat, WatchedEvent,
};

use crate::settings::{Access, Settings};

/// For how long a server may be silent until another is tried. Two fifths of the time-out where that is shorter,
/// so that two can be tried while it lasts.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// What the server keeps for each node, as far as we use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
    /// When a child was last made or removed.
    pub(crate) children_changed: Revision,
    pub(crate) version: i32,
    pub(crate) children: u32,
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The node is there, and at this version if one is given.
    Check {
        path: String,
        version: Option<i32>,
    },
    Create {
        path: String,
        data: Vec<u8>,
        mode: Mode,
    },
    Set {
        path: String,
        data: Vec<u8>,
        version: Option<i32>,
    },
    Delete {
        path: String,
    },
}

/// How long a node that is made stays, and who completes its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Until it is deleted.
    Lasting,
    /// Until the client's session ends.
    Ephemeral,
    /// Until it is deleted; the server adds a number to its name.
    Numbered,
}

impl Step {
    /// Returns the most bytes that this step takes in a request.
    pub(crate) fn bytes(&self) -> usize {
        // Headers, lengths, versions and an access list; what is left is names and data.
        const FRAME: usize = 128;
        FRAME
            + match self {
                Step::Check { path, .. } | Step::Delete { path } => path.len(),
                Step::Create { path, data, .. } | Step::Set { path, data, .. } => path.len() + data.len(),
            }
    }
}

/// What a step of a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    Checked,
    /// The full path of what was made.
    Created(String),
    Set(Node),
    Deleted,
}

/// Why a transaction did nothing, or may have done something.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The step of this index found another node than it expected; nothing was written.
    Step(usize),
    Failed(Error),
}

/// A ZooKeeper session that many callers share. When the last clone is dropped, it is ended.
pub(crate) struct Wire {
    client: Client,
    access: Access,
    /// The servers vote about what is written.
    votes: bool,
}

impl Wire {
    /// Connects and logs in, and asks for a session with the time-out `ask`. Nothing is written that would
    /// outlive it, so every error has no effect.
    pub(crate) async fn dial(settings: &Settings, ask: Duration) -> Result<Wire> {
        let servers = match &settings.tls {
            None => settings.address(),
            Some(tls) => tls.entrances().await?,
        };
        let silence = SILENCE_MAX.min(ask * 2 / 5);
        let mut connector = Client::connector().with_session_timeout(ask).with_connection_timeout(silence);
        if let Some((user, password)) = &settings.login {
            connector = connector.with_auth("digest", format!("{user}:{}", password.expose()).as_bytes());
        }
        let client = connector.with_fail_eagerly().connect(&servers).await.map_err(|error| {
            let refused = settings.tls.as_ref().and_then(|tls| tls.refusal());
            refused.unwrap_or_else(|| fault("connect", false, error)).with("servers", settings.address())
        })?;
        Ok(Wire { client, access: settings.access, votes: false })
    }

    /// Returns the time-out that the server granted.
    pub(crate) fn granted(&self) -> Duration {
        self.client.session_timeout()
    }

    /// Tells whether this session has ended for good.
    pub(crate) fn is_over(&self) -> bool {
        is_final(self.client.state())
    }

    /// Waits until there is a connection, so that nothing is left waiting to be sent later. Fails when the
    /// session has ended.
    pub(crate) async fn connected(&self) -> Result<()> {
        let mut watcher = self.client.state_watcher();
        let mut state = self.client.state();
        while state == SessionState::Disconnected {
            state = watcher.changed().await;
        }
        if is_final(state) { Err(fault("connect", false, ClientError::SessionExpired)) } else { Ok(()) }
    }

    /// Lets go of the session and waits until the server has ended it.
    pub(crate) async fn end(self) {
        let mut watcher = self.client.state_watcher();
        let mut state = self.client.state();
        drop(self);
        while !is_final(state) {
            state = watcher.changed().await;
        }
    }

    /// Finds out whether the servers vote; until then this takes it that there is one alone.
    pub(crate) async fn learn_votes(&mut self) -> Result<()> {
        // Where we may not know, it is safe to take it that they do.
        self.votes = self.ensemble().await?.is_none_or(|config| crate::voters(&config) > 1);
        Ok(())
    }

    /// Makes all reads that are sent on this wire later see what was acknowledged to anybody before. Sent when
    /// called, like all that follows; answered when awaited.
    ///
    /// Where servers vote, this is a transaction that changes nothing. `sync` alone would not do: a leader answers it to
    /// its own clients before it has itself applied what a follower has acknowledged already, and one that
    /// was deposed and has not noticed answers it too.
    pub(crate) fn sync(&self) -> impl Future<Output = Result<()>> + Send + '_ {
        if !self.votes {
            let sent = self.client.sync("/");
            return async move { sent.await.map_err(|error| fault("read", false, error)) }.left_future();
        }
        let mut writer = self.client.new_multi_writer();
        let added = writer.add_check_version("/", -1);
        let sent = writer.commit();
        async move {
            added.map_err(|error| fault("read", false, error))?;
            match sent.await {
                // A check that fails was voted about as well.
                Ok(_) | Err(MultiWriteError::OperationFailed { .. }) => Ok(()),
                Err(MultiWriteError::RequestFailed { source }) => Err(fault("read", false, source)),
            }
        }
        .right_future()
    }

    /// Reads a node and its data.
    pub(crate) fn get(
        &self,
        path: &str,
    ) -> impl Future<Output = Result<Option<(Bytes, Node)>>> + Send + use<> {
        let sent = self.client.get_data(path);
        sent.map(|read| found(read).map(|read| read.map(|(data, stat)| (data.into(), node(stat)))))
    }

    /// Looks at a node.
    pub(crate) fn look(&self, path: &str) -> impl Future<Output = Result<Option<Node>>> + Send + use<> {
        let sent = self.client.check_stat(path);
        sent.map(|read| found(read).map(|read| read.flatten().map(node)))
    }

    /// Reads the names of a node's children, in no order.
    pub(crate) fn children(
        &self,
        path: &str,
    ) -> impl Future<Output = Result<Option<(Vec<String>, Node)>>> + Send + use<> {
        let sent = self.client.get_children(path);
        sent.map(|read| found(read).map(|read| read.map(|(names, stat)| (names, node(stat)))))
    }

    /// Reads the names of the children of several nodes in one request. A node that is not there has none.
    pub(crate) async fn children_of_all(&self, paths: &[String]) -> Result<Vec<String>> {
        let mut reader = self.client.new_multi_reader();
        for path in paths {
            reader.add_get_children(path).map_err(|error| fault("list", false, error))?;
        }
        let mut all = Vec::new();
        for result in reader.commit().await.map_err(|error| fault("list", false, error))? {
            match result {
                MultiReadResult::Children { mut children } => all.append(&mut children),
                MultiReadResult::Error { err: ClientError::NoNode } => {}
                MultiReadResult::Error { err } => return Err(fault("list", false, err)),
                _ => {
                    return Err(Error::new(Kind::Internal, "list", "data where names were asked for"));
                }
            }
        }
        Ok(all)
    }

    /// Reads which servers there are. `None` where the server does not let us.
    pub(crate) async fn ensemble(&self) -> Result<Option<Bytes>> {
        match self.client.get_config().await {
            Ok((data, _)) => Ok(Some(data.into())),
            Err(ClientError::NoNode | ClientError::NoAuth) => Ok(None),
            Err(error) => Err(fault("connect", false, error)),
        }
    }

    /// Makes the nodes up to `path` that are not there.
    pub(crate) async fn make_folders(&self, path: &str) -> Result<()> {
        let acls = acls(self.access);
        let options = CreateMode::Persistent.with_acls(Acls::new(&acls));
        self.client.mkdir(path, &options).await.map_err(|error| fault("connect", true, error))
    }

    /// Removes a node, and succeeds if it is not there.
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        match self.client.delete(path, None).await {
            Ok(()) | Err(ClientError::NoNode) => Ok(()),
            Err(error) => Err(fault("delete", true, error)),
        }
    }

    /// Does all of `steps` at once, or nothing.
    pub(crate) async fn transact(
        &self,
        operation: &'static str,
        steps: &[Step],
    ) -> Result<Vec<Done>, Refusal> {
        let mut writer = self.client.new_multi_writer();
        let acls = acls(self.access);
        for step in steps {
            let added = match step {
                Step::Check { path, version } => writer.add_check_version(path, version.unwrap_or(-1)),
                Step::Create { path, data, mode } => {
                    let mode = match mode {
                        Mode::Lasting => CreateMode::Persistent,
                        Mode::Ephemeral => CreateMode::Ephemeral,
                        Mode::Numbered => CreateMode::PersistentSequential,
                    };
                    writer.add_create(path, data, &mode.with_acls(Acls::new(&acls)))
                }
                Step::Set { path, data, version } => writer.add_set_data(path, data, *version),
                Step::Delete { path } => writer.add_delete(path, None),
            };
            added.map_err(|error| Refusal::Failed(fault(operation, false, error)))?;
        }
        match writer.commit().await {
            Ok(results) => Ok(results.into_iter().map(done).collect()),
            Err(MultiWriteError::OperationFailed { index, source }) => Err(refusal(operation, index, source)),
            Err(MultiWriteError::RequestFailed { source }) => {
                Err(Refusal::Failed(fault(operation, true, source)))
            }
        }
    }

    /// Listens to whatever happens to a node and to all below it.
    pub(crate) async fn listen(&self, path: &str) -> Result<Ear> {
        let watcher = self.client.watch(path, AddWatchMode::PersistentRecursive).await;
        let watcher = watcher.map_err(|error| fault("watch", false, error))?;
        Ok(Ear { watcher, over: false })
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("state", &self.client.state()).finish_non_exhaustive()
    }
}

/// What was heard of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    Created(String),
    Deleted(String),
    /// The connection is back: what happened meanwhile was not told.
    Connected,
    /// The session has ended; nothing will be told any more.
    Over,
    /// Something else happened.
    Else,
}

/// Hears of what happens below a node.
pub(crate) struct Ear {
    watcher: PersistentWatcher,
    over: bool,
}

impl Ear {
    /// Waits for the next event. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Heard {
        if self.over {
            // The crate panics when asked again after the last event.
            return Heard::Over;
        }
        let heard = heard(self.watcher.changed().await);
        self.over = heard == Heard::Over;
        heard
    }

    /// Returns the next event if it was told already.
    pub(crate) fn told(&mut self) -> Option<Heard> {
        self.next().now_or_never()
    }
}

fn heard(event: WatchedEvent) -> Heard {
    match event.event_type {
        EventType::NodeCreated => Heard::Created(event.path),
        EventType::NodeDeleted => Heard::Deleted(event.path),
        EventType::Session if is_final(event.session_state) => Heard::Over,
        EventType::Session if event.session_state == SessionState::SyncConnected => Heard::Connected,
        EventType::Session | EventType::NodeDataChanged | EventType::NodeChildrenChanged => Heard::Else,
    }
}

fn is_final(state: SessionState) -> bool {
    matches!(state, SessionState::AuthFailed | SessionState::Expired | SessionState::Closed)
}

fn acls(access: Access) -> Vec<Acl> {
    let mine = Acl::new(Permission::ALL, AuthId::authed());
    match access {
        Access::Open => vec![Acl::new(Permission::ALL, AuthId::anyone())],
        Access::Creator => vec![mine],
        Access::Read => vec![mine, Acl::new(Permission::READ, AuthId::anyone())],
    }
}

fn node(stat: Stat) -> Node {
    let revision = |zxid: i64| Revision(zxid.max(0).unsigned_abs());
    Node {
        created: revision(stat.czxid),
        modified: revision(stat.mzxid),
        children_changed: revision(stat.pzxid),
        version: stat.version,
        children: stat.num_children.max(0).unsigned_abs(),
    }
}

fn done(result: MultiWriteResult) -> Done {
    match result {
        MultiWriteResult::Create { path, .. } => Done::Created(path),
        MultiWriteResult::SetData { stat } => Done::Set(node(stat)),
        MultiWriteResult::Delete => Done::Deleted,
        // The crate may add kinds of steps; of those we send, only a check is left.
        _ => Done::Checked,
    }
}

fn found<T>(read: Result<T, ClientError>) -> Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(ClientError::NoNode) => Ok(None),
        Err(error) => Err(fault("read", false, error)),
    }
}

fn refusal(operation: &'static str, index: usize, error: ClientError) -> Refusal {
    match error {
        ClientError::NoNode | ClientError::BadVersion | ClientError::NodeExists | ClientError::NotEmpty => {
            Refusal::Step(index)
        }
        // A transaction that the server answered with a failed step wrote nothing.
        error => Refusal::Failed(fault(operation, false, error)),
    }
}

/// Says what an error of the client crate means. `writes` tells whether the request would have written: then
/// whatever may have happened after it was sent has an unknown effect.
fn fault(operation: &'static str, writes: bool, error: ClientError) -> Error {
    let (kind, message, may_have_run) = meaning(&error);
    let fault = Error::new(kind, operation, message).because(error);
    let fault = if kind == Kind::Denied { fault.advise(RIGHTS) } else { fault };
    if writes && may_have_run { fault.with_unknown_effect() } else { fault }
}

const RIGHTS: &str =
    "Give user:password in the backend URL, and to that user all rights below the namespace's node";

/// Returns kind, sentence, and whether the server may have run the request.
fn meaning(error: &ClientError) -> (Kind, &'static str, bool) {
    match error {
        ClientError::NoHosts | ClientError::Timeout => {
            (Kind::Unavailable, "no server of ZooKeeper serves us", false)
        }
        // A socket that fails while it is written to comes as the error of the system.
        ClientError::ConnectionLoss | ClientError::Custom(_) => {
            (Kind::Unavailable, "the connection to ZooKeeper broke", true)
        }
        ClientError::SessionExpired | ClientError::SessionMoved | ClientError::ClientClosed => {
            (Kind::Unavailable, "the connection's session with ZooKeeper has ended", false)
        }
        ClientError::NotReadOnly => (Kind::Unavailable, "this server has lost its ensemble", false),
        ClientError::Throttled => (Kind::Busy, "ZooKeeper has too much to do", false),
        ClientError::NoAuth => (Kind::Denied, "ZooKeeper does not let this user do that", false),
        ClientError::AuthFailed => (Kind::Denied, "ZooKeeper refused the login", false),
        ClientError::InvalidAcl => (Kind::Denied, "ZooKeeper knows no user to give the rights to", false),
        ClientError::QuotaExceeded => (Kind::TooLarge, "a quota of ZooKeeper is used up", false),
        ClientError::NoNode
        | ClientError::BadVersion
        | ClientError::NodeExists
        | ClientError::NotEmpty
        | ClientError::NoChildrenForEphemerals => {
            (Kind::Format, "a node of the namespace was changed by somebody else", false)
        }
        ClientError::Unimplemented | ClientError::ReconfigDisabled | ClientError::NoWatcher => (
            Kind::Unsupported,
            "this ZooKeeper does not know that request; 3.6 is the oldest that does",
            false,
        ),
        ClientError::BadArguments(_) | ClientError::MarshallingError => {
            (Kind::Internal, "the request was malformed", false)
        }
        // The server failed, or spoke another protocol, or the crate has a new kind of error.
        _ => (Kind::Internal, "ZooKeeper failed the request", true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use althing_core::Effect;

    #[track_caller]
    fn check(error: ClientError, kind: Kind, effect: Effect) {
        let write = fault("commit", true, error.clone());
        assert_eq!((write.kind(), write.effect()), (kind, effect), "{write}");
        assert_eq!(fault("get", false, error).effect(), Effect::None);
    }

    #[test]
    fn names_what_went_wrong_and_whether_it_may_have_run() {
        check(ClientError::ConnectionLoss, Kind::Unavailable, Effect::Unknown);
        check(ClientError::SessionExpired, Kind::Unavailable, Effect::None);
        check(ClientError::NoAuth, Kind::Denied, Effect::None);
        check(ClientError::QuotaExceeded, Kind::TooLarge, Effect::None);
        check(ClientError::BadVersion, Kind::Format, Effect::None);
        check(ClientError::UnexpectedErrorCode(-1), Kind::Internal, Effect::Unknown);
    }

    #[test]
    fn a_step_that_found_another_node_is_told_apart_from_a_failure() {
        assert!(matches!(refusal("commit", 3, ClientError::BadVersion), Refusal::Step(3)));
        assert!(matches!(refusal("commit", 3, ClientError::NoAuth), Refusal::Failed(_)));
    }
}
