//! The side that begins a comparison, as a state machine: it says what is to be done next and is told what
//! came of it. Whoever drives it sends, reads and merges; nothing is decided there.
//!
//! Sums of partitions first; where they differ, sums [`STEP`] bits below, down to the leaves of the
//! shallower tree or to where one side holds nothing; there the digests of single keys; then the sets that
//! differ, the other side's first. What is merged here and thereby equal there is not sent back.
//!
//! Memory is bounded whatever the other side says: deeper nodes go before shallower ones, and pieces are
//! worked off before there are more than [`SPANS_MAX`]. Every answer makes progress or ends it.

use super::digest::KeyDigest;
use super::message::{
    Answer, Ask, DIGESTS_MAX, Held, Malformed, PAGE_BYTES, PIECES_MAX, Piece, SUMS_MAX, Verdict,
    unpack,
};
use super::place::Node;
use super::tree::Tree;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bits gone down at a time. Two make the fewest bytes: one more round for half of them.
const STEP: u8 = 2;
/// Pieces that wait at most, up to what one answer about sums adds.
const SPANS_MAX: usize = 4_096;
/// Own sets read at a time.
const READS_MAX: usize = 64;

/// What bounds an exchange.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Only keys of this bucket are mended.
    pub bucket: Option<Bytes>,
    /// Digests of keys listed at a time, at most `DIGESTS_MAX`.
    pub digests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bucket: None, digests: 2_048 }
    }
}

/// A piece of the key space in which something differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The subtree that it is a part of.
    pub node: Node,
    /// The first place in it; empty: where the node begins.
    pub from: Bytes,
    /// The first place behind it; empty: where the node ends.
    pub to: Bytes,
}

/// The keys of a span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Ascending.
    pub entries: Vec<(Bytes, KeyDigest)>,
    /// The span was too long: it was listed up to before this place.
    pub next: Option<Bytes>,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Ask the other side, about one partition where one is named; tell [`Exchange::answered`].
    Ask {
        /// The partition that the message is about.
        partition: Option<u32>,
        /// What to ask.
        ask: Ask,
    },
    /// List own keys, at most as many as [`Limits::digests`] in all; tell [`Exchange::listed`].
    List {
        /// The partition.
        partition: u32,
        /// Where.
        spans: Vec<Span>,
    },
    /// Merge these here, durably; tell [`Exchange::merged`].
    Merge {
        /// The partition.
        partition: u32,
        /// What the other side holds.
        sets: Vec<Held>,
    },
    /// Read what is stored here at these places; tell [`Exchange::read`].
    Read {
        /// The partition.
        partition: u32,
        /// Where.
        places: Vec<Bytes>,
    },
    /// Everything was compared, and mended where both sides could.
    Done,
}

/// What came of merging one set here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The key.
    pub place: Bytes,
    /// The own set changed.
    pub changed: bool,
    /// The own set is now what the other side sent.
    pub same: bool,
}

/// What an exchange did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Questions asked.
    pub asks: u64,
    /// Pieces of the key space whose keys were compared.
    pub pieces: u64,
    /// Sets taken from the other side.
    pub received: u64,
    /// Sets given to the other side.
    pub sent: u64,
    /// Keys that changed on either side.
    pub mended: u64,
}

/// How a partition compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Both sides held the same, or hold it now.
    Equal,
    /// It differs, and is not mended yet.
    Differs,
    /// A side could not vouch for its tree, or does not own it.
    Unknown,
}

#[derive(Debug)]
enum Waiting {
    Nothing,
    Sums(Vec<(Node, u64)>),
    Listing(Vec<Span>),
    Keys { spans: Vec<Span>, listed: Vec<Listed> },
    Merging,
    Reading,
    Storing(Vec<Bytes>),
}

/// A comparison of this node with one other.
#[derive(Debug)]
pub struct Exchange {
    k: u8,
    limits: Limits,
    /// Depth of the shallower tree.
    bits: u8,
    roots: VecDeque<u32>,
    frontier: BTreeMap<u8, Vec<u32>>,
    spans: BTreeMap<u32, Vec<Span>>,
    span_count: usize,
    /// The partition whose keys are at work.
    at: u32,
    theirs: Vec<Held>,
    wanted: BTreeSet<Bytes>,
    changed_here: BTreeSet<Bytes>,
    outbox: VecDeque<(Bytes, Held)>,
    waiting: Waiting,
    compared: BTreeMap<u32, Compared>,
    tally: Tally,
}

impl Exchange {
    /// Compares these partitions of a ring of 2^k, all of which both sides own.
    pub fn new(
        tree: &Tree,
        k: u8,
        partitions: impl IntoIterator<Item = u32>,
        limits: Limits,
    ) -> Self {
        let mut compared = BTreeMap::new();
        let mut roots = VecDeque::new();
        for index in partitions {
            if tree.vouches(Node { depth: k, index }) {
                roots.push_back(index);
            } else {
                compared.insert(index, Compared::Unknown);
            }
        }
        Self {
            k,
            limits: Limits { digests: limits.digests.clamp(1, DIGESTS_MAX), ..limits },
            bits: tree.bits(),
            roots,
            frontier: BTreeMap::new(),
            spans: BTreeMap::new(),
            span_count: 0,
            at: 0,
            theirs: Vec::new(),
            wanted: BTreeSet::new(),
            changed_here: BTreeSet::new(),
            outbox: VecDeque::new(),
            waiting: Waiting::Nothing,
            compared,
            tally: Tally::default(),
        }
    }

