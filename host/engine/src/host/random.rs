//! `random`: bytes made from the view, so that a decision can be made again.

use std::convert::Infallible;

use althing_core::Digest;
use rand_core::TryRng;

use crate::bindings::election::althing::policy::random::Host;
use crate::store::Call;

/// The most bytes of one answer.
const BYTES_MAX: u32 = 4096;

impl Host for Call {
    fn bytes(&mut self, count: u32) -> Vec<u8> {
        let mut bytes = vec![0; count.min(BYTES_MAX) as usize];
        self.sequence.fill(&mut bytes);
        bytes
    }
}

/// An endless sequence of bytes from a seed: the digests of the seed followed by a counter.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    seed: Digest,
    blocks: u64,
    /// What is left of the last block, to be taken from its end.
    rest: Vec<u8>,
}

impl Sequence {
    pub(crate) fn new(seed: Digest) -> Self {
        Sequence { seed, blocks: 0, rest: Vec::new() }
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.next();
        }
    }

    fn next(&mut self) -> u8 {
        loop {
            if let Some(byte) = self.rest.pop() {
                return byte;
            }
            let block = [self.seed.as_bytes().as_slice(), &self.blocks.to_le_bytes()].concat();
            self.rest.extend_from_slice(Digest::of(block).as_bytes());
            self.blocks += 1;
        }
    }
}

impl TryRng for Sequence {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.fill(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes_however_they_are_asked_for() {
        let (mut at_once, mut in_steps) = (Sequence::new(Digest::of("a")), Sequence::new(Digest::of("a")));
        let (mut whole, mut parts) = ([0; 100], [0; 100]);
        at_once.fill(&mut whole);
        parts.chunks_mut(7).for_each(|part| in_steps.fill(part));
        assert_eq!(whole, parts);
        let mut other = [0; 100];
        Sequence::new(Digest::of("b")).fill(&mut other);
        assert_ne!(whole, other);
    }
}
