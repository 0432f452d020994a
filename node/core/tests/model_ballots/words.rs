//! The steps and messages of the model in words, for traces.

use kvasir_core::consensus::{Marks, Message};
use kvasir_core::ring::Document;

use super::world::number;

/// One step, for traces.
#[derive(Debug)]
#[allow(dead_code, reason = "printed by Debug only")]
pub enum Move {
    Delivered { to: u8, from: u8, what: Said, answer: Option<Said> },
    Proposes { node: u8 },
    Crashes { node: u8 },
    BackedUp { node: u8 },
    RestoredFromBackup { node: u8 },
    HearsItsMark { node: u8, from: u8, remembered: Option<u64> },
    StartsToRecover { node: u8 },
    Recovers { node: u8, from: Vec<u8> },
}

/// A message, put into words only when printed.
pub struct Said(Box<Message>);

impl Said {
    pub fn new(message: &Message) -> Self {
        Self(Box::new(message.clone()))
    }
}

impl std::fmt::Debug for Said {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&describe(&self.0))
    }
}

/// Short name of a model document: its epoch and whose proposal it was.
pub fn name(document: &Document) -> String {
    let proposer = document.defaults.ttl.map_or("init".into(), |tag| format!("by{}", tag - 1));
    format!("{}{}", document.epoch, proposer)
}

fn describe(message: &Message) -> String {
    let marks = |marks: &Marks| {
        let each = marks.iter().map(|(node, mark)| format!("{}:{}", number(*node), mark.count));
        each.collect::<Vec<_>>().join(" ")
    };
    match message {
        Message::Prepare { epoch, term, .. } => {
            format!("prepare {} of epoch {epoch}", term.counter)
        }
        Message::Promise { accepted, .. } => match accepted {
            Some(vote) => format!("promise, had {}@{}", name(&vote.document), vote.term.counter),
            None => "promise, had nothing".into(),
        },
        Message::Accept { term, document, marks: told } => {
            format!("accept {}@{}, marks {}", name(document), term.counter, marks(told))
        }
        Message::Accepted { .. } => "accepted".into(),
        Message::Refuse { refusal, .. } => format!("{refusal:?}"),
        Message::Chosen { document, .. } => format!("chosen {}", name(document)),
        other => format!("{other:?}"),
    }
}
