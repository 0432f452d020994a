//! Sending: the own counter rises, and the list goes to a few members.

use bytes::Bytes;
use rand::{Rng, RngExt};

use crate::gossip::member::Member;
use crate::gossip::message::{Body, Message, Part, Pulse, Send, Standing, Target};
use crate::gossip::rows::{ROW_MAX_BYTES, Row};
use crate::gossip::state::Gossip;
use crate::gossip::view::{Event, Status};

/// Standings that one list may carry; members with further ones wait for another list.
pub(super) const STANDINGS_MAX: usize = 32;
/// Of the size of a message, what is left for its sender, its standings and its frame.
const RESERVED_BYTES: usize = 8 * 1024;
/// How often a seed is asked besides, although members are known: one time in so many.
const SEED_ONE_IN: u32 = 10;
/// Intervals for which news of a member has a place in every list.
const NEWS_INTERVALS: u64 = 10;
/// Members that are told of a clean stop.
const FAREWELLS: usize = 8;

impl Gossip {
    /// One interval has passed: raises the own counter, judges the silence of the others, and
    /// returns the list for a few of them. May be called early, to spread something new at once.
    pub fn tick<R: Rng + ?Sized>(&mut self, now_ms: u64, rng: &mut R) -> Vec<Send> {
        self.live_until(now_ms);
        self.doubt.tick(now_ms, self.config.interval_ms);
        self.beat();
        self.judge_silence(now_ms);
        let mut sends = self.probes(rng);
        let targets = self.targets(rng);
        sends.extend(self.list_to(targets, rng));
        sends
    }

    /// This node stops in good order: says so to some members, who hold it for down at once and
    /// pass it on. To be called once, before the listeners close.
    pub fn leave<R: Rng + ?Sized>(&mut self, now_ms: u64, rng: &mut R) -> Vec<Send> {
        self.live_until(now_ms);
        self.pulse.leaving = true;
        self.beat();
        let count = self.config.fanout.max(FAREWELLS);
        let targets =
            self.sample(rng, count, |member| member.status.is_up() && !member.pulse.leaving);
        self.list_to(targets, rng)
    }

    /// The next pulse: whatever it carries, its counter is higher than that of the one before.
    pub(super) fn beat(&mut self) {
        self.pulse = Pulse {
            refutation: self.pulse.refutation,
            counter: self.pulse.counter + 1,
            mark: self.mark,
            standing: self.standing,
            leaving: self.pulse.leaving,
        };
    }

    fn judge_silence(&mut self, now_ms: u64) {
        let pause_ms = self.doubt.stretch(self.config.pause_ms);
        for index in 0..self.members.len() {
            let status = self.members[index].assess(self.lived_ms, &self.config, pause_ms);
            self.believe(index, status, now_ms);
        }
        let patience = self.config.forget_after_ms;
        let old = |member: &Member| {
            member.status == Status::Down && now_ms.saturating_sub(member.since_ms) >= patience
        };
        if self
            .members
            .iter()
            .any(|member| old(member) && !self.pinned.contains(&member.profile.id))
        {
            let pinned = std::mem::take(&mut self.pinned);
            let gone =
                self.drop_members(|member| old(member) && !pinned.contains(&member.profile.id));
            self.pinned = pinned;
            for id in gone {
                self.marks.remove(&id);
                self.tell(Event::Forgotten(id));
            }
        }
        let (lived, limit) = (self.lived_ms, 10 * self.config.interval_ms);
        self.asked.retain(|_, asked_ms| lived.saturating_sub(*asked_ms) < limit);
    }

    /// Who gets the list this time: some members that are up; sometimes one that is down, so that
    /// two halves of a healed partition find each other again; sometimes a seed; and seeds only
    /// while nobody is known.
    fn targets<R: Rng + ?Sized>(&self, rng: &mut R) -> Vec<Target> {
        let fanout = self.config.fanout;
        let is_up = |member: &Member| member.status.is_up() && !member.pulse.leaving;
        let is_lost = |member: &Member| !member.status.is_up() && !member.pulse.leaving;
        let count = |wanted: &dyn Fn(&Member) -> bool| {
            self.members.iter().filter(|member| wanted(member)).count() as u32
        };
        let mut targets = self.sample(rng, fanout, is_up);
        let (up, lost) = (count(&is_up), count(&is_lost));
        if lost > 0 && rng.random_ratio(lost.min(up + 1), up + 1) {
            targets.extend(self.sample(rng, 1, is_lost));
        }
        let seeds = if up == 0 { fanout } else { usize::from(rng.random_ratio(1, SEED_ONE_IN)) };
        targets.extend(self.some_seeds(rng, seeds));
        targets
    }

    /// Up to `count` different members for which `wanted` holds.
    pub(super) fn sample<R: Rng + ?Sized>(
        &self,
        rng: &mut R,
        count: usize,
        wanted: impl Fn(&Member) -> bool,
    ) -> Vec<Target> {
        let mut pool: Vec<usize> =
            (0..self.members.len()).filter(|&index| wanted(&self.members[index])).collect();
        draw(&mut pool, count, rng);
        pool.into_iter().map(|index| Target::Node(self.members[index].profile.id)).collect()
    }

