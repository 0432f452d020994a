//! What the driver may do in one search: the versions of one partition's entry and the arrows
//! between them.
//!
//! Versions are numbered as they are written down, and an arrow leads to a higher number, so that
//! the number stands for the epoch. From a version with several arrows the driver takes any one.

use kvasir_core::ring::moves::{Holder, Place, Slots};

/// No more nodes than this.
pub const NODES: usize = 7;

/// One version of the entry.
#[derive(Clone, Debug)]
pub struct Version {
    /// Each slot with its data center.
    pub slots: Vec<(u8, Place<u8>)>,
    /// Where the arrows lead.
    pub next: Vec<Next>,
    /// Per node the slot that names it.
    seats: [Option<usize>; NODES],
}

/// An arrow.
#[derive(Clone, Copy, Debug)]
pub struct Next {
    /// The version after.
    pub to: usize,
    /// The slot that differs.
    pub slot: usize,
    /// False for an arrow that the rules do not know: for refutations alone.
    pub legal: bool,
}

/// The versions that there may be.
#[derive(Clone, Debug)]
pub struct Story {
    pub versions: Vec<Version>,
    /// Nodes that play the same part from end to end, as ranges of numbers.
    pub alike: Vec<std::ops::Range<usize>>,
    /// Nodes from 0.
    pub nodes: usize,
}

impl Version {
    fn new(slots: Vec<(u8, Place<u8>)>) -> Self {
        let seat = |node| {
            slots.iter().position(|(_, place)| place.holders().any(|h| usize::from(h.node) == node))
        };
        let seats = std::array::from_fn(seat);
        Self { slots, next: Vec::new(), seats }
    }

    /// The place of the slot that names the node.
    pub fn place(&self, node: usize) -> Option<&Place<u8>> {
        self.seats[node].map(|slot| &self.slots[slot].1)
    }

    /// The place of the slot that moves.
    pub fn moving(&self) -> Option<&Place<u8>> {
        self.slots.iter().map(|(_, place)| place).find(|place| place.is_moving())
    }

    /// Slots in the data center, or all.
    pub fn size(&self, datacenter: Option<u8>) -> usize {
        self.slots.iter().filter(|(dc, _)| datacenter.is_none_or(|wanted| wanted == *dc)).count()
    }
}

impl Story {
    /// Stable slots, as many as said in each data center, node 0 in the first slot and so on.
    pub fn of(datacenters: &[u8]) -> Self {
        let sizes = datacenters.iter().enumerate();
        let dcs = sizes.flat_map(|(dc, size)| std::iter::repeat_n(dc as u8, usize::from(*size)));
        let stable = |node| Place::Stable(Holder { node, since: 0 });
        let slots: Vec<_> = dcs.zip(0..).map(|(dc, node)| (dc, stable(node))).collect();
        let nodes = slots.len();
        Self { versions: vec![Version::new(slots)], alike: Vec::new(), nodes }.knowing_alike()
    }

    /// An arrow of the rules from version `at`; its number.
    fn arrow(
        &mut self,
        at: usize,
        slot: usize,
        place: impl FnOnce(&Place<u8>, u64) -> Place<u8>,
    ) -> usize {
        let to = self.versions.len();
        let before = self.versions[at].slots[slot].1;
        let after = place(&before, to as u64);
        assert!(before.arrow_to(&after, to as u64).is_some(), "{before:?} to {after:?}");
        self.push(at, slot, after, true)
    }

    fn push(&mut self, at: usize, slot: usize, after: Place<u8>, legal: bool) -> usize {
        let to = self.versions.len();
        let mut slots = self.versions[at].slots.clone();
        slots[slot].1 = after;
        self.versions.push(Version::new(slots));
        self.versions[at].next.push(Next { to, slot, legal });
        let highest = after.holders().map(|holder| usize::from(holder.node)).max();
        self.nodes = self.nodes.max(highest.map_or(0, |node| node + 1));
        assert!(self.nodes <= NODES && to < 16, "the world has no room for more");
        *self = self.clone().knowing_alike();
        to
    }

    /// Begins a move of a stable slot.
    pub fn begin(&mut self, at: usize, slot: usize, to: u8) -> usize {
        self.arrow(at, slot, |place, epoch| place.begin(to, epoch).expect("a stable slot"))
    }

    /// The next step of whatever moves.
    pub fn forward(&mut self, at: usize) -> usize {
        let slot = self.moving_slot(at);
        self.arrow(at, slot, |place, _| place.forward().expect("a moving slot").1)
    }

    /// Takes back whatever moves.
    pub fn cancel(&mut self, at: usize) -> usize {
        let slot = self.moving_slot(at);
        self.arrow(at, slot, |place, _| place.cancel().expect("a step 1 with a way back"))
    }

    /// Gives a slot to a new tenure of `to`, wherever it stands.
    pub fn replace(&mut self, at: usize, slot: usize, to: u8) -> usize {
        self.arrow(at, slot, |place, epoch| place.replace(to, epoch))
    }

    /// A whole move; its last version.
    pub fn whole_move(&mut self, at: usize, slot: usize, to: u8) -> usize {
        let copying = self.begin(at, slot, to);
        let switched = self.forward(copying);
        self.forward(switched)
    }

    /// A whole replace or rebuild; its last version.
    pub fn whole_replace(&mut self, at: usize, slot: usize, to: u8) -> usize {
        let fencing = self.replace(at, slot, to);
        let merging = self.forward(fencing);
        self.forward(merging)
    }

    /// An arrow that the rules do not know, taken without proof.
    pub fn jump(&mut self, at: usize, slot: usize, place: Place<u8>) -> usize {
        self.push(at, slot, place, false)
    }

    fn moving_slot(&self, at: usize) -> usize {
        let slots = &self.versions[at].slots;
        slots.iter().position(|(_, place)| place.is_moving()).expect("something moves")
    }

    /// The entry as the rules see it, with one slot in question.
    pub fn slots(&self, version: usize, moving: usize) -> Slots<'_, u8, u8> {
        Slots { version: version as u64, slots: &self.versions[version].slots, moving }
    }

    /// Finds neighbours that hold one stable slot each, in one data center, in every version.
    fn knowing_alike(mut self) -> Self {
        let seat = |version: &Version, node: usize| {
            let (dc, place) = &version.slots[version.seats[node]?];
            (!place.is_moving()).then_some((*dc, place.reader()?.since))
        };
        let part = |node| {
            let first = seat(&self.versions[0], node)?;
            self.versions.iter().all(|v| seat(v, node) == Some(first)).then_some(first)
        };
        let parts: Vec<_> = (0..self.nodes).map(part).collect();
        let mut alike = Vec::new();
        let mut from = 0;
        while from < parts.len() {
            let same =
                parts[from..].iter().take_while(|part| part.is_some() && **part == parts[from]);
            let to = from + same.count().max(1);
            if to - from > 1 {
                alike.push(from..to);
            }
            from = to;
        }
        self.alike = alike;
        self
    }
}
