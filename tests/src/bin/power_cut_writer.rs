//! Writes to a store until its file system loses its power, and says on standard output what is begun
//! and what is acknowledged. Arguments: directory, cycle, durability (`group`, `each` or `periodic`).

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvasir_storage::{Change, Durability, Store};
use kvasir_tests::power::open;
use kvasir_tests::power::script::{Line, Operation, WRITERS};

fn say(line: Line) {
    // One write for one line: the pipe keeps it whole. If nobody listens the test is over.
    if std::io::stdout().lock().write_all(line.text().as_bytes()).is_err() {
        std::process::exit(0);
    }
}

fn write(store: &Store, cycle: u64, writer: u64, durability: Durability) {
    for step in 0.. {
        let operation = Operation::of(cycle, writer, step);
        say(Line::Begun(operation));
        let change = operation.value().map_or(Change::Erase, |value| Change::Put(value.into()));
        let update = store.update(&operation.key(), durability, |_| (change, ()));
        match update.wait().and_then(|applied| applied.durable.wait()) {
            Ok(()) => say(Line::Acknowledged(operation)),
            Err(_) => return,
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, cycle, durability] = &args[..] else {
        eprintln!("power_cut_writer DIR CYCLE group|each|periodic");
        std::process::exit(2);
    };
    let cycle: u64 = cycle.parse().expect("the cycle is a number");
    let durability = match durability.as_str() {
        "group" => Durability::Group,
        "each" => Durability::Each,
        _ => Durability::Periodic,
    };
    let store = open(Path::new(dir), cycle, 2);
    let (begun, over) = (Instant::now(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn({
                    let store = &store;
                    move || write(store, cycle, writer, durability)
                })
            })
            .collect();
        let clock = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                store.tick(begun.elapsed().as_millis() as u64);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        writers.into_iter().for_each(|writer| writer.join().expect("a writer ends"));
        over.store(true, Ordering::Relaxed);
        clock.join().expect("the clock ends");
    });
}
