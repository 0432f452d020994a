//! Probes: a silent member is asked itself, and through others, before it is held for down.
//!
//! A node that suspects members sends each of them a `Ping` and sends their rows as one `Probe` to
//! a few members that are alive. Whoever is asked answers at once with what it knows besides, and
//! pings those of whom it knows no more; what it then hears is relayed. A member that is pinged
//! raises its counter and answers whoever asked. So a path that is broken between two nodes only
//! makes neither of them believe that the other is down.
//!
//! Bounds: members asked for in one tick, relays that wait, and one ping of a member per interval
//! and node, so that a slow member is not buried under the questions of a thousand.
//!
//! Source: SWIM (Das, Gupta, Motivala, 2002) for asking through others.

use std::collections::BTreeSet;

use rand::Rng;

use crate::gossip::member::Member;
use crate::gossip::message::{Part, Send, Target};
use crate::gossip::state::Gossip;
use crate::gossip::view::Status;
use crate::id::NodeId;

/// Members that are asked for in one tick, those that wait longest first.
const SUSPECTS_AT_ONCE: usize = 64;
/// Members about which others wait for an answer.
const RELAYS_MAX: usize = 256;
/// Nodes that wait for an answer about one member.
const ASKERS_MAX: usize = 16;
/// Intervals that a relay waits for its member.
const RELAY_INTERVALS: u64 = 2;
/// Intervals between the first question and the end of patience.
pub(super) const ANSWER_INTERVALS: u64 = 2;

/// Others that wait for a sign of life of a member.
#[derive(Debug)]
pub(super) struct Relay {
    askers: Vec<NodeId>,
    /// What was known of the member when it was pinged: (refutation, counter).
    known: (u32, u64),
    asked_ms: u64,
}

/// The helpers of the last round, and whether any of them answered.
#[derive(Debug, Default)]
pub(super) struct Round {
    helpers: BTreeSet<NodeId>,
    answered: bool,
}

impl Gossip {
    /// The questions about every suspected member. Judges the round before: if none of its helpers
    /// answered, the fault may be this node's.
    pub(super) fn probes<R: Rng + ?Sized>(&mut self, rng: &mut R) -> Vec<Send> {
        let round = std::mem::take(&mut self.round);
        if !round.helpers.is_empty() && !round.answered {
            self.doubt.raise();
        }
        let (lived, patience) = (self.lived_ms, RELAY_INTERVALS * self.config.interval_ms);
        self.relays.retain(|_, relay| lived.saturating_sub(relay.asked_ms) < patience);
        let suspects = self.suspects();
        if suspects.is_empty() {
            return Vec::new();
        }
        let mut sends = Vec::new();
        for &index in &suspects {
            let member = &mut self.members[index];
            member.probed_ms.get_or_insert(lived);
            let to = Target::Node(member.profile.id);
            let body = self.list(std::iter::once(index), Part::Ping);
            sends.push(self.reply(to, body));
        }
        self.counters.pings += suspects.len() as u64;
        let helpers = self.sample(rng, self.config.probe_helpers, |member| {
            member.status == Status::Alive && !member.pulse.leaving
        });
        for to in helpers {
            if let Target::Node(id) = &to {
                self.round.helpers.insert(*id);
            }
            let body = self.list(suspects.iter().copied(), Part::Probe);
            sends.push(self.reply(to, body));
            self.counters.probes += 1;
        }
        sends
    }

    /// The suspected members to ask for, in the order of their tags.
    fn suspects(&self) -> Vec<usize> {
        let suspected = |(_, member): &(usize, &Member)| member.status == Status::Suspect;
        let numbered = self.members.iter().enumerate().filter(suspected);
        let mut suspects: Vec<usize> = numbered.map(|(index, _)| index).collect();
        if suspects.len() > SUSPECTS_AT_ONCE {
            // Those that nobody asked for yet come first.
            suspects.sort_by_key(|&index| {
                let member = &self.members[index];
                (member.probed_ms.is_some(), member.arrivals.last_ms())
            });
            suspects.truncate(SUSPECTS_AT_ONCE);
        }
        suspects.sort_by_key(|&index| self.members[index].tag);
        suspects
    }

    /// Somebody asks about the members that its rows named, as far as this node knows no more:
    /// they are pinged, and who asked is told when they answer.
    pub(super) fn ask_for(&mut self, asker: NodeId, indexes: Vec<usize>) -> Vec<Send> {
        let mut sends = Vec::new();
        for index in indexes.into_iter().take(SUSPECTS_AT_ONCE) {
            let member = &self.members[index];
            let (id, known) = (member.profile.id, member.pulse.age());
            let waiting = self.relays.contains_key(&id);
            if id == asker || member.pulse.leaving || (!waiting && self.relays.len() >= RELAYS_MAX)
            {
                continue;
            }
            let asked_ms = self.lived_ms;
            let relay = self.relays.entry(id).or_insert(Relay { askers: vec![], known, asked_ms });
            if relay.askers.len() < ASKERS_MAX && !relay.askers.contains(&asker) {
                relay.askers.push(asker);
            }
            if !waiting {
                let body = self.list(std::iter::once(index), Part::Ping);
                sends.push(self.reply(Target::Node(id), body));
                self.counters.pings += 1;
            }
        }
        sends
    }

    /// `from` was heard itself: tells those who asked about it.
    pub(super) fn relay(&mut self, from: NodeId) -> Vec<Send> {
        let Some(&index) = self.by_id.get(&from) else { return Vec::new() };
        let age = self.members[index].pulse.age();
        if self.relays.get(&from).is_none_or(|relay| age <= relay.known) {
            return Vec::new();
        }
        let askers = self.relays.remove(&from).map(|relay| relay.askers).unwrap_or_default();
        self.counters.relayed += askers.len() as u64;
        let mut sends = Vec::new();
        for asker in askers {
            let body = self.list(std::iter::once(index), Part::Answer);
            sends.push(self.reply(Target::Node(asker), body));
        }
        sends
    }

    /// A helper of the present round answered.
    pub(super) fn hear_helper(&mut self, from: NodeId) {
        self.round.answered |= self.round.helpers.contains(&from);
    }
}
