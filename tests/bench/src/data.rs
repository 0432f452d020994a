//! What is stored and which key comes next: the same for every engine, from numbers alone.
//!
//! Key `i` has 16 bytes: a hash of `i`, a zero, and the low seven bytes of `i` — a key as Kvasir
//! stores it (hash, empty bucket, name), and 16 opaque bytes for the others. Ascending numbers are
//! therefore keys in random order. A value is half random bytes, half zeros, as the benchmark of
//! RocksDB has them.

/// Bytes of a key.
pub const KEY_BYTES: usize = 16;

/// One key.
pub type Key = [u8; KEY_BYTES];

/// A seeded generator (SplitMix64).
pub struct Dice(u64);

fn mixed(number: u64) -> u64 {
    let mut mixed = number;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Dice {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(mixed(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)))
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from 0 up to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The key of a number.
pub fn key(number: u64) -> Key {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&mixed(number.wrapping_add(0x9e37_79b9_7f4a_7c15)).to_be_bytes());
    key[8..].copy_from_slice(&(number & 0x00ff_ffff_ffff_ffff).to_be_bytes());
    key
}

/// Values of one length, cut from a prepared stretch of bytes.
pub struct Values {
    bytes: Vec<u8>,
    length: usize,
}

/// Places at which a value may begin.
const PLACES: u64 = 4_096;

impl Values {
    /// Values of `length` bytes.
    pub fn new(length: usize) -> Self {
        let mut dice = Dice::new(7);
        let mut bytes = Vec::new();
        while bytes.len() < length + PLACES as usize {
            let random = dice.next().to_be_bytes();
            bytes.extend_from_slice(&random);
            bytes.extend_from_slice(&[0; 8]);
        }
        Self { bytes, length }
    }

    /// Writes the value of a key's number and of the time of its writing into `out`.
    pub fn fill(&self, number: u64, out: &mut [u8]) {
        let at = (number % PLACES) as usize;
        out.copy_from_slice(&self.bytes[at..at + self.length]);
        out[..8].copy_from_slice(&number.to_be_bytes());
    }

    /// Whether bytes read back are a value of this number.
    pub fn is_of(&self, number: u64, found: &[u8]) -> bool {
        found.len() == self.length && found[..8] == number.to_be_bytes()
    }

    /// Bytes of one value.
    pub fn bytes(&self) -> usize {
        self.length
    }
}

/// The number that a value begins with.
pub fn number_of(value: &[u8]) -> u64 {
    value.first_chunk().map_or(u64::MAX, |head| u64::from_be_bytes(*head))
}

/// How the next key is drawn.
#[derive(Debug, Clone, Copy)]
pub enum Spread {
    /// Every key as likely as any other.
    Uniform,
    /// A few keys get most of the requests: Zipf with exponent 0.99, as in YCSB (Gray et al. 1994).
    Zipf(Zipf),
}

/// Constants of a Zipf distribution over ranks below `count`.
#[derive(Debug, Clone, Copy)]
pub struct Zipf {
    count: u64,
    alpha: f64,
    zeta: f64,
    eta: f64,
}

const THETA: f64 = 0.99;

impl Zipf {
    /// Sums the series once: about a tenth of a second for ten million.
    pub fn new(count: u64) -> Self {
        let zeta: f64 = (1..=count).map(|rank| 1.0 / (rank as f64).powf(THETA)).sum();
        let two = 1.0 + 0.5f64.powf(THETA);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - THETA)) / (1.0 - two / zeta);
        Self { count, alpha: 1.0 / (1.0 - THETA), zeta, eta }
    }

    fn rank(&self, dice: &mut Dice) -> u64 {
        let unit = dice.unit();
        let scaled = unit * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5f64.powf(THETA) {
            return 1;
        }
        let rank = self.count as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.count - 1)
    }
}

impl Spread {
    /// The number of the next key, below `count`.
    pub fn next(&self, dice: &mut Dice, count: u64) -> u64 {
        match self {
            Spread::Uniform => dice.below(count),
            // Ranks are scattered, else the hot keys would lie side by side.
            Spread::Zipf(zipf) => mixed(zipf.rank(dice).wrapping_add(99)) % count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_distinct_and_values_are_known_again() {
        let mut keys: Vec<Key> = (0..10_000).map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 10_000);
        let values = Values::new(200);
        let mut value = vec![0; 200];
        values.fill(77, &mut value);
        assert!(values.is_of(77, &value) && !values.is_of(78, &value));
        assert!(!values.is_of(77, &value[..199]));
    }

    #[test]
    fn zipf_prefers_few_keys_and_uniform_none() {
        let draw = |spread: Spread| {
            let (mut dice, mut hits) = (Dice::new(1), vec![0u32; 1_000]);
            for _ in 0..100_000 {
                hits[spread.next(&mut dice, 1_000) as usize] += 1;
            }
            hits.sort_unstable_by(|a, b| b.cmp(a));
            hits[0]
        };
        assert!(draw(Spread::Uniform) < 200);
        // The first rank has 1/zeta(1000, 0.99), about 13 %.
        assert!((11_000..16_000).contains(&draw(Spread::Zipf(Zipf::new(1_000)))));
    }
}
