//! The rows of the table: what one engine goes through in one process, in this order.
//!
//! Reads come after a flush, when background work has ended: they measure tables. Each row starts
//! with a warm page cache, since the files were just written; the cache of the engine holds what the
//! rows before left in it.

use crate::data::{Dice, KEY_BYTES, Spread, Values, Zipf, key};
use crate::engine::{self, Ack, Engine, Settings};
use crate::journal::Line;
use crate::measure::{self, Latencies};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Name of the data set, first word of each row.
    pub name: &'static str,
    /// Keys stored.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Lookups of a row, and updates of the overwriting and mixed rows.
    pub operations: u64,
    /// Entries put into the log before the kill.
    pub unflushed: u64,
    /// The longest that a row of lookups or durable puts may take.
    pub seconds: u64,
    /// Which rows there are.
    pub rows: Rows,
    /// Settings of the engines.
    pub settings: Settings,
}

/// Which rows a data set has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// Every row.
    All,
    /// Those that say something of data larger than the cache.
    Larger,
    /// One load and a few reads, for compression.
    Few,
}

/// What one row measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Name of the row.
    pub row: String,
    /// Operations in a second; for a reopening, reopenings in a second.
    pub rate: f64,
    /// Latencies in microseconds at 50, 99 and 99.9 %.
    pub micros: [f64; 3],
    /// Largest resident size during the row.
    pub resident: u64,
    /// Bytes of the store's files after the row.
    pub disk: u64,
    /// Bytes written by the process for each byte put, background work included; 0 without puts.
    pub amplification: f64,
    /// Processor time of the whole process in microseconds for each operation: what is left to
    /// compare by where something else keeps the machine busy.
    pub cpu: f64,
}

impl Line for Outcome {
    fn line(&self) -> String {
        let [a, b, c] = self.micros;
        let (rate, resident, disk, cpu) = (self.rate, self.resident, self.disk, self.cpu);
        let (row, written) = (&self.row, self.amplification);
        format!("{row}\t{rate}\t{a}\t{b}\t{c}\t{resident}\t{disk}\t{written}\t{cpu}")
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split('\t').collect();
        let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some(Self {
            row: (*fields.first()?).to_string(),
            rate: number(1)?,
            micros: [number(2)?, number(3)?, number(4)?],
            resident: number(5)? as u64,
            disk: number(6)? as u64,
            amplification: number(7)?,
            cpu: number(8)?,
        })
    }

    fn row(&self) -> &str {
        &self.row
    }
}

/// One engine going through the rows of one data set.
struct Course<'a> {
    engine: &'a str,
    scale: Scale,
    dir: PathBuf,
    wanted: &'a str,
    seed: u64,
    report: &'a mut dyn FnMut(Outcome),
}

/// Runs every row whose name contains `wanted`; what rows rest on is done in any case.
pub fn run(
    engine: &str,
    scale: Scale,
    dir: &Path,
    wanted: &str,
    seed: u64,
    report: &mut dyn FnMut(Outcome),
) {
    let mut course = Course { engine, scale, dir: dir.to_path_buf(), wanted, seed, report };
    course.go();
}

/// What a row does with each number: an update, whose bytes are counted, or not.
type Operation<'a> = dyn Fn(&mut Dice, u64, &mut [u8]) -> bool + Sync + 'a;

/// A finished measurement that lacks what is known only after the background work.
struct Timed {
    latencies: Latencies,
    took: Duration,
    cpu: Duration,
    puts: u64,
}

