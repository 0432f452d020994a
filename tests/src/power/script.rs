//! The writes of the power cut test, and the judge of what is left of them.
//!
//! Operations are numbered, rising for ever; number `n` decides its key, whether it erases, and the
//! value, so that a value read back says which operation it is. Each writer has keys of its own and
//! one operation at a time: after a cut a key holds its last acknowledged operation, or a later one
//! that was begun.
//!
//! Only an acknowledgement heard before the cut counts. A sync that is under way while the file system
//! is shut down may report success though its transaction was thrown away: the process lives on after
//! this power cut, which no process does after a real one, and what it says then means nothing.

use std::collections::BTreeMap;

use kvasir_storage::TableKey;

/// Writers, each with its own keys.
pub const WRITERS: u64 = 4;
/// Keys of one writer.
const KEYS: u64 = 40;

/// One numbered operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation(pub u64);

impl Operation {
    /// The `step`-th operation of a writer in a cycle.
    pub fn of(cycle: u64, writer: u64, step: u64) -> Self {
        Self((cycle << 32) | (step * WRITERS + writer))
    }

    fn step(self) -> u64 {
        self.0 & 0xffff_ffff
    }

    /// Number of its key.
    pub fn key_number(self) -> u64 {
        let (step, writer) = (self.step() / WRITERS, self.step() % WRITERS);
        (step * 7 % KEYS) * WRITERS + writer
    }

    /// Its key.
    pub fn key(self) -> TableKey {
        let number = self.key_number();
        TableKey::new(number.wrapping_mul(0x9e37_79b9_7f4a_7c15), b"cut", &number.to_be_bytes())
    }

    /// What it stores; `None`: it erases.
    pub fn value(self) -> Option<Vec<u8>> {
        if self.0 % 6 == 5 {
            return None;
        }
        let mut value = self.0.to_be_bytes().to_vec();
        value.resize(8 + (self.0 * 37 % 700) as usize, (self.0 % 251) as u8);
        Some(value)
    }
}

/// What is known of each key: the last operation acknowledged, and those begun after it.
#[derive(Debug, Default)]
pub struct Ledger {
    acknowledged: BTreeMap<u64, Operation>,
    begun: BTreeMap<u64, Vec<Operation>>,
    is_cut: bool,
    /// Acknowledgements heard in time.
    pub count: u64,
}

/// What the pipe says of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// It is about to be written.
    Begun(Operation),
    /// It was acknowledged.
    Acknowledged(Operation),
}

impl Line {
    /// As written to the pipe.
    pub fn text(self) -> String {
        match self {
            Line::Begun(Operation(number)) => format!("begun {number}\n"),
            Line::Acknowledged(Operation(number)) => format!("acknowledged {number}\n"),
        }
    }

    /// As read from it; `None` for any other text, a line cut short among them.
    pub fn parse(text: &str) -> Option<Self> {
        let (word, number) = text.strip_suffix('\n')?.split_once(' ')?;
        let operation = Operation(number.parse().ok()?);
        match word {
            "begun" => Some(Line::Begun(operation)),
            "acknowledged" => Some(Line::Acknowledged(operation)),
            _ => None,
        }
    }
}

impl Ledger {
    /// Takes note of a line.
    pub fn note(&mut self, line: Line) {
        match line {
            Line::Begun(operation) => {
                self.begun.entry(operation.key_number()).or_default().push(operation);
            }
            Line::Acknowledged(_) if self.is_cut => {}
            Line::Acknowledged(operation) => {
                self.count += 1;
                let later = self.begun.entry(operation.key_number()).or_default();
                later.retain(|begun| *begun > operation);
                self.acknowledged.insert(operation.key_number(), operation);
            }
        }
    }

    /// The power is about to go: what is heard from now on is no promise.
    pub fn cut(&mut self) {
        self.is_cut = true;
    }

    /// Holds what is stored after the cut against the ledger; gives every difference. What was found
    /// counts as acknowledged from then on: it must not vanish later.
    pub fn judge(&mut self, stored: &BTreeMap<TableKey, Vec<u8>>) -> Vec<String> {
        let (mut wrong, mut known) = (Vec::new(), 0);
        for (number, begun) in &mut self.begun {
            let sure = self.acknowledged.get(number).copied();
            let Some(any) = sure.or(begun.first().copied()) else { continue };
            let found = stored.get(&any.key());
            known += usize::from(found.is_some());
            let holds = |operation: &&Operation| operation.value().as_ref() == found;
            // The newest first: what two operations would leave alike is taken for the later.
            match begun.iter().rev().find(holds) {
                Some(newer) => _ = self.acknowledged.insert(*number, *newer),
                None if sure.and_then(Operation::value).as_ref() == found => {}
                None => {
                    let found = found.map(|value| (value.len(), value.get(..8)));
                    wrong.push(format!(
                        "key {number}: {found:?} is stored; acknowledged {sure:?}, then begun {begun:?}"
                    ));
                }
            }
            begun.clear();
        }
        if known != stored.len() {
            wrong.push(format!("{} keys that nobody wrote", stored.len() - known));
        }
        self.is_cut = false;
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_never_share_a_key_and_numbers_rise() {
        let mut owner = BTreeMap::new();
        for (writer, step) in (0..WRITERS).flat_map(|w| (0..500).map(move |s| (w, s))) {
            let operation = Operation::of(3, writer, step);
            assert_eq!(*owner.entry(operation.key_number()).or_insert(writer), writer);
            assert!(operation > Operation::of(2, writer, step + 1_000));
        }
        assert_eq!(owner.len() as u64, WRITERS * KEYS);
    }

    #[test]
    fn the_judge_takes_the_last_acknowledged_or_the_one_in_flight_and_nothing_else() {
        let (old, new) = (Operation::of(0, 1, 0), Operation::of(0, 1, 2 * KEYS));
        assert_eq!(old.key_number(), new.key_number());
        let holding = |operation: Operation| {
            BTreeMap::from([(operation.key(), operation.value().expect("it stores"))])
        };
        let ledger = || {
            let mut ledger = Ledger::default();
            let lines = [Line::Begun(old), Line::Acknowledged(old), Line::Begun(new)];
            lines.iter().for_each(|line| ledger.note(Line::parse(&line.text()).expect("a line")));
            ledger
        };
        assert!(ledger().judge(&holding(old)).is_empty());
        assert!(ledger().judge(&holding(new)).is_empty());
        assert_eq!(ledger().judge(&BTreeMap::new()).len(), 1, "it was acknowledged");
        assert_eq!(ledger().judge(&holding(Operation::of(2, 1, 0))).len(), 1, "it was never begun");
        let mut seen = ledger();
        assert!(seen.judge(&holding(new)).is_empty());
        assert_eq!(seen.judge(&holding(old)).len(), 1, "what was seen must not vanish");
        assert_eq!(ledger().judge(&holding(Operation::of(0, 2, 0))).len(), 2, "a stray key");
        let mut late = ledger();
        late.cut();
        late.note(Line::Acknowledged(new));
        assert!(late.judge(&holding(old)).is_empty(), "it was not heard in time");
        assert_eq!(Line::parse("acknowledged 12"), None, "cut short");
    }
}