    /// What was done so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Only keys of this bucket are mended.
    pub fn bucket(&self) -> Option<&Bytes> {
        self.limits.bucket.as_ref()
    }

    /// How many keys may be listed at a time.
    pub fn digests(&self) -> usize {
        self.limits.digests
    }

    /// How far each partition has come.
    pub fn compared(&self) -> impl Iterator<Item = (u32, Compared)> {
        let mended = matches!(self.waiting, Waiting::Nothing) && self.is_idle();
        self.compared.iter().map(move |(index, compared)| match compared {
            Compared::Differs if mended => (*index, Compared::Equal),
            other => (*index, *other),
        })
    }

    fn is_idle(&self) -> bool {
        self.roots.is_empty()
            && self.frontier.is_empty()
            && self.span_count == 0
            && self.theirs.is_empty()
            && self.wanted.is_empty()
            && self.outbox.is_empty()
    }

    /// What is to be done next. Ask again only when it was done and told.
    pub fn next(&mut self, tree: &Tree) -> Step {
        if !self.outbox.is_empty() {
            return self.store();
        }
        if !self.theirs.is_empty() {
            self.waiting = Waiting::Merging;
            return Step::Merge { partition: self.at, sets: std::mem::take(&mut self.theirs) };
        }
        if !self.wanted.is_empty() {
            let mut places = Vec::new();
            while places.len() < READS_MAX
                && let Some(place) = self.wanted.pop_first()
            {
                places.push(place);
            }
            self.waiting = Waiting::Reading;
            return Step::Read { partition: self.at, places };
        }
        self.changed_here.clear();
        if self.span_count < SPANS_MAX {
            if let Some((depth, nodes)) = self.frontier.pop_last() {
                return self.go_down(tree, depth, nodes);
            }
            if !self.roots.is_empty() {
                let some = self.roots.len().min(SUMS_MAX);
                let parents = self.roots.drain(..some).collect();
                return self.sums(tree, self.k, 0, parents);
            }
        }
        self.list().unwrap_or_else(|| {
            self.waiting = Waiting::Nothing;
            Step::Done
        })
    }

    fn go_down(&mut self, tree: &Tree, depth: u8, mut nodes: Vec<u32>) -> Step {
        let step = STEP.min(self.bits.saturating_sub(depth));
        let some = nodes.len().min(SUMS_MAX >> step);
        let parents = nodes.split_off(nodes.len() - some);
        if !nodes.is_empty() {
            self.frontier.insert(depth, nodes);
        }
        self.sums(tree, depth, step, parents)
    }

    fn sums(&mut self, tree: &Tree, depth: u8, step: u8, parents: Vec<u32>) -> Step {
        let nodes = parents.iter().flat_map(|index| Node { depth, index: *index }.below(step));
        let sums: Vec<(Node, u64)> = nodes.map(|node| (node, tree.sum(node))).collect();
        let bytes = sums.iter().map(|(_, sum)| sum.to_le_bytes()).collect();
        self.waiting = Waiting::Sums(sums);
        let ask = Ask::Sums { bits: tree.bits(), depth, step, parents, sums: bytes };
        self.ask(None, ask)
    }

    fn ask(&mut self, partition: Option<u32>, ask: Ask) -> Step {
        self.tally.asks += 1;
        Step::Ask { partition, ask }
    }

    fn list(&mut self) -> Option<Step> {
        let mut entry = self.spans.first_entry()?;
        let partition = *entry.key();
        let waiting = entry.get_mut();
        let spans = waiting.split_off(waiting.len().saturating_sub(PIECES_MAX));
        if waiting.is_empty() {
            entry.remove();
        }
        self.span_count -= spans.len();
        self.at = partition;
        self.waiting = Waiting::Listing(spans.clone());
        Some(Step::List { partition, spans })
    }

    fn push_span(&mut self, span: Span) {
        self.span_count += 1;
        self.spans.entry(span.node.above(self.k).index).or_default().push(span);
    }

    /// The keys of the spans asked for, in their order; fewer where the bound was met.
    pub fn listed(&mut self, mut listed: Vec<Listed>) -> Step {
        let Waiting::Listing(mut spans) = std::mem::replace(&mut self.waiting, Waiting::Nothing)
        else {
            return Step::Done;
        };
        listed.truncate(spans.len());
        for rest in spans.split_off(listed.len()) {
            self.push_span(rest);
        }
        for (span, listed) in spans.iter_mut().zip(&listed) {
            if let Some(next) = &listed.next {
                let rest = Span { from: next.clone(), ..span.clone() };
                span.to = next.clone();
                self.push_span(rest);
            }
        }
        self.tally.pieces += spans.len() as u64;
        let piece = |(span, listed): (&Span, &Listed)| Piece {
            node: span.node,
            from: span.from.clone(),
            to: span.to.clone(),
            digests: listed.entries.iter().map(|(_, digest)| *digest).collect(),
        };
        let pieces = spans.iter().zip(&listed).map(piece).collect();
        self.waiting = Waiting::Keys { spans, listed };
        self.ask(Some(self.at), Ask::Keys { bucket: self.limits.bucket.clone(), pieces })
    }