    /// Up to `count` seeds that are neither this node nor a member that is up.
    fn some_seeds<R: Rng + ?Sized>(&self, rng: &mut R, count: usize) -> Vec<Target> {
        if count == 0 || self.seeds.is_empty() {
            return Vec::new();
        }
        let known = |seed: &&String| {
            **seed == self.me.addresses.peer
                || self
                    .members
                    .iter()
                    .any(|m| m.status.is_up() && m.profile.addresses.peer == **seed)
        };
        let mut open: Vec<&String> = self.seeds.iter().filter(|seed| !known(seed)).collect();
        let count = count.min(open.len());
        for place in 0..count {
            let other = rng.random_range(place..open.len());
            open.swap(place, other);
        }
        open[..count].iter().map(|seed| Target::Address((*seed).clone())).collect()
    }

    fn list_to<R: Rng + ?Sized>(&mut self, targets: Vec<Target>, rng: &mut R) -> Vec<Send> {
        if targets.is_empty() {
            return Vec::new();
        }
        let chosen = self.chosen(&targets, rng);
        // Where to begin matters only when not all of them fit into one message.
        let start = rng.random_range(0..self.by_tag.len().max(1));
        let rounds = self.by_tag.len();
        let order = (0..rounds).map(|step| self.by_tag[(start + step) % rounds]);
        let current = order.filter(|place| place.current).map(|place| place.index as usize);
        let message = match chosen {
            None => self.message(self.list(current, Part::All)),
            Some(chosen) => {
                let current = current.filter(|&index| chosen[index]);
                self.message(self.list(current, Part::Some))
            }
        };
        self.counters.sent += targets.len() as u64;
        targets.into_iter().map(|to| Send { to, message: message.clone() }).collect()
    }

    /// Which members a list names, where it cannot name all. A quarter of the rows is for those of
    /// whom there is news, a quarter for those that are up and were silent for longest, as a
    /// question, and the rest is drawn. Who gets the list is named too, since it must learn what is
    /// believed of it.
    fn chosen<R: Rng + ?Sized>(&self, targets: &[Target], rng: &mut R) -> Option<Vec<bool>> {
        let (rows, quarter) = (self.config.rows_max, self.config.rows_max / 4);
        if self.members.len() <= rows {
            return None;
        }
        let fresh = self.lived_ms.saturating_sub(NEWS_INTERVALS * self.config.interval_ms);
        let (mut news, mut up, mut down) = (Vec::new(), Vec::new(), Vec::new());
        for (index, member) in self.members.iter().enumerate() {
            match member.status {
                _ if member.news_ms >= fresh => news.push(index),
                Status::Alive | Status::Suspect => up.push(index),
                Status::Down => down.push(index),
            }
        }
        let mut rest = draw(&mut news, quarter, rng);
        let asked = quarter.min(up.len());
        if asked < up.len() {
            up.select_nth_unstable_by_key(asked, |&i| self.members[i].arrivals.last_ms());
        }
        rest.extend(up.split_off(asked));
        rest.append(&mut down);
        let drawn = rows - news.len() - up.len();
        draw(&mut rest, drawn, rng);
        let named = targets.iter().filter_map(|target| match target {
            Target::Node(id) => self.by_id.get(id).copied(),
            Target::Address(_) => None,
        });
        let mut chosen = vec![false; self.members.len()];
        let all = news.into_iter().chain(up).chain(rest).chain(named);
        all.for_each(|index| chosen[index] = true);
        Some(chosen)
    }

    /// The list of these members, as far as they fit. A `part` of all becomes one of some when they
    /// do not.
    pub(super) fn list(&self, indexes: impl Iterator<Item = usize>, part: Part) -> Body {
        let room = self.config.message_max_bytes - RESERVED_BYTES;
        let mut standings: Vec<Standing> = Vec::new();
        let (mut rows, mut part) = (Vec::new(), part);
        for index in indexes {
            let member = &self.members[index];
            let standing = member.pulse.standing;
            let known = standings.iter().position(|other| *other == standing);
            if rows.len() + ROW_MAX_BYTES > room
                || (known.is_none() && standings.len() == STANDINGS_MAX)
            {
                part = if part == Part::All { Part::Some } else { part };
                continue;
            }
            let place = known.unwrap_or_else(|| {
                standings.push(standing);
                standings.len() - 1
            });
            Row::new(member.tag, &member.profile, &member.pulse, member.status, place as u16)
                .pack(&mut rows);
        }
        Body::List { part, standings, rows: Bytes::from(rows) }
    }

    /// One message to one member, counted.
    pub(super) fn reply(&mut self, to: Target, body: Body) -> Send {
        let message: Message = self.message(body);
        self.counters.sent += 1;
        Send { to, message }
    }
}

/// Leaves up to `count` drawn elements in `pool`, in no order, and returns the others.
fn draw<R: Rng + ?Sized>(pool: &mut Vec<usize>, count: usize, rng: &mut R) -> Vec<usize> {
    let count = count.min(pool.len());
    for place in 0..count {
        let other = rng.random_range(place..pool.len());
        pool.swap(place, other);
    }
    pool.split_off(count)
}
