//! The waist: what a backend must offer, and nothing more.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Capability, Committed, Delta, Key, Page, Record, Result, Revision, SessionId, Txn};

/// A backend behind eight methods. Everything Althing offers is built on these.
///
/// Keys and values are bytes within one namespace. Keys under `session/` are the driver's: they can be
/// read and guarded, and a commit that writes one is refused with [`Kind::Invalid`]. A record whose
/// session has ended is never shown. Dropping a returned future may or may not have sent the request;
/// what it would have done is then unknown.
///
/// [`Kind::Invalid`]: crate::Kind::Invalid
#[async_trait]
pub trait Driver: Send + Sync + fmt::Debug + 'static {
    /// Says what this backend, configured as it is, promises. The conformance suite holds it to that.
    fn capability(&self) -> Capability;

    /// Opens a session that ends when it is not renewed for about `ask`. The store may grant another
    /// lease; it is in the answer. Writes the record `session/<id>`. On an error of unknown effect the
    /// session, if it was made, ends by itself.
    async fn open(&self, ask: Duration) -> Result<Session>;

    /// Renews a session. `SessionLost` is final. An error of unknown effect does not move any deadline.
    async fn renew(&self, session: SessionId) -> Result<Lease>;

    /// Ends a session now and removes what it owned. Ending a gone session succeeds.
    async fn close(&self, session: SessionId) -> Result<()>;

    /// Reads one record, as of a moment between call and return where the capability says linearizable.
    async fn get(&self, key: &Key) -> Result<Option<Record>>;

    /// Lists the records whose keys begin with the bytes of `prefix`, in byte order, after `after`, at most `limit`
    /// (0 and more than [`limits::PAGE_RECORDS_MAX`] mean that maximum; a page may also end early for its size).
    ///
    /// [`limits::PAGE_RECORDS_MAX`]: crate::limits::PAGE_RECORDS_MAX
    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: u32) -> Result<Page>;

    /// Writes all of `txn` at one revision if all its guards hold, else nothing and `Conflict`, with the
    /// key of the first guard that did not hold as context `key`. `SessionLost` when a put names an ended
    /// session; guards are looked at first. Begins with [`Txn::check`]; guards alone are a transaction that
    /// writes nothing.
    async fn commit(&self, txn: Txn) -> Result<Committed>;

    /// Watches what happens below `prefix` after revision `from`. From [`Revision::ZERO`], or when the
    /// backend no longer holds what came after `from`, the first delta is a resync.
    async fn watch(&self, prefix: &Key, from: Revision) -> Result<Box<dyn Watch>>;
}

/// A stream of deltas in order. Each change is seen once; a gap is a [`Delta::Resync`], never silent.
#[async_trait]
pub trait Watch: Send + fmt::Debug {
    /// Waits for the next delta. Cancel-safe: a dropped call loses nothing. After an error the next call
    /// goes on where it can, with a resync if something may have been missed.
    async fn next(&mut self) -> Result<Delta>;
}

/// A session as the store granted it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// The shortest time for which the store keeps it after a renewal was *sent*.
    pub lease_min: Duration,
}

/// What a renewal granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The shortest time for which the store keeps the session after this renewal was *sent*.
    pub min: Duration,
    /// The store's own clock, where it tells: a jump of it against ours makes terms suspect.
    pub store_time: Option<Duration>,
}
