//! Gossip over an in-memory network with loss, delay, partitions and restarts, all from one seed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::id::{ClusterId, NodeId};

mod network;
mod probes;

use network::{Network, me, node};

#[test]
fn five_fifty_and_two_hundred_learn_everything_in_logarithmic_time() {
    for size in [5_u32, 50, 200] {
        let mut net = Network::new(u64::from(size), GossipConfig::default());
        for number in 0..size {
            net.start(number, &[0]);
        }
        let rounds = net.seconds_until(60, |net| net.everyone_knows(size as usize));
        let bound = 4 + 2 * size.ilog2() as u64;
        println!("{size} members: everyone knows everyone after {rounds} s (bound {bound})");
        assert!(rounds <= bound, "{size} members took {rounds} s");
        net.run(10);
        assert!(net.everyone_sees(Status::Alive), "{size} members");
    }
}

#[test]
fn a_death_is_seen_by_all_within_a_bound() {
    for (size, bound) in [(3, 12), (5, 12), (50, 14), (200, 15)] {
        let mut net = Network::formed(7, size, GossipConfig::default());
        net.run(60);
        net.kill(1);
        let suspected = net.seconds_until(60, |net| net.all_others_see(1, |s| s != Status::Alive));
        let down = net.seconds_until(60, |net| net.all_others_see(1, |s| s == Status::Down));
        println!("{size} members: suspected by all after {suspected} s, down {down} s later");
        assert!(suspected + down <= bound, "{size} members took {} s", suspected + down);
        net.run(30);
        assert!(net.all_others_see(1, |status| status == Status::Down));
        assert_eq!(net.changes_to(Status::Down), size as usize - 1, "nobody else was called down");
    }
}

#[test]
fn a_fifth_of_the_messages_lost_calls_nobody_down() {
    for (seed, size) in [(1, 3), (2, 3), (3, 5), (4, 12), (5, 50)] {
        let mut net = Network::formed(seed, size, GossipConfig::default());
        net.loss = 0.2;
        net.run(600);
        assert_eq!(net.changes_to(Status::Down), 0, "{size} members, seed {seed}");
        println!("{size} members: {} suspicions in 600 s", net.changes_to(Status::Suspect));
    }
}

#[test]
fn a_restarted_member_is_alive_at_once_and_a_stopped_one_down_at_once() {
    let mut net = Network::formed(11, 20, GossipConfig::default());
    net.run(30);
    net.leave(4);
    let down = net.seconds_until(20, |net| net.all_others_see(4, |s| s == Status::Down));
    assert!(down <= 4, "a clean stop took {down} s to be known");
    net.start(4, &[0]);
    let alive = net.seconds_until(20, |net| net.all_others_see(4, |s| s == Status::Alive));
    assert!(alive <= 6, "a restart took {alive} s to be known");
    assert!(net.all_views(4, |view| view.heartbeat.boot == 2));
    net.kill(4);
    net.run(3);
    net.start(4, &[0]);
    let boots = net.seconds_until(20, |net| net.all_views(4, |view| view.heartbeat.boot == 3));
    assert!(boots <= 6, "a quick restart took {boots} s to be known");
}

#[test]
fn two_halves_find_each_other_again() {
    let mut net = Network::formed(13, 10, GossipConfig::default());
    net.run(30);
    let half: BTreeSet<u32> = (0..5).collect();
    net.partition(move |from, to| half.contains(&from) == half.contains(&to));
    net.run(60);
    assert!(net.all_others_see(9, |_| true));
    assert_eq!(net.status(0, 9), Some(Status::Down));
    assert_eq!(net.status(9, 0), Some(Status::Down));
    net.heal();
    let healed = net.seconds_until(60, |net| net.everyone_sees(Status::Alive));
    println!("healed after {healed} s");
    assert!(healed <= 10, "healing took {healed} s");
}

#[test]
fn a_deaf_member_and_a_mute_link_do_not_flap() {
    // Member 0 hears nobody, but everybody hears it.
    let mut net = Network::formed(17, 6, GossipConfig::default());
    net.run(30);
    net.partition(|_, to| to != 0);
    net.run(300);
    assert!(net.all_others_see(0, |status| status == Status::Alive));
    assert!((1..6).all(|other| net.status(0, other) == Some(Status::Down)));
    assert_eq!(net.changes_to(Status::Down), 5, "only the deaf one changed its mind, once each");
    let refutations: u32 = net.views(0).iter().map(|view| view.heartbeat.refutation).sum();
    assert!(refutations <= 6, "{refutations} refutations against beliefs that never change");
    // One link works in one direction only: the rest of the cluster carries the heartbeats.
    let mut net = Network::formed(18, 6, GossipConfig::default());
    net.run(30);
    net.partition(|from, to| !(from == 0 && to == 1));
    net.run(300);
    assert_eq!(net.changes_to(Status::Down), 0);
}

