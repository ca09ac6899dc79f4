//! The backend of a host of this machine: `ipc:` for the one on the usual socket, or
//! `ipc:///run/althing/althing.sock?namespace=prod`.
//!
//! Processes that embed a host share one with the daemon of their machine, whatever backend it has, and need neither
//! that one's URL nor its password. Options: `namespace`, a part of the daemon's own namespace that nobody else sees
//! (without it, this host is a peer of the daemon's own fleet); `backend`, which of the daemon's backends; `timeout`, the
//! longest a call may take. The daemon lets in root and its own user, and is believed only where it is root's or our own
//! user's: anybody may have made a socket first. Root may ask anybody's.
//!
//! What it is worth is what the daemon's backend is worth; the capability is that one's. One thing more: a session is
//! closed as soon as the process that opened it is gone, because the kernel closes its connection. So sessions have a
//! connection of their own, on which nothing else delays a heartbeat; all other calls share a second one, and each watch
//! has one, so that who does not read is told of a gap and fills no queue.
//!
//! When the daemon ends or dies, a session that its backend keeps lives on. The next call connects again, and the next
//! renewal binds the session to the new connection; until then only its lease ends it. A watch begins anew with a resync.
//! A daemon that comes back with a backend older than what was seen is refused, by calls and by watches.
//!
//! A connection on which a call was too late is used on: within one machine it is whole or gone, and a daemon that stands
//! still would answer another one no sooner.

mod line;
mod settings;
mod store;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use althing_client::waist::{Call, Reply};
use althing_core::layers::Operation;
use althing_core::{
    Capability, Chance, Clock, Committed, Driver, Error, Key, Kind, Lease, Location, Page, Record, Result,
    Revision, Session, SessionId, Txn, Watch,
};
use async_trait::async_trait;

use crate::settings::Settings;
use crate::store::{Lane, Store};
use crate::watch::IpcWatch;

/// A backend behind a host of this machine.
pub struct Ipc(Arc<Store>);

impl Ipc {
    /// Connects to the host that `location` names. Fails with `Invalid` on a URL it does not understand, `Unavailable`,
    /// `Timeout` or `Denied` where that host cannot be reached, lets us not in or is another user's, `NotFound` where it
    /// has no such backend, and `Unsupported` on a host of a version that does not share its own. Later a lost connection
    /// is made anew by the next call.
    pub async fn connect(location: &Location, clock: Arc<dyn Clock>, chance: Arc<dyn Chance>) -> Result<Ipc> {
        let store = Store::connect(Settings::read(location)?, clock, chance).await?;
        Ok(Ipc(Arc::new(store)))
    }
}

#[async_trait]
impl Driver for Ipc {
    fn capability(&self) -> Capability {
        self.0.capability()
    }

    async fn open(&self, ask: Duration) -> Result<Session> {
        match self.0.call(Operation::Open, Lane::Sessions, Call::Open { ask }).await? {
            Reply::Session(session) => Ok(session),
            other => Err(unfit(Operation::Open, &other)),
        }
    }

    async fn renew(&self, session: SessionId) -> Result<Lease> {
        match self.0.call(Operation::Renew, Lane::Sessions, Call::Renew(session)).await? {
            Reply::Lease(lease) => Ok(lease),
            other => Err(unfit(Operation::Renew, &other)),
        }
    }

    async fn close(&self, session: SessionId) -> Result<()> {
        match self.0.call(Operation::Close, Lane::Sessions, Call::Close(session)).await? {
            Reply::Done => Ok(()),
            other => Err(unfit(Operation::Close, &other)),
        }
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        self.capability().check_key("get", key)?;
        match self.0.call(Operation::Get, Lane::Records, Call::Get(key.clone())).await? {
            Reply::Record(record) => Ok(record),
            other => Err(unfit(Operation::Get, &other)),
        }
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<Page> {
        let capability = self.capability();
        for key in [Some(prefix), after].into_iter().flatten() {
            capability.check_key("list", key)?;
        }
        let call = Call::List { prefix: prefix.clone(), after: after.cloned(), limit };
        match self.0.call(Operation::List, Lane::Records, call).await? {
            Reply::Page(page) => {
                self.0.see(page.revision);
                Ok(page)
            }
            other => Err(unfit(Operation::List, &other)),
        }
    }

    async fn commit(&self, txn: Txn) -> Result<Committed> {
        txn.check(&self.capability())?;
        match self.0.call(Operation::Commit, Lane::Records, Call::Commit(txn)).await? {
            Reply::Committed(committed) => {
                self.0.see(committed.revision);
                Ok(committed)
            }
            other => Err(unfit(Operation::Commit, &other)),
        }
    }

    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>> {
        self.capability().check_key("watch", prefix)?;
        Ok(Box::new(IpcWatch::begin(self.0.clone(), prefix.clone(), from).await?))
    }
}

fn unfit(operation: Operation, reply: &Reply) -> Error {
    let error =
        Error::new(Kind::Internal, operation.name(), format!("an answer to another question: {reply:?}"));
    if operation.writes() { error.with_unknown_effect() } else { error }
}

impl fmt::Debug for Ipc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ipc").field(&self.0.settings.place).finish()
    }
}
