//! One method per route.

use std::sync::Arc;
use std::time::Duration;

use althing_core::info::{
    BackendInfo, BehaviourAsk, BehaviourInfo, BehaviourSummary, BreakAsk, Decision, Event, Evicted,
    GroupInfo, GroupSummary, HostInfo, JobInfo, JoinAsk, Joined, LeaderInfo, LockAnswer, LockAsk, LockBroken,
    LockHold, LockInfo, LockSummary, MemberInfo, OwnersAsk, OwnersInfo, PartitionAsk, PartitionInfo,
    PolicyInfo, ReleaseAsk, Released, Renewal, SessionAsk, SessionEvent, SessionGrant, SettledAsk, StoodDown,
    UpdateAsk,
};
use althing_core::{Digest, Error, Kind, Requirement, Result, Revision, Secret, limits};
use bytes::Bytes;
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connection::{Ask, Connection};
use crate::wire::{ActivationAsk, GroupAsk, SessionKey, StoppedAsk, path, query_value};
use crate::{Address, EventStream, failure};

/// Speaks to one host. Cheap to clone; clones share the connection that is kept.
///
/// Every method fails with what the host answered, kind and effect kept; with [`Kind::Unavailable`] where no
/// host answers; and with [`Kind::Timeout`] where it does not answer in time.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Arc<Connection>,
    backend: Option<Arc<str>>,
    deadline: Duration,
}

impl Client {
    /// Makes a client. Connects at the first request.
    pub fn new(address: Address) -> Self {
        Client {
            connection: Arc::new(Connection::new(address, None)),
            backend: None,
            deadline: limits::CLIENT_CALL_DEADLINE,
        }
    }

    /// Makes a client that shows a bearer token, as a host asks for on TCP.
    pub fn with_token(address: Address, token: Secret) -> Self {
        let connection = Arc::new(Connection::new(address, Some(token)));
        Client { connection, backend: None, deadline: limits::CLIENT_CALL_DEADLINE }
    }

    /// Returns a client that waits this long for an answer, over the same connection.
    #[must_use]
    pub fn within(&self, deadline: Duration) -> Self {
        Client { deadline, ..self.clone() }
    }

    /// Returns a client that asks about another backend of the host, by its name there, over the same connection.
    #[must_use]
    pub fn on(&self, backend: impl Into<Arc<str>>) -> Self {
        Client { backend: Some(backend.into()), ..self.clone() }
    }

    /// Returns where its host answers.
    pub fn address(&self) -> &Address {
        &self.connection.address
    }

    /// Describes the host itself.
    pub async fn host(&self) -> Result<HostInfo> {
        self.get("show host", path(["host"])).await
    }

    /// Lists the backends of the host, and what each promises.
    pub async fn drivers(&self) -> Result<Vec<BackendInfo>> {
        self.get("list drivers", path(["drivers"])).await
    }

    /// Opens a session. [`Membership`](crate::Membership) does this, and all that must follow.
    pub async fn open_session(&self, ask: &SessionAsk) -> Result<SessionGrant> {
        self.post("open session", path(["sessions"]), None, ask).await
    }

    /// Renews a session.
    pub async fn renew_session(&self, session: &SessionKey) -> Result<Renewal> {
        let route = path(["sessions", &session.id, "renew"]);
        self.send("renew session", Method::POST, route, Some(session)).await
    }

    /// Ends a session: its members leave. Ending one that is gone succeeds.
    pub async fn end_session(&self, session: &SessionKey) -> Result<()> {
        self.send("end session", Method::DELETE, path(["sessions", &session.id]), Some(session)).await
    }

    /// Hears what happens to a session. For one that asked for it, the end of this stream is its end.
    pub async fn session_events(&self, session: &SessionKey) -> Result<EventStream<SessionEvent>> {
        self.stream("watch session", path(["sessions", &session.id, "events"]), Some(session)).await
    }

    /// Confirms that the leader of `group` in `term` has stopped acting as such.
    pub async fn confirm_stopped(&self, session: &SessionKey, group: &str, term: Revision) -> Result<()> {
        let ask = StoppedAsk { group: group.to_owned(), term };
        self.post("confirm stop", path(["sessions", &session.id, "stopped"]), Some(session), &ask).await
    }

    /// Lists the groups.
    pub async fn groups(&self) -> Result<Vec<GroupSummary>> {
        self.get("list groups", path(["groups"])).await
    }

