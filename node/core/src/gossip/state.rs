//! The state of one node's gossip: its own pulse, the list, and what it tells its owner.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::gossip::config::{ConfigError, GossipConfig};
use crate::gossip::doubt::Doubt;
use crate::gossip::member::{Member, RETIRED_TAGS_MAX};
use crate::gossip::message::{DocumentId, Entry, Message, NotServing, Pulse, Standing};
use crate::gossip::probe::{Relay, Round};
use crate::gossip::profile::{Addresses, Heartbeat, Labels, Profile, ProfileError, Tag};
use crate::gossip::view::{Alarm, Counters, Event, MemberView, Refusal, Status};
use crate::id::{ClusterId, NodeId};
use crate::reclaim::Held;

/// Events kept until [`Gossip::take_events`]; more are dropped and counted.
const EVENTS_MAX: usize = 1_024;

/// This node, as it says of itself.
#[derive(Debug, Clone)]
pub struct Me {
    /// Identity, written on the volume.
    pub id: NodeId,
    /// Which start this is; raised and fsynced before.
    pub boot: u64,
    /// Drawn for this start.
    pub nonce: u64,
    /// The cluster, nil before the node belongs to one.
    pub cluster: ClusterId,
    /// Where this node is reached.
    pub addresses: Addresses,
    /// What it runs on.
    pub labels: Labels,
    /// Version of the program.
    pub version: String,
    /// The mark on the volume.
    pub mark: u64,
    /// The document that it uses, if it has one.
    pub document: Option<DocumentId>,
    /// The generation that it has reached.
    pub generation: u64,
}

/// Gossip cannot be set up. Nothing was built; the same settings fail again.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GossipError {
    /// A setting is out of its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What the node says of itself would be refused by every other.
    #[error("this node cannot be described to others: {0}")]
    Profile(#[from] ProfileError),
}

/// Another process with this node's id, at its boot or a later one.
#[derive(Debug)]
pub(super) struct Rival {
    pub process: (u64, u64),
    pub address: String,
    /// The counter that it was first heard with, and when.
    pub counter: u64,
    pub first_ms: u64,
    /// It goes on beating: it is no memory of a start before the volume was put back.
    pub beats: bool,
}

/// Where a tag leads in the list.
#[derive(Debug, Clone, Copy)]
pub(super) struct TagPlace {
    pub tag: Tag,
    pub index: u32,
    /// False for a superseded tag of the same member.
    pub current: bool,
}

/// The gossip of one node: a state machine.
#[derive(Debug)]
pub struct Gossip {
    pub(super) config: GossipConfig,
    pub(super) me: Arc<Profile>,
    pub(super) my_tag: Tag,
    pub(super) my_retired: Vec<Tag>,
    pub(super) pulse: Pulse,
    /// What the next pulse will carry.
    pub(super) mark: u64,
    pub(super) standing: Standing,
    pub(super) members: Vec<Member>,
    pub(super) by_id: BTreeMap<NodeId, usize>,
    /// Sorted by tag.
    pub(super) by_tag: Vec<TagPlace>,
    pub(super) seeds: Vec<String>,
    pub(super) pinned: BTreeSet<NodeId>,
    pub(super) marks: BTreeMap<NodeId, u64>,
    /// Profiles that were asked for, and when.
    pub(super) asked: BTreeMap<Tag, u64>,
    /// Members about which others asked, and who.
    pub(super) relays: BTreeMap<NodeId, Relay>,
    /// Whom this node asked about its suspects last.
    pub(super) round: Round,
    pub(super) doubt: Doubt,
    /// Clusters that were told of as foreign.
    pub(super) foreign_told: BTreeSet<ClusterId>,
    /// The other process with this node's id that was told of last.
    pub(super) rival: Option<Rival>,
    pub(super) started_ms: Option<u64>,
    pub(super) last_now_ms: u64,
    pub(super) lived_ms: u64,
    pub(super) counters: Counters,
    events: VecDeque<Event>,
}

