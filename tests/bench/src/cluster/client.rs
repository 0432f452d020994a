//! The load generator: one thread, some connections, closed loop (each connection asks again as soon as it is
//! answered) or open loop (requests fall due at random times at a rate, whatever the servers do).
//!
//! In the open loop a latency runs from the time at which the request fell due, not from that at which a
//! connection was free for it: a server that stands still for a second shows as a second (coordinated omission).
//! What fell due and found no connection until the end counts with the time that it had waited by then.
//! A connection that breaks fails what was under way on it and goes on at the next server; nothing is repeated.

use super::protocol::{Protocol, Reply, Request};
use crate::data::{Dice, Values};
use crate::measure::Latencies;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// A request without an answer for so long has failed, and its connection with it.
const PATIENCE: Duration = Duration::from_secs(5);
/// A request that took longer is slow.
pub const SLOW: Duration = Duration::from_millis(100);
/// Between two looks at what only time brings.
const TICK: Duration = Duration::from_millis(50);
/// The slots of a timeline.
const SLOT: Duration = Duration::from_millis(100);

/// Which requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// Puts of every key once, in the order of their numbers.
    Fill,
    /// Puts of random keys.
    Puts,
    /// Gets of random keys.
    Gets,
    /// Half and half.
    Both,
}

/// When requests are made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As soon as a connection is free.
    Closed,
    /// So many in a second, at random times.
    Open(f64),
}

/// What happened to the requests that fell due within one tenth of a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Slot {
    /// Those that failed.
    pub failed: u32,
    /// Those that took longer than [`SLOW`].
    pub slow: u32,
}

/// What one run measured.
#[derive(Default)]
pub struct Measured {
    /// From the first request to the last answer.
    pub took: Duration,
    /// Of all requests that did not fail.
    pub latencies: Latencies,
    /// Requests that succeeded.
    pub done: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that fell due and were never sent.
    pub unsent: u64,
    /// By the time at which they fell due.
    pub slots: Vec<Slot>,
}

impl Measured {
    fn slot(&mut self, due: Duration) -> &mut Slot {
        let at = (due.as_millis() / SLOT.as_millis()) as usize;
        if self.slots.len() <= at {
            self.slots.resize(at + 1, Slot::default());
        }
        &mut self.slots[at]
    }

    fn add(&mut self, due: Duration, latency: Duration, reply: Reply) {
        match reply {
            Reply::Done => {
                self.done += 1;
                self.latencies.add(latency);
            }
            Reply::Failed => {
                self.failed += 1;
                self.slot(due).failed += 1;
            }
        }
        if latency > SLOW {
            self.slot(due).slow += 1;
        }
    }

    /// Seconds in whose tenths a request fell due that failed, and that was slow.
    pub fn bad_seconds(&self) -> (f64, f64) {
        let of = |bad: fn(&Slot) -> u32| self.slots.iter().filter(|slot| bad(slot) > 0).count();
        let tenth = SLOT.as_secs_f64();
        (of(|slot| slot.failed) as f64 * tenth, of(|slot| slot.slow) as f64 * tenth)
    }
}

struct Flight {
    tag: u32,
    due: Instant,
    sent: Instant,
}

struct Link {
    stream: Option<TcpStream>,
    protocol: Box<dyn Protocol>,
    server: usize,
    out: Vec<u8>,
    input: Vec<u8>,
    flights: Vec<Flight>,
}

/// How a client is made.
pub struct Aim {
    /// Where the servers listen.
    pub servers: Vec<SocketAddr>,
    /// Whether connections begin at all servers in turn, or all at the first.
    pub spread: bool,
    /// Connections.
    pub connections: usize,
    /// Requests under way on each at once.
    pub depth: usize,
    /// Keys, numbered from 0.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Speaks to a server on a new connection.
    pub speak: fn(usize) -> Box<dyn Protocol>,
}

