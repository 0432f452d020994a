//! The generation that this node has reached (DESIGN section 7, Reclaim), shared by all its threads.
//!
//! Raised by the control thread after it was stored durably; read under the lock of a key by whatever
//! takes stored data in, so that nothing is taken under an older generation than the one an erase saw.

use std::sync::atomic::{AtomicU64, Ordering};

use kvasir_core::reclaim::Margins;

/// A number that only rises. 0: this node has none yet and takes nothing from others.
#[derive(Debug, Default)]
pub struct Generation(AtomicU64);

impl Generation {
    /// The generation now. What is read or minted after this call may be stamped with the answer.
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// This generation is stored durably.
    pub fn reached(&self, generation: u64) {
        self.0.fetch_max(generation, Ordering::AcqRel);
    }

    /// Whether data that was stamped so is still taken.
    pub fn takes(&self, stamp: u64) -> bool {
        let own = self.now();
        own > 0 && Margins::RULE.takes(own, stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_taken_before_there_is_a_generation_nor_what_is_too_old() {
        let generation = Generation::default();
        assert!(!generation.takes(9));
        generation.reached(5);
        generation.reached(4);
        assert_eq!(generation.now(), 5);
        assert!(generation.takes(4) && generation.takes(6) && !generation.takes(3));
    }
}