    /// Creates a group that requires so much of its backend.
    pub async fn create_group(&self, name: &str, require: &Requirement) -> Result<()> {
        let ask = GroupAsk { name: name.to_owned(), require: *require };
        self.post("create group", path(["groups"]), None, &ask).await
    }

    /// Deletes a group.
    pub async fn delete_group(&self, name: &str) -> Result<()> {
        let route = named("delete group", ["groups", name])?;
        self.send("delete group", Method::DELETE, route, None).await
    }

    /// Shows a group.
    pub async fn group(&self, name: &str) -> Result<GroupInfo> {
        self.get("show group", named("show group", ["groups", name])?).await
    }

    /// Hears what happens in a group, beginning with what there is.
    pub async fn group_events(&self, name: &str) -> Result<EventStream<Event>> {
        self.stream("watch group", named("watch group", ["groups", name, "events"])?, None).await
    }

    /// Joins a group.
    pub async fn join(&self, session: &SessionKey, group: &str, ask: &JoinAsk) -> Result<Joined> {
        self.post("join", named("join", ["groups", group, "members"])?, Some(session), ask).await
    }

    /// Leaves a group.
    pub async fn leave(&self, session: &SessionKey, group: &str, id: &str) -> Result<()> {
        let route = named("leave", ["groups", group, "members", id])?;
        self.send("leave", Method::DELETE, route, Some(session)).await
    }

    /// Lists the members of a group, oldest first.
    pub async fn members(&self, group: &str) -> Result<Vec<MemberInfo>> {
        self.get("list members", named("list members", ["groups", group, "members"])?).await
    }

    /// Shows a member.
    pub async fn member(&self, group: &str, id: &str) -> Result<MemberInfo> {
        self.get("show member", named("show member", ["groups", group, "members", id])?).await
    }

    /// Changes what a member says of itself. Needs the session through which it joined.
    pub async fn update_member(
        &self,
        session: &SessionKey,
        group: &str,
        id: &str,
        ask: &UpdateAsk,
    ) -> Result<MemberInfo> {
        let route = named("update", ["groups", group, "members", id])?;
        self.ask("update", Method::PATCH, route, Some(session), ask).await
    }

    /// Asks a member to go, whoever it belongs to. It comes back only if its client joins again.
    pub async fn evict(&self, group: &str, id: &str) -> Result<Evicted> {
        let route = named("evict", ["groups", group, "members", id, "evict"])?;
        self.send("evict", Method::POST, route, None).await
    }

    /// Lets the members of a group share objects. Asked again with the same settings it changes nothing.
    pub async fn partition_group(&self, group: &str, ask: &PartitionAsk) -> Result<PartitionInfo> {
        let route = named("partition", ["groups", group, "partition"])?;
        self.ask("partition", Method::PUT, route, None, ask).await
    }

    /// Shows what the members of a group share.
    pub async fn partition(&self, group: &str) -> Result<PartitionInfo> {
        self.get("show partition", named("show partition", ["groups", group, "partition"])?).await
    }

    /// Tells whom objects belong to.
    pub async fn owners(&self, group: &str, ask: &OwnersAsk) -> Result<OwnersInfo> {
        self.post("list owners", named("list owners", ["groups", group, "owners"])?, None, ask).await
    }

    /// Confirms that a member gave up what it lost by a version of the shares.
    pub async fn settle_partition(
        &self,
        session: &SessionKey,
        group: &str,
        member: &str,
        version: u64,
    ) -> Result<PartitionInfo> {
        let route = named("settle partition", ["groups", group, "members", member, "settled"])?;
        self.post("settle partition", route, Some(session), &SettledAsk { version }).await
    }

    /// Tells who leads a group.
    pub async fn leader(&self, group: &str) -> Result<Option<LeaderInfo>> {
        self.get("show leader", named("show leader", ["groups", group, "leader"])?).await
    }

    /// Asks the leader of a group to stand down.
    pub async fn stand_down(&self, group: &str) -> Result<StoodDown> {
        let route = named("stand down", ["groups", group, "stand-down"])?;
        self.send("stand down", Method::POST, route, None).await
    }

    /// Asks the leader of a group to hand over to this member, whatever the rule says.
    pub async fn stand_down_to(&self, group: &str, successor: &str) -> Result<StoodDown> {
        let route = named("stand down", ["groups", group, "stand-down"])?;
        let route = format!("{route}?successor={}", query_value(successor));
        self.send("stand down", Method::POST, route, None).await
    }

