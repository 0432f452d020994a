//! The generation that this node has reached (DESIGN section 7, Reclaim), shared by all its threads.
//!
//! Raised by the control thread after it was stored durably; read under the lock of a key by whatever
//! takes stored data in, so that nothing is taken under an older generation than the one an erase saw.

use std::sync::atomic::{AtomicU64, Ordering};

use kvasir_core::reclaim::Margins;

/// A number that only rises, but for a node that was left behind and begins once more. 0: this node has none
/// yet and takes nothing from others.
#[derive(Debug, Default)]
pub struct Generation {
    now: AtomicU64,
    /// The generation in which what this node does now began: at its start, or after it was left behind.
    began: AtomicU64,
}

/// It was left behind and has not begun again.
const FORGOT: u64 = u64::MAX;

impl Generation {
    /// The generation now. What is read or minted after this call may be stamped with the answer.
    pub fn now(&self) -> u64 {
        self.now.load(Ordering::Acquire)
    }

    /// The generation that was stored before this start. For the start of a node only.
    pub fn start(&self, stored: u64) {
        self.now.store(stored, Ordering::Release);
        self.began.store(stored, Ordering::Release);
    }

    /// The generation in which it began.
    pub fn began(&self) -> u64 {
        self.began.load(Ordering::Acquire)
    }

    /// The others went on without this node: it has no generation any more.
    pub fn forget(&self) {
        self.began.store(FORGOT, Ordering::Release);
        self.now.store(0, Ordering::Release);
    }

    /// This generation is stored durably.
    pub fn reached(&self, generation: u64) {
        if self.began() == FORGOT {
            self.began.store(generation, Ordering::Release);
        }
        self.now.fetch_max(generation, Ordering::AcqRel);
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
        assert_eq!(generation.began(), 0);
        generation.forget();
        assert!(!generation.takes(9) && generation.began() > 9);
        generation.reached(8);
        generation.reached(9);
        assert_eq!((generation.now(), generation.began()), (9, 8));
    }
}
