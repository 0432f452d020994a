//! What people are told: the difference between two statuses as events. Pure, so that a pass that
//! changes nothing says nothing.

use crate::crd::{KVClusterStatus, Operation, OperationStep, condition};

/// Longest message of an event, in bytes.
const LONGEST: usize = 1000;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Whether it is a warning.
    pub warning: bool,
    /// In a word.
    pub reason: String,
    /// What happened, and what to do.
    pub message: String,
    /// What it belongs to.
    pub action: String,
}

impl Note {
    fn new(warning: bool, reason: &str, message: &str, action: &str) -> Self {
        let mut message = message.to_owned();
        if message.len() > LONGEST {
            let cut = (0..=LONGEST).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(cut);
        }
        let (reason, action) = (reason.to_owned(), action.to_owned());
        Self { warning, reason, message, action }
    }

    /// A step that failed.
    pub fn failed(reason: &str, message: &str) -> Self {
        Self::new(true, reason, message, "Apply")
    }
}

/// What became different between two statuses.
pub fn notes(old: Option<&KVClusterStatus>, new: &KVClusterStatus) -> Vec<Note> {
    let mut found = Vec::new();
    for current in &new.conditions {
        let was = old.and_then(|old| old.conditions.iter().find(|was| was.type_ == current.type_));
        let same =
            was.is_some_and(|was| was.status == current.status && was.reason == current.reason);
        let bad = is_bad(&current.type_, &current.status);
        // A condition that is well from its first moment is no news.
        let news = was.is_some() || bad || current.type_ == condition::INITIALIZED;
        if !same && news && current.status != "Unknown" {
            let text = match current.message.is_empty() {
                true => format!("{} is {}", current.type_, current.status),
                false => format!("{} is {}: {}", current.type_, current.status, current.message),
            };
            found.push(Note::new(bad, &current.reason, &text, &current.type_));
        }
    }
    let was = old.and_then(|old| old.operation.as_ref());
    match (was, &new.operation) {
        (Some(was), Some(now)) if was.id == now.id => found.extend(went_on(was, now)),
        (was, now) => {
            let ended = was.map(|was| (was, "Ended"));
            let began = now.as_ref().map(|now| (now, "Began"));
            for (operation, word) in ended.into_iter().chain(began) {
                let kind = format!("{:?}", operation.kind);
                let text = format!("{word} {}", words(operation));
                found.push(Note::new(false, &format!("{kind}{word}"), &text, &kind));
            }
        }
    }
    found
}

/// The operation with whom it is about and how much it moved.
fn words(operation: &Operation) -> String {
    let kind = format!("{:?}", operation.kind).to_lowercase();
    let about = match operation.pod.is_empty() {
        true => String::new(),
        false => format!(" of pod {} (node {})", operation.pod, operation.node_id),
    };
    let instead = match operation.replaces.is_empty() {
        true => String::new(),
        false => format!(" in the place of node {}", operation.replaces),
    };
    let moved = operation.moved();
    let moved = if moved.is_empty() { moved } else { format!(": {moved}") };
    format!("{kind} {}{about}{instead}{moved}", operation.id)
}

/// A quarter more of the copies moved, or it is taken back.
fn went_on(was: &Operation, now: &Operation) -> Option<Note> {
    let kind = format!("{:?}", now.kind);
    let taken_back = |operation: &Operation| operation.step == OperationStep::Cancelling;
    if taken_back(now) && !taken_back(was) {
        let text = format!("Taking back {}", words(now));
        return Some(Note::new(false, &format!("{kind}Cancelled"), &text, &kind));
    }
    let quarter = |operation: &Operation| {
        let done = operation.moves_done?.checked_mul(4)?;
        done.checked_div(operation.moves_total?).filter(|quarter| *quarter > 0)
    };
    let further = quarter(now) > quarter(was);
    let text = format!("Going on with {}", words(now));
    further.then(|| Note::new(false, &format!("{kind}Progress"), &text, &kind))
}

