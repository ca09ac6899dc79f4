//! Behaviours: list, show, call.

mod call;
mod hub;
mod records;

use althing_core::info::{BehaviourAsk, BehaviourInfo, BehaviourSummary};
use althing_core::{Error, Kind, Result, limits};
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::call::Call;
use super::binding::no_behaviour;
use crate::{Runtime, SessionKey};

pub(crate) use hub::Hub;

impl Runtime {
    /// Returns all behaviours by name.
    pub fn behaviours(&self) -> Result<Vec<BehaviourSummary>> {
        Ok(self.0.mirror.behaviours())
    }

    /// Returns a behaviour as this host has seen it, with the last calls that this host took for it.
    pub fn behaviour(&self, name: &str) -> Result<BehaviourInfo> {
        let info = self.0.mirror.behaviour_info(name).ok_or_else(|| no_behaviour(name))?;
        Ok(BehaviourInfo { calls: self.0.audit.last_calls(name), ..info })
    }

    /// Asks a behaviour for an operation, and waits for its answer. What it writes for the caller goes when the
    /// session ends.
    ///
    /// When the time is over, or this future is dropped, the behaviour is asked one last time, so that nothing stays
    /// behind of the waiting. What it gave before that is the session's: a caller that got an error of unknown effect
    /// asks again or ends its session.
    ///
    /// `NotFound` without such a behaviour; `Timeout` when it was not done in time; `SessionLost` when the session, or
    /// that of this host in the backend, ended meanwhile; `Fault` when the policy failed; `Busy` with too many calls
    /// under way; and what the behaviour itself refuses by: `Invalid`, `Denied`, `Conflict`, `TooLarge`.
    pub async fn call_behaviour(&self, key: &SessionKey, name: &str, ask: BehaviourAsk) -> Result<Bytes> {
        admit(&ask)?;
        let gone = CancellationToken::new();
        let call = Call::begin(&self.0, key, name, ask, gone.clone())?;
        let _gone = gone.drop_guard();
        let (sender, answer) = oneshot::channel();
        self.0.spawn(call.run(sender));
        answer.await.unwrap_or_else(|_| Err(Error::new(Kind::Closed, "call behaviour", "the host ends")))
    }
}

/// Refuses what is too large before anything is done for it.
fn admit(ask: &BehaviourAsk) -> Result<()> {
    let too_large = |what: &str, bytes: usize, most: usize| {
        Error::new(Kind::TooLarge, "call behaviour", format!("{what} is too large"))
            .with("bytes", bytes)
            .with("bytes_max", most)
    };
    let (operation, body) = (ask.operation.len(), ask.body.len());
    if operation > limits::BEHAVIOUR_OPERATION_BYTES_MAX {
        return Err(too_large("the name of the operation", operation, limits::BEHAVIOUR_OPERATION_BYTES_MAX));
    }
    if body > limits::BEHAVIOUR_BODY_BYTES_MAX {
        return Err(too_large("the body", body, limits::BEHAVIOUR_BODY_BYTES_MAX));
    }
    match ask.timeout {
        Some(timeout) if timeout > limits::BEHAVIOUR_TIMEOUT_MAX => {
            let message = format!("it cannot wait for {timeout:?}");
            let advice = format!("Wait for at most {:?}, and ask again", limits::BEHAVIOUR_TIMEOUT_MAX);
            Err(Error::new(Kind::Invalid, "call behaviour", message).advise(advice))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn refuses_what_is_too_large_or_too_long_and_nothing_else() {
        let check = |operation: usize, body: usize, timeout: Duration| {
            let ask = BehaviourAsk {
                operation: "x".repeat(operation),
                body: vec![0; body].into(),
                timeout: Some(timeout),
            };
            admit(&ask).err().map(|error| error.kind())
        };
        let (operation, body) = (limits::BEHAVIOUR_OPERATION_BYTES_MAX, limits::BEHAVIOUR_BODY_BYTES_MAX);
        let longest = limits::BEHAVIOUR_TIMEOUT_MAX;
        assert_eq!(check(operation, body, longest), None);
        assert_eq!(check(operation + 1, 0, longest), Some(Kind::TooLarge));
        assert_eq!(check(0, body + 1, longest), Some(Kind::TooLarge));
        assert_eq!(check(0, 0, longest + Duration::from_millis(1)), Some(Kind::Invalid));
    }
}