#[test]
fn a_member_that_hears_itself_accused_answers() {
    let mut net = Network::formed(19, 5, GossipConfig::default());
    net.run(30);
    net.partition(|from, _| from != 2);
    net.run(20);
    assert!(net.all_others_see(2, |status| status == Status::Down));
    let me = net.views(2).into_iter().find(|view| view.me).unwrap();
    assert_eq!(me.heartbeat.refutation, 1, "it hears, so it answered once");
    net.heal();
    assert!(net.seconds_until(10, |net| net.all_others_see(2, |s| s == Status::Alive)) <= 4);
    assert!(net.all_views(2, |view| view.heartbeat.refutation >= 1));
}

#[test]
fn a_paused_node_does_not_hold_the_others_for_dead() {
    let mut net = Network::formed(23, 5, GossipConfig::default());
    net.run(30);
    net.pause(3, true);
    net.run(60);
    assert!(net.all_others_see(3, |status| status == Status::Down));
    net.pause(3, false);
    net.run(5);
    assert!(net.everyone_sees(Status::Alive));
    let events = net.events.iter().filter(|(at, _)| *at == 3);
    let mistakes = events.filter(|(_, e)| matches!(e, Event::Changed { to: Status::Down, .. }));
    assert_eq!(mistakes.count(), 0);
}

#[test]
fn other_clusters_are_refused_and_blank_nodes_are_known() {
    let mut net = Network::formed(29, 3, GossipConfig::default());
    net.run(5);
    net.cluster = ClusterId::from_bytes([9; 16]);
    net.start(7, &[0]);
    net.cluster = ClusterId::nil();
    net.start(8, &[0]);
    net.run(20);
    assert_eq!(net.status(0, 7), None);
    assert_eq!(net.status(7, 0), None);
    assert_eq!(net.status(1, 8), Some(Status::Alive));
    assert_eq!(net.status(8, 2), Some(Status::Alive));
    assert!(net.gossip(0).counters().refused[&Refusal::Foreign] > 0);
    let told = net.events.iter().filter(|(at, e)| *at == 0 && matches!(e, Event::Foreign { .. }));
    assert_eq!(told.count(), 1);
    net.kill(7);
    // Joining: the blank node becomes one of the cluster.
    net.gossip(8).set_cluster(network::CLUSTER);
    net.run(10);
    assert!(net.all_views(8, |view| view.cluster == network::CLUSTER));
}

#[test]
fn a_copied_volume_is_told_of() {
    let mut net = Network::formed(31, 4, GossipConfig::default());
    net.run(10);
    // The same id and boot at another place: a copied volume.
    net.start_copy(20, 2, 1);
    net.run(20);
    let cloned = |net: &Network, id| {
        let named = |e: &Event| matches!(e, Event::Cloned { id: named, .. } if *named == node(id));
        net.events.iter().filter(|(_, e)| named(e)).map(|(at, _)| *at).collect::<BTreeSet<_>>()
    };
    assert!(cloned(&net, 2).len() >= 2, "others noticed");
    let own =
        |at| move |(who, e): &&(u32, Event)| *who == at && matches!(e, Event::OwnIdInUse { .. });
    assert!(
        net.events.iter().filter(own(2)).count() + net.events.iter().filter(own(20)).count() > 0
    );
    // An older start of a node that goes on beating beside the newer one.
    let mut net = Network::formed(32, 4, GossipConfig::default());
    net.kill(2);
    net.start(2, &[0]);
    net.run(10);
    net.start_copy(20, 2, 1);
    net.run(30);
    assert!(!cloned(&net, 2).is_empty(), "others noticed");
    assert!(net.events.iter().any(|event| own(20)(&event)), "the older one was told");
}