    /// Lets another policy decide in a group; the newest bundle of that name where `digest` is `None`.
    pub async fn activate(&self, group: &str, policy: &str, digest: Option<Digest>) -> Result<GroupInfo> {
        let ask = ActivationAsk { policy: policy.to_owned(), digest };
        self.ask("activate", Method::PUT, named("activate", ["groups", group, "policy"])?, None, &ask).await
    }

    /// Lets the former policy of a group decide again.
    pub async fn rollback(&self, group: &str) -> Result<GroupInfo> {
        let route = named("roll back", ["groups", group, "rollback"])?;
        self.send("roll back", Method::POST, route, None).await
    }

    /// Lists the latest decisions of a group on this host, newest first.
    pub async fn decisions(&self, group: &str, limit: usize) -> Result<Vec<Decision>> {
        let route = named("list decisions", ["groups", group, "decisions"])?;
        self.get("list decisions", format!("{route}?limit={limit}")).await
    }

    /// Locks names, all or none, and waits as long as is asked. [`Membership::lock`](crate::Membership::lock) does this, and
    /// all that must follow. Dropping this tells the host that nobody waits any more.
    ///
    /// After an error of unknown effect, ask again with the same id, or end the session: what it holds goes with it.
    pub async fn lock(&self, session: &SessionKey, ask: &LockAsk) -> Result<LockAnswer> {
        let ever = Duration::from_secs(u32::MAX.into());
        let patience =
            ask.wait_ms.map_or(ever, |wait| Duration::from_millis(wait).saturating_add(self.deadline));
        self.within(patience.min(ever)).post("lock", path(["locks"]), Some(session), ask).await
    }

    /// Gives a lock back.
    pub async fn release_lock(&self, session: &SessionKey, lock: &LockHold) -> Result<Released> {
        let ask = ReleaseAsk { token: lock.token, id: Some(lock.id.clone()) };
        let route = named("release lock", ["locks", &lock.lock, "release"])?;
        self.post("release lock", route, Some(session), &ask).await
    }

    /// Takes a lock away from whoever holds it.
    pub async fn break_lock(&self, lock: &str, ask: &BreakAsk) -> Result<LockBroken> {
        self.post("break lock", named("break lock", ["locks", lock, "break"])?, None, ask).await
    }

    /// Lists the locks that somebody holds or waits for.
    pub async fn locks(&self) -> Result<Vec<LockSummary>> {
        self.get("list locks", path(["locks"])).await
    }

    /// Shows who holds a lock and who waits.
    pub async fn lock_info(&self, lock: &str) -> Result<LockInfo> {
        self.get("show lock", named("show lock", ["locks", lock])?).await
    }

    /// Lists the behaviours.
    pub async fn behaviours(&self) -> Result<Vec<BehaviourSummary>> {
        self.get("list behaviours", path(["behaviours"])).await
    }

    /// Shows a behaviour, and the last calls that this host took for it.
    pub async fn behaviour(&self, name: &str) -> Result<BehaviourInfo> {
        self.get("show behaviour", named("show behaviour", ["behaviours", name])?).await
    }

    /// Asks a behaviour for an operation and waits for its answer. Dropping this tells the host that nobody waits any
    /// more; what the behaviour had given by then stays the session's.
    ///
    /// After an error of unknown effect, ask again or end the session: what it owns goes with it.
    pub async fn call_behaviour(
        &self,
        session: &SessionKey,
        name: &str,
        ask: &BehaviourAsk,
    ) -> Result<Bytes> {
        let operation = "call behaviour";
        let timeout = ask.timeout.unwrap_or(limits::BEHAVIOUR_TIMEOUT_DEFAULT);
        let route = named(operation, ["behaviours", name])?;
        let query = format!("operation={}&timeout_ms={}", query_value(&ask.operation), timeout.as_millis());
        let mut call = self.request(operation, Method::POST, format!("{route}?{query}"), Some(session));
        (call.body, call.content_type) = (ask.body.clone(), "application/octet-stream");
        // The host asks the behaviour one last time before it says that the time is over.
        let patience = timeout.saturating_add(limits::BEHAVIOUR_GRACE).saturating_add(self.deadline);
        self.connection.exchange(&call, patience).await
    }

    /// Lets a policy answer under a behaviour's name, on every host; the newest bundle of that policy where `digest`
    /// is `None`. Makes the behaviour where there is none.
    pub async fn activate_behaviour(
        &self,
        name: &str,
        policy: &str,
        digest: Option<Digest>,
    ) -> Result<BehaviourInfo> {
        let ask = ActivationAsk { policy: policy.to_owned(), digest };
        let route = named("activate", ["behaviours", name, "policy"])?;
        self.ask("activate", Method::PUT, route, None, &ask).await
    }

