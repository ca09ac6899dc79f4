//! A service that lives in somebody else's tokio, and acts only while it leads.
//!
//! `cargo run --package althing --example embed -- redis://127.0.0.1:6379?namespace=prod`: start it twice, and end the
//! one that bills; the other goes on. Without an argument it is alone, in memory.
#![allow(clippy::print_stdout, reason = "an example speaks to whoever runs it")]
#![cfg_attr(
    test,
    allow(
        dead_code,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a test fails by panicking, and does not call main"
    )
)]

use std::time::Duration;

use althing::info::{JoinAsk, SessionAsk, SessionEvent};
use althing::{Althing, Principal, Result, Revision, Secret, SessionKey, SessionStream};

const GROUP: &str = "billing";

/// How many invoices are sent before this service has done its part.
const INVOICES: usize = 5;

// One thread is enough: the host keeps its lease on threads of its own, however busy this one is.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let backend = std::env::args().nth(1).unwrap_or_else(|| "memory:".into());
    let name = format!("billing-{}", std::process::id());
    let host = Althing::builder().backend(backend).name(&name).start().await?;
    let mut ledger = Ledger::default();
    let outcome = tokio::select! {
        outcome = bill(&host, &name, &mut ledger) => outcome,
        // The host catches no signals; what ends the process is the service's own affair.
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    // However it went, leave in good order: the next leader need not wait for a lease to run out.
    host.stop().await;
    println!("sent {:?}", ledger.sent);
    outcome
}

/// Joins the group and sends invoices whenever it leads.
async fn bill(host: &Althing, name: &str, ledger: &mut Ledger) -> Result<()> {
    let (key, mut events) = join(host, name).await?;
    while ledger.sent.len() < INVOICES {
        let Some(event) = events.next().await else { break };
        if let SessionEvent::Elected { hold } = event {
            lead(host, hold.term, ledger).await;
        }
    }
    // Its member leaves with the session; so does the leadership, if it still has it.
    host.runtime().end_session(&key).await
}

async fn join(host: &Althing, name: &str) -> Result<(SessionKey, SessionStream)> {
    let runtime = host.runtime();
    let grant = runtime.open_session(&Principal::Embedder, SessionAsk::default(), false)?;
    let key = SessionKey { id: grant.id, secret: Secret::new(grant.secret) };
    let events = runtime.session_events(&key)?;
    let ask = JoinAsk { id: name.into(), create: true, ..JoinAsk::default() };
    runtime.join(&key, GROUP, ask).await?;
    Ok((key, events))
}

/// Works in small steps while the term lasts. `holds` asks nobody, so it costs nothing to ask before each step.
async fn lead(host: &Althing, term: Revision, ledger: &mut Ledger) {
    while host.runtime().holds(GROUP, term) && ledger.sent.len() < INVOICES {
        ledger.send(term, format!("invoice {}", ledger.sent.len() + 1));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What only a leader may write. It refuses a term older than one it has seen: that catches what `holds` cannot, a
/// step that was begun in time and arrives late.
#[derive(Default)]
struct Ledger {
    term: Revision,
    sent: Vec<String>,
}

impl Ledger {
    fn send(&mut self, term: Revision, invoice: String) {
        if term >= self.term {
            self.term = term;
            self.sent.push(invoice);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check() {
        let host = Althing::builder().name("a").start().await.unwrap();
        let mut ledger = Ledger::default();
        bill(&host, "a", &mut ledger).await.unwrap();
        assert_eq!(ledger.sent.len(), INVOICES);
        assert_eq!(host.runtime().group(GROUP).unwrap().members, []);
        host.stop().await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn bills_on_one_thread() {
        check().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn bills_on_many_threads() {
        check().await;
    }

    #[test]
    fn the_ledger_refuses_a_term_that_is_over() {
        let mut ledger = Ledger::default();
        ledger.send(Revision(2), "late".into());
        ledger.send(Revision(1), "too late".into());
        assert_eq!(ledger.sent, ["late"]);
    }
}
