//! What most layers are: something around each call. The eight methods are forwarded here, once.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Capability, Committed, Driver, Error, Key, Lease, Page, Record, Result, Revision, Session, SessionId,
    Txn, Watch,
};

/// One try of a call: a future that sends it to the layer below.
pub type Try<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Something around each call of a driver. Whoever implements this is a [`Driver`].
pub trait Around: Send + Sync + fmt::Debug + 'static {
    /// Returns the driver below.
    fn inner(&self) -> &Arc<dyn Driver>;

    /// Does one call, by `send`, which sends it down each time it is called.
    fn around<'a, T: Send + 'a>(
        &'a self,
        call: Call<'a>,
        send: impl Fn() -> Try<'a, T> + Send + Sync + 'a,
    ) -> impl Future<Output = Result<T>> + Send;

    /// Wraps a watch that the driver below made.
    fn around_watch(&self, _prefix: &Key, watch: Box<dyn Watch>) -> Box<dyn Watch> {
        watch
    }
}

/// What a layer is told of a call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The method.
    pub operation: Operation,
    /// The key or prefix it is about.
    pub key: Option<&'a Key>,
    /// The transaction of a commit.
    pub txn: Option<&'a Txn>,
}

impl<'a> Call<'a> {
    pub(super) fn new(operation: Operation) -> Self {
        Call { operation, key: None, txn: None }
    }

    pub(super) fn on(operation: Operation, key: &'a Key) -> Self {
        Call { operation, key: Some(key), txn: None }
    }
}

/// A method of [`Driver`], or of [`Watch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `Driver::open`.
    Open,
    /// `Driver::renew`.
    Renew,
    /// `Driver::close`.
    Close,
    /// `Driver::get`.
    Get,
    /// `Driver::list`.
    List,
    /// `Driver::commit`.
    Commit,
    /// `Driver::watch`: the making of a watch.
    Watch,
    /// `Watch::next`.
    Next,
}

impl Operation {
    /// Returns its name, as errors and traces show it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Open => "open",
            Operation::Renew => "renew",
            Operation::Close => "close",
            Operation::Get => "get",
            Operation::List => "list",
            Operation::Commit => "commit",
            Operation::Watch => "watch",
            Operation::Next => "next",
        }
    }

    /// Tells whether it changes what the backend holds.
    pub fn writes(self) -> bool {
        matches!(self, Operation::Open | Operation::Renew | Operation::Close | Operation::Commit)
    }

    /// Gives the error of a call that was sent and not answered its effect: unknown where it writes.
    pub(super) fn unanswered(self, error: Error) -> Error {
        if self.writes() { error.with_unknown_effect() } else { error }
    }
}

#[async_trait]
impl<L: Around> Driver for L {
    fn capability(&self) -> Capability {
        self.inner().capability()
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        self.around(Call::new(Operation::Open), || self.inner().open(ask)).await
    }

    async fn renew(&self, session: SessionId) -> Result<Lease> {
        self.around(Call::new(Operation::Renew), || self.inner().renew(session)).await
    }

    async fn close(&self, session: SessionId) -> Result<()> {
        self.around(Call::new(Operation::Close), || self.inner().close(session)).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.around(Call::on(Operation::Get, key), || self.inner().get(key)).await
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<Page> {
        self.around(Call::on(Operation::List, prefix), || self.inner().list(prefix, after, limit)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        let first = txn.writes.first().map(|write| write.key());
        let key = first.or_else(|| txn.guards.first().map(|guard| guard.key()));
        let call = Call { operation: Operation::Commit, key, txn: Some(&txn) };
        self.around(call, || self.inner().commit(txn.clone())).await
    }

    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>> {
        let send = || self.inner().watch(prefix, from);
        let watch = self.around(Call::on(Operation::Watch, prefix), send).await?;
        Ok(self.around_watch(prefix, watch))
    }
}
