//! Receiving: of two heartbeats of one member the larger is taken.

use crate::gossip::member::{Member, RETIRED_TAGS_MAX};
use crate::gossip::message::{Body, Entry, Message, Part, Pulse, Send, Standing, Target};
use crate::gossip::profile::Tag;
use crate::gossip::rows::{Row, Unreadable};
use crate::gossip::spread::STANDINGS_MAX;
use crate::gossip::state::{Gossip, TagPlace, is_ours};
use crate::gossip::view::{Event, Refusal, Status};
use crate::id::NodeId;

/// Tags in one question. Their answers fill at most a few messages.
const WANT_MAX: usize = 256;
/// Questions sent in answer to one list.
const WANTS_AT_ONCE: usize = 8;
/// Profiles in one message; a message of 1 MiB holds fewer, as each has 100 bytes at least.
const ENTRIES_MAX: usize = 10_000;
/// Foreign clusters that are told of by name.
const FOREIGN_TOLD_MAX: usize = 16;
/// What the sender of a list knows of a member.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// The list had no row of it.
    Unnamed,
    /// Less than this node.
    Less,
    /// As much as this node, or more.
    Enough,
}

/// What one list showed about the state of its sender.
#[derive(Default)]
struct Seen {
    /// By index: what the sender knows of the member.
    news: Vec<Known>,
    /// Tags that nobody here knows.
    unknown: Vec<Tag>,
}

impl Gossip {
    /// Takes in a message that came from the node `from` (as its connection says), and returns
    /// what to send in answer.
    pub fn receive(&mut self, now_ms: u64, from: NodeId, message: Message) -> Vec<Send> {
        self.live_until(now_ms);
        self.counters.received += 1;
        let Message { sender, body } = message;
        if sender.profile.id != from {
            self.refuse(Refusal::NotItsSender);
            return Vec::new();
        }
        let process = (sender.profile.boot, sender.profile.nonce);
        let peer = sender.profile.addresses.peer.clone();
        let echo = from == self.me.id && process == (self.me.boot, self.me.nonce);
        if echo || !self.absorb(sender, now_ms, true) {
            return Vec::new();
        }
        let listed = if from == self.me.id {
            self.my_entry()
        } else {
            let Some(&index) = self.by_id.get(&from) else { return Vec::new() };
            let member = &self.members[index];
            Entry { profile: member.profile.clone(), pulse: member.pulse }
        };
        if (listed.profile.boot, listed.profile.nonce) != process {
            // The sender is not the process that the list leads to: tell it which one is.
            self.refuse(Refusal::Superseded);
            let body = Body::Profiles { entries: vec![listed] };
            return vec![self.reply(Target::Address(peer), body)];
        }
        let mut sends = self.relay(from);
        sends.extend(self.take_body(now_ms, from, body));
        sends
    }

    fn take_body(&mut self, now_ms: u64, from: NodeId, body: Body) -> Vec<Send> {
        match body {
            Body::List { part, standings, rows } => {
                self.take_list(now_ms, from, part, &standings, &rows)
            }
            Body::Want { tags } => self.answer_want(from, &tags),
            Body::Profiles { entries } if entries.len() > ENTRIES_MAX => {
                self.refuse(Refusal::Oversize);
                Vec::new()
            }
            Body::Profiles { entries } => {
                for entry in entries {
                    self.asked.remove(&entry.profile.tag());
                    self.absorb(entry, now_ms, false);
                }
                Vec::new()
            }
        }
    }

