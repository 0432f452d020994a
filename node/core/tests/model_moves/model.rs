//! The model: its steps in words, its promises, and how it asks the rules of
//! `kvasir_core::ring::moves`, or what a weakness leaves of them.

use super::rules::{Bounds, Level, Weakness};
use super::story::Story;
use super::world::*;
use kvasir_core::explore::Model;
use kvasir_core::quorum;
use kvasir_core::ring::moves::{Admission, Condition, Fate, Holder, LocalCopy, Place, admit, copy};

/// One step, for traces.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "printed by Debug only")]
pub enum Step {
    Document { version: usize },
    Persists { node: usize, version: u8 },
    Snapshot { of: u8 },
    Installs { node: u8 },
    VouchesForStream { node: u8 },
    MergesAndVouches { node: u8, from: u8 },
    WriteStarts { version: u8 },
    WriteReachesUnacknowledged { node: usize },
    WriteStoredAndAcknowledged { node: usize },
    WriteAcknowledged,
    WriterLearns { version: u8 },
    CountedOnStandIn,
    StandInLearns { version: u8 },
    HandedBack { node: usize },
    StandInDeletes,
    ReadStarts { version: u8 },
    ReadMissesAt { node: usize },
    ReaderLearns { version: u8 },
    Restarts { node: usize },
    LosesTable { node: usize },
    RolledBack { node: usize },
    OthersEraseWhatItHas { node: usize },
}

/// The model.
pub struct Moves {
    pub story: Story,
    pub bounds: Bounds,
}

/// Steps with the worlds that they lead to.
pub type Out = Vec<(Step, World)>;

impl Model for Moves {
    type State = World;
    type Step = Step;

    fn initial(&self) -> Vec<World> {
        let first = &self.story.versions[0];
        let nodes = std::array::from_fn(|node| Node::new(first.place(node).is_some()));
        let idle = Errand::default();
        vec![World {
            nodes,
            chosen: 1,
            current: 0,
            snapshot: 0,
            streamed: 0,
            write: idle,
            read: idle,
            stand_in: idle,
            restarts: 0,
            happened: 0,
        }]
    }

    fn steps(&self, world: &World, out: &mut Out) {
        self.document(world, out);
        self.adoptions(world, out);
        self.stream(world, out);
        self.merges(world, out);
        self.write(world, out);
        if self.bounds.stand_in {
            self.stand_in(world, out);
        }
        self.read(world, out);
        self.faults(world, out);
    }

    fn broken(&self, world: &World) -> Option<String> {
        self.misses(world).or_else(|| self.forgets(world)).or_else(|| self.resurrects(world))
    }

    fn show(&self, world: &World) -> String {
        let node = |(number, node): (usize, &Node)| {
            let flags = [
                (HOLDS, " holds"),
                (SYNCED, " synced"),
                (INCOMPLETE, " incomplete"),
                (FORGOTTEN, " forgotten"),
                (ERASED, " erased"),
            ];
            let said: String =
                flags.iter().filter(|(flag, _)| node.is(*flag)).map(|(_, said)| *said).collect();
            let since = if node.since == NONE { "-".into() } else { node.since.to_string() };
            format!("{number}: v{} t{since}{said}", node.version)
        };
        let nodes = world.nodes.iter().enumerate().take(self.story.nodes).map(node);
        format!("v{} | {}", world.current, nodes.collect::<Vec<_>>().join(" | "))
    }
}

/// The promises.
impl Moves {
    /// A read of a majority that began after the write was acknowledged misses it.
    fn misses(&self, world: &World) -> Option<String> {
        if world.read.phase != RUNS {
            return None;
        }
        let missed = |place: &Place<u8>| {
            self.reader(place).is_some_and(|h| world.nodes[usize::from(h.node)].is(ANSWERED))
        };
        let version = world.read.version;
        self.majority(version, missed)
            .then(|| format!("a read at version {version} misses the acknowledged write"))
    }

    /// The stand-in copy is gone, and no holder of the newest version has the write.
    fn forgets(&self, world: &World) -> Option<String> {
        if world.stand_in.phase != DONE {
            return None;
        }
        let slots = &self.story.versions[usize::from(world.current)].slots;
        let mut holders = slots.iter().flat_map(|(_, place)| place.writers());
        let has = |holder: Holder<u8>| {
            let node = &world.nodes[usize::from(holder.node)];
            node.is(HOLDS) && u64::from(node.since) == holder.since
        };
        (!holders.any(has)).then(|| "the stand-in copy is gone and no holder has it".into())
    }

    /// A read of a majority, at some version, could now return what the others have erased.
    fn resurrects(&self, world: &World) -> Option<String> {
        if world.nodes.iter().all(|node| !node.is(ERASED)) {
            return None;
        }
        let version = world.known(None).find(|version| {
            let answering = |place: &Place<u8>| {
                let number = usize::from(self.reader(place)?.node);
                let node = &world.nodes[number];
                let admits = node.version <= *version && self.answers(world, number, place);
                admits.then_some(node.is(ERASED))
            };
            let slots = &self.story.versions[usize::from(*version)].slots;
            slots.iter().any(|(_, place)| answering(place) == Some(true))
                && self.majority(*version, |place| answering(place).is_some())
        })?;
        Some(format!("a read at version {version} may return what the others have erased"))
    }