#[test]
fn of_two_processes_with_one_id_and_boot_exactly_one_goes_on() {
    let mut net = Network::formed(35, 4, GossipConfig::default());
    net.run(10);
    net.start_copy(20, 2, 1);
    net.run(60);
    let twin =
        |at: u32| net.events.iter().any(|(who, e)| *who == at && matches!(e, Event::Twin { .. }));
    let (left, right) = (twin(2), twin(20));
    assert!(left != right, "the process that is not listed is told, the other is not");
    let (listed, other) = if left { (20, 2) } else { (2, 20) };
    let address = format!("n{listed}.kvasir.example:8099");
    assert!((0..2).all(|at| net.peer_address(at, 2) == Some(address.clone())));
    assert_eq!(net.gossip(other).twin(), Some((1, address.as_str())));
    assert_eq!(net.gossip(listed).twin(), None);
    let refused = net.gossip(0).counters().refused.get(&Refusal::Superseded).copied();
    assert!(refused.unwrap_or(0) + net.gossip(1).counters().refused[&Refusal::Superseded] > 0);
    assert_eq!(net.gossip(other).counters().alarms[&Alarm::Twin], 1);
}

#[test]
fn a_memory_of_a_later_start_is_no_twin() {
    let mut net = Network::formed(36, 5, GossipConfig::default());
    net.kill(2);
    net.start(2, &[0]);
    net.run(10);
    net.kill(2);
    net.boots.insert(2, 0);
    net.start(2, &[0]);
    net.run(60);
    let told = |wanted: fn(&Event) -> bool| net.events.iter().any(|(at, e)| *at == 2 && wanted(e));
    assert!(told(|e| matches!(e, Event::OwnIdInUse { boot: 2, .. })));
    assert!(!told(|e| matches!(e, Event::Twin { .. })), "nobody beats there any more");
}

#[test]
fn a_restart_alone_is_no_copy() {
    let mut net = Network::formed(33, 5, GossipConfig::default());
    net.delay_max_ms = 1_500;
    for round in 0..5 {
        net.run(10);
        net.kill(round % 5);
        net.start(round % 5, &[0, 1]);
    }
    net.run(20);
    let told = |e: &Event| matches!(e, Event::Cloned { .. } | Event::OwnIdInUse { .. });
    assert!(!net.events.iter().any(|(_, event)| told(event)));
    assert!(net.everyone_sees(Status::Alive));
}

#[test]
fn a_rolled_back_boot_is_raised_above_the_remembered_one() {
    let mut net = Network::formed(34, 3, GossipConfig::default());
    for _ in 0..3 {
        net.kill(2);
        net.start(2, &[0]);
    }
    net.run(10);
    net.kill(2);
    net.boots.insert(2, 1);
    net.start(2, &[0]);
    net.run(5);
    let heard = net.events.iter().find_map(|(at, event)| match event {
        Event::OwnIdInUse { boot, .. } if *at == 2 => Some(*boot),
        _ => None,
    });
    assert_eq!(heard, Some(4));
    net.gossip(2).adopt_boot(5);
    net.run(5);
    assert!(net.all_views(2, |view| view.heartbeat.boot == 5 && view.status == Status::Alive));
}

#[test]
fn marks_are_remembered_and_a_mark_behind_is_told_of() {
    let mut net = Network::formed(37, 3, GossipConfig::default());
    net.gossip(2).set_mark(500_000);
    net.run(10);
    assert_eq!(net.gossip(0).remembered_mark(node(2)), Some(500_000));
    net.kill(2);
    net.start(2, &[0]);
    net.run(10);
    let told = net.events.iter().find_map(|(_, event)| match event {
        Event::MarkBehind { id, heard, remembered } => Some((*id, *heard, *remembered)),
        _ => None,
    });
    assert_eq!(told, Some((node(2), 0, 500_000)));
    assert_eq!(net.gossip(0).remembered_mark(node(2)), Some(500_000), "never lowered");
    assert!(net.all_views(2, |view| view.mark == 0 && view.remembered_mark == 500_000));
    net.gossip(0).remember_marks([(node(2), 400_000), (node(9), 7)]);
    assert_eq!(net.gossip(0).remembered_marks()[&node(2)], 500_000);
    assert_eq!(net.gossip(0).remembered_mark(node(9)), Some(7));
}

#[test]
fn documents_and_generations_spread() {
    let mut net = Network::formed(41, 8, GossipConfig::default());
    net.run(5);
    assert_eq!(net.gossip(3).newest_document(), None);
    let newer = DocumentId { epoch: 3, hash: [3; 32] };
    net.gossip(5).set_document(Some(newer));
    net.gossip(5).set_generation(9);
    net.run(8);
    assert_eq!(net.gossip(3).newest_document(), Some((newer, vec![node(5)])));
    assert!(net.all_views(5, |view| view.generation == 9 && view.document == Some(newer)));
}

