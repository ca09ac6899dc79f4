//! What a case is handed: a backend in a namespace of its own, and short words for what cases do.

use std::sync::Arc;
use std::time::Duration;

use althing_core::{Committed, Driver, Effect, Key, Kind, Record, Result, Session, Txn, limits};

use crate::Subject;

/// A backend in a namespace that belongs to one case.
pub struct Stage {
    subject: Arc<dyn Subject>,
    namespace: String,
}

impl Stage {
    /// Sets the stage for one case.
    pub fn new(subject: Arc<dyn Subject>, namespace: String) -> Self {
        Stage { subject, namespace }
    }

    /// Makes a new connection to the case's namespace.
    pub async fn connect(&self) -> Arc<dyn Driver> {
        self.subject.connect(&self.namespace).await.expect("the backend can be reached")
    }

    /// Lets time pass.
    pub async fn pass(&self, time: Duration) {
        self.subject.pass(time).await;
    }

    /// Restarts the server; false where there is none.
    pub async fn restart(&self) -> bool {
        self.subject.restart().await
    }

    /// Opens a session that does not expire within the case.
    pub async fn long_session(&self, driver: &dyn Driver) -> Session {
        driver.open(limits::LEASE_MAX).await.expect("a session can be opened")
    }

    /// Opens a session that a case can wait out.
    pub async fn short_session(&self, driver: &dyn Driver) -> Session {
        let lease = driver.capability().lease_min.max(Duration::from_millis(500));
        driver.open(lease).await.expect("a session can be opened")
    }

    /// Lets time pass until `session` has expired, as `driver` shows it. Not at once: stores round up.
    pub async fn expire(&self, driver: &dyn Driver, session: &Session) {
        self.pass(session.lease_min).await;
        for _ in 0..200 {
            if driver.get(&session.id.key()).await.unwrap().is_none() {
                return;
            }
            self.pass(session.lease_min / 10).await;
        }
        panic!("a session of lease {:?} was still there after twenty leases", session.lease_min);
    }
}

/// Makes a key of text.
pub(crate) fn key(text: &str) -> Key {
    Key::from(text)
}

/// Writes one record that stays.
pub(crate) async fn put(driver: &dyn Driver, name: &str, value: &str) -> Committed {
    driver.commit(Txn::new().put(key(name), value.to_owned())).await.expect("a put without guards is written")
}

/// Writes one record that goes with a session.
pub(crate) async fn put_owned(driver: &dyn Driver, name: &str, value: &str, session: &Session) -> Committed {
    let txn = Txn::new().put_owned(key(name), value.to_owned(), session.id);
    driver.commit(txn).await.expect("a put under a live session is written")
}

/// Reads the value at a key as text.
pub(crate) async fn value(driver: &dyn Driver, name: &str) -> Option<String> {
    let record = driver.get(&key(name)).await.unwrap()?;
    Some(String::from_utf8_lossy(&record.value).into_owned())
}

/// Lists everything below `prefix`, page by page. The driver's own records (`session/…`) are left out.
pub(crate) async fn list_all(driver: &dyn Driver, prefix: &Key, limit: u32) -> Vec<Record> {
    let (mut records, mut after): (Vec<Record>, Option<Key>) = (Vec::new(), None);
    loop {
        let page = driver.list(prefix, after.as_ref(), limit).await.unwrap();
        assert!(limit == 0 || page.records.len() <= limit as usize, "a page larger than asked for");
        assert!(page.next != after || after.is_none(), "a listing that does not go on");
        records.extend(page.records);
        after = match page.next {
            Some(next) => Some(next),
            None => break,
        };
    }
    let ours = |record: &Record| !record.key.as_bytes().starts_with(b"session/");
    records.into_iter().filter(ours).collect()
}

/// Fails unless `result` is an error of `kind` that says nothing was written.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T>, kind: Kind) -> althing_core::Error {
    match result {
        Err(error) if error.kind() == kind && error.effect() == Effect::None => error,
        other => panic!("expected a refusal of kind {kind} and effect none, got {other:?}"),
    }
}