    pub fn majority(&self, version: u8, counts: impl Fn(&Place<u8>) -> bool) -> bool {
        let version = &self.story.versions[usize::from(version)];
        let datacenter = match self.bounds.level {
            Level::Quorum => None,
            Level::Local(dc) => Some(dc),
        };
        let needed = quorum::Level::majority(version.size(datacenter) as u32) as usize;
        let scope = version.slots.iter().filter(|(dc, _)| datacenter.is_none_or(|d| d == *dc));
        scope.filter(|(_, place)| counts(place)).count() >= needed
    }
}

/// The rules, or what is left of them.
impl Moves {
    pub fn weak(&self, weakness: Weakness) -> bool {
        self.bounds.weakness == weakness
    }

    pub fn copy(&self, world: &World, node: usize) -> Option<LocalCopy<u8>> {
        let mut copy = world.nodes[node].copy(node)?;
        let used_all_the_same = match copy.condition {
            Condition::Whole => false,
            Condition::Incomplete => self.weak(Weakness::UsesIncomplete),
            Condition::Forgotten => self.weak(Weakness::ForgottenServes),
        };
        if used_all_the_same {
            copy.condition = Condition::Whole;
        }
        Some(copy)
    }

    pub fn acknowledges(
        &self,
        world: &World,
        node: usize,
        place: &Place<u8>,
    ) -> Option<Holder<u8>> {
        let mut copy = self.copy(world, node)?;
        if self.weak(Weakness::ForgottenTakesWrites) {
            copy.condition = Condition::Whole;
        }
        match *place {
            Place::Fencing { to, .. } if self.weak(Weakness::CountsInStepOne) => {
                Some(to).filter(|to| *to == copy.holder)
            }
            _ => copy.acknowledges(place),
        }
    }

    pub fn reader(&self, place: &Place<u8>) -> Option<Holder<u8>> {
        match *place {
            Place::Merging { to } if self.weak(Weakness::ReadsInStepTwo) => Some(to),
            _ => place.reader(),
        }
    }

    pub fn answers(&self, world: &World, node: usize, place: &Place<u8>) -> bool {
        let Some(copy) = self.copy(world, node) else { return false };
        if self.weak(Weakness::ReadsInStepTwo) {
            return self.reader(place) == Some(copy.holder);
        }
        copy.answers_reads(place)
    }

    pub fn slot_counts(&self, place: &Place<u8>, stored: impl Fn(Holder<u8>) -> bool) -> bool {
        match *place {
            Place::Copying { to, .. } | Place::Switched { to, .. }
                if self.weak(Weakness::NewHolderAlone) =>
            {
                stored(to)
            }
            Place::Copying { from, .. } | Place::Switched { from, .. }
                if self.weak(Weakness::OldHolderAlone) =>
            {
                stored(from)
            }
            Place::Fencing { to, .. } if self.weak(Weakness::CountsInStepOne) => stored(to),
            _ => place.acknowledged(stored),
        }
    }

    /// The world in which the node has let a request under `asked` in; none if it refuses.
    pub fn admitted(&self, world: &World, node: usize, asked: u8) -> Option<World> {
        let mut next = *world;
        match admit(world.nodes[node].version.into(), asked.into()) {
            Admission::Serve => {}
            Admission::AdoptFirst if self.weak(Weakness::ServesNewer) => {}
            Admission::AdoptFirst => self.adopt(&mut next, node, asked),
            Admission::Refuse if self.weak(Weakness::ServesOlder) => {}
            Admission::Refuse => return None,
        }
        Some(next)
    }

    pub fn adopt(&self, world: &mut World, number: usize, version: u8) {
        let node = &mut world.nodes[number];
        node.version = version;
        node.told = node.told.max(version);
        let Some(place) = self.story.versions[usize::from(version)].place(number) else { return };
        let floor = if self.weak(Weakness::TakesUpTenureAnew) { 0 } else { node.floor };
        let copy = node.copy(number);
        match copy::fate(copy, number as u8, place, version.into(), floor.into()) {
            Fate::Keep if self.weak(Weakness::SetsAsideAtFencing) => {
                if place.writers().all(|holder| usize::from(holder.node) != number)
                    && place.coming() != copy.map(|copy| copy.holder)
                {
                    node.clear(HOLDS | SYNCED);
                }
            }
            Fate::Keep | Fate::Retired => {}
            Fate::Begin(holder) => {
                node.since = holder.since as u8;
                node.clear(INCOMPLETE | FORGOTTEN);
                if !self.weak(Weakness::KeepsOldTenure) {
                    node.clear(HOLDS | SYNCED | ERASED);
                }
            }
            Fate::Lost(holder) => {
                node.since = holder.since as u8;
                node.clear(HOLDS | SYNCED | ERASED | INCOMPLETE);
                node.set(FORGOTTEN);
            }
        }
    }

    pub fn store(&self, node: &mut Node, synced: bool) {
        node.set(HOLDS);
        if synced && self.bounds.restarts > 0 {
            node.set(SYNCED);
        }
    }

    pub fn push(&self, out: &mut Out, step: Step, mut world: World) {
        world.sort(&self.story.alike);
        out.push((step, world));
    }
}