    fn take_list(
        &mut self,
        now_ms: u64,
        from: NodeId,
        part: Part,
        standings: &[Standing],
        rows: &[u8],
    ) -> Vec<Send> {
        if standings.len() > STANDINGS_MAX || rows.len() > self.config.message_max_bytes {
            self.refuse(Refusal::Oversize);
            return Vec::new();
        }
        let mut seen = Seen { news: vec![Known::Unnamed; self.members.len()], ..Seen::default() };
        if self.take_rows(now_ms, from, standings, rows, &mut seen).is_err() {
            self.refuse(Refusal::Malformed);
            return Vec::new();
        }
        self.hear_helper(from);
        if part == Part::Ping {
            // Whatever the asker knew of this node, the answer carries more.
            self.beat();
            return vec![
                self.reply(Target::Node(from), self.list(std::iter::empty(), Part::Answer)),
            ];
        }
        let mut sends = Vec::new();
        for tags in seen.unknown.chunks(WANT_MAX).take(WANTS_AT_ONCE) {
            self.asked.extend(tags.iter().map(|tag| (*tag, self.lived_ms)));
            sends.push(self.reply(Target::Node(from), Body::Want { tags: tags.to_vec() }));
        }
        if part != Part::Answer {
            sends.extend(self.answer_list(from, part, &seen.news));
        }
        if part == Part::Probe {
            let no_more =
                |(index, known): (usize, &Known)| (*known == Known::Enough).then_some(index);
            let silent = seen.news.iter().enumerate().filter_map(no_more).collect();
            sends.extend(self.ask_for(from, silent));
        }
        sends
    }

    /// Walks the rows and the own list side by side, since both are in the order of tags.
    fn take_rows(
        &mut self,
        now_ms: u64,
        from: NodeId,
        standings: &[Standing],
        mut bytes: &[u8],
        seen: &mut Seen,
    ) -> Result<(), Unreadable> {
        let mut cursor = 0;
        while !bytes.is_empty() {
            let row = Row::unpack(&mut bytes)?;
            let standing = *standings.get(usize::from(row.standing)).ok_or(Unreadable)?;
            if row.tag == self.my_tag {
                self.hear_of_me(from, &row);
                continue;
            }
            if self.by_tag.get(cursor).is_none_or(|place| place.tag > row.tag) {
                cursor = self.by_tag.partition_point(|place| place.tag < row.tag);
            }
            while self.by_tag.get(cursor).is_some_and(|place| place.tag < row.tag) {
                cursor += 1;
            }
            match self.by_tag.get(cursor).filter(|place| place.tag == row.tag) {
                Some(&TagPlace { index, current, .. }) => {
                    let index = index as usize;
                    seen.news[index] = match current {
                        true => self.take_row(index, &row, standing, now_ms),
                        false => Known::Less,
                    };
                }
                None if self.worth_asking(&row) => seen.unknown.push(row.tag),
                None => {}
            }
        }
        Ok(())
    }

    fn take_row(&mut self, index: usize, row: &Row, standing: Standing, now_ms: u64) -> Known {
        let member = &self.members[index];
        let age = (row.refutation, row.counter);
        if age > member.pulse.age() {
            let pulse = Pulse {
                refutation: row.refutation,
                counter: row.counter,
                mark: row.mark(&member.profile),
                standing,
                leaving: row.leaving,
            };
            self.advance(index, pulse, now_ms);
            return Known::Enough;
        }
        if age < member.pulse.age() {
            return Known::Less;
        }
        // Both suspect it and neither has newer word: the sender has asked in vain for long enough.
        if row.opinion == Status::Down && member.status == Status::Suspect {
            self.believe(index, Status::Down, now_ms);
        }
        Known::Enough
    }

    /// Somebody's row of this very node: if it is not held for alive, and the belief is not older
    /// than the last answer to one, raise the refutation counter.
    fn hear_of_me(&mut self, accuser: NodeId, row: &Row) {
        let accused = row.opinion != Status::Alive && !row.leaving;
        if accused && !self.pulse.leaving && row.refutation >= self.pulse.refutation {
            self.pulse.refutation = row.refutation.saturating_add(1);
            self.beat();
            self.doubt.raise();
            self.counters.refutations += 1;
            let refutation = self.pulse.refutation;
            self.tell(Event::Refuted { accuser, refutation });
        }
    }

