//! Gossip at 100 and at 1,000 members, in a discrete-event loop of its own: what it costs, how soon
//! a death, a join and a restart are known everywhere, and how often the living are called dead.
//!
//! Only the pure core runs here: every member is a [`Gossip`], time is the head of a queue, messages
//! are events that are delayed by up to 40 ms and lost by a drawn number. `cargo test -p kvasir-core
//! --test gossip_members -- --nocapture` prints the table. `KVASIR_GOSSIP_MEMBER_HOURS` makes the
//! search for false deaths longer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Instant;

use kvasir_core::gossip::{
    Addresses, Body, Entry, Event, Gossip, GossipConfig, Labels, Me, Message, Send, Status, Target,
};
use kvasir_core::id::{ClusterId, NodeId};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// What the frame around a message and the packets around the frame add, rounded up.
const FRAME_BYTES: u64 = 128;
const DELAY_MAX_MS: u64 = 40;
const INTERVAL_MS: u64 = 1_000;

fn id(number: u32) -> NodeId {
    let mut bytes = [1; 16];
    bytes[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
    bytes[4..8].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(bytes)
}

fn address(number: u32) -> String {
    format!("kv-{number}.kv-peers.database.svc.cluster.local:8099")
}

fn gossip(number: u32, boot: u64, nonce: u64, seeds: &[u32]) -> Gossip {
    let me = Me {
        id: id(number),
        boot,
        nonce,
        cluster: ClusterId::from_bytes([7; 16]),
        addresses: Addresses {
            http: address(number).replace("8099", "8098"),
            peer: address(number),
            admin: address(number).replace("8099", "9098"),
        },
        labels: Labels {
            machine: format!("worker-{number}"),
            rack: format!("rack-{}", number % 20),
            zone: format!("zone-{}", number % 3),
            datacenter: "dc1".to_owned(),
            weight: 100,
        },
        version: "0.1.0".to_owned(),
        // As after half a day: counters and marks of the usual length.
        mark: 43_200,
        document: None,
        generation: 0,
    };
    let seeds = seeds.iter().map(|seed| address(*seed)).collect();
    Gossip::new(me, seeds, GossipConfig::default()).expect("the settings are the defaults")
}

enum Happens {
    Tick(u32, u64),
    Arrives(u32, Box<Message>),
}

struct Loop {
    now_ms: u64,
    loss: f64,
    members: BTreeMap<u32, Gossip>,
    starts: BTreeMap<u32, u64>,
    numbers: BTreeMap<NodeId, u32>,
    by_address: BTreeMap<String, u32>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<(u64, u64), Happens>,
    order: u64,
    /// Bytes sent and received by member, while they are counted.
    traffic: Option<BTreeMap<u32, (u64, u64)>>,
    /// Every time that somebody called somebody else down: (when, by whom, whom).
    downs: Vec<(u64, u32, NodeId)>,
    suspicions: u64,
    rng: Xoshiro256PlusPlus,
}

impl Loop {
    /// Members that just heard of each other.
    fn formed(seed: u64, count: u32) -> Self {
        let mut world = Self {
            now_ms: 1_000_000,
            loss: 0.0,
            members: BTreeMap::new(),
            starts: BTreeMap::new(),
            numbers: BTreeMap::new(),
            by_address: BTreeMap::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            order: 0,
            traffic: None,
            downs: Vec::new(),
            suspicions: 0,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
        };
        (0..count).for_each(|number| world.start(number, &[(number + 1) % count]));
        let mut entries: Vec<Entry> = Vec::new();
        for gossip in world.members.values_mut() {
            let hello = gossip.tick(world.now_ms, &mut world.rng).remove(0);
            entries.push(hello.message.sender);
        }
        for (number, gossip) in &mut world.members {
            let sender = entries[usize::from(*number == 0)].clone();
            let (from, body) = (sender.profile.id, Body::Profiles { entries: entries.clone() });
            gossip.receive(world.now_ms, from, Message { sender, body });
            gossip.take_events();
        }
        world
    }

    fn start(&mut self, number: u32, seeds: &[u32]) {
        let boot = *self.starts.entry(number).and_modify(|boot| *boot += 1).or_insert(1);
        self.members.insert(number, gossip(number, boot, self.rng.random(), seeds));
        self.numbers.insert(id(number), number);
        self.by_address.insert(address(number), number);
        let first = self.now_ms + self.rng.random_range(0..INTERVAL_MS);
        self.at(first, Happens::Tick(number, boot));
    }

    fn at(&mut self, when: u64, what: Happens) {
        self.order += 1;
        self.queue.push(Reverse((when, self.order)));
        self.events.insert((when, self.order), what);
    }

    fn run_until(&mut self, end_ms: u64) {
        while let Some(Reverse((when, order))) = self.queue.peek().copied()
            && when <= end_ms
        {
            self.queue.pop();
            let Some(what) = self.events.remove(&(when, order)) else { continue };
            self.now_ms = when;
            match what {
                Happens::Tick(number, boot) => self.tick(number, boot),
                Happens::Arrives(number, message) => self.arrive(number, *message),
            }
        }
        self.now_ms = end_ms;
    }

    fn run(&mut self, seconds: u64) {
        self.run_until(self.now_ms + seconds * 1_000);
    }

    fn tick(&mut self, number: u32, boot: u64) {
        if self.starts.get(&number) != Some(&boot) {
            return;
        }
        let Some(gossip) = self.members.get_mut(&number) else { return };
        let sends = gossip.tick(self.now_ms, &mut self.rng);
        self.notice(number);
        self.post(number, sends);
        // A timer is never exact.
        let next = self.now_ms + INTERVAL_MS + self.rng.random_range(0..10);
        self.at(next, Happens::Tick(number, boot));
    }

    fn arrive(&mut self, number: u32, message: Message) {
        if !self.members.contains_key(&number) {
            return;
        }
        if let Some(traffic) = &mut self.traffic {
            traffic.entry(number).or_default().1 += size(&message);
        }
        let Some(gossip) = self.members.get_mut(&number) else { return };
        let sends = gossip.receive(self.now_ms, message.sender.profile.id, message);
        self.notice(number);
        self.post(number, sends);
    }

    fn post(&mut self, from: u32, sends: Vec<Send>) {
        for Send { to, message } in sends {
            if let Some(traffic) = &mut self.traffic {
                traffic.entry(from).or_default().0 += size(&message);
            }
            let to = match &to {
                Target::Node(id) => self.numbers.get(id),
                Target::Address(address) => self.by_address.get(address),
            };
            let Some(&to) = to else { continue };
            if self.loss > 0.0 && self.rng.random_bool(self.loss) {
                continue;
            }
            let when = self.now_ms + 1 + self.rng.random_range(0..DELAY_MAX_MS);
            self.at(when, Happens::Arrives(to, Box::new(message)));
        }
    }

    fn notice(&mut self, number: u32) {
        let Some(gossip) = self.members.get_mut(&number) else { return };
        for event in gossip.take_events() {
            match event {
                Event::Changed { id, to: Status::Down, .. } => {
                    self.downs.push((self.now_ms, number, id));
                }
                Event::Changed { to: Status::Suspect, .. } => self.suspicions += 1,
                _ => {}
            }
        }
    }

    /// Seconds until `holds` at every member, looked at ten times a second.
    fn seconds_until(&mut self, limit: u64, holds: impl Fn(u32, &Gossip) -> bool) -> f64 {
        let begun = self.now_ms;
        while self.now_ms < begun + limit * 1_000 {
            if self.members.iter().all(|(number, gossip)| holds(*number, gossip)) {
                break;
            }
            self.run_until(self.now_ms + 100);
        }
        (self.now_ms - begun) as f64 / 1_000.0
    }
}

fn size(message: &Message) -> u64 {
    let bytes = postcard::to_stdvec(message).expect("a message encodes");
    bytes.len() as u64 + FRAME_BYTES
}

/// Runs all of it for one size, prints the row of the table, and holds it to what is promised.
fn measure(count: u32, member_hours: u64) {
    let begun = Instant::now();
    let mut world = Loop::formed(u64::from(count), count);
    world.run(30);
    world.traffic = Some(BTreeMap::new());
    world.run(5);
    let traffic = world.traffic.take().unwrap_or_default();
    let per_second = |bytes: u64| bytes as f64 / 5.0 / 1_000.0;
    let both: u64 = traffic.values().map(|(out, inn)| out + inn).sum();
    let mean = per_second(both) / f64::from(count);
    let most = traffic.values().map(|(out, _)| per_second(*out)).fold(0.0, f64::max);

    let (mut death, mut back) = (0_f64, 0_f64);
    for victim in [3, count / 2] {
        world.members.remove(&victim);
        let of = id(victim);
        let down = |_: u32, g: &Gossip| g.status_of(of) == Some(Status::Down);
        death = death.max(world.seconds_until(60, down));
        world.start(victim, &[1, 2]);
        let up = |at: u32, g: &Gossip| at == victim || g.status_of(of) == Some(Status::Alive);
        back = back.max(world.seconds_until(60, up));
    }
    let newcomer = count + 1;
    world.start(newcomer, &[1, 2]);
    let knows = |_: u32, g: &Gossip| g.status_of(id(newcomer)) == Some(Status::Alive);
    let join = world.seconds_until(60, knows);
    world.run(5);
    assert_eq!(world.members[&newcomer].members(world.now_ms).len(), count as usize + 1);

    world.downs.clear();
    world.suspicions = 0;
    world.loss = 0.05;
    let seconds = member_hours * 3_600 / u64::from(count);
    // A long search says how far it has come.
    for part in 1..=10 {
        world.run(seconds * part / 10 - seconds * (part - 1) / 10);
        if member_hours > 500 {
            let (done, downs) = (member_hours * part / 10, world.downs.len());
            let (suspicions, took) = (world.suspicions, begun.elapsed().as_secs());
            println!(
                "{done} member-hours: {downs} calls of death, {suspicions} suspicions, {took} s"
            );
        }
    }
    let hours = (seconds * u64::from(count)) as f64 / 3_600.0;
    let mut dead: Vec<NodeId> = world.downs.iter().map(|(_, _, whom)| *whom).collect();
    dead.sort_unstable();
    dead.dedup();
    let title = format!(
        "{count} members: {} suspicions in {hours:.0} member-hours at 5 % loss, took {:.0} s",
        world.suspicions,
        begun.elapsed().as_secs_f64(),
    );
    let allowed = (hours / 1_000.0).floor();
    let rows = [
        ("KB/s a node, sent and received", mean, 50.0),
        ("KB/s sent by the node that sends most", most, 50.0),
        ("seconds until a death is known everywhere", death, 15.0),
        ("seconds until a join is known everywhere", join, 15.0),
        ("seconds until a restart is known everywhere", back, 15.0),
        ("living members called dead at 5 % loss", dead.len() as f64, allowed),
    ];
    let broken = judge(&title, &rows);
    assert!(broken.is_empty(), "not kept: {broken:?}; called dead: {:?}", world.downs);
}

/// Prints what was seen beside what is promised; the rows that are above it.
fn judge<'a>(title: &str, rows: &[(&'a str, f64, f64)]) -> Vec<&'a str> {
    let mut table = format!("{title}\n{:<44} {:>8} {:>8}", "", "seen", "at most");
    let mut broken = Vec::new();
    for (what, seen, most) in rows {
        let kept = seen <= most;
        let verdict = if kept { "" } else { "  BROKEN" };
        table += &format!("\n{what:<44} {seen:>8.1} {most:>8.1}{verdict}");
        broken.extend((!kept).then_some(*what));
    }
    println!("{table}");
    broken
}

fn member_hours(default: u64) -> u64 {
    let asked = std::env::var("KVASIR_GOSSIP_MEMBER_HOURS").ok();
    asked.map_or(default, |hours| hours.parse().expect("a number of hours"))
}

#[test]
fn a_hundred_members() {
    measure(100, member_hours(500));
}

#[test]
fn a_thousand_members() {
    measure(1_000, member_hours(5));
}