fn is_bad(kind: &str, status: &str) -> bool {
    match kind {
        condition::DEGRADED | condition::REPAIR_OVERDUE => status == "True",
        condition::AVAILABLE | condition::VALID => status == "False",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::crd::OperationType;

    fn status(conditions: &[(&str, &str, &str)]) -> KVClusterStatus {
        let conditions = conditions.iter().map(|(kind, status, reason)| Condition {
            type_: (*kind).to_owned(),
            status: (*status).to_owned(),
            reason: (*reason).to_owned(),
            message: "m".to_owned(),
            observed_generation: Some(1),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
        });
        KVClusterStatus { conditions: conditions.collect(), ..Default::default() }
    }

    fn join(id: &str) -> Operation {
        Operation {
            id: id.to_owned(),
            node_id: "n".to_owned(),
            pod: "demo-default-3".to_owned(),
            ..Operation::new(OperationType::Join, Time(Timestamp::UNIX_EPOCH))
        }
    }

    fn reasons(notes: &[Note]) -> Vec<(&str, bool)> {
        notes.iter().map(|note| (note.reason.as_str(), note.warning)).collect()
    }

    #[test]
    fn nothing_new_is_not_told() {
        let same = status(&[("Ready", "True", "Steady"), ("Degraded", "True", "NodeDown")]);
        assert_eq!(notes(Some(&same), &same), []);
        let well = status(&[("Ready", "False", "Forming"), ("Degraded", "False", "Well")]);
        assert_eq!(notes(None, &well), []);
    }

    #[test]
    fn changes_are_told_and_bad_ones_warn() {
        let before = status(&[("Degraded", "False", "Well"), ("Available", "True", "Safe")]);
        let after = status(&[("Degraded", "True", "NodeDown"), ("Available", "True", "Degraded")]);
        let told = notes(Some(&before), &after);
        assert_eq!(reasons(&told), [("NodeDown", true), ("Degraded", false)]);
        assert_eq!(told[0].message, "Degraded is True: m");
        assert_eq!(reasons(&notes(None, &status(&[("Valid", "False", "Bad")]))), [("Bad", true)]);
    }

    #[test]
    fn an_operation_begins_and_ends_once() {
        let mut before = status(&[]);
        let mut after = status(&[]);
        after.operation = Some(join("a"));
        assert_eq!(reasons(&notes(Some(&before), &after)), [("JoinBegan", false)]);
        before.operation = Some(join("a"));
        after.operation = Some(Operation { step: OperationStep::Posted, ..join("a") });
        assert_eq!(notes(Some(&before), &after), []);
        after.operation = Some(join("b"));
        let both = notes(Some(&before), &after);
        assert_eq!(reasons(&both), [("JoinEnded", false), ("JoinBegan", false)]);
    }

    #[test]
    fn every_quarter_that_moved_is_told_and_that_it_is_taken_back() {
        let moved = |done: i32| Operation {
            step: OperationStep::Posted,
            moves_total: Some(48),
            moves_done: Some(done),
            moved_bytes: Some(i64::from(done) * 100),
            ..join("a")
        };
        let told = |was: &Operation, now: &Operation| {
            let holding = |operation: &Operation| KVClusterStatus {
                operation: Some(operation.clone()),
                ..status(&[])
            };
            notes(Some(&holding(was)), &holding(now))
        };
        assert_eq!(told(&join("a"), &moved(11)), []);
        let quarter = told(&moved(11), &moved(12));
        assert_eq!(reasons(&quarter), [("JoinProgress", false)]);
        let words = "join a of pod demo-default-3 (node n): 12 of 48 copies moved, 1200 bytes";
        assert_eq!(quarter[0].message, format!("Going on with {words}"));
        assert_eq!(told(&moved(12), &moved(23)), []);
        assert_eq!(reasons(&told(&moved(23), &moved(48))), [("JoinProgress", false)]);
        let back = Operation { step: OperationStep::Cancelling, ..moved(12) };
        assert_eq!(reasons(&told(&moved(12), &back)), [("JoinCancelled", false)]);
        assert_eq!(told(&back, &back), []);
        let ended = notes(
            Some(&KVClusterStatus { operation: Some(moved(48)), ..status(&[]) }),
            &status(&[]),
        );
        assert!(ended[0].message.contains("48 of 48 copies moved, 4800 bytes"), "{ended:?}");
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let note = Note::failed("Long", &"ö".repeat(2000));
        assert!(note.message.len() <= LONGEST && note.message.ends_with('ö'));
    }
}
