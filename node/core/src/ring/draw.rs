//! Numbers that look random and are the same everywhere.

/// splitmix64 (Steele, Lea, Flood 2014): the plan must be the same everywhere.
pub(super) struct Draw(u64);

impl Draw {
    /// Numbers that follow from a seed.
    pub fn new(seed: u64) -> Self {
        Self(0x6b76_6173_6972 ^ seed)
    }

    /// The next number, below `bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(mixed ^ (mixed >> 31)) * bound as u128) >> 64) as usize
    }
}