    /// Lets the former policy of a behaviour answer again.
    pub async fn rollback_behaviour(&self, name: &str) -> Result<BehaviourInfo> {
        let route = named("roll back", ["behaviours", name, "rollback"])?;
        self.send("roll back", Method::POST, route, None).await
    }

    /// Removes a behaviour.
    pub async fn remove_behaviour(&self, name: &str) -> Result<()> {
        let route = named("remove behaviour", ["behaviours", name])?;
        self.send("remove behaviour", Method::DELETE, route, None).await
    }

    /// Uploads a packed bundle. Returns the job that checks and stores it.
    pub async fn push(&self, bundle: Bytes) -> Result<JobInfo> {
        if bundle.len() > limits::BUNDLE_BYTES_MAX {
            let message = format!("a bundle of {} bytes; at most {}", bundle.len(), limits::BUNDLE_BYTES_MAX);
            return Err(Error::new(Kind::TooLarge, "push", message));
        }
        let mut ask = self.request("push", Method::POST, path(["policies"]), None);
        (ask.body, ask.content_type) = (bundle, "application/octet-stream");
        self.answer(&ask, self.deadline).await
    }

    /// Shows an upload job, once it is done or after `wait`.
    pub async fn job(&self, id: &str, wait: Duration) -> Result<JobInfo> {
        let wait = wait.min(limits::JOB_WAIT_MAX);
        let route = format!("{}?wait_ms={}", named("show job", ["jobs", id])?, wait.as_millis());
        self.answer(&self.request("show job", Method::GET, route, None), self.deadline + wait).await
    }

    /// Lists the policies that were pushed.
    pub async fn policies(&self) -> Result<Vec<PolicyInfo>> {
        self.get("list policies", path(["policies"])).await
    }

    /// Shows a policy.
    pub async fn policy(&self, name: &str) -> Result<PolicyInfo> {
        self.get("show policy", named("show policy", ["policies", name])?).await
    }

    fn request<'a>(
        &'a self,
        operation: &'static str,
        method: Method,
        path: String,
        session: Option<&'a SessionKey>,
    ) -> Ask<'a> {
        let (backend, content_type) = (self.backend.as_deref(), "application/json");
        Ask { operation, method, path, session, backend, body: Bytes::new(), content_type }
    }

    async fn get<T: DeserializeOwned>(&self, operation: &'static str, path: String) -> Result<T> {
        self.send(operation, Method::GET, path, None).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        path: String,
        session: Option<&SessionKey>,
        body: &impl Serialize,
    ) -> Result<T> {
        self.ask(operation, Method::POST, path, session, body).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        method: Method,
        path: String,
        session: Option<&SessionKey>,
        body: &impl Serialize,
    ) -> Result<T> {
        let mut ask = self.request(operation, method, path, session);
        ask.body = serde_json::to_vec(body)
            .map_err(|error| {
                Error::new(Kind::Invalid, operation, "this cannot be said in JSON").because(error)
            })?
            .into();
        self.answer(&ask, self.deadline).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        method: Method,
        path: String,
        session: Option<&SessionKey>,
    ) -> Result<T> {
        self.answer(&self.request(operation, method, path, session), self.deadline).await
    }

    async fn answer<T: DeserializeOwned>(&self, ask: &Ask<'_>, deadline: Duration) -> Result<T> {
        let bytes = self.connection.exchange(ask, deadline).await?;
        // An answer without content is `null`, which reads as `()`.
        let bytes = if bytes.is_empty() { b"null".as_slice() } else { &bytes };
        serde_json::from_slice(bytes).map_err(|error| failure::stranger(ask.operation, self.address(), error))
    }

    async fn stream<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        path: String,
        session: Option<&SessionKey>,
    ) -> Result<EventStream<T>> {
        let ask = self.request(operation, Method::GET, path, session);
        let (body, connection) = self.connection.stream(&ask, self.deadline).await?;
        Ok(EventStream::new(body, connection))
    }
}

/// Makes the path of a route that holds names. An empty name would name another route.
fn named<const N: usize>(operation: &'static str, parts: [&str; N]) -> Result<String> {
    if parts.contains(&"") {
        return Err(Error::new(Kind::Invalid, operation, "an empty name"));
    }
    Ok(path(parts))
}