#[test]
fn the_dead_are_forgotten_everywhere_unless_the_document_names_them() {
    let config = GossipConfig { forget_after_ms: 60_000, ..GossipConfig::default() };
    let mut net = Network::formed(43, 8, config);
    net.run(10);
    for number in 0..8 {
        net.gossip(number).pin(BTreeSet::from([node(6)]));
    }
    net.kill(6);
    net.kill(7);
    net.run(120);
    net.start(9, &[0]);
    net.run(20);
    for number in [0, 1, 2, 3, 4, 5] {
        assert_eq!(net.status(number, 6), Some(Status::Down));
        assert_eq!(net.status(number, 7), None, "at {number}");
        assert_eq!(net.gossip(number).remembered_mark(node(7)), None);
    }
    assert_eq!(net.status(9, 7), None, "a newcomer does not bring it back");
}

#[test]
fn everything_that_grows_is_bounded() {
    let config = GossipConfig { members_max: 8, ..GossipConfig::default() };
    let mut small = Gossip::new(me(0, 1, 0), vec![], config).unwrap();
    for number in 1..50 {
        let mut other =
            Gossip::new(me(number, 1, 0), vec!["n0:1".into()], GossipConfig::default()).unwrap();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        for send in other.tick(0, &mut rng) {
            small.receive(0, node(number), send.message);
        }
    }
    assert_eq!(small.members(0).len(), 9);
    assert_eq!(small.counters().refused[&Refusal::Full], 41);
    small.pin(BTreeSet::from([node(70)]));
    let pinned = Gossip::new(me(70, 1, 0), vec![], GossipConfig::default()).unwrap();
    small.receive(0, node(70), pinned.message(Body::Want { tags: vec![] }));
    assert_eq!(small.status_of(node(70)), Some(Status::Alive));
}

#[test]
fn bad_messages_are_refused_and_counted() {
    let mut gossip = Gossip::new(me(0, 1, 0), vec![], GossipConfig::default()).unwrap();
    let other = Gossip::new(me(1, 1, 0), vec![], GossipConfig::default()).unwrap();
    let list = |standings: usize, rows: &'static [u8]| {
        other.message(Body::List {
            part: Part::All,
            standings: vec![Standing::default(); standings],
            rows: bytes::Bytes::from_static(rows),
        })
    };
    gossip.receive(0, node(2), list(0, b""));
    assert_eq!(gossip.counters().refused[&Refusal::NotItsSender], 1);
    assert_eq!(gossip.status_of(node(1)), None);
    gossip.receive(0, node(1), list(0, b"garbage"));
    gossip.receive(0, node(1), list(0, b"\x00tagtag\x01\x02"));
    assert_eq!(gossip.counters().refused[&Refusal::Malformed], 2, "a standing that is not there");
    gossip.receive(0, node(1), list(65, b""));
    gossip.receive(0, node(1), other.message(Body::Want { tags: vec![Tag([0; 6]); 257] }));
    assert_eq!(gossip.counters().refused[&Refusal::Oversize], 2);
    let mut long = me(3, 1, 0);
    long.labels.machine = "m".repeat(256);
    assert!(Gossip::new(long, vec![], GossipConfig::default()).is_err());
    assert_eq!(gossip.status_of(node(1)), Some(Status::Alive));
}

#[test]
fn messages_stay_within_their_size() {
    const ROOM: usize = 10 * 1024;
    let mut net = Network::formed(47, 300, GossipConfig::default());
    net.gossip(0).config.message_max_bytes = ROOM;
    net.gossip(1).config.message_max_bytes = ROOM;
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(2);
    let now = net.now_ms;
    let sends = net.gossip(0).tick(now, &mut rng);
    assert!(matches!(&sends[0].message.body, Body::List { part: Part::Some, .. }));
    let tags = net.gossip(1).by_tag.iter().take(256).map(|place| place.tag).collect();
    let asker = Gossip::new(me(5_000, 1, 0), vec![], GossipConfig::default()).unwrap();
    let answers = net.gossip(1).receive(now, node(5_000), asker.message(Body::Want { tags }));
    assert!(answers.len() > 1);
    for send in answers.into_iter().chain(sends) {
        let bytes = postcard::to_stdvec(&send.message).unwrap();
        assert!(bytes.len() <= send.message.size_bound());
        assert!(bytes.len() <= ROOM, "{} bytes", bytes.len());
        assert_eq!(postcard::from_bytes::<Message>(&bytes).unwrap(), send.message);
    }
}