    /// Whether to ask for the profile of an unknown tag: not if its member is down (it would never
    /// be forgotten everywhere), not if it was asked for just now, not if it is an own old one.
    fn worth_asking(&self, row: &Row) -> bool {
        let again = 2 * self.config.interval_ms;
        let recent = |asked: &u64| self.lived_ms.saturating_sub(*asked) < again;
        row.opinion.is_up()
            && !row.leaving
            && !self.my_retired.contains(&row.tag)
            && !self.asked.get(&row.tag).is_some_and(recent)
    }

    /// Answers a list with the rows of members of which its sender knows less. Members that the
    /// list does not name are told of if it named all that its sender knows, unless they are down:
    /// else a forgotten member would come back for ever.
    fn answer_list(&mut self, from: NodeId, part: Part, news: &[Known]) -> Option<Send> {
        let mut body = None;
        {
            let wanted = |place: &&TagPlace| {
                let member = &self.members[place.index as usize];
                let unnamed = part == Part::All && member.status.is_up();
                match news.get(place.index as usize) {
                    _ if !place.current || member.profile.id == from => false,
                    Some(Known::Less) => true,
                    Some(Known::Unnamed) => unnamed,
                    Some(Known::Enough) | None => false,
                }
            };
            let mut indexes = self.by_tag.iter().filter(wanted).map(|place| place.index as usize);
            if let Some(first) = indexes.next() {
                body = Some(self.list(std::iter::once(first).chain(indexes), Part::Answer));
            } else if part == Part::Probe {
                // Who asks about others learns at least that it is heard.
                body = Some(self.list(std::iter::empty(), Part::Answer));
            }
        }
        body.map(|body| self.reply(Target::Node(from), body))
    }

    fn answer_want(&mut self, from: NodeId, tags: &[Tag]) -> Vec<Send> {
        if tags.len() > WANT_MAX {
            self.refuse(Refusal::Oversize);
            return Vec::new();
        }
        let mut batches = vec![Vec::new()];
        let room = self.config.message_max_bytes - 4 * 1024;
        let mut used = 0;
        for tag in tags {
            let place = self.by_tag.binary_search_by_key(tag, |place| place.tag);
            let Ok(place) = place.map(|at| self.by_tag[at]) else { continue };
            let member = &self.members[place.index as usize];
            let size = member.profile.size_bound() + 80;
            if used + size > room {
                batches.push(Vec::new());
                used = 0;
            }
            used += size;
            if let Some(batch) = batches.last_mut() {
                batch.push(Entry { profile: member.profile.clone(), pulse: member.pulse });
            }
        }
        batches.retain(|entries| !entries.is_empty());
        batches
            .into_iter()
            .map(|entries| self.reply(Target::Node(from), Body::Profiles { entries }))
            .collect()
    }

    /// Takes in a member in full; `direct` when it says so itself. False when it was refused.
    fn absorb(&mut self, entry: Entry, now_ms: u64, direct: bool) -> bool {
        let profile = &entry.profile;
        if profile.check().is_err() {
            self.refuse(Refusal::Malformed);
            return false;
        }
        if !is_ours(self.me.cluster, profile.cluster) {
            self.refuse(Refusal::Foreign);
            let (cluster, address) = (profile.cluster, profile.addresses.peer.clone());
            if self.foreign_told.len() < FOREIGN_TOLD_MAX && self.foreign_told.insert(cluster) {
                self.tell(Event::Foreign { cluster, address });
            }
            return false;
        }
        if profile.id == self.me.id {
            self.absorb_own_id(&entry);
            return true;
        }
        match self.by_id.get(&profile.id) {
            Some(&index) => {
                self.absorb_known(index, entry, now_ms, direct);
                true
            }
            None => self.admit(entry, now_ms),
        }
    }

    fn admit(&mut self, entry: Entry, now_ms: u64) -> bool {
        let id = entry.profile.id;
        if self.members.len() >= self.config.members_max && !self.pinned.contains(&id) {
            self.refuse(Refusal::Full);
            return false;
        }
        let (tag, index, mark) = (entry.profile.tag(), self.members.len(), entry.pulse.mark);
        let interval_ms = self.config.interval_ms;
        self.members.push(Member::new(entry, tag, self.lived_ms, now_ms, interval_ms));
        self.by_id.insert(id, index);
        self.insert_tag(TagPlace { tag, index: index as u32, current: true });
        self.tell(Event::Joined(id));
        self.check_mark(index, mark);
        true
    }

