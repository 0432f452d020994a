//! A network of gossiping nodes in virtual time: one second a step, messages lost, delayed and
//! cut by a rule, everything drawn from one seed.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::gossip::*;
use crate::id::{ClusterId, NodeId};

pub const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

/// The node id of a number.
pub fn node(number: u32) -> NodeId {
    let mut bytes = [1; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    // Spread over the order of ids, as drawn ids are.
    bytes[4..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
    NodeId::from_bytes(bytes)
}

/// What the node of a number says of itself at a boot.
pub fn me(number: u32, boot: u64, nonce: u64) -> Me {
    Me {
        id: node(number),
        boot,
        nonce,
        cluster: CLUSTER,
        addresses: Addresses {
            http: format!("n{number}.kvasir.example:8098"),
            peer: format!("n{number}.kvasir.example:8099"),
            admin: format!("n{number}.kvasir.example:9098"),
        },
        labels: Labels {
            machine: format!("worker-{number}"),
            rack: format!("rack-{}", number % 20),
            zone: format!("zone-{}", number % 3),
            datacenter: "dc1".to_owned(),
            weight: 100,
        },
        version: "0.1.0".to_owned(),
        mark: 0,
        document: None,
        generation: 0,
    }
}

type Rule = Box<dyn Fn(u32, u32) -> bool>;

pub struct Network {
    pub now_ms: u64,
    pub loss: f64,
    pub delay_max_ms: u64,
    pub cluster: ClusterId,
    pub boots: BTreeMap<u32, u64>,
    /// Every event with the place where it was told.
    pub events: Vec<(u32, Event)>,
    config: GossipConfig,
    places: BTreeMap<u32, Gossip>,
    paused: BTreeSet<u32>,
    passes: Rule,
    by_address: BTreeMap<String, u32>,
    /// (when, order, from, to, message)
    flying: BTreeMap<(u64, u64), (u32, u32, Message)>,
    order: u64,
    rng: Xoshiro256PlusPlus,
}

impl Network {
    pub fn new(seed: u64, config: GossipConfig) -> Self {
        Self {
            now_ms: 1_000_000,
            loss: 0.0,
            delay_max_ms: 40,
            cluster: CLUSTER,
            boots: BTreeMap::new(),
            events: Vec::new(),
            config,
            places: BTreeMap::new(),
            paused: BTreeSet::new(),
            passes: Box::new(|_, _| true),
            by_address: BTreeMap::new(),
            flying: BTreeMap::new(),
            order: 0,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
        }
    }

    /// A network in which everyone has just heard of everyone.
    pub fn formed(seed: u64, size: u32, config: GossipConfig) -> Self {
        let mut net = Self::new(seed, config);
        (0..size).for_each(|number| net.start(number, &[]));
        for (number, gossip) in &mut net.places {
            // As after a day or so: counters and marks have their usual length.
            gossip.pulse.counter = 50_000 + u64::from(*number) * 131 % 70_000;
            gossip.set_mark(gossip.pulse.counter + u64::from(*number) % 50);
            gossip.beat();
        }
        let entries: Vec<Entry> = net.places.values().map(Gossip::my_entry).collect();
        for gossip in net.places.values_mut() {
            let other = entries.iter().find(|entry| entry.profile.id != gossip.me.id).unwrap();
            let body = Body::Profiles { entries: entries.clone() };
            let message = Message { sender: other.clone(), body };
            gossip.receive(net.now_ms, other.profile.id, message);
            gossip.take_events();
        }
        net
    }

    pub fn start(&mut self, number: u32, seeds: &[u32]) {
        let boot = self.boots.entry(number).or_default();
        *boot += 1;
        let boot = *boot;
        self.start_at(number, number, boot, seeds);
    }

    /// A copy of the volume of `of`, at its boot, running at another place.
    pub fn start_copy(&mut self, place: u32, of: u32, boot: u64) {
        self.start_at(place, of, boot, &[0, 1]);
    }

    fn start_at(&mut self, place: u32, number: u32, boot: u64, seeds: &[u32]) {
        let mut me = Me { cluster: self.cluster, ..me(number, boot, self.rng.random()) };
        me.addresses.peer = format!("n{place}.kvasir.example:8099");
        self.by_address.insert(me.addresses.peer.clone(), place);
        let seeds = seeds.iter().map(|seed| format!("n{seed}.kvasir.example:8099")).collect();
        self.places.insert(place, Gossip::new(me, seeds, self.config.clone()).unwrap());
    }

    pub fn kill(&mut self, place: u32) {
        self.places.remove(&place);
    }

    pub fn leave(&mut self, place: u32) {
        let mut gossip = self.places.remove(&place).unwrap();
        let sends = gossip.leave(self.now_ms, &mut self.rng);
        self.places.insert(place, gossip);
        self.post(place, sends);
        self.places.remove(&place);
    }

    pub fn pause(&mut self, place: u32, paused: bool) {
        if paused {
            self.paused.insert(place)
        } else {
            self.paused.remove(&place)
        };
    }

    pub fn partition(&mut self, passes: impl Fn(u32, u32) -> bool + 'static) {
        self.passes = Box::new(passes);
    }

    pub fn heal(&mut self) {
        self.partition(|_, _| true);
    }

    pub fn gossip(&mut self, place: u32) -> &mut Gossip {
        self.places.get_mut(&place).unwrap()
    }

    pub fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.step();
        }
    }

    /// Seconds until `done` holds, at most `limit`.
    pub fn seconds_until(&mut self, limit: u64, done: impl Fn(&Self) -> bool) -> u64 {
        for second in 0..limit {
            if done(self) {
                return second;
            }
            self.step();
        }
        limit
    }

    /// One interval: every node ticks at its own moment of it, messages arrive in between.
    fn step(&mut self) {
        let end = self.now_ms + self.config.interval_ms;
        let mut moments: Vec<(u64, u32)> = Vec::with_capacity(self.places.len());
        for &place in self.places.keys() {
            let offset = u64::from(place.wrapping_mul(0x9e37_79b9)) % self.config.interval_ms;
            moments.push((self.now_ms + offset, place));
        }
        moments.sort_unstable();
        for (moment, place) in moments {
            self.deliver_until(moment);
            if self.paused.contains(&place) {
                continue;
            }
            if let Some(gossip) = self.places.get_mut(&place) {
                let sends = gossip.tick(moment, &mut self.rng);
                self.collect(place);
                self.post(place, sends);
            }
        }
        self.deliver_until(end);
        self.now_ms = end;
    }

    fn deliver_until(&mut self, moment: u64) {
        while let Some(entry) = self.flying.first_entry()
            && entry.key().0 <= moment
        {
            let ((at, _), (from, to, message)) = entry.remove_entry();
            if self.paused.contains(&to) {
                // It waits in the socket until the process goes on.
                self.order += 1;
                self.flying.insert((moment + 100, self.order), (from, to, message));
                continue;
            }
            let Some(gossip) = self.places.get_mut(&to) else { continue };
            let answers = gossip.receive(at, message.sender.profile.id, message);
            self.collect(to);
            self.post_at(at, to, answers);
        }
    }

    fn collect(&mut self, place: u32) {
        if let Some(gossip) = self.places.get_mut(&place) {
            self.events.extend(gossip.take_events().into_iter().map(|event| (place, event)));
        }
    }

    fn post(&mut self, from: u32, sends: Vec<Send>) {
        self.post_at(self.now_ms, from, sends);
    }

    fn post_at(&mut self, now_ms: u64, from: u32, sends: Vec<Send>) {
        for send in sends {
            let address = match &send.to {
                Target::Address(address) => address.clone(),
                Target::Node(id) => match self.places[&from].peer_address(*id) {
                    Some(address) => address.to_owned(),
                    None => continue,
                },
            };
            let Some(&to) = self.by_address.get(&address) else { continue };
            if !(self.passes)(from, to) || self.rng.random_bool(self.loss) {
                continue;
            }
            let at = now_ms + 1 + self.rng.random_range(0..self.delay_max_ms);
            self.order += 1;
            self.flying.insert((at, self.order), (from, to, send.message));
        }
    }

    pub fn status(&self, at: u32, of: u32) -> Option<Status> {
        self.places[&at].status_of(node(of))
    }

    pub fn peer_address(&self, at: u32, of: u32) -> Option<String> {
        self.places[&at].peer_address(node(of)).map(str::to_owned)
    }

    pub fn views(&self, at: u32) -> Vec<MemberView> {
        self.places[&at].members(self.now_ms)
    }

    pub fn everyone_knows(&self, size: usize) -> bool {
        self.places.values().all(|gossip| gossip.members.len() + 1 == size)
    }

    /// Whether every running node holds every running node for this.
    pub fn everyone_sees(&self, status: Status) -> bool {
        self.places.keys().all(|&at| {
            self.places.keys().all(|&of| at == of || self.status(at, of) == Some(status))
        })
    }

    /// Whether all running nodes other than `of` know it, with a status for which `wanted` holds.
    pub fn all_others_see(&self, of: u32, wanted: impl Fn(Status) -> bool) -> bool {
        self.places.keys().all(|&at| at == of || self.status(at, of).is_some_and(&wanted))
    }

    /// Whether `wanted` holds for the view of `of` at all running nodes other than it.
    pub fn all_views(&self, of: u32, wanted: impl Fn(&MemberView) -> bool) -> bool {
        let others = self.places.keys().filter(|at| **at != of);
        others.into_iter().all(|&at| {
            self.views(at).iter().any(|view| view.id == node(of) && !view.me && wanted(view))
        })
    }

    /// How often any node changed its mind about any other to this.
    pub fn changes_to(&self, status: Status) -> usize {
        let to = |e: &Event| matches!(e, Event::Changed { to, .. } if *to == status);
        self.events.iter().filter(|(_, event)| to(event)).count()
    }
}
