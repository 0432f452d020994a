//! Probes, refutation and doubt: who is silent is asked before it is judged.

use super::*;

/// A few members that know each other, fed by hand: nothing travels but what a test passes on.
fn acquainted(count: u32) -> Vec<Gossip> {
    let mut all: Vec<Gossip> = (0..count)
        .map(|number| Gossip::new(me(number, 1, 0), vec![], GossipConfig::default()).unwrap())
        .collect();
    let entries: Vec<Entry> = all.iter().map(Gossip::my_entry).collect();
    for gossip in &mut all {
        let other = entries.iter().find(|entry| entry.profile.id != gossip.me.id).unwrap();
        let body = Body::Profiles { entries: entries.clone() };
        gossip.receive(0, other.profile.id, Message { sender: other.clone(), body });
    }
    all
}

fn part(send: &Send) -> Option<Part> {
    match &send.message.body {
        Body::List { part, .. } => Some(*part),
        Body::Want { .. } | Body::Profiles { .. } => None,
    }
}

fn to(send: &Send, number: u32) -> bool {
    send.to == Target::Node(node(number))
}

/// What node 0 of three sends while node 1 goes on talking to it and node 2 is silent; and when.
fn until_probed(all: &mut [Gossip], rng: &mut Xoshiro256PlusPlus) -> (u64, Vec<Send>) {
    for second in 1..60 {
        let now = second * 1_000;
        all[1].beat();
        let heard = all[1].message(Body::Want { tags: vec![] });
        all[0].receive(now, node(1), heard);
        let sends = all[0].tick(now, rng);
        if sends.iter().any(|send| part(send) == Some(Part::Ping)) {
            return (now, sends);
        }
    }
    panic!("nobody was asked");
}

#[test]
fn a_silent_member_is_asked_itself_and_through_others() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut all = acquainted(3);
    let (now, sends) = until_probed(&mut all, &mut rng);
    assert_eq!(all[0].status_of(node(2)), Some(Status::Suspect));
    let ping = sends.iter().find(|send| part(send) == Some(Part::Ping)).unwrap();
    assert!(to(ping, 2));
    let probe = sends.iter().find(|send| part(send) == Some(Part::Probe)).unwrap();
    assert!(to(probe, 1), "only those that are alive are asked about others");
    // The ping is lost. The helper knows no more, so it says that it is there, and pings.
    let answers = all[1].receive(now, node(0), probe.message.clone());
    assert!(answers.iter().any(|send| to(send, 0) && part(send) == Some(Part::Answer)));
    let relayed = answers.iter().find(|send| part(send) == Some(Part::Ping)).unwrap();
    assert!(to(relayed, 2));
    // A second question in the same interval pings nobody a second time.
    let again = all[1].receive(now, node(0), probe.message.clone());
    assert!(again.iter().all(|send| part(send) != Some(Part::Ping)));
    // The member answers the helper with a larger counter, and the helper tells who asked.
    let before = all[2].pulse.age();
    let answers = all[2].receive(now, node(1), relayed.message.clone());
    assert!(all[2].pulse.age() > before);
    let told = all[1].receive(now, node(2), answers[0].message.clone());
    assert!(told.iter().any(|send| to(send, 0)));
    assert_eq!(all[1].counters().relayed, 1);
    for send in told.into_iter().filter(|send| to(send, 0)) {
        all[0].receive(now, node(1), send.message);
    }
    assert_eq!(all[0].status_of(node(2)), Some(Status::Alive));
}

#[test]
fn an_answered_ping_ends_suspicion_and_nobody_is_down_unasked() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(2);
    let mut all = acquainted(3);
    let (now, sends) = until_probed(&mut all, &mut rng);
    let ping = sends.iter().find(|send| part(send) == Some(Part::Ping)).unwrap().clone();
    let answer = all[2].receive(now, node(0), ping.message).remove(0);
    all[0].receive(now, node(2), answer.message);
    assert_eq!(all[0].status_of(node(2)), Some(Status::Alive));
    // However surprising the silence is: there are two intervals for an answer.
    let mut all = acquainted(3);
    all[0].config.phi_suspect = 8.0;
    let (asked_at, _) = until_probed(&mut all, &mut rng);
    assert!(all[0].members(asked_at).iter().any(|m| m.id == node(2) && m.phi >= 8.0));
    all[0].tick(asked_at + 1_000, &mut rng);
    assert_eq!(all[0].status_of(node(2)), Some(Status::Suspect));
    all[0].tick(asked_at + 2_000, &mut rng);
    assert_eq!(all[0].status_of(node(2)), Some(Status::Down));
}