impl Gossip {
    /// Gossip of a node that knows nobody yet. `seeds` are peer addresses (`host:port`); the
    /// node's own may be among them.
    pub fn new(me: Me, seeds: Vec<String>, config: GossipConfig) -> Result<Self, GossipError> {
        config.check()?;
        let profile = Profile {
            id: me.id,
            boot: me.boot,
            nonce: me.nonce,
            revision: 0,
            cluster: me.cluster,
            mark_at_boot: me.mark,
            addresses: me.addresses,
            labels: me.labels,
            version: me.version,
        };
        profile.check()?;
        let standing = Standing {
            document: me.document,
            generation: me.generation,
            held: Held::anything(me.generation),
            ..Standing::default()
        };
        Ok(Self {
            config,
            my_tag: profile.tag(),
            me: Arc::new(profile),
            my_retired: Vec::new(),
            pulse: Pulse { mark: me.mark, standing, ..Pulse::default() },
            mark: me.mark,
            standing,
            members: Vec::new(),
            by_id: BTreeMap::new(),
            by_tag: Vec::new(),
            seeds,
            pinned: BTreeSet::new(),
            marks: BTreeMap::new(),
            asked: BTreeMap::new(),
            relays: BTreeMap::new(),
            round: Round::default(),
            doubt: Doubt::default(),
            foreign_told: BTreeSet::new(),
            rival: None,
            started_ms: None,
            last_now_ms: 0,
            lived_ms: 0,
            counters: Counters::default(),
            events: VecDeque::new(),
        })
    }

    /// The settings.
    pub fn config(&self) -> &GossipConfig {
        &self.config
    }

    /// The mark that the next pulse carries; it never falls.
    pub fn set_mark(&mut self, mark: u64) {
        self.mark = self.mark.max(mark);
    }

    /// The document that the next pulse names.
    pub fn set_document(&mut self, document: Option<DocumentId>) {
        self.standing.document = document;
    }

    /// The generation that the next pulse names.
    pub fn set_generation(&mut self, generation: u64) {
        self.standing.generation = generation;
    }

    /// What the next pulse says of stand-in copies.
    pub fn set_held(&mut self, held: Held) {
        self.standing.held = held;
    }

    /// Why the node serves no data, as the next pulse says.
    pub fn set_not_serving(&mut self, why: Option<NotServing>) {
        self.standing.not_serving = why;
    }

    /// Whether the node keeps stand-in copies, as the next pulse says.
    pub fn set_keeps_copies(&mut self, keeps: bool) {
        self.standing.keeps_copies = keeps;
    }

    /// The addresses to ask while their nodes are unknown.
    pub fn set_seeds(&mut self, seeds: Vec<String>) {
        self.seeds = seeds;
    }

    /// The members that the document names: never forgotten, taken even when the list is full, and
    /// their marks are kept.
    pub fn pin(&mut self, ids: BTreeSet<NodeId>) {
        self.pinned = ids;
    }

    /// The cluster that this node now belongs to; members of others are dropped from the list.
    pub fn set_cluster(&mut self, cluster: ClusterId) {
        if self.me.cluster != cluster {
            // An id has no text, so that the profile stays within its bounds.
            let _ = self.revise(|profile| profile.cluster = cluster);
            self.drop_members(|member| !is_ours(cluster, member.profile.cluster));
        }
    }

    /// Where this node is now reached. Fails, and changes nothing, when a text is too long.
    pub fn set_addresses(&mut self, addresses: Addresses) -> Result<(), ProfileError> {
        self.revise(|profile| profile.addresses = addresses)
    }

    /// What this node now runs on. Fails, and changes nothing, when a text is too long.
    pub fn set_labels(&mut self, labels: Labels) -> Result<(), ProfileError> {
        self.revise(|profile| profile.labels = labels)
    }

    /// Goes on as a later start of the node, after [`Event::OwnIdInUse`] said that the cluster
    /// remembers one; the caller has fsynced `boot`. A boot that is not higher is ignored.
    pub fn adopt_boot(&mut self, boot: u64) {
        if boot > self.me.boot {
            let _ = self.revise(|profile| profile.boot = boot);
        }
    }

