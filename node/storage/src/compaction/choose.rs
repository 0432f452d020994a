//! Which tables to merge next: a pure function of what lies in each level.
//!
//! Levelled compaction. Level 0 holds flushed memtables, which overlap; every deeper level is sorted and
//! disjoint and `ratio` times as large as the one above it. Sizes are fixed from below: the largest
//! level sets the targets of the levels above it, so that these together hold about 1/(ratio - 1) of it
//! and superseded versions can never take much more than that (the idea of dynamic level sizes, as in
//! RocksDB). The first level under level 0 that has a target is the *base*; level 0 is merged into it.
//!
//! Reads stay bounded: at most `level0_tables` tables of level 0 once compaction kept up, and one table
//! in each of the few levels in use.
//!
//! Invariants of a choice: its inputs are all tables of level 0, or one table of a deeper level with
//! others that come for free; together with every table of the output level that they overlap; none is
//! busy; nothing lies between the input and the output level. So every older version of a key in the
//! inputs lies in the inputs or in a level under the output.

use crate::options::StoreOptions;
use crate::table::{TableId, TableMeta};
use std::collections::BTreeSet;

pub use crate::options::LEVELS;

const DEEPEST: usize = LEVELS - 1;
/// A choice is enlarged for free up to this many times the size of a table.
const ENLARGE_TABLES: u64 = 10;

/// The figures that shape the levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tables in level 0 at which they are merged down.
    pub level0_tables: usize,
    /// Smallest target of the base level in bytes.
    pub base_bytes: u64,
    /// Growth from one level to the next, at least 2.
    pub ratio: u64,
    /// Target size of a table in bytes.
    pub table_bytes: u64,
}

impl From<&StoreOptions> for Limits {
    fn from(options: &StoreOptions) -> Self {
        Limits {
            level0_tables: options.level0_tables,
            base_bytes: options.level1_bytes,
            ratio: options.level_ratio,
            table_bytes: options.table_bytes,
        }
    }
}

/// Why tables were chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Level 0 has too many tables for reads.
    Level0Count,
    /// A level is larger than its target.
    LevelSize,
    /// At least half of a table are erase marks: what they erase should not wait for more writes.
    Erasures,
    /// A range drop hides part of a table.
    Dropped,
}

/// What to merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The level that is relieved.
    pub level: usize,
    /// The level that gets the result; always deeper.
    pub output_level: usize,
    /// Tables that leave: first those of `level`, then those of `output_level`.
    pub inputs: Vec<TableId>,
    /// The inputs overlap nothing: they change their level and need not be rewritten.
    pub moves: bool,
    /// Bytes of all inputs.
    pub bytes: u64,
    /// Why.
    pub reason: Reason,
}

/// What each level should hold at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// The level into which level 0 is merged.
    pub base: usize,
    /// Target of each level in bytes; 0 for levels that should be empty and for level 0.
    pub bytes: [u64; LEVELS],
}

fn size(level: &[TableMeta]) -> u64 {
    level.iter().map(|table| table.bytes).sum()
}

/// The targets for the present sizes.
pub fn targets(levels: &[Vec<TableMeta>], limits: &Limits) -> Targets {
    let sizes: Vec<u64> = levels.iter().map(|level| size(level)).collect();
    let largest = sizes.iter().skip(1).copied().max().unwrap_or(0);
    let ratio = limits.ratio.max(2);
    let mut bytes = [0; LEVELS];
    let mut base = DEEPEST;
    bytes[base] = largest.max(limits.base_bytes);
    while base > 1 && bytes[base] > limits.base_bytes.saturating_mul(ratio) {
        bytes[base - 1] = bytes[base] / ratio;
        base -= 1;
    }
    // Nothing may be put under a level that holds older versions.
    let highest_used = sizes.iter().skip(1).position(|bytes| *bytes > 0).map_or(base, |at| at + 1);
    Targets { base: base.min(highest_used), bytes }
}

/// Bytes that would have to leave their levels for all to be within their targets: how far compaction
/// is behind. Level 0 counts once it has reached its number of tables.
pub fn debt(levels: &[Vec<TableMeta>], limits: &Limits) -> u64 {
    let targets = targets(levels, limits);
    let over = |(level, tables): (usize, &Vec<TableMeta>)| match level {
        0 if tables.len() < limits.level0_tables => 0,
        0 => size(tables),
        _ => size(tables).saturating_sub(targets.bytes[level.min(DEEPEST)]),
    };
    levels.iter().take(DEEPEST).enumerate().map(over).sum()
}

/// What to merge next, `None` if every level is within its target or what is not is busy.
///
/// `levels[0]` in any order, deeper levels sorted by key; `busy` are the inputs of compactions that
/// still run.
pub fn choose(
    levels: &[Vec<TableMeta>],
    limits: &Limits,
    busy: &BTreeSet<TableId>,
) -> Option<Choice> {
    let targets = targets(levels, limits);
    let mut wanted: Vec<(u128, usize)> = Vec::new();
    for (level, tables) in levels.iter().enumerate().take(DEEPEST) {
        let idle: u64 = tables.iter().filter(|t| !busy.contains(&t.id)).map(|t| t.bytes).sum();
        let (over, permille) = match (level, targets.bytes[level]) {
            (0, _) => {
                let limit = limits.level0_tables.max(1);
                (tables.len() >= limit, tables.len() as u128 * 1000 / limit as u128)
            }
            // A level without a target is emptied, but level 0 comes first.
            (_, 0) => (idle > 0, 1000),
            (_, target) => (idle > target, u128::from(idle) * 1000 / u128::from(target)),
        };
        if over {
            wanted.push((permille, level));
        }
    }
    wanted.sort_by_key(|(permille, level)| (std::cmp::Reverse(*permille), *level));
    wanted
        .iter()
        .find_map(|(_, level)| match level {
            0 => level0(levels, targets.base, busy),
            _ => deeper(levels, *level, limits, busy, Reason::LevelSize),
        })
        .or_else(|| {
            (1..DEEPEST).find_map(|level| deeper(levels, level, limits, busy, Reason::Erasures))
        })
}