impl Course<'_> {
    fn go(&mut self) {
        let store = self.open("main", self.scale.settings);
        self.load(&*store, "load, 1 thread", 1);
        self.reads(&*store);
        if self.scale.rows != Rows::Few {
            self.updates(&*store);
        }
        store.close();
        if self.scale.rows == Rows::All {
            self.reopening();
            self.remove("main");
            self.fresh("load, 2 threads", self.scale.settings, 2);
            let buffered = Settings { buffered: true, ..self.scale.settings };
            self.fresh("load into the process's buffer, 1 thread", buffered, 1);
            self.durable();
        }
        self.remove("main");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn open(&self, name: &str, settings: Settings) -> Box<dyn Engine> {
        let path = self.path(name);
        std::fs::create_dir_all(&path).expect("the directory of the run can be made");
        engine::open(self.engine, &path, settings)
    }

    fn remove(&self, name: &str) {
        // It may be gone already.
        let _ = std::fs::remove_dir_all(self.path(name));
    }

    fn is_wanted(&self, row: &str) -> bool {
        self.full_name(row).contains(self.wanted)
    }

    fn full_name(&self, row: &str) -> String {
        format!("{}: {row}", self.scale.name)
    }

    /// Runs one row over an open store.
    fn row(
        &mut self,
        row: &str,
        store: &dyn Engine,
        threads: u64,
        count: u64,
        limit: Duration,
        operation: &Operation<'_>,
    ) {
        if !self.is_wanted(row) {
            return;
        }
        measure::forget_peak();
        let before = measure::written();
        let bytes = self.scale.value_bytes;
        let timed = timed(threads, count, limit, self.seed, bytes, operation);
        let mut resident = measure::peak_resident();
        let mut amplification = 0.0;
        if timed.puts > 0 {
            store.flush();
            if !measure::settle() {
                eprintln!("{}: still at work after two minutes: {row}", self.engine);
            }
            resident = resident.max(measure::peak_resident());
            let put = timed.puts * (KEY_BYTES + bytes) as u64;
            amplification = (measure::written() - before) as f64 / put as f64;
        }
        self.tell(row, "main", &timed, resident, amplification);
    }

    fn tell(&mut self, row: &str, dir: &str, timed: &Timed, resident: u64, amplification: f64) {
        let at = |part| timed.latencies.at(part);
        let (row, operations) = (self.full_name(row), timed.latencies.total() as f64);
        let disk = measure::disk_bytes(&self.path(dir));
        (self.report)(Outcome {
            row,
            rate: operations / timed.took.as_secs_f64(),
            micros: [at(0.5), at(0.99), at(0.999)],
            resident,
            disk,
            amplification,
            cpu: timed.cpu.as_secs_f64() * 1e6 / operations,
        });
    }

    /// Fills the store in random order. It is done even if nobody asked for its figures.
    fn load(&mut self, store: &dyn Engine, row: &str, threads: u64) {
        let (scale, values) = (self.scale, Values::new(self.scale.value_bytes));
        let ack = if scale.settings.buffered { Ack::Buffered } else { Ack::Written };
        self.filled(store, row, threads, &values, ack);
    }

    fn filled(&mut self, store: &dyn Engine, row: &str, threads: u64, values: &Values, ack: Ack) {
        let put = |_: &mut Dice, number: u64, value: &mut [u8]| {
            values.fill(number, value);
            store.put(&key(number), value, ack);
            true
        };
        let (keys, for_ever) = (self.scale.keys, Duration::from_secs(3_600));
        if self.is_wanted(row) {
            self.row(row, store, threads, keys, for_ever, &put);
        } else {
            timed(threads, keys, for_ever, self.seed, values.bytes(), &put);
            store.flush();
            measure::settle();
        }
    }

    fn reads(&mut self, store: &dyn Engine) {
        let (scale, values) = (self.scale, Values::new(self.scale.value_bytes));
        let (keys, limit) = (scale.keys, Duration::from_secs(scale.seconds));
        let spreads = [("uniform", Spread::Uniform), ("zipfian", Spread::Zipf(Zipf::new(keys)))];
        let threads: &[u64] = if scale.rows == Rows::Few { &[1] } else { &[1, 2] };
        for (threads, (name, spread)) in threads.iter().flat_map(|t| spreads.map(|s| (*t, s))) {
            let plural = if threads == 1 { "" } else { "s" };
            let hit = |dice: &mut Dice, _: u64, _: &mut [u8]| {
                let number = spread.next(dice, keys);
                let mut right = false;
                let found =
                    store.get(&key(number), &mut |value| right = values.is_of(number, value));
                assert!(found && right, "key {number} is stored and something else was found");
                false
            };
            let row = format!("get hit, {name}, {threads} thread{plural}");
            self.row(&row, store, threads, scale.operations, limit, &hit);
            let miss = |dice: &mut Dice, _: u64, _: &mut [u8]| {
                let number = keys + spread.next(dice, keys);
                assert!(!store.get(&key(number), &mut |_| ()), "key {number} was never stored");
                false
            };
            let row = format!("get miss, {name}, {threads} thread{plural}");
            self.row(&row, store, threads, scale.operations, limit, &miss);
        }
        let short = |dice: &mut Dice, _: u64, _: &mut [u8]| {
            let from = key(dice.below(keys));
            std::hint::black_box(store.scan(&from, 100));
            false
        };
        self.row("scan of 100 entries, 1 thread", store, 1, scale.operations / 50, limit, &short);
        let whole = |_: &mut Dice, _: u64, _: &mut [u8]| {
            assert_eq!(store.scan(&[0; KEY_BYTES], usize::MAX), keys as usize);
            false
        };
        self.row("scan of everything, 1 thread", store, 1, 3, limit, &whole);
    }

    fn updates(&mut self, store: &dyn Engine) {
        let (scale, values) = (self.scale, Values::new(self.scale.value_bytes));
        let (keys, limit) = (scale.keys, Duration::from_secs(scale.seconds * 3));
        let overwrite = |dice: &mut Dice, _: u64, value: &mut [u8]| {
            let number = dice.below(keys);
            values.fill(number, value);
            store.put(&key(number), value, Ack::Written);
            true
        };
        let replace = |dice: &mut Dice, _: u64, value: &mut [u8]| {
            let number = dice.below(keys);
            values.fill(number, value);
            let old = store.replace(&key(number), value, Ack::Written);
            assert_eq!(old, Some(number), "key {number} is stored and something else was found");
            true
        };
        let mix = |dice: &mut Dice, turn: u64, value: &mut [u8]| {
            if dice.next() & 1 == 0 {
                return overwrite(dice, turn, value);
            }
            let number = dice.below(keys);
            assert!(store.get(&key(number), &mut |_| ()), "key {number} is stored");
            false
        };
        for (threads, name) in [(1, "1 thread"), (2, "2 threads")] {
            let row = format!("overwrite, {name}");
            self.row(&row, store, threads, scale.operations, limit, &overwrite);
            let row = format!("read and overwrite, {name}");
            self.row(&row, store, threads, scale.operations, limit, &replace);
            let row = format!("50/50 mix, {name}");
            self.row(&row, store, threads, scale.operations, limit, &mix);
        }
    }

    /// A load into a store of its own.
    fn fresh(&mut self, row: &str, settings: Settings, threads: u64) {
        if !self.is_wanted(row) {
            return;
        }
        let values = Values::new(self.scale.value_bytes);
        let ack = if settings.buffered { Ack::Buffered } else { Ack::Written };
        let store = self.open("main", settings);
        self.filled(&*store, row, threads, &values, ack);
        store.close();
        self.remove("main");
    }

    /// Puts that are synced before they are acknowledged.
    fn durable(&mut self) {
        let values = Values::new(self.scale.value_bytes);
        for (writers, name) in [(1, "1 writer"), (4, "4 writers"), (16, "16 writers")] {
            let row = format!("durable put, {name}");
            if !self.is_wanted(&row) {
                continue;
            }
            let store = self.open("main", self.scale.settings);
            let put = |_: &mut Dice, number: u64, value: &mut [u8]| {
                values.fill(number, value);
                store.put(&key(number), value, Ack::Synced);
                true
            };
            let limit = Duration::from_secs(self.scale.seconds);
            self.row(&row, &*store, writers, self.scale.keys, limit, &put);
            store.close();
            self.remove("main");
        }
    }

    /// A child loads the log and is killed; the time is that from opening to the first answer.
    fn reopening(&mut self) {
        let row = "reopen after a kill";
        if !self.is_wanted(row) {
            return;
        }
        let mut latencies = Latencies::default();
        let (mut took, mut cpu) = (Duration::ZERO, Duration::ZERO);
        measure::forget_peak();
        for _ in 0..3 {
            self.killed_child();
            let (begun, cpu_before) = (Instant::now(), measure::cpu());
            let store = self.open("main", self.scale.settings);
            let last = self.scale.keys + self.scale.unflushed - 1;
            assert!(
                store.get(&key(last), &mut |_| ()),
                "what was written before the kill is there"
            );
            took += begun.elapsed();
            cpu += measure::cpu() - cpu_before;
            latencies.add(begun.elapsed());
            store.flush();
            measure::settle();
            store.close();
        }
        let timed = Timed { latencies, took, cpu, puts: 0 };
        self.tell(row, "main", &timed, measure::peak_resident(), 0.0);
    }

    fn killed_child(&self) {
        let program = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(program)
            .args(["--fill", self.engine, "--set", self.scale.name, "--dir"])
            .arg(self.path("main"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts again");
        let mut line = String::new();
        let out = child.stdout.take().expect("its output is piped");
        let read = std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line);
        assert!(read.is_ok() && line.trim() == "filled", "the child said {line:?}");
        child.kill().expect("the child can be killed");
        child.wait().expect("the child ends");
    }
}

/// In the child: puts entries that stay in the log, says so, and waits to be killed.
pub fn fill(engine: &str, scale: Scale, dir: &Path) -> ! {
    let (store, values) =
        (engine::open(engine, dir, scale.settings), Values::new(scale.value_bytes));
    let mut value = vec![0; scale.value_bytes];
    for number in scale.keys..scale.keys + scale.unflushed {
        values.fill(number, &mut value);
        store.put(&key(number), &value, Ack::Written);
    }
    println!("filled");
    loop {
        std::thread::park();
    }
}

/// Runs `count` operations on some threads, each timing its own; ends early at the limit.
fn timed(
    threads: u64,
    count: u64,
    limit: Duration,
    seed: u64,
    value_bytes: usize,
    operation: &Operation<'_>,
) -> Timed {
    let (begun, cpu_before) = (Instant::now(), measure::cpu());
    let work = |thread: u64| {
        let mut dice = Dice::new(seed.wrapping_mul(1_000) + thread);
        let (mut latencies, mut puts) = (Latencies::default(), 0);
        let mut value = vec![0; value_bytes];
        let mut before = Instant::now();
        // Numbers are dealt out in turn, so that threads never meet at a key while loading.
        let mut number = thread;
        while number < count {
            puts += u64::from(operation(&mut dice, number, &mut value));
            let now = Instant::now();
            latencies.add(now - before);
            before = now;
            number += threads;
            if now - begun > limit {
                break;
            }
        }
        (latencies, puts)
    };
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..threads).map(|t| scope.spawn(move || work(t))).collect();
        let (took, cpu) = (Duration::ZERO, Duration::ZERO);
        let mut all = Timed { latencies: Latencies::default(), took, cpu, puts: 0 };
        for thread in running {
            let (latencies, puts) = thread.join().expect("a measured operation succeeds");
            all.latencies.merge(&latencies);
            all.puts += puts;
        }
        all.took = begun.elapsed();
        all.cpu = measure::cpu() - cpu_before;
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_survives_its_line() {
        let outcome = Outcome {
            row: "1 M x 200 B: load, 1 thread".into(),
            rate: 123_456.7,
            micros: [1.5, 20.0, 300.25],
            resident: 1 << 27,
            disk: 1 << 28,
            amplification: 2.5,
            cpu: 3.25,
        };
        assert_eq!(Outcome::parse(&outcome.line()), Some(outcome));
        assert_eq!(Outcome::parse("thread panicked at x"), None);
    }

    #[test]
    fn every_operation_is_done_once_and_the_limit_ends_a_row() {
        let seen = std::sync::Mutex::new(Vec::new());
        let note = |_: &mut Dice, number: u64, _: &mut [u8]| {
            seen.lock().unwrap().push(number);
            number.is_multiple_of(2)
        };
        let done = timed(2, 101, Duration::from_secs(60), 1, 8, &note);
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        assert_eq!((done.latencies.total(), done.puts), (101, 51));
        assert!(seen.into_iter().eq(0..101));
        let slow = |_: &mut Dice, _: u64, _: &mut [u8]| {
            std::thread::sleep(Duration::from_millis(2));
            false
        };
        let done = timed(1, u64::MAX, Duration::from_millis(20), 1, 8, &slow);
        assert!(done.latencies.total() < 20);
    }
}
