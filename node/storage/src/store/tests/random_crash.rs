//! Random stores with random options crash at random calls, and again while they recover: what was
//! acknowledged at `group` or `each` is there afterwards, what is there is a prefix of what was
//! applied, and the store goes on from it. `crash.rs` visits every call of one script; this one
//! visits fewer calls of many.

use super::*;
use crate::disk::memory::Crash;
use crate::table::Compression;

/// Stores tried; each gives [`IMAGES`] images.
const STORES: u64 = 130;
/// Images taken of one crash.
const IMAGES: u64 = 24;

/// A small seeded generator (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn options(dice: &mut Dice) -> StoreOptions {
    let level0_tables = 1 + dice.below(4) as usize;
    StoreOptions {
        memtable_bytes: 400 + dice.below(4_000) as usize,
        immutable_memtables_max: 1 + dice.below(3) as usize,
        flush_age_ms: 1_000 + dice.below(20_000),
        log_segment_bytes: 300 + dice.below(5_000),
        log_buffer_bytes: 500 + dice.below(20_000) as usize,
        cache_bytes: dice.below(12_000) as usize,
        resident_bytes: dice.below(2_000) as usize,
        block_bytes: 100 + dice.below(900) as usize,
        compression: [Compression::None, Compression::Lz4][dice.below(2) as usize],
        table_bytes: 500 + dice.below(4_000),
        filter_bits_per_key: 4 + dice.below(16) as u32,
        level0_tables,
        level0_stop: level0_tables + 1 + dice.below(4) as usize,
        level1_bytes: 1_000 + dice.below(6_000),
        level_ratio: 2 + dice.below(6),
        ..StoreOptions::new(DIR)
    }
}

fn crash(dice: &mut Dice) -> Crash {
    let sector = [512, 4096][dice.below(2) as usize];
    match dice.below(8) {
        0 => Crash::DropAll,
        1 => Crash::KeepAll,
        2 => Crash::Process,
        3..=5 => Crash::Subset(sector),
        _ => Crash::Torn(sector),
    }
}

/// What must hold after a crash: the content after each change, and the last one acknowledged.
struct Run {
    states: Vec<Map>,
    acknowledged: usize,
    /// Values are put without looking at what was there.
    blind: bool,
}

type Owed = Vec<(usize, Ticket<Result<(), WriteError>>)>;

impl Run {
    fn hear(&mut self, owed: &mut Owed) {
        let mut waiting = Vec::new();
        for (at, ticket) in owed.drain(..) {
            match ticket.try_take() {
                Ok(Ok(())) => self.acknowledged = self.acknowledged.max(at),
                Ok(Err(_)) => {}
                Err(ticket) => waiting.push((at, ticket)),
            }
        }
        *owed = waiting;
    }

    /// Random writes with background work at odd moments, until the disk is gone or enough was done.
    fn write(&mut self, rig: &Rig, dice: &mut Dice, steps: u64) {
        let mut map = self.states[self.states.len() - 1].clone();
        let (mut owed, mut now_ms) = (Owed::new(), 0);
        for _ in 0..steps {
            let (number, erase) = (dice.below(30), dice.below(4) == 0);
            let content = value(dice.below(1_000));
            let durability =
                [Durability::Memory, Durability::Periodic, Durability::Group, Durability::Each]
                    [dice.below(4) as usize];
            let stored = key(number).as_bytes().to_vec();
            let change = match erase {
                // Nothing to erase is no change: it promises nothing of what came before it.
                true if map.remove(&stored).is_none() => continue,
                true => Change::Erase,
                false => {
                    map.insert(stored, content.clone());
                    Change::Put(content.into())
                }
            };
            let Ok(applied) = rig.settle(match change {
                Change::Put(value) if self.blind => rig.store.put(&key(number), value, durability),
                change => rig.store.update(&key(number), durability, |_| (change, ())),
            }) else {
                break;
            };
            self.states.push(map.clone());
            if durability >= Durability::Group {
                owed.push((self.states.len() - 1, applied.durable));
            }
            match dice.below(10) {
                0..=4 => _ = rig.work.run_one(Lane::ALL[dice.below(5) as usize]),
                5 => _ = rig.work.run_all(),
                6 => drop(rig.store.flush()),
                7 => {
                    now_ms += dice.below(5_000);
                    rig.store.tick(now_ms);
                }
                _ => {}
            }
            self.hear(&mut owed);
        }
    }

    /// Opens an image and holds it against what was done; gives the store and which state it is in.
    fn judge(&self, image: MemoryDisk, options: &StoreOptions) -> Result<(Rig, usize), String> {
        let mirror = Mirror { blind: self.blind, ..Mirror::default() };
        let rig = Rig::open_with(image, options.clone(), mirror)
            .map_err(|error| format!("does not open: {error}"))?;
        let found = rig.scan();
        if found != rig.mirrored() {
            return Err("the observer is told something else than what is stored".into());
        }
        match self.states.iter().rposition(|state| *state == found) {
            Some(at) if at >= self.acknowledged => Ok((rig, at)),
            Some(at) => Err(format!("state {at} is there, {} was acknowledged", self.acknowledged)),
            None => Err("what is there is no prefix of what was written".into()),
        }
    }
}

/// A crash, up to three more while recovering from it, then writes and another crash. Gives the number
/// of images that were opened.
fn one_image(
    run: &Run,
    disk: &MemoryDisk,
    options: &StoreOptions,
    dice: &mut Dice,
) -> Result<u64, String> {
    let (mut image, mut images) = (disk.image(crash(dice), dice.next()), 1);
    for _ in 0..dice.below(4) {
        image.stop_after(dice.below(40));
        let mirror = Mirror { blind: run.blind, ..Mirror::default() };
        if let Ok(rig) = Rig::open_with(image.clone(), options.clone(), mirror) {
            rig.work.run_all();
        }
        image = image.image(crash(dice), dice.next());
        images += 1;
    }
    let (rig, at) = run.judge(image, options)?;
    if dice.below(4) > 0 {
        return Ok(images);
    }
    let mut next = Run { states: vec![run.states[at].clone()], acknowledged: 0, blind: run.blind };
    rig.disk.stop_after(dice.below(60));
    next.write(&rig, dice, 20);
    next.judge(rig.disk.image(crash(dice), dice.next()), options).map(|_| images + 1)
}

#[test]
fn random_stores_lose_nothing_acknowledged_however_often_they_crash() {
    let (mut images, mut acknowledged, mut lengths) = (0, 0, 0);
    for store in 0..STORES {
        let mut dice = Dice(store);
        let options = options(&mut dice);
        let blind = store % 2 == 1;
        let mirror = Mirror { blind, ..Mirror::default() };
        let rig = Rig::open_with(MemoryDisk::new(), options.clone(), mirror).unwrap();
        let mut run = Run { states: vec![Map::new()], acknowledged: 0, blind };
        rig.disk.stop_after(20 + dice.below(900));
        run.write(&rig, &mut dice, 200);
        acknowledged += run.acknowledged;
        lengths += run.states.len();
        for number in 0..IMAGES {
            let seed = store * 1_000 + number;
            images += one_image(&run, &rig.disk, &options, &mut Dice(seed << 20))
                .unwrap_or_else(|why| panic!("store {store}, image {number}: {why}\n{options:?}"));
        }
    }
    // Not vacuous: images enough, runs of some length, most of each acknowledged.
    assert!(images >= 6_000, "{images} images");
    assert!(lengths > 5_000 && acknowledged * 2 > lengths, "{acknowledged} of {lengths}");
}
