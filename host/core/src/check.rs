//! What every driver refuses before it sends anything: limits, reserved keys, contradictions.

use std::time::Duration;

use crate::{Capability, Error, Key, Kind, Page, Result, Txn, Write, limits};

/// What the reserved keys begin with. They are the driver's; a commit that writes one is refused.
pub const RESERVED_PREFIX: &str = "session/";

impl Capability {
    /// Fails with [`Kind::TooLarge`] when `key` is longer than this backend allows. `operation` is for the
    /// error. Every call that takes a key, a prefix or a place to go on from begins with this.
    pub fn check_key(&self, operation: &'static str, key: &Key) -> Result<()> {
        let (length, most) = (key.as_bytes().len(), self.key_bytes_max as usize);
        if length <= most {
            return Ok(());
        }
        // The key itself is left out of the error: it is what is too long.
        Err(Error::new(Kind::TooLarge, operation, format!("a key of {length} bytes; at most {most}")))
    }

    /// Returns the lease this backend grants to whoever asks for `ask`: the next one it can give.
    pub fn grant(&self, ask: Duration) -> Duration {
        ask.clamp(self.lease_min, limits::LEASE_MAX.max(self.lease_min))
    }
}

impl Page {
    /// Returns the most records a page may hold when `limit` were asked for.
    pub fn records_max(limit: u32) -> usize {
        let most = limits::PAGE_RECORDS_MAX;
        if limit == 0 { most as usize } else { limit.min(most) as usize }
    }
}

impl Txn {
    /// Fails when no backend of this capability may be sent this transaction, whatever it holds:
    /// [`Kind::Invalid`] when it is empty, writes a key twice or writes a reserved key, [`Kind::TooLarge`]
    /// when it has too many keys, too long a key or too large a value. Guards alone are a transaction:
    /// they are checked and nothing is written. A key both guarded and written counts once.
    pub fn check(&self, capability: &Capability) -> Result<()> {
        if self.guards.is_empty() && self.writes.is_empty() {
            return Err(invalid("an empty transaction"));
        }
        let mut keys = Vec::with_capacity(self.writes.len() + self.guards.len());
        for write in &self.writes {
            check_write(write, capability)?;
            keys.push(write.key());
        }
        keys.sort_unstable();
        if let Some(pair) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(invalid("a transaction that writes a key twice").with("key", pair[0]));
        }
        for guard in &self.guards {
            capability.check_key("commit", guard.key())?;
            keys.push(guard.key());
        }
        keys.sort_unstable();
        keys.dedup();
        let (count, most) = (keys.len(), capability.txn_keys_max as usize);
        if count > most {
            let message = format!("a transaction on {count} keys; {} allows {most}", capability.backend);
            return Err(Error::new(Kind::TooLarge, "commit", message));
        }
        Ok(())
    }
}

fn check_write(write: &Write, capability: &Capability) -> Result<()> {
    let key = write.key();
    capability.check_key("commit", key)?;
    if key.as_bytes().starts_with(RESERVED_PREFIX.as_bytes()) {
        return Err(invalid("keys below session/ are the driver's").with("key", key));
    }
    let Write::Put { value, .. } = write else { return Ok(()) };
    let (length, most) = (value.len(), capability.value_bytes_max as usize);
    if length <= most {
        return Ok(());
    }
    let message = format!("a value of {length} bytes; {} allows {most}", capability.backend);
    Err(Error::new(Kind::TooLarge, "commit", message).with("key", key))
}

fn invalid(message: &str) -> Error {
    Error::new(Kind::Invalid, "commit", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Expiry, Guard, Level, Order, WatchMode};

    fn small() -> Capability {
        Capability {
            backend: "small".into(),
            level: Level::L0,
            linearizable_reads: true,
            across_hosts: false,
            watch: WatchMode::Pushed,
            order: Order::Namespace,
            expiry: Expiry::Driver,
            txn_keys_max: 2,
            value_bytes_max: 3,
            key_bytes_max: 9,
            lease_min: Duration::from_secs(1),
            token_survives_restart: false,
            token_survives_failover: false,
            beat_requests: 1,
        }
    }

    #[track_caller]
    fn check(txn: Txn, expected: Option<Kind>) {
        assert_eq!(txn.check(&small()).err().map(|error| error.kind()), expected, "{txn:?}");
    }

    fn absent(key: &str) -> Guard {
        Guard::Absent(key.into())
    }

    #[test]
    fn refuses_what_no_driver_may_be_sent() {
        check(Txn::new(), Some(Kind::Invalid));
        check(Txn::new().put("a".into(), "").delete("a".into()), Some(Kind::Invalid));
        check(Txn::new().put("session/1".into(), ""), Some(Kind::Invalid));
        check(Txn::new().delete("session/1".into()), Some(Kind::Invalid));
        check(Txn::new().put("a".into(), "four"), Some(Kind::TooLarge));
        check(Txn::new().put("0123456789".into(), ""), Some(Kind::TooLarge));
        check(Txn::new().guard(absent("0123456789")), Some(Kind::TooLarge));
        check(Txn::new().put("a".into(), "").put("b".into(), "").guard(absent("c")), Some(Kind::TooLarge));
    }

    #[test]
    fn counts_a_key_once_and_lets_session_keys_be_guarded() {
        check(Txn::new().guard(absent("a")).put("a".into(), "").delete("b".into()), None);
        check(Txn::new().guard(absent("session/1")), None);
        check(Txn::new().put("session".into(), "thr"), None);
    }

    #[test]
    fn grants_the_next_lease_it_can_give() {
        let grant = |ask| small().grant(ask);
        assert_eq!(grant(Duration::ZERO), Duration::from_secs(1));
        assert_eq!(grant(Duration::from_secs(7)), Duration::from_secs(7));
        assert_eq!(grant(Duration::MAX), limits::LEASE_MAX);
    }
}