/// The connections of a run.
pub struct Client {
    aim: Aim,
    poll: OwnedFd,
    links: Vec<Link>,
    /// A connection stands here as often as it may be asked.
    free: VecDeque<usize>,
    dice: Dice,
    values: Values,
    value: Vec<u8>,
    filled: u64,
    scratch: Vec<u8>,
}

/// One run while it goes on.
struct Run {
    mix: Mix,
    pace: Pace,
    begun: Instant,
    end: Instant,
    due: Instant,
    over: bool,
    measured: Measured,
}

impl Client {
    /// Connects. An error if a server does not take a connection.
    pub fn connect(aim: Aim, seed: u64) -> Result<Self, String> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| format!("epoll: {e}"))?;
        let link = |number: usize| Link {
            stream: None,
            protocol: (aim.speak)(aim.value_bytes),
            server: if aim.spread { number % aim.servers.len() } else { 0 },
            out: Vec::new(),
            input: Vec::new(),
            flights: Vec::new(),
        };
        let mut client = Self {
            poll,
            links: (0..aim.connections).map(link).collect(),
            free: VecDeque::new(),
            dice: Dice::new(seed),
            values: Values::new(aim.value_bytes),
            value: vec![0; aim.value_bytes],
            filled: 0,
            scratch: vec![0; 64 << 10],
            aim,
        };
        for link in 0..client.links.len() {
            client.open(link).map_err(|e| format!("no connection to a server: {e}"))?;
        }
        Ok(client)
    }

    fn open(&mut self, number: usize) -> std::io::Result<()> {
        let link = &mut self.links[number];
        let address = self.aim.servers[link.server];
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_millis(500))?;
        stream.set_nodelay(true)?;
        // Requests are small and read only when something is there: neither call waits, or not for long.
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        link.protocol = (self.aim.speak)(self.aim.value_bytes);
        link.out.clear();
        link.input.clear();
        link.protocol.open(&mut link.out);
        stream.write_all(&link.out)?;
        link.out.clear();
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&self.poll, &stream, data, epoll::EventFlags::IN)?;
        link.stream = Some(stream);
        self.free.extend(std::iter::repeat_n(number, self.aim.depth));
        Ok(())
    }

    /// Makes requests for `time`, or until every key is filled, and waits for their answers. `watch` is called
    /// now and then with the time since the beginning.
    pub fn run(
        &mut self,
        mix: Mix,
        pace: Pace,
        time: Duration,
        watch: &mut dyn FnMut(Duration),
    ) -> Measured {
        let begun = Instant::now();
        let (end, due) = (begun + time, begun);
        let mut run =
            Run { mix, pace, begun, end, due, over: false, measured: Measured::default() };
        let mut events = Vec::with_capacity(self.links.len());
        let mut looked = begun;
        loop {
            let now = Instant::now();
            self.send(&mut run, now);
            if run.over && self.links.iter().all(|link| link.flights.is_empty()) {
                break;
            }
            if now >= looked + TICK {
                looked = now;
                watch(now - begun);
                self.tend(&mut run, now);
            }
            let timeout = self.timeout(&run);
            // An interrupted wait is a short one.
            let _ = epoll::wait(&self.poll, spare_capacity(&mut events), Some(&timeout));
            for event in events.drain(..) {
                self.receive(event.data.u64() as usize, &mut run);
            }
        }
        run.measured.took = begun.elapsed();
        run.measured
    }

    fn timeout(&self, run: &Run) -> Timespec {
        let mut wait = TICK;
        if !run.over && !self.free.is_empty() && matches!(run.pace, Pace::Open(_)) {
            wait = wait.min(run.due.saturating_duration_since(Instant::now()));
        }
        Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) }
    }

    /// Sends what is due as far as connections are free.
    fn send(&mut self, run: &mut Run, now: Instant) {
        let mut asked = Vec::new();
        while !run.over {
            if now >= run.end || (run.mix == Mix::Fill && self.filled == self.aim.keys) {
                self.close(run, now);
                break;
            }
            let due = match run.pace {
                Pace::Closed => now,
                Pace::Open(_) if run.due > now => break,
                Pace::Open(_) => run.due,
            };
            let Some(number) = self.free.pop_front() else { break };
            self.ask(number, run.mix, due, now);
            asked.push(number);
            self.step(run);
        }
        asked.sort_unstable();
        asked.dedup();
        for number in asked {
            self.flush(number, run);
        }
    }

    /// The time at which the next request falls due: gaps of a Poisson process.
    fn step(&mut self, run: &mut Run) {
        if let Pace::Open(rate) = run.pace {
            let gap = -(1.0 - self.dice.unit()).ln() / rate;
            run.due += Duration::from_secs_f64(gap);
        }
    }

    /// No more requests: what fell due and was not sent is counted.
    fn close(&mut self, run: &mut Run, now: Instant) {
        run.over = true;
        while matches!(run.pace, Pace::Open(_)) && run.due < run.end {
            let late = now - run.due;
            run.measured.unsent += 1;
            run.measured.latencies.add(late);
            if late > SLOW {
                run.measured.slot(run.due - run.begun).slow += 1;
            }
            self.step(run);
        }
    }

    fn ask(&mut self, number: usize, mix: Mix, due: Instant, sent: Instant) {
        let put = match mix {
            Mix::Fill | Mix::Puts => true,
            Mix::Gets => false,
            Mix::Both => self.dice.next() & 1 == 0,
        };
        let key = match mix {
            Mix::Fill => self.filled,
            _ => self.dice.below(self.aim.keys),
        };
        self.filled += u64::from(mix == Mix::Fill);
        if put {
            self.values.fill(self.dice.next(), &mut self.value);
            self.value[..8].copy_from_slice(&key.to_be_bytes());
        }
        let link = &mut self.links[number];
        let tag = link.protocol.ask(Request { put, key }, &self.value, &mut link.out);
        link.flights.push(Flight { tag, due, sent });
    }

    fn flush(&mut self, number: usize, run: &mut Run) {
        let link = &mut self.links[number];
        let sent = link.stream.as_mut().is_none_or(|stream| stream.write_all(&link.out).is_ok());
        link.out.clear();
        if !sent {
            self.broken(number, run);
        }
    }

    fn receive(&mut self, number: usize, run: &mut Run) {
        let link = &mut self.links[number];
        let Some(stream) = &mut link.stream else { return };
        let length = match stream.read(&mut self.scratch) {
            Ok(length) if length > 0 => length,
            _ => return self.broken(number, run),
        };
        link.input.extend_from_slice(&self.scratch[..length]);
        let mut replies = Vec::new();
        let Ok(taken) = link.protocol.take(&link.input, &mut link.out, &mut replies) else {
            return self.broken(number, run);
        };
        link.input.drain(..taken);
        let now = Instant::now();
        for (tag, reply) in replies {
            let Some(at) = link.flights.iter().position(|flight| flight.tag == tag) else {
                continue;
            };
            let flight = link.flights.swap_remove(at);
            run.measured.add(flight.due - run.begun, now - flight.due, reply);
            self.free.push_back(number);
        }
        if !link.out.is_empty() {
            self.flush(number, run);
        }
    }

    /// Everything on the connection failed; the next server is tried, at once and at each tick.
    fn broken(&mut self, number: usize, run: &mut Run) {
        let now = Instant::now();
        let link = &mut self.links[number];
        // Closing it takes it out of the poll, too.
        link.stream = None;
        for flight in link.flights.drain(..) {
            run.measured.add(flight.due - run.begun, now - flight.due, Reply::Failed);
        }
        self.free.retain(|free| *free != number);
        self.again(number);
    }

    fn again(&mut self, number: usize) {
        for _ in 0..self.aim.servers.len() {
            let link = &mut self.links[number];
            link.server = (link.server + 1) % self.aim.servers.len();
            if self.open(number).is_ok() {
                return;
            }
        }
    }

    fn tend(&mut self, run: &mut Run, now: Instant) {
        for number in 0..self.links.len() {
            let link = &self.links[number];
            if link.stream.is_none() {
                self.again(number);
            } else if link.flights.iter().any(|flight| now - flight.sent > PATIENCE) {
                self.broken(number, run);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::http1::Http1;
    use super::*;
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// A server that answers every request with 204, and that stands still from `from` on for `pause`.
    fn server(from: Duration, pause: Duration, stop: &Arc<AtomicBool>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (begun, stop) = (Instant::now(), stop.clone());
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let stop = stop.clone();
                std::thread::spawn(move || {
                    let mut bytes = [0; 4_096];
                    while !stop.load(Ordering::Relaxed)
                        && stream.read(&mut bytes).is_ok_and(|length| length > 0)
                    {
                        let since = begun.elapsed();
                        if since >= from && since < from + pause {
                            std::thread::sleep(from + pause - since);
                        }
                        if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").is_err() {
                            break;
                        }
                    }
                });
            }
        });
        address
    }

    fn client(servers: Vec<SocketAddr>) -> Client {
        let speak = |bytes| Box::new(Http1::new(bytes)) as Box<dyn Protocol>;
        let aim = Aim {
            servers,
            spread: true,
            connections: 4,
            depth: 1,
            keys: 100,
            value_bytes: 20,
            speak,
        };
        Client::connect(aim, 1).unwrap()
    }

    #[test]
    fn a_pause_of_the_server_shows_as_long_as_it_was() {
        let (stop, pause) = (Arc::new(AtomicBool::new(false)), Duration::from_millis(500));
        let address = server(Duration::from_millis(300), pause, &stop);
        let time = Duration::from_millis(1_500);
        let measured = client(vec![address]).run(Mix::Puts, Pace::Open(400.0), time, &mut |_| ());
        stop.store(true, Ordering::Relaxed);
        assert_eq!((measured.failed, measured.unsent), (0, 0));
        assert!((450..750).contains(&measured.done), "{}", measured.done);
        // A third of what fell due fell into the pause: a closed loop would have shown four of them.
        assert!(measured.latencies.at(0.999) > 400_000.0, "{}", measured.latencies.at(0.999));
        assert!(measured.latencies.at(0.85) > 100_000.0, "{}", measured.latencies.at(0.85));
        let (failed, slow) = measured.bad_seconds();
        assert!(failed == 0.0 && slow >= 0.3, "{slow}");
    }

    #[test]
    fn every_key_is_filled_once_and_gets_without_a_value_fail() {
        let stop = Arc::new(AtomicBool::new(false));
        let address = server(Duration::ZERO, Duration::ZERO, &stop);
        let mut client = client(vec![address]);
        let minute = Duration::from_secs(60);
        let filled = client.run(Mix::Fill, Pace::Closed, minute, &mut |_| ());
        assert_eq!((filled.done, filled.failed), (100, 0));
        let (time, mut watched) = (Duration::from_millis(200), 0);
        let gets = client.run(Mix::Gets, Pace::Closed, time, &mut |_| watched += 1);
        stop.store(true, Ordering::Relaxed);
        assert!(gets.done == 0 && gets.failed > 0 && gets.bad_seconds().0 >= 0.1);
        assert!(watched > 0);
    }

    #[test]
    fn a_connection_goes_on_at_another_server() {
        let stop = Arc::new(AtomicBool::new(false));
        let well = server(Duration::ZERO, Duration::ZERO, &stop);
        // This one takes connections and closes them at once.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ill = listener.local_addr().unwrap();
        std::thread::spawn(move || while listener.accept().is_ok() {});
        let time = Duration::from_millis(300);
        let measured = client(vec![ill, well]).run(Mix::Puts, Pace::Open(200.0), time, &mut |_| ());
        stop.store(true, Ordering::Relaxed);
        assert!(measured.done > 0 && measured.failed <= 4, "{}", measured.failed);
    }
}