    fn absorb_known(&mut self, index: usize, entry: Entry, now_ms: u64, direct: bool) {
        let member = &self.members[index];
        let theirs = (entry.profile.boot, entry.profile.nonce);
        if theirs.0 == member.profile.boot && theirs.1 != member.profile.nonce {
            self.tell_of_clone(index, &entry.profile);
        }
        if theirs > self.members[index].process() {
            self.supersede(index, entry, now_ms);
        } else if theirs == self.members[index].process() {
            if entry.profile.revision > self.members[index].profile.revision {
                self.replace_profile(index, &entry);
            }
            if entry.pulse.age() > self.members[index].pulse.age() {
                self.advance(index, entry.pulse, now_ms);
            }
            self.retire_tag(index, entry.profile.tag());
        } else {
            if direct {
                self.notice_ghost(index, &entry);
            }
            self.retire_tag(index, entry.profile.tag());
        }
    }

    /// A later start of a known node: its history is another's.
    fn supersede(&mut self, index: usize, entry: Entry, now_ms: u64) {
        let (id, boot, pulse) = (entry.profile.id, entry.profile.boot, entry.pulse);
        let interval_ms = self.config.interval_ms;
        let restarted = boot > self.members[index].profile.boot;
        self.replace_profile(index, &entry);
        let member = &mut self.members[index];
        let old = std::mem::replace(
            member,
            Member::new(entry, member.tag, self.lived_ms, now_ms, interval_ms),
        );
        let fresh = member.status;
        (member.status, member.since_ms, member.retired) = (old.status, old.since_ms, old.retired);
        member.clone_told = old.clone_told && !restarted;
        if restarted {
            self.tell(Event::Restarted { id, boot });
        }
        self.believe(index, fresh, now_ms);
        self.check_mark(index, pulse.mark);
    }

    fn replace_profile(&mut self, index: usize, entry: &Entry) {
        let old = self.members[index].tag;
        let tag = entry.profile.tag();
        self.by_tag.retain(|place| place.tag != old && place.tag != tag);
        let member = &mut self.members[index];
        member.retired.retain(|other| *other != tag);
        (member.profile, member.tag) = (entry.profile.clone(), tag);
        member.news_ms = self.lived_ms;
        self.insert_tag(TagPlace { tag, index: index as u32, current: true });
        self.retire_tag(index, old);
    }

    /// Remembers that a tag is an old one of this member, so that it is not asked for again.
    fn retire_tag(&mut self, index: usize, tag: Tag) {
        let member = &mut self.members[index];
        if tag == member.tag || member.retired.contains(&tag) {
            return;
        }
        member.retired.insert(0, tag);
        let dropped = member.retired.split_off(member.retired.len().min(RETIRED_TAGS_MAX));
        self.by_tag.retain(|place| !dropped.contains(&place.tag));
        self.insert_tag(TagPlace { tag, index: index as u32, current: false });
    }

    fn insert_tag(&mut self, place: TagPlace) {
        let at = self.by_tag.partition_point(|other| other.tag < place.tag);
        self.by_tag.insert(at, place);
    }

    fn advance(&mut self, index: usize, pulse: Pulse, now_ms: u64) {
        self.members[index].advance(pulse, self.lived_ms);
        let status = if pulse.leaving { Status::Down } else { Status::Alive };
        self.believe(index, status, now_ms);
        self.check_mark(index, pulse.mark);
    }

    fn check_mark(&mut self, index: usize, heard: u64) {
        let id = self.members[index].profile.id;
        let remembered = self.marks.get(&id).copied().unwrap_or(0);
        if heard < remembered && !self.members[index].mark_told {
            self.members[index].mark_told = true;
            self.tell(Event::MarkBehind { id, heard, remembered });
        }
        if heard > remembered {
            self.remember_mark(id, heard);
        }
    }
}
