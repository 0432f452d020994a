//! What becomes of an input: a few small changes, drawn by a seeded generator.

use super::INPUT_MAX_BYTES;

/// Numbers at which code breaks.
const NUMBERS: [u64; 12] = [
    0,
    1,
    7,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// A small seeded generator (SplitMix64).
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound as u64) as usize
    }

    /// One of two.
    pub fn coin(&mut self) -> bool {
        self.draw() & 1 == 1
    }
}

/// One input of the pool with up to eight changes.
pub fn mutated(pool: &[Vec<u8>], words: &[&[u8]], dice: &mut Dice) -> Vec<u8> {
    let mut input = pool[dice.below(pool.len())].clone();
    for _ in 0..=dice.below(8) {
        let other = dice.below(pool.len());
        change(&mut input, &pool[other], words, dice);
        input.truncate(INPUT_MAX_BYTES);
    }
    input
}

fn change(input: &mut Vec<u8>, other: &[u8], words: &[&[u8]], dice: &mut Dice) {
    let at = dice.below(input.len() + 1);
    let scale = dice.below(7);
    let length = 1 + dice.below(1 << scale);
    let end = (at + length).min(input.len());
    match dice.below(9) {
        0 if at < input.len() => input[at] ^= 1 << dice.below(8),
        1 if at < input.len() => input[at] = dice.draw() as u8,
        2 => _ = input.drain(at..end),
        3 => {
            let again = input[at..end].to_vec();
            input.splice(at..at, again);
        }
        4 if !other.is_empty() => {
            let from = dice.below(other.len());
            let part = &other[from..(from + length).min(other.len())];
            input.splice(at..end, part.iter().copied());
        }
        5 if !words.is_empty() => {
            let word = words[dice.below(words.len())];
            let until = if dice.coin() { at } else { (at + word.len()).min(input.len()) };
            input.splice(at..until, word.iter().copied());
        }
        6 => {
            let number = NUMBERS[dice.below(NUMBERS.len())].wrapping_add(dice.below(3) as u64);
            let width = 1 << dice.below(4);
            let mut bytes = number.to_le_bytes()[..width].to_vec();
            if dice.coin() {
                bytes.reverse();
            }
            input.splice(at..(at + width).min(input.len()), bytes);
        }
        7 => input.truncate(at),
        _ => {
            let bytes: Vec<u8> = (0..length).map(|_| dice.draw() as u8).collect();
            input.splice(at..at, bytes);
        }
    }
}