fn tables(levels: &[Vec<TableMeta>], level: usize) -> &[TableMeta] {
    levels.get(level).map_or(&[], Vec::as_slice)
}

/// Tables of a sorted level that meet the hull of `upper`.
fn overlapped<'a>(lower: &'a [TableMeta], upper: &[&TableMeta]) -> &'a [TableMeta] {
    let (Some(first), Some(last)) =
        (upper.iter().map(|t| &t.first).min(), upper.iter().map(|t| &t.last).max())
    else {
        return &[];
    };
    let from = lower.partition_point(|table| table.last < *first);
    let to = lower.partition_point(|table| table.first <= *last);
    &lower[from..to.max(from)]
}

fn build(
    (level, output_level): (usize, usize),
    upper: &[&TableMeta],
    lower: &[TableMeta],
    reason: Reason,
) -> Choice {
    let all = upper.iter().copied().chain(lower);
    let (inputs, bytes) = (all.clone().map(|t| t.id).collect(), all.map(|t| t.bytes).sum());
    // Tables of level 0 overlap one another; alone or from a sorted level they can just move.
    let moves = lower.is_empty() && (level > 0 || upper.len() == 1);
    Choice { level, output_level, inputs, moves, bytes, reason }
}

fn level0(levels: &[Vec<TableMeta>], base: usize, busy: &BTreeSet<TableId>) -> Option<Choice> {
    let upper: Vec<&TableMeta> = tables(levels, 0).iter().collect();
    let lower = overlapped(tables(levels, base), &upper);
    let free = upper.iter().copied().chain(lower).all(|table| !busy.contains(&table.id));
    (free && !upper.is_empty()).then(|| build((0, base), &upper, lower, Reason::Level0Count))
}

/// The table of a level whose merge rewrites least for what it removes.
fn deeper(
    levels: &[Vec<TableMeta>],
    level: usize,
    limits: &Limits,
    busy: &BTreeSet<TableId>,
    reason: Reason,
) -> Option<Choice> {
    let (upper, lower) = (tables(levels, level), tables(levels, level + 1));
    let idle = |table: &TableMeta| !busy.contains(&table.id);
    let candidates = upper.iter().filter(|table| {
        idle(table) && (reason != Reason::Erasures || table.erasures * 2 >= table.entries)
    });
    let (_, _, seed) = candidates
        .filter_map(|table| {
            let below = overlapped(lower, &[table]);
            let cost = u128::from(size(below)) * 1000 / u128::from(table.bytes.max(1));
            below.iter().all(idle).then_some((cost, table.id, table))
        })
        .min_by_key(|(cost, id, _)| (*cost, *id))?;
    let below = overlapped(lower, &[seed]);
    let chosen = enlarge(upper, seed, below, limits, busy);
    Some(build((level, level + 1), &chosen, below, reason))
}

/// Neighbours of `seed` that lie wholly inside the hull of the choice: they are relieved without
/// rewriting one more table below.
fn enlarge<'a>(
    upper: &'a [TableMeta],
    seed: &'a TableMeta,
    below: &[TableMeta],
    limits: &Limits,
    busy: &BTreeSet<TableId>,
) -> Vec<&'a TableMeta> {
    let (Some(low), Some(high)) = (below.first(), below.last()) else { return vec![seed] };
    let mut room =
        limits.table_bytes.saturating_mul(ENLARGE_TABLES).saturating_sub(seed.bytes + size(below));
    upper
        .iter()
        .filter(|table| {
            if table.id == seed.id {
                return true;
            }
            let inside = table.first >= low.first && table.last <= high.last;
            let takes = inside && !busy.contains(&table.id) && table.bytes <= room;
            if takes {
                room -= table.bytes;
            }
            takes
        })
        .collect()
}

/// Key ranges under an output level that may hold older versions: what decides whether an erase mark
/// may go. Built once for a choice.
#[derive(Clone, Debug, Default)]
pub struct Below {
    levels: Vec<Vec<(bytes::Bytes, bytes::Bytes)>>,
}

impl Below {
    /// The levels under the output of `choice`.
    pub fn new(levels: &[Vec<TableMeta>], choice: &Choice) -> Self {
        let range = |table: &TableMeta| (table.first.clone(), table.last.clone());
        let deeper = levels.iter().skip(choice.output_level + 1);
        Below { levels: deeper.map(|level| level.iter().map(range).collect()).collect() }
    }

    /// Whether an older version of an encoded key may lie there.
    pub fn may_hold(&self, key: &[u8]) -> bool {
        self.levels.iter().any(|level| {
            let at = level.partition_point(|(_, last)| last.as_ref() < key);
            level.get(at).is_some_and(|(first, _)| first.as_ref() <= key)
        })
    }
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