    fn revise(&mut self, change: impl FnOnce(&mut Profile)) -> Result<(), ProfileError> {
        let mut profile = Profile::clone(&self.me);
        change(&mut profile);
        if profile == *self.me {
            return Ok(());
        }
        profile.check()?;
        profile.revision += 1;
        self.my_retired.insert(0, self.my_tag);
        self.my_retired.truncate(RETIRED_TAGS_MAX);
        self.my_tag = profile.tag();
        self.me = Arc::new(profile);
        Ok(())
    }

    /// Everyone known, this node included, by id. `phi` is taken at `now_ms`; the status is the one
    /// of the last tick or message.
    pub fn members(&self, now_ms: u64) -> Vec<MemberView> {
        let lived = self.lived_at(now_ms);
        let pause_ms = self.doubt.stretch(self.config.pause_ms);
        let mut views: Vec<MemberView> = self
            .by_id
            .values()
            .map(|&index| {
                let member = &self.members[index];
                let phi = member.arrivals.phi(lived, &self.config, pause_ms);
                self.view(&member.profile, &member.pulse, member.status, phi, member.since_ms)
            })
            .collect();
        let mine = Pulse { mark: self.mark, standing: self.standing, ..self.pulse };
        let since_ms = self.started_ms.unwrap_or(now_ms);
        let place = views.partition_point(|view| view.id < self.me.id);
        views.insert(place, self.view(&self.me, &mine, Status::Alive, 0.0, since_ms));
        views
    }

    /// What is believed of a node: alive for this node itself, none if it is unknown.
    pub fn status_of(&self, id: NodeId) -> Option<Status> {
        if id == self.me.id {
            return Some(Status::Alive);
        }
        self.by_id.get(&id).map(|&index| self.members[index].status)
    }

    /// Where a node's peer listener is, if the node is known.
    pub fn peer_address(&self, id: NodeId) -> Option<&str> {
        if id == self.me.id {
            return Some(&self.me.addresses.peer);
        }
        self.by_id.get(&id).map(|&index| self.members[index].profile.addresses.peer.as_str())
    }

    /// The newest document that any member named, this node included, and the members that are up
    /// and use it. None when nobody has one.
    pub fn newest_document(&self) -> Option<(DocumentId, Vec<NodeId>)> {
        let theirs = self.members.iter().filter_map(|member| member.pulse.standing.document);
        let newest = theirs.chain(self.standing.document).max()?;
        let holders = self
            .by_id
            .values()
            .map(|&index| &self.members[index])
            .filter(|member| member.status.is_up())
            .filter(|member| member.pulse.standing.document == Some(newest))
            .map(|member| member.profile.id)
            .collect();
        Some((newest, holders))
    }

    /// The highest mark remembered of each other node, for the caller to fsync.
    pub fn remembered_marks(&self) -> &BTreeMap<NodeId, u64> {
        &self.marks
    }

    /// The highest mark remembered of a node.
    pub fn remembered_mark(&self, id: NodeId) -> Option<u64> {
        self.marks.get(&id).copied()
    }

    /// Takes in marks remembered before this start, or told by others; higher ones win.
    pub fn remember_marks(&mut self, marks: impl IntoIterator<Item = (NodeId, u64)>) {
        for (id, mark) in marks {
            self.remember_mark(id, mark);
        }
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.events.drain(..).collect()
    }

    /// How much this node doubts itself, 0 to 4: the more, the longer it waits before it judges
    /// others.
    pub fn doubt(&self) -> u32 {
        self.doubt.level()
    }

    /// The other process that goes on claiming this node's id, if it is the one that the cluster
    /// listens to: its boot and peer address. Final for this start.
    pub fn twin(&self) -> Option<(u64, &str)> {
        let rival = self.rival.as_ref().filter(|rival| rival.beats)?;
        Some((rival.process.0, &rival.address))
    }