/// What a node holds of each member, as far as merging decides it.
fn held(gossip: &Gossip) -> BTreeMap<NodeId, (Profile, Pulse)> {
    let pick = |m: &super::member::Member| (m.profile.id, (Profile::clone(&m.profile), m.pulse));
    gossip.members.iter().map(pick).collect()
}

/// A member at some point of its life: what it says is a function of (boot, revision, counter).
fn entry(number: u32, boot: u64, revision: u32, refutation: u32, counter: u64) -> Entry {
    let of = me(number, boot, 0);
    let mut gossip = Gossip::new(of, vec![], GossipConfig::default()).unwrap();
    for step in 0..revision {
        let peer = format!("n{number}-{boot}-{step}:1");
        gossip.set_addresses(Addresses { peer, ..Addresses::default() }).unwrap();
    }
    let mark = boot * 100 + counter;
    let pulse = Pulse { refutation, counter, mark, ..Pulse::default() };
    Entry { pulse, ..gossip.my_entry() }
}

prop_compose! {
    fn entries()(
        raw in prop::collection::vec((1_u32..4, 1_u64..3, 0_u32..3, 0_u32..2, 0_u64..5), 1..12)
    ) -> Vec<Entry> {
        raw.into_iter().map(|(n, b, r, f, c)| entry(n, b, r, f, c)).collect()
    }
}

proptest! {
    /// Whatever the order, the doubling and the grouping into messages, the same is held in the
    /// end: of each member the newest profile and the largest heartbeat.
    #[test]
    fn taking_the_larger_is_commutative_and_idempotent(
        entries in entries(), seed: u64, again in 0_usize..12,
    ) {
        let fresh = || Gossip::new(me(0, 1, 0), vec![], GossipConfig::default()).unwrap();
        let messenger = Gossip::new(me(99, 1, 0), vec![], GossipConfig::default()).unwrap();
        let take = |gossip: &mut Gossip, list: &[Entry]| {
            let body = Body::Profiles { entries: list.to_vec() };
            gossip.receive(0, node(99), messenger.message(body));
        };
        let mut in_order = fresh();
        take(&mut in_order, &entries);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut shuffled = entries.clone();
        for place in (1..shuffled.len()).rev() {
            shuffled.swap(place, rng.random_range(0..=place));
        }
        shuffled.push(entries[again % entries.len()].clone());
        let mut one_by_one = fresh();
        for entry in &shuffled {
            take(&mut one_by_one, std::slice::from_ref(entry));
        }
        prop_assert_eq!(held(&in_order), held(&one_by_one));
        for (id, (profile, pulse)) in held(&in_order) {
            let of = |e: &&Entry| e.profile.id == id && e.profile.boot == profile.boot;
            if id != node(99) {
                let newest = entries.iter().filter(|e| e.profile.id == id);
                prop_assert_eq!(newest.map(|e| e.profile.age()).max(), Some(profile.age()));
                let pulses = entries.iter().filter(of).map(|e| e.pulse.age());
                prop_assert_eq!(pulses.max(), Some(pulse.age()));
            }
        }
        let tags: Vec<Tag> = in_order.by_tag.iter().map(|place| place.tag).collect();
        prop_assert!(tags.is_sorted_by(|a, b| a < b), "each tag once, in order");
    }

    /// A list carries the same as full entries do, once the profiles are known.
    #[test]
    fn rows_carry_what_entries_carry(counters in prop::collection::vec((0_u64..9, 0_u64..9), 1..6)) {
        let (mut a, mut b) = (
            Gossip::new(me(100, 1, 0), vec![], GossipConfig::default()).unwrap(),
            Gossip::new(me(101, 1, 0), vec![], GossipConfig::default()).unwrap(),
        );
        for (number, (left, right)) in counters.iter().enumerate() {
            let number = number as u32 + 1;
            a.receive(0, node(number), Message {
                sender: entry(number, 1, 0, 0, *left), body: Body::Want { tags: vec![] },
            });
            b.receive(0, node(number), Message {
                sender: entry(number, 1, 0, 0, *right), body: Body::Want { tags: vec![] },
            });
        }
        let list = a.message(a.list(0..a.members.len(), Part::Answer));
        b.receive(0, node(100), list);
        for (number, (left, right)) in counters.iter().enumerate() {
            let pulse = held(&b)[&node(number as u32 + 1)].1;
            prop_assert_eq!(pulse.counter, *left.max(right));
            prop_assert_eq!(pulse.mark, 100 + pulse.counter);
        }
    }
}