#[test]
fn who_suspects_takes_over_that_somebody_asked_in_vain_and_nobody_else_does() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(6);
    let mut all = acquainted(3);
    let accuse = |by: &mut Gossip| {
        let index = by.by_id[&node(2)];
        by.members[index].status = Status::Down;
        by.message(by.list(std::iter::once(index), Part::Answer))
    };
    let accusation = accuse(&mut all[1]);
    all[0].receive(500, node(1), accusation.clone());
    assert_eq!(all[0].status_of(node(2)), Some(Status::Alive), "it was heard just now");
    let (now, _) = until_probed(&mut all, &mut rng);
    all[0].receive(now, node(1), accusation);
    assert_eq!(all[0].status_of(node(2)), Some(Status::Down));
    // Who has newer word of it is not convinced by an older belief.
    let mut all = acquainted(3);
    let accusation = accuse(&mut all[1]);
    all[2].beat();
    let heard = all[2].message(Body::Want { tags: vec![] });
    all[0].receive(0, node(2), heard);
    let (now, _) = until_probed(&mut all, &mut rng);
    all[0].receive(now, node(1), accusation);
    assert_eq!(all[0].status_of(node(2)), Some(Status::Suspect));
}

#[test]
fn a_node_whose_helpers_are_silent_too_doubts_itself() {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(3);
    let mut all = acquainted(3);
    let (now, _) = until_probed(&mut all, &mut rng);
    assert_eq!(all[0].doubt(), 0);
    all[0].tick(now + 1_000, &mut rng);
    assert_eq!(all[0].doubt(), 1, "the helper did not answer");
    // In the other case it does.
    let mut all = acquainted(3);
    let (now, sends) = until_probed(&mut all, &mut rng);
    let probe = sends.iter().find(|send| part(send) == Some(Part::Probe)).unwrap();
    let answers = all[1].receive(now, node(0), probe.message.clone());
    let answer = answers.into_iter().find(|send| to(send, 0)).unwrap();
    all[0].receive(now, node(1), answer.message);
    all[0].tick(now + 1_000, &mut rng);
    assert_eq!(all[0].doubt(), 0);
}

#[test]
fn what_waits_for_answers_is_bounded_and_passes() {
    let mut all = acquainted(400);
    let rows: Vec<usize> = (0..all[0].members.len()).collect();
    for asker in 1..60 {
        for part in rows.chunks(64) {
            all[0].ask_for(node(asker), part.to_vec());
        }
    }
    assert_eq!(all[0].relays.len(), 256);
    assert_eq!(all[0].counters().pings, 256, "one each, whoever asks");
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(4);
    for second in 1..=3 {
        all[0].tick(second * 1_000, &mut rng);
    }
    assert!(all[0].relays.is_empty());
}

#[test]
fn a_third_of_the_messages_lost_makes_nobody_flap() {
    for (seed, size) in [(1, 3), (2, 3), (3, 5), (4, 12), (5, 50)] {
        let mut net = Network::formed(seed, size, GossipConfig::default());
        net.loss = 0.3;
        net.run(1_800);
        println!(
            "{size} members, 30 % lost: {} suspicions in 1,800 s",
            net.changes_to(Status::Suspect)
        );
        assert_eq!(net.changes_to(Status::Down), 0, "{size} members, seed {seed}");
    }
}

/// Where more is lost than phi alone can bear, asking is what keeps the living up.
#[test]
fn probes_prevent_false_deaths() {
    let deaths = |probe_helpers| -> usize {
        let config = GossipConfig { probe_helpers, fanout: 1, ..GossipConfig::default() };
        let seeds = [9, 10, 11, 12];
        let count = |seed| {
            let mut net = Network::formed(seed, 12, config.clone());
            net.loss = 0.55;
            net.run(1_800);
            net.changes_to(Status::Down)
        };
        seeds.into_iter().map(count).sum()
    };
    let (without, with) = (deaths(0), deaths(3));
    println!("55 % lost, fanout 1: {without} false deaths without helpers, {with} with three");
    assert!(with * 4 < without * 3, "{with} against {without}");
}

#[test]
fn a_large_cluster_sends_part_of_its_list_and_still_learns_all() {
    let config = GossipConfig { rows_max: 64, ..GossipConfig::default() };
    let mut net = Network::formed(53, 200, config);
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(5);
    let now = net.now_ms;
    let lists = net.gossip(7).tick(now, &mut rng);
    let Body::List { part, rows, .. } = &lists[0].message.body else { panic!("a list") };
    assert_eq!(*part, Part::Some);
    assert!((64 * 9..80 * 12).contains(&rows.len()), "{} bytes", rows.len());
    net.run(120);
    assert!(net.everyone_sees(Status::Alive));
    assert_eq!(net.changes_to(Status::Down), 0);
    net.start(300, &[3]);
    let joined = net.seconds_until(30, |net| net.everyone_knows(201));
    assert!(joined <= 15, "a join took {joined} s");
    net.kill(9);
    let down = net.seconds_until(60, |net| net.all_others_see(9, |s| s == Status::Down));
    println!("200 members, 64 rows a list: join known after {joined} s, death after {down} s");
}