    /// Counts since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn view(
        &self,
        profile: &Profile,
        pulse: &Pulse,
        status: Status,
        phi: f64,
        since_ms: u64,
    ) -> MemberView {
        MemberView {
            id: profile.id,
            me: profile.id == self.me.id,
            cluster: profile.cluster,
            addresses: profile.addresses.clone(),
            labels: profile.labels.clone(),
            version: profile.version.clone(),
            heartbeat: Heartbeat {
                boot: profile.boot,
                refutation: pulse.refutation,
                counter: pulse.counter,
            },
            nonce: profile.nonce,
            status,
            phi,
            since_ms,
            leaving: pulse.leaving,
            mark: pulse.mark,
            remembered_mark: self.marks.get(&profile.id).copied().unwrap_or(0).max(pulse.mark),
            document: pulse.standing.document,
            generation: pulse.standing.generation,
            held: pulse.standing.held,
            not_serving: pulse.standing.not_serving,
            keeps_copies: pulse.standing.keeps_copies,
        }
    }

    /// Suspicion reckons in lived time: at most two intervals pass between two calls, so that a
    /// node that was paused does not hold everybody else for dead when it wakes up.
    pub(super) fn live_until(&mut self, now_ms: u64) {
        self.lived_ms = self.lived_at(now_ms);
        self.started_ms.get_or_insert(now_ms);
        self.last_now_ms = now_ms.max(self.last_now_ms);
    }

    fn lived_at(&self, now_ms: u64) -> u64 {
        let last = if self.started_ms.is_some() { self.last_now_ms } else { now_ms };
        self.lived_ms + now_ms.saturating_sub(last).min(2 * self.config.interval_ms)
    }

    pub(super) fn my_entry(&self) -> Entry {
        Entry { profile: self.me.clone(), pulse: self.pulse }
    }

    pub(super) fn message(&self, body: crate::gossip::message::Body) -> Message {
        Message { sender: self.my_entry(), body }
    }

    pub(super) fn tell(&mut self, event: Event) {
        if let Some(alarm) = Alarm::of(&event) {
            *self.counters.alarms.entry(alarm).or_default() += 1;
        }
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        } else {
            self.counters.events_dropped += 1;
        }
    }

    pub(super) fn refuse(&mut self, reason: Refusal) {
        *self.counters.refused.entry(reason).or_default() += 1;
    }

    /// Sets what is believed of a member, and tells of it if that is new.
    pub(super) fn believe(&mut self, index: usize, status: Status, now_ms: u64) {
        let member = &mut self.members[index];
        if member.status == status {
            return;
        }
        let from = std::mem::replace(&mut member.status, status);
        member.since_ms = now_ms;
        member.news_ms = self.lived_ms;
        let id = member.profile.id;
        *self.counters.changes.entry((from, status)).or_default() += 1;
        self.tell(Event::Changed { id, from, to: status });
    }

    pub(super) fn remember_mark(&mut self, id: NodeId, mark: u64) {
        let room = self.marks.len() < 2 * self.config.members_max;
        if id != self.me.id && (room || self.marks.contains_key(&id) || self.pinned.contains(&id)) {
            let remembered = self.marks.entry(id).or_default();
            *remembered = mark.max(*remembered);
        }
    }

    /// Drops the members that `gone` names from the list.
    pub(super) fn drop_members(&mut self, gone: impl Fn(&Member) -> bool) -> Vec<NodeId> {
        let (out, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.members).into_iter().partition(gone);
        self.members = kept;
        if out.is_empty() {
            return Vec::new();
        }
        let numbered = || self.members.iter().enumerate();
        self.by_id = numbered().map(|(index, member)| (member.profile.id, index)).collect();
        self.by_tag = numbered()
            .flat_map(|(index, member)| {
                let place = move |tag, current| TagPlace { tag, index: index as u32, current };
                let retired = member.retired.iter().map(move |&tag| place(tag, false));
                retired.chain([place(member.tag, true)])
            })
            .collect();
        self.by_tag.sort_unstable_by_key(|place| place.tag);
        out.into_iter().map(|member| member.profile.id).collect()
    }
}

/// Whether a member of cluster `theirs` may be in the list of a node of cluster `ours`: the same,
/// or one of them belongs to none yet.
pub(super) fn is_ours(ours: ClusterId, theirs: ClusterId) -> bool {
    ours.is_nil() || theirs.is_nil() || ours == theirs
}