    /// What the other side answered.
    ///
    /// # Errors
    /// [`Malformed`]: it does not fit the question. Give the exchange up.
    pub fn answered(&mut self, answer: Answer) -> Result<(), Malformed> {
        match (std::mem::replace(&mut self.waiting, Waiting::Nothing), answer) {
            (Waiting::Sums(asked), Answer::Sums { bits, verdicts }) => {
                self.judged(&asked, bits, &unpack(&verdicts, asked.len())?);
                Ok(())
            }
            (Waiting::Keys { spans, listed }, Answer::Keys { sets, wanted, cut }) => {
                let cut = self.cut(&spans, cut)?;
                self.theirs = sets;
                self.tally.received += self.theirs.len() as u64;
                for (piece, position) in wanted {
                    let entries = listed.get(piece as usize).map(|listed| &listed.entries);
                    let entry = entries.and_then(|entries| entries.get(position as usize));
                    let (place, _) = entry.ok_or(Malformed("a key that was not listed"))?;
                    if cut.as_ref().is_none_or(|(p, at)| (piece, place) < (*p, at)) {
                        self.wanted.insert(place.clone());
                    }
                }
                Ok(())
            }
            (Waiting::Storing(places), Answer::Stored { changed, .. }) => {
                for at in changed {
                    let place = places.get(at as usize).ok_or(Malformed("a set not sent"))?;
                    self.tally.mended += u64::from(self.changed_here.insert(place.clone()));
                }
                Ok(())
            }
            _ => Err(Malformed("an answer to another question")),
        }
    }

    fn judged(&mut self, asked: &[(Node, u64)], bits: u8, verdicts: &[Verdict]) {
        self.bits = self.bits.min(bits.max(self.k));
        for ((node, mine), verdict) in asked.iter().zip(verdicts) {
            let partition = node.above(self.k).index;
            match verdict {
                Verdict::Equal => {
                    self.compared.entry(partition).or_insert(Compared::Equal);
                }
                Verdict::Unknown => {
                    self.compared.insert(partition, Compared::Unknown);
                }
                Verdict::Differs | Verdict::Empty => {
                    let known = self.compared.entry(partition).or_insert(Compared::Differs);
                    if *known == Compared::Equal {
                        *known = Compared::Differs;
                    }
                    let alone = *mine == 0 || *verdict == Verdict::Empty;
                    if alone || node.depth >= self.bits {
                        let (from, to) = (Bytes::new(), Bytes::new());
                        self.push_span(Span { node: *node, from, to });
                    } else {
                        self.frontier.entry(node.depth).or_default().push(node.index);
                    }
                }
            }
        }
    }

    /// Puts back what the other side did not come to.
    fn cut(
        &mut self,
        spans: &[Span],
        cut: Option<(u32, Bytes)>,
    ) -> Result<Option<(u32, Bytes)>, Malformed> {
        let Some((piece, place)) = cut else { return Ok(None) };
        let span = spans.get(piece as usize).ok_or(Malformed("a piece not asked for"))?;
        let inside = span.node.holds(&place) && (span.to.is_empty() || place < span.to);
        let ahead = inside && place > span.from;
        if !ahead && piece == 0 {
            return Err(Malformed("an answer that goes no further"));
        }
        let from = if ahead { place.clone() } else { span.from.clone() };
        self.push_span(Span { from, ..span.clone() });
        for rest in &spans[piece as usize + 1..] {
            self.push_span(rest.clone());
        }
        Ok(Some((piece, place)))
    }

    /// What came of the sets that were to be merged here.
    pub fn merged(&mut self, merged: Vec<Merged>) {
        self.waiting = Waiting::Nothing;
        for Merged { place, changed, same } in merged {
            if changed && self.changed_here.insert(place.clone()) {
                self.tally.mended += 1;
            }
            if same {
                self.wanted.remove(&place);
            } else {
                self.wanted.insert(place);
            }
        }
    }

    /// What is stored here at the places asked for; nothing for a place where nothing is.
    pub fn read(&mut self, held: Vec<(Bytes, Held)>) {
        self.waiting = Waiting::Nothing;
        self.outbox.extend(held);
    }

    fn store(&mut self) -> Step {
        let (mut places, mut sets, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((_, held)) = self.outbox.front() {
            if !sets.is_empty() && bytes + held.bytes() > PAGE_BYTES {
                break;
            }
            bytes += held.bytes();
            if let Some((place, held)) = self.outbox.pop_front() {
                places.push(place);
                sets.push(held);
            }
        }
        self.tally.sent += sets.len() as u64;
        self.waiting = Waiting::Storing(places);
        self.ask(Some(self.at), Ask::Store { sets })
    }
}
