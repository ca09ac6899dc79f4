//! Components that were cut short or changed on the way: refused, or a fault of theirs, and never a fault of the host's.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail in no better way")]

use althing_core::Kind;
use althing_engine::{Engine, FaultCause};
use althing_guests_test::made::GOOD;
use althing_guests_test::{bundle, component, engine, view};

/// What became of the variants of a component.
#[derive(Debug, Default)]
struct Count {
    refused: usize,
    faulty: usize,
    decided: usize,
}

impl Count {
    async fn add(&mut self, engine: &Engine, bytes: &[u8], what: &str) {
        let policy = match engine.load(&bundle(bytes, "").unwrap()).await {
            Ok(policy) => policy,
            Err(error) => {
                let clear =
                    matches!(error.kind(), Kind::Invalid | Kind::Denied | Kind::TooLarge | Kind::Fault);
                assert!(clear, "{what}: {error:?}");
                assert!(!error.to_string().contains(char::is_control), "{what}: {error:?}");
                self.refused += 1;
                return;
            }
        };
        match policy.elect(&view(3)).await {
            Ok(_) => self.decided += 1,
            Err(fault) => {
                assert_ne!(fault.cause, FaultCause::Host, "{what}: {fault}");
                self.faulty += 1;
            }
        }
    }
}

#[tokio::test]
async fn a_component_cut_anywhere_is_refused() {
    let engine = engine();
    let mut count = Count::default();
    for (whole, step) in [(GOOD.component(), 5), (component("elect-oldest"), 997)] {
        for length in (0..whole.len()).step_by(step) {
            count.add(&engine, &whole[..length], &format!("cut to {length} bytes")).await;
        }
    }
    // What follows the last export is for people only: without it, the component is still whole.
    assert!(count.faulty == 0 && count.decided <= 2 && count.refused > 500, "{count:?}");
}

#[tokio::test]
async fn a_component_with_any_flipped_bit_harms_nobody() {
    let engine = engine();
    let mut count = Count::default();
    for (mut bytes, step) in [(GOOD.component(), 5), (component("elect-oldest"), 997)] {
        for place in (0..bytes.len()).step_by(step) {
            let flipped = 1 << (place / step % 8);
            bytes[place] ^= flipped;
            count.add(&engine, &bytes, &format!("bit {flipped:#x} of byte {place}")).await;
            bytes[place] ^= flipped;
        }
    }
    // Else the variants are all alike, and nothing was shown.
    assert!(count.refused > 100 && count.faulty > 3 && count.decided > 100, "{count:?}");
    count.add(&engine, &GOOD.component(), "whole").await;
}
